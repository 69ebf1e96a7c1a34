//! Golden texts of the store: `tests/golden/mvcc/*.txt`.
//!
//! Keys are written `a`, `[a,c)`, `[a,)` (from a on) or `a*` (prefix). A transaction is
//! `txn COMPARE & COMPARE ? OP ; OP : OP`, a comparison `TARGET KEY OPERATOR OPERAND`, a nested
//! transaction one in parentheses.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;

use kv::error::Error;
use kv::mvcc;
use kv::mvcc::Chunks;
use kv::mvcc::Pin;
use kv::mvcc::Progress;
use kv::mvcc::Store;
use kv::mvcc::txn;
use kv::proto::KeyRange;
use kv::proto::etcdserverpb::Compare;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RangeResponse;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::TxnResponse;
use kv::proto::etcdserverpb::compare::TargetUnion;
use kv::proto::etcdserverpb::request_op::Request;
use kv::proto::etcdserverpb::response_op::Response;
use kv::proto::kvpb::Origin;
use kv::proto::mvccpb::KeyValue;
use kv::storage::Engine;
use kv::storage::Table;
use kv::storage::View;
use kv::storage::draft::Draft;
use kv::storage::engine::memory::Memory;

use crate::line::Line;
use crate::line::unescape;
use crate::transcript;

#[test]
fn golden() {
    transcript::replay("tests/golden/mvcc", || {
        let mut bench = Bench::new();
        move |command| bench.run(&mut Line::parse(command))
    });
}

const CACHE_BYTES: usize = 64 << 10;
const MAX_TXN_OPS: usize = 128;
const MAX_REQUEST_BYTES: usize = 1536 << 10;

/// A store over tables in memory, and the leases that exist.
struct Bench {
    tables: Memory,
    store: Store,
    leases: BTreeSet<i64>,
    pins: BTreeMap<i64, Pin>,
}

impl Bench {
    fn run(&mut self, line: &mut Line) -> String {
        let printed = match line.command.as_str() {
            "put" => self.put(line),
            "get" => self.get(line),
            "stream" => self.stream(line),
            "slices" => self.slices(line),
            "del" => self.delete(line),
            "expire" => self.expire(line),
            "txn" => self.txn(line),
            "compact" => self.compact(line),
            "reclaim" => self.reclaim(line),
            "hash" => self.hash(line),
            "events" => self.events(line),
            "prev" => self.prev(line),
            "records" => Ok(self.records()),
            "status" => Ok(self.status()),
            "restart" => self.restart(),
            "grant" => {
                self.leases.insert(line.need());
                Ok(String::new())
            }
            "pin" => {
                let revision = line.need();
                self.pins.insert(revision, self.store.pin(revision));
                Ok(String::new())
            }
            "unpin" => {
                self.pins.remove(&line.need());
                Ok(String::new())
            }
            other => panic!("unknown command {other}"),
        };
        let left = line.rest();
        assert!(left.is_empty(), "{}: what is {left:?}?", line.command);
        printed.unwrap_or_else(|error| format!("error: {error}"))
    }
}

type Printed = Result<String, Error>;

impl Bench {
    fn new() -> Bench {
        let tables = Memory::new();
        let store = Store::restore(&tables, CACHE_BYTES).expect("an empty store");
        Bench {
            tables,
            store,
            leases: BTreeSet::new(),
            pins: BTreeMap::new(),
        }
    }

    /// Runs one command, writes its changes, and holds its events against the history they make.
    fn write<T>(
        &mut self,
        command: impl FnOnce(&mut Store, &mut Draft<'_>, &dyn Fn(i64) -> bool) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.store.revision();
        let mut draft = Draft::over(&self.tables);
        let leases = &self.leases;
        let result = command(&mut self.store, &mut draft, &|id| leases.contains(&id));
        let batch = draft.into_batch();
        let events = self.store.take_events();
        if result.is_err() {
            assert!(
                batch.is_empty() && events.is_empty(),
                "a refusal left changes"
            );
            assert_eq!(self.store.revision(), before);
            return result;
        }
        self.tables.commit(&batch)?;
        let (history, next) =
            self.store
                .events(&self.tables, before + 1, i64::MAX, usize::MAX, usize::MAX)?;
        let encoded = |events: &[std::sync::Arc<mvcc::Event>]| -> Vec<_> {
            events.iter().map(|event| event.encoded()).collect()
        };
        assert_eq!(encoded(&events), encoded(&history));
        assert_eq!(next, self.store.revision() + 1);
        result
    }

    fn put(&mut self, line: &mut Line) -> Printed {
        let request = put_request(line);
        mvcc::check_put(&request)?;
        let origin = Origin::default();
        let response =
            self.write(|store, draft, leases| store.put(draft, &request, leases, &origin))?;
        let mut out = String::new();
        out += &prev(response.prev_kv);
        writeln!(out, "rev={}", response.header.expect("a header").revision).expect("a string");
        Ok(out)
    }

    fn get(&mut self, line: &mut Line) -> Printed {
        let request = range_request(line);
        mvcc::check_range(&request)?;
        Ok(range(&self.store.range(&self.tables, &request)?))
    }

    fn stream(&mut self, line: &mut Line) -> Printed {
        let compact: Option<i64> = line.option("compact");
        let request = range_request(line);
        mvcc::check_stream(&request)?;
        let mut chunks = Chunks::start(&self.store, &request, MAX_REQUEST_BYTES)?;
        let (mut out, mut compact) = (String::new(), compact);
        while !chunks.is_done() {
            match chunks.gather(&self.store) {
                Ok(chunk) => {
                    let response = chunk.load(&self.tables)?;
                    chunks.adapt(&response);
                    let (first, last) = (response.kvs.first(), response.kvs.last());
                    let name = |kv: Option<&KeyValue>| kv.map_or("".into(), |kv| text(&kv.key));
                    let keys = response.kvs.len();
                    write!(out, "{keys} keys {}..{}", name(first), name(last)).expect("a string");
                    if let Some(header) = response.header {
                        write!(out, " rev={} count={}", header.revision, response.count)
                            .expect("a string");
                    }
                    out += if response.more { " more\n" } else { "\n" };
                }
                Err(error) => {
                    writeln!(out, "error: {error}").expect("a string");
                    break;
                }
            }
            if let Some(revision) = compact.take() {
                self.write(|store, draft, _| store.compact(draft, revision))?;
            }
        }
        Ok(out)
    }

    fn slices(&mut self, line: &mut Line) -> Printed {
        let limit = line.option("limit").unwrap_or(usize::MAX);
        let max_bytes = line.option("bytes").unwrap_or(usize::MAX);
        let revision = line.option("rev").unwrap_or(0);
        let keys_only = line.flag("keys_only");
        let (key, end) = selector(&line.need::<String>());
        let range = KeyRange::new(&key, &end);
        let (mut from, mut out) = (Vec::new(), String::new());
        loop {
            let slice = self.store.slice(
                &self.tables,
                mvcc::Window {
                    range: &range,
                    revision: self.store.check_revision(revision)?,
                    from: &from,
                    limit,
                    max_bytes,
                    keys_only,
                },
            )?;
            let kvs: Vec<_> = slice
                .kvs
                .iter()
                .map(|kv| format!("{}={}", text(&kv.key), text(&kv.value)))
                .collect();
            let line = format!("{} keys {}", kvs.len(), kvs.join(" "));
            writeln!(out, "{}", line.trim_end()).expect("a string");
            match slice.next {
                Some(next) => from = next,
                None => return Ok(out),
            }
        }
    }

    fn delete(&mut self, line: &mut Line) -> Printed {
        let request = delete_request(line);
        mvcc::check_delete(&request)?;
        let origin = Origin::default();
        let response =
            self.write(|store, draft, _| store.delete_range(draft, &request, &origin))?;
        let mut out = String::new();
        for kv in response.prev_kvs {
            out += &prev(Some(kv));
        }
        let revision = response.header.expect("a header").revision;
        writeln!(out, "deleted={} rev={revision}", response.deleted).expect("a string");
        Ok(out)
    }

    /// Deletes single keys in one revision, as the end of a lease does.
    fn expire(&mut self, line: &mut Line) -> Printed {
        let keys: Vec<Vec<u8>> = line.rest().iter().map(|word| unescape(word)).collect();
        let origin = Origin::default();
        let deleted = self.write(|store, draft, _| store.delete_keys(draft, &keys, &origin))?;
        Ok(format!("deleted={deleted} rev={}", self.store.revision()))
    }

    fn txn(&mut self, line: &mut Line) -> Printed {
        let max_ops = line.option("max_ops").unwrap_or(MAX_TXN_OPS);
        let words = line.rest();
        let mut words = words.as_slice();
        let request = txn_request(&mut words);
        assert!(words.is_empty(), "txn: what is {words:?}?");
        txn::check(&request, max_ops)?;
        let mut out = String::new();
        if txn::is_read_only(&request) {
            out += match txn::is_serializable(&request) {
                true => "serializable ",
                false => "read only ",
            };
            let response = self.store.read_txn(&self.tables, &request)?;
            print_txn(&mut out, "", &response);
        } else {
            let origin = Origin::default();
            let response =
                self.write(|store, draft, leases| store.txn(draft, &request, leases, &origin))?;
            print_txn(&mut out, "", &response);
        }
        Ok(out)
    }

    fn compact(&mut self, line: &mut Line) -> Printed {
        let physical = !line.flag("logical");
        let revision = line.need();
        self.write(|store, draft, _| store.compact(draft, revision))?;
        if physical {
            while self.reclaim_slice()? == Progress::More {}
        }
        Ok(format!("rev={}", self.store.revision()))
    }

    fn reclaim(&mut self, line: &mut Line) -> Printed {
        let progress = match line.option("slices") {
            Some(slices) => (0..slices)
                .map(|_| self.reclaim_slice())
                .last()
                .expect("at least one slice")?,
            None => loop {
                match self.reclaim_slice()? {
                    Progress::More => continue,
                    progress => break progress,
                }
            },
        };
        Ok(format!("{progress:?}").to_lowercase())
    }

    /// The whole of what a member does in the background: first the hash, then the records.
    fn reclaim_slice(&mut self) -> Result<Progress, Error> {
        if let Some(mut scan) = self.store.compaction_hash() {
            let hash = loop {
                scan.read(&self.tables)?;
                if let Some(hash) = scan.feed(&self.store) {
                    break hash;
                }
            };
            self.store.compaction_hashed(hash);
        }
        let (batch, progress) = self.store.compact_slice();
        self.tables.commit(&batch)?;
        Ok(progress)
    }

    fn hash(&mut self, line: &mut Line) -> Printed {
        let revision = line
            .word()
            .map_or(0, |word| word.parse().expect("a number"));
        let answer = self.store.hash_kv(&self.tables, revision)?;
        Ok(format!(
            "hash={} compact={} revision={}",
            answer.hash, answer.compact_revision, answer.hash_revision
        ))
    }

    fn events(&mut self, line: &mut Line) -> Printed {
        let revisions = line.option("revisions").unwrap_or(usize::MAX);
        let bytes = line.option("bytes").unwrap_or(usize::MAX);
        let (from, to) = (line.need(), line.option("to").unwrap_or(i64::MAX));
        let (events, next) = self
            .store
            .events(&self.tables, from, to, revisions, bytes)?;
        let mut out = String::new();
        for event in events {
            write!(out, "{:?} ", event.kind).expect("a string");
            out += &kv(&event.kv);
            out.push('\n');
        }
        writeln!(out, "next={next}").expect("a string");
        Ok(out)
    }

    fn prev(&mut self, line: &mut Line) -> Printed {
        let (key, revision) = (line.need::<String>(), line.need());
        let found = self.store.kv_at(&self.tables, &unescape(&key), revision)?;
        Ok(found.map_or("none".into(), |found| kv(&found)))
    }

    fn records(&self) -> String {
        let all = self.tables.scan(Table::Revisions, b"", None, usize::MAX);
        let mut out = String::new();
        for (key, value) in all.expect("readable") {
            let record = mvcc::record::Record::parse(&key, value).expect("a record");
            let at = format!("{}.{}", record.at.main, record.at.sub);
            let (key, value) = (text(&record.kv.key), text(&record.kv.value));
            match record.is_tombstone() {
                true => writeln!(out, "{at} {key} deleted").expect("a string"),
                false => writeln!(out, "{at} {key}={value}").expect("a string"),
            }
        }
        out
    }

    fn status(&self) -> String {
        format!(
            "rev={} compacted={} finished={} keys={} bytes={}",
            self.store.revision(),
            self.store.compacted(),
            self.store.compaction_finished(),
            self.store.live_keys(),
            self.store.live_bytes(),
        )
    }

    fn restart(&mut self) -> Printed {
        self.pins.clear();
        self.store = Store::restore(&self.tables, CACHE_BYTES)?;
        Ok(self.status())
    }
}

/// Reads a key or range as etcd's pair of key and range end.
fn selector(word: &str) -> (Vec<u8>, Vec<u8>) {
    if let Some(inside) = word
        .strip_prefix('[')
        .and_then(|word| word.strip_suffix(')'))
    {
        let (start, end) = inside.split_once(',').expect("[start,end)");
        let end = if end.is_empty() { "\\x00" } else { end };
        return (unescape(start), unescape(end));
    }
    match word.strip_suffix('*') {
        Some(prefix) => {
            let key = unescape(prefix);
            let mut end = key.clone();
            *end.last_mut().expect("a prefix") += 1;
            (key, end)
        }
        None => (unescape(word), Vec::new()),
    }
}

fn put_request(line: &mut Line) -> PutRequest {
    let (ignore_value, ignore_lease) = (line.flag("ignore_value"), line.flag("ignore_lease"));
    let prev_kv = line.flag("prev");
    let pair: String = line.need();
    let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
    PutRequest {
        key: unescape(key),
        value: repeated(value),
        lease: line.option("lease").unwrap_or(0),
        prev_kv,
        ignore_value,
        ignore_lease,
    }
}

/// `x*3` is `xxx`, for values that are too long to write down.
fn repeated(value: &str) -> Vec<u8> {
    match value.split_once('*') {
        Some((unit, times)) => unescape(unit).repeat(times.parse().expect("a number")),
        None => unescape(value),
    }
}

fn delete_request(line: &mut Line) -> DeleteRangeRequest {
    let prev_kv = line.flag("prev");
    let (key, range_end) = selector(&line.need::<String>());
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    }
}

fn range_request(line: &mut Line) -> RangeRequest {
    let mut number = |name| line.option(name).unwrap_or(0);
    let request = RangeRequest {
        revision: number("rev"),
        limit: number("limit"),
        min_mod_revision: number("min_mod"),
        max_mod_revision: number("max_mod"),
        min_create_revision: number("min_create"),
        max_create_revision: number("max_create"),
        ..RangeRequest::default()
    };
    let order = line.option::<String>("order").unwrap_or("none".into());
    let target = line.option::<String>("target").unwrap_or("key".into());
    let (keys_only, count_only) = (line.flag("keys_only"), line.flag("count_only"));
    let serializable = line.flag("serializable");
    let (key, range_end) = selector(&line.need::<String>());
    RangeRequest {
        key,
        range_end,
        sort_order: number_of(&["none", "ascend", "descend"], &order),
        sort_target: number_of(&["key", "version", "create", "mod", "value"], &target),
        serializable,
        keys_only,
        count_only,
        ..request
    }
}

/// The number of an enum's name; a number stands for itself, known or not.
fn number_of(names: &[&str], name: &str) -> i32 {
    match names.iter().position(|other| *other == name) {
        Some(at) => at as i32,
        None => name.parse().expect("a name or a number"),
    }
}

fn next<'a>(words: &mut &'a [String]) -> &'a str {
    let (first, rest) = words.split_first().expect("txn: a word is missing");
    *words = rest;
    first
}

/// `COMPARE & COMPARE ? OPS : OPS`, up to the end or a closing parenthesis.
fn txn_request(words: &mut &[String]) -> TxnRequest {
    let mut request = TxnRequest::default();
    while words.first().is_some_and(|word| word != "?") {
        request.compare.push(compare(words));
        if words.first().is_some_and(|word| word == "&") {
            next(words);
        }
    }
    assert_eq!(next(words), "?");
    request.success = ops(words);
    if words.first().is_some_and(|word| word == ":") {
        next(words);
        request.failure = ops(words);
    }
    request
}

/// `TARGET KEY OPERATOR OPERAND`; an operand `mod:5` is one of another kind.
fn compare(words: &mut &[String]) -> Compare {
    const TARGETS: &[&str] = &["version", "create", "mod", "value", "lease"];
    let target = next(words);
    let (key, range_end) = selector(next(words));
    let result = number_of(&["=", ">", "<", "!="], next(words));
    let operand = next(words);
    let (kind, operand) = match operand.split_once(':') {
        Some((kind, operand)) => (kind, operand),
        None => (target, operand),
    };
    let number = || operand.parse().expect("a number");
    Compare {
        result,
        target: number_of(TARGETS, target),
        key,
        range_end,
        target_union: match kind {
            "version" => Some(TargetUnion::Version(number())),
            "create" => Some(TargetUnion::CreateRevision(number())),
            "mod" => Some(TargetUnion::ModRevision(number())),
            "value" => Some(TargetUnion::Value(unescape(operand))),
            "lease" => Some(TargetUnion::Lease(number())),
            _ => None,
        },
    }
}

fn ops(words: &mut &[String]) -> Vec<RequestOp> {
    let mut ops = Vec::new();
    loop {
        match words.first().map(String::as_str) {
            None | Some(":" | ")") => return ops,
            Some(";") => {
                next(words);
            }
            Some("(") => {
                next(words);
                let request = Some(Request::RequestTxn(txn_request(words)));
                assert_eq!(next(words), ")");
                ops.push(RequestOp { request });
            }
            Some(_) => {
                let end = words
                    .iter()
                    .position(|word| [";", ":", ")"].contains(&&word[..]));
                let (op, rest) = words.split_at(end.unwrap_or(words.len()));
                *words = rest;
                ops.extend(op_of(op));
            }
        }
    }
}

/// One operation; `put a=1 * 3` is three times the same.
fn op_of(words: &[String]) -> Vec<RequestOp> {
    let (words, times) = match words {
        [words @ .., star, times] if star == "*" => (words, times.parse().expect("a number")),
        words => (words, 1),
    };
    let mut line = Line::of(words.to_vec());
    let request = match line.command.as_str() {
        "put" => Some(Request::RequestPut(put_request(&mut line))),
        "get" => Some(Request::RequestRange(range_request(&mut line))),
        "del" => Some(Request::RequestDeleteRange(delete_request(&mut line))),
        "nothing" => None,
        other => panic!("txn: unknown operation {other}"),
    };
    vec![RequestOp { request }; times]
}

/// Bytes as text that [`unescape`] reads back; long runs of one byte are counted.
fn text(bytes: &[u8]) -> String {
    if bytes.len() > 40 && bytes.iter().all(|byte| *byte == bytes[0]) {
        return format!("{}*{}", text(&bytes[..1]), bytes.len());
    }
    let printable = |byte: &u8| match byte {
        b'\\' => r"\\".to_string(),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(printable).collect()
}

fn kv(kv: &KeyValue) -> String {
    let mut out = format!("{}={}", text(&kv.key), text(&kv.value));
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    write!(out, " create={create} mod={modified} version={version}").expect("a string");
    if kv.lease != 0 {
        write!(out, " lease={}", kv.lease).expect("a string");
    }
    out
}

fn prev(previous: Option<KeyValue>) -> String {
    previous.map_or(String::new(), |previous| {
        format!("prev {}\n", kv(&previous))
    })
}

fn range(response: &RangeResponse) -> String {
    let mut out = String::new();
    for found in &response.kvs {
        writeln!(out, "{}", kv(found)).expect("a string");
    }
    let revision = response.header.expect("a header").revision;
    write!(out, "count={} rev={revision}", response.count).expect("a string");
    out += if response.more { " more\n" } else { "\n" };
    out
}

fn print_txn(out: &mut String, indent: &str, response: &TxnResponse) {
    let verdict = if response.succeeded {
        "succeeded"
    } else {
        "failed"
    };
    let revision = response.header.expect("a header").revision;
    writeln!(out, "{verdict} rev={revision}").expect("a string");
    let indent = format!("{indent}  ");
    for op in &response.responses {
        out.push_str(&indent);
        match op.response.as_ref().expect("a response") {
            Response::ResponsePut(response) => {
                let revision = response.header.expect("a header").revision;
                write!(out, "put rev={revision} {}", prev(response.prev_kv.clone()))
                    .expect("a string");
                out.truncate(out.trim_end().len());
                out.push('\n');
            }
            Response::ResponseDeleteRange(response) => {
                let revision = response.header.expect("a header").revision;
                writeln!(out, "del deleted={} rev={revision}", response.deleted).expect("a string");
                for kv in &response.prev_kvs {
                    write!(out, "{indent}  {}", prev(Some(kv.clone()))).expect("a string");
                }
            }
            Response::ResponseRange(response) => {
                let lines = range(response);
                let lines: Vec<_> = lines.lines().collect();
                writeln!(out, "get {}", lines.join(&format!("\n{indent}    "))).expect("a string");
            }
            Response::ResponseTxn(response) => print_txn(out, &indent, response),
        }
    }
}
