//! Everything that needs more than one module, or a process. One binary, so that linking stays cheap.

mod crash;
mod damage;
mod generated;
mod layers;
mod line;
mod machine;
<<<<<<< HEAD
mod mvcc;
mod mvcc_model;
=======
mod server;
>>>>>>> e6aafbf (server: process tests; quota by live bytes, crc mismatch by name)
#[allow(dead_code)]
mod support;
mod transcript;
mod wal;
