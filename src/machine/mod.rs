//! One command, one apply: where the pure cores meet.

pub mod command;
pub mod drift;

pub use command::Command;
pub use command::Reply;
