//! Who hears what, without tasks, locks or the store.
//!
//! A watcher is a cursor: `next` is the first revision it has not been given. At the tip it is matched
//! against changes as they come; behind, it is given slices of history until it is at the tip again; dead,
//! its history was compacted away and its id is only held until the client lets go of it. Every change up
//! to `tip` has been handed out to the watchers at the tip, so moving between the two states skips nothing
//! and repeats nothing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::frame;
use super::frame::Events;
use super::frame::Frame;
use super::outbox::Outbox;
use crate::mvcc::Event;
use crate::mvcc::EventType;
use crate::mvcc::Watchers;
use crate::proto::KeyRange;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::mvccpb::KeyValue;
use crate::util::metrics;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Watchers that one slice of history is matched against.
const GROUP: usize = 512;

/// Fetches what a key was before an event.
pub type Previous<'a> = dyn FnMut(&Event) -> Option<KeyValue> + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Tip,
    Behind,
    /// Behind, and the stream has not sent what it was given.
    Parked,
    Dead,
}

struct Watcher {
    stream: u64,
    watch_id: i64,
    range: KeyRange,
    /// As asked for; nothing below it is told, not even progress.
    start: i64,
    next: i64,
    state: State,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    fragment: bool,
    progress: bool,
    /// Had events since the last tick.
    busy: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let kind = match event.kind {
            EventType::Put => self.puts,
            EventType::Delete => self.deletes,
        };
        kind && event.revision() >= self.next
    }
}

struct Stream {
    outbox: Arc<Outbox>,
    /// Watch ids in use, and the watchers they name.
    ids: BTreeMap<i64, u64>,
    next_id: i64,
}

pub struct Core {
    identity: ResponseHeader,
    fragment_bytes: usize,
    tip: i64,
    last_watcher: u64,
    watchers: HashMap<u64, Watcher>,
    streams: HashMap<u64, Stream>,
    matching: Watchers,
    /// Watchers that are behind and whose streams can take more, by what they need next.
    behind: BTreeSet<(i64, u64)>,
}

impl Core {
    /// `identity` has the fields of every header but the revision; `tip` is the store's revision.
    pub fn new(identity: ResponseHeader, fragment_bytes: usize, tip: i64) -> Core {
        Core {
            identity,
            fragment_bytes,
            tip,
            last_watcher: 0,
            watchers: HashMap::new(),
            streams: HashMap::new(),
            matching: Watchers::new(),
            behind: BTreeSet::new(),
        }
    }

    /// The revision up to which everything has been handed out.
    pub fn tip(&self) -> i64 {
        self.tip
    }

    pub fn set_term(&mut self, term: u64) {
        self.identity.raft_term = term;
    }

    fn header(&self, revision: i64) -> Bytes {
        frame::header(&ResponseHeader {
            revision,
            ..self.identity
        })
    }

    pub fn open(&mut self, stream: u64, outbox: Arc<Outbox>) {
        let opened = Stream {
            outbox,
            ids: BTreeMap::new(),
            next_id: 0,
        };
        self.streams.insert(stream, opened);
    }

    pub fn close(&mut self, stream: u64) {
        if let Some(closed) = self.streams.remove(&stream) {
            for id in closed.ids.into_values() {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.matching.remove(id);
            self.behind.remove(&(watcher.next, id));
        }
    }

    /// Answers a create request and registers the watcher. Returns true if it wants progress told.
    pub fn create(&mut self, stream: u64, request: &WatchCreateRequest) -> bool {
        let header = self.header(self.tip);
        let tip = self.tip;
        let Some(of) = self.streams.get_mut(&stream) else {
            return false;
        };
        let id = match of.admit(request) {
            Ok(id) => id,
            Err(reason) => {
                let refusal = WatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason: reason.to_string(),
                    ..WatchResponse::default()
                };
                of.outbox.push(Frame::control(header, -1, &refusal));
                return false;
            }
        };
        self.last_watcher += 1;
        of.ids.insert(id, self.last_watcher);
        let created = WatchResponse {
            created: true,
            ..WatchResponse::default()
        };
        of.outbox.push(Frame::control(header, id, &created));
        let watcher = Watcher::new(stream, id, request, tip);
        let progress = watcher.progress;
        self.watchers.insert(self.last_watcher, watcher);
        self.place(self.last_watcher);
        progress
    }

    /// Puts a watcher where its `next` says it belongs.
    fn place(&mut self, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        if watcher.next > self.tip {
            watcher.state = State::Tip;
            self.matching.add(id, watcher.range.clone());
        } else {
            watcher.state = State::Behind;
            self.behind.insert((watcher.next, id));
        }
    }

    pub fn cancel(&mut self, stream: u64, watch_id: i64) {
        let header = self.header(self.tip);
        let Some(of) = self.streams.get_mut(&stream) else {
            return;
        };
        if let Some(id) = of.ids.remove(&watch_id) {
            let canceled = WatchResponse {
                canceled: true,
                ..WatchResponse::default()
            };
            of.outbox.push(Frame::control(header, watch_id, &canceled));
            self.forget(id);
        }
    }

    /// Answers a progress request, if everything up to the tip has been told on this stream.
    pub fn progress(&mut self, stream: u64) {
        let header = self.header(self.tip);
        let Some(of) = self.streams.get(&stream) else {
            return;
        };
        let told = |id: &u64| self.watchers[id].is_told(self.tip);
        if !of.ids.is_empty() && of.ids.values().all(told) && of.outbox.has_room() {
            of.outbox
                .push(Frame::control(header, -1, &WatchResponse::default()));
        }
    }

    /// Tells the idle watchers of a stream that asked for it how far they are.
    pub fn tick(&mut self, stream: u64) {
        let header = self.header(self.tip);
        let Some(of) = self.streams.get(&stream) else {
            return;
        };
        for id in of.ids.values() {
            let Some(watcher) = self.watchers.get_mut(id) else {
                continue;
            };
            let busy = std::mem::take(&mut watcher.busy);
            if watcher.progress && !busy && watcher.is_told(self.tip) && of.outbox.has_room() {
                let told =
                    Frame::control(header.clone(), watcher.watch_id, &WatchResponse::default());
                of.outbox.push(told);
            }
        }
    }

    /// Hands a change to the watchers at the tip. Each revision in it is told apart.
    pub fn dispatch(&mut self, events: &[Arc<Event>], revision: i64, previous: &mut Previous<'_>) {
        for group in events.chunk_by(|a, b| a.revision() == b.revision()) {
            if group[0].revision() > self.tip {
                self.tip = group[0].revision();
                self.dispatch_revision(group, previous);
            }
        }
        self.tip = self.tip.max(revision);
    }

    fn dispatch_revision(&mut self, events: &[Arc<Event>], previous: &mut Previous<'_>) {
        let mut hits: Vec<(u64, usize)> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            self.matching
                .matching(&event.kv.key, |id| hits.push((id, at)));
        }
        if hits.is_empty() {
            return;
        }
        hits.sort_unstable();
        let header = self.header(self.tip);
        let mut encoded = Encoded::new(events, previous);
        for hit in hits.chunk_by(|a, b| a.0 == b.0) {
            let id = hit[0].0;
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            let wanted = hit.iter().map(|(_, at)| *at);
            let wanted: Vec<usize> = wanted.filter(|at| watcher.wants(&events[*at])).collect();
            if wanted.is_empty() {
                continue;
            }
            let Some(stream) = self.streams.get(&watcher.stream) else {
                continue;
            };
            if stream.outbox.has_room() {
                watcher.deliver(
                    &stream.outbox,
                    &header,
                    encoded.take(&wanted, watcher.prev_kv),
                    self.fragment_bytes,
                );
                watcher.next = self.tip + 1;
            } else {
                watcher.state = State::Parked;
                watcher.next = watcher.next.max(self.tip);
                self.matching.remove(id);
            }
        }
    }

    /// Everything after `tip` was missed: whoever is at the tip reads it back.
    pub fn fall_behind(&mut self, tip: i64) {
        let at_tip = self
            .watchers
            .iter_mut()
            .filter(|(_, watcher)| watcher.state == State::Tip);
        let mut moved = Vec::new();
        for (id, watcher) in at_tip {
            watcher.next = watcher.next.max(self.tip + 1);
            moved.push(*id);
        }
        self.tip = self.tip.max(tip);
        for id in moved {
            self.matching.remove(id);
            self.place(id);
        }
    }

    /// These streams have sent all they were given: their watchers may have more.
    pub fn resume(&mut self, streams: &[u64]) {
        for stream in streams {
            let Some(of) = self.streams.get(stream) else {
                continue;
            };
            let parked: Vec<u64> = of
                .ids
                .values()
                .copied()
                .filter(|id| self.watchers[id].state == State::Parked)
                .collect();
            for id in parked {
                self.place(id);
            }
        }
    }

    /// The revision from which history is needed next, if any watcher can take some.
    pub fn wanted(&mut self) -> Option<i64> {
        while let Some(&(next, id)) = self.behind.first() {
            let watcher = self.watchers.get_mut(&id)?;
            let outbox = self.streams.get(&watcher.stream).map(|of| &of.outbox);
            if outbox.is_some_and(|outbox| outbox.is_light()) {
                return Some(next);
            }
            watcher.state = State::Parked;
            self.behind.remove(&(next, id));
        }
        None
    }

    /// Hands a slice of history, whole revisions of `[from, to)`, to the watchers that need it next.
    pub fn catch_up(&mut self, events: &[Arc<Event>], to: i64, previous: &mut Previous<'_>) {
        let group: Vec<(i64, u64)> = self
            .behind
            .iter()
            .take_while(|(next, _)| *next < to)
            .take(GROUP)
            .copied()
            .collect();
        let header = self.header(self.tip);
        let mut encoded = Encoded::new(events, previous);
        for (next, id) in group {
            self.behind.remove(&(next, id));
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            let Some(stream) = self.streams.get(&watcher.stream) else {
                continue;
            };
            // Several watchers of one stream share a slice; the last ones wait for the first.
            if !stream.outbox.has_room() {
                watcher.state = State::Parked;
                continue;
            }
            let wanted: Vec<usize> = (0..events.len())
                .filter(|at| watcher.wants(&events[*at]))
                .filter(|at| watcher.range.contains(&events[*at].kv.key))
                .collect();
            if !wanted.is_empty() {
                watcher.deliver(
                    &stream.outbox,
                    &header,
                    encoded.take(&wanted, watcher.prev_kv),
                    self.fragment_bytes,
                );
            }
            watcher.next = to.max(next);
            self.place(id);
        }
    }

    /// Ends the watchers that still need something below `compacted`.
    pub fn compact(&mut self, compacted: i64) {
        let header = self.header(0);
        while let Some(&(next, id)) = self.behind.first()
            && next < compacted
        {
            self.behind.remove(&(next, id));
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            watcher.state = State::Dead;
            if let Some(stream) = self.streams.get(&watcher.stream) {
                let ended = WatchResponse {
                    canceled: true,
                    compact_revision: compacted,
                    ..WatchResponse::default()
                };
                stream
                    .outbox
                    .push(Frame::control(header.clone(), watcher.watch_id, &ended));
            }
        }
    }

    /// Sets the gauges to what there is.
    pub fn measure(&self) {
        metrics::WATCH_STREAMS.set(self.streams.len() as i64);
        metrics::WATCHERS.set(self.watchers.len() as i64);
        metrics::SLOW_WATCHERS.set((self.watchers.len() - self.matching.len()) as i64);
    }
}

impl Stream {
    /// Checks a create request and chooses the id. A refused one takes no id.
    fn admit(&mut self, request: &WatchCreateRequest) -> Result<i64, &'static str> {
        if request.start_revision < 0 {
            return Err(COMPACTED);
        }
        let (key, end) = (&request.key, &request.range_end);
        if !end.is_empty() && *end != [0] && key >= end {
            return Err(EMPTY_RANGE);
        }
        if request.watch_id != 0 {
            let taken = self.ids.contains_key(&request.watch_id);
            return (!taken).then_some(request.watch_id).ok_or(DUPLICATE);
        }
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }
}

impl Watcher {
    fn new(stream: u64, watch_id: i64, request: &WatchCreateRequest, tip: i64) -> Watcher {
        let key: &[u8] = if request.key.is_empty() {
            b"\0"
        } else {
            &request.key
        };
        let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
        Watcher {
            stream,
            watch_id,
            range: KeyRange::new(key, &request.range_end),
            start: request.start_revision,
            next: match request.start_revision {
                0 => tip + 1,
                start => start,
            },
            state: State::Behind,
            puts: !filters(FilterType::Noput),
            deletes: !filters(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress: request.progress_notify,
            busy: false,
        }
    }

    /// Returns true if the watcher has heard everything up to `tip`, and is not still to begin.
    fn is_told(&self, tip: i64) -> bool {
        self.state == State::Tip && self.start <= tip
    }

    fn deliver(&mut self, outbox: &Outbox, header: &Bytes, events: Vec<Bytes>, limit: usize) {
        self.busy = true;
        metrics::EVENTS.inc_by(events.len() as u64);
        let whole = Frame::events(header.clone(), self.watch_id, Events::new(events));
        if self.fragment {
            whole
                .split(limit)
                .into_iter()
                .for_each(|piece| outbox.push(piece));
        } else {
            outbox.push(whole);
        }
    }
}

/// Events with their encodings, the ones with the previous value made when first asked for.
struct Encoded<'a, 'b> {
    events: &'a [Arc<Event>],
    with_previous: HashMap<usize, Bytes>,
    previous: &'a mut Previous<'b>,
}

impl<'a, 'b> Encoded<'a, 'b> {
    fn new(events: &'a [Arc<Event>], previous: &'a mut Previous<'b>) -> Encoded<'a, 'b> {
        Encoded {
            events,
            with_previous: HashMap::new(),
            previous,
        }
    }

    fn take(&mut self, wanted: &[usize], prev_kv: bool) -> Vec<Bytes> {
        wanted.iter().map(|at| self.one(*at, prev_kv)).collect()
    }

    fn one(&mut self, at: usize, prev_kv: bool) -> Bytes {
        let event = &self.events[at];
        if !prev_kv {
            return event.encoded();
        }
        let previous = &mut self.previous;
        let encoded = self.with_previous.entry(at).or_insert_with(|| {
            previous(event).map_or_else(|| event.encoded(), |kv| event.encoded_with(&kv))
        });
        encoded.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;
    use std::task::Poll;
    use std::task::Waker;

    use prost::Message;

    use super::super::outbox::Drained;
    use super::*;

    /// A hub with one stream, and the history that a store would have.
    struct Bench {
        core: Core,
        outbox: Arc<Outbox>,
        drained: Arc<Drained>,
        history: Vec<Arc<Event>>,
        compacted: i64,
    }

    impl Bench {
        fn new() -> Bench {
            let drained = Arc::new(Drained::default());
            let outbox = Arc::new(Outbox::new(1, drained.clone()));
            let mut core = Core::new(ResponseHeader::default(), 1 << 20, 1);
            core.open(1, outbox.clone());
            Bench {
                core,
                outbox,
                drained,
                history: Vec::new(),
                compacted: -1,
            }
        }

        fn event(key: &str, revision: i64) -> Arc<Event> {
            let (deleted, key) = match key.strip_prefix('-') {
                Some(key) => (true, key),
                None => (false, key),
            };
            let kv = KeyValue {
                key: key.to_string().into(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            Arc::new(if deleted {
                Event::delete(kv)
            } else {
                Event::put(kv)
            })
        }

        /// One transaction; `-a` deletes.
        fn write(&mut self, keys: &str) {
            let revision = self.next_revision();
            let events: Vec<_> = keys
                .split(' ')
                .map(|key| Bench::event(key, revision))
                .collect();
            self.history.extend(events.clone());
            self.core.dispatch(&events, revision, &mut |_| None);
        }

        fn next_revision(&self) -> i64 {
            self.history.last().map_or(1, |event| event.revision()) + 1
        }

        fn create(&mut self, key: &str, start: i64) {
            self.core.create(1, &Bench::request(key, start));
        }

        fn request(key: &str, start: i64) -> WatchCreateRequest {
            WatchCreateRequest {
                key: key.into(),
                range_end: if key == "a" { vec![] } else { vec![0] },
                start_revision: start,
                ..WatchCreateRequest::default()
            }
        }

        /// Slices of `revisions` until nobody wants more.
        fn catch_up(&mut self, revisions: i64) {
            while let Some(from) = self.core.wanted() {
                if from < self.compacted {
                    self.core.compact(self.compacted);
                    continue;
                }
                let to = (from + revisions).min(self.core.tip() + 1);
                let slice: Vec<_> = self
                    .history
                    .iter()
                    .filter(|event| (from..to).contains(&event.revision()))
                    .cloned()
                    .collect();
                self.core.catch_up(&slice, to, &mut |_| None);
            }
        }

        /// What the stream sends, as text, until it has nothing more.
        fn read(&mut self) -> Vec<String> {
            let mut cx = Context::from_waker(Waker::noop());
            let mut said = Vec::new();
            while let Poll::Ready(Some(Ok(frame))) = self.outbox.poll(&mut cx) {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                said.push(tell(
                    &WatchResponse::decode(&bytes[..]).expect("a response"),
                ));
                let drained = self.drained.take();
                self.core.resume(&drained);
                self.catch_up(2);
            }
            said
        }
    }

    fn tell(response: &WatchResponse) -> String {
        let revision = response.header.map_or(-1, |header| header.revision);
        let events: Vec<String> = response
            .events
            .iter()
            .map(|event| {
                let kv = event.kv.clone().unwrap_or_default();
                let sign = if event.r#type == 1 { "-" } else { "" };
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                format!("{sign}{key}@{}", kv.mod_revision)
            })
            .collect();
        let what = match (response.created, response.canceled) {
            (true, true) => format!("refused: {}", response.cancel_reason),
            (true, false) => "created".to_string(),
            (false, true) if response.compact_revision > 0 => {
                format!("compacted {}", response.compact_revision)
            }
            (false, true) => "canceled".to_string(),
            (false, false) if events.is_empty() => "progress".to_string(),
            (false, false) => events.join(" "),
        };
        format!("{} {what} rev {revision}", response.watch_id)
    }

    #[test]
    fn a_watcher_at_the_tip_hears_its_keys_one_response_a_revision() {
        let mut bench = Bench::new();
        bench.write("a");
        bench.create("a", 0);
        bench.create("", 0);
        bench.write("a b");
        bench.write("b");
        bench.write("-a");
        assert_eq!(
            bench.read(),
            [
                "0 created rev 2",
                "1 created rev 2",
                "0 a@3 rev 3",
                "1 a@3 b@3 rev 3",
                "1 b@4 rev 4",
                "0 -a@5 rev 5",
                "1 -a@5 rev 5",
            ]
        );
    }

    #[test]
    fn history_comes_in_slices_and_runs_on_into_live_events() {
        let mut bench = Bench::new();
        for _ in 0..4 {
            bench.write("a");
        }
        bench.create("a", 1);
        bench.catch_up(2);
        assert_eq!(
            bench.read(),
            [
                "0 created rev 5",
                "0 a@2 rev 5",
                "0 a@3 a@4 rev 5",
                "0 a@5 rev 5"
            ]
        );
        bench.write("a");
        assert_eq!(bench.read(), ["0 a@6 rev 6"]);
    }

    #[test]
    fn a_slow_stream_falls_behind_and_misses_nothing() {
        let mut bench = Bench::new();
        bench.create("a", 0);
        bench.create("", 0);
        for _ in 0..3000 {
            bench.write("a");
        }
        let mut heard: HashMap<char, Vec<i64>> = HashMap::new();
        for line in bench.read() {
            let id = line.chars().next().unwrap_or_default();
            let revisions = line.split(' ').filter_map(|word| word.strip_prefix("a@"));
            heard
                .entry(id)
                .or_default()
                .extend(revisions.filter_map(|revision| revision.parse::<i64>().ok()));
        }
        let all: Vec<i64> = (2..=3001).collect();
        assert_eq!(heard[&'0'], all);
        assert_eq!(heard[&'1'], all);
        bench.write("a");
        assert_eq!(bench.read(), ["0 a@3002 rev 3002", "1 a@3002 rev 3002"]);
    }

    #[test]
    fn a_hub_that_lost_its_place_reads_back() {
        let mut bench = Bench::new();
        bench.create("a", 0);
        bench.read();
        for revision in 2..=4 {
            bench.history.push(Bench::event("a", revision));
        }
        bench.core.fall_behind(4);
        bench.catch_up(10);
        assert_eq!(bench.read(), ["0 a@2 a@3 a@4 rev 4"]);
    }

    #[test]
    fn a_compacted_start_is_created_and_then_ended() {
        let mut bench = Bench::new();
        for _ in 0..4 {
            bench.write("a");
        }
        bench.compacted = 4;
        bench.create("a", 2);
        bench.create("a", 4);
        bench.catch_up(10);
        bench.core.progress(1);
        bench.core.cancel(1, 0);
        bench.core.progress(1);
        assert_eq!(
            bench.read(),
            [
                "0 created rev 5",
                "1 created rev 5",
                "0 compacted 4 rev 0",
                "1 a@4 a@5 rev 5",
                "0 canceled rev 5",
                "-1 progress rev 5",
            ]
        );
    }

    #[test]
    fn refused_creates_take_no_id() {
        let mut bench = Bench::new();
        let request = |key: &str, end: &str, start, watch_id| WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            start_revision: start,
            watch_id,
            ..WatchCreateRequest::default()
        };
        for (key, end, start, id) in [
            ("b", "a", 0, 0),
            ("b", "a", -1, 9),
            ("a", "", 0, 7),
            ("a", "", 0, 7),
            ("a", "", 0, 0),
            ("a", "", 0, -1),
        ] {
            bench.core.create(1, &request(key, end, start, id));
        }
        bench.core.cancel(1, 7);
        bench.core.cancel(1, 7);
        bench.core.cancel(1, 55);
        bench.core.create(1, &request("a", "", 0, 7));
        assert_eq!(
            bench.read(),
            [
                format!("-1 refused: {EMPTY_RANGE} rev 1"),
                format!("-1 refused: {COMPACTED} rev 1"),
                "7 created rev 1".into(),
                format!("-1 refused: {DUPLICATE} rev 1"),
                "0 created rev 1".into(),
                "-1 created rev 1".into(),
                "7 canceled rev 1".into(),
                "7 created rev 1".into(),
            ]
        );
    }

    #[test]
    fn progress_waits_for_the_slowest_watcher() {
        let mut bench = Bench::new();
        bench.core.progress(1);
        bench.create("a", 0);
        bench.core.progress(1);
        bench.create("a", 3);
        bench.core.progress(1);
        bench.write("b");
        bench.core.progress(1);
        bench.write("b");
        bench.core.progress(1);
        assert_eq!(
            bench.read(),
            [
                "0 created rev 1",
                "-1 progress rev 1",
                "1 created rev 1",
                "-1 progress rev 3",
            ]
        );
    }

    #[test]
    fn ticks_tell_idle_watchers_only() {
        let mut bench = Bench::new();
        let request = WatchCreateRequest {
            progress_notify: true,
            ..Bench::request("a", 0)
        };
        assert!(bench.core.create(1, &request));
        bench.create("a", 0);
        bench.core.tick(1);
        bench.write("a");
        bench.core.tick(1);
        bench.core.tick(1);
        assert_eq!(
            bench.read(),
            [
                "0 created rev 1",
                "1 created rev 1",
                "0 progress rev 1",
                "0 a@2 rev 2",
                "1 a@2 rev 2",
                "0 progress rev 2",
            ]
        );
    }

    #[test]
    fn filters_drop_kinds_of_events() {
        let mut bench = Bench::new();
        for filter in [FilterType::Noput, FilterType::Nodelete] {
            let request = WatchCreateRequest {
                filters: vec![filter as i32],
                ..Bench::request("a", 0)
            };
            bench.core.create(1, &request);
        }
        bench.write("a");
        bench.write("-a");
        let heard = bench.read().split_off(2);
        assert_eq!(heard, ["1 a@2 rev 2", "0 -a@3 rev 3"]);
    }

    #[test]
    fn ten_thousand_watches_leave_nothing_behind() {
        let mut bench = Bench::new();
        for stream in 2..102 {
            let outbox = Arc::new(Outbox::new(stream, bench.drained.clone()));
            bench.core.open(stream, outbox);
            for key in 0..100 {
                bench
                    .core
                    .create(stream, &Bench::request(&format!("k{key}"), key % 3));
            }
        }
        assert_eq!(bench.core.watchers.len(), 10_000);
        for stream in 2..102 {
            bench.core.close(stream);
        }
        assert!(bench.core.watchers.is_empty() && bench.core.behind.is_empty());
        assert!(bench.core.matching.is_empty());
        assert_eq!(bench.core.streams.len(), 1);
        assert_eq!(bench.drained.waiting(), 0);
    }
}
