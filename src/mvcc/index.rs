//! Key to versions.
