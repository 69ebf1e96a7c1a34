//! Power cuts, damage and failing disks, thousands of each, from seeds.
//!
//! A run drives a [`Writer`] over a simulated disk with random records beside a model of plain collections.
//! Whatever a crash leaves must recover to the model at some record at or after the last flush that returned.
//! A failing assertion prints the seed; `KV_WAL_SEED=n` runs that seed alone, `KV_WAL_RUNS=n` sets how many.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use fastrand::Rng;

use super::record::SECTOR;
use super::*;
use crate::storage::disk::sim::Failure;
use crate::storage::disk::sim::SimDisk;

fn dir() -> &'static Path {
    Path::new("/data/wal")
}

/// Seeds to run: so many, unless the environment says otherwise.
fn seeds(runs: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    match number("KV_WAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KV_WAL_RUNS").unwrap_or(runs),
    }
}

/// What a log must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<Position>,
    last: Option<Position>,
}

impl Model {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.insert(entry.index, entry.clone());
                let Entry { index, term, .. } = *entry;
                self.last = Some(Position { term, index });
            }
            Record::Vote(vote) => self.vote = Some(vote.clone()),
            Record::Committed(committed) => self.committed = Some(committed.clone()),
            Record::Truncate(last) => {
                let kept = last.map_or(0, |last| last.index + 1);
                self.entries.split_off(&kept);
                self.last = *last;
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
                if self.entries.is_empty() {
                    self.last = Some(*upto);
                }
            }
        }
    }

    fn next(&self) -> u64 {
        self.last.map_or(1, |last| last.index + 1)
    }

    fn position(&self, index: u64) -> Option<Position> {
        let entry = self.entries.get(&index)?;
        let Entry { index, term, .. } = *entry;
        Some(Position { term, index })
    }

    fn random_record(&self, rng: &mut Rng) -> Record {
        let some = |rng: &mut Rng| Bytes::from(vec![rng.u8(..); rng.usize(..60)]);
        let span = self.entries.keys().next().copied().zip(self.last);
        match (rng.u8(..40), span) {
            (0..3, _) => Record::Vote(some(rng)),
            (3..6, _) => Record::Committed(some(rng)),
            (6..8, Some((first, last))) => {
                let at = rng.u64(first..=last.index);
                let back = at.max(last.index.saturating_sub(5));
                Record::Truncate(self.position(back.max(first)).or(self.purged))
            }
            (8..10, Some((first, last))) => {
                let upto = rng.u64(first..=last.index);
                Record::Purge(self.position(upto).expect("an entry in the middle"))
            }
            (10, _) if rng.u8(..8) == 0 => {
                let index = self.next() + rng.u64(..50);
                let term = self.last.map_or(1, |last| last.term);
                Record::Purge(Position { term, index })
            }
            _ => Record::Entry(self.random_entry(rng)),
        }
    }

    fn random_entry(&self, rng: &mut Rng) -> Entry {
        let len = match rng.u8(..20) {
            0 => rng.usize(..20_000),
            1..4 => rng.usize(..2000),
            _ => rng.usize(..300),
        };
        // Values of zeros must not be taken for sectors that were never written.
        let mut data = vec![0; len];
        if rng.u8(..4) > 0 {
            data.fill_with(|| rng.u8(..));
        }
        Entry {
            index: self.next(),
            term: self
                .last
                .map_or(1, |last| last.term + u64::from(rng.u8(..50) == 0)),
            data: Bytes::from(data),
        }
    }
}

/// What the open log holds.
fn contents(writer: &Writer, recovered: &Recovered) -> Model {
    let first = recovered.purged.map_or(0, |purged| purged.index + 1);
    let index = writer.published().index.read().first.max(first);
    let upto = recovered.last.map_or(0, |last| last.index + 1);
    let entries = writer.published().read(index..upto, usize::MAX).unwrap();
    Model {
        entries: entries
            .into_iter()
            .map(|entry| (entry.index, entry))
            .collect(),
        vote: recovered.vote.clone(),
        committed: recovered.committed.clone(),
        purged: recovered.purged,
        last: recovered.last,
    }
}

/// A log, the model of it, and what it may hold if the power goes now.
struct Run {
    disk: SimDisk,
    options: Options,
    writer: Writer,
    /// As of the last flush that returned, then after each record since.
    possible: Vec<Model>,
}

fn random_options(rng: &mut Rng) -> Options {
    Options {
        segment_bytes: [2048, 4096, 8192, 16384, 65536][rng.usize(..5)],
        cluster_id: 7,
        member_id: 9,
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: &Options) -> Result<(Writer, Recovered)> {
    disk.create_dir(dir())?;
    Writer::open(Arc::new(disk.clone()), dir(), options.clone())
}

impl Run {
    fn new(seed: u64, rng: &mut Rng) -> Run {
        Run::with(seed, random_options(rng))
    }

    fn with(seed: u64, options: Options) -> Run {
        let disk = SimDisk::new(seed);
        let (writer, recovered) = open(&disk, &options).unwrap();
        let model = contents(&writer, &recovered);
        Run {
            disk,
            options,
            writer,
            possible: vec![model],
        }
    }

    fn model(&self) -> &Model {
        self.possible.last().expect("never empty")
    }

    fn add(&mut self, record: &Record) -> Result<()> {
        let mut next = self.model().clone();
        next.apply(record);
        // Before it is added: adding may flush, and the power may go in the middle of it.
        self.possible.push(next);
        self.writer.add(record)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()?;
        self.possible.drain(..self.possible.len() - 1);
        Ok(())
    }

    /// One batch as the thread would write it.
    fn batch(&mut self, rng: &mut Rng) -> Result<()> {
        for _ in 0..[1, 1, 1, 2, 5, 20][rng.usize(..6)] {
            let record = self.model().random_record(rng);
            self.add(&record)?;
        }
        self.flush()?;
        if let Some(chore) = self.writer.spare_chore() {
            chore()?;
        }
        Ok(())
    }

    /// Batches until the power goes or there were enough.
    fn go(&mut self, rng: &mut Rng, batches: usize) -> Result<()> {
        (0..batches).try_for_each(|_| self.batch(rng))
    }

    /// An explanation if the log cannot honestly have become `found`.
    fn check(&self, found: &Model) -> std::result::Result<(), String> {
        if self.possible.contains(found) {
            return Ok(());
        }
        Err(format!(
            "found {}, which is none of {} states from {} to {}",
            brief(found),
            self.possible.len(),
            brief(&self.possible[0]),
            brief(self.model())
        ))
    }
}

fn brief(model: &Model) -> String {
    format!(
        "{:?}..{:?} with {} entries",
        model.purged,
        model.last,
        model.entries.len()
    )
}

/// Lets the power go in some operation, perhaps again while recovering, and goes on with what is left.
/// Returns how often it recovered, or what went wrong.
fn survive_cuts(seed: u64, no_sync: bool) -> std::result::Result<u64, String> {
    let mut rng = Rng::with_seed(seed);
    let options = Options {
        no_sync,
        ..random_options(&mut rng)
    };
    let mut run = Run::with(seed, options);
    let mut recoveries = 0;
    for life in 0..4 {
        let soon = [4, 30, 120, 400][rng.usize(..4)];
        run.disk.cut_at(rng.u64(..soon));
        if run.go(&mut rng, 60).is_ok() {
            run.disk.cut_power();
        }
        assert!(
            !run.disk.has_power(),
            "seed {seed}: a batch failed with the power on"
        );
        survive_kill(&run, seed).map_err(|text| format!("seed {seed}, life {life}: {text}"))?;
        for outcome in 0..4 {
            let explain =
                |text: String| format!("seed {seed}, life {life}, outcome {outcome}: {text}");
            let mut disk = run.disk.after_power_cut(rng.u64(..));
            if rng.bool() {
                disk.cut_at(rng.u64(..6));
                let _ = open(&disk, &run.options);
                disk = disk.after_power_cut(rng.u64(..));
            }
            let opened = open(&disk, &run.options).map_err(|fault| explain(fault.to_string()));
            let (writer, recovered) = opened?;
            let found = contents(&writer, &recovered);
            run.check(&found).map_err(explain)?;
            recoveries += 1;
            if outcome == 3 {
                run = Run {
                    options: run.options.clone(),
                    disk,
                    writer,
                    possible: vec![found],
                };
            }
        }
    }
    Ok(recoveries)
}

/// The process alone dies; the next one opens the log, and what that one found survives a power cut.
fn survive_kill(run: &Run, seed: u64) -> std::result::Result<(), String> {
    let explain = |fault: Fault| format!("after a kill: {fault}");
    let killed = run.disk.after_kill();
    let (writer, recovered) = open(&killed, &run.options).map_err(explain)?;
    let found = contents(&writer, &recovered);
    run.check(&found)?;
    let cut = killed.after_power_cut(seed);
    let (writer, recovered) = open(&cut, &run.options).map_err(explain)?;
    match contents(&writer, &recovered) == found {
        true => Ok(()),
        false => Err("a power cut took what was found after a kill".into()),
    }
}

#[test]
fn power_cuts_lose_nothing_synced_and_are_never_refused() {
    let mut recoveries = 0;
    for seed in seeds(150) {
        match survive_cuts(seed, false) {
            Ok(more) => recoveries += more,
            Err(reason) => panic!("{reason}"),
        }
    }
    println!("{recoveries} recoveries");
}

#[test]
fn a_log_that_does_not_sync_is_caught() {
    let caught = (0..40)
        .filter(|seed| survive_cuts(*seed, true).is_err())
        .count();
    assert!(caught > 20, "only {caught} of 40 runs noticed");
}

#[test]
fn two_attempts_at_one_group_never_mix() {
    for seed in seeds(200) {
        let mut rng = Rng::with_seed(seed);
        let options = Options {
            segment_bytes: 16384,
            ..Options::default()
        };
        let mut run = Run::with(seed, options);
        for attempt in 0..4 {
            // The same sectors each time if the one before was lost: only the contents differ.
            let entry = Entry {
                index: run.model().next(),
                term: 1,
                data: Bytes::from(vec![rng.u8(1..); 1200]),
            };
            run.disk.cut_at(rng.u64(..3));
            let written = run.add(&Record::Entry(entry)).and_then(|()| run.flush());
            assert!(written.is_err() || run.disk.has_power(), "seed {seed}");
            let disk = run.disk.after_power_cut(rng.u64(..));
            let (writer, recovered) = match open(&disk, &run.options) {
                Ok(opened) => opened,
                Err(fault) => panic!("seed {seed}, attempt {attempt}: refused: {fault}"),
            };
            let found = contents(&writer, &recovered);
            let fits = run.check(&found);
            assert!(
                fits.is_ok(),
                "seed {seed}, attempt {attempt}: {}",
                fits.unwrap_err()
            );
            run = Run {
                options: run.options.clone(),
                disk,
                writer,
                possible: vec![found],
            };
        }
    }
}

/// A log of a few segments, closed by nothing but the end of the process.
fn written_log(seed: u64) -> (Run, Rng) {
    let mut rng = Rng::with_seed(seed);
    let mut run = Run::new(seed, &mut rng);
    let batches = rng.usize(3..40);
    run.go(&mut rng, batches).unwrap();
    (run, rng)
}

/// Files of the log with the part of each that holds records, the last one last.
fn sound_parts(run: &Run) -> Vec<(PathBuf, usize)> {
    let index = run.writer.published().index.read();
    let files = index.files.iter().map(|file| {
        let bytes = run.disk.contents(&file.path).unwrap();
        (file.path.clone(), used(&bytes))
    });
    files.collect()
}

/// Bytes of a segment up to the end of its last group, found by the numbers in the sectors.
fn used(bytes: &[u8]) -> usize {
    let mut end = SECTOR;
    let group = |at: usize| match bytes.get(at..at + SECTOR) {
        Some(sector) => match record::judge(sector, (at / SECTOR) as u64) {
            record::Sector::Written { group, following } => Some((group, following)),
            _ => None,
        },
        None => None,
    };
    let mut number = group(0).expect("a header").0;
    while let Some((next, following)) = group(end)
        && next == number + 1
    {
        end += (following as usize + 1) * SECTOR;
        number = next;
    }
    end
}

fn snapshot(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter();
    files
        .map(|path| {
            let contents = disk.contents(&path).unwrap();
            (path, contents)
        })
        .collect()
}

#[test]
fn every_flipped_bit_of_a_record_is_refused_by_file_and_offset() {
    let (mut flips, mut harmless) = (0, 0);
    for seed in seeds(150) {
        let (run, mut rng) = written_log(seed);
        let parts = sound_parts(&run);
        for _ in 0..8 {
            let (path, used) = &parts[rng.usize(..parts.len())];
            let len = run.disk.contents(path).unwrap().len();
            let anywhere = rng.u8(..8) == 0;
            let bit = rng.usize(..if anywhere { len } else { *used } * 8);
            let disk = run.disk.after_power_cut(seed);
            disk.flip(path, bit);
            let before = snapshot(&disk);
            let context = format!("seed {seed}, bit {bit} of {} ({used} used)", path.display());
            match open(&disk, &run.options) {
                Ok((writer, recovered)) => {
                    assert!(bit / 8 >= *used, "{context}: not noticed");
                    assert_eq!(&contents(&writer, &recovered), run.model(), "{context}");
                    harmless += 1;
                }
                Err(fault) => {
                    let text = fault.to_string();
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(text.contains(name), "{context}: {text}");
                    let located =
                        matches!(fault, Fault::Damaged { .. }) && text.contains(" at byte ");
                    assert!(located || bit < 64, "{context}: {text}");
                    assert_eq!(snapshot(&disk), before, "{context}: files were touched");
                    flips += 1;
                }
            }
        }
    }
    println!("{flips} flips refused, {harmless} in unused space");
}

#[test]
fn a_lost_or_misplaced_sector_before_the_last_group_is_refused() {
    let mut refused = 0;
    for seed in seeds(250) {
        let (mut run, mut rng) = written_log(seed);
        let parts = sound_parts(&run);
        let (path, used) = &parts[rng.usize(..parts.len())];
        // One more group, so that everything above is followed by something synced later.
        run.batch(&mut rng).unwrap();
        if run.disk.contents(path).is_none() {
            continue;
        }
        let disk = run.disk.after_power_cut(seed);
        let mut bytes = disk.contents(path).unwrap();
        let hit = rng.usize(..used / SECTOR) * SECTOR;
        let other = rng.usize(..bytes.len() / SECTOR) * SECTOR;
        let old = bytes[hit..hit + SECTOR].to_vec();
        match rng.u8(..3) {
            0 => bytes[hit..hit + SECTOR].fill(0),
            1 => bytes.copy_within(other..other + SECTOR, hit),
            _ => bytes[hit..hit + SECTOR].fill_with(|| rng.u8(..)),
        }
        if bytes[hit..hit + SECTOR] == old {
            continue;
        }
        disk.replace(path, bytes);
        let opened = open(&disk, &run.options);
        assert!(
            opened.is_err(),
            "seed {seed}: sector at byte {hit} of {}",
            path.display()
        );
        refused += 1;
    }
    println!("{refused} sectors refused");
}

#[test]
fn a_file_cut_at_any_length_keeps_the_records_before() {
    let mut cuts = 0;
    for seed in seeds(4) {
        let (mut run, mut rng) = written_log(seed);
        // States by the end of the file after each flush.
        let (path, start) = sound_parts(&run).pop().unwrap();
        let mut states = vec![(start, run.model().clone())];
        while run.batch(&mut rng).is_ok() {
            let (now, end) = sound_parts(&run).pop().unwrap();
            if now != path || states.len() > 6 {
                break;
            }
            states.push((end, run.model().clone()));
        }
        let (end, _) = states[states.len() - 1];
        let Some(mut bytes) = run.disk.contents(&path) else {
            continue;
        };
        if sound_parts(&run).pop().unwrap().0 != path {
            continue;
        }
        for len in (start..=end).rev() {
            bytes.truncate(len);
            let disk = run.disk.after_power_cut(seed);
            disk.replace(&path, bytes.clone());
            let (writer, recovered) = match open(&disk, &run.options) {
                Ok(opened) => opened,
                Err(fault) => panic!("seed {seed}: cut to {len}: {fault}"),
            };
            let expected = states.iter().rev().find(|(end, _)| *end <= len).unwrap();
            let found = contents(&writer, &recovered);
            assert_eq!(found, expected.1, "seed {seed}: cut to {len}");
            cuts += 1;
        }
    }
    println!("{cuts} lengths");
}

/// Runs a log on a disk whose `n`-th operation fails; checks that nothing was promised after it.
fn fail_once(seed: u64, n: u64, failure: Failure) {
    let mut rng = Rng::with_seed(seed);
    let mut run = Run::new(seed, &mut rng);
    run.disk.fail_at(n, failure);
    let _ = run.go(&mut rng, 30);
    for outcome in 0..3 {
        let disk = run.disk.after_power_cut(seed + outcome);
        let context = format!("seed {seed}, operation {n}, {failure:?}");
        let (writer, recovered) = match open(&disk, &run.options) {
            Ok(opened) => opened,
            Err(fault) => panic!("{context}: refused: {fault}"),
        };
        let fits = run.check(&contents(&writer, &recovered));
        assert!(fits.is_ok(), "{context}: {}", fits.unwrap_err());
    }
}

#[test]
fn a_failing_operation_breaks_no_promise() {
    for seed in seeds(150) {
        for failure in [Failure::Io, Failure::NoSpace] {
            fail_once(seed, seed * 7 % 150, failure);
        }
    }
}

#[test]
fn a_full_disk_is_no_matter_until_space_is_needed() {
    let mut rng = Rng::with_seed(1);
    let mut run = Run::new(1, &mut rng);
    run.options.segment_bytes = 65536;
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &run.options).unwrap();
    // Room for the first segment and half of another: no spare can be made.
    disk.set_capacity(Some(65536 + 30_000));
    let entry = |index| {
        let data = Bytes::from(vec![1; 1000]);
        Record::Entry(Entry {
            index,
            term: 1,
            data,
        })
    };
    let mut index = 1;
    let fault = loop {
        let written = writer.add(&entry(index)).and_then(|()| writer.flush());
        if let Err(fault) = written {
            break fault;
        }
        if let Some(chore) = writer.spare_chore() {
            assert!(chore().is_err());
        }
        index += 1;
    };
    assert!(fault.to_string().ends_with("no storage space"), "{fault}");
    assert!(index > 60, "failed at entry {index}");
    let disk = disk.after_power_cut(3);
    disk.set_capacity(None);
    let (_, recovered) = open(&disk, &run.options).unwrap();
    assert_eq!(recovered.last.map(|last| last.index), Some(index - 1));
}

/// Threads on a real [`Wal`]: whatever was called back is there after the power went.
fn cut_under_threads(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let disk = SimDisk::new(seed);
    let options = random_options(&mut rng);
    let fatal = Arc::new(Mutex::new(0));
    let told = fatal.clone();
    let fatal_once = Box::new(move |_: &Fault| *told.lock() += 1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), dir(), options.clone(), fatal_once).unwrap();
    disk.cut_at(rng.u64(..120));
    let acked: Arc<Mutex<(BTreeSet<u64>, u64)>> = Arc::default();
    let mut index = 0;
    while *fatal.lock() == 0 {
        let entries: Vec<Entry> = (0..rng.u64(1..4))
            .map(|_| {
                index += 1;
                let data = Bytes::from(vec![index as u8; rng.usize(..400)]);
                Entry {
                    index,
                    term: 1,
                    data,
                }
            })
            .collect();
        let (acked, last) = (acked.clone(), index);
        let done: Done = Box::new(move |result| {
            let mut acked = acked.lock();
            acked.1 += 1;
            if result.is_ok() {
                assert!(acked.0.last() < Some(&last), "callbacks out of order");
                acked.0.insert(last);
            }
        });
        wal.append(entries, rng.bool(), done);
        if rng.u8(..10) == 0 {
            wal.save_committed(Bytes::from(index.to_le_bytes().to_vec()));
        }
    }
    let durable = wal.durable();
    drop(wal);
    assert_eq!(*fatal.lock(), 1, "seed {seed}");
    let (acked, _) = &*acked.lock();
    let acked = acked.last().copied().unwrap_or(0);
    assert!(durable >= acked, "seed {seed}");
    for outcome in 0..3 {
        let disk = disk.after_power_cut(seed + outcome);
        let (writer, recovered) = open(&disk, &options).unwrap();
        let last = recovered.last.map_or(0, |last| last.index);
        assert!(last >= durable, "seed {seed}: {last} of {durable} durable");
        let entries = writer.published().read(1..last + 1, usize::MAX).unwrap();
        assert_eq!(entries.len() as u64, last, "seed {seed}");
        let sound = entries
            .iter()
            .all(|entry| entry.data.iter().all(|byte| *byte == entry.index as u8));
        assert!(sound, "seed {seed}");
    }
}

#[test]
fn callbacks_tell_the_truth_under_threads() {
    for seed in seeds(100) {
        cut_under_threads(seed);
    }
}
