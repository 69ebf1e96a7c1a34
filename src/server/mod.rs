//! The server.

pub mod config;
pub mod flags;
pub mod url;
