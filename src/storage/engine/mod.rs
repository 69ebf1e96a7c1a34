//! The engines: bytes in, bytes out, one conformance suite over all of them.
