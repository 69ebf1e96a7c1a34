//! The way of a proposal into the log.
//!
//! What queued up while earlier entries were on their way travels in one entry: no timer, a bounded number
//! of entries in flight. An entry that openraft refuses before it is in the log goes back to the head of the
//! queue; one whose fate is unknown fails. Whoever gave up waiting is left out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::entry::Batch;
use super::entry::Slot;
use super::entry::Types;
use super::network::Connect;
use super::standing::Route;
use super::standing::Standing;
use super::state_machine::Adapter;
use super::state_machine::Applier;
use crate::error::ApiError;
use crate::proto::kvpb;

/// Proposals that may wait for their turn; whoever brings more waits.
pub const QUEUE: usize = 8192;

/// What one entry holds at most.
const ENTRY_PROPOSALS: usize = 256;
const ENTRY_BYTES: usize = 256 * 1024;

/// Entries on their way at a time. More would make smaller entries, not faster ones.
const IN_FLIGHT: usize = 4;

/// How long to leave a leader alone that refuses proposals, unless the leadership changes before.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// A proposal, its size and who waits for it.
pub struct Waiting {
    pub proposal: kvpb::Proposal,
    pub slot: Slot,
}

/// What became of an entry.
enum Fate {
    /// In the log or on its way there; apply answers its waiters.
    Sent,
    /// Never got into the log.
    Refused(Vec<Waiting>),
    /// Was in the log of this member and left it; others may still commit it.
    Unknown(Batch),
}

/// Feeds openraft, or the leader elsewhere, from the queue.
pub struct Proposer {
    pub raft: Raft<Types, Adapter>,
    pub applier: Arc<Applier>,
    pub standing: Arc<Standing>,
    pub connect: Arc<dyn Connect>,
    /// How long handing proposals to another member may take.
    pub ttl: Duration,
    pub queue: mpsc::Receiver<Waiting>,
    pub stop: CancellationToken,
}

impl Proposer {
    /// Runs until the node stops. Who still waits then hears it from the closed slot.
    pub async fn run(mut self) {
        let mut route = self.standing.route();
        let mut pending: VecDeque<Waiting> = VecDeque::new();
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Fate>> = FuturesUnordered::new();
        let mut refused = false;
        loop {
            let to = *route.borrow_and_update();
            while to != Route::Nowhere && !refused && in_flight.len() < IN_FLIGHT {
                self.top_up(&mut pending);
                let Some(batch) = next_batch(&mut pending) else {
                    break;
                };
                match to {
                    Route::To(leader) => in_flight.push(self.forward(leader, batch)),
                    Route::Here | Route::Nowhere => match self.submit(batch).await {
                        Some(fate) => in_flight.push(fate),
                        None => return,
                    },
                }
            }
            let room = pending.is_empty() && in_flight.len() < IN_FLIGHT;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(fate) = in_flight.next() => match fate {
                    Fate::Sent => {}
                    Fate::Refused(waiting) => {
                        waiting.into_iter().rev().for_each(|it| pending.push_front(it));
                        refused = true;
                    }
                    Fate::Unknown(batch) => fail(batch, ApiError::LeaderChanged),
                },
                Some(waiting) = self.queue.recv(), if room => pending.push_back(waiting),
                changed = route.changed() => match changed {
                    Ok(()) => refused = false,
                    Err(_) => return,
                },
                () = tokio::time::sleep(REFUSED_PAUSE), if refused => refused = false,
            }
        }
    }

    /// Takes along what is queued, up to one entry's worth.
    fn top_up(&mut self, pending: &mut VecDeque<Waiting>) {
        while pending.len() < ENTRY_PROPOSALS
            && let Ok(waiting) = self.queue.try_recv()
        {
            pending.push_back(waiting);
        }
    }

    /// Hands an entry to openraft; `None` if that has stopped.
    async fn submit(&self, batch: Batch) -> Option<BoxFuture<'static, Fate>> {
        let (responder, result) = OneshotResponder::new_pair();
        let sent = self.raft.client_write_ff(batch.clone(), Some(responder));
        sent.await.ok()?;
        let fate = result.map(move |result| match result {
            Ok(Ok(_)) => Fate::Sent,
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                let slots = batch.take_slots();
                Fate::Refused(waiting(&batch, slots))
            }
            // The rest is about memberships and preconditions, which this entry has not.
            Ok(Err(_)) => Fate::Unknown(batch),
            // openraft has stopped; dropping the batch closes the slots.
            Err(_) => Fate::Sent,
        });
        Some(fate.boxed())
    }

    /// Hands an entry's worth to the leader. It comes back through the log.
    fn forward(&self, leader: u64, batch: Batch) -> BoxFuture<'static, Fate> {
        let applier = self.applier.clone();
        applier.elsewhere.park(&batch);
        let sent = self.connect.propose(leader, batch.clone(), self.ttl);
        let fate = sent.map(move |sent| match sent {
            Ok(()) => Fate::Sent,
            Err(_) => {
                let slots = batch.proposals().iter();
                let slots = slots.map(|it| applier.elsewhere.take(it)).collect();
                Fate::Refused(waiting(&batch, slots))
            }
        });
        fate.boxed()
    }
}

/// The next entry: everything pending that still has a waiter, within the limits of an entry.
fn next_batch(pending: &mut VecDeque<Waiting>) -> Option<Batch> {
    let mut proposals = Vec::new();
    let mut slots = Vec::new();
    let mut bytes = 0;
    while let Some(next) = pending.front() {
        if next.slot.is_closed() {
            pending.pop_front();
            continue;
        }
        bytes += next.proposal.encoded_len();
        let full = proposals.len() == ENTRY_PROPOSALS || bytes > ENTRY_BYTES;
        if full && !proposals.is_empty() {
            break;
        }
        let next = pending.pop_front().expect("it has a front");
        proposals.push(next.proposal);
        slots.push(Some(next.slot));
    }
    (!proposals.is_empty()).then(|| Batch::with_slots(proposals, slots))
}

/// The proposals of an entry with those who still wait for them.
fn waiting(batch: &Batch, slots: Vec<Option<Slot>>) -> Vec<Waiting> {
    let pairs = batch.proposals().iter().zip(slots);
    let waiting = pairs.filter_map(|(proposal, slot)| {
        let proposal = proposal.clone();
        slot.map(|slot| Waiting { proposal, slot })
    });
    waiting.collect()
}

fn fail(batch: Batch, error: ApiError) {
    for slot in batch.take_slots().into_iter().flatten() {
        slot.send(Err(error.into())).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::machine::Reply;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::proto::kvpb::internal_raft_request::Command;
    use tokio::sync::oneshot;

    type Heard = oneshot::Receiver<Result<Reply, Error>>;

    fn waiting(id: u64, bytes: usize) -> (Waiting, Heard) {
        let command = Command::Put(PutRequest {
            value: vec![0; bytes],
            ..Default::default()
        });
        let request = kvpb::InternalRaftRequest {
            id,
            command: Some(command),
            ..Default::default()
        };
        let proposal = kvpb::Proposal {
            request: Some(request),
            origin: None,
        };
        let (slot, heard) = oneshot::channel();
        (Waiting { proposal, slot }, heard)
    }

    fn ids(batch: &Batch) -> Vec<u64> {
        let requests = batch.proposals().iter().flat_map(|it| &it.request);
        requests.map(|request| request.id).collect()
    }

    #[test]
    fn an_entry_takes_what_is_there_within_its_limits() {
        let (mut pending, heard): (VecDeque<_>, Vec<_>) = (0..300).map(|id| waiting(id, 1)).unzip();
        assert_eq!(ids(&next_batch(&mut pending).unwrap()).len(), 256);
        assert_eq!(ids(&next_batch(&mut pending).unwrap()).len(), 44);
        assert!(next_batch(&mut pending).is_none());
        drop(heard);

        let sizes = [100_000, 100_000, 100_000, 900_000, 1];
        let (mut pending, _heard): (VecDeque<_>, Vec<_>) = (0..)
            .zip(sizes)
            .map(|(id, bytes)| waiting(id, bytes))
            .unzip();
        let mut entries = Vec::new();
        while let Some(batch) = next_batch(&mut pending) {
            entries.push(ids(&batch));
        }
        assert_eq!(entries, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn who_gave_up_is_left_out() {
        let (mut pending, mut heard): (VecDeque<_>, Vec<_>) =
            (0..4).map(|id| waiting(id, 1)).unzip();
        heard.remove(2);
        let batch = next_batch(&mut pending).unwrap();
        assert_eq!(ids(&batch), [0, 1, 3]);
        heard.remove(0);
        pending.extend(super::waiting(&batch, batch.take_slots()));
        assert_eq!(ids(&next_batch(&mut pending).unwrap()), [1, 3]);
    }

    #[test]
    fn a_lost_entry_fails_with_leader_changed() {
        let (waiting, mut heard) = waiting(1, 1);
        let batch = next_batch(&mut VecDeque::from([waiting])).unwrap();
        fail(batch, ApiError::LeaderChanged);
        let answer = heard.try_recv().expect("an answer");
        assert!(matches!(answer, Err(Error::Api(ApiError::LeaderChanged))));
    }
}
