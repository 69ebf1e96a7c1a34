//! An index from its versions in the order of keys: leaves are filled one after the other, and the nodes
//! above them are made at the end.

use super::Handle;
use super::Index;
use super::Version;
use super::bytes;
use super::entry::Entry;
use super::leaf::Keys;
use super::leaf::Leaf;
use super::node::Node;
use super::stamp::Stamp;

/// Takes versions by key, and those of one key by revision.
pub struct Builder<const N: usize = 64> {
    keys: Keys,
    entries: Vec<Entry>,
    /// The last key of the leaf before.
    before: Vec<u8>,
    row: Vec<(Vec<u8>, Node<N>)>,
    newest: i64,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::with_nodes()
    }
}

impl<const N: usize> Builder<N> {
    pub(super) fn with_nodes() -> Builder<N> {
        Builder {
            keys: Keys::default(),
            entries: Vec::with_capacity(N),
            before: Vec::new(),
            row: Vec::new(),
            newest: 0,
        }
    }

    /// Adds a version. Returns false, and changes nothing, if it is out of order or no version at all.
    #[must_use]
    pub fn push(&mut self, key: &[u8], version: Version) -> bool {
        if !Stamp::fits(&version) {
            return false;
        }
        let last = self.keys.last().unwrap_or(&self.before);
        if key == last {
            let Some(entry) = self.entries.last_mut() else {
                return false;
            };
            if entry.newest().modified >= version.modified {
                return false;
            }
            entry.push(version, Handle::NONE);
        } else if key > last {
            if self.keys.len() == N {
                self.close_leaf();
            }
            self.keys.push(key);
            self.entries.push(Entry::new(version, Handle::NONE));
        } else {
            return false;
        }
        self.newest = self.newest.max(version.modified.main);
        true
    }

    /// The index of everything pushed. Nobody will ask about revisions before `compacted`.
    pub fn finish(mut self, compacted: i64) -> Index<N> {
        if self.keys.len() > 0 {
            self.close_leaf();
        }
        let now = self.newest.max(compacted);
        let root = Node::over(self.row, now, compacted);
        Index {
            live: root.live().into(),
            root,
            compacted: compacted.max(0),
        }
    }

    fn close_leaf(&mut self) {
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(N));
        let separator = match self.row.is_empty() {
            true => Vec::new(),
            false => bytes::separator(&self.before, self.keys.get(0)),
        };
        self.before.clear();
        self.before
            .extend_from_slice(self.keys.last().unwrap_or_default());
        let leaf = Leaf::of(&self.keys, entries);
        self.keys.clear();
        self.row.push((separator, Node::Leaf(Box::new(leaf))));
    }
}
