//! The openraft adapter.
