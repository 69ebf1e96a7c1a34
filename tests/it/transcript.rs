//! Golden texts: commands, `---`, output. `REWRITE=1` writes down what comes out instead of comparing.
//!
//! A file opens with what it proves. A block is lines that begin with `> `, a line `---`, and the output of
//! these commands up to the next blank line. The state lives on from block to block, and ends with the file.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Replays every file in `dir`. `begin` makes a fresh state for each and returns what runs one command on it.
pub fn replay<F>(dir: &str, begin: impl Fn() -> F)
where
    F: FnMut(&str) -> String,
{
    let rewrite = env::var_os("REWRITE").is_some();
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("a directory of golden texts")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no golden texts in {dir}");
    let mut wrong = Vec::new();
    for file in &files {
        let expected = fs::read_to_string(file).expect("a readable golden text");
        let actual = run(&expected, begin());
        if actual == expected {
            continue;
        }
        if rewrite {
            fs::write(file, actual).expect("a writable golden text");
        } else {
            wrong.push(difference(file, &expected, &actual));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same text with the output that its commands produce now.
fn run(text: &str, mut execute: impl FnMut(&str) -> String) -> String {
    let mut result = String::new();
    let mut commands: Vec<&str> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        writeln!(result, "{line}").expect("a string takes everything");
        if let Some(command) = line.strip_prefix("> ") {
            commands.push(command);
        } else if line == "---" {
            for command in commands.drain(..) {
                let output = execute(command);
                let end = if output.is_empty() || output.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                write!(result, "{output}{end}").expect("a string takes everything");
            }
            if lines.by_ref().any(str::is_empty) {
                result.push('\n');
            }
        }
    }
    result
}

fn difference(file: &Path, expected: &str, actual: &str) -> String {
    let mut both = expected.lines().zip(actual.lines()).enumerate();
    let at = both.find(|(_, (old, new))| old != new).map_or_else(
        || expected.lines().count().min(actual.lines().count()),
        |(at, _)| at,
    );
    let around = |text: &str| -> String {
        let lines = text.lines().skip(at.saturating_sub(3)).take(8);
        lines.map(|line| format!("    {line}\n")).collect()
    };
    format!(
        "{}:{}:\n  expected\n{}  got\n{}",
        file.display(),
        at + 1,
        around(expected),
        around(actual)
    )
}
