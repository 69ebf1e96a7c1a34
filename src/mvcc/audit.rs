//! Do the records say what the index says? Asked in the background, for a start reads few of them.
//!
//! Between two revisions, each record must be a version that the index holds, and there must be as many
//! as were counted. A missing record, a strange one, or one that does not match its checksum is damage.

use super::Pin;
use super::Store;
use super::compact::Sizes;
use super::record::Pages;
use super::record::Record;
use crate::error::Fault;
use crate::storage;
use crate::storage::View;

/// Records of one audit, unless a thousand revisions have more. Reclaiming waits for it.
const RECORDS: u64 = 16_384;

/// An audit on its way: alternately [`read`](Audit::read) without a lock and [`feed`](Audit::feed).
pub struct Audit {
    from: i64,
    to: i64,
    expected: u64,
    found: u64,
    pages: Pages,
    page: Option<Vec<Record>>,
    _pause: Pin,
}

/// What comes after an audit.
pub enum Next {
    Begun(Audit),
    /// Something is being reclaimed; ask again.
    Later,
    /// There are no more.
    Done,
}

impl Audit {
    /// Begins with the records from revision `from` on, if that is not behind `last`.
    pub fn start(store: &Store, from: i64, last: i64) -> Next {
        if from > last {
            return Next::Done;
        }
        if store.compactor.is_behind() {
            return Next::Later;
        }
        let first = Sizes::number(from);
        let (mut expected, mut end) = (0, None);
        for (number, block) in store.sizes.blocks(first, usize::MAX) {
            if expected > 0 && expected + block.records > RECORDS {
                break;
            }
            expected += block.records;
            end = Some(number);
        }
        let Some(end) = end else {
            return Next::Done;
        };
        let (from, _) = Sizes::revisions(first);
        let (_, to) = Sizes::revisions(end);
        let to = to.min(store.revision);
        Next::Begun(Audit {
            from,
            to,
            expected,
            found: 0,
            pages: Pages::new(from, to),
            page: Some(Vec::new()),
            _pause: store.compactor.pause(),
        })
    }

    /// Reads the next page.
    pub fn read(&mut self, view: &dyn View) -> storage::Result<()> {
        self.page = self.pages.read(view)?;
        Ok(())
    }

    /// Compares the page that was read. At the end, returns the revision to go on with.
    pub fn feed(&mut self, store: &Store) -> storage::Result<Option<i64>> {
        let Some(page) = self.page.take() else {
            return match self.found == self.expected {
                true => Ok(Some(self.to + 1)),
                false => Err(self.damaged(format!(
                    "{} records found, {} written",
                    self.found, self.expected
                ))),
            };
        };
        for record in page {
            let (key, at) = (&record.kv.key, record.at);
            if !store.index.holds(key, at) && !store.compactor.held.contains(&at) {
                return Err(self.damaged(format!(
                    "the record of revision {}.{} is not in the index",
                    at.main, at.sub
                )));
            }
            self.found += 1;
        }
        Ok(None)
    }

    fn damaged(&self, reason: String) -> Fault {
        let place = format!("the records of revisions {} to {}", self.from, self.to);
        Fault::damaged(place, reason)
    }
}
