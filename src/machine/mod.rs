//! One command, one apply.
