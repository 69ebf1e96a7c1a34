//! The program itself: one file that needs nothing else.

use std::process::Command;

use crate::support::binary;

#[test]
fn the_binary_is_static() {
    let listed = Command::new("ldd")
        .arg(binary())
        .output()
        .expect("ldd runs");
    let words = [listed.stdout, listed.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert!(
        words.contains("statically linked") || words.contains("not a dynamic executable"),
        "{words}"
    );
}
