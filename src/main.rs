//! Picks a program by the name it was called by, else by the first argument.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use kv::bench;
use kv::ctl;
use kv::server;

mod about;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|path| Path::new(path).file_name());
    let program = match called.and_then(|name| name.to_str()) {
        Some("etcd") => "server".into(),
        Some("etcdctl") => "ctl".into(),
        Some("etcdutl") => "utl".into(),
        Some("benchmark") => "bench".into(),
        _ if args.len() > 1 => args.remove(1),
        _ => "--help".into(),
    };
    match program.to_string_lossy().as_ref() {
        "server" => server::main(args),
        "ctl" => ctl::main(args),
        "bench" => bench::main(args.into_iter().skip(1)),
        question => about::main(question, &args[1..]),
    }
}
