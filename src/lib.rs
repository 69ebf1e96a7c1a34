//! `kv`: etcd 3.7 in one binary. This page is the map.
//!
//! The modules are rows; a module imports rows strictly below its own, never up, never sideways:
//!
//! | row | modules | |
//! |---|---|---|
//! | 7 | `main` | picks a program by its name or first argument |
//! | 6 | [`server`] [`ctl`] [`bench`] | the programs |
//! | 5 | [`raft`] | consensus: log, state machine, peers, the `Node` handle |
//! | 4 | [`machine`] | one `Command`, one `apply`, queries, one snapshot |
//! | 3 | [`mvcc`] [`lease`] [`cluster`] | pure cores |
//! | 2 | [`storage`] [`client`] | bytes on disk; calls over the wire |
//! | 1 | [`proto`] | the wire's vocabulary |
//! | 0 | [`error`] [`util`] | the list of refusals; clocks and text |
//!
//! A put enters at `server/grpc/kv.rs`, is ordered by `raft::Node::propose`, becomes durable in
//! `storage::wal`, is decided by `machine::Machine::apply`, is announced to the watch hub and then
//! answered. Durable before visible, visible before announced, announced before answered.

pub mod bench;
pub mod client;
pub mod cluster;
pub mod ctl;
pub mod error;
pub mod lease;
pub mod machine;
pub mod mvcc;
pub mod proto;
pub mod raft;
pub mod server;
pub mod storage;
pub mod util;
