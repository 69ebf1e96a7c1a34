//! A disk that takes no more: the writer ends with one clear error, and what was flushed is there.
//!
//! A limit on the length of files stands in for the full disk: writes fail in the same places.

use std::time::Duration;

use super::*;
use crate::storage::Write;

/// In blocks of the shell's `ulimit`, half a KiB or a whole one.
const LIMIT: &str = "8192";

/// Writes that only add.
fn write(index: u64) -> Batch {
    let mut batch = kill::write(5, index);
    batch
        .writes
        .retain(|write| matches!(write, Write::Put { .. }));
    batch
}

#[test]
#[ignore = "run by a_full_disk_ends_the_writer_with_one_error, under a limit"]
fn fill_up() {
    let Some((kind, dir)) = helper_arguments() else {
        return;
    };
    let options = buffer::Options {
        interval: Duration::from_millis(5),
        bytes: 100_000,
    };
    let (report, reports) = std::sync::mpsc::channel();
    let tables = Tables::open(
        super::super::open(kind, &dir).unwrap(),
        options,
        Box::new(|| u64::MAX),
        Box::new(move |fault| report.send(fault.to_string()).unwrap()),
    )
    .unwrap();
    let mut index = 0;
    let reason = loop {
        index += 1;
        tables.write(write(index), index);
        if index % 20 == 0 && tables.flush().is_err() {
            break reports.recv().unwrap();
        }
    };
    println!("stopped {} {reason}", tables.flushed());
    assert!(tables.flush().is_err());
    drop(tables);
    assert!(reports.try_recv().is_err(), "reported twice");
}

#[test]
fn a_full_disk_ends_the_writer_with_one_error() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let inner = helper("disk_full::fill_up", kind, dir.path());
        let script = format!("trap '' XFSZ; ulimit -f {LIMIT}; exec \"$@\"");
        let mut limited = Command::new("sh");
        limited.args(["-c", &script, "sh"]).arg(inner.get_program());
        limited.args(inner.get_args());
        limited.envs(
            inner
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        let output = limited.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let stopped = text.lines().find_map(|line| line.split_once("stopped "));
        let Some((_, stopped)) = stopped else {
            panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
        };
        let (flushed, reason) = stopped.split_once(' ').unwrap();
        println!("{kind}: flushed {flushed}, then {reason}");
        assert!(output.status.success(), "{text}");
        assert!(
            reason.contains(&*dir.path().join("db").to_string_lossy()),
            "{reason}"
        );

        let tables = tables(kind, dir.path(), buffer::Options::default());
        let reached = tables.flushed();
        assert!(reached >= flushed.parse().unwrap());
        let model = Memory::new();
        for index in 1..=reached {
            model.commit(&write(index)).unwrap();
        }
        let found = tables
            .scan(Table::Revisions, b"", None, usize::MAX)
            .unwrap();
        assert!(found == all(&model, Table::Revisions));
        tables.check().unwrap();
    }
}
