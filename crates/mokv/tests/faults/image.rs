//! Small ext4 file systems in files: disks that can lose their power, fill up, hang, and turn read-only.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::node::Place;
use crate::tools::{Tool, run, runs};

/// What tests with an image need.
pub(crate) const TOOLS: [Tool; 4] = [Tool::Root, Tool::Ext4, Tool::Python, Tool::UtilLinux];

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: what was not synced is gone, and nothing works from then on.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted file system. It must outlive the processes that use it: declare it before their cluster.
pub(crate) struct Image {
    file: PathBuf,
    mount: PathBuf,
}

impl Image {
    /// A new file system of so many MiB in a file in `dir`, mounted beside it.
    pub(crate) fn new(dir: &Path, name: &str, mebibytes: u64) -> Self {
        let image = Self { file: dir.join(format!("{name}.img")), mount: dir.join(name) };
        File::create_new(&image.file).and_then(|file| file.set_len(mebibytes << 20)).expect("image");
        run("mkfs.ext4", ["-q", "-F", "-m", "0", &text(&image.file)]);
        std::fs::create_dir(&image.mount).expect("mount point");
        image.mount();
        image
    }

    /// One for each of three nodes.
    pub(crate) fn three(dir: &Path, mebibytes: u64) -> Vec<Self> {
        (0..3).map(|index| Self::new(dir, &format!("disk-{index}"), mebibytes)).collect()
    }

    /// A node with its directory on this disk.
    pub(crate) fn place(&self) -> Place {
        Place::local(self.mount.join("data"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    pub(crate) fn mount(&self) {
        run("mount", ["-o", "loop", &text(&self.file), &text(&self.mount)]);
    }

    pub(crate) fn unmount(&self) {
        run("umount", [&self.mount]);
    }

    /// What is not on the disk is lost. Everything fails until [`Image::unmount`] and [`Image::mount`].
    pub(crate) fn power_off(&self) {
        run("python3", ["-c", SHUTDOWN, &text(&self.mount)]);
    }

    /// The file system gives up, as after a write error: it can be read, but not written until it is mounted again.
    pub(crate) fn abort(&self) {
        run("mount", ["-o", "remount,abort", &text(&self.mount)]);
    }

    /// Writes and syncs hang while the result lives. It must end before the processes do: declare it after their cluster.
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", ["-f", &text(&self.mount)]);
        Frozen(self)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Drop for Image {
    fn drop(&mut self) {
        // Nothing is mounted after a test that failed between the two.
        runs("umount", [&self.mount]);
    }
}

/// See [`Image::freeze`].
pub(crate) struct Frozen<'a>(&'a Image);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        runs("fsfreeze", ["-u", &text(&self.0.mount)]);
    }
}
