//! The tree against the model, and what it costs, without a clock.

use std::ops::ControlFlow;
use std::time::Instant;

use fastrand::Rng;

use super::Builder;
use super::Freed;
use super::Handle;
use super::Index;
use super::Version;
use super::model;
use super::node::Span;
use super::node::touched;
use crate::mvcc::Revision;
use crate::proto::KeyRange;

impl<const N: usize> Index<N> {
    /// Panics unless every summary agrees with the versions below it.
    fn check(&self, now: i64) {
        let span = Span {
            from: None,
            to: None,
        };
        self.root.check(span, self.compacted, now, true);
        let all = KeyRange::new(b"\0", b"\0");
        assert_eq!(self.live, self.count(&all, i64::MAX));
    }
}

fn at(main: i64) -> Revision {
    Revision { main, sub: 0 }
}

/// What a run of the model looks like.
#[derive(Clone, Copy)]
struct Plan {
    keys: usize,
    transactions: usize,
    /// Of 100 writes, how many delete.
    deletes: u32,
    /// Of 1000 transactions, how many are followed by a new compaction.
    compactions: u32,
    /// Transactions between two checks of everything.
    check_every: usize,
}

/// Keys with every kind of neighbour: prefixes of each other, zero bytes, long shared parts, long keys.
fn universe(random: &mut Rng, count: usize) -> Vec<Vec<u8>> {
    let key = |number: usize, random: &mut Rng| -> Vec<u8> {
        match number % 8 {
            0 => (0..random.usize(1..6)).map(|_| random.u8(..3)).collect(),
            1 => vec![b'a'; random.usize(1..600)],
            2 => format!("/registry/pods/namespace-{:05}/", random.u16(..9)).into(),
            3 => [&[0xff; 60][..], &random.u32(..5000).to_be_bytes()].concat(),
            4 => format!("/seq/{number:08}").into(),
            5 if number % 64 == 5 => vec![b'b'; 500 + random.usize(..300)],
            _ => {
                let (namespace, pod) = (random.u16(..9), random.u64(..));
                format!("/registry/pods/namespace-{namespace:05}/deployment-{pod:015x}").into()
            }
        }
    };
    let mut keys: Vec<_> = (0..count).map(|number| key(number, random)).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The tree and the model side by side.
struct Pair<const N: usize> {
    random: Rng,
    keys: Vec<Vec<u8>>,
    tree: Index<N>,
    model: model::Index,
    now: i64,
    compacted: i64,
    /// Versions freed by each side in a compaction that still runs in the tree.
    freed: (Vec<Freed>, Vec<Freed>),
    compacting: bool,
}

impl<const N: usize> Pair<N> {
    fn new(seed: u64, keys: usize) -> Pair<N> {
        let mut random = Rng::with_seed(seed);
        Pair {
            keys: universe(&mut random, keys),
            random,
            tree: Index::with_nodes(),
            model: model::Index::new(),
            now: 1,
            compacted: 0,
            freed: (Vec::new(), Vec::new()),
            compacting: false,
        }
    }

    /// Half of all writes go to a few hot keys, some to a run in order.
    fn pick(&mut self) -> Vec<u8> {
        let all = self.keys.len();
        let index = match self.random.u8(..8) {
            0..3 => self.random.usize(..all.min(8)) * (all / all.min(8)),
            3 => self.now as usize % all,
            _ => self.random.usize(..all),
        };
        self.keys[index].clone()
    }

    fn transaction(&mut self, deletes: u32) {
        self.now += 1;
        let mut key = self.pick();
        for sub in 0..self.random.u32(1..5) {
            if self.random.u8(..3) > 0 {
                key = self.pick();
            }
            let at = Revision {
                main: self.now,
                sub,
            };
            if self.random.u32(..100) < deletes {
                assert_eq!(self.tree.delete(&key, at), self.model.delete(&key, at));
                continue;
            }
            let value = Handle::new(self.random.u64(..1000));
            let made = self.tree.put(&key, at, value);
            assert_eq!(made, self.model.put(&key, at, value));
            if self.random.u8(..8) == 0 {
                let modified = Revision {
                    sub: sub.saturating_sub(self.random.u32(..2)),
                    ..at
                };
                let value = Handle::new(9999);
                self.tree.set_handle(&key, modified, value);
                self.model.set_handle(&key, modified, value);
            }
        }
        assert_eq!(self.tree.live(), self.model.live());
    }

    fn compaction(&mut self) {
        self.compacted = self.random.i64(self.compacted..=self.now);
        let done = self
            .model
            .compact(self.compacted, usize::MAX, &mut self.freed.1);
        assert!(done);
        self.compacting = true;
    }

    fn slice(&mut self) {
        if !self.compacting {
            return;
        }
        let (leaves, before) = (self.random.usize(..4), self.freed.0.len());
        let done = self.tree.compact(self.compacted, leaves, &mut self.freed.0);
        let most = leaves.max(1) * super::blocks::BLOCK;
        assert!(self.freed.0.len() - before <= most);
        if done {
            self.freed.0.sort();
            self.freed.1.sort();
            assert_eq!(self.freed.0, self.freed.1, "freed at {}", self.compacted);
            self.freed = Default::default();
            self.compacting = false;
        }
    }

    fn range(&mut self) -> KeyRange {
        let bound = |pair: &mut Pair<N>| {
            let mut key = pair.pick();
            match pair.random.u8(..4) {
                0 => key.truncate(pair.random.usize(..=key.len())),
                1 => key.push(pair.random.u8(..)),
                _ => {}
            }
            key
        };
        let start = bound(self);
        match self.random.u8(..8) {
            0 => KeyRange {
                start: Vec::new(),
                end: None,
            },
            1 => KeyRange { start, end: None },
            2 => KeyRange::new(&start, b""),
            _ => {
                let end = Some(bound(self));
                KeyRange { start, end }
            }
        }
    }

    fn compare_reads(&mut self) {
        let (range, revision) = (self.range(), self.random.i64(self.compacted..=self.now + 1));
        let count = self.model.count(&range, revision);
        assert_eq!(
            self.tree.count(&range, revision),
            count,
            "{range:?} at {revision}"
        );
        let (first, rest) = (self.random.usize(1..20), usize::MAX);
        for limit in [first, rest] {
            let of_tree = page(limit, |visit| self.tree.walk(&range, revision, visit));
            let of_model = page(limit, |visit| self.model.walk(&range, revision, visit));
            assert_eq!(of_tree, of_model, "{range:?} at {revision}");
        }
        for _ in 0..5 {
            let key = self.pick();
            assert_eq!(
                self.tree.get_at(&key, revision),
                self.model.get_at(&key, revision)
            );
            assert_eq!(self.tree.get(&key), self.model.get(&key));
        }
    }

    fn compare_retained(&mut self) {
        let revision = self.random.i64(self.compacted..=self.now);
        let (mut of_tree, mut of_model) = (Vec::new(), Vec::new());
        self.tree.retained(revision, &mut |one| of_tree.push(one));
        self.model.retained(revision, &mut |one| of_model.push(one));
        assert_eq!(of_tree, of_model, "retained at {revision}");
    }

    /// Replaces the tree by one that is built from an export up to a revision, which is returned.
    fn rebuild(&mut self) -> i64 {
        let (upto, slice) = (
            self.random.i64(self.compacted..=self.now),
            self.random.usize(1..50),
        );
        let (mut builder, mut from, mut all) = (Builder::with_nodes(), Vec::new(), false);
        while !all {
            let mut taken = 0;
            all = true;
            self.tree.export(&from.clone(), upto, &mut |key, versions| {
                if taken == slice {
                    from = key.to_vec();
                    all = false;
                    return ControlFlow::Break(());
                }
                taken += 1;
                for version in versions {
                    assert!(builder.push(key, version));
                    assert!(!builder.push(key, version), "taken twice");
                }
                ControlFlow::Continue(())
            });
        }
        self.tree = builder.finish(self.compacted);
        self.tree.check(upto.max(self.compacted));
        upto
    }

    /// Replaces the tree by one that has the stored versions replayed.
    fn restart(&mut self) {
        while self.compacting {
            self.slice();
        }
        let tail = match self.random.bool() {
            true => self.rebuild(),
            false => {
                self.tree = Index::with_nodes();
                self.tree.begin_at(self.compacted);
                0
            }
        };
        for (key, version) in self.model.stored() {
            if version.modified.main > tail {
                self.tree.restore(&key, version);
            }
        }
        self.model.forget_handles();
        assert_eq!(self.tree.live(), self.model.live());
        self.tree.check(self.now);
        self.compare_retained();
        (0..20).for_each(|_| self.compare_reads());
    }

    fn run(&mut self, plan: Plan) {
        for step in 1..=plan.transactions {
            // Tides, so that the tree grows and shrinks.
            let tide = match step * 6 / plan.transactions % 2 {
                0 => plan.deletes,
                _ => 100 - plan.deletes,
            };
            self.transaction(tide);
            if self.random.u32(..1000) < plan.compactions {
                self.compaction();
            }
            if self.random.u8(..4) == 0 {
                self.slice();
            }
            if step % plan.check_every == 0 {
                self.tree.check(self.now);
                self.compare_reads();
            }
            if step % (plan.check_every * 20) == 0 {
                self.compare_retained();
            }
        }
        self.restart();
        for _ in 0..plan.transactions / 20 {
            self.transaction(plan.deletes);
        }
        self.tree.check(self.now);
        self.compare_reads();
        self.empty();
    }

    /// Deletes everything, compacts, and sees the tree come back to a single leaf.
    fn empty(&mut self) {
        for key in self.keys.clone() {
            self.now += 1;
            let at = at(self.now);
            assert_eq!(self.tree.delete(&key, at), self.model.delete(&key, at));
        }
        self.compacted = self.now;
        let last = self.tree.live() + 1;
        self.now += last as i64;
        self.compaction();
        self.compacted = self.now;
        self.compaction();
        while self.compacting {
            self.slice();
            self.tree.check(self.now);
        }
        assert_eq!((self.tree.live(), self.tree.root.height()), (0, 1));
        assert_eq!(self.tree.root.garbage(), i64::MAX);
    }
}

type Seen = Vec<(Vec<u8>, Version, Handle)>;

/// The first `limit` keys of a walk.
fn page(limit: usize, walk: impl FnOnce(&mut super::Visit<'_>)) -> Seen {
    let mut seen = Vec::new();
    walk(&mut |key, version, handle| {
        seen.push((key.to_vec(), version, handle));
        match seen.len() == limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    seen
}

fn campaign<const N: usize>(seeds: std::ops::Range<u64>, plan: Plan) {
    for seed in seeds {
        println!("nodes of {N}, seed {seed}");
        Pair::<N>::new(seed, plan.keys).run(plan);
    }
}

#[test]
fn small_tree_agrees_with_the_model_at_every_step() {
    let plan = Plan {
        keys: 60,
        transactions: 4_000,
        deletes: 30,
        compactions: 10,
        check_every: 1,
    };
    campaign::<4>(0..10, plan);
}

#[test]
fn deep_tree_agrees_with_the_model() {
    let plan = Plan {
        keys: 2_000,
        transactions: 20_000,
        deletes: 25,
        compactions: 3,
        check_every: 200,
    };
    campaign::<4>(10..16, plan);
    campaign::<8>(20..26, plan);
}

#[test]
fn long_window_agrees_with_the_model() {
    let plan = Plan {
        keys: 120,
        transactions: 20_000,
        deletes: 35,
        compactions: 0,
        check_every: 100,
    };
    campaign::<4>(30..36, plan);
}

#[test]
fn tree_of_full_width_agrees_with_the_model() {
    let plan = Plan {
        keys: 12_000,
        transactions: 30_000,
        deletes: 20,
        compactions: 2,
        check_every: 1_000,
    };
    campaign::<64>(40..42, plan);
}

/// A tree of 64-byte keys as Kubernetes has them, written in random order, one revision each.
struct Cluster {
    random: Rng,
    tree: Index,
    keys: Vec<Vec<u8>>,
    now: i64,
}

impl Cluster {
    fn keys(count: usize, in_order: bool) -> Vec<Vec<u8>> {
        let mut random = Rng::with_seed(count as u64);
        let key = |number: usize| {
            let (namespace, pod) = (number / 1000, number / 7);
            let tail = random.u64(..) >> 4;
            format!("/registry/pods/namespace-{namespace:05}/deployment-{pod:06}-{tail:015x}")
        };
        let mut keys: Vec<_> = (0..count).map(key).map(String::into_bytes).collect();
        match in_order {
            true => keys.sort(),
            false => random.shuffle(&mut keys),
        }
        keys
    }

    fn new(count: usize, in_order: bool) -> Cluster {
        let mut cluster = Cluster {
            random: Rng::with_seed(count as u64),
            tree: Index::new(),
            keys: Cluster::keys(count, in_order),
            now: 1,
        };
        for index in 0..count {
            cluster.put(index);
        }
        cluster
    }

    fn put(&mut self, index: usize) {
        self.now += 1;
        let (key, at) = (&self.keys[index], at(self.now));
        self.tree.put(key, at, Handle::NONE);
    }

    /// Deletes `count` random keys and creates as many others again.
    fn churn(&mut self, count: usize) {
        for _ in 0..count {
            let (victim, other) = (self.random.usize(..self.keys.len()), self.now as usize);
            self.now += 1;
            self.tree.delete(&self.keys[victim], at(self.now));
            self.put(other % self.keys.len());
        }
    }

    fn compact(&mut self) {
        let mut freed = Vec::new();
        while !self.tree.compact(self.now, 16, &mut freed) {}
    }

    fn range(&mut self) -> KeyRange {
        let mut bound = || self.keys[self.random.usize(..self.keys.len())].clone();
        let (a, b) = (bound(), bound());
        KeyRange {
            start: a.clone().min(b.clone()),
            end: Some(a.max(b)),
        }
    }

    /// The most nodes that a count and a page of 500 touched, of 100 each.
    fn cost_at(&mut self, revision: i64) -> (usize, usize) {
        let (mut count, mut page) = (0, 0);
        for _ in 0..100 {
            let range = self.range();
            count = count.max(touched::by(|| {
                self.tree.count(&range, revision);
            }));
            let (open, mut seen) = (KeyRange { end: None, ..range }, 0);
            page = page.max(touched::by(|| {
                self.tree.walk(&open, revision, &mut |_, _, _| {
                    seen += 1;
                    match seen == 500 {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                });
            }));
        }
        (count, page)
    }
}

#[test]
fn cost_hardly_grows_with_the_number_of_keys() {
    let mut costs = Vec::new();
    for count in [2_000, 200_000] {
        let mut cluster = Cluster::new(count, false);
        let loading = cluster.now - count as i64 / 4;
        let while_loading = cluster.cost_at(loading);
        cluster.compact();
        let before = cluster.now;
        cluster.churn(count / 8);
        let amid = (before + cluster.now) / 2;
        cluster.tree.check(cluster.now);
        let now = cluster.cost_at(cluster.now);
        let old = cluster.cost_at(amid);
        println!(
            "{count} keys: (count, page) now {now:?} old {old:?} while loading {while_loading:?}"
        );
        costs.push([now, old, while_loading]);
    }
    for (small, large) in costs[0].iter().zip(&costs[1]) {
        assert!(large.1 <= 3 * small.1, "page: {small:?} to {large:?}");
    }
    let [now, old, _] = costs[1];
    // Two borders of height nodes, and at an old revision the children between them at each level.
    let height = 4;
    assert!(now.0 <= 2 * height, "count now: {now:?}");
    assert!(
        old.0 <= 2 * 64 * height,
        "count at an old revision: {old:?}"
    );
}

#[test]
fn memory_per_key_stays_near_the_design() {
    let count = 100_000;
    for (in_order, limit) in [(true, 95), (false, 122)] {
        let mut cluster = Cluster::new(count, in_order);
        let loaded = cluster.tree.root.bytes() / count;
        cluster.compact();
        let compacted = cluster.tree.root.bytes() / count;
        println!("in order {in_order}: {loaded} bytes a key, {compacted} once compacted");
        assert!(compacted <= limit, "{compacted} bytes a key");
        assert!(loaded <= limit + 30, "{loaded} bytes a key with logs");
    }
}

#[test]
fn replay_of_what_was_compacted_takes_no_room_in_logs() {
    let count = 20_000;
    let mut cluster = Cluster::new(count, false);
    // Logs of several blocks, and nothing but births: their garbage is all there is to find.
    cluster.tree.check(cluster.now);
    assert!(cluster.tree.root.garbage() <= cluster.now);
    cluster.compact();
    // Births alone fill the next block.
    for key in Cluster::keys(count / 2, false) {
        cluster.keys.push(key);
        cluster.put(cluster.keys.len() - 1);
    }
    cluster.tree.check(cluster.now);
    cluster.compact();
    let mut restored = Index::new();
    assert!(restored.compact(cluster.now, 1, &mut Vec::new()));
    for (index, key) in cluster.keys.iter().enumerate() {
        let (version, _) = cluster.tree.get(key).expect("all are live");
        assert_eq!(version.modified, at(index as i64 + 2));
        restored.restore(key, version);
    }
    restored.check(cluster.now);
    let (before, after) = (cluster.tree.root.bytes(), restored.root.bytes());
    assert!(after <= before, "{before} bytes, {after} after a restart");
}

#[test]
fn hot_key_costs_its_history_and_frees_it_in_slices() {
    let mut tree = Index::new();
    let writes = 50_000;
    for main in 1..=writes {
        let made = tree.put(b"hot", at(main), Handle::new(main as u64));
        assert_eq!((made.created, made.version), (1, main));
    }
    let bytes = tree.root.bytes() / writes as usize;
    assert!(bytes <= 26, "{bytes} bytes a version");
    for main in [1, 2, 255, 256, 257, 30_000, writes] {
        let (version, _) = tree.get_at(b"hot", main).expect("live since 1");
        assert_eq!((version.modified, version.version), (at(main), main));
    }
    let (mut freed, mut slices) = (Vec::new(), 0);
    while !tree.compact(writes - 10, 4, &mut freed) {
        slices += 1;
        assert_eq!(freed.len(), slices * 1024);
    }
    let expected: Vec<_> = (1..writes - 10).map(at).collect();
    assert!(freed.iter().map(|it| it.at).eq(expected));
    assert_eq!(tree.count(&KeyRange::new(b"hot", b""), writes - 10), 1);
}

#[test]
fn versions_beyond_32_bits_are_kept() {
    let mut tree = Index::new();
    let last = Version {
        modified: at(1 << 50),
        created: 3,
        version: i64::from(u32::MAX),
    };
    tree.restore(b"a", last);
    for step in 1..4 {
        let made = tree.put(b"a", at((1 << 50) + step), Handle::NONE);
        assert_eq!(made.version, i64::from(u32::MAX) + step);
        assert_eq!(tree.get(b"a"), Some((made, Handle::NONE)));
    }
    assert_eq!(tree.get_at(b"a", 1 << 50), Some((last, Handle::NONE)));
}

/// CPU time of this thread, which a busy neighbour does not lengthen much.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = stat.split(' ').next().expect("three numbers");
    first.parse().expect("nanoseconds")
}

/// Runs `work` `count` times and prints what one took.
fn measure(what: &str, count: usize, mut work: impl FnMut(usize)) {
    let (begin, mut slowest) = (cpu_nanos(), 0);
    for part in 0..10 {
        let before = cpu_nanos();
        (part * count / 10..(part + 1) * count / 10).for_each(&mut work);
        slowest = slowest.max(cpu_nanos() - before);
    }
    let (each, worst) = (
        (cpu_nanos() - begin) / count as u64,
        slowest * 10 / count as u64,
    );
    println!("{what}: {each} ns (slowest tenth {worst} ns)");
}

/// `cargo test --release --lib index::tests::figures -- --ignored --nocapture`
#[test]
#[ignore = "a measurement of a million keys, for a release build"]
fn figures() {
    for in_order in [true, false] {
        let count = 1_000_000;
        let mut cluster = Cluster::new(0, in_order);
        cluster.keys = Cluster::keys(count, in_order);
        println!("keys in order: {in_order}");
        let mut plain = std::collections::BTreeMap::new();
        measure("std insert", count, |index| {
            plain.insert(cluster.keys[index].clone().into_boxed_slice(), [0u64; 5]);
        });
        let mut random = Rng::with_seed(1);
        measure("std get", count, |_| {
            assert!(plain.contains_key(&cluster.keys[random.usize(..count)][..]));
        });
        drop(plain);
        measure("insert", count, |index| cluster.put(index));
        println!("bytes a key: {}", cluster.tree.root.bytes() / count);
        cluster.compact();
        println!("compacted: {}", cluster.tree.root.bytes() / count);
        let mut random = Rng::with_seed(1);
        measure("get", count, |_| {
            let key = &cluster.keys[random.usize(..count)];
            assert!(cluster.tree.get(key).is_some());
        });
        let before = cluster.now;
        measure("overwrite", count, |_| cluster.put(random.usize(..count)));
        println!("with history: {}", cluster.tree.root.bytes() / count);
        measure("delete and create", 100_000, |_| cluster.churn(1));
        reads(&mut cluster, "now", i64::MAX);
        let amid = cluster.now - 100_000;
        reads(&mut cluster, "old", amid);
        reads(&mut cluster, "oldest", before);
        let (mut freed, now) = (Vec::new(), cluster.now);
        let (mut slices, mut versions) = (Vec::new(), 0);
        let (begin, mut done) = (cpu_nanos(), false);
        while !done {
            freed.clear();
            let before = Instant::now();
            done = cluster.tree.compact(now, 16, &mut freed);
            slices.push(before.elapsed());
            versions += freed.len() as u64;
        }
        let each = (cpu_nanos() - begin) / versions;
        slices.sort();
        let [half, most] = [50, 99].map(|percent| slices[slices.len() * percent / 100]);
        println!("compaction: {each} ns a version; slices p50 {half:?} p99 {most:?}");
        println!("compacted: {}", cluster.tree.root.bytes() / count);
        let mut stored = Vec::new();
        let all = KeyRange::new(b"\0", b"\0");
        cluster.tree.walk(&all, now, &mut |key, version, _| {
            stored.push((version, key.to_vec()));
            ControlFlow::Continue(())
        });
        stored.sort();
        let mut restored = Index::new();
        restored.compact(now, 1, &mut Vec::new());
        measure("restore", stored.len(), |index| {
            let (version, key) = &stored[index];
            restored.restore(key, *version);
        });
        println!("restored: {}", restored.root.bytes() / stored.len());
    }
}

fn reads(cluster: &mut Cluster, when: &str, revision: i64) {
    let ranges: Vec<_> = (0..2_000).map(|_| cluster.range()).collect();
    measure(&format!("count of a range, {when}"), 2_000, |index| {
        cluster.tree.count(&ranges[index], revision);
    });
    measure(&format!("page of 500, {when}"), 2_000, |index| {
        let start = ranges[index].start.clone();
        let (open, mut seen, mut bytes) = (KeyRange { start, end: None }, 0, 0);
        cluster.tree.walk(&open, revision, &mut |key, _, _| {
            (seen, bytes) = (seen + 1, bytes + key.len());
            match seen == 500 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert!(bytes > 0 || seen == 0);
    });
}
