//! The files of the log: what they are called, how each begins, and where the next one comes from.
//!
//! A segment is named `%016x-%016x.wal` after its sequence number and the index of the entry expected next
//! when it was begun. Its first sector is the header; a group with the vote, the commit mark and the purge
//! point follows, so that every older segment can go. Both are durable under a temporary name before the
//! file gets its own: a file with a segment's name always has a sound header.
//!
//! A purged segment is renamed to `0.tmp` or `1.tmp` and becomes the next one, so that in steady state the
//! log overwrites blocks it already has and a sync has no metadata to commit. Until there is one to recycle,
//! spares are made in the background: space set aside, then filled with zeros once.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::Position;
use super::record::BODY;
use super::record::Group;
use super::record::Record;
use super::record::SECTOR;
use super::record::Sector;
use super::record::judge;
use super::record::seal_sector;
use crate::error::Fault;
use crate::storage::Result;
use crate::storage::disk::Disk;
use crate::storage::disk::File;

const MAGIC: &[u8; 8] = b"kv-wal\r\n";
/// The format this program writes. Magic, version and the form of a sector stay where they are in later ones.
const VERSION: u32 = 1;

pub fn name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:016x}-{first_index:016x}.wal")
}

/// Sequence and first index from a file name.
pub fn parse_name(path: &Path) -> Option<(u64, u64)> {
    let (sequence, first) = path
        .file_name()?
        .to_str()?
        .strip_suffix(".wal")?
        .split_once('-')?;
    let number = |text: &str| {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex && text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?
    };
    Some((number(sequence)?, number(first)?))
}

/// The first sector of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub sequence: u64,
    /// Index of the entry expected next when the segment was begun.
    pub first_index: u64,
    pub cluster_id: u64,
    pub member_id: u64,
    /// Number of the header itself, in the row of all groups.
    pub group: u64,
    /// Checksum of the last frame of the segment before.
    pub previous_chain: u32,
    /// The last entry when the segment was begun.
    pub last: Option<Position>,
}

impl Header {
    /// The sector, and the checksum its first frame continues. No other use of this or any file of the log
    /// has the same one, so frames left over from an earlier use never continue the chain.
    pub fn encode(&self) -> ([u8; SECTOR], u32) {
        let mut sector = [0; SECTOR];
        let last = self.last.unwrap_or_default();
        let numbers = [
            self.sequence,
            self.first_index,
            self.cluster_id,
            self.member_id,
            u64::from(self.previous_chain),
            u64::from(self.last.is_some()),
            last.term,
            last.index,
        ];
        sector[..8].copy_from_slice(MAGIC);
        sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (i, number) in numbers.iter().enumerate() {
            sector[16 + i * 8..24 + i * 8].copy_from_slice(&number.to_le_bytes());
        }
        seal_sector(&mut sector, 0, self.group, 0);
        (sector, seed(&sector))
    }

    /// Reads and checks the header of the file at `path`, and returns it with the seed of its chain.
    pub fn read(file: &dyn File, path: &Path) -> Result<(Header, u32)> {
        let mut sector = [0; SECTOR];
        let found = file.read_at(&mut sector, 0)?;
        let judged = judge(&sector[..found], 0);
        if judged == Sector::Blank {
            return Err(damaged(path, 0, "the header is blank"));
        }
        if !sector.starts_with(MAGIC) {
            return Err(Fault::Refused(format!(
                "{} is not a segment of this log; a write-ahead log of etcd itself cannot be taken over",
                path.display()
            )));
        }
        let Sector::Written { group, .. } = judged else {
            return Err(damaged(path, 0, "crc mismatch in the header"));
        };
        let version = u32::from_le_bytes([sector[8], sector[9], sector[10], sector[11]]);
        if version > VERSION {
            return Err(Fault::Refused(format!(
                "{} has format version {version}, this program knows versions up to {VERSION}",
                path.display()
            )));
        }
        let header = Header::decode(&sector, group);
        let named = parse_name(path);
        if named.is_some_and(|named| named != (header.sequence, header.first_index)) {
            let right = name(header.sequence, header.first_index);
            return Err(Fault::Refused(format!(
                "{} was renamed, its header says {right}",
                path.display()
            )));
        }
        Ok((header, seed(&sector)))
    }

    fn decode(sector: &[u8; SECTOR], group: u64) -> Header {
        let number = |i: usize| {
            let bytes = sector[16 + i * 8..24 + i * 8].try_into();
            u64::from_le_bytes(bytes.expect("8 bytes"))
        };
        Header {
            sequence: number(0),
            first_index: number(1),
            cluster_id: number(2),
            member_id: number(3),
            group,
            previous_chain: number(4) as u32,
            last: (number(5) != 0).then(|| Position {
                term: number(6),
                index: number(7),
            }),
        }
    }
}

/// The checksum that the first frame after a header continues. Not one of the whole sector: a checksum over
/// bytes and their own checksum is the same for all bytes.
fn seed(header: &[u8; SECTOR]) -> u32 {
    crc32c::crc32c(&header[..BODY + 8])
}

const _: () = assert!(16 + 8 * 8 <= BODY);

/// Damage at a byte of a file.
pub fn damaged(path: &Path, offset: u64, reason: impl Into<String>) -> Fault {
    Fault::damaged(format!("{} at byte {offset}", path.display()), reason)
}

/// The segment that is being written.
pub struct Active {
    pub sequence: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    /// Where the next group goes.
    pub end: u64,
    /// Where groups after the header's begin.
    pub start: u64,
    /// Up to here blocks are allocated and written, so that overwriting them is cheap.
    pub filled: u64,
    /// Number and last checksum of the last group.
    pub group: u64,
    pub chain: u32,
}

impl Active {
    /// Begins a segment with `header` and the records that repeat the state of the log, durably.
    pub fn begin(spares: &Spares, header: &Header, state: &[Record]) -> Result<Active> {
        let (slot, tmp, file, filled) = spares.take()?;
        let (sector, seed) = header.encode();
        let mut bytes = sector.to_vec();
        let mut active = Active {
            sequence: header.sequence,
            path: spares.dir.join(name(header.sequence, header.first_index)),
            file,
            end: SECTOR as u64,
            start: 0,
            filled,
            group: header.group,
            chain: seed,
        };
        if !state.is_empty() {
            let mut group = Group::new();
            group.begin(active.end, seed);
            for record in state {
                group.push(record);
            }
            active.group += 1;
            let (sealed, chain) = group.seal(active.group);
            bytes.extend_from_slice(sealed);
            active.chain = chain;
        }
        active.end = bytes.len() as u64;
        active.start = active.end;
        active.file.write_at(&bytes, 0)?;
        spares.sync(&*active.file)?;
        spares.disk.rename(&tmp, &active.path)?;
        spares.sync_dir()?;
        spares.release(slot);
        // A handle that knows the new name, for the messages of the errors to come.
        active.file = spares.disk.open(&active.path, false)?;
        Ok(active)
    }
}

/// Whether `N.tmp` is there and what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Somebody works on the file.
    Taken,
    /// Full size, every block written.
    Ready,
}

/// Files that wait to become segments.
pub struct Spares {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub segment_bytes: u64,
    pub no_sync: bool,
    slots: Mutex<[Slot; 2]>,
    /// How often making a spare failed since the last segment was begun.
    failures: AtomicU64,
    cancelled: AtomicBool,
}

/// Zeros are written in pieces of this size with a sync after each, so that making a spare never piles up
/// dirty pages that the next sync of the log would wait for.
const FILL_BYTES: usize = 256 << 10;

/// Between two pieces the disk is left to the log for so many times as long as a piece took.
const FILL_REST: u32 = 3;

impl Spares {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64, no_sync: bool) -> Spares {
        Spares {
            disk,
            dir: dir.to_path_buf(),
            segment_bytes,
            no_sync,
            slots: Mutex::new([Slot::Free; 2]),
            failures: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        }
    }

    pub fn path(&self, slot: usize) -> PathBuf {
        self.dir.join(format!("{slot}.tmp"))
    }

    /// Sets a slot aside for a spare if none is there or in the making, and it is time: `end`, the end of the
    /// log, is beyond half of its segment, or three quarters after the first attempt failed. Then the log
    /// goes on without: the spare may never be needed. Whoever gets a slot calls [`Spares::prepare`].
    pub fn reserve(&self, end: u64) -> Option<usize> {
        let failures = self.failures.load(Ordering::Relaxed);
        if failures >= 2 || end < self.segment_bytes / 4 * (2 + failures) {
            return None;
        }
        let mut slots = self.slots.lock();
        let none = *slots == [Slot::Free; 2];
        none.then(|| {
            slots[0] = Slot::Taken;
            0
        })
    }

    /// Makes [`Spares::prepare`] stop soon, on another thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn find(&self, from: Slot, to: Slot) -> Option<usize> {
        let mut slots = self.slots.lock();
        let found = slots.iter().position(|slot| *slot == from)?;
        slots[found] = to;
        Some(found)
    }

    fn set(&self, slot: usize, to: Slot) {
        self.slots.lock()[slot] = to;
    }

    fn release(&self, slot: usize) {
        self.failures.store(0, Ordering::Relaxed);
        self.set(slot, Slot::Free);
    }

    /// A file for the next segment: its slot, name, handle, and how much of it is filled.
    fn take(&self) -> Result<(usize, PathBuf, Arc<dyn File>, u64)> {
        if let Some(slot) = self.find(Slot::Ready, Slot::Taken) {
            let path = self.path(slot);
            let file = self.disk.open(&path, false)?;
            return Ok((slot, path, file, self.segment_bytes));
        }
        let slot = self
            .find(Slot::Free, Slot::Taken)
            .expect("at most one spare is in the making while a segment begins");
        let path = self.path(slot);
        let file = self.disk.open(&path, true)?;
        match file.allocate(self.segment_bytes) {
            Ok(()) => Ok((slot, path, file, 0)),
            // What is left of the disk may do for a while: the member goes on until a write fails.
            Err(fault) => {
                tracing::warn!(error = %fault, "no space for a whole log segment");
                Ok((slot, path, file, u64::MAX))
            }
        }
    }

    /// Makes a spare in a reserved slot. On failure nothing is left behind.
    pub fn prepare(&self, slot: usize) -> Result<()> {
        let made = self.fill(&self.path(slot));
        if made.is_ok() {
            self.set(slot, Slot::Ready);
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        // What is left of it would only take the space that is missing.
        let removed = self.disk.remove(&self.path(slot));
        self.set(slot, Slot::Free);
        made.and(removed)
    }

    fn fill(&self, path: &Path) -> Result<()> {
        let file = self.disk.open(path, true)?;
        file.allocate(self.segment_bytes)?;
        let zeros = vec![0; FILL_BYTES.min(self.segment_bytes as usize)];
        let mut at = 0;
        while at < self.segment_bytes && !self.cancelled.load(Ordering::Relaxed) {
            let now = zeros.len().min((self.segment_bytes - at) as usize);
            let start = Instant::now();
            file.write_at(&zeros[..now], at)?;
            self.sync(&*file)?;
            at += now as u64;
            thread::sleep(start.elapsed() * FILL_REST);
        }
        Ok(())
    }

    /// Takes segments out of the log, oldest first: the first fitting ones become spares, others go away.
    ///
    /// The new names are durable on return. Only then may a spare be overwritten, or a power cut could leave
    /// the old name on new contents.
    pub fn retire(&self, segments: &[(PathBuf, Arc<dyn File>)]) -> Result<()> {
        let mut kept = Vec::new();
        for (path, file) in segments {
            let fits = file.len()? == self.segment_bytes;
            match fits.then(|| self.find(Slot::Free, Slot::Taken)).flatten() {
                Some(slot) => {
                    self.disk.rename(path, &self.path(slot))?;
                    kept.push(slot);
                }
                None => self.disk.remove(path)?,
            }
        }
        self.sync_dir()?;
        for slot in kept {
            self.set(slot, Slot::Ready);
        }
        Ok(())
    }

    /// Removes the spares, on a clean stop.
    pub fn clear(&self) -> Result<()> {
        while let Some(slot) = self.find(Slot::Ready, Slot::Taken) {
            self.disk.remove(&self.path(slot))?;
            self.release(slot);
        }
        Ok(())
    }

    pub fn sync(&self, file: &dyn File) -> Result<()> {
        if self.no_sync { Ok(()) } else { file.sync() }
    }

    pub fn sync_dir(&self) -> Result<()> {
        match self.no_sync {
            true => Ok(()),
            false => self.disk.sync_dir(&self.dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::sim::SimDisk;

    fn header() -> Header {
        Header {
            sequence: 3,
            first_index: 0x1f,
            cluster_id: 0xcdf8,
            member_id: 0x8e9e,
            group: 77,
            previous_chain: 5,
            last: Some(Position { term: 2, index: 30 }),
        }
    }

    /// What reading says of a file with this name and this first sector.
    fn read(name: &str, sector: &[u8]) -> Result<(Header, u32)> {
        let disk = SimDisk::new(0);
        disk.create_dir(Path::new("/w"))?;
        let path = Path::new("/w").join(name);
        let file = disk.open(&path, true)?;
        file.write_at(sector, 0)?;
        Header::read(&*file, &path)
    }

    #[test]
    fn names_say_sequence_and_first_index() {
        let cases = [
            ("0000000000000003-000000000000001f.wal", Some((3, 0x1f))),
            ("0000000000000003-000000000000001F.wal", None),
            ("+000000000000003-000000000000001f.wal", None),
            ("3-1f.wal", None),
            ("0000000000000003-000000000000001f.tmp", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_name(&Path::new("/w").join(text)), expected, "{text}");
        }
        assert_eq!(name(3, 0x1f), cases[0].0);
    }

    #[test]
    fn header_comes_back() {
        let (sector, seed) = header().encode();
        assert_eq!(read(&name(3, 0x1f), &sector).unwrap(), (header(), seed));
        let later = Header {
            sequence: 4,
            ..header()
        };
        assert_ne!(later.encode().1, seed);
    }

    #[test]
    fn what_is_not_a_segment_of_ours_is_told_apart() {
        let (sound, _) = header().encode();
        let mut newer = sound;
        newer[8] = 2;
        seal_sector(&mut newer, 0, 77, 0);
        let mut flipped = sound;
        flipped[40] ^= 1;
        let ours = name(3, 0x1f);
        let cases = [
            (
                &ours,
                &newer[..],
                format!("/w/{ours} has format version 2, this program knows versions up to 1"),
            ),
            (
                &ours,
                &flipped[..],
                format!("damaged data in /w/{ours} at byte 0: crc mismatch in the header"),
            ),
            (
                &ours,
                &sound[..100],
                format!("damaged data in /w/{ours} at byte 0: crc mismatch in the header"),
            ),
            (
                &ours,
                &[0; 512][..],
                format!("damaged data in /w/{ours} at byte 0: the header is blank"),
            ),
            (
                &ours,
                &[4, 0, 0, 0, 0, 0, 0, 132],
                format!(
                    "/w/{ours} is not a segment of this log; a write-ahead log of etcd itself cannot be taken over"
                ),
            ),
            (
                &name(4, 0x1f),
                &sound[..],
                format!("/w/{} was renamed, its header says {ours}", name(4, 0x1f)),
            ),
        ];
        for (name, sector, expected) in cases {
            assert_eq!(read(name, sector).unwrap_err().to_string(), expected);
        }
    }
}
