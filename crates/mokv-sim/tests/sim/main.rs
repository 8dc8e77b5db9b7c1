//! Named scenarios under simulation, each with a range of seeds.

mod full_disk;
mod hand_over;
