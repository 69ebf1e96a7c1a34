//! Everything that needs more than one module, or a process. One binary, so that linking stays cheap.

mod crash;
mod damage;
mod layers;
mod line;
mod machine;
mod mvcc;
mod mvcc_model;
#[allow(dead_code)]
mod support;
mod transcript;
mod wal;
