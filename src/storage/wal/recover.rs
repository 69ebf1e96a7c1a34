//! What a log holds when it is opened: sound records, a torn tail to cut, or damage to refuse.
//!
//! Each write of the log is one group, and the next group is written only after the sync of the one before.
//! So after an honest power cut at most the last group is incomplete, and of its sectors any subset may be on
//! disk, with blank sectors or ones of an earlier use of the file in place of the others. A sector is written
//! whole or not at all, and says which group wrote it. With `L` the last complete group, found by following
//! the groups from the header, each sector after it is one of:
//!
//! | sector                              | means                                                | then    |
//! |-------------------------------------|------------------------------------------------------|---------|
//! | blank, or of a group up to `L`      | not written since                                    | fine    |
//! | of group `L+1`                      | part of a write that was never synced                | cut     |
//! | of a group after `L+1`              | `L+1` was synced and is gone                         | damage  |
//! | spoiled, trailer of `L+1` or later  | was written, its bits changed since                  | damage  |
//! | spoiled, trailer of `L` or earlier  | unused, or only the front of a sector was written    | cut     |
//!
//! An incomplete group is dropped whole: its callbacks never ran. What is left of it is blanked durably before
//! `L+1` is written again, so that two attempts at one group never mix. A file that ends early is as if blank
//! from there on. In segments that have a successor nothing may be missing up to the group before the
//! successor's header.
//!
//! So no power cut is refused, and no synced group is dropped if a later one was synced; in the very last
//! group every changed bit is noticed too, and only a sector that was blanked or put back to an earlier
//! content as a whole looks like a torn write.

use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::Index;
use super::Options;
use super::SegmentFile;
use super::Slot;
use super::State;
use super::record::Frames;
use super::record::Place;
use super::record::Record;
use super::record::SECTOR;
use super::record::Sector;
use super::record::body_of;
use super::record::judge;
use super::record::was_written;
use super::segment::Active;
use super::segment::Header;
use super::segment::damaged;
use super::segment::parse_name;
use crate::error::Fault;
use crate::storage::Result;
use crate::storage::disk::Disk;
use crate::storage::disk::File;

/// A log as it was found.
pub struct Found {
    pub cluster_id: u64,
    pub member_id: u64,
    pub state: State,
    pub index: Index,
    pub active: Active,
    pub repaired: bool,
}

/// What a directory holds.
#[derive(Default)]
pub struct Listing {
    /// Segments by ascending sequence.
    segments: Vec<PathBuf>,
    /// Spares and unfinished segments of an earlier run.
    leftovers: Vec<PathBuf>,
    /// Files that have nothing to do with the log.
    pub foreign: Vec<PathBuf>,
}

impl Listing {
    pub fn of(disk: &dyn Disk, dir: &Path) -> Result<Listing> {
        let mut listing = Listing::default();
        for path in disk.list(dir)? {
            let name = path.file_name().and_then(|name| name.to_str());
            match name.unwrap_or_default() {
                "LOCK" => {}
                "0.tmp" | "1.tmp" => listing.leftovers.push(path),
                _ if parse_name(&path).is_some() => listing.segments.push(path),
                name if name.ends_with(".wal") => {
                    // Whatever it is, somebody took it for a part of this log.
                    Header::read(&*disk.open(&path, false)?, &path)?;
                    return Err(Fault::Refused(format!(
                        "{} does not have the name of a log segment",
                        path.display()
                    )));
                }
                _ => listing.foreign.push(path),
            }
        }
        listing.segments.sort_by_key(|path| parse_name(path));
        Ok(listing)
    }

    /// Reads the log without changing anything, then cuts a torn tail and removes what no one needs.
    pub fn recover(&self, disk: &dyn Disk, dir: &Path, options: &Options) -> Result<Option<Found>> {
        let mut files = self.headers(disk, options)?;
        let found = match files.is_empty() {
            true => None,
            false => {
                let stale = stale_front(&files);
                let stale: Vec<_> = files.drain(..stale).collect();
                let (found, erase) = replay(&files, options)?;
                settle(&*found.active.file, &erase, options)?;
                for file in stale {
                    disk.remove(&file.path)?;
                }
                Some(found)
            }
        };
        for path in &self.leftovers {
            disk.remove(path)?;
        }
        if !options.no_sync {
            disk.sync_dir(dir)?;
        }
        Ok(found)
    }

    fn headers(&self, disk: &dyn Disk, options: &Options) -> Result<Vec<Segment>> {
        let mut files: Vec<Segment> = Vec::new();
        for path in &self.segments {
            let file = disk.open(path, false)?;
            let (header, seed) = Header::read(&*file, path)?;
            check_identity(path, "cluster", header.cluster_id, options.cluster_id)?;
            check_identity(path, "member", header.member_id, options.member_id)?;
            if let Some(before) = files.last() {
                let before = &before.header;
                check_identity(path, "cluster", header.cluster_id, before.cluster_id)?;
                check_identity(path, "member", header.member_id, before.member_id)?;
            }
            files.push(Segment {
                path: path.clone(),
                file,
                header,
                seed,
            });
        }
        Ok(files)
    }
}

struct Segment {
    path: PathBuf,
    file: Arc<dyn File>,
    header: Header,
    seed: u32,
}

fn check_identity(path: &Path, what: &str, found: u64, expected: u64) -> Result<()> {
    if found == expected || found == 0 || expected == 0 {
        return Ok(());
    }
    Err(Fault::Refused(format!(
        "{} belongs to {what} {found:x}, not to {expected:x}",
        path.display()
    )))
}

/// How many segments at the front are followed by a gap. They were purged, and a power cut brought them back.
fn stale_front(files: &[Segment]) -> usize {
    let gap = files
        .windows(2)
        .rposition(|pair| pair[0].header.sequence + 1 != pair[1].header.sequence);
    gap.map_or(0, |at| at + 1)
}

/// Overwrites what is left of a torn group, and makes the rest durable: after a process was killed the last
/// group may be complete in memory and not on disk, and nobody may rely on it before it is.
fn settle(file: &dyn File, torn: &[u64], options: &Options) -> Result<()> {
    for at in torn {
        file.write_at(&[0; SECTOR], *at)?;
    }
    if options.no_sync {
        return Ok(());
    }
    file.sync()
}

/// Reads all segments; returns the log and the offsets of the sectors to blank in the last one.
fn replay(files: &[Segment], options: &Options) -> Result<(Found, Vec<u64>)> {
    let mut replay = Replay::default();
    replay.state.last = files[0].header.last;
    let mut end = End::default();
    for (i, segment) in files.iter().enumerate() {
        let header = &segment.header;
        let follows = i == 0 || (end.group + 1, end.chain) == (header.group, header.previous_chain);
        if !follows || header.last != replay.state.last {
            let reason = "the header does not continue the segment before";
            return Err(damaged(&segment.path, 0, reason));
        }
        replay.begin(segment);
        let successor = files.get(i + 1).map(|next| &next.header);
        end = scan(segment, successor, &mut |record, place| {
            replay.apply(record, place, &segment.path)
        })?;
    }
    replay.check_complete(&files[0])?;

    let last = files.last().expect("there is a segment");
    let found = Found {
        cluster_id: last.header.cluster_id.max(options.cluster_id),
        member_id: last.header.member_id.max(options.member_id),
        state: replay.state,
        index: replay.index,
        active: Active {
            sequence: last.header.sequence,
            path: last.path.clone(),
            file: last.file.clone(),
            end: end.offset,
            start: SECTOR as u64,
            filled: end.offset,
            group: end.group,
            chain: end.chain,
        },
        repaired: end.torn,
    };
    Ok((found, end.erase))
}

/// The log while its records are read one after the other.
#[derive(Default)]
struct Replay {
    state: State,
    index: Index,
}

impl Replay {
    fn begin(&mut self, segment: &Segment) {
        self.index.files.push_back(SegmentFile {
            sequence: segment.header.sequence,
            path: segment.path.clone(),
            file: segment.file.clone(),
            highest: None,
        });
    }

    fn apply(&mut self, record: Record, place: Place, path: &Path) -> Result<()> {
        if let Record::Entry(entry) = &record {
            if let Some(last) = self.state.last
                && entry.index != last.index + 1
            {
                let reason = format!("entry {} follows entry {}", entry.index, last.index);
                return Err(damaged(path, place.offset, reason));
            }
            let file = self.index.files.back().expect("a segment was begun");
            let slot = Slot::new(file.sequence, place);
            self.index.push(entry.index, slot);
        }
        self.state.note(&record);
        self.index.follow(&record);
        Ok(())
    }

    /// Every entry between the purge point and the last one must be there.
    fn check_complete(&self, first: &Segment) -> Result<()> {
        let Some(last) = self.state.last else {
            return Ok(());
        };
        let have_from = match self.index.places.is_empty() {
            true => last.index + 1,
            false => self.index.first,
        };
        let need_from = match (self.state.purged, first.header.last) {
            (Some(purged), _) => purged.index + 1,
            (None, Some(_)) => 0,
            (None, None) => have_from,
        };
        if have_from <= need_from {
            return Ok(());
        }
        let reason = format!(
            "entries {need_from} to {} are missing, the segment before is gone",
            have_from - 1
        );
        Err(damaged(&first.path, 0, reason))
    }
}

/// Where the sound part of a segment ends.
#[derive(Default)]
struct End {
    offset: u64,
    group: u64,
    chain: u32,
    /// Something of a torn group was found.
    torn: bool,
    /// Offsets of its sectors.
    erase: Vec<u64>,
}

type Visit<'a> = &'a mut dyn FnMut(Record, Place) -> Result<()>;

/// Reads the groups of a segment, up to the header of its successor or to the end of the log.
fn scan(segment: &Segment, successor: Option<&Header>, visit: Visit<'_>) -> Result<End> {
    let mut window = Window::over(&*segment.file)?;
    let mut end = End {
        offset: SECTOR as u64,
        group: segment.header.group,
        chain: segment.seed,
        ..End::default()
    };
    while successor.is_none_or(|next| end.group + 1 < next.group) {
        let Some(sectors) = whole_group(&mut window, end.offset, end.group + 1)? else {
            break;
        };
        let mut body = Vec::new();
        body_of(sectors, &mut body);
        let mut frames = Frames::new(Bytes::from(body), end.offset, end.chain);
        while let Some(frame) = frames.next() {
            let (record, place) = frame
                .map_err(|_| damaged(&segment.path, frames.offset(), "crc mismatch in a record"))?;
            visit(record, place)?;
        }
        end.offset += sectors.len() as u64;
        end.group += 1;
        end.chain = frames.chain;
    }
    match successor {
        Some(next) if end.group + 1 < next.group => Err(first_bad(segment, &mut window, &end)?),
        Some(_) => Ok(end),
        None => tail(segment, &mut window, end),
    }
}

/// The sectors of a group, if all of them are there and sound.
fn whole_group<'a>(
    window: &'a mut Window<'_>,
    offset: u64,
    number: u64,
) -> Result<Option<&'a [u8]>> {
    let place = offset / SECTOR as u64;
    let first = judge(window.get(offset, SECTOR)?, place);
    let following = match first {
        Sector::Written { group, following } if group == number => following,
        _ => return Ok(None),
    };
    let sectors = window.get(offset, (following as usize + 1) * SECTOR)?;
    let mut left = u64::from(following) + 1;
    for (i, sector) in sectors.chunks(SECTOR).enumerate() {
        left -= 1;
        let expected = Sector::Written {
            group: number,
            following: left as u32,
        };
        if judge(sector, place + i as u64) != expected {
            return Ok(None);
        }
    }
    Ok((left == 0).then_some(sectors))
}

/// Judges everything after the last complete group, by the table at the head of this file.
fn tail(segment: &Segment, window: &mut Window<'_>, mut end: End) -> Result<End> {
    let expected = end.group + 1;
    let mut at = end.offset;
    while at < window.len {
        let sector = window.get(at, SECTOR)?;
        let place = at / SECTOR as u64;
        match judge(sector, place) {
            Sector::Blank => {}
            Sector::Written { group, .. } if group < expected => {}
            Sector::Written { group, .. } if group == expected => end.erase.push(at),
            Sector::Written { .. } => return Err(first_bad(segment, window, &end)?),
            Sector::Spoiled if was_written(sector, place, expected) => {
                return Err(damaged(&segment.path, at, "crc mismatch"));
            }
            Sector::Spoiled => end.erase.push(at),
        }
        at += SECTOR as u64;
    }
    end.torn = !end.erase.is_empty();
    Ok(end)
}

/// Names the place where a group is incomplete that must not be.
fn first_bad(segment: &Segment, window: &mut Window<'_>, end: &End) -> Result<Fault> {
    let number = end.group + 1;
    let mut at = end.offset;
    loop {
        let place = at / SECTOR as u64;
        match judge(window.get(at, SECTOR)?, place) {
            Sector::Written { group, following } if group == number && following > 0 => {
                at += SECTOR as u64;
            }
            Sector::Spoiled => return Ok(damaged(&segment.path, at, "crc mismatch")),
            _ => {
                let reason = "records are missing here, though later ones were written";
                return Ok(damaged(&segment.path, at, reason));
            }
        }
    }
}

/// A file read in large pieces, from front to back.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

const WINDOW_BYTES: usize = 1 << 20;

impl<'a> Window<'a> {
    fn over(file: &'a dyn File) -> Result<Window<'a>> {
        Ok(Window {
            file,
            len: file.len()?,
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// Bytes from `offset` on; fewer than `wanted` if the file ends.
    fn get(&mut self, offset: u64, wanted: usize) -> Result<&[u8]> {
        let wanted = wanted.min(self.len.saturating_sub(offset) as usize);
        let inside =
            offset >= self.start && offset + wanted as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let left = self.len.saturating_sub(offset) as usize;
            self.bytes.resize(wanted.max(WINDOW_BYTES.min(left)), 0);
            let found = self.file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(found);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        let to = (from + wanted).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }
}

/// Removes and returns the files of the front that hold no entry after `purged`, never the last file.
pub fn droppable(files: &mut VecDeque<SegmentFile>, purged: u64) -> Vec<SegmentFile> {
    let mut gone = Vec::new();
    while files.len() > 1
        && files
            .front()
            .is_some_and(|file| file.highest.is_none_or(|highest| highest <= purged))
    {
        gone.extend(files.pop_front());
    }
    gone
}
