//! The shared log of what changed, for those who watch.
//!
//! Apply appends; readers follow with cursors. The changes form a chain that readers walk without any lock:
//! a cursor holds its place weakly, so a reader that is slow pins nothing and learns that it is behind when
//! its place is gone. Then it reads back from the store. The chain is bounded in bytes; its two newest
//! changes stay whatever their size, so that one large change leaves no reader at the tip behind.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mvcc::Event;

/// What a change costs beside the bytes of its keys and values.
const EVENT_BYTES: usize = 160;

/// What one proposal changed.
#[derive(Debug)]
pub struct Change {
    /// Log index of the entry it was in.
    pub index: u64,
    /// Store revision after it.
    pub revision: i64,
    pub events: Vec<Arc<Event>>,
}

impl Change {
    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        let events = self.events.iter();
        events
            .map(|event| EVENT_BYTES + event.kv.key.len() + event.kv.value.len())
            .sum()
    }
}

struct Link {
    change: Option<Arc<Change>>,
    revision: i64,
    bytes: usize,
    next: OnceLock<Arc<Link>>,
}

/// The newest changes, in order.
pub struct History {
    limit: usize,
    chain: Mutex<Chain>,
    more: Notify,
}

/// Keeps the links alive. Never empty.
struct Chain {
    links: VecDeque<Arc<Link>>,
    bytes: usize,
}

/// A place in the history: everything up to it has been read.
#[derive(Clone)]
pub struct Cursor(Weak<Link>);

/// The changes after the cursor have left the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind;

impl History {
    /// An empty history that begins after `revision` and keeps about `limit` bytes.
    pub fn new(revision: i64, limit: usize) -> History {
        let root = Arc::new(Link {
            change: None,
            revision,
            bytes: 0,
            next: OnceLock::new(),
        });
        History {
            limit,
            chain: Mutex::new(Chain {
                links: VecDeque::from([root]),
                bytes: 0,
            }),
            more: Notify::new(),
        }
    }

    /// Appends changes, oldest first, and wakes those who wait.
    pub fn push(&self, changes: impl IntoIterator<Item = Change>) {
        let mut chain = self.chain.lock();
        let before = chain.links.len();
        for change in changes {
            let link = Arc::new(Link {
                revision: change.revision,
                bytes: change.bytes(),
                change: Some(Arc::new(change)),
                next: OnceLock::new(),
            });
            let tip = chain.links.back().expect("a chain is never empty");
            assert!(tip.next.set(link.clone()).is_ok(), "two links after one");
            chain.bytes += link.bytes;
            chain.links.push_back(link);
        }
        let grown = chain.links.len() > before;
        let mut dropped = Vec::new();
        while chain.bytes > self.limit && chain.links.len() > 2 {
            let oldest = chain.links.pop_front().expect("more than two");
            chain.bytes -= oldest.bytes;
            dropped.push(oldest);
        }
        drop(chain);
        if grown {
            self.more.notify_waiters();
        }
    }

    /// The place after the newest change.
    pub fn tip(&self) -> Cursor {
        let chain = self.chain.lock();
        let tip = chain.links.back().expect("a chain is never empty");
        Cursor(Arc::downgrade(tip))
    }

    /// The place after the last change at or below `revision`, if every later one is still here.
    pub fn after(&self, revision: i64) -> Option<Cursor> {
        let chain = self.chain.lock();
        let later = chain
            .links
            .partition_point(|link| link.revision <= revision);
        let place = chain.links.get(later.checked_sub(1)?)?;
        Some(Cursor(Arc::downgrade(place)))
    }

    /// Reads up to `limit` changes after `cursor` and moves it behind them. Takes no lock.
    pub fn read(&self, cursor: &mut Cursor, limit: usize) -> Result<Vec<Arc<Change>>, Behind> {
        let mut place = cursor.0.upgrade().ok_or(Behind)?;
        let mut changes = Vec::new();
        while changes.len() < limit
            && let Some(next) = place.next.get().cloned()
        {
            changes.extend(next.change.clone());
            place = next;
        }
        cursor.0 = Arc::downgrade(&place);
        Ok(changes)
    }

    /// Returns once there is something after `cursor`, or it is behind.
    pub fn wait(&self, cursor: &Cursor) -> impl Future<Output = ()> + Send + use<'_> {
        let place = cursor.0.clone();
        async move {
            let news = || place.upgrade().is_none_or(|it| it.next.get().is_some());
            loop {
                let mut more = std::pin::pin!(self.more.notified());
                more.as_mut().enable();
                if news() {
                    return;
                }
                more.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb;

    fn change(revision: i64, value: usize) -> Change {
        let kv = mvccpb::KeyValue {
            key: format!("{revision}").into(),
            value: vec![0; value].into(),
            mod_revision: revision,
            ..Default::default()
        };
        Change {
            index: revision as u64,
            revision,
            events: vec![Arc::new(Event::put(kv))],
        }
    }

    fn revisions(read: &[Arc<Change>]) -> Vec<i64> {
        read.iter().map(|change| change.revision).collect()
    }

    #[test]
    fn readers_follow_at_their_own_pace() {
        let history = History::new(1, 1 << 20);
        let (mut slow, mut fast) = (history.tip(), history.tip());
        history.push([change(2, 1), change(3, 1)]);
        assert_eq!(revisions(&history.read(&mut fast, 9).unwrap()), [2, 3]);
        history.push([change(4, 1)]);
        assert_eq!(revisions(&history.read(&mut fast, 9).unwrap()), [4]);
        assert_eq!(revisions(&history.read(&mut slow, 2).unwrap()), [2, 3]);
        assert_eq!(revisions(&history.read(&mut slow, 2).unwrap()), [4]);
        assert!(history.read(&mut slow, 2).unwrap().is_empty());
    }

    #[test]
    fn a_reader_whose_place_is_gone_is_behind() {
        let history = History::new(1, 1000);
        let mut cursor = history.tip();
        history.push([change(2, 400)]);
        history.push([change(3, 400)]);
        history.push([change(4, 400)]);
        assert_eq!(history.read(&mut cursor, 9).unwrap_err(), Behind);
        let mut tip = history.tip();
        history.push([change(5, 100_000)]);
        assert_eq!(revisions(&history.read(&mut tip, 9).unwrap()), [5]);
        assert!(history.read(&mut tip, 9).unwrap().is_empty());
    }

    #[test]
    fn a_revision_finds_its_place_while_it_is_kept() {
        let history = History::new(1, 1000);
        history.push([change(2, 1), change(4, 1), change(5, 1)]);
        for (revision, rest) in [
            (1, vec![2, 4, 5]),
            (2, vec![4, 5]),
            (3, vec![4, 5]),
            (9, vec![]),
        ] {
            let mut cursor = history.after(revision).expect("still here");
            assert_eq!(revisions(&history.read(&mut cursor, 9).unwrap()), rest);
        }
        assert!(history.after(0).is_none());
        history.push([change(6, 900)]);
        assert!(history.after(1).is_none());
        assert!(history.after(6).is_some());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_next_change() {
        let history = Arc::new(History::new(1, 1000));
        let cursor = history.tip();
        let waiting = {
            let history = history.clone();
            tokio::spawn(async move { history.wait(&cursor).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        history.push([change(2, 1)]);
        waiting.await.expect("no panic");
    }
}
