//! Values kept in memory within a byte budget: those just written, and those read back.
//!
//! [`Cache`] is a ring of equal chunks: values are appended as they are written, and when the budget is
//! used up the oldest chunk is given up whole. A handle is a position in everything ever appended, so one
//! that points before the oldest chunk is a miss, and none can point at another key's value.
//!
//! A key that is read often and written never leaves the ring. [`Reread`] keeps what had to be read from
//! the tables, by revision; a revision never changes, so nothing in it is ever out of date.

use std::collections::HashMap;
use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use prost::encoding::decode_varint;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;

use super::Revision;
use super::index::Handle;
use super::record::Record;
use crate::storage;
use crate::storage::View;

/// Chunks are this large, or an eighth of a small budget.
const CHUNK_BYTES: usize = 1 << 20;
/// With less than this a cache holds too few values to be worth its trouble.
const SMALLEST_CHUNK: usize = 1 << 10;

pub struct Cache {
    chunks: VecDeque<Vec<u8>>,
    /// The number of the oldest chunk. Numbers start at 1, so no handle is 0.
    first: u64,
    chunk_bits: u32,
    capacity: usize,
}

impl Cache {
    /// Makes a cache that never holds more than `budget` bytes; a tiny budget holds nothing.
    pub fn new(budget: usize) -> Cache {
        let chunk = (budget / 8).clamp(SMALLEST_CHUNK, CHUNK_BYTES);
        let chunk_bits = chunk.ilog2();
        Cache {
            chunks: VecDeque::new(),
            first: 1,
            chunk_bits,
            capacity: budget >> chunk_bits,
        }
    }

    /// Keeps a value and says where. Values larger than a chunk are not kept.
    pub fn push(&mut self, lease: i64, value: &[u8]) -> Handle {
        let header = encoded_len_varint(lease as u64) + encoded_len_varint(value.len() as u64);
        let size = header + value.len();
        if size > 1 << self.chunk_bits || self.capacity == 0 {
            return Handle::NONE;
        }
        let room = self
            .chunks
            .back()
            .map_or(0, |chunk| chunk.capacity() - chunk.len());
        if room < size {
            self.open_chunk();
        }
        let number = self.first + self.chunks.len() as u64 - 1;
        let chunk = self.chunks.back_mut().expect("a chunk was just opened");
        let handle = Handle::new(number << self.chunk_bits | chunk.len() as u64);
        encode_varint(lease as u64, chunk);
        encode_varint(value.len() as u64, chunk);
        chunk.extend_from_slice(value);
        handle
    }

    /// Returns the lease and value kept at `handle`, if they are still there.
    pub fn get(&self, handle: Handle) -> Option<(i64, &[u8])> {
        let number = handle.get() >> self.chunk_bits;
        let offset = handle.get() & ((1 << self.chunk_bits) - 1);
        let chunk = self.chunks.get(number.checked_sub(self.first)? as usize)?;
        let mut rest = chunk.get(offset as usize..)?;
        let lease = decode_varint(&mut rest).ok()? as i64;
        let length = decode_varint(&mut rest).ok()? as usize;
        rest.get(..length).map(|value| (lease, value))
    }

    /// Bytes held in chunks, used or not.
    pub fn bytes(&self) -> usize {
        self.chunks.len() << self.chunk_bits
    }

    fn open_chunk(&mut self) {
        let chunk = if self.chunks.len() < self.capacity {
            Vec::with_capacity(1 << self.chunk_bits)
        } else {
            self.first += 1;
            let mut oldest = self.chunks.pop_front().expect("the budget is not zero");
            oldest.clear();
            oldest
        };
        self.chunks.push_back(chunk);
    }
}

/// Values that were read from the tables, oldest out first.
pub struct Reread {
    budget: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    values: HashMap<Revision, (i64, Bytes)>,
    order: VecDeque<Revision>,
    bytes: usize,
}

/// What a kept value takes beside its bytes.
const KEPT_OVERHEAD: usize = 120;

impl Reread {
    pub fn new(budget: usize) -> Reread {
        Reread {
            budget,
            kept: Mutex::default(),
        }
    }

    /// Returns the lease and value of a version that exists.
    pub fn load(&self, view: &dyn View, at: Revision) -> storage::Result<(i64, Bytes)> {
        if let Some(found) = self.kept.lock().values.get(&at) {
            return Ok(found.clone());
        }
        let record = Record::load(view, at)?;
        let found = (record.kv.lease, record.kv.value);
        // A slice would keep the whole record, and whatever it is a part of.
        let size = found.1.len() + KEPT_OVERHEAD;
        if size <= self.budget / 8 {
            let value = Bytes::copy_from_slice(&found.1);
            self.keep(at, (found.0, value), size);
        }
        Ok(found)
    }

    pub fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }

    fn keep(&self, at: Revision, value: (i64, Bytes), size: usize) {
        let mut kept = self.kept.lock();
        if kept.values.insert(at, value).is_some() {
            return;
        }
        kept.order.push_back(at);
        kept.bytes += size;
        while kept.bytes > self.budget {
            let oldest = kept.order.pop_front().expect("what has bytes has an entry");
            let (_, value) = kept.values.remove(&oldest).expect("both name the same");
            kept.bytes -= value.len() + KEPT_OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::index::Version;
    use crate::mvcc::record;
    use crate::mvcc::record::Encoder;
    use crate::storage::Batch;
    use crate::storage::Engine;
    use crate::storage::Table;
    use crate::storage::engine::memory::Memory;

    #[test]
    fn values_read_back_are_kept_within_the_budget() {
        let tables = Memory::new();
        let encoder = Encoder::new(&Default::default());
        let at = |main| Revision { main, sub: 0 };
        let mut batch = Batch::default();
        for main in 2..100 {
            let version = Version {
                modified: at(main),
                created: main,
                version: 1,
            };
            let (bytes, _) = encoder.put(b"k", version, &[main as u8; 100], main);
            batch.put(Table::Revisions, record::key(at(main)).to_vec(), bytes);
        }
        tables.commit(&batch).expect("written");
        let reread = Reread::new(4000);
        for main in 2..100 {
            for _ in 0..2 {
                let (lease, value) = reread.load(&tables, at(main)).expect("there");
                assert_eq!((lease, &value[..]), (main, &[main as u8; 100][..]));
            }
        }
        assert!((3000..=4000).contains(&reread.bytes()));
        let nothing = Memory::new();
        assert!(reread.load(&nothing, at(99)).is_ok(), "still kept");
        assert!(
            reread.load(&nothing, at(2)).is_err(),
            "given up, and not in the tables"
        );
    }

    #[test]
    fn a_value_is_found_until_its_chunk_is_given_up() {
        let mut cache = Cache::new(16 << 10);
        let handles: Vec<_> = (0..1000i64)
            .map(|i| cache.push(-i, format!("value {i}").repeat(5).as_bytes()))
            .collect();
        let found = |i: usize| cache.get(handles[i]);
        for i in 0..1000 {
            if let Some((lease, value)) = found(i) {
                assert_eq!(lease, -(i as i64));
                assert_eq!(value, format!("value {i}").repeat(5).as_bytes());
            }
        }
        assert!(found(0).is_none() && found(999).is_some());
        let kept = (0..1000).filter(|i| found(*i).is_some()).count();
        assert!(kept > 200, "{kept} values in {} bytes", cache.bytes());
        let first_kept = (0..1000).position(|i| found(i).is_some()).expect("some");
        assert_eq!(first_kept + kept, 1000, "first in, first out");
        assert!(cache.bytes() <= 16 << 10);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut cache = Cache::new(8 << 10);
        assert_eq!(cache.push(0, &[1; 1025]).get(), Handle::NONE.get());
        let handle = cache.push(0, &[1; 1000]);
        assert_eq!(cache.get(handle), Some((0, &[1; 1000][..])));
        assert_eq!(cache.push(0, b"x").get() >> 10, 1);
        for budget in [0, 1000] {
            let mut none = Cache::new(budget);
            let handle = none.push(0, b"x");
            assert!(none.get(handle).is_none());
            assert_eq!(none.bytes(), 0);
        }
    }

    #[test]
    fn no_handle_finds_nothing() {
        let mut cache = Cache::new(1 << 20);
        assert!(cache.get(Handle::NONE).is_none());
        cache.push(3, b"");
        assert!(cache.get(Handle::NONE).is_none());
    }
}
