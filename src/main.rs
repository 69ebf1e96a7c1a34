//! Picks a program by the name it was called by, else by the first argument.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use kv::bench;
use kv::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: kv server|bench ...";

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|path| Path::new(path).file_name());
    let program = match called.and_then(|name| name.to_str()) {
        Some("etcd") => "server".into(),
        Some("benchmark") => "bench".into(),
        _ if args.len() > 1 => args.remove(1),
        _ => OsString::new(),
    };
    match program.to_str() {
        Some("server") => server::main(args),
        Some("bench") => bench::main(args),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(1)
        }
    }
}
