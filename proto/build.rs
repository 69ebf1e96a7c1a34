//! Compiles the `.proto` files without protoc, and keeps their descriptors for JSON.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const FILES: &[&str] = &[
    "rpc.proto",
    "lock.proto",
    "election.proto",
    "health.proto",
    "peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("kv.bin");
    fs::write(out, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".mvccpb.KeyValue")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
