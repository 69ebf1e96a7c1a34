//! A disk in memory that forgets what was not synced, fails on request, and does both from a seed.
//!
//! Every file has the contents that a reader sees and the contents that would survive a power cut; every
//! directory has the names that a reader sees and the names that would survive. [`SimDisk::cut_at`] takes the
//! power away in the middle of some later operation; from then on everything fails.
//! [`SimDisk::after_power_cut`] is the disk that comes back: of each sector that was written but not synced
//! it holds the old content or one of the newer ones, of the changes of names that were not synced it holds
//! some. One cut can be looked at with many seeds. A sector of 512 bytes is never half written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;
use parking_lot::MutexGuard;

use super::DirLock;
use super::Disk;
use super::File;
use super::in_use;
use crate::error::Fault;
use crate::storage::Result;

const SECTOR: usize = 512;

/// How an operation fails without the power going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk is full.
    NoSpace,
    /// The device reports an error. What it was doing may have happened in part.
    Io,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Failure::NoSpace => io::Error::from(io::ErrorKind::StorageFull),
            Failure::Io => io::Error::other("the simulated device failed"),
        }
    }
}

/// A handle to the disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    rng: Rng,
    nodes: Vec<Node>,
    /// Files and directories as readers see them.
    names: BTreeMap<PathBuf, Name>,
    durable: BTreeMap<PathBuf, Name>,
    /// Changes of names that are not synced, in order.
    pending: Vec<Rename>,
    operations: u64,
    cut_at: Option<u64>,
    failures: BTreeMap<u64, Failure>,
    capacity: Option<u64>,
    powered: bool,
    locks: BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Dir,
    /// A file, by its place in `nodes`.
    File(usize),
}

/// A change of one or two names: this one goes, that one comes.
#[derive(Clone)]
struct Rename {
    gone: Option<PathBuf>,
    come: Option<(PathBuf, Name)>,
}

impl Rename {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.gone
            .iter()
            .chain(self.come.iter().map(|(path, _)| path))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Name>) {
        if let Some(path) = &self.gone {
            names.remove(path);
        }
        if let Some((path, name)) = &self.come {
            names.insert(path.clone(), *name);
        }
    }
}

#[derive(Clone, Default)]
struct Node {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What each sector was set to since the last sync, oldest first.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths that the file had since the last sync.
    lengths: Vec<usize>,
}

impl Node {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.bytes.len() {
            self.resize(end);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.bytes.len());
            let now = self.bytes[from..to].to_vec();
            self.dirty.entry(sector).or_default().push(now);
        }
    }

    fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.lengths.push(len);
        // Cut off and grown again, it reads as zero whatever was there before.
        self.dirty.retain(|sector, _| sector * SECTOR < len);
    }

    fn sync(&mut self) {
        self.dirty.clear();
        self.lengths.clear();
        self.durable.clone_from(&self.bytes);
    }

    /// What may be on disk although it was not synced.
    fn survive(&self, fate: &mut Fate<'_>) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if let Some(len) = fate.choose(&self.lengths) {
            bytes.resize(*len, 0);
        }
        for (sector, versions) in &self.dirty {
            let from = sector * SECTOR;
            if let Some(version) = fate.choose(versions)
                && from < bytes.len()
            {
                let to = (from + version.len()).min(bytes.len());
                bytes[from..to].copy_from_slice(&version[..to - from]);
            }
        }
        bytes
    }
}

/// Decides what of the things that were not synced survives.
struct Fate<'a> {
    rng: &'a mut Rng,
    /// Chance in 16 that one thing does.
    odds: u8,
}

impl Fate<'_> {
    fn new(rng: &mut Rng) -> Fate<'_> {
        // Nothing, nearly nothing, half, nearly everything and everything are all worth seeing.
        let odds = [0, 1, 4, 8, 12, 15, 16][rng.usize(..7)];
        Fate { rng, odds }
    }

    fn survives(&mut self) -> bool {
        self.rng.u8(..16) < self.odds
    }

    /// The newest one, an older one, or none.
    fn choose<'t, T>(&mut self, things: &'t [T]) -> Option<&'t T> {
        things.iter().rev().find(|_| self.survives())
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with(State {
            rng: Rng::with_seed(seed),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            operations: 0,
            cut_at: None,
            failures: BTreeMap::new(),
            capacity: None,
            powered: true,
            locks: BTreeSet::new(),
        })
    }

    fn with(state: State) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many operations that change or sync something were asked for so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Takes the power away in the `n`-th operation from now; 0 is the next one.
    pub fn cut_at(&self, n: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.operations + n);
    }

    /// Makes the `n`-th operation from now fail once; 0 is the next one.
    pub fn fail_at(&self, n: u64, failure: Failure) {
        let mut state = self.state.lock();
        let at = state.operations + n;
        state.failures.insert(at, failure);
    }

    /// Files may take so many bytes together; then the disk is full.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    pub fn has_power(&self) -> bool {
        self.state.lock().powered
    }

    /// Takes the power away now.
    pub fn cut_power(&self) {
        self.state.lock().powered = false;
    }

    /// The disk as it may come back if the power goes, or went, away; this one stays as it is.
    pub fn after_power_cut(&self, seed: u64) -> SimDisk {
        let state = self.state.lock();
        let mut rng = Rng::with_seed(seed);
        let mut fate = Fate::new(&mut rng);
        let names = surviving_names(&state.durable, &state.pending, &mut fate);
        let nodes = state.nodes.iter().map(|node| {
            let bytes = node.survive(&mut fate);
            Node {
                durable: bytes.clone(),
                bytes,
                ..Node::default()
            }
        });
        let nodes = nodes.collect();
        SimDisk::with(State {
            rng,
            nodes,
            durable: names.clone(),
            names,
            pending: Vec::new(),
            operations: 0,
            cut_at: None,
            failures: BTreeMap::new(),
            capacity: state.capacity,
            powered: true,
            locks: BTreeSet::new(),
        })
    }

    /// The disk as the next process finds it if this one ends, or ended, without a power cut: all that was
    /// written is seen, and what was not synced may still be lost. This one stays as it is.
    pub fn after_kill(&self) -> SimDisk {
        SimDisk::with(State {
            cut_at: None,
            failures: BTreeMap::new(),
            powered: true,
            locks: BTreeSet::new(),
            ..self.state.lock().clone()
        })
    }

    /// Paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state.lock();
        let files = state
            .names
            .iter()
            .filter(|(_, name)| **name != Name::Dir)
            .map(|(path, _)| path.clone());
        files.collect()
    }

    /// What a file holds.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        match state.names.get(path)? {
            Name::File(node) => Some(state.nodes[*node].bytes.clone()),
            Name::Dir => None,
        }
    }

    /// Replaces what a file holds, durably and behind everyone's back. It must be there.
    pub fn replace(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.state.lock();
        let Some(Name::File(node)) = state.names.get(path).copied() else {
            panic!("no file {}", path.display());
        };
        state.nodes[node] = Node {
            durable: contents.clone(),
            bytes: contents,
            ..Node::default()
        };
    }

    /// Flips one bit of a file, durably and behind everyone's back.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut contents = self.contents(path).expect("a file to damage");
        contents[bit / 8] ^= 1 << (bit % 8);
        self.replace(path, contents);
    }

    /// Counts an operation and lets it fail if its time has come.
    fn operate(&self) -> Operation<'_> {
        let mut state = self.state.lock();
        let number = state.operations;
        state.operations += 1;
        let ends = state.powered && state.cut_at == Some(number);
        let failure = state.failures.remove(&number);
        Operation {
            state,
            ends,
            failure,
        }
    }
}

/// Applies some of the changes that were not synced; one that did not happen takes with it the later ones of
/// the same names.
fn surviving_names(
    durable: &BTreeMap<PathBuf, Name>,
    pending: &[Rename],
    fate: &mut Fate<'_>,
) -> BTreeMap<PathBuf, Name> {
    let mut names = durable.clone();
    let mut dropped: BTreeSet<&PathBuf> = BTreeSet::new();
    for change in pending {
        let possible = change.paths().all(|path| !dropped.contains(path));
        if possible && fate.survives() {
            change.apply(&mut names);
        } else {
            dropped.extend(change.paths());
        }
    }
    let dirs: BTreeSet<PathBuf> = names
        .iter()
        .filter(|(_, name)| **name == Name::Dir)
        .map(|(path, _)| path.clone())
        .collect();
    names.retain(|path, _| {
        let mut above = path.ancestors().skip(1);
        above.all(|dir| dir.parent().is_none() || dirs.contains(dir))
    });
    names
}

/// One operation under way.
struct Operation<'a> {
    state: MutexGuard<'a, State>,
    /// The power goes away in the middle of it.
    ends: bool,
    failure: Option<Failure>,
}

impl Operation<'_> {
    /// Runs the part of the operation that may have happened when it does not return, then says how it ended.
    fn change(
        mut self,
        doing: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State),
    ) -> Result<()> {
        self.check_power(doing, path)?;
        let partly = self.failure != Some(Failure::NoSpace);
        if self.failure.is_none() || (partly && self.state.rng.bool()) {
            act(&mut self.state);
        }
        self.finish(doing, path)
    }

    /// Runs a sync: if it does not succeed, it did not happen.
    fn sync(
        mut self,
        doing: &'static str,
        path: &Path,
        sync: impl FnOnce(&mut State),
        lose: impl FnOnce(&mut State),
    ) -> Result<()> {
        self.check_power(doing, path)?;
        match (self.ends, self.failure) {
            (false, None) => sync(&mut self.state),
            (false, Some(_)) => lose(&mut self.state),
            (true, _) => {}
        }
        self.finish(doing, path)
    }

    fn check_power(&self, doing: &'static str, path: &Path) -> Result<()> {
        match self.state.powered {
            true => Ok(()),
            false => Err(no_power(doing, path)),
        }
    }

    fn finish(mut self, doing: &'static str, path: &Path) -> Result<()> {
        if self.ends {
            self.state.powered = false;
            return Err(no_power(doing, path));
        }
        match self.failure {
            Some(failure) => Err(Fault::io(doing, path, failure.error())),
            None => Ok(()),
        }
    }
}

fn no_power(doing: &'static str, path: &Path) -> Fault {
    Fault::io(doing, path, io::Error::other("the simulated power is off"))
}

fn missing(doing: &'static str, path: &Path) -> Fault {
    Fault::io(doing, path, io::Error::from(io::ErrorKind::NotFound))
}

impl State {
    fn rename(&mut self, change: Rename) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn used(&self) -> u64 {
        let files = self.names.values().filter_map(|name| match name {
            Name::File(node) => Some(self.nodes[*node].bytes.len() as u64),
            Name::Dir => None,
        });
        files.sum()
    }

    /// Refuses what would make a file of `from` bytes `to` bytes long on a disk that is too full for it.
    fn check_room(&self, doing: &'static str, path: &Path, from: usize, to: usize) -> Result<()> {
        let grows = to.saturating_sub(from) as u64;
        match self.capacity {
            Some(capacity) if grows > 0 && self.used() + grows > capacity => {
                Err(Fault::io(doing, path, Failure::NoSpace.error()))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> Result<()> {
        let missing: Vec<_> = {
            let state = self.state.lock();
            let missing = path
                .ancestors()
                .filter(|dir| dir.parent().is_some() && !state.names.contains_key(*dir));
            missing.map(Path::to_path_buf).collect()
        };
        for dir in missing.into_iter().rev() {
            self.operate().change("creating directory", path, |state| {
                state.rename(Rename {
                    gone: None,
                    come: Some((dir.clone(), Name::Dir)),
                });
            })?;
            self.sync_dir(dir.parent().expect("not the root"))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let state = self.state.lock();
        if !state.powered {
            return Err(no_power("listing", dir));
        }
        if dir.parent().is_some() && state.names.get(dir) != Some(&Name::Dir) {
            return Err(missing("listing", dir));
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.cloned().collect())
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let known = {
            let state = self.state.lock();
            if !state.powered {
                return Err(no_power("opening", path));
            }
            state.names.get(path).copied()
        };
        let handle = |node| {
            Arc::new(SimFile {
                disk: self.clone(),
                path: path.to_path_buf(),
                node,
            })
        };
        match known {
            Some(Name::File(node)) => return Ok(handle(node)),
            None if create => {}
            _ => return Err(missing("opening", path)),
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        self.list(dir)?;
        let mut made = 0;
        self.operate().change("opening", path, |state| {
            made = state.nodes.len();
            state.nodes.push(Node::default());
            state.rename(Rename {
                gone: None,
                come: Some((path.to_path_buf(), Name::File(made))),
            });
        })?;
        Ok(handle(made))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let operation = self.operate();
        let Some(name) = operation.state.names.get(from).copied() else {
            return Err(missing("renaming", from));
        };
        operation.change("renaming", from, |state| {
            state.rename(Rename {
                gone: Some(from.to_path_buf()),
                come: Some((to.to_path_buf(), name)),
            });
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let operation = self.operate();
        if !operation.state.names.contains_key(path) {
            return Err(missing("removing", path));
        }
        operation.change("removing", path, |state| {
            state.rename(Rename {
                gone: Some(path.to_path_buf()),
                come: None,
            });
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let sync = |state: &mut State| {
            let (now, later) = std::mem::take(&mut state.pending)
                .into_iter()
                .partition::<Vec<_>, _>(|change| {
                    change.paths().any(|path| path.parent() == Some(dir))
                });
            now.iter()
                .for_each(|change| change.apply(&mut state.durable));
            state.pending = later;
        };
        self.operate().sync("syncing directory", dir, sync, |_| {})
    }

    fn lock(&self, dir: &Path) -> Result<DirLock> {
        let mut state = self.state.lock();
        if !state.locks.insert(dir.to_path_buf()) {
            return Err(in_use(dir));
        }
        Ok(DirLock {
            _held: Box::new(Held {
                disk: self.clone(),
                dir: dir.to_path_buf(),
            }),
        })
    }
}

struct Held {
    disk: SimDisk,
    dir: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.state.lock().locks.remove(&self.dir);
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    node: usize,
}

impl SimFile {
    fn resize(&self, doing: &'static str, wanted: impl Fn(usize) -> usize) -> Result<()> {
        let operation = self.disk.operate();
        let len = operation.state.nodes[self.node].bytes.len();
        let to = wanted(len);
        operation.state.check_room(doing, &self.path, len, to)?;
        operation.change(doing, &self.path, |state| {
            if to != len {
                state.nodes[self.node].resize(to);
            }
        })
    }
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let operation = self.disk.operate();
        let len = operation.state.nodes[self.node].bytes.len();
        let end = offset as usize + bytes.len();
        operation
            .state
            .check_room("writing", &self.path, len, end)?;
        operation.change("writing", &self.path, |state| {
            state.nodes[self.node].write(bytes, offset as usize);
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.disk.state.lock();
        if !state.powered {
            return Err(no_power("reading", &self.path));
        }
        let bytes = &state.nodes[self.node].bytes;
        let from = (offset as usize).min(bytes.len());
        let found = (bytes.len() - from).min(buffer.len());
        buffer[..found].copy_from_slice(&bytes[from..from + found]);
        Ok(found)
    }

    fn sync(&self) -> Result<()> {
        // After a failed sync the pages count as clean: no later sync will write them, whatever a reader sees.
        let lose = |state: &mut State| {
            let mut rng = state.rng.clone();
            let node = &mut state.nodes[self.node];
            node.durable = node.survive(&mut Fate::new(&mut rng));
            node.dirty.clear();
            node.lengths.clear();
            state.rng = rng;
        };
        let sync = |state: &mut State| state.nodes[self.node].sync();
        self.disk.operate().sync("syncing", &self.path, sync, lose)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.resize("resizing", |_| len as usize)
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.resize("allocating space for", |now| now.max(len as usize))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.disk.state.lock().nodes[self.node].bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> &'static Path {
        Path::new("/data")
    }

    /// A disk with one durable file of two sectors of `a`.
    fn disk_with_file() -> (SimDisk, Arc<dyn File>) {
        let disk = SimDisk::new(1);
        disk.create_dir(dir()).unwrap();
        let file = disk.open(&dir().join("f"), true).unwrap();
        file.write_at(&[b'a'; 1024], 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir(dir()).unwrap();
        (disk, file)
    }

    #[test]
    fn what_was_not_synced_survives_by_sector_or_not_at_all() {
        let (disk, file) = disk_with_file();
        file.write_at(&[b'b'; 1024], 0).unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let survivor = disk.after_power_cut(seed);
            seen.insert(survivor.contents(&dir().join("f")).unwrap());
        }
        let sectors = |first, second| [[first; 512], [second; 512]].concat();
        let all = [
            sectors(b'a', b'a'),
            sectors(b'a', b'b'),
            sectors(b'b', b'a'),
            sectors(b'b', b'b'),
        ];
        assert_eq!(seen, BTreeSet::from(all));
        file.sync().unwrap();
        for seed in 0..20 {
            let survivor = disk.after_power_cut(seed);
            let kept = survivor.contents(&dir().join("f"));
            assert_eq!(kept, Some(vec![b'b'; 1024]));
        }
    }

    #[test]
    fn names_survive_once_the_directory_was_synced() {
        let (disk, _) = disk_with_file();
        disk.rename(&dir().join("f"), &dir().join("g")).unwrap();
        disk.open(&dir().join("h"), true).unwrap();
        let outcomes = |disk: &SimDisk| -> BTreeSet<Vec<PathBuf>> {
            (0..200)
                .map(|seed| disk.after_power_cut(seed).files())
                .collect()
        };
        assert_eq!(outcomes(&disk).len(), 4);
        disk.sync_dir(dir()).unwrap();
        let both = vec![dir().join("g"), dir().join("h")];
        assert_eq!(outcomes(&disk), BTreeSet::from([both]));
    }

    #[test]
    fn power_goes_away_in_the_chosen_operation() {
        let (disk, file) = disk_with_file();
        disk.cut_at(1);
        file.write_at(&[b'b'; 512], 0).unwrap();
        assert!(file.sync().is_err());
        assert!(!disk.has_power());
        assert!(file.read_at(&mut [0; 8], 0).is_err());
        assert!(disk.list(dir()).is_err());
        let unsynced = (0..50).any(|seed| {
            let survivor = disk.after_power_cut(seed);
            survivor.contents(&dir().join("f")) == Some(vec![b'a'; 1024])
        });
        assert!(unsynced, "the sync that was cut off counted");
    }

    #[test]
    fn failures_come_when_asked_for() {
        let (disk, file) = disk_with_file();
        disk.fail_at(0, Failure::NoSpace);
        let full = file.write_at(&[b'b'; 512], 0).unwrap_err().to_string();
        assert_eq!(full, "writing /data/f: no storage space");
        file.write_at(&[b'b'; 512], 0).unwrap();
        disk.fail_at(0, Failure::Io);
        assert!(file.sync().is_err());
        // The second sync succeeds and yet makes nothing durable.
        file.sync().unwrap();
        disk.set_capacity(Some(1024));
        assert!(file.allocate(1025).is_err());
        file.allocate(1024).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once() {
        let (disk, _) = disk_with_file();
        let lock = disk.lock(dir()).unwrap();
        assert!(disk.lock(dir()).is_err());
        drop(lock);
        disk.lock(dir()).unwrap();
    }
}
