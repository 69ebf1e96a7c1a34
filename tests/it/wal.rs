//! The log told as stories: golden texts in `tests/golden/wal`, on a simulated disk.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use kv::storage::disk::sim::Failure;
use kv::storage::disk::sim::SimDisk;
use kv::storage::wal::Entry;
use kv::storage::wal::Options;
use kv::storage::wal::Position;
use kv::storage::wal::Recovered;
use kv::storage::wal::Wal;

use crate::transcript;

#[test]
fn golden_texts() {
    transcript::replay("tests/golden/wal", || {
        let mut story = Story {
            disk: SimDisk::new(1),
            wal: None,
            last: 0,
        };
        move |line| story.run(line).unwrap_or_else(|refusal| refusal)
    });
}

struct Story {
    disk: SimDisk,
    wal: Option<Wal>,
    last: u64,
}

/// Words of a command; `name=number` by name.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn word(&self, at: usize) -> &'a str {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn number(&self, at: usize) -> u64 {
        self.word(at).parse().expect("a number")
    }

    fn named(&self, name: &str, otherwise: u64) -> u64 {
        let mut pairs = self.0.iter().filter_map(|word| word.split_once('='));
        pairs
            .find(|(found, _)| *found == name)
            .map_or(otherwise, |(_, value)| value.parse().expect("a number"))
    }
}

fn position(position: Option<Position>) -> String {
    position.map_or("none".into(), |at| format!("{}.{}", at.term, at.index))
}

fn text(bytes: Option<Bytes>) -> String {
    bytes.map_or("none".into(), |bytes| {
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Story {
    fn run(&mut self, line: &str) -> Result<String, String> {
        let words = Words(line.split_whitespace().collect());
        match words.word(0) {
            "open" => self.open(&words),
            "append" => Ok(self.append(&words)),
            "vote" => Ok(self.wait(|wal, done| {
                wal.save_vote(Bytes::from(words.word(1).to_owned()), done);
            })),
            "commit" => {
                self.wal()
                    .save_committed(Bytes::from(words.word(1).to_owned()));
                Ok(String::new())
            }
            "truncate" => {
                self.last = words.number(2);
                self.wal().truncate_after(Some(at(&words)));
                Ok(self.settle())
            }
            "purge" => {
                self.last = self.last.max(words.number(2));
                self.wal().purge(at(&words));
                Ok(self.settle())
            }
            "read" => self.read(&words),
            "close" => Ok(self
                .wal
                .take()
                .map_or(String::new(), |wal| outcome(wal.close()))),
            "power-cut" => {
                self.disk.cut_power();
                self.wal = None;
                self.disk = self.disk.after_power_cut(words.named("seed", 0));
                Ok(String::new())
            }
            "fail" => {
                self.disk.fail_at(words.number(1), Failure::Io);
                Ok(String::new())
            }
            "ls" => Ok(self.list()),
            "damage" => Ok(self.damage(&words)),
            other => panic!("unknown command {other}"),
        }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("an open log")
    }

    fn open(&mut self, words: &Words<'_>) -> Result<String, String> {
        let options = Options {
            segment_bytes: words.named("segment", 4096),
            cluster_id: words.named("cluster", 0),
            member_id: words.named("member", 0),
            ..Options::default()
        };
        let disk = Arc::new(self.disk.clone());
        let opened = Wal::open(disk, dir(), options, Box::new(|_| {}));
        let (wal, found) = opened.map_err(|fault| format!("error: {fault}"))?;
        self.wal = Some(wal);
        self.last = found.last.map_or(0, |last| last.index);
        Ok(describe(found))
    }

    /// Appends so many entries in one batch.
    fn append(&mut self, words: &Words<'_>) -> String {
        let (len, term) = (words.named("bytes", 100), words.named("term", 1));
        let entries = (0..words.number(1)).map(|_| {
            self.last += 1;
            let data = Bytes::from(vec![b'a' + (self.last % 26) as u8; len as usize]);
            Entry {
                index: self.last,
                term,
                data,
            }
        });
        let entries = entries.collect();
        let told = self.wait(|wal, done| wal.append(entries, false, done));
        format!("{told}, durable {}", self.wal().durable())
    }

    /// Waits until everything queued is written, so that what is written together does not depend on time.
    fn settle(&self) -> String {
        self.wait(|wal, done| wal.append(Vec::new(), false, done))
    }

    fn wait(&self, act: impl FnOnce(&Wal, kv::storage::wal::Done)) -> String {
        let (sender, told) = mpsc::channel();
        act(
            self.wal(),
            Box::new(move |result| drop(sender.send(result))),
        );
        outcome(told.recv().expect("an answer"))
    }

    fn read(&self, words: &Words<'_>) -> Result<String, String> {
        let max_bytes = words.named("max", 1 << 20) as usize;
        let found = self
            .wal()
            .read(words.number(1)..words.number(2), max_bytes)
            .map_err(|fault| format!("error: {fault}"))?;
        let lines = found.iter().map(|entry| {
            let letter = entry.data.first().map_or('-', |byte| char::from(*byte));
            format!(
                "{}.{} {} x {letter}\n",
                entry.term,
                entry.index,
                entry.data.len()
            )
        });
        Ok(lines.collect())
    }

    /// Segments of the log; spares come and go in the background.
    fn list(&self) -> String {
        let lines = self.segments().into_iter().map(|path| {
            let bytes = self.disk.contents(&path).expect("a file");
            let name = path.file_name().expect("a name").to_string_lossy();
            format!("{name} {} bytes, hash {:016x}\n", bytes.len(), hash(&bytes))
        });
        lines.collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut files = self.disk.files();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
        files
    }

    /// `damage <segment> flip|zero|cut at=<byte>`: one bit, one sector, or everything from there on.
    fn damage(&self, words: &Words<'_>) -> String {
        let path = &self.segments()[words.number(1) as usize];
        let at = words.named("at", 0) as usize;
        let mut bytes = self.disk.contents(path).expect("a file");
        match words.word(2) {
            "flip" => bytes[at] ^= 1,
            "zero" => bytes[at..at + 512].fill(0),
            "cut" => bytes.truncate(at),
            other => panic!("unknown damage {other}"),
        }
        self.disk.replace(path, bytes);
        String::new()
    }
}

/// FNV-1a. A checksum of the kind that is in the file would be the same for every file.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn dir() -> &'static Path {
    Path::new("/m/wal")
}

fn at(words: &Words<'_>) -> Position {
    Position {
        term: words.number(1),
        index: words.number(2),
    }
}

fn outcome<E: std::fmt::Display>(result: Result<(), E>) -> String {
    result.map_or_else(|fault| format!("error: {fault}"), |()| "ok".into())
}

fn describe(found: Recovered) -> String {
    format!(
        "vote {}, committed {}, purged {}, last {}{}",
        text(found.vote),
        text(found.committed),
        position(found.purged),
        position(found.last),
        if found.repaired { ", repaired" } else { "" }
    )
}
