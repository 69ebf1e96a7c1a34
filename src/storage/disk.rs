//! The file system as a seam: the real one, and one for tests that forgets what was not synced.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Result;

/// Directories and files, as much of them as the log and snapshots need.
pub trait Disk: Send + Sync + 'static {
    fn create_dir(&self, path: &Path) -> Result<()>;
    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>>;
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>>;
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;
}

/// One open file, written and read by position.
pub trait File: Send + Sync + 'static {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Reads until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Makes the contents durable. After an error the state of the file is unknown.
    fn sync(&self) -> Result<()>;
    fn set_len(&self, len: u64) -> Result<()>;
    fn len(&self) -> Result<u64>;
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The operating system's file system.
pub struct RealDisk;
