//! An engine on an ordered map: nothing survives the process. The reference the others are compared with.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use parking_lot::RwLock;

use super::full_key;
use crate::storage::Batch;
use crate::storage::Engine;
use crate::storage::Pair;
use crate::storage::Result;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::Write;

#[derive(Default)]
pub struct Memory {
    pairs: RwLock<BTreeMap<Bytes, Bytes>>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl View for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.pairs.read().get(&full_key(table, key)[..]).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let Some((from, to)) = super::bounds(table, from, to) else {
            return Ok(Vec::new());
        };
        let pairs = self.pairs.read();
        let range = pairs.range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])));
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.slice(super::PREFIX..), value.clone()))
            .collect())
    }
}

impl Engine for Memory {
    fn path(&self) -> &Path {
        Path::new("(memory)")
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut pairs = self.pairs.write();
        for write in &batch.writes {
            let key = Bytes::from(full_key(write.table(), write.key()));
            match write {
                Write::Put { value, .. } => pairs.insert(key, value.clone()),
                Write::Delete { .. } => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        let pairs = self.pairs.read();
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len());
        Ok(bytes.sum::<usize>() as u64)
    }

    fn compact(&self) -> Result<()> {
        Ok(())
    }
}
