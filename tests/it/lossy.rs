//! A file system that forgets what was not synced.
//!
//! Mounted through FUSE and kept in memory. Every write is visible at once; what a power cut leaves of
//! it is decided by [`LossyDisk::cut`]: synced contents stay, of each write since then a random part of
//! its sectors does. Names behave as on a journalling file system: any sync makes all earlier creations,
//! renames and removals durable, and without one they may or may not survive.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use fuser::BackgroundSession;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;

const ROOT: u64 = 1;
const SECTOR: usize = 512;
/// Nothing may be remembered by the kernel: a cut changes files behind its back.
const FORGET: Duration = Duration::ZERO;

/// A change of a file that no sync has covered yet.
enum Unsynced {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Default)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

impl Contents {
    fn change(&mut self, change: Unsynced) {
        apply(&mut self.live, &change);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// Leaves what a power cut would; returns the bytes that got lost.
    fn cut(&mut self) -> usize {
        let survives = [0.0, 0.5, 0.9, 1.0][fastrand::usize(..4)];
        let mut lost = 0;
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Unsynced::Resize(len) if fastrand::f64() < survives => {
                    resize(&mut self.durable, len)
                }
                Unsynced::Resize(_) => {}
                Unsynced::Write { offset, data } => {
                    for (at, sector) in sectors(offset, &data) {
                        if fastrand::f64() < survives {
                            overwrite(&mut self.durable, at, sector);
                        } else {
                            lost += sector.len();
                        }
                    }
                }
            }
        }
        self.live.clone_from(&self.durable);
        lost
    }
}

fn apply(contents: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Write { offset, data } => overwrite(contents, *offset, data),
        Unsynced::Resize(len) => resize(contents, *len),
    }
}

fn resize(contents: &mut Vec<u8>, len: usize) {
    contents.resize(len, 0);
}

fn overwrite(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if contents.len() < offset + data.len() {
        contents.resize(offset + data.len(), 0);
    }
    contents[offset..offset + data.len()].copy_from_slice(data);
}

/// Splits a write at the sector borders of the file.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at = data.len().min(start + SECTOR - (offset + start) % SECTOR);
        (start < data.len()).then(|| (offset + start, &data[start..at]))
    })
}

type Names = BTreeMap<OsString, u64>;

/// Everything on the disk.
struct Tree {
    files: BTreeMap<u64, Contents>,
    modes: BTreeMap<u64, u16>,
    dirs: BTreeMap<u64, Names>,
    durable_dirs: BTreeMap<u64, Names>,
    next: u64,
}

impl Tree {
    fn new() -> Tree {
        let dirs = BTreeMap::from([(ROOT, Names::new())]);
        let modes = BTreeMap::from([(ROOT, 0o755)]);
        Tree {
            files: BTreeMap::new(),
            modes,
            durable_dirs: dirs.clone(),
            dirs,
            next: ROOT + 1,
        }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        self.dirs.get(&parent.0)?.get(name).copied()
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, mode: u32, directory: bool) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.modes.insert(ino, (mode & 0o777) as u16);
        if directory {
            self.dirs.insert(ino, Names::new());
        } else {
            self.files.insert(ino, Contents::default());
        }
        self.dirs
            .entry(parent.0)
            .or_default()
            .insert(name.to_owned(), ino);
        ino
    }

    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let directory = self.dirs.contains_key(&ino);
        let size = match self.files.get(&ino) {
            Some(file) => file.live.len() as u64,
            None if directory => 0,
            None => return None,
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(SECTOR as u64),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: self.modes.get(&ino).copied().unwrap_or(0o600),
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn sync_names(&mut self) {
        self.durable_dirs.clone_from(&self.dirs);
    }

    fn cut(&mut self) -> usize {
        if fastrand::bool() {
            self.dirs.clone_from(&self.durable_dirs);
        } else {
            self.sync_names();
        }
        self.forget_nameless();
        self.files.values_mut().map(Contents::cut).sum()
    }

    /// Drops what no name leads to; nobody has it open after a cut.
    fn forget_nameless(&mut self) {
        let dirs = [&self.dirs, &self.durable_dirs];
        let named: BTreeSet<u64> = dirs
            .into_iter()
            .flat_map(|dirs| dirs.values().flat_map(|names| names.values()))
            .copied()
            .collect();
        self.files.retain(|ino, _| named.contains(ino));
    }
}

#[derive(Clone)]
struct Disk(Arc<Mutex<Tree>>);

impl Disk {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0
            .lock()
            .expect("no thread failed with the tree in hand")
    }
}

/// A mounted disk; unmounted when dropped.
pub struct LossyDisk {
    disk: Disk,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl LossyDisk {
    /// Mounts an empty disk on `path`; `None` where FUSE is not to be had.
    pub fn mount(path: &Path) -> Option<LossyDisk> {
        fs::create_dir_all(path).expect("a mount point");
        let disk = Disk(Arc::new(Mutex::new(Tree::new())));
        let session = fuser::spawn_mount(disk.clone(), path, &fuser::Config::default()).ok()?;
        Some(LossyDisk {
            disk,
            path: path.to_path_buf(),
            session: Some(session),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The power fails: returns how many written bytes were lost.
    pub fn cut(&self) -> usize {
        self.disk.tree().cut()
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        match tree.find(parent, name).and_then(|ino| tree.attributes(ino)) {
            Some(attributes) => reply.entry(&FORGET, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree().attributes(ino.0) {
            Some(attributes) => reply.attr(&FORGET, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        if let Some(mode) = mode {
            tree.modes.insert(ino.0, (mode & 0o777) as u16);
        }
        if let (Some(size), Some(file)) = (size, tree.files.get_mut(&ino.0)) {
            file.change(Unsynced::Resize(size as usize));
        }
        match tree.attributes(ino.0) {
            Some(attributes) => reply.attr(&FORGET, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let mut tree = self.tree();
        let ino = tree.add(parent, name, mode, true);
        reply.entry(
            &FORGET,
            &tree.attributes(ino).expect("just made"),
            Generation(0),
        );
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = self.tree();
        let ino = tree.add(parent, name, mode, false);
        let attributes = tree.attributes(ino).expect("just made");
        reply.created(
            &FORGET,
            &attributes,
            Generation(0),
            FileHandle(0),
            FopenFlags::empty(),
        );
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // The contents stay: a cut may bring the name back, and open handles still read them.
        match self
            .tree()
            .dirs
            .get_mut(&parent.0)
            .and_then(|names| names.remove(name))
        {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut tree = self.tree();
        match tree
            .dirs
            .get_mut(&parent.0)
            .and_then(|names| names.remove(name))
        {
            Some(ino) => {
                tree.dirs
                    .entry(newparent.0)
                    .or_default()
                    .insert(newname.to_owned(), ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree().files.get(&ino.0) {
            Some(file) => {
                let start = file.live.len().min(offset as usize);
                let end = file.live.len().min(start + size as usize);
                reply.data(&file.live[start..end]);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.tree().files.get_mut(&ino.0) {
            Some(file) => {
                file.change(Unsynced::Write {
                    offset: offset as usize,
                    data: data.to_vec(),
                });
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.tree().files.get_mut(&ino.0) {
            Some(file) => {
                let len = file.live.len().max((offset + length) as usize);
                file.change(Unsynced::Resize(len));
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut tree = self.tree();
        if let Some(file) = tree.files.get_mut(&ino.0) {
            file.sync();
        }
        tree.sync_names();
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.tree().sync_names();
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.tree();
        let names = tree.dirs.get(&ino.0).into_iter().flatten();
        let dots = [(OsString::from("."), ino.0), (OsString::from(".."), ROOT)];
        let all = dots
            .into_iter()
            .chain(names.map(|(name, ino)| (name.clone(), *ino)));
        for (at, (name, ino)) in all.enumerate().skip(offset as usize) {
            let directory = tree.dirs.contains_key(&ino);
            let kind = if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

#[test]
fn cut_forgets_what_was_not_synced_and_nothing_else() {
    let dir = crate::support::TempDir::new("lossy");
    let Some(disk) = LossyDisk::mount(&dir.path().join("disk")) else {
        return println!("left out: no FUSE here");
    };
    let mut lost = 0;
    for round in 0..50 {
        let synced = disk.path().join(format!("synced-{round}"));
        let file = fs::File::create(&synced).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 5000], 0).expect("a write");
        file.sync_all().expect("a sync");
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 3000], 5000).expect("a write");
        lost += disk.cut();
        drop(file);
        let kept = fs::read(&synced).expect("a synced file is there");
        assert!(kept.len() >= 5000 && kept[..5000].iter().all(|byte| *byte == 7));
        assert!(kept[5000..].iter().all(|byte| [0, 9].contains(byte)));
    }
    assert!(lost > 0, "fifty cuts lost nothing");
}
