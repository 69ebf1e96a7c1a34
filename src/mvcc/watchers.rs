//! Who hears about a key. Single keys are looked up in a hash map, ranges in an interval tree.
//!
//! Only matching: whether a watcher is at the tip or behind, and what it filters out, is for its owner.

use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::proto::KeyRange;

/// Watchers by what they watch.
#[derive(Default)]
pub struct Watchers {
    keys: HashMap<Vec<u8>, BTreeSet<u64>>,
    ranges: Intervals,
    watching: HashMap<u64, KeyRange>,
}

impl Watchers {
    pub fn new() -> Watchers {
        Watchers::default()
    }

    pub fn len(&self) -> usize {
        self.watching.len()
    }

    pub fn is_empty(&self) -> bool {
        self.watching.is_empty()
    }

    /// Adds a watcher. Returns false, and changes nothing, if the id is taken.
    pub fn add(&mut self, id: u64, range: KeyRange) -> bool {
        if self.watching.contains_key(&id) {
            return false;
        }
        match single(&range) {
            Some(key) => self.keys.entry(key.to_vec()).or_default().insert(id),
            None => self.ranges.insert(&range, id),
        };
        self.watching.insert(id, range);
        true
    }

    /// Removes a watcher and returns what it watched.
    pub fn remove(&mut self, id: u64) -> Option<KeyRange> {
        let range = self.watching.remove(&id)?;
        match single(&range) {
            Some(key) => {
                if let Some(ids) = self.keys.get_mut(key) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            None => self.ranges.remove(&range, id),
        }
        Some(range)
    }

    /// Visits every watcher of `key` once.
    pub fn matching(&self, key: &[u8], mut visit: impl FnMut(u64)) {
        if let Some(ids) = self.keys.get(key) {
            ids.iter().copied().for_each(&mut visit);
        }
        self.ranges.matching(key, &mut visit);
    }
}

/// Returns the key of a range that holds exactly one.
fn single(range: &KeyRange) -> Option<&[u8]> {
    match range.end.as_deref()? {
        [start @ .., 0] if *start == range.start => Some(&range.start),
        _ => None,
    }
}

/// Distinct ranges in a treap ordered by start, each node knowing the furthest end below it.
///
/// A key's ranges are found by going left of the first start beyond the key and skipping every subtree
/// that ends before it: O(log n) and the hits. Watchers of the same range share a node, so a thousand
/// watchers of one prefix are one hit.
#[derive(Default)]
struct Intervals {
    root: Option<Box<Node>>,
    /// Grows with each insertion; scrambled, it is the priority that keeps the tree balanced.
    inserted: u64,
}

struct Node {
    range: KeyRange,
    ids: BTreeSet<u64>,
    priority: u64,
    /// The furthest end in this subtree; `None` is the end of the key space.
    furthest: Option<Vec<u8>>,
    left: Option<Box<Node>>,
    right: Option<Box<Node>>,
}

type Tree = Option<Box<Node>>;

/// SplitMix64: spreads a counter over all bits.
fn scramble(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn beyond(end: &Option<Vec<u8>>, key: &[u8]) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

/// The order of nodes: by start, then by end with the open one last.
fn order(range: &KeyRange) -> (&[u8], bool, Option<&[u8]>) {
    (&range.start, range.end.is_none(), range.end.as_deref())
}

impl Node {
    fn new(range: &KeyRange, id: u64, priority: u64) -> Box<Node> {
        Box::new(Node {
            furthest: range.end.clone(),
            range: range.clone(),
            ids: BTreeSet::from([id]),
            priority,
            left: None,
            right: None,
        })
    }

    /// Recomputes the furthest end from the node and its children.
    fn update(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten();
        let furthest = below
            .map(|child| &child.furthest)
            .chain([&self.range.end])
            .max_by_key(|end| (end.is_none(), end.as_deref()));
        let furthest = furthest.expect("at least its own").clone();
        if furthest != self.furthest {
            self.furthest = furthest;
        }
    }
}

impl Intervals {
    fn insert(&mut self, range: &KeyRange, id: u64) -> bool {
        if let Some(node) = find(&mut self.root, range) {
            return node.ids.insert(id);
        }
        self.inserted += 1;
        let node = Node::new(range, id, scramble(self.inserted));
        let root = self.root.take();
        self.root = Some(insert(root, node));
        true
    }

    fn remove(&mut self, range: &KeyRange, id: u64) {
        let Some(node) = find(&mut self.root, range) else {
            return;
        };
        node.ids.remove(&id);
        if node.ids.is_empty() {
            let root = self.root.take();
            self.root = remove(root, range);
        }
    }

    fn matching(&self, key: &[u8], visit: &mut dyn FnMut(u64)) {
        let mut pending: Vec<&Node> = self.root.as_deref().into_iter().collect();
        while let Some(node) = pending.pop() {
            if !beyond(&node.furthest, key) {
                continue;
            }
            if node.range.start[..] <= *key {
                if beyond(&node.range.end, key) {
                    node.ids.iter().copied().for_each(&mut *visit);
                }
                pending.extend(node.right.as_deref());
            }
            pending.extend(node.left.as_deref());
        }
    }
}

fn find<'a>(mut tree: &'a mut Tree, range: &KeyRange) -> Option<&'a mut Node> {
    use std::cmp::Ordering::*;
    while let Some(node) = tree {
        tree = match order(range).cmp(&order(&node.range)) {
            Less => &mut node.left,
            Greater => &mut node.right,
            Equal => return Some(node),
        };
    }
    None
}

fn insert(tree: Tree, mut new: Box<Node>) -> Box<Node> {
    let Some(mut root) = tree else {
        return new;
    };
    if new.priority > root.priority {
        (new.left, new.right) = split(Some(root), &new.range);
        new.update();
        return new;
    }
    if order(&new.range) < order(&root.range) {
        root.left = Some(insert(root.left.take(), new));
    } else {
        root.right = Some(insert(root.right.take(), new));
    }
    root.update();
    root
}

/// Splits into what is ordered before `range` and after it.
fn split(tree: Tree, range: &KeyRange) -> (Tree, Tree) {
    let Some(mut root) = tree else {
        return (None, None);
    };
    if order(&root.range) < order(range) {
        let (before, after) = split(root.right.take(), range);
        root.right = before;
        root.update();
        (Some(root), after)
    } else {
        let (before, after) = split(root.left.take(), range);
        root.left = after;
        root.update();
        (before, Some(root))
    }
}

fn remove(tree: Tree, range: &KeyRange) -> Tree {
    use std::cmp::Ordering::*;
    let mut root = tree?;
    match order(range).cmp(&order(&root.range)) {
        Less => root.left = remove(root.left.take(), range),
        Greater => root.right = remove(root.right.take(), range),
        Equal => return join(root.left.take(), root.right.take()),
    }
    root.update();
    Some(root)
}

/// Joins two trees of which the left is ordered before the right.
fn join(left: Tree, right: Tree) -> Tree {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (one, other) => return one.or(other),
    };
    if left.priority > right.priority {
        left.right = join(left.right.take(), Some(right));
        left.update();
        Some(left)
    } else {
        right.left = join(Some(left), right.left.take());
        right.update();
        Some(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(watchers: &Watchers, key: &[u8]) -> Vec<u64> {
        let mut ids = Vec::new();
        watchers.matching(key, |id| ids.push(id));
        ids.sort_unstable();
        ids
    }

    fn depth(tree: &Tree) -> usize {
        tree.as_ref()
            .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    #[test]
    fn ranges_select_as_etcd_documents() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a", b""),
            (b"a", b"c"),
            (b"b", b"\0"),
            (b"\0", b"\0"),
            (b"c", b"a"),
            (b"", b"\0"),
            (b"a", b"a\0"),
        ];
        let mut watchers = Watchers::new();
        for (id, (key, end)) in cases.iter().enumerate() {
            assert!(watchers.add(id as u64, KeyRange::new(key, end)));
        }
        assert!(!watchers.add(3, KeyRange::new(b"x", b"")));
        assert_eq!(hits(&watchers, b"a"), [0, 1, 3, 5, 6]);
        assert_eq!(hits(&watchers, b"a\0"), [1, 3, 5]);
        assert_eq!(hits(&watchers, b"b"), [1, 2, 3, 5]);
        assert_eq!(hits(&watchers, b"zz"), [2, 3, 5]);
        assert_eq!(watchers.remove(1), Some(KeyRange::new(b"a", b"c")));
        assert_eq!(watchers.remove(1), None);
        assert_eq!(hits(&watchers, b"a\0"), [3, 5]);
        assert_eq!(watchers.len(), 6);
    }

    #[test]
    fn matches_what_a_list_of_ranges_would() {
        for seed in 1..=4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut watchers = Watchers::new();
            let mut list: Vec<(u64, KeyRange)> = Vec::new();
            for id in 0..4000 {
                let mut key = || vec![random.u8(b'a'..=b'd'); random.usize(1..=3)];
                let (start, end) = (key(), key());
                let range = match random.u8(0..4) {
                    0 => KeyRange::new(&start, b""),
                    1 => KeyRange::new(&start, b"\0"),
                    _ => KeyRange::new(&start, &end),
                };
                watchers.add(id, range.clone());
                list.push((id, range));
                if random.u8(0..3) == 0 {
                    let (id, _) = list.swap_remove(random.usize(..list.len()));
                    assert!(watchers.remove(id).is_some());
                }
                let probe = vec![random.u8(b'a'..=b'e'); random.usize(1..=4)];
                if id % 10 == 0 {
                    let mut expected: Vec<u64> = list
                        .iter()
                        .filter(|(_, range)| range.contains(&probe))
                        .map(|(id, _)| *id)
                        .collect();
                    expected.sort_unstable();
                    assert_eq!(hits(&watchers, &probe), expected, "seed {seed}, step {id}");
                }
            }
        }
    }

    #[test]
    fn ten_thousand_ranges_in_order_make_a_low_tree() {
        let mut watchers = Watchers::new();
        for id in 0..10_000u64 {
            let key = format!("/pods/{id:05}/");
            watchers.add(
                id,
                KeyRange::new(key.as_bytes(), format!("{key}~").as_bytes()),
            );
        }
        assert!(depth(&watchers.ranges.root) < 50);
        assert_eq!(hits(&watchers, b"/pods/07777/x"), [7777]);
        for id in 0..10_000 {
            watchers.remove(id);
        }
        assert!(watchers.ranges.root.is_none() && watchers.is_empty());
    }
}
