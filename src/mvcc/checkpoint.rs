//! The index as a stream of blocks, and back: so that a start need not read every record.
//!
//! A [`Checkpoint`] holds, of every key, the versions up to one revision, and the lease it hangs on. It is
//! made in slices between which writing goes on; reclaiming waits. What it says about a key that changes
//! meanwhile is out of date, which does no harm: whoever restores from it goes on with the records behind
//! that revision, and those name every such key.
//!
//! ```text
//! head     H, revision, records and bytes of the last size block
//! sizes    S, { number, records, bytes } of the blocks before that one
//! held     T, { main, sub } of records that are in the tables, but not in the index
//! keys     K, { bytes shared with the key before, length of the rest, rest, lease, versions,
//!          { main beyond the one before, sub, version, and if that is not 0 main - created } }
//! end      E, keys and versions
//! ```
//!
//! All numbers are varints. A key with many versions comes in several pieces. Whoever keeps the blocks
//! gives them checksums.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Buf;
use prost::encoding::decode_varint;
use prost::encoding::encode_varint;

use super::Pin;
use super::Revision;
use super::Store;
use super::compact::Block;
use super::compact::Compactor;
use super::compact::Sizes;
use super::index::Builder;
use super::index::Index;
use super::index::Version;
use super::index::Versions;
use crate::error::Fault;
use crate::storage;
use crate::storage::View;

/// A block of keys ends when it has so many bytes, or so many keys were looked at for it.
const BLOCK_BYTES: usize = 64 << 10;
const BLOCK_KEYS: usize = 2048;

/// Versions of one key in one piece.
const PIECE: usize = 1024;

/// Size blocks or held tombstones in one block.
const LIST: usize = 4096;

const HEAD: u8 = b'H';
const SIZES: u8 = b'S';
const HELD: u8 = b'T';
const KEYS: u8 = b'K';
const END: u8 = b'E';

/// What comes next.
enum Stage {
    Head,
    /// From this block number on.
    Sizes(i64),
    Held,
    Keys(Cursor),
    End,
    Done,
}

/// From `key` on; of that key itself, the versions after `after`.
#[derive(Default)]
struct Cursor {
    key: Vec<u8>,
    after: Revision,
}

/// A checkpoint in the making.
pub struct Checkpoint {
    revision: i64,
    /// As it is when the checkpoint begins; the blocks before it do not change while reclaiming waits.
    last_block: Block,
    held: BTreeSet<Revision>,
    stage: Stage,
    keys: u64,
    versions: u64,
    covers: u64,
    _pause: Pin,
}

impl Checkpoint {
    /// Begins a checkpoint of the current revision. Reclaiming waits until it is dropped.
    pub fn start(store: &Store) -> Checkpoint {
        let number = Sizes::number(store.revision);
        let mut last = store.sizes.blocks(number, 1);
        Checkpoint {
            revision: store.revision,
            last_block: last
                .next()
                .map_or_else(Default::default, |(_, block)| block),
            held: store.compactor.unindexed(),
            stage: Stage::Head,
            keys: 0,
            versions: 0,
            covers: store.since_checkpoint,
            _pause: store.compactor.pause(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How many records it has that the checkpoint before it had not.
    pub(super) fn covers(&self) -> u64 {
        self.covers
    }

    /// Makes the next block; `None` after the last one. `lease` tells on which lease a key hangs, or 0.
    pub fn block(&mut self, store: &Store, lease: &dyn Fn(&[u8]) -> i64) -> Option<Vec<u8>> {
        match &mut self.stage {
            Stage::Head => {
                self.stage = Stage::Sizes(i64::MIN);
                let mut out = vec![HEAD];
                let Block { records, bytes } = self.last_block;
                put_numbers(&mut out, &[self.revision as u64, records, bytes]);
                Some(out)
            }
            Stage::Sizes(from) => {
                let from = *from;
                Some(self.sizes(store, from))
            }
            Stage::Held => Some(self.held()),
            Stage::Keys(cursor) => {
                let cursor = std::mem::take(cursor);
                Some(self.keys(store, cursor, lease))
            }
            Stage::End => {
                self.stage = Stage::Done;
                let mut out = vec![END];
                put_numbers(&mut out, &[self.keys, self.versions]);
                Some(out)
            }
            Stage::Done => None,
        }
    }

    fn sizes(&mut self, store: &Store, from: i64) -> Vec<u8> {
        let mut out = vec![SIZES];
        let last = Sizes::number(self.revision);
        self.stage = Stage::Held;
        for (count, (number, block)) in store.sizes.blocks(from, LIST + 1).enumerate() {
            if number >= last {
                break;
            }
            if count == LIST {
                self.stage = Stage::Sizes(number);
                break;
            }
            put_numbers(&mut out, &[number as u64, block.records, block.bytes]);
        }
        out
    }

    fn held(&mut self) -> Vec<u8> {
        let mut out = vec![HELD];
        for _ in 0..LIST {
            let Some(at) = self.held.pop_first() else {
                break;
            };
            put_numbers(&mut out, &[at.main as u64, at.sub.into()]);
        }
        if self.held.is_empty() {
            self.stage = Stage::Keys(Cursor::default());
        }
        out
    }

    fn keys(&mut self, store: &Store, cursor: Cursor, lease: &dyn Fn(&[u8]) -> i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES + 4096);
        out.push(KEYS);
        let (mut last, mut seen) = (Vec::new(), 0);
        let mut next = None;
        let mut piece = Vec::new();
        let visit = &mut |key: &[u8], mut versions: Versions<'_>| {
            if seen == BLOCK_KEYS || out.len() >= BLOCK_BYTES {
                next = Some(Cursor {
                    key: key.to_vec(),
                    after: Revision::default(),
                });
                return ControlFlow::Break(());
            }
            seen += 1;
            let begun = key == cursor.key;
            if begun {
                versions.skip_to_after(cursor.after);
            }
            piece.clear();
            piece.extend(versions.by_ref().take(PIECE));
            let Some(end) = piece.last() else {
                return ControlFlow::Continue(());
            };
            self.keys += u64::from(!begun || cursor.after == Revision::default());
            self.versions += piece.len() as u64;
            put_key(&mut out, &last, key, lease(key));
            put_versions(&mut out, &piece);
            last.clear();
            last.extend_from_slice(key);
            if piece.len() == PIECE {
                next = Some(Cursor {
                    key: key.to_vec(),
                    after: end.modified,
                });
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        store.index.export(&cursor.key, self.revision, visit);
        self.stage = next.map_or(Stage::End, Stage::Keys);
        out
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers
        .iter()
        .for_each(|number| encode_varint(*number, out));
}

fn put_key(out: &mut Vec<u8>, last: &[u8], key: &[u8], lease: i64) {
    let shared = key.iter().zip(last).take_while(|(a, b)| a == b).count();
    put_numbers(out, &[shared as u64, (key.len() - shared) as u64]);
    out.extend_from_slice(&key[shared..]);
    encode_varint(lease as u64, out);
}

fn put_versions(out: &mut Vec<u8>, versions: &[Version]) {
    encode_varint(versions.len() as u64, out);
    let mut before = 0;
    for version in versions {
        let Revision { main, sub } = version.modified;
        let gap = (main - before) as u64;
        put_numbers(out, &[gap, sub.into(), version.version as u64]);
        if !version.is_tombstone() {
            encode_varint((main - version.created) as u64, out);
        }
        before = main;
    }
}

/// A checkpoint that was read back to its end.
pub struct Loaded {
    pub(super) revision: i64,
    pub(super) index: Index,
    pub(super) sizes: Sizes,
    pub(super) held: BTreeSet<Revision>,
    leases: Vec<(Vec<u8>, i64)>,
}

/// Gives the next block, or `None` after the last.
pub type Blocks<'a> = dyn FnMut() -> storage::Result<Option<Vec<u8>>> + 'a;

impl Loaded {
    /// Reads a checkpoint of the store that has these tables.
    ///
    /// Anything but blocks in the order in which [`Checkpoint`] makes them is damage.
    pub fn read(blocks: &mut Blocks<'_>, view: &dyn View) -> storage::Result<Loaded> {
        let compacted = Compactor::restore(view)?.compacted;
        let mut reading = Reading::default();
        while let Some(block) = blocks()? {
            let number = reading.blocks;
            if reading.block(&block).is_none() {
                return Err(damaged(format!("block {number} does not decode")));
            }
            reading.blocks += 1;
        }
        if !reading.ended {
            return Err(damaged("it has no end".into()));
        }
        Ok(Loaded {
            revision: reading.revision,
            index: reading.index.finish(compacted),
            sizes: reading.sizes,
            held: reading.held,
            leases: reading.leases,
        })
    }

    /// The newest revision it knows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The keys that hung on a lease, unless a later record says otherwise.
    pub fn leases(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.leases.iter().map(|(key, lease)| (&key[..], *lease))
    }
}

fn damaged(reason: String) -> Fault {
    Fault::damaged("the checkpoint of the index", reason)
}

#[derive(Default)]
struct Reading {
    blocks: u64,
    revision: i64,
    index: Builder,
    sizes: Sizes,
    held: BTreeSet<Revision>,
    leases: Vec<(Vec<u8>, i64)>,
    key: Vec<u8>,
    keys: u64,
    versions: u64,
    ended: bool,
}

impl Reading {
    fn block(&mut self, block: &[u8]) -> Option<()> {
        let (kind, mut rest) = block.split_first()?;
        if self.ended || (*kind == HEAD) != (self.blocks == 0) {
            return None;
        }
        match *kind {
            HEAD => self.head(&mut rest)?,
            END => {
                self.ended = true;
                let counts = (number(&mut rest)?, number(&mut rest)?);
                (counts == (self.keys, self.versions)).then_some(())?;
            }
            kind => {
                let mut last = Vec::new();
                while rest.has_remaining() {
                    match kind {
                        SIZES => self.size(&mut rest)?,
                        HELD => drop(self.held.insert(revision(&mut rest)?)),
                        KEYS => self.key(&mut rest, &mut last)?,
                        _ => return None,
                    }
                }
            }
        }
        rest.is_empty().then_some(())
    }

    fn head(&mut self, rest: &mut &[u8]) -> Option<()> {
        self.revision = number(rest)? as i64;
        let (records, bytes) = (number(rest)?, number(rest)?);
        if records > 0 {
            let block = Block { records, bytes };
            self.sizes.restore(Sizes::number(self.revision), block);
        }
        (self.revision > 0).then_some(())
    }

    fn size(&mut self, rest: &mut &[u8]) -> Option<()> {
        let at = number(rest)? as i64;
        let block = Block {
            records: number(rest)?,
            bytes: number(rest)?,
        };
        self.sizes.restore(at, block);
        (block.records > 0).then_some(())
    }

    /// One piece of one key. `last` is the key before it in this block.
    fn key(&mut self, rest: &mut &[u8], last: &mut Vec<u8>) -> Option<()> {
        let shared = usize::try_from(number(rest)?).ok()?;
        let more = usize::try_from(number(rest)?).ok()?;
        if shared > last.len() || more > rest.len() {
            return None;
        }
        last.truncate(shared);
        last.extend_from_slice(&rest[..more]);
        rest.advance(more);
        let lease = number(rest)? as i64;
        if lease != 0 {
            self.leases.push((last.clone(), lease));
        }
        if *last != self.key {
            self.keys += 1;
            self.key.clone_from(last);
        }
        let mut before = 0;
        for _ in 0..number(rest)? {
            let version = version(rest, before)?;
            before = version.modified.main;
            if before > self.revision || !self.index.push(last, version) {
                return None;
            }
            self.versions += 1;
        }
        Some(())
    }
}

fn version(rest: &mut &[u8], before: i64) -> Option<Version> {
    let main = before.checked_add(i64::try_from(number(rest)?).ok()?)?;
    let sub = u32::try_from(number(rest)?).ok()?;
    let version = i64::try_from(number(rest)?).ok()?;
    let created = match version {
        0 => 0,
        _ => main.checked_sub(i64::try_from(number(rest)?).ok()?)?,
    };
    Some(Version {
        modified: Revision { main, sub },
        created,
        version,
    })
}

fn revision(rest: &mut &[u8]) -> Option<Revision> {
    Some(Revision {
        main: i64::try_from(number(rest)?).ok()?,
        sub: u32::try_from(number(rest)?).ok()?,
    })
}

#[inline]
fn number(rest: &mut &[u8]) -> Option<u64> {
    decode_varint(rest).ok()
}
