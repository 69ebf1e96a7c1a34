//! Completions and the man page are what the program prints. `make completions` writes them anew.

use std::path::Path;
use std::process::Command;

use crate::support::binary;

#[test]
fn completions_and_man_page_are_what_the_program_prints() {
    let files = [
        ("completions/kv.bash", &["completions", "bash"][..]),
        ("completions/_kv", &["completions", "zsh"]),
        ("completions/kv.fish", &["completions", "fish"]),
        ("man/kv.1", &["man"]),
    ];
    for (path, words) in files {
        let output = Command::new(binary()).args(words).output();
        let printed = output.expect("the program runs").stdout;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let kept = std::fs::read(&file).unwrap_or_default();
        assert!(
            printed == kept,
            "{path} is not what `kv {}` prints: run `make completions`",
            words.join(" ")
        );
    }
}
