//! Put, range, delete.
pub struct Store;
