//! A writer that is killed at any moment: its directory reopens at the end of some write, never before one
//! whose flush returned, and holds exactly what was written up to there.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;
use std::time::Duration;

use super::*;

const ROUNDS: u32 = 10;

/// What write `index` does; the same whoever asks.
pub(super) fn write(seed: u64, index: u64) -> Batch {
    let mut random = fastrand::Rng::with_seed(seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut batch = Batch::default();
    batch.put(Table::Meta, "applied", index.to_be_bytes().to_vec());
    for _ in 0..random.usize(1..4) {
        let size = match random.u8(..50) {
            0 => random.usize(..50_000),
            _ => random.usize(..400),
        };
        let value: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        let key = (index * 4 + random.u64(..4)).to_be_bytes();
        batch.put(Table::Revisions, key.to_vec(), value);
    }
    // A hot set, and old revisions that go.
    let hot = vec![random.u8(..20)];
    batch.put(Table::Leases, hot, vec![index as u8; random.usize(..90)]);
    if index.is_multiple_of(64) && index >= 256 {
        for old in (index - 256) * 4..(index - 192) * 4 {
            if old % 50 != 0 {
                batch.delete(Table::Revisions, old.to_be_bytes().to_vec());
            }
        }
    }
    batch
}

fn applied(view: &dyn View) -> u64 {
    let stored = view.get(Table::Meta, b"applied").unwrap();
    stored.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

#[test]
#[ignore = "run and killed by a_killed_writer_loses_nothing_that_was_flushed"]
fn writer() {
    let Some((kind, dir)) = helper_arguments() else {
        return;
    };
    let seed: u64 = std::env::var("KV_TEST_SEED").unwrap().parse().unwrap();
    let mut random = fastrand::Rng::new();
    let options = buffer::Options {
        interval: Duration::from_millis(random.u64(1..20)),
        bytes: 1 << random.u8(10..20),
    };
    let tables = tables(kind, &dir, options);
    for index in applied(&tables) + 1.. {
        tables.write(write(seed, index), index);
        match random.u16(..2000) {
            0 => tables.compact().unwrap(),
            1..15 => {
                tables.flush().unwrap();
                println!("flushed {index}");
            }
            _ => {}
        }
    }
}

/// Lets the writer run for a while, kills it, and returns the last write that it knew to be flushed.
fn run_and_kill(kind: Kind, dir: &Path, seed: u64, random: &mut fastrand::Rng) -> u64 {
    let mut child = helper("kill::writer", kind, dir)
        .env("KV_TEST_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut flushed = 0;
    let mut note = |line: std::io::Result<String>| {
        if let Some((_, index)) = line.unwrap().split_once("flushed ") {
            flushed = index.parse().unwrap();
        }
    };
    lines.by_ref().take(random.usize(..12)).for_each(&mut note);
    // Not a wait for something: the moment of death is what varies.
    std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.code().is_none(),
        "the writer ended by itself: {status}"
    );
    lines.for_each(&mut note);
    flushed
}

#[test]
fn a_killed_writer_loses_nothing_that_was_flushed() {
    for kind in ON_DISK {
        let seed = fastrand::u64(..);
        println!("{kind}: seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new();
        let model = Memory::new();
        let mut last = 0;
        for _ in 0..ROUNDS {
            let flushed = run_and_kill(kind, dir.path(), seed, &mut random);
            let tables = tables(kind, dir.path(), buffer::Options::default());
            let reopened = applied(&tables);
            println!("{kind}: {flushed} known to be flushed, reopened at {reopened}");
            assert!(reopened >= flushed.max(last));
            assert_eq!(tables.flushed(), reopened);
            for index in last + 1..=reopened {
                model.commit(&write(seed, index)).unwrap();
            }
            for table in Table::ALL
                .into_iter()
                .filter(|table| *table != Table::Storage)
            {
                let found = tables.scan(table, b"", None, usize::MAX).unwrap();
                assert!(found == all(&model, table), "{table:?} at {reopened}");
            }
            tables.check().unwrap();
            last = reopened;
        }
        assert!(last > 0, "nothing was ever flushed");
    }
}
