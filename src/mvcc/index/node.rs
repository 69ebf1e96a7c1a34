//! The counted tree: leaves hold versions, inner nodes hold summaries of what is below them.
//!
//! For child `i` of an inner node,
//! - `live[i]` is the number of live keys below it;
//! - `newest[i]` is at least the revision of every birth or death below it;
//! - `garbage[i]` is at most the lowest revision at which a compaction frees anything below it;
//!
//! and the node's log tells, for every revision it covers, how many keys below the node were live.
//! The bounds may be loose, never wrong. An overwrite is neither birth nor death: it lowers `garbage`
//! and touches nothing else. The root has no log, because nobody above it asks.

use std::ops::ControlFlow;

use super::Change;
use super::Export;
use super::Freed;
use super::Version;
use super::Visit;
use super::entry::Entry;
use super::leaf::Leaf;
use super::log::Log;
use super::separators::Separators;
use crate::mvcc::Revision;

#[derive(Debug)]
pub(super) enum Node<const N: usize> {
    Leaf(Box<Leaf<N>>),
    Inner(Box<Inner<N>>),
}

#[derive(Debug)]
pub(super) struct Inner<const N: usize> {
    separators: Separators<N>,
    live: [u32; N],
    newest: [i64; N],
    garbage: [i64; N],
    kids: Vec<Node<N>>,
    log: Option<Log>,
}

/// One change, and the compacted revision, before which nobody asks.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    pub(super) change: Change,
    pub(super) compacted: i64,
}

/// What a write did below, for the node above to sum up.
pub(super) struct Outcome<const N: usize> {
    pub(super) made: Version,
    /// Keys born less keys that died.
    pub(super) delta: i32,
    /// A compaction at this revision has something new to free.
    garbage: i64,
    pub(super) split: Option<Split<N>>,
}

pub(super) struct Split<const N: usize> {
    pub(super) separator: Vec<u8>,
    pub(super) right: Node<N>,
}

/// A part of the key space: bounds that a node lies wholly within are absent.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) from: Option<&'a [u8]>,
    pub(super) to: Option<&'a [u8]>,
}

impl<'a> Span<'a> {
    /// The part of the span for child `index` of `first..=last`.
    fn of(self, index: usize, first: usize, last: usize) -> Span<'a> {
        Span {
            from: self.from.filter(|_| index == first),
            to: self.to.filter(|_| index == last),
        }
    }

    fn is_whole(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// How much one slice of a compaction may still do.
pub(super) struct Allowance {
    pub(super) nodes: usize,
    pub(super) versions: usize,
}

impl Allowance {
    fn is_spent(&self) -> bool {
        self.nodes == 0 || self.versions == 0
    }
}

impl<const N: usize> Node<N> {
    pub(super) fn new() -> Node<N> {
        Node::Leaf(Box::new(Leaf::new()))
    }

    #[inline]
    pub(super) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.entry(key),
                Node::Inner(inner) => node = &inner.kids[inner.separators.child(key)],
            }
        }
    }

    pub(super) fn entry_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.entry_mut(key),
                Node::Inner(inner) => {
                    let child = inner.separators.child(key);
                    node = &mut inner.kids[child];
                }
            }
        }
    }

    /// Writes, or returns `None` if there is nothing to change.
    pub(super) fn write(&mut self, write: &Write<'_>) -> Option<Outcome<N>> {
        match self {
            Node::Leaf(leaf) => write_leaf(leaf, write),
            Node::Inner(inner) => inner.write(write),
        }
    }

    fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(inner) => inner.kids.len(),
        }
    }

    pub(super) fn live(&self) -> u32 {
        match self {
            Node::Leaf(leaf) => leaf.live(),
            Node::Inner(inner) => inner.live(),
        }
    }

    fn newest(&self) -> i64 {
        match self {
            Node::Leaf(leaf) => leaf.entries().iter().map(Entry::turned).max(),
            Node::Inner(inner) => inner.newest[..inner.kids.len()].iter().copied().max(),
        }
        .unwrap_or(0)
    }

    /// The lowest revision at which a compaction frees anything here, or lower.
    pub(super) fn garbage(&self) -> i64 {
        match self {
            Node::Leaf(leaf) => leaf.entries().iter().map(Entry::garbage).min(),
            Node::Inner(inner) => return inner.garbage(),
        }
        .unwrap_or(i64::MAX)
    }

    /// The number of keys below that were live at `revision`.
    fn live_at(&self, revision: i64) -> u64 {
        touch();
        match self {
            Node::Leaf(leaf) => {
                let live = leaf.entries().iter().filter(|e| e.live_at(revision));
                live.count() as u64
            }
            Node::Inner(inner) => match inner.logged(revision) {
                Some(live) => live,
                None => (0..inner.kids.len())
                    .map(|index| inner.child_live_at(index, revision))
                    .sum(),
            },
        }
    }

    /// The number of keys of `span` that were live at `revision`. `settled`: none below was born or
    /// died since.
    pub(super) fn count(&self, span: Span<'_>, revision: i64, settled: bool) -> u64 {
        touch();
        match self {
            Node::Leaf(leaf) => {
                let (low, high) = leaf_range(leaf, span);
                if settled {
                    return u64::from(leaf.live_between(low, high));
                }
                let entries = leaf.entries()[low..high].iter();
                entries.filter(|entry| entry.live_at(revision)).count() as u64
            }
            Node::Inner(inner) => inner.count(span, revision),
        }
    }

    /// Visits the keys of `span` that were live at `revision`. `buffer` is where keys are put together.
    pub(super) fn walk(
        &self,
        span: Span<'_>,
        revision: i64,
        buffer: &mut Vec<u8>,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<()> {
        touch();
        match self {
            Node::Leaf(leaf) => {
                let (low, high) = leaf_range(leaf, span);
                for index in low..high {
                    if let Some((version, value)) = leaf.entries()[index].at(revision) {
                        leaf.copy_key(index, buffer);
                        visit(buffer, version, value)?;
                    }
                }
            }
            Node::Inner(inner) => {
                let (first, last) = inner.children(span);
                for index in (first..=last).filter(|index| !inner.is_barren(*index, revision)) {
                    let span = span.of(index, first, last);
                    inner.kids[index].walk(span, revision, buffer, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Visits every key of `span` and its versions up to `revision`, of which there may be none.
    pub(super) fn export(
        &self,
        span: Span<'_>,
        revision: i64,
        buffer: &mut Vec<u8>,
        visit: &mut Export<'_>,
    ) -> ControlFlow<()> {
        match self {
            Node::Leaf(leaf) => {
                let (low, high) = leaf_range(leaf, span);
                for index in low..high {
                    leaf.copy_key(index, buffer);
                    visit(buffer, leaf.entries()[index].versions(revision))?;
                }
            }
            Node::Inner(inner) => {
                let (first, last) = inner.children(span);
                for index in first..=last {
                    let span = span.of(index, first, last);
                    inner.kids[index].export(span, revision, buffer, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Builds the levels above a row of nodes, each with the string that separates it from the one before.
    pub(super) fn over(mut row: Vec<(Vec<u8>, Node<N>)>, now: i64, compacted: i64) -> Node<N> {
        while row.len() > 1 {
            let root = row.len() <= N;
            let mut nodes = row.into_iter();
            row = Vec::new();
            while let Some((separator, first)) = nodes.next() {
                let mut inner = Inner::new(first);
                for (separator, node) in nodes.by_ref().take(N - 1) {
                    inner.insert_child(inner.kids.len(), &separator, node);
                }
                if !root {
                    inner.begin_log(now, compacted);
                }
                row.push((separator, Node::Inner(Box::new(inner))));
            }
        }
        row.pop().map_or_else(Node::new, |(_, root)| root)
    }

    /// Visits the version of each key that was live at `revision`.
    pub(super) fn retained(&self, revision: i64, visit: &mut dyn FnMut(Revision)) {
        match self {
            Node::Leaf(leaf) => {
                let live = leaf.entries().iter().filter_map(|e| e.at(revision));
                live.for_each(|(version, _)| visit(version.modified));
            }
            Node::Inner(inner) => (0..inner.kids.len())
                .filter(|index| !inner.is_barren(*index, revision))
                .for_each(|index| inner.kids[index].retained(revision, visit)),
        }
    }

    /// Frees, left to right and as far as allowed, what a compaction at `revision` frees.
    pub(super) fn compact(
        &mut self,
        revision: i64,
        allowed: &mut Allowance,
        freed: &mut Vec<Freed>,
    ) {
        touch();
        match self {
            Node::Leaf(leaf) => {
                allowed.nodes = allowed.nodes.saturating_sub(1);
                leaf.retain(|entry| entry.compact(revision, &mut allowed.versions, freed));
            }
            Node::Inner(inner) => inner.compact(revision, allowed, freed),
        }
    }

    /// Takes over everything below the node to the right, which is of the same height.
    fn absorb(&mut self, separator: &[u8], right: Node<N>) {
        match (self, right) {
            (Node::Leaf(leaf), Node::Leaf(right)) => leaf.absorb(*right),
            (Node::Inner(inner), Node::Inner(right)) => inner.absorb(separator, *right),
            _ => unreachable!("neighbours of unequal height"),
        }
    }

    /// Makes a root with one child into that child, and one without any into an empty leaf.
    pub(super) fn shrink_root(&mut self) {
        while let Node::Inner(inner) = self
            && inner.kids.len() <= 1
        {
            let only = inner.kids.pop().unwrap_or_else(Node::new);
            *self = only;
            if let Node::Inner(inner) = self {
                inner.log = None;
            }
        }
    }

    /// Puts a new root above this one and the node it was split from.
    pub(super) fn grow_root(&mut self, split: Split<N>) {
        let left = std::mem::replace(self, Node::new());
        let mut root = Inner::new(left);
        root.insert_child(1, &split.separator, split.right);
        *self = Node::Inner(Box::new(root));
    }
}

fn write_leaf<const N: usize>(leaf: &mut Leaf<N>, write: &Write<'_>) -> Option<Outcome<N>> {
    let Write { key, change, .. } = *write;
    let found = leaf.search(key);
    let prior = found.ok().map(|index| leaf.entries()[index].newest());
    let made = change.after(prior)?;
    let was_live = prior.is_some_and(|prior| !prior.is_tombstone());
    let mut outcome = Outcome {
        made,
        delta: i32::from(!made.is_tombstone()) - i32::from(was_live),
        garbage: made.modified.main,
        split: None,
    };
    match found {
        Ok(index) => leaf.update(index, |entry| entry.push(made, change.value())),
        Err(index) => {
            let entry = Entry::new(made, change.value());
            outcome.garbage = entry.garbage();
            let split = leaf.insert(index, key, entry);
            outcome.split = split.map(|(separator, right)| Split {
                separator,
                right: Node::Leaf(right),
            });
        }
    }
    Some(outcome)
}

fn leaf_range<const N: usize>(leaf: &Leaf<N>, span: Span<'_>) -> (usize, usize) {
    let low = span.from.map_or(0, |from| leaf.lower_bound(from));
    let high = span.to.map_or(leaf.len(), |to| leaf.lower_bound(to));
    (low, high.max(low))
}

impl<const N: usize> Inner<N> {
    fn new(only: Node<N>) -> Inner<N> {
        let mut inner = Inner {
            separators: Separators::new(),
            live: [0; N],
            newest: [0; N],
            garbage: [0; N],
            kids: vec![only],
            log: None,
        };
        inner.summarise(0);
        inner
    }

    fn live(&self) -> u32 {
        self.live[..self.kids.len()].iter().sum()
    }

    fn garbage(&self) -> i64 {
        let log = self.log.as_ref().map_or(i64::MAX, Log::droppable);
        let kids = self.garbage[..self.kids.len()].iter();
        kids.fold(log, |lowest, kid| lowest.min(*kid))
    }

    /// The log's answer for all keys below, if it reaches back that far.
    fn logged(&self, revision: i64) -> Option<u64> {
        self.log.as_ref()?.at(revision).map(u64::from)
    }

    fn child_live_at(&self, index: usize, revision: i64) -> u64 {
        match self.newest[index] <= revision {
            true => u64::from(self.live[index]),
            false => self.kids[index].live_at(revision),
        }
    }

    /// True if it is cheap to see that no key below child `index` was live at `revision`.
    fn is_barren(&self, index: usize, revision: i64) -> bool {
        if self.newest[index] <= revision {
            return self.live[index] == 0;
        }
        match &self.kids[index] {
            Node::Leaf(_) => false,
            Node::Inner(inner) => inner.logged(revision) == Some(0),
        }
    }

    /// The first and the last child that can hold keys of `span`.
    fn children(&self, span: Span<'_>) -> (usize, usize) {
        let first = span.from.map_or(0, |from| self.separators.child(from));
        let last = span.to.map(|to| self.separators.child(to));
        (first, last.unwrap_or(self.kids.len() - 1))
    }

    fn count(&self, span: Span<'_>, revision: i64) -> u64 {
        let (first, last) = self.children(span);
        let of_child = |index: usize| {
            let span = span.of(index, first, last);
            match span.is_whole() {
                true => self.child_live_at(index, revision),
                false => {
                    let settled = self.newest[index] <= revision;
                    self.kids[index].count(span, revision, settled)
                }
            }
        };
        (first..=last).map(of_child).sum()
    }

    fn write(&mut self, write: &Write<'_>) -> Option<Outcome<N>> {
        let index = self.separators.child(write.key);
        let mut outcome = self.kids[index].write(write)?;
        // Nobody asks about what was before the compaction: a replay of it needs no log.
        let now = outcome.made.modified.main.max(write.compacted);
        self.garbage[index] = self.garbage[index].min(outcome.garbage);
        if outcome.delta != 0 {
            self.live[index] = self.live[index].wrapping_add_signed(outcome.delta);
            self.newest[index] = now;
            if let Some(log) = &mut self.log {
                log.push(now, log.last().wrapping_add_signed(outcome.delta));
                outcome.garbage = outcome.garbage.min(log.droppable());
            }
        }
        if let Some(split) = outcome.split.take() {
            self.summarise(index);
            outcome.split = self.adopt(index + 1, split, now, write.compacted);
        }
        if let Some(split) = &outcome.split {
            let garbage = self.garbage().min(split.right.garbage());
            outcome.garbage = outcome.garbage.min(garbage);
        }
        Some(outcome)
    }

    /// Computes what this node says about child `index` from the child.
    fn summarise(&mut self, index: usize) {
        let child = &self.kids[index];
        self.live[index] = child.live();
        self.newest[index] = child.newest();
        self.garbage[index] = child.garbage();
    }

    /// Inserts a child at `index`. A full node keeps the lower part and returns the upper.
    fn adopt(
        &mut self,
        index: usize,
        split: Split<N>,
        now: i64,
        compacted: i64,
    ) -> Option<Split<N>> {
        if self.kids.len() < N {
            self.insert_child(index, &split.separator, split.right);
            return None;
        }
        let (separator, mut right) = match index == N && split.right.len() == 1 {
            // A load in order: this node stays full.
            true => (split.separator, Inner::new(split.right)),
            false => {
                let cut = N / 2;
                let (separator, mut right) = self.split_off(cut);
                match index <= cut {
                    true => self.insert_child(index, &split.separator, split.right),
                    false => right.insert_child(index - cut, &split.separator, split.right),
                }
                (separator, right)
            }
        };
        self.begin_log(now, compacted);
        right.begin_log(now, compacted);
        let right = Node::Inner(Box::new(right));
        Some(Split { separator, right })
    }

    /// Starts the log after a split. Lowest nodes rebuild all of it from the versions below; for the
    /// others that would be a pause, and questions before `now` can go to their children.
    fn begin_log(&mut self, now: i64, compacted: i64) {
        let mut turns = Vec::new();
        for child in &self.kids {
            match child {
                Node::Leaf(leaf) => leaf.entries().iter().for_each(|e| e.turns(&mut turns)),
                Node::Inner(_) => {
                    self.log = Some(Log::starting(now, self.live()));
                    return;
                }
            }
        }
        self.log = Some(Log::replay(turns, compacted));
    }

    fn insert_child(&mut self, index: usize, separator: &[u8], child: Node<N>) {
        let len = self.kids.len();
        self.separators.insert(index - 1, separator);
        if len == self.kids.capacity() {
            self.kids.reserve_exact(8.min(N - len));
        }
        self.kids.insert(index, child);
        self.live.copy_within(index..len, index + 1);
        self.newest.copy_within(index..len, index + 1);
        self.garbage.copy_within(index..len, index + 1);
        self.summarise(index);
    }

    fn remove_child(&mut self, index: usize) -> Node<N> {
        let len = self.kids.len();
        if len > 1 {
            self.separators.remove(index.saturating_sub(1));
        }
        self.live.copy_within(index + 1..len, index);
        self.newest.copy_within(index + 1..len, index);
        self.garbage.copy_within(index + 1..len, index);
        self.kids.remove(index)
    }

    fn split_off(&mut self, cut: usize) -> (Vec<u8>, Inner<N>) {
        let (separator, separators) = self.separators.split_off(cut - 1);
        let len = self.kids.len();
        let mut right = Inner {
            separators,
            live: [0; N],
            newest: [0; N],
            garbage: [0; N],
            kids: self.kids.split_off(cut),
            log: None,
        };
        right.live[..len - cut].copy_from_slice(&self.live[cut..len]);
        right.newest[..len - cut].copy_from_slice(&self.newest[cut..len]);
        right.garbage[..len - cut].copy_from_slice(&self.garbage[cut..len]);
        self.kids.shrink_to_fit();
        (separator, right)
    }

    fn absorb(&mut self, separator: &[u8], mut right: Inner<N>) {
        let (len, more) = (self.kids.len(), right.kids.len());
        self.separators.append(separator, &right.separators);
        self.live[len..len + more].copy_from_slice(&right.live[..more]);
        self.newest[len..len + more].copy_from_slice(&right.newest[..more]);
        self.garbage[len..len + more].copy_from_slice(&right.garbage[..more]);
        self.kids.append(&mut right.kids);
        self.log = match (&self.log, &right.log) {
            (Some(left), Some(right)) => Some(Log::sum(left, right)),
            _ => unreachable!("only the root has no log, and it has no neighbour"),
        };
    }

    fn compact(&mut self, revision: i64, allowed: &mut Allowance, freed: &mut Vec<Freed>) {
        if let Some(log) = &mut self.log {
            let blocks = log.trim(revision, allowed.nodes);
            allowed.nodes -= blocks;
        }
        let mut index = 0;
        while index < self.kids.len() && !allowed.is_spent() {
            if self.garbage[index] > revision {
                index += 1;
                continue;
            }
            self.kids[index].compact(revision, allowed, freed);
            self.garbage[index] = self.kids[index].garbage();
            index = self.tidy(index);
        }
    }

    /// Drops child `index` if nothing is left in it, or joins it with a neighbour if both fit in three
    /// quarters of a node. Returns where to go on: at the same child if it has garbage left.
    fn tidy(&mut self, index: usize) -> usize {
        if self.kids[index].len() == 0 {
            self.remove_child(index);
            return index;
        }
        let fits = |a: usize, b: usize| self.kids[a].len() + self.kids[b].len() <= N * 3 / 4;
        if index > 0 && fits(index - 1, index) {
            self.join(index - 1);
            return index - 1;
        }
        if index + 1 < self.kids.len() && fits(index, index + 1) {
            self.join(index);
        }
        index
    }

    /// Makes children `index` and `index + 1` into one.
    fn join(&mut self, index: usize) {
        let separator = self.separators.get(index).to_vec();
        let newest = self.newest[index].max(self.newest[index + 1]);
        let right = self.remove_child(index + 1);
        self.kids[index].absorb(&separator, right);
        self.summarise(index);
        self.newest[index] = newest;
    }
}

#[inline]
fn touch() {
    #[cfg(test)]
    touched::NODES.set(touched::NODES.get() + 1);
}

#[cfg(test)]
impl<const N: usize> Node<N> {
    /// Bytes of the node and everything below it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.bytes(),
            Node::Inner(inner) => {
                let below: usize = inner.kids.iter().map(Node::bytes).sum();
                let kids = inner.kids.capacity() * size_of::<Node<N>>();
                let log = inner.log.as_ref().map_or(0, Log::heap_bytes);
                size_of::<Inner<N>>() + kids + inner.separators.heap_bytes() + log + below
            }
        }
    }

    pub(super) fn height(&self) -> usize {
        match self {
            Node::Leaf(_) => 1,
            Node::Inner(inner) => 1 + inner.kids[0].height(),
        }
    }

    /// Panics unless every summary below is right. `since`: revisions from here on may be asked for.
    pub(super) fn check(&self, span: Span<'_>, since: i64, now: i64, root: bool) {
        match self {
            Node::Leaf(leaf) => {
                assert!(root || leaf.len() > 0, "empty leaf");
                leaf.check(span.from, span.to);
            }
            Node::Inner(inner) => inner.check(span, since, now, root),
        }
    }

    fn each_entry<'a>(&'a self, visit: &mut dyn FnMut(&'a Entry)) {
        match self {
            Node::Leaf(leaf) => leaf.entries().iter().for_each(visit),
            Node::Inner(inner) => inner.kids.iter().for_each(|kid| kid.each_entry(visit)),
        }
    }
}

#[cfg(test)]
impl<const N: usize> Inner<N> {
    fn check(&self, span: Span<'_>, since: i64, now: i64, root: bool) {
        let len = self.kids.len();
        assert!(
            len >= if root { 2 } else { 1 } && len <= N,
            "{len} children"
        );
        assert_eq!(self.separators.len(), len - 1);
        assert_eq!(self.log.is_none(), root, "who has a log");
        for (index, kid) in self.kids.iter().enumerate() {
            assert_eq!(kid.height(), self.kids[0].height());
            assert_eq!(self.live[index], kid.live(), "live of a child");
            assert!(self.newest[index] >= kid.newest(), "newest of a child");
            assert!(self.garbage[index] <= kid.garbage(), "garbage of a child");
            let from = index.checked_sub(1).map(|i| self.separators.get(i));
            let to = (index + 1 < len).then(|| self.separators.get(index));
            let span = Span {
                from: from.or(span.from),
                to: to.or(span.to),
            };
            kid.check(span, since, now, false);
        }
        if let Some(log) = &self.log {
            self.check_log(log, since, now);
        }
    }

    fn check_log(&self, log: &Log, since: i64, now: i64) {
        assert_eq!(log.last(), self.live(), "the end of a log");
        for step in 0..=4 {
            let revision = since + (now - since) * step / 4;
            let mut live = 0;
            for kid in &self.kids {
                kid.each_entry(&mut |entry| live += u32::from(entry.live_at(revision)));
            }
            if let Some(logged) = log.at(revision) {
                assert_eq!(logged, live, "a log at {revision} of {since}..={now}");
            }
        }
    }
}

/// Counts the nodes that reads and compactions look into: cost, without a clock.
#[cfg(test)]
pub(super) mod touched {
    use std::cell::Cell;

    thread_local!(pub(crate) static NODES: Cell<usize> = const { Cell::new(0) });

    /// Nodes touched by `work`.
    pub(crate) fn by(work: impl FnOnce()) -> usize {
        NODES.set(0);
        work();
        NODES.get()
    }
}
