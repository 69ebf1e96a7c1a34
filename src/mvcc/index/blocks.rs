//! A sequence that grows at the end and shrinks at the front, without ever moving as a whole.
//!
//! One doubling array would stall the writer for as long as it takes to copy it (26 ms at a million
//! elements); blocks of 256 bound every pause, and a search over them is still two binary searches.

use std::collections::VecDeque;

/// Elements a block holds when full. Only the first and the last block may hold fewer.
pub(super) const BLOCK: usize = 256;

#[derive(Debug)]
pub(super) struct Blocks<T> {
    /// None of them empty.
    blocks: VecDeque<Vec<T>>,
}

impl<T: Copy> Blocks<T> {
    pub(super) fn new() -> Blocks<T> {
        Blocks {
            blocks: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        let (Some(first), Some(last)) = (self.blocks.front(), self.blocks.back()) else {
            return 0;
        };
        match self.blocks.len() {
            1 => first.len(),
            blocks => first.len() + (blocks - 2) * BLOCK + last.len(),
        }
    }

    pub(super) fn push(&mut self, element: T) {
        let room = self.blocks.back().map_or(0, |last| BLOCK - last.len());
        if room == 0 {
            self.blocks.push_back(Vec::new());
        }
        let last = self.blocks.back_mut().expect("a block with room");
        if last.len() == last.capacity() {
            // By half, and never beyond the block: most sequences stay very short.
            last.reserve_exact((last.len() / 2).max(2).min(BLOCK - last.len()));
        }
        last.push(element);
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.blocks.back()?.last()
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut T> {
        self.blocks.back_mut()?.last_mut()
    }

    /// The first element that stays if the first block is dropped and another one follows it.
    pub(super) fn second_block(&self) -> Option<&T> {
        self.blocks.get(1)?.first()
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &T {
        let first = self.blocks[0].len();
        match index.checked_sub(first) {
            None => &self.blocks[0][index],
            Some(rest) => &self.blocks[1 + rest / BLOCK][rest % BLOCK],
        }
    }

    /// How many leading elements satisfy `before`, which must hold for a prefix only.
    pub(super) fn partition_point(&self, before: impl Fn(&T) -> bool) -> usize {
        let reached = self.blocks.partition_point(|block| before(&block[0]));
        let Some(block) = reached.checked_sub(1) else {
            return 0;
        };
        let inside = self.blocks[block].partition_point(&before);
        match block {
            0 => inside,
            _ => self.blocks[0].len() + (block - 1) * BLOCK + inside,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten()
    }

    /// Drops the first `count` elements.
    pub(super) fn drop_front(&mut self, count: usize) {
        let mut rest = count;
        while let Some(block) = self.blocks.front()
            && block.len() <= rest
        {
            rest -= block.len();
            self.blocks.pop_front();
        }
        if let Some(block) = self.blocks.front_mut()
            && rest > 0
        {
            block.drain(..rest);
            block.shrink_to_fit();
        }
    }

    pub(super) fn drop_first_block(&mut self) {
        self.blocks.pop_front();
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let elements: usize = self.blocks.iter().map(Vec::capacity).sum();
        self.blocks.capacity() * size_of::<Vec<T>>() + elements * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_one_long_vector() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..40 {
            let (mut blocks, mut plain) = (Blocks::new(), Vec::new());
            for step in 0..30 {
                for _ in 0..random.usize(..200) {
                    let next = plain.last().map_or(0, |last| last + random.u32(1..3));
                    blocks.push(next);
                    plain.push(next);
                }
                let drop = random.usize(..=plain.len() / (1 + step % 3));
                blocks.drop_front(drop);
                plain.drain(..drop);

                assert_eq!(blocks.len(), plain.len());
                assert_eq!(blocks.is_empty(), plain.is_empty());
                assert_eq!(blocks.last(), plain.last());
                assert!(blocks.iter().eq(&plain));
                for _ in 0..20.min(plain.len()) {
                    let index = random.usize(..plain.len());
                    assert_eq!(blocks.get(index), &plain[index]);
                    let limit = plain[index] + random.u32(..2);
                    assert_eq!(
                        blocks.partition_point(|element| *element < limit),
                        plain.partition_point(|element| *element < limit)
                    );
                }
            }
        }
    }
}
