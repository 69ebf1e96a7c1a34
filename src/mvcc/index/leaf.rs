//! Up to 64 keys in order, and their versions.
//!
//! What the keys share is stored once. Of the rest, the first four bytes stand in an array of their
//! own, where the search begins; only ties look at the suffixes, which share one heap. A heap is laid
//! out anew whenever keys leave, so it has no holes.

use std::cmp::Ordering;

use super::bytes;
use super::entry::Entry;

/// Longer keys have a box of their own, so that 16 bits address every other suffix.
pub(super) const INLINE_KEY: usize = 512;

const PREFIX: usize = 47;

/// So many keys in a row appended at the end announce a load in order, for which leaves are filled.
const APPEND_RUN: u8 = 16;

/// Where a key's suffix is: offset and length in the heap, or index among the long keys.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: u16,
    len: u16,
}

const LONG: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Leaf<const N: usize> {
    /// One bit a key: live now.
    live: u64,
    heads: [u32; N],
    places: [Place; N],
    prefix: [u8; PREFIX],
    prefix_len: u8,
    appends: u8,
    heap: Vec<u8>,
    /// Whole keys, prefix included.
    long: Vec<Box<[u8]>>,
    entries: Vec<Entry>,
}

/// The keys of a leaf written out, to lay them out elsewhere.
#[derive(Default)]
pub(super) struct Keys {
    heap: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn last(&self) -> Option<&[u8]> {
        let last = self.ends.len().checked_sub(1)?;
        Some(self.get(last))
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.ends.clear();
    }

    /// Room for the keys of a leaf and one more, unless that one is long.
    fn for_keys_of<const N: usize>(leaf: &Leaf<N>) -> Keys {
        let prefixes = (leaf.len() + 2) * PREFIX;
        Keys {
            heap: Vec::with_capacity(leaf.heap.len() + prefixes),
            ends: Vec::with_capacity(leaf.len() + 1),
        }
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.heap.extend_from_slice(key);
        self.ends.push(self.heap.len());
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |i| self.ends[i]);
        &self.heap[start..self.ends[index]]
    }
}

impl<const N: usize> Leaf<N> {
    const FITS: () = assert!(N >= 4 && N <= 64 && N * INLINE_KEY < LONG as usize);

    pub(super) fn new() -> Leaf<N> {
        let () = Self::FITS;
        Leaf {
            live: 0,
            heads: [0; N],
            places: [Place::default(); N],
            prefix: [0; PREFIX],
            prefix_len: 0,
            appends: 0,
            heap: Vec::new(),
            long: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// A leaf of the given keys, which are in order, and their entries.
    pub(super) fn of(keys: &Keys, entries: Vec<Entry>) -> Leaf<N> {
        assert!(entries.len() == keys.len() && keys.len() <= N);
        let mut leaf = Leaf::new();
        for (index, entry) in entries.iter().enumerate() {
            leaf.live |= u64::from(entry.is_live()) << index;
        }
        leaf.entries = entries;
        leaf.lay_out(keys, 0);
        leaf
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn live(&self) -> u32 {
        self.live.count_ones()
    }

    /// The number of live keys among `low..high`.
    pub(super) fn live_between(&self, low: usize, high: usize) -> u32 {
        let below = |index: usize| 1u64.checked_shl(index as u32).unwrap_or(0).wrapping_sub(1);
        (self.live & below(high) & !below(low)).count_ones()
    }

    fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }

    #[inline]
    fn suffix(&self, index: usize) -> &[u8] {
        let Place { at, len } = self.places[index];
        match len {
            LONG => &self.long[usize::from(at)][usize::from(self.prefix_len)..],
            _ => &self.heap[usize::from(at)..][..usize::from(len)],
        }
    }

    /// Writes key `index` into `buffer`.
    pub(super) fn copy_key(&self, index: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(self.prefix());
        buffer.extend_from_slice(self.suffix(index));
    }

    fn key(&self, index: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(index)].concat()
    }

    fn keys(&self) -> Keys {
        let mut keys = Keys::for_keys_of(self);
        for index in 0..self.len() {
            keys.heap.extend_from_slice(self.prefix());
            keys.push(self.suffix(index));
        }
        keys
    }

    /// The index of `key`, or where it would have to go.
    #[inline]
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let suffix = match bytes::strip(key, self.prefix()) {
            Ok(suffix) => suffix,
            Err(Ordering::Greater) => return Err(self.len()),
            Err(_) => return Err(0),
        };
        let head = u32::from_be_bytes(bytes::head(suffix));
        let heads = &self.heads[..self.len()];
        let low = heads.partition_point(|other| *other < head);
        let ties = heads[low..].partition_point(|other| *other == head);
        let index = bytes::bisect(low..low + ties, |index| self.suffix(index) < suffix);
        match index < low + ties && self.suffix(index) == suffix {
            true => Ok(index),
            false => Err(index),
        }
    }

    /// The index of the first key that is not below `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|index| index)
    }

    pub(super) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let index = self.search(key).ok()?;
        Some(&self.entries[index])
    }

    pub(super) fn entry_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let index = self.search(key).ok()?;
        Some(&mut self.entries[index])
    }

    /// Changes the entry of key `index` and brings its live bit up to date.
    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut Entry)) {
        change(&mut self.entries[index]);
        let bit = 1 << index;
        match self.entries[index].is_live() {
            true => self.live |= bit,
            false => self.live &= !bit,
        }
    }

    /// Inserts a new key at `index`, where [`search`](Leaf::search) said it belongs.
    ///
    /// A full leaf keeps the lower part and returns the separator and the leaf to its right.
    pub(super) fn insert(
        &mut self,
        index: usize,
        key: &[u8],
        entry: Entry,
    ) -> Option<(Vec<u8>, Box<Leaf<N>>)> {
        let run = match index == self.len() {
            true => (self.appends + 1).min(APPEND_RUN),
            false => 0,
        };
        self.appends = run;
        if self.len() < N {
            self.insert_with_room(index, key, entry);
            return None;
        }
        let cut = if run == APPEND_RUN { N } else { N / 2 };
        let mut right = self.split_off(cut);
        right.appends = run;
        match index <= cut && cut < N {
            true => self.insert_with_room(index, key, entry),
            false => right.insert_with_room(index - cut, key, entry),
        }
        let separator = bytes::separator(&self.key(self.len() - 1), &right.key(0));
        Some((separator, right))
    }

    fn insert_with_room(&mut self, index: usize, key: &[u8], entry: Entry) {
        let below = (1u64 << index) - 1;
        let bit = u64::from(entry.is_live()) << index;
        self.live = self.live & below | (self.live & !below) << 1 | bit;
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(8.min(N - self.len()));
        }
        match bytes::strip(key, self.prefix()).map(<[u8]>::len) {
            Ok(_) if self.len() > 0 => {
                self.entries.insert(index, entry);
                self.place(index, key);
            }
            _ => {
                let mut keys = Keys::for_keys_of(self);
                let (old, mut place) = (self.keys(), 0..self.len());
                for before in place.by_ref().take(index) {
                    keys.push(old.get(before));
                }
                keys.push(key);
                place.for_each(|after| keys.push(old.get(after)));
                self.entries.insert(index, entry);
                self.lay_out(&keys, 0);
            }
        }
    }

    /// Makes room at `index`, whose entry is there already, and stores the suffix of `key`.
    fn place(&mut self, index: usize, key: &[u8]) {
        let old = self.len() - 1;
        self.heads.copy_within(index..old, index + 1);
        self.places.copy_within(index..old, index + 1);
        self.store(index, key);
    }

    fn store(&mut self, index: usize, key: &[u8]) {
        let suffix = &key[usize::from(self.prefix_len)..];
        self.heads[index] = u32::from_be_bytes(bytes::head(suffix));
        let at = match key.len() > INLINE_KEY {
            true => self.long.len(),
            false => self.heap.len(),
        };
        let at = u16::try_from(at).expect("64 keys of 512 bytes fit in 64 KiB");
        if key.len() > INLINE_KEY {
            self.places[index] = Place { at, len: LONG };
            self.long.push(key.into());
            return;
        }
        let len = suffix.len() as u16;
        self.places[index] = Place { at, len };
        if self.heap.capacity() - self.heap.len() < suffix.len() {
            self.heap.reserve_exact(suffix.len() * 8.min(N - index));
        }
        self.heap.extend_from_slice(suffix);
    }

    /// Stores this leaf's keys, which are those of `keys` from `first` on, from scratch.
    fn lay_out(&mut self, keys: &Keys, first: usize) {
        self.heap.clear();
        self.long.clear();
        let Some(last) = self.len().checked_sub(1) else {
            return;
        };
        let (lowest, highest) = (keys.get(first), keys.get(first + last));
        let shared = bytes::shared(lowest, highest).min(PREFIX);
        self.prefix[..shared].copy_from_slice(&lowest[..shared]);
        self.prefix_len = shared as u8;
        let inline = (0..=last).map(|index| keys.get(first + index).len());
        let inline = inline.filter(|len| *len <= INLINE_KEY);
        let size = inline.map(|len| len - shared).sum();
        self.heap.shrink_to(size);
        self.heap.reserve_exact(size);
        for index in 0..=last {
            self.store(index, keys.get(first + index));
        }
    }

    fn split_off(&mut self, cut: usize) -> Box<Leaf<N>> {
        let mut right = Box::new(Leaf::new());
        if cut == self.len() {
            return right;
        }
        let keys = self.keys();
        right.entries = self.entries.split_off(cut);
        right.live = self.live >> cut;
        right.lay_out(&keys, cut);
        self.live &= (1 << cut) - 1;
        self.entries.shrink_to_fit();
        self.lay_out(&keys, 0);
        right
    }

    /// Takes over all keys of the leaf to the right. Both must fit.
    pub(super) fn absorb(&mut self, mut right: Leaf<N>) {
        assert!(self.len() + right.len() <= N, "two leaves that do not fit");
        let mut keys = self.keys();
        for index in 0..right.len() {
            keys.push(&right.key(index));
        }
        if right.len() > 0 {
            self.live |= right.live << self.len();
        }
        self.entries.reserve_exact(right.len());
        self.entries.append(&mut right.entries);
        self.appends = 0;
        self.lay_out(&keys, 0);
    }

    /// Drops the keys for which `gone` says so, after it has changed their entries as it likes.
    pub(super) fn retain(&mut self, mut gone: impl FnMut(&mut Entry) -> bool) {
        let mut dropped = 0u64;
        for (index, entry) in self.entries.iter_mut().enumerate() {
            dropped |= u64::from(gone(entry)) << index;
        }
        if dropped == 0 {
            return;
        }
        let stays = |index: &usize| dropped & 1 << index == 0;
        let (mut keys, mut live) = (Keys::for_keys_of(self), 0u64);
        for index in (0..self.len()).filter(stays) {
            live |= (self.live >> index & 1) << keys.ends.len();
            keys.heap.extend_from_slice(self.prefix());
            keys.push(self.suffix(index));
        }
        let mut index = 0..self.len();
        self.entries
            .retain(|_| index.next().is_some_and(|index| stays(&index)));
        self.entries
            .shrink_to(self.entries.len().next_multiple_of(8));
        self.live = live;
        self.lay_out(&keys, 0);
    }
}

#[cfg(test)]
impl<const N: usize> Leaf<N> {
    /// Bytes of the leaf and on the heap.
    pub(super) fn bytes(&self) -> usize {
        let long: usize = self.long.iter().map(|key| key.len() + 16).sum();
        let histories: usize = self.entries.iter().map(Entry::heap_bytes).sum();
        let entries = self.entries.capacity() * size_of::<Entry>();
        size_of::<Self>() + self.heap.capacity() + long + entries + histories
    }

    /// Panics unless keys are in order, found, within the bounds, and the bits agree.
    pub(super) fn check(&self, low: Option<&[u8]>, high: Option<&[u8]>) {
        let keys: Vec<_> = (0..self.len()).map(|index| self.key(index)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "leaf out of order");
        assert!(keys.iter().all(|key| low.is_none_or(|low| &key[..] >= low)));
        assert!(
            keys.iter()
                .all(|key| high.is_none_or(|high| &key[..] < high))
        );
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(self.search(key), Ok(index));
            assert!(key.starts_with(self.prefix()));
            assert_eq!(
                self.live >> index & 1 == 1,
                self.entries[index].is_live(),
                "live bit of {key:?}"
            );
        }
        assert_eq!(self.live, self.live & ((1u128 << self.len()) - 1) as u64);
        let stored: usize = (0..self.len())
            .map(|i| self.places[i])
            .filter(|p| p.len != LONG)
            .map(|p| usize::from(p.len))
            .sum();
        assert_eq!(stored, self.heap.len(), "holes in the heap");
    }
}
