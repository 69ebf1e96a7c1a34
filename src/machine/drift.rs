//! A running hash of the applied state, to notice when two members drift apart.
//!
//! Not cryptographic: it guards against mistakes, not against attackers.

use crate::storage::Batch;
use crate::storage::Write;

const KEYS: [u64; 3] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
];

/// The hash after some prefix of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHash(pub u64);

impl StateHash {
    /// Takes in one number.
    pub fn number(&mut self, number: u64) {
        self.0 = mix(self.0 ^ KEYS[0], number ^ KEYS[1]);
    }

    /// Takes in one string of bytes and where it ends.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<16>();
        let mut hash = self.0;
        for block in blocks {
            let both = u128::from_le_bytes(*block);
            hash = mix(both as u64 ^ KEYS[1], (both >> 64) as u64 ^ hash);
        }
        let mut tail = [0; 16];
        tail[..rest.len()].copy_from_slice(rest);
        let both = u128::from_le_bytes(tail);
        hash = mix(both as u64 ^ KEYS[2], (both >> 64) as u64 ^ hash);
        self.0 = hash;
        self.number(bytes.len() as u64);
    }

    /// Takes in the changes of one entry.
    pub fn batch(&mut self, batch: &Batch) {
        for write in &batch.writes {
            match write {
                Write::Put { table, key, value } => {
                    self.number(*table as u64);
                    self.bytes(key);
                    self.bytes(value);
                }
                Write::Delete { table, key } => {
                    self.number(1 << 8 | *table as u64);
                    self.bytes(key);
                }
            }
        }
    }
}

/// Both halves of the product, folded.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
