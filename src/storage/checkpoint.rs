//! One file beside the engine that saves a start from reading every record: a header, then blocks.
//!
//! What is in the blocks is for others to say. The file is written under another name and renamed when
//! it is whole and durable, so there is the old one or the new one. Each frame's checksum continues that of
//! the frame before, so none can be missing, doubled or moved.
//!
//! ```text
//! header   "kv-index" | format u32 | cluster u64 | member u64 | engine u64 | applied u64 | CRC32C
//! block    length u32 | bytes | CRC32C
//! end      a block of length 0, and nothing behind it
//! ```

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Result;
use super::disk::Disk;
use super::disk::File;
use crate::error::Fault;

const FILE: &str = "index";
const UNFINISHED: &str = "index.tmp";

const MAGIC: &[u8; 8] = b"kv-index";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 48;

/// Longer blocks are not written, and not believed.
const BLOCK_LIMIT: usize = 64 << 20;

/// Bytes written between two syncs.
const SYNC_BYTES: u64 = 4 << 20;

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// What a checkpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster_id: u64,
    pub member_id: u64,
    /// See [`Tables::id`](super::buffer::Tables::id).
    pub engine: u64,
}

fn header(owner: Owner, applied: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let numbers = [owner.cluster_id, owner.member_id, owner.engine, applied];
    for (place, number) in header[12..44].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let sum = crc32c::crc32c(&header[..44]);
    header[44..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// The checksum of a block that follows a frame with the checksum `chain`.
fn checksum(chain: u32, block: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(chain, &(block.len() as u32).to_le_bytes());
    crc32c::crc32c_append(sum, block)
}

/// A checkpoint that is being written.
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn File>,
    offset: u64,
    synced: u64,
    chain: u32,
}

impl Writer {
    /// Begins a checkpoint in `dir` for what was applied up to log index `applied`.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, owner: Owner, applied: u64) -> Result<Writer> {
        let file = disk.open(&dir.join(UNFINISHED), true)?;
        file.set_len(0)?;
        let header = header(owner, applied);
        file.write_at(&header, 0)?;
        Ok(Writer {
            disk,
            dir: dir.to_path_buf(),
            file,
            offset: HEADER_BYTES as u64,
            synced: 0,
            chain: crc32c::crc32c(&header),
        })
    }

    /// Adds a block, which is not empty.
    pub fn append(&mut self, block: &[u8]) -> Result<()> {
        assert!((1..=BLOCK_LIMIT).contains(&block.len()), "a block's size");
        self.frame(block)
    }

    fn frame(&mut self, block: &[u8]) -> Result<()> {
        self.chain = checksum(self.chain, block);
        let length = (block.len() as u32).to_le_bytes();
        let frame = [&length[..], block, &self.chain.to_le_bytes()].concat();
        self.file.write_at(&frame, self.offset)?;
        self.offset += frame.len() as u64;
        // A single sync of everything would hold up the log's.
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Makes the checkpoint the one that a start reads. Returns its size.
    ///
    /// The engine must hold what was applied up to its index durably by now.
    pub fn publish(mut self) -> Result<u64> {
        self.frame(&[])?;
        self.file.sync()?;
        let (from, to) = (self.dir.join(UNFINISHED), self.dir.join(FILE));
        self.disk.rename(&from, &to)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(self.offset)
    }

    /// Gives up.
    pub fn abandon(self) {
        // What stays behind is overwritten by the next one.
        let _ = self.disk.remove(&self.dir.join(UNFINISHED));
    }
}

/// A checkpoint that is being read.
pub struct Reader {
    path: PathBuf,
    file: Arc<dyn File>,
    length: u64,
    applied: u64,
    chain: u32,
    window: Vec<u8>,
    /// Where the rest of the window begins in it, and where the window ends in the file.
    at: usize,
    offset: u64,
    ended: bool,
}

impl Reader {
    /// Opens the checkpoint in `dir`, if there is one.
    ///
    /// One that is damaged or belongs to something else is damage; a newer format is refused.
    pub fn open(disk: &dyn Disk, dir: &Path, owner: Owner) -> Result<Option<Reader>> {
        let path = dir.join(FILE);
        if !exists(disk, dir)? {
            return Ok(None);
        }
        let file = disk.open(&path, false)?;
        let mut found = [0; HEADER_BYTES];
        let whole = file.read_at(&mut found, 0)? == HEADER_BYTES;
        let sum = crc32c::crc32c(&found[..44]).to_le_bytes();
        if !whole || &found[..8] != MAGIC || found[44..] != sum {
            return Err(damaged(&path, "bad header"));
        }
        let format = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
        if format > FORMAT {
            return Err(Fault::Refused(format!(
                "{} has format {format}, newer than {FORMAT}, the newest known here",
                path.display()
            )));
        }
        let (numbers, _) = found[12..44].as_chunks::<8>();
        let applied = u64::from_le_bytes(numbers[3]);
        if found != header(owner, applied) {
            return Err(damaged(&path, "it belongs to another store"));
        }
        Ok(Some(Reader {
            length: file.len()?,
            path,
            file,
            applied,
            chain: crc32c::crc32c(&found),
            window: Vec::new(),
            at: 0,
            offset: HEADER_BYTES as u64,
            ended: false,
        }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log index of the last entry that it may know of.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Returns the next block; `None` after the last one.
    pub fn block(&mut self) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length > BLOCK_LIMIT || length as u64 > self.length {
            return Err(self.damaged());
        }
        self.fill(length + 4)?;
        let block = self.window[self.at..self.at + length].to_vec();
        self.at += length;
        self.chain = checksum(self.chain, &block);
        if u32::from_le_bytes(self.take()?) != self.chain {
            return Err(self.damaged());
        }
        if length > 0 {
            return Ok(Some(block));
        }
        self.ended = true;
        match self.at == self.window.len() && self.offset == self.length {
            true => Ok(None),
            false => Err(self.damaged()),
        }
    }

    fn take(&mut self) -> Result<[u8; 4]> {
        self.fill(4)?;
        let mut taken = [0; 4];
        taken.copy_from_slice(&self.window[self.at..self.at + 4]);
        self.at += 4;
        Ok(taken)
    }

    /// Makes the window hold at least `length` more bytes.
    fn fill(&mut self, length: usize) -> Result<()> {
        if self.window.len() - self.at >= length {
            return Ok(());
        }
        self.window.drain(..self.at);
        self.at = 0;
        let rest = self.window.len();
        self.window.resize(rest + length.max(WINDOW), 0);
        let read = self.file.read_at(&mut self.window[rest..], self.offset)?;
        self.window.truncate(rest + read);
        self.offset += read as u64;
        match self.window.len() >= length {
            true => Ok(()),
            false => Err(damaged(&self.path, "it is cut off")),
        }
    }

    fn damaged(&self) -> Fault {
        let at = self.offset - (self.window.len() - self.at) as u64;
        damaged(&self.path, &format!("bad block before offset {at}"))
    }
}

/// Returns true if there is a checkpoint in `dir`, sound or not.
pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    Ok(disk.list(dir)?.contains(&dir.join(FILE)))
}

/// Removes the checkpoint in `dir` for good, so that no later start takes it.
pub fn discard(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for path in disk.list(dir)? {
        if path == dir.join(FILE) || path == dir.join(UNFINISHED) {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)
}

fn damaged(path: &Path, reason: &str) -> Fault {
    Fault::damaged(path.display().to_string(), reason)
}

#[cfg(test)]
mod tests {
    use super::super::disk::sim::SimDisk;
    use super::*;

    const OWNER: Owner = Owner {
        cluster_id: 1,
        member_id: 2,
        engine: 3,
    };

    fn written(blocks: &[Vec<u8>]) -> (Arc<dyn Disk>, PathBuf) {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let dir = PathBuf::from("/snap");
        disk.create_dir(&dir).expect("a directory");
        let mut writer = Writer::create(disk.clone(), &dir, OWNER, 77).expect("a file");
        for block in blocks {
            writer.append(block).expect("written");
        }
        writer.publish().expect("published");
        (disk, dir)
    }

    fn read(disk: &dyn Disk, dir: &Path, owner: Owner) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(mut reader) = Reader::open(disk, dir, owner)? else {
            return Ok(None);
        };
        assert_eq!(reader.applied(), 77);
        let mut blocks = Vec::new();
        while let Some(block) = reader.block()? {
            blocks.push(block);
        }
        Ok(Some(blocks))
    }

    fn blocks() -> Vec<Vec<u8>> {
        vec![vec![1; 10], vec![2; 300], vec![3]]
    }

    #[test]
    fn what_was_written_is_read_back() {
        let many: Vec<_> = (0..100).map(|i| vec![i as u8; 40_000]).collect();
        for blocks in [blocks(), many, Vec::new()] {
            let (disk, dir) = written(&blocks);
            assert_eq!(read(&*disk, &dir, OWNER).expect("sound"), Some(blocks));
            discard(&*disk, &dir).expect("removed");
            assert_eq!(read(&*disk, &dir, OWNER).expect("nothing"), None);
        }
    }

    #[test]
    fn an_unfinished_one_is_none() {
        let (disk, dir) = written(&blocks());
        let mut writer = Writer::create(disk.clone(), &dir, OWNER, 99).expect("a file");
        writer.append(b"new").expect("written");
        drop(writer);
        assert_eq!(read(&*disk, &dir, OWNER).expect("sound"), Some(blocks()));
    }

    #[test]
    fn no_wrong_byte_and_no_missing_one_passes() {
        let (disk, dir) = written(&blocks());
        let file = disk.open(&dir.join(FILE), false).expect("the file");
        let mut sound = vec![0; file.len().expect("a length") as usize];
        file.read_at(&mut sound, 0).expect("read");
        for at in 0..sound.len() {
            file.write_at(&[sound[at] ^ 0x10], at as u64)
                .expect("written");
            assert!(read(&*disk, &dir, OWNER).is_err(), "byte {at}");
            file.write_at(&sound[at..=at], at as u64).expect("written");
        }
        file.write_at(b"x", sound.len() as u64).expect("written");
        assert!(read(&*disk, &dir, OWNER).is_err(), "longer");
        for length in (0..sound.len()).rev() {
            file.set_len(length as u64).expect("cut");
            assert!(read(&*disk, &dir, OWNER).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn another_owner_and_a_newer_format_are_told() {
        let (disk, dir) = written(&blocks());
        for owner in [
            Owner { engine: 9, ..OWNER },
            Owner {
                cluster_id: 9,
                ..OWNER
            },
            Owner {
                member_id: 9,
                ..OWNER
            },
        ] {
            let error = read(&*disk, &dir, owner).expect_err("foreign").to_string();
            assert!(error.contains("belongs to another store"), "{error}");
        }
        let mut newer = header(OWNER, 77);
        newer[8] = FORMAT as u8 + 1;
        let sum = crc32c::crc32c(&newer[..44]);
        newer[44..].copy_from_slice(&sum.to_le_bytes());
        let file = disk.open(&dir.join(FILE), false).expect("the file");
        file.write_at(&newer, 0).expect("written");
        let error = read(&*disk, &dir, OWNER).expect_err("newer");
        assert!(matches!(error, Fault::Refused(_)), "{error}");
    }
}
