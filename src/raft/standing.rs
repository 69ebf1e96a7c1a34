//! Who leads, as this member knows it.
//!
//! openraft says who leads by its vote. This member leads for others only once an entry of its own term is
//! applied here: before that its state may be older than answers that were given by the leader before.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::util::clock::Uptime;

/// Whether this member leads, and in which term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// True once an entry of the own term is applied.
    pub leader: bool,
    pub term: u64,
}

/// Where proposals go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    #[default]
    Nowhere,
    /// To openraft on this member.
    Here,
    /// To another member, which leads.
    To(u64),
}

/// The newest knowledge, readable without a lock.
pub struct Standing {
    member_id: u64,
    term: AtomicU64,
    /// Leader of the newest vote that a majority granted; zero if there is none.
    leader: AtomicU64,
    leads: AtomicBool,
    settled: AtomicBool,
    /// When the present leader became known here.
    elected: Mutex<Option<Uptime>>,
    leadership: watch::Sender<Leadership>,
    route: watch::Sender<Route>,
}

/// What openraft says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub term: u64,
    pub leader: u64,
    /// That this member leads.
    pub leads: bool,
    /// Term of the last applied entry.
    pub applied_term: u64,
}

impl Report {
    fn route(&self, member_id: u64) -> Route {
        match self.leader {
            _ if self.leads => Route::Here,
            0 => Route::Nowhere,
            // Elected, and not yet leading.
            leader if leader == member_id => Route::Nowhere,
            leader => Route::To(leader),
        }
    }
}

/// What a report means for the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    None,
    /// This member became the leader.
    Promoted,
    /// It no longer is, or leads in another term whose first entry is not applied yet.
    Demoted,
}

impl Standing {
    pub fn new(member_id: u64, term: u64) -> Standing {
        let leadership = Leadership {
            leader: false,
            term,
        };
        Standing {
            member_id,
            term: AtomicU64::new(term),
            leader: AtomicU64::new(0),
            leads: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            elected: Mutex::new(None),
            leadership: watch::Sender::new(leadership),
            route: watch::Sender::new(Route::Nowhere),
        }
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Acquire)
    }

    /// True while openraft has this member lead, settled or not.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// True while this member leads and an entry of its term is applied.
    pub fn settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub fn elected(&self) -> Option<Uptime> {
        *self.elected.lock()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub fn route(&self) -> watch::Receiver<Route> {
        self.route.subscribe()
    }

    /// Takes over a report without telling anyone yet.
    pub fn note(&self, report: Report, now: Uptime) -> Turn {
        let known = self.leader.swap(report.leader, Ordering::AcqRel);
        let term = self.term.swap(report.term, Ordering::AcqRel);
        if report.leader != known || (report.leader != 0 && term != report.term) {
            *self.elected.lock() = (report.leader != 0).then_some(now);
        }
        self.leads.store(report.leads, Ordering::Release);
        let settled = report.leads && report.applied_term == report.term;
        let was = self.settled.load(Ordering::Acquire);
        match (was, settled) {
            (false, true) => Turn::Promoted,
            (true, false) => Turn::Demoted,
            (true, true) | (false, false) => Turn::None,
        }
    }

    /// Makes a turn known; the leases have followed it by now.
    pub fn announce(&self, report: Report, turn: Turn) {
        match turn {
            Turn::Promoted => self.settled.store(true, Ordering::Release),
            Turn::Demoted => self.settled.store(false, Ordering::Release),
            Turn::None => {}
        }
        let now = Leadership {
            leader: self.settled(),
            term: report.term,
        };
        let changed = |known: &mut Leadership| std::mem::replace(known, now) != now;
        self.leadership.send_if_modified(changed);
        let route = report.route(self.member_id);
        let moved = |known: &mut Route| std::mem::replace(known, route) != route;
        self.route.send_if_modified(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_leader_is_one_only_with_an_entry_of_its_term() {
        let at = |seconds| Uptime(Duration::from_secs(seconds));
        let standing = Standing::new(7, 1);
        let watch = standing.leadership();
        let report = |term, leader, leads, applied_term| Report {
            term,
            leader,
            leads,
            applied_term,
        };
        use Route::*;
        let steps = [
            // what openraft says, what it means, leader and term that are announced, where proposals go
            (report(1, 0, false, 1), Turn::None, (false, 1), Nowhere),
            (report(2, 7, false, 1), Turn::None, (false, 2), Nowhere),
            (report(2, 7, true, 1), Turn::None, (false, 2), Here),
            (report(2, 7, true, 2), Turn::Promoted, (true, 2), Here),
            (report(2, 7, true, 2), Turn::None, (true, 2), Here),
            (report(3, 8, false, 2), Turn::Demoted, (false, 3), To(8)),
            (report(4, 7, true, 4), Turn::Promoted, (true, 4), Here),
            (report(5, 7, true, 4), Turn::Demoted, (false, 5), Here),
        ];
        for (second, (report, turn, (leader, term), route)) in steps.into_iter().enumerate() {
            assert_eq!(standing.note(report, at(second as u64)), turn, "{report:?}");
            standing.announce(report, turn);
            assert_eq!(*watch.borrow(), Leadership { leader, term });
            assert_eq!(*standing.route().borrow(), route);
        }
        assert_eq!(standing.elected(), Some(at(7)));
    }
}
