//! The tables as one stream of bytes, and back.
//!
//! The stream is what `Maintenance.Snapshot` sends and `snapshot save` keeps. It opens with a magic number
//! and a header, then come the records of all tables in chunks, then a trailer that counts and sums them up,
//! and zeros up to the announced whole number of blocks, so that tools find the SHA-256 behind it by the
//! length alone.
//!
//! ```text
//! magic (8) | frame: header | frame: records | ... | frame: trailer | zeros
//! frame  = payload length (u32 LE) | CRC-32C (u32 LE) of frame number and payload | payload
//! record = table tag (1) | key length (varint) | key | value length (varint) | value
//! ```
//!
//! The small tables are copied at once, at an applied index. Revisions never change once written, so they
//! are streamed up to that point while the machine goes on; a pin keeps compaction from taking them away.

use std::io;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;
use prost::encoding::decode_varint;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;

use crate::error::Fault;
use crate::mvcc::Pin;
use crate::mvcc::Revision;
use crate::mvcc::record;
use crate::proto::kvpb::SnapshotHeader;
use crate::storage;
use crate::storage::Batch;
use crate::storage::Pair;
use crate::storage::Table;
use crate::storage::View;

use super::APPLIED;
use super::MEMBERSHIP;
use super::Machine;

/// The length of a snapshot is a multiple of this.
pub const BLOCK_BYTES: u64 = 512;

/// The length of the SHA-256 that follows a snapshot in a file and on the wire.
pub const DIGEST_BYTES: u64 = 32;

const MAGIC: &[u8; 8] = b"kvsnap\r\n";
const FORMAT: u32 = 1;

const HEADER: u8 = b'H';
const RECORDS: u8 = b'R';
const TRAILER: u8 = b'E';

const FRAME_HEADER_BYTES: usize = 8;
const TRAILER_BYTES: usize = 1 + 8 + 4;

/// A frame is closed by the record that fills it this far.
const FRAME_BYTES: usize = 512 << 10;

/// No frame is longer: a frame holds one record beyond its mark, and no record is this long.
const LONGEST_FRAME: usize = 1 << 30;

/// Bytes that one step reads from the tables, roughly.
const STEP_BYTES: usize = 1 << 20;

/// Records that one step reads at most.
const STEP_RECORDS: usize = 4096;

/// Copied as a whole, in this order, before the revisions.
const SMALL_TABLES: [Table; 6] = [
    Table::Meta,
    Table::Leases,
    Table::Members,
    Table::Alarms,
    Table::Users,
    Table::Roles,
];

/// Returns true if a file of this length ends with a digest.
pub fn has_digest(length: u64) -> bool {
    length % BLOCK_BYTES == DIGEST_BYTES
}

/// What is known of a snapshot once all of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over all records.
    pub hash: u32,
    pub revision: i64,
    /// Live keys.
    pub total_keys: i64,
    /// Bytes without the digest.
    pub size: u64,
    pub version: String,
}

/// Where frames begin and end, the same for measuring and for writing.
#[derive(Clone, Copy, Debug)]
struct Layout {
    closed: u64,
    open: usize,
}

impl Layout {
    fn new(header: usize) -> Layout {
        let closed = MAGIC.len() + FRAME_HEADER_BYTES + header;
        Layout {
            closed: closed as u64,
            open: 0,
        }
    }

    /// Adds a record and returns true if its frame is full.
    fn record(&mut self, bytes: usize) -> bool {
        if self.open == 0 {
            self.open = FRAME_HEADER_BYTES + 1;
        }
        self.open += bytes;
        self.open >= FRAME_BYTES
    }

    fn add(&mut self, (key, value): &Pair) {
        let length = |bytes: &Bytes| encoded_len_varint(bytes.len() as u64) + bytes.len();
        if self.record(1 + length(key) + length(value)) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.closed += self.open as u64;
        self.open = 0;
    }

    /// The length of the whole stream if nothing more comes.
    fn total(&self) -> u64 {
        let end = self.closed + (self.open + FRAME_HEADER_BYTES + TRAILER_BYTES) as u64;
        end.next_multiple_of(BLOCK_BYTES)
    }
}

/// Reads the revisions of the snapshot in order, some at a time.
struct Walk {
    from: Vec<u8>,
    to: Vec<u8>,
    limit: usize,
    done: bool,
}

impl Walk {
    fn new(revision: i64) -> Walk {
        let end = Revision {
            main: revision + 1,
            sub: 0,
        };
        Walk {
            from: Vec::new(),
            to: record::key(end).to_vec(),
            limit: 64,
            done: false,
        }
    }

    fn step(&mut self, view: &dyn View) -> storage::Result<Vec<Pair>> {
        let pairs = view.scan(Table::Revisions, &self.from, Some(&self.to), self.limit)?;
        self.done = pairs.len() < self.limit;
        if let Some((last, _)) = pairs.last() {
            self.from = [last, &[0][..]].concat();
        }
        let bytes: usize = pairs.iter().map(|(_, value)| value.len()).sum();
        self.limit = (STEP_BYTES * pairs.len() / bytes.max(1)).clamp(1, STEP_RECORDS);
        Ok(pairs)
    }
}

enum Stage {
    Header,
    Small,
    Revisions(Walk),
    Done,
}

/// A snapshot on its way out, step by step.
///
/// Begin with the machine held still, go on without it: `begin`, then `measure` until it returns true if the
/// length is wanted in advance, then `next` until it returns `None`.
pub struct Export {
    header: SnapshotHeader,
    small: Vec<(Table, Pair)>,
    _pin: Pin,
    measure: Option<(Walk, Layout)>,
    total: Option<u64>,
    stage: Stage,
    layout: Layout,
    open: BytesMut,
    frames: u64,
    records: u64,
    checksum: u32,
    sent: u64,
}

impl Export {
    /// Takes hold of the state as it is now. `view` shows the tables of `machine`, and nothing is applied
    /// meanwhile.
    pub fn begin(machine: &Machine, view: &dyn View) -> storage::Result<Export> {
        let header = SnapshotHeader {
            applied: machine.applied(),
            state_hash: machine.state_hash(),
            revision: machine.store.revision(),
            compacted: machine.store.compacted(),
            total_keys: machine.store.live_keys() as i64,
            version: machine.storage_version(),
        };
        let mut small = Vec::new();
        for table in SMALL_TABLES {
            let pairs = storage::whole_table(view, table)?.into_iter();
            small.extend(pairs.map(|pair| (table, pair)));
        }
        let layout = Layout::new(1 + 4 + header.encoded_len());
        let mut measured = layout;
        for (_, pair) in &small {
            measured.add(pair);
        }
        Ok(Export {
            // Nothing at all is freed while revisions are counted and then sent.
            _pin: machine.store.pin(0),
            measure: Some((Walk::new(header.revision), measured)),
            total: None,
            stage: Stage::Header,
            header,
            small,
            layout,
            open: BytesMut::new(),
            frames: 0,
            records: 0,
            checksum: 0,
            sent: 0,
        })
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// One step of counting the bytes to come; true when they are counted.
    pub fn measure(&mut self, view: &dyn View) -> storage::Result<bool> {
        let Some((walk, layout)) = &mut self.measure else {
            return Ok(true);
        };
        for pair in walk.step(view)? {
            layout.add(&pair);
        }
        if walk.done {
            self.total = Some(layout.total());
            self.measure = None;
        }
        Ok(self.total.is_some())
    }

    /// The length of the whole stream, once measured.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The bytes still to come, once measured; 0 after the last ones.
    pub fn remaining(&self) -> Option<u64> {
        self.total.map(|total| total - self.sent)
    }

    /// The next bytes of the stream; `None` after the last.
    pub fn next(&mut self, view: &dyn View) -> storage::Result<Option<Bytes>> {
        let mut out = BytesMut::new();
        while out.is_empty() {
            match &mut self.stage {
                Stage::Header => {
                    self.write_header(&mut out);
                    self.stage = Stage::Small;
                }
                Stage::Small => {
                    for (table, pair) in std::mem::take(&mut self.small) {
                        self.write_record(&mut out, table, &pair);
                    }
                    self.stage = Stage::Revisions(Walk::new(self.header.revision));
                }
                Stage::Revisions(walk) => {
                    let pairs = walk.step(view)?;
                    let done = walk.done;
                    for pair in pairs {
                        self.write_record(&mut out, Table::Revisions, &pair);
                    }
                    if done {
                        self.write_end(&mut out);
                        self.stage = Stage::Done;
                    }
                }
                Stage::Done => return Ok(None),
            }
        }
        self.sent += out.len() as u64;
        if self.total.is_some_and(|total| self.sent > total) {
            return Err(Fault::damaged("snapshot", "it is longer than measured"));
        }
        Ok(Some(out.freeze()))
    }

    fn write_header(&mut self, out: &mut BytesMut) {
        out.put_slice(MAGIC);
        let mut payload = BytesMut::with_capacity(1 + 4 + self.header.encoded_len());
        payload.put_u8(HEADER);
        payload.put_u32_le(FORMAT);
        payload.put_slice(&self.header.encode_to_vec());
        self.write_frame(out, &payload);
    }

    fn write_record(&mut self, out: &mut BytesMut, table: Table, pair: &Pair) {
        let (key, value) = pair;
        if self.open.is_empty() {
            self.open.put_u8(RECORDS);
        }
        let start = self.open.len();
        self.open.put_u8(table as u8);
        encode_varint(key.len() as u64, &mut self.open);
        self.open.put_slice(key);
        encode_varint(value.len() as u64, &mut self.open);
        self.open.put_slice(value);
        self.records += 1;
        if self.layout.record(self.open.len() - start) {
            self.close_frame(out);
        }
    }

    fn close_frame(&mut self, out: &mut BytesMut) {
        if self.open.is_empty() {
            return;
        }
        let payload = std::mem::take(&mut self.open);
        self.checksum = crc32c::crc32c_append(self.checksum, &payload[1..]);
        self.write_frame(out, &payload);
        self.layout.close();
    }

    fn write_end(&mut self, out: &mut BytesMut) {
        self.close_frame(out);
        let mut payload = BytesMut::with_capacity(TRAILER_BYTES);
        payload.put_u8(TRAILER);
        payload.put_u64_le(self.records);
        payload.put_u32_le(self.checksum);
        self.write_frame(out, &payload);
        // A record that was reclaimed just before the pin may vanish after it was counted.
        let end = self.sent + out.len() as u64;
        let padded = self
            .total
            .unwrap_or(0)
            .max(end.next_multiple_of(BLOCK_BYTES));
        out.put_bytes(0, (padded - end) as usize);
    }

    fn write_frame(&mut self, out: &mut BytesMut, payload: &[u8]) {
        out.put_u32_le(payload.len() as u32);
        out.put_u32_le(frame_checksum(self.frames, payload));
        out.put_slice(payload);
        self.frames += 1;
    }
}

fn frame_checksum(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

/// A snapshot on its way in: bytes in pieces of any size, batches out. Nothing unverified comes out.
#[derive(Default)]
pub struct Import {
    buffer: BytesMut,
    /// Bytes taken out of the buffer so far.
    position: u64,
    frames: u64,
    records: u64,
    checksum: u32,
    header: Option<SnapshotHeader>,
    ended: bool,
}

impl Import {
    pub fn new() -> Import {
        Import::default()
    }

    /// Takes in more bytes and returns the records they complete, as writes to empty tables.
    pub fn push(&mut self, bytes: &[u8]) -> storage::Result<Batch> {
        self.buffer.extend_from_slice(bytes);
        if self.frames == 0 && self.position == 0 {
            if self.buffer.len() < MAGIC.len() {
                return Ok(Batch::default());
            }
            if self.take(MAGIC.len())[..] != MAGIC[..] {
                return Err(Fault::Refused("not a snapshot".into()));
            }
        }
        let mut batch = Batch::default();
        while !self.ended {
            match self.take_frame()? {
                Some(payload) => self.frame(payload, &mut batch)?,
                None => break,
            }
        }
        if self.ended && self.buffer.iter().any(|byte| *byte != 0) {
            return Err(self.damaged("bytes after the end"));
        }
        Ok(batch)
    }

    /// What the snapshot says of itself, as soon as it is known.
    pub fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// Makes sure that nothing is missing.
    pub fn finish(self) -> storage::Result<Status> {
        let size = self.position + self.buffer.len() as u64;
        let Some(header) = self.header.as_ref().filter(|_| self.ended) else {
            return Err(self.damaged("it ends too early"));
        };
        if !size.is_multiple_of(BLOCK_BYTES) {
            return Err(self.damaged("its length is not a whole number of blocks"));
        }
        Ok(Status {
            hash: self.checksum,
            revision: header.revision,
            total_keys: header.total_keys,
            size,
            version: header.version.clone(),
        })
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.position += length as u64;
        self.buffer.split_to(length).freeze()
    }

    /// The payload of the next frame, or `None` until it is complete.
    fn take_frame(&mut self) -> storage::Result<Option<Bytes>> {
        if self.buffer.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let mut head = &self.buffer[..FRAME_HEADER_BYTES];
        let (length, checksum) = (head.get_u32_le() as usize, head.get_u32_le());
        if length > LONGEST_FRAME {
            return Err(self.damaged("a chunk has an impossible length"));
        }
        if self.buffer.len() < FRAME_HEADER_BYTES + length {
            return Ok(None);
        }
        let payload = self
            .take(FRAME_HEADER_BYTES + length)
            .slice(FRAME_HEADER_BYTES..);
        if frame_checksum(self.frames, &payload) != checksum {
            return Err(self.damaged("a chunk has a wrong checksum"));
        }
        self.frames += 1;
        Ok(Some(payload))
    }

    fn frame(&mut self, mut payload: Bytes, batch: &mut Batch) -> storage::Result<()> {
        let kind = payload.try_get_u8().unwrap_or_default();
        match (kind, self.header.is_some()) {
            (HEADER, false) => self.read_header(payload),
            (RECORDS, true) => self.read_records(payload, batch),
            (TRAILER, true) => self.read_trailer(payload),
            _ => Err(self.damaged("a chunk is out of place")),
        }
    }

    fn read_header(&mut self, mut payload: Bytes) -> storage::Result<()> {
        let format = payload.try_get_u32_le().unwrap_or_default();
        if format > FORMAT {
            let text = format!("snapshot of format {format}: this version reads up to {FORMAT}");
            return Err(Fault::Refused(text));
        }
        let header = SnapshotHeader::decode(payload)
            .map_err(|error| self.damaged(&format!("its header does not decode: {error}")))?;
        self.header = Some(header);
        Ok(())
    }

    fn read_records(&mut self, mut payload: Bytes, batch: &mut Batch) -> storage::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, &payload);
        while payload.has_remaining() {
            let (table, key, value) = read_record(&mut payload)
                .ok_or_else(|| self.damaged("a record does not decode"))?;
            batch.put(table, key, value);
            self.records += 1;
        }
        Ok(())
    }

    fn read_trailer(&mut self, mut payload: Bytes) -> storage::Result<()> {
        let records = payload.try_get_u64_le();
        let checksum = payload.try_get_u32_le();
        if records != Ok(self.records) || checksum != Ok(self.checksum) {
            return Err(self.damaged("its records are not the ones its end counts"));
        }
        self.ended = true;
        Ok(())
    }

    fn damaged(&self, reason: &str) -> Fault {
        Fault::damaged(format!("snapshot before byte {}", self.position), reason)
    }
}

fn read_record(from: &mut Bytes) -> Option<(Table, Bytes, Bytes)> {
    let tag = from.try_get_u8().ok()?;
    let all = SMALL_TABLES.into_iter().chain([Table::Revisions]);
    let table = all.into_iter().find(|table| *table as u8 == tag)?;
    let mut field = || {
        let length = usize::try_from(decode_varint(from).ok()?).ok()?;
        (length <= from.len()).then(|| from.split_to(length))
    };
    Some((table, field()?, field()?))
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Reads a whole snapshot, without its digest, and hands its records to `keep`.
pub fn read(
    source: &mut dyn io::Read,
    keep: &mut dyn FnMut(Batch) -> storage::Result<()>,
) -> Result<Status, ReadError> {
    let mut import = Import::new();
    let mut piece = vec![0; STEP_BYTES];
    loop {
        match source.read(&mut piece)? {
            0 => return Ok(import.finish()?),
            length => {
                let batch = import.push(&piece[..length])?;
                if !batch.is_empty() {
                    keep(batch)?;
                }
            }
        }
    }
}

/// Verifies a whole snapshot, without its digest, and tells what it is.
pub fn status(source: &mut dyn io::Read) -> Result<Status, ReadError> {
    read(source, &mut |_| Ok(()))
}

/// What makes tables that were read from a snapshot the start of a new cluster: its data stay, and who was a
/// member and where its log stood are forgotten. Alarms stay, as in etcd.
pub fn forget_cluster(view: &dyn View) -> storage::Result<Batch> {
    let mut batch = Batch::default();
    for (key, _) in storage::whole_table(view, Table::Members)? {
        batch.delete(Table::Members, key);
    }
    for key in [APPLIED, MEMBERSHIP] {
        batch.delete(Table::Meta, key);
    }
    Ok(batch)
}
