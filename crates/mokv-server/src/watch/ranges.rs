//! A map from ranges of keys that finds those in which a key is.
//!
//! A search tree over the ranges in the order of their starts, in which each node knows how far the ranges below it
//! reach, so that whole branches are passed over. Random priorities keep it balanced (a treap).

use std::cmp::Ordering;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::store::KeyRange;

/// Ranges and their values.
pub(super) struct RangeMap<V> {
    root: Tree<V>,
    rng: SmallRng,
}

type Tree<V> = Option<Box<Node<V>>>;

/// Invariants: in the order of the ranges, the left ones come before and the right ones after; no child has a higher
/// priority; `reach` is the furthest end of the range and all below.
struct Node<V> {
    range: KeyRange,
    value: V,
    priority: u64,
    reach: End,
    left: Tree<V>,
    right: Tree<V>,
}

/// Where a range ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn of(range: &KeyRange) -> Self {
        range.end().map_or(Self::Never, |end| Self::Before(end.clone()))
    }

    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Never => true,
        }
    }
}

fn order(a: &KeyRange, b: &KeyRange) -> Ordering {
    a.start().cmp(b.start()).then_with(|| End::of(a).cmp(&End::of(b)))
}

impl<V> RangeMap<V> {
    pub(super) fn new(rng: SmallRng) -> Self {
        Self { root: None, rng }
    }

    pub(super) fn get_mut(&mut self, range: &KeyRange) -> Option<&mut V> {
        let mut tree = &mut self.root;
        while let Some(node) = tree {
            match order(range, &node.range) {
                Ordering::Less => tree = &mut node.left,
                Ordering::Equal => return Some(&mut node.value),
                Ordering::Greater => tree = &mut node.right,
            }
        }
        None
    }

    /// Takes in a range that is not in the map.
    pub(super) fn insert(&mut self, range: KeyRange, value: V) {
        let (left, right) = split(self.root.take(), &range);
        let (reach, priority) = (End::of(&range), self.rng.next_u64());
        let node = Box::new(Node { range, value, priority, reach, left: None, right: None });
        self.root = join(join(left, Some(node)), right);
    }

    pub(super) fn remove(&mut self, range: &KeyRange) {
        self.root = remove(self.root.take(), range);
    }

    /// Visits the values of all ranges that a key is in.
    pub(super) fn visit(&mut self, key: &[u8], mut visitor: impl FnMut(&mut V)) {
        visit(&mut self.root, key, &mut visitor);
    }

    /// Visits all values.
    pub(super) fn visit_all(&mut self, mut visitor: impl FnMut(&mut V)) {
        visit_all(&mut self.root, &mut visitor);
    }
}

impl<V> Node<V> {
    /// Finds out anew how far the range and those below reach.
    fn measure(mut self: Box<Self>) -> Tree<V> {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| node.reach.clone());
        self.reach = below.fold(End::of(&self.range), End::max);
        Some(self)
    }
}

/// The ranges before one that is not in the tree, and those after it.
fn split<V>(tree: Tree<V>, range: &KeyRange) -> (Tree<V>, Tree<V>) {
    let Some(mut node) = tree else { return (None, None) };
    match order(range, &node.range) {
        Ordering::Less => {
            let (before, after) = split(node.left.take(), range);
            node.left = after;
            (before, node.measure())
        }
        Ordering::Equal | Ordering::Greater => {
            let (before, after) = split(node.right.take(), range);
            node.right = before;
            (node.measure(), after)
        }
    }
}

/// One tree of two; all ranges of the first come before those of the second.
fn join<V>(left: Tree<V>, right: Tree<V>) -> Tree<V> {
    match (left, right) {
        (Some(mut left), Some(right)) if left.priority >= right.priority => {
            left.right = join(left.right.take(), Some(right));
            left.measure()
        }
        (Some(left), Some(mut right)) => {
            right.left = join(Some(left), right.left.take());
            right.measure()
        }
        (left, right) => left.or(right),
    }
}

fn remove<V>(tree: Tree<V>, range: &KeyRange) -> Tree<V> {
    let mut node = tree?;
    match order(range, &node.range) {
        Ordering::Less => node.left = remove(node.left.take(), range),
        Ordering::Equal => return join(node.left, node.right),
        Ordering::Greater => node.right = remove(node.right.take(), range),
    }
    node.measure()
}

fn visit<V>(tree: &mut Tree<V>, key: &[u8], visitor: &mut impl FnMut(&mut V)) {
    let Some(node) = tree.as_mut().filter(|node| node.reach.is_after(key)) else { return };
    visit(&mut node.left, key, visitor);
    if key >= &node.range.start()[..] {
        if node.range.contains(key) {
            visitor(&mut node.value);
        }
        visit(&mut node.right, key, visitor);
    }
}

fn visit_all<V>(tree: &mut Tree<V>, visitor: &mut impl FnMut(&mut V)) {
    let Some(node) = tree else { return };
    visit_all(&mut node.left, visitor);
    visitor(&mut node.value);
    visit_all(&mut node.right, visitor);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn depth<V>(tree: &Tree<V>) -> usize {
        tree.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    fn ranges() -> impl Strategy<Value = KeyRange> {
        let keys = || vec(0..4_u8, 0..4).prop_map(Bytes::from);
        prop_oneof![
            keys().prop_map(KeyRange::prefix),
            keys().prop_map(KeyRange::key),
            (keys(), keys()).prop_map(|(start, end)| KeyRange::all().starting_at(start).ending_before(end)),
            keys().prop_map(|start| KeyRange::all().starting_at(start)),
        ]
    }

    proptest! {
        #[test]
        fn a_key_finds_the_ranges_that_it_is_in(
            steps in vec((ranges(), any::<bool>()), 0..60),
            keys in vec(vec(0..4_u8, 0..4), 1..20),
        ) {
            let mut map = RangeMap::new(SmallRng::seed_from_u64(1));
            let mut model: Vec<KeyRange> = Vec::new();
            for (range, insert) in steps {
                match (insert, model.iter().position(|known| *known == range)) {
                    (true, None) => {
                        map.insert(range.clone(), range.clone());
                        model.push(range);
                    }
                    (true, Some(_)) => prop_assert_eq!(map.get_mut(&range), Some(&mut range.clone())),
                    (false, known) => {
                        known.map(|place| model.swap_remove(place));
                        map.remove(&range);
                        prop_assert_eq!(map.get_mut(&range), None);
                    }
                }
            }
            model.sort_by(order);
            for key in keys {
                let mut found = Vec::new();
                map.visit(&key, |range| found.push(range.clone()));
                let expected: Vec<_> = model.iter().filter(|range| range.contains(&key)).cloned().collect();
                prop_assert_eq!(found, expected);
            }
            let mut all = Vec::new();
            map.visit_all(|range| all.push(range.clone()));
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn ranges_in_order_make_no_list() {
        let mut map = RangeMap::new(SmallRng::seed_from_u64(1));
        for n in 0..10_000 {
            map.insert(KeyRange::prefix(format!("{n:05}/")), ());
        }
        assert!(depth(&map.root) < 60, "{}", depth(&map.root));
    }
}
