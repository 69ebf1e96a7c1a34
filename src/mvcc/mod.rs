//! Many versions of every key. Pure: bytes come from a `View`, changes leave in a `Draft`.

pub mod index;
pub mod store;

pub use store::Store;

/// Where a version stands in history: the revision of its transaction, and its place inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}
