//! Everything that needs more than one module, or a process. One binary, so that linking stays cheap.

mod binary;
mod checkpoint;
mod client;
mod crash;
mod damage;
mod flips;
mod generated;
mod growth;
mod hostile;
mod layers;
mod line;
mod lossy;
mod machine;
mod mvcc;
mod mvcc_model;
mod server;
#[allow(dead_code)]
mod support;
mod transcript;
mod wal;
