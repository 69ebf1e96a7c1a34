//! Everything that needs more than one module, or a process. One binary, so that linking stays cheap.

mod client;
mod crash;
mod damage;
mod generated;
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
