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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Table;

    fn hash(writes: &[(bool, Table, &str, &str)]) -> StateHash {
        let mut batch = Batch::default();
        for (put, table, key, value) in writes {
            match put {
                true => batch.put(*table, key.to_string(), value.to_string()),
                false => batch.delete(*table, key.to_string()),
            }
        }
        let mut hash = StateHash::default();
        hash.batch(&batch);
        hash
    }

    #[test]
    fn each_difference_shows() {
        let long = "a value that is longer than a block";
        let (revisions, leases) = (Table::Revisions, Table::Leases);
        let different = [
            hash(&[]),
            hash(&[(true, revisions, "a", "")]),
            hash(&[(false, revisions, "a", "")]),
            hash(&[(true, leases, "a", "")]),
            hash(&[(true, revisions, "", "a")]),
            hash(&[(true, revisions, "a", "\0")]),
            hash(&[(true, revisions, "a", long)]),
            hash(&[(true, revisions, "a", &long[1..])]),
            hash(&[(true, revisions, "a", "b"), (true, revisions, "c", "d")]),
            hash(&[(true, revisions, "c", "d"), (true, revisions, "a", "b")]),
            hash(&[(true, revisions, "ab", "c"), (true, revisions, "", "d")]),
        ];
        for (at, one) in different.iter().enumerate() {
            for other in &different[at + 1..] {
                assert_ne!(one, other, "{at}");
            }
        }
    }

    /// Stored and compared between members: it must never change.
    #[test]
    fn the_hash_of_a_batch_stays_what_it_is() {
        let writes = [(
            true,
            Table::Revisions,
            "key",
            "a value of more than 16 bytes",
        )];
        assert_eq!(hash(&writes), StateHash(10_647_498_341_366_901_287));
    }
}
