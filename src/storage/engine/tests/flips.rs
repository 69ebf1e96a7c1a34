//! Damaged files: whatever is changed in them, a read answers with what was written or with an error.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::storage::Result;

/// Single bits flipped in a file of so many bytes; beside them a sector zeroed, the file cut and removed.
fn flips(bytes: usize) -> usize {
    (bytes / 10_000).clamp(2, 40)
}

/// What damage did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything still reads as written: the bytes meant nothing.
    Harmless,
    RefusedToOpen,
    FailedToRead,
    /// Not an answer, but not a wrong one: the process would have stopped.
    Panicked,
    Hung,
    Silent,
}

type Contents = Vec<(Table, Vec<Pair>)>;

fn contents(tables: &Tables) -> Result<Contents> {
    let tables = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Storage)
        .map(|table| Ok((table, tables.scan(table, b"", None, usize::MAX)?)));
    tables.collect()
}

/// A small directory with several flushes, deletions, and a long value.
fn build(kind: Kind, dir: &Path) -> Contents {
    let mut random = fastrand::Rng::with_seed(3);
    let tables = tables(kind, dir, buffer::Options::default());
    for index in 1..=40u64 {
        let mut batch = Batch::default();
        batch.put(Table::Meta, "applied", index.to_be_bytes().to_vec());
        for part in 0..20u64 {
            let value: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
            let key = (index * 100 + part).to_be_bytes().to_vec();
            batch.put(Table::Revisions, key, value);
        }
        if index > 20 {
            for part in 1..20u64 {
                let key = ((index - 20) * 100 + part).to_be_bytes().to_vec();
                batch.delete(Table::Revisions, key);
            }
        }
        batch.put(Table::Leases, vec![index as u8 % 7], vec![7; 40]);
        if index == 30 {
            batch.put(Table::Users, "root", vec![1; 30_000]);
        }
        tables.write(batch, index);
        tables.flush().unwrap();
    }
    let contents = contents(&tables).unwrap();
    tables.close().unwrap();
    contents
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found.retain(|path| path.metadata().unwrap().len() > 0);
    found
}

/// Opens what is in `dir` and compares every answer with what was written.
fn examine(kind: Kind, dir: &Path, expected: &Contents) -> Outcome {
    let log = Box::new(|| u64::MAX);
    let fatal = Box::new(|_| ());
    let opened = super::super::open(kind, dir)
        .and_then(|engine| Tables::open(engine, buffer::Options::default(), log, fatal));
    let Ok(tables) = opened else {
        return Outcome::RefusedToOpen;
    };
    let mut failed = false;
    for (table, pairs) in expected {
        for (key, value) in pairs {
            match tables.get(*table, key) {
                Ok(found) if found.as_ref() == Some(value) => {}
                Ok(_) => return Outcome::Silent,
                Err(_) => failed = true,
            }
        }
    }
    match contents(&tables) {
        Ok(found) if found != *expected => Outcome::Silent,
        Ok(_) if failed => Outcome::FailedToRead,
        Ok(_) => Outcome::Harmless,
        Err(_) => Outcome::FailedToRead,
    }
}

/// The same with a limit of time, and with panics caught.
fn judge(kind: Kind, dir: PathBuf, expected: Contents) -> Outcome {
    let (answer, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let examined = catch_unwind(AssertUnwindSafe(|| examine(kind, &dir, &expected)));
        let _ = answer.send(examined.unwrap_or(Outcome::Panicked));
    });
    let patience = Duration::from_secs(30);
    wait.recv_timeout(patience).unwrap_or(Outcome::Hung)
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

#[test]
fn damage_is_never_served() {
    for kind in ON_DISK {
        let seed = fastrand::u64(..);
        println!("{kind}: seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let sound = TempDir::new();
        let expected = build(kind, sound.path());
        let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
        let mut try_with = |name: &Path, what: &str, damaged: Option<Vec<u8>>| {
            let dir = TempDir::new();
            copy_dir(sound.path(), dir.path());
            let path = dir.path().join(name);
            match damaged {
                Some(bytes) => std::fs::File::create(&path)
                    .unwrap()
                    .write_all(&bytes)
                    .unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let outcome = judge(kind, dir.path().to_path_buf(), expected.clone());
            if outcome > Outcome::FailedToRead {
                println!("{outcome:?}: {} {what}", name.display());
            }
            *outcomes.entry(outcome).or_default() += 1;
        };
        for path in files(sound.path()) {
            let name = path.strip_prefix(sound.path()).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            for _ in 0..flips(bytes.len()) {
                let bit = random.usize(..bytes.len() * 8);
                let mut damaged = bytes.clone();
                flip(&mut damaged, bit);
                try_with(name, &format!("bit {bit}"), Some(damaged));
            }
            let sector = random.usize(..bytes.len().div_ceil(512)) * 512;
            let mut damaged = bytes.clone();
            damaged[sector..]
                .iter_mut()
                .take(512)
                .for_each(|byte| *byte = 0);
            try_with(name, &format!("zeroed at {sector}"), Some(damaged));
            let cut = random.usize(..bytes.len());
            try_with(name, &format!("cut at {cut}"), Some(bytes[..cut].to_vec()));
            try_with(name, "removed", None);
        }
        println!("{kind}: {outcomes:?}");
        assert!(
            outcomes
                .keys()
                .all(|outcome| *outcome <= Outcome::FailedToRead),
            "{kind}: {outcomes:?}"
        );
    }
}
