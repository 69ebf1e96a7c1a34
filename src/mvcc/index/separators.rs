//! The strings between the children of an inner node, packed so that a search stays in few cache lines.
//!
//! Separator `i` is above every key of child `i` and not above any key of child `i + 1`.

use std::cmp::Ordering;

use super::bytes;

#[derive(Debug)]
pub(super) struct Separators<const N: usize> {
    len: usize,
    /// How many leading bytes all of them share.
    shared: usize,
    /// The eight bytes after those.
    heads: [u64; N],
    ends: [u32; N],
    /// All separators, in order, whole.
    heap: Vec<u8>,
}

impl<const N: usize> Separators<N> {
    pub(super) fn new() -> Separators<N> {
        Separators {
            len: 0,
            shared: 0,
            heads: [0; N],
            ends: [0; N],
            heap: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Which child `key` belongs to: the number of separators that are not above it.
    #[inline]
    pub(super) fn child(&self, key: &[u8]) -> usize {
        let rest = match bytes::strip(key, &self.heap[..self.shared]) {
            Ok(rest) => rest,
            Err(Ordering::Greater) => return self.len,
            Err(_) => return 0,
        };
        let head = u64::from_be_bytes(bytes::head(rest));
        let heads = &self.heads[..self.len];
        let low = heads.partition_point(|other| *other < head);
        let ties = heads[low..].iter().take_while(|other| **other == head);
        let high = low + ties.count();
        bytes::bisect(low..high, |index| &self.get(index)[self.shared..] <= rest)
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &[u8] {
        &self.heap[self.start(index)..self.ends[index] as usize]
    }

    #[inline]
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |i| self.ends[i] as usize)
    }

    pub(super) fn insert(&mut self, index: usize, separator: &[u8]) {
        let start = self.start(index);
        self.heap.reserve_exact(separator.len());
        self.heap.splice(start..start, separator.iter().copied());
        self.ends.copy_within(index..self.len, index + 1);
        self.len += 1;
        self.ends[index] = offset(start);
        for end in &mut self.ends[index..self.len] {
            *end = offset(*end as usize + separator.len());
        }
        self.refresh();
    }

    pub(super) fn remove(&mut self, index: usize) {
        let range = self.start(index)..self.ends[index] as usize;
        let gone = offset(range.len());
        self.heap.drain(range);
        self.ends.copy_within(index + 1..self.len, index);
        self.len -= 1;
        for end in &mut self.ends[index..self.len] {
            *end -= gone;
        }
        self.refresh();
    }

    /// Keeps the separators before `index`; returns that one and those after it.
    pub(super) fn split_off(&mut self, index: usize) -> (Vec<u8>, Separators<N>) {
        let middle = self.get(index).to_vec();
        let mut right = Separators::new();
        for from in index + 1..self.len {
            right.append_one(self.get(from));
        }
        self.len = index;
        self.heap.truncate(self.start(index));
        self.heap.shrink_to_fit();
        self.refresh();
        right.refresh();
        (middle, right)
    }

    /// Adds a separator and all of `right` at the end.
    pub(super) fn append(&mut self, middle: &[u8], right: &Separators<N>) {
        self.append_one(middle);
        for index in 0..right.len {
            self.append_one(right.get(index));
        }
        self.refresh();
    }

    fn append_one(&mut self, separator: &[u8]) {
        self.heap.extend_from_slice(separator);
        self.ends[self.len] = offset(self.heap.len());
        self.len += 1;
    }

    /// Finds the shared bytes and the heads anew.
    fn refresh(&mut self) {
        let last = self.len.saturating_sub(1);
        self.shared = match self.len {
            0 => 0,
            // They are in order, so what the ends share, all share.
            _ => bytes::shared(self.get(0), self.get(last)),
        };
        for index in 0..self.len {
            let rest = &self.get(index)[self.shared..];
            self.heads[index] = u64::from_be_bytes(bytes::head(rest));
        }
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.heap.capacity()
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("the separators of one node fit in 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_is_the_number_of_separators_not_above() {
        let mut random = fastrand::Rng::with_seed(11);
        let string = |random: &mut fastrand::Rng| -> Vec<u8> {
            let prefix: &[u8] = [&b""[..], b"aaaa", b"aaaabbbbbbbb"][random.usize(..3)];
            let tail = (0..random.usize(..4)).map(|_| random.u8(..3));
            prefix.iter().copied().chain(tail).collect()
        };
        for _ in 0..300 {
            let (mut separators, mut plain) = (Separators::<32>::new(), Vec::<Vec<u8>>::new());
            for _ in 0..40 {
                let one = string(&mut random);
                let index = plain.partition_point(|other| *other < one);
                if plain.len() == 32 || random.u8(..4) == 0 && index < plain.len() {
                    let index = index.min(plain.len() - 1);
                    plain.remove(index);
                    separators.remove(index);
                } else if plain.get(index) != Some(&one) {
                    plain.insert(index, one.clone());
                    separators.insert(index, &one);
                }
                let probe = string(&mut random);
                let expected = plain.partition_point(|other| *other <= probe);
                assert_eq!(separators.child(&probe), expected, "{probe:?} in {plain:?}");
            }
            if !plain.is_empty() {
                let cut = random.usize(..plain.len());
                let (middle, right) = separators.split_off(cut);
                separators.append(&middle, &right);
            }
            let all: Vec<_> = (0..plain.len()).map(|i| separators.get(i)).collect();
            assert_eq!(all, plain);
        }
    }
}
