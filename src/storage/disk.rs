//! The file system as a seam: the real one, and one for tests that forgets what was not synced ([`sim`]).
//!
//! Whatever is written, created, renamed or removed is only promised to survive a power loss once it was
//! synced: contents with [`File::sync`], names with [`Disk::sync_dir`]. Files are made with mode 0600,
//! directories with 0700.

pub mod sim;

use std::any::Any;
use std::fs;
use std::fs::DirBuilder;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::Result;
use crate::error::Fault;

/// Stands in for a directory that cannot be locked itself.
const LOCK: &str = "LOCK";

/// Directories and files, as much of them as the log and snapshots need.
pub trait Disk: Send + Sync + 'static {
    /// Makes the directory and the ones above it, durably; those that are there are left as they are.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// Paths of everything in `dir`, in order of their names.
    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>>;
    /// Opens a file for reading and writing; `create` makes it if it is missing.
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>>;
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// Keeps every other process, and this one, from locking `dir` again until the lock is dropped.
    /// Refused at once if someone holds it. Leaves no trace where the file system can lock directories.
    fn lock(&self, dir: &Path) -> Result<DirLock>;
}

/// One open file, written and read by position.
pub trait File: Send + Sync + 'static {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Reads until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Makes the contents durable. After an error the state of the file is unknown.
    fn sync(&self) -> Result<()>;
    fn set_len(&self, len: u64) -> Result<()>;
    /// Makes the file at least `len` long with space set aside for all of it, where the file system can.
    fn allocate(&self, len: u64) -> Result<()>;
    fn len(&self) -> Result<u64>;
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Held while a directory is in use; dropping it, or the end of the process, lets the next one in.
pub struct DirLock {
    _held: Box<dyn Any + Send + Sync>,
}

/// Locks a directory of the real file system. See [`Disk::lock`].
pub fn lock_dir(path: &Path) -> Result<DirLock> {
    RealDisk.lock(path)
}

fn in_use(dir: &Path) -> Fault {
    Fault::Refused(format!(
        "directory {} is in use by another process",
        dir.display()
    ))
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> Result<()> {
        let creating = |error| Fault::io("creating directory", path, error);
        let path = std::path::absolute(path).map_err(creating)?;
        let missing: Vec<_> = path.ancestors().take_while(|dir| !dir.is_dir()).collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                made => made.map_err(creating)?,
            }
            self.sync_dir(dir.parent().unwrap_or(dir))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let listing = |error| Fault::io("listing", dir, error);
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(listing)? {
            paths.push(entry.map_err(listing)?.path());
        }
        paths.sort();
        Ok(paths)
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let file = open_options(create)
            .open(path)
            .map_err(|error| Fault::io("opening", path, error))?;
        let path = path.to_path_buf();
        Ok(Arc::new(RealFile { path, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| Fault::io("renaming", from, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| Fault::io("removing", path, error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Fault::io("syncing directory", dir, error))
    }

    fn lock(&self, dir: &Path) -> Result<DirLock> {
        let failed = |error| Fault::io("locking", dir, error);
        let directory = fs::File::open(dir).map_err(failed)?;
        let held = match directory.try_lock() {
            // Some network file systems only lock files that are open for writing.
            Err(TryLockError::Error(_)) => {
                let file = open_options(true).open(dir.join(LOCK)).map_err(failed)?;
                file.try_lock().map(|()| file)
            }
            other => other.map(|()| directory),
        };
        match held {
            Ok(held) => Ok(DirLock {
                _held: Box::new(held),
            }),
            Err(TryLockError::WouldBlock) => Err(in_use(dir)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

fn open_options(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options
}

struct RealFile {
    path: PathBuf,
    file: fs::File,
}

impl RealFile {
    fn fault(&self, doing: &'static str, error: io::Error) -> Fault {
        Fault::io(doing, &self.path, error)
    }
}

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| self.fault("writing", error))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault("reading", error)),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| self.fault("syncing", error))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(|error| self.fault("resizing", error))
    }

    fn allocate(&self, len: u64) -> Result<()> {
        use rustix::io::Errno;
        loop {
            return match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Ok(()) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.len()? < len => self.set_len(len),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                Err(errno) => Err(self.fault("allocating space for", errno.into())),
            };
        }
    }

    fn len(&self) -> Result<u64> {
        let found = self.file.metadata();
        Ok(found
            .map_err(|error| self.fault("looking at", error))?
            .len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kv-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_and_directories_are_private() {
        let dir = scratch("modes");
        RealDisk.create_dir(&dir.join("a/b")).unwrap();
        RealDisk.create_dir(&dir.join("a/b")).unwrap();
        let file = RealDisk.open(&dir.join("a/b/f"), true).unwrap();
        file.allocate(4096).unwrap();
        file.write_at(b"hello", 4094).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 4093).unwrap(), 6);
        assert_eq!(&buffer[..6], b"\0hello");
        assert_eq!(file.len().unwrap(), 4099);
        assert_eq!(mode(&dir.join("a/b")), 0o700);
        assert_eq!(mode(&dir.join("a/b/f")), 0o600);
        assert_eq!(RealDisk.list(&dir.join("a")).unwrap(), [dir.join("a/b")]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn second_lock_is_refused_in_one_line() {
        let dir = scratch("lock");
        RealDisk.create_dir(&dir).unwrap();
        let lock = lock_dir(&dir).unwrap();
        let refused = lock_dir(&dir).err().unwrap().to_string();
        assert_eq!(
            refused,
            format!("directory {} is in use by another process", dir.display())
        );
        drop(lock);
        lock_dir(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
