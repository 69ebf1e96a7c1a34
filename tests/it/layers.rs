//! Imports point down, and nothing unfinished is left in the sources.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Bottom row first.
const LAYERS: &[&[&str]] = &[
    &["error", "util"],
    &["proto"],
    &["storage", "client"],
    &["mvcc", "lease", "auth", "cluster", "v2"],
    &["machine"],
    &["raft"],
    &["server", "ctl", "proxy", "bench"],
    &["main"],
];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("readable directory") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `mvcc` for both `src/mvcc.rs` and `src/mvcc/index.rs`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix("src").expect("a source file");
    let first = inside
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first.trim_end_matches(".rs").to_string()
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[test]
fn modules_import_only_downwards() {
    let mut wrong = Vec::new();
    for path in rust_files(Path::new("src")) {
        let own = module(&path);
        let Some(layer) = layer_of(&own) else {
            continue;
        };
        let text = fs::read_to_string(&path).expect("readable source");
        for rest in text.split("crate::").skip(1) {
            let name = rest
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next();
            let name = name.unwrap_or_default();
            if name != own && layer_of(name).is_none_or(|below| below >= layer) {
                wrong.push(format!("{}: crate::{name}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that point up or sideways:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn nothing_unfinished_is_left() {
    let marks = [
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let mut found = Vec::new();
    for path in rust_files(Path::new("src")) {
        let text = fs::read_to_string(&path).expect("readable source");
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(found.is_empty(), "leftover marks:\n{}", found.join("\n"));
}
