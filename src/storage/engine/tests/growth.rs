//! A hot set that is overwritten for long, with old revisions deleted behind it, as compaction does: memory
//! and disk stay bounded.

use std::time::Instant;

use super::*;

const WRITES: u64 = 200_000;
const FILLED: u64 = 120_000;
const HOT_KEYS: u64 = 1000;
const VALUE_BYTES: usize = 256;
/// Writes between two compactions, and deletions in one slice of them.
const COMPACT_EVERY: u64 = 5000;
const SLICE: usize = 1000;

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() >> 10
}

/// Processor time of this process so far, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
        .sum()
}

fn revision_key(revision: u64) -> Vec<u8> {
    let mut key = revision.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend_from_slice(&[0; 8]);
    key
}

#[test]
#[ignore = "run by memory_and_disk_stay_bounded, in a process of its own"]
fn grow() {
    let Some((kind, dir)) = helper_arguments() else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(1);
    let tables = tables(kind, &dir, buffer::Options::default());
    let base = resident();
    let start = Instant::now();
    let mut newest = vec![0; HOT_KEYS as usize];
    let mut old = Vec::new();
    let (mut most_memory, mut most_disk) = (0, 0);
    for revision in 1..=WRITES {
        let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.u8(..)).collect();
        let mut batch = Batch::default();
        batch.put(Table::Revisions, revision_key(revision), value);
        batch.put(Table::Meta, "applied", revision.to_be_bytes().to_vec());
        tables.write(batch, revision);
        let key = random.u64(..HOT_KEYS) as usize;
        old.push(std::mem::replace(&mut newest[key], revision));
        if revision % COMPACT_EVERY == 0 {
            for slice in old.chunks(SLICE) {
                let mut batch = Batch::default();
                for revision in slice.iter().filter(|revision| **revision > 0) {
                    batch.delete(Table::Revisions, revision_key(*revision));
                }
                tables.write(batch, revision);
            }
            old.clear();
            most_memory = most_memory.max(resident());
            most_disk = most_disk.max(tables.size().unwrap().0);
        }
    }
    tables.flush().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let (disk, live) = tables.size().unwrap();
    tables.check().unwrap();
    tables.compact().unwrap();
    let (compacted, _) = tables.size().unwrap();
    println!(
        "{kind}: {WRITES} writes in {seconds:.1} s ({:.1} of CPU), RSS {base} to at most {most_memory} MiB, disk at most \
         {} KiB, {} KiB at the end, {} KiB compacted, {} KiB live",
        cpu(),
        most_disk >> 10,
        disk >> 10,
        compacted >> 10,
        live >> 10,
    );
    let found = tables
        .scan(Table::Revisions, b"", None, usize::MAX)
        .unwrap();
    assert_eq!(found.len() as u64, HOT_KEYS);
    // The data written is 80 MiB; what is live is 300 KiB.
    assert!(most_memory - base < 200, "RSS grew");
    assert!(most_disk < 64 << 20, "the disk fills up");
    assert!(compacted < 4 << 20, "space is not given back");
    tables.close().unwrap();
}

#[test]
#[ignore = "run by memory_does_not_follow_the_data, in a process of its own"]
fn fill() {
    let Some((kind, dir)) = helper_arguments() else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(1);
    let open = || tables(kind, &dir, buffer::Options::default());
    let (store, base, start) = (open(), resident(), Instant::now());
    let mut most_memory = 0;
    for revision in 1..=FILLED {
        let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.u8(..)).collect();
        let mut batch = Batch::default();
        batch.put(Table::Revisions, revision_key(revision), value);
        store.write(batch, revision);
        if revision % COMPACT_EVERY == 0 {
            most_memory = most_memory.max(resident());
        }
    }
    store.close().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let used = cpu();
    let (disk, live) = store.size().unwrap();
    drop(store);
    let start = Instant::now();
    let store = open();
    let reopened = start.elapsed();
    let start = Instant::now();
    const READS: u32 = 2000;
    for _ in 0..READS {
        let key = revision_key(random.u64(1..=FILLED));
        assert!(store.get(Table::Revisions, &key).unwrap().is_some());
    }
    let read = start.elapsed() / READS;
    most_memory = most_memory.max(resident());
    let start = Instant::now();
    store.check().unwrap();
    println!(
        "{kind}: {FILLED} keys in {seconds:.1} s ({used:.1} of CPU), RSS {base} to at most {most_memory} MiB, disk {} MiB, \
         live {} MiB, reopened in {reopened:.0?}, a cold read {read:.0?}, all checked in {:.0?}",
        disk >> 20,
        live >> 20,
        start.elapsed(),
    );
    assert!(most_memory - base < 200, "RSS grew");
}

fn in_a_process_of_its_own(name: &str) {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let output = helper(name, kind, dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "the helper did not run");
    }
}

#[test]
fn memory_and_disk_stay_bounded() {
    in_a_process_of_its_own("growth::grow");
}

#[test]
fn memory_does_not_follow_the_data() {
    in_a_process_of_its_own("growth::fill");
}
