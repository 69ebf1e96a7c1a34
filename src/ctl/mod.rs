//! The client program.
