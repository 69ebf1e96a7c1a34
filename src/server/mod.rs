//! The server.

pub mod body;
pub mod config;
pub mod flags;
pub mod grpc;
pub mod listener;
pub mod process;
pub mod url;
