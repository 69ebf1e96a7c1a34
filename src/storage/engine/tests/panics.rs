//! What is left to say when an engine's library panics: one line that names the files.

use super::*;
use crate::storage::engine::marker::Place;

#[test]
#[ignore = "run by a_panic_of_an_engine_names_its_files, in a process of its own"]
fn panic() {
    let Some((kind, dir)) = helper_arguments() else {
        return;
    };
    std::panic::set_hook(Box::new(|info| {
        let line = super::super::describe_panic(info);
        println!("said: {}", line.unwrap_or_default());
    }));
    let place = Place::claim(kind, &dir).unwrap();
    let metadata = place.db.join("metadata");
    std::fs::create_dir_all(&metadata).unwrap();
    // A name that sled has no answer to, and that `files` would have refused.
    std::fs::write(metadata.join("log_zzzzzzzzzzzzzzzz"), "").unwrap();
    let opened = std::panic::catch_unwind(|| {
        let config = ::sled::Config::new().path(&place.db);
        config.open::<128>().is_ok()
    });
    assert!(opened.is_err());
    assert!(std::panic::catch_unwind(|| panic!("our own")).is_err());
}

#[test]
fn a_panic_of_an_engine_names_its_files() {
    let dir = TempDir::new();
    let output = helper("panics::panic", Kind::Sled, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().filter_map(|line| line.split_once("said: "));
    let said: Vec<_> = said.map(|(_, line)| line).collect();
    let expected = format!(
        "damaged data in {}: the storage engine gave up: not yet implemented (metadata_store.rs:",
        dir.path().join("db").display()
    );
    assert!(output.status.success(), "{text}");
    assert!(said[0].starts_with(&expected), "{text}");
    assert_eq!(said[1], "");
}
