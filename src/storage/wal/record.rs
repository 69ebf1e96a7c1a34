//! The bytes of the log: records in frames, frames in sectors, sectors in groups.
//!
//! A *group* is what one write and one sync put on disk: whole sectors, numbered without a gap over the life
//! of the log. A sector of 512 bytes carries 496 bytes of the group's body and a trailer:
//!
//! ```text
//! body 496 | group u64 | sectors of the group that follow u32 | crc32c u32
//! ```
//!
//! The checksum starts from the sector's number in its file, so that each sector can be judged alone: blank,
//! written by this or that group, or spoiled. That is what tells a torn write from damage (see `recover.rs`).
//!
//! The body is a sequence of *frames*, the rest of it zero:
//!
//! ```text
//! payload length u32 | kind u8 | flags u8 | 0 u16 | crc32c u32 | payload, padded to 8
//! ```
//!
//! The checksum of a frame continues the one of the frame before it, from a seed that no other use of any
//! segment has (see `segment.rs`). All numbers are little endian.

use bytes::Bytes;

use super::Entry;
use super::Position;

/// The unit that a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// What of a sector belongs to the body of its group.
pub const BODY: usize = SECTOR - TRAILER;
const TRAILER: usize = 16;
/// Length of a frame's head.
pub const HEAD: usize = 12;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;

/// One step of the log's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry(Entry),
    Vote(Bytes),
    Committed(Bytes),
    /// Entries after this one were removed; all of them if `None`.
    Truncate(Option<Position>),
    /// Entries up to this one were removed.
    Purge(Position),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Entry(_) => ENTRY,
            Record::Vote(_) => VOTE,
            Record::Committed(_) => COMMITTED,
            Record::Truncate(_) => TRUNCATE,
            Record::Purge(_) => PURGE,
        }
    }

    /// The payload: some numbers, then bytes.
    fn payload(&self) -> (Fixed, &[u8]) {
        match self {
            Record::Entry(entry) => (Fixed::two(entry.index, entry.term), &entry.data),
            Record::Vote(bytes) | Record::Committed(bytes) => (Fixed::default(), bytes),
            Record::Truncate(None) => (Fixed::default(), &[]),
            Record::Truncate(Some(last)) => (Fixed::two(last.index, last.term), &[]),
            Record::Purge(upto) => (Fixed::two(upto.index, upto.term), &[]),
        }
    }

    fn payload_len(&self) -> usize {
        let (fixed, bytes) = self.payload();
        fixed.as_slice().len() + bytes.len()
    }

    fn decode(kind: u8, payload: Bytes) -> Option<Record> {
        let position = |payload: &Bytes| {
            let (index, term) = two(payload)?;
            (payload.len() == 16).then_some(Position { term, index })
        };
        Some(match kind {
            ENTRY => {
                let (index, term) = two(&payload)?;
                Record::Entry(Entry {
                    index,
                    term,
                    data: payload.slice(16..),
                })
            }
            VOTE => Record::Vote(payload),
            COMMITTED => Record::Committed(payload),
            TRUNCATE if payload.is_empty() => Record::Truncate(None),
            TRUNCATE => Record::Truncate(Some(position(&payload)?)),
            PURGE => Record::Purge(position(&payload)?),
            _ => return None,
        })
    }
}

/// Up to two numbers at the start of a payload.
#[derive(Default)]
struct Fixed {
    bytes: [u8; 16],
    len: usize,
}

impl Fixed {
    fn two(first: u64, second: u64) -> Fixed {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&second.to_le_bytes());
        Fixed { bytes, len: 16 }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn two(payload: &[u8]) -> Option<(u64, u64)> {
    let (first, rest) = payload.split_first_chunk()?;
    let (second, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*first), u64::from_le_bytes(*second)))
}

/// Where a frame stands and what it takes to check it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Byte offset of the frame in its file.
    pub offset: u64,
    /// Length of its payload.
    pub len: u32,
    /// Checksum of the frame before it.
    pub chain: u32,
}

/// Length of a frame in the body of its group.
pub fn frame_len(payload: usize) -> usize {
    (HEAD + payload).next_multiple_of(8)
}

/// Bytes in the file from `offset`, the start of a frame, to its end, trailers in between included.
pub fn span(offset: u64, payload: usize) -> usize {
    let before = offset as usize % SECTOR;
    let body = before + frame_len(payload);
    body + (body.div_ceil(BODY) - 1) * TRAILER - before
}

/// Collects frames for one write, in one buffer that is used again for the next.
pub struct Group {
    /// Body and room for trailers; never ends inside a trailer.
    bytes: Vec<u8>,
    chain: u32,
    /// File offset of the first sector.
    start: u64,
    frames: usize,
}

impl Group {
    pub fn new() -> Group {
        Group {
            bytes: Vec::new(),
            chain: 0,
            start: 0,
            frames: 0,
        }
    }

    /// Empties the group; it will be written at `start`, after a frame with checksum `chain`.
    pub fn begin(&mut self, start: u64, chain: u32) {
        debug_assert_eq!(start % SECTOR as u64, 0);
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.start = start;
        self.chain = chain;
        self.frames = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes on disk if it were sealed now.
    pub fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(SECTOR)
    }

    /// Bytes on disk if it were sealed after `record`.
    pub fn len_with(&self, record: &Record) -> usize {
        let body = self.bytes.len() - self.bytes.len() / SECTOR * TRAILER;
        (body + frame_len(record.payload_len())).div_ceil(BODY) * SECTOR
    }

    /// Adds a frame and returns its place.
    pub fn push(&mut self, record: &Record) -> Place {
        let (fixed, bytes) = record.payload();
        let len = fixed.as_slice().len() + bytes.len();
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(len as u32).to_le_bytes());
        head[4] = record.kind();
        let crc = crc32c::crc32c_append(self.chain, &head[..8]);
        let crc = crc32c::crc32c_append(crc, fixed.as_slice());
        let crc = crc32c::crc32c_append(crc, bytes);
        head[8..].copy_from_slice(&crc.to_le_bytes());

        let place = Place {
            offset: self.start + self.position() as u64,
            len: len as u32,
            chain: self.chain,
        };
        self.put(&head);
        self.put(fixed.as_slice());
        self.put(bytes);
        self.put(&[0; 8][..frame_len(len) - HEAD - len]);
        self.chain = crc;
        self.frames += 1;
        place
    }

    /// Where the next byte goes.
    fn position(&self) -> usize {
        match self.bytes.len() % SECTOR {
            BODY => self.bytes.len() + TRAILER,
            _ => self.bytes.len(),
        }
    }

    fn put(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let position = self.position();
            self.bytes.resize(position, 0);
            let room = BODY - position % SECTOR;
            let (now, later) = part.split_at(room.min(part.len()));
            self.bytes.extend_from_slice(now);
            part = later;
        }
    }

    /// Writes the trailers and returns the bytes to put on disk, and the checksum of the last frame.
    pub fn seal(&mut self, number: u64) -> (&[u8], u32) {
        self.bytes.resize(self.len(), 0);
        let first = self.start / SECTOR as u64;
        let count = self.bytes.len() / SECTOR;
        for (i, sector) in self.bytes.chunks_exact_mut(SECTOR).enumerate() {
            seal_sector(sector, first + i as u64, number, (count - 1 - i) as u32);
        }
        (&self.bytes, self.chain)
    }
}

/// Capacity a group's buffer keeps between writes.
const KEEP: usize = 1 << 20;

/// Fills in the trailer of a sector.
pub fn seal_sector(sector: &mut [u8], place: u64, group: u64, following: u32) {
    sector[BODY..BODY + 8].copy_from_slice(&group.to_le_bytes());
    sector[BODY + 8..BODY + 12].copy_from_slice(&following.to_le_bytes());
    let crc = sector_crc(sector, place, group);
    sector[BODY + 12..].copy_from_slice(&crc.to_le_bytes());
}

fn sector_crc(sector: &[u8], place: u64, group: u64) -> u32 {
    let crc = crc32c::crc32c_append(place as u32, &sector[..BODY]);
    let crc = crc32c::crc32c_append(crc, &group.to_le_bytes());
    crc32c::crc32c_append(crc, &sector[BODY + 8..BODY + 12])
}

/// What a sector on disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// All zero: nothing was ever written.
    Blank,
    /// As some group wrote it; so many sectors of that group follow.
    Written { group: u64, following: u32 },
    /// Anything else.
    Spoiled,
}

const BLANK: [u8; SECTOR] = [0; SECTOR];

/// Judges a sector, the `place`-th of its file. A short one is spoiled unless it is blank.
pub fn judge(sector: &[u8], place: u64) -> Sector {
    if sector == &BLANK[..sector.len()] {
        return Sector::Blank;
    }
    if sector.len() < SECTOR {
        return Sector::Spoiled;
    }
    let group = trailer_group(sector);
    match sector_crc(sector, place, group) == trailer_crc(sector) {
        true => Sector::Written {
            group,
            following: u32::from_le_bytes(sector[BODY + 8..BODY + 12].try_into().expect("4 bytes")),
        },
        false => Sector::Spoiled,
    }
}

/// True if a spoiled sector shows that `group` or a later one was written here and damaged since. False if
/// its trailer is of an earlier group, so that at most the front of a sector of `group` ever reached the disk.
pub fn was_written(sector: &[u8], place: u64, group: u64) -> bool {
    sector.len() == SECTOR
        && (trailer_group(sector) >= group
            || sector_crc(sector, place, group) == trailer_crc(sector))
}

fn trailer_group(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[BODY..BODY + 8].try_into().expect("8 bytes"))
}

fn trailer_crc(sector: &[u8]) -> u32 {
    u32::from_le_bytes(sector[BODY + 12..SECTOR].try_into().expect("4 bytes"))
}

/// Takes the body out of whole sectors.
pub fn body_of(sectors: &[u8], body: &mut Vec<u8>) {
    body.clear();
    for sector in sectors.chunks_exact(SECTOR) {
        body.extend_from_slice(&sector[..BODY]);
    }
}

/// Takes the body out of a piece of a file that starts at `offset`, inside the body of a sector.
pub fn strip(piece: &[u8], offset: u64) -> Bytes {
    let mut body = Vec::with_capacity(piece.len());
    let mut rest = piece;
    let mut room = BODY - offset as usize % SECTOR;
    while !rest.is_empty() {
        body.extend_from_slice(&rest[..room.min(rest.len())]);
        rest = rest.get(room + TRAILER..).unwrap_or_default();
        room = BODY;
    }
    Bytes::from(body)
}

/// Reads the frames of a group's body one after the other.
pub struct Frames {
    body: Bytes,
    at: usize,
    start: u64,
    pub chain: u32,
}

impl Frames {
    /// `start` is the file offset of the group, `chain` the checksum of the last frame before it.
    pub fn new(body: Bytes, start: u64, chain: u32) -> Frames {
        Frames {
            body,
            at: 0,
            start,
            chain,
        }
    }

    /// File offset of the next frame.
    pub fn offset(&self) -> u64 {
        self.start + (self.at / BODY * SECTOR + self.at % BODY) as u64
    }
}

impl Iterator for Frames {
    type Item = Result<(Record, Place), BadFrame>;

    /// The next record and its place; `None` at the end; an error if the bytes are not a frame that
    /// continues the chain.
    fn next(&mut self) -> Option<Result<(Record, Place), BadFrame>> {
        let rest = &self.body[self.at..];
        if rest.iter().take(HEAD).all(|byte| *byte == 0) {
            return None;
        }
        let place = Place {
            offset: self.offset(),
            len: rest.first_chunk().map_or(0, |len| u32::from_le_bytes(*len)),
            chain: self.chain,
        };
        let decoded = decode_frame(&self.body.slice(self.at..), place.chain);
        Some(decoded.map(|(record, chain)| {
            self.at += frame_len(place.len as usize);
            self.chain = chain;
            (record, place)
        }))
    }
}

/// Bytes that are not the frame that should stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// Decodes the frame at the start of `bytes`, which follows one with checksum `chain`. Returns its own.
pub fn decode_frame(bytes: &Bytes, chain: u32) -> Result<(Record, u32), BadFrame> {
    let head: &[u8; HEAD] = bytes.first_chunk().ok_or(BadFrame)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let crc = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if bytes.len() < frame_len(len) {
        return Err(BadFrame);
    }
    let payload = bytes.slice(HEAD..HEAD + len);
    let found = crc32c::crc32c_append(chain, &head[..8]);
    if crc32c::crc32c_append(found, &payload) != crc {
        return Err(BadFrame);
    }
    let record = Record::decode(head[4], payload).ok_or(BadFrame)?;
    Ok((record, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let entry = |index, len: usize| {
            Record::Entry(Entry {
                index,
                term: 3,
                data: Bytes::from(vec![index as u8; len]),
            })
        };
        vec![
            Record::Vote(Bytes::from_static(b"candidate 7 of term 3")),
            entry(1, 0),
            entry(2, 1),
            entry(3, 467),
            entry(4, 468),
            entry(5, 496),
            entry(6, 5000),
            Record::Truncate(Some(Position { term: 2, index: 4 })),
            Record::Truncate(None),
            Record::Purge(Position { term: 1, index: 3 }),
            Record::Committed(Bytes::new()),
        ]
    }

    #[test]
    fn records_come_back_from_a_group_and_alone() {
        let mut group = Group::new();
        group.begin(1536, 77);
        let mut places = Vec::new();
        for record in records() {
            let expected = group.len_with(&record);
            places.push(group.push(&record));
            assert_eq!(group.len(), expected);
        }
        let (bytes, chain) = group.seal(9);
        let mut file = vec![0; 1536];
        file.extend_from_slice(bytes);

        let mut body = Vec::new();
        body_of(bytes, &mut body);
        let mut frames = Frames::new(Bytes::from(body), 1536, 77);
        for (record, place) in records().into_iter().zip(&places) {
            assert_eq!(frames.next(), Some(Ok((record.clone(), *place))));
            let from = place.offset as usize;
            let alone = &file[from..from + span(place.offset, place.len as usize)];
            let alone = strip(alone, place.offset);
            assert_eq!(decode_frame(&alone, place.chain).unwrap().0, record);
        }
        assert_eq!(frames.next(), None);
        assert_eq!(frames.chain, chain);
    }

    #[test]
    fn sectors_are_judged_alone() {
        let mut group = Group::new();
        group.begin(512, 0);
        for record in records() {
            group.push(&record);
        }
        let bytes = group.seal(41).0.to_vec();
        let count = bytes.len() / SECTOR;
        for (i, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let written = Sector::Written {
                group: 41,
                following: (count - 1 - i) as u32,
            };
            assert_eq!(judge(sector, i as u64 + 1), written);
            assert_eq!(judge(sector, i as u64 + 2), Sector::Spoiled, "misplaced");
        }
        assert_eq!(judge(&[0; SECTOR], 4), Sector::Blank);
        assert_eq!(judge(&bytes[..100], 1), Sector::Spoiled, "short");
        assert_eq!(judge(&[], 9), Sector::Blank);
    }

    #[test]
    fn every_flipped_bit_of_a_sector_shows() {
        let mut group = Group::new();
        group.begin(512, 0);
        group.push(&records()[0]);
        let sector = group.seal(41).0.to_vec();
        for bit in 0..SECTOR * 8 {
            let mut flipped = sector.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(judge(&flipped, 1), Sector::Spoiled, "bit {bit}");
            assert!(was_written(&flipped, 1, 41), "bit {bit}");
            assert!(!was_written(&flipped[..300], 1, 41), "cut short");
        }
        let mut front = sector[..300].to_vec();
        front.resize(SECTOR, 0);
        assert!(!was_written(&front, 1, 41), "only the front was written");
    }
}
