//! If these comparisons hold, do this, else that; nested as deep as clients like; one revision in all.
//!
//! Everything is settled on the state before the transaction: which branches are taken, and whether each
//! operation on that path may run. Only then does the first change happen, and nothing fails any more.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Store;
use super::put_cost;
use super::range;
use super::range::RangeScan;
use super::range::header;
use super::store::Change;
use super::store::Leases;
use super::store::check_delete;
use super::store::check_put;
use crate::error::ApiError;
use crate::error::Error;
use crate::proto::KeyRange;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::ResponseOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::kvpb::Origin;
use crate::proto::mvccpb::KeyValue;
use crate::storage;
use crate::storage::View;
use crate::storage::draft::Draft;
use crate::util::metrics;

/// The checks that need no state: sizes, keys, and that no key is written twice.
pub fn check(request: &TxnRequest, max_ops: usize) -> Result<(), ApiError> {
    check_ops(request, max_ops)?;
    check_writes(&request.success)?;
    check_writes(&request.failure)?;
    Ok(())
}

/// A nested transaction may have as many operations as the one around it leaves unused.
fn check_ops(request: &TxnRequest, max_ops: usize) -> Result<(), ApiError> {
    let lists = [
        request.compare.len(),
        request.success.len(),
        request.failure.len(),
    ];
    let most = lists.into_iter().max().unwrap_or(0);
    let left = max_ops.checked_sub(most).ok_or(ApiError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(ApiError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range::check(request)?,
            Some(Request::RequestPut(request)) => check_put(request)?,
            Some(Request::RequestDeleteRange(request)) => check_delete(request)?,
            Some(Request::RequestTxn(request)) => check_ops(request, left)?,
            // What etcd answers to an operation that is none.
            None => return Err(ApiError::KeyNotFound),
        }
    }
    Ok(())
}

/// What one list of operations writes, nested ones included.
#[derive(Default)]
struct Written<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Written<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), ApiError> {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(ApiError::DuplicateKey);
        }
        Ok(())
    }

    /// A deletion up to the end of the key space is compared like any other interval, and so covers
    /// nothing, because its end `"\0"` lies before its start. Clients of etcd depend on it.
    fn deletes(&self, key: &[u8]) -> bool {
        let mut deletes = self.deletes.iter();
        deletes.any(|(start, end)| match *end {
            [] => *start == key,
            end => *start <= key && key < end,
        })
    }
}

/// Refuses a list in which one key is put twice, or put and deleted.
///
/// The branches of one nested transaction exclude each other and may put the same key. A nested put is
/// compared with what stands before it and with this list's own deletions, but not with deletions nested
/// after it; those pass, and run in order.
fn check_writes(ops: &[RequestOp]) -> Result<Written<'_>, ApiError> {
    let mut written = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            written.deletes.push((&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let then = check_writes(&txn.success)?;
            let otherwise = check_writes(&txn.failure)?;
            for key in &then.puts {
                written.put(key)?;
            }
            for key in otherwise.puts.difference(&then.puts) {
                written.put(key)?;
            }
            written.deletes.extend(then.deletes);
            written.deletes.extend(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            written.put(&put.key)?;
        }
    }
    Ok(written)
}

fn branches(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Returns true if the transaction can be answered without the log. A nested one never is.
pub fn is_read_only(request: &TxnRequest) -> bool {
    branches(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Returns true if a read-only transaction may be answered from local state; one without operations may.
pub fn is_serializable(request: &TxnRequest) -> bool {
    branches(request).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

/// The bytes a transaction may add: its more expensive branch.
pub fn cost(request: &TxnRequest) -> u64 {
    let sum = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => cost(txn),
                _ => 0,
            })
            .sum()
    };
    sum(&request.success).max(sum(&request.failure))
}

/// Which way a transaction goes, and the transactions nested in that branch, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn find(store: &Store, view: &dyn View, request: &TxnRequest) -> storage::Result<Path> {
        let mut succeeded = true;
        for compare in &request.compare {
            succeeded = succeeded && store.holds(view, compare)?;
        }
        let mut nested = Vec::new();
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(request)) = &op.request {
                nested.push(Path::find(store, view, request)?);
            }
        }
        Ok(Path { succeeded, nested })
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    match succeeded {
        true => &request.success,
        false => &request.failure,
    }
}

/// What the operations checked so far will have done to a key.
enum Doing<'a> {
    Put(&'a [u8]),
    Delete(KeyRange),
}

/// Asks, for each operation on the path in order, whether it may run.
struct PreFlight<'a> {
    store: &'a Store,
    leases: &'a Leases<'a>,
    doing: Vec<Doing<'a>>,
}

impl<'a> PreFlight<'a> {
    fn check(&mut self, request: &'a TxnRequest, path: &Path) -> Result<(), ApiError> {
        let mut nested = path.nested.iter();
        for op in branch(request, path.succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_range(range)?,
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestDeleteRange(delete)) => {
                    let range = KeyRange::new(&delete.key, &delete.range_end);
                    self.doing.push(Doing::Delete(range));
                }
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path for each nested transaction");
                    self.check(request, path)?;
                }
                None => return Err(ApiError::KeyNotFound),
            }
        }
        Ok(())
    }

    /// Unlike a Range of its own, one in a transaction may not ask for a negative revision.
    fn check_range(&self, request: &RangeRequest) -> Result<(), ApiError> {
        match request.revision {
            0 => Ok(()),
            revision if revision > self.store.revision() => Err(ApiError::FutureRev),
            revision if revision < self.store.compacted() => Err(ApiError::Compacted),
            _ => Ok(()),
        }
    }

    fn check_put(&mut self, request: &'a PutRequest) -> Result<(), ApiError> {
        self.store.may_put(request, self.leases)?;
        if request.ignore_value || request.ignore_lease {
            let last = self.doing.iter().rev().find_map(|doing| match doing {
                Doing::Put(key) => (*key == request.key).then_some(true),
                Doing::Delete(range) => range.contains(&request.key).then_some(false),
            });
            // etcd does not look, and crashes on the missing value.
            if last == Some(false) {
                return Err(ApiError::KeyNotFound);
            }
        }
        self.doing.push(Doing::Put(&request.key));
        Ok(())
    }
}

impl Store {
    /// Runs a transaction that has passed [`check`].
    pub fn txn(
        &mut self,
        draft: &mut Draft<'_>,
        request: &TxnRequest,
        leases: &Leases<'_>,
        origin: &Origin,
    ) -> Result<TxnResponse, Error> {
        let path = self.ready(draft, request, leases)?;
        let mut change = self.begin(origin);
        let mut response = self.run(draft, &mut change, request, &path)?;
        metrics::TXNS.inc_by(u64::from(response.responses.len() > 1));
        self.commit(change);
        response.header = header(self.revision());
        Ok(response)
    }

    /// Runs a transaction that is read only.
    pub fn read_txn(&self, view: &dyn View, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let path = self.ready(view, request, &|_| false)?;
        let mut responses = Vec::new();
        for op in branch(request, path.succeeded) {
            let Some(Request::RequestRange(range)) = &op.request else {
                return Err(ApiError::KeyNotFound.into());
            };
            responses.push(ResponseOp {
                response: Some(Response::ResponseRange(self.range(view, range)?)),
            });
        }
        metrics::TXNS.inc_by(u64::from(responses.len() > 1));
        Ok(TxnResponse {
            header: header(self.revision()),
            succeeded: path.succeeded,
            responses,
        })
    }

    fn ready(
        &self,
        view: &dyn View,
        request: &TxnRequest,
        leases: &Leases<'_>,
    ) -> Result<Path, Error> {
        let path = Path::find(self, view, request)?;
        let mut flight = PreFlight {
            store: self,
            leases,
            doing: Vec::new(),
        };
        flight.check(request, &path)?;
        Ok(path)
    }

    fn run(
        &mut self,
        draft: &mut Draft<'_>,
        change: &mut Change,
        request: &TxnRequest,
        path: &Path,
    ) -> Result<TxnResponse, Error> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in branch(request, path.succeeded) {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    let mut scan = RangeScan::start_at(self, request, change.current())?;
                    while scan.step(self) {}
                    Response::ResponseRange(scan.finish(draft)?.into_response())
                }
                Some(Request::RequestPut(request)) => {
                    Response::ResponsePut(self.apply_put(draft, change, request)?)
                }
                Some(Request::RequestDeleteRange(request)) => {
                    Response::ResponseDeleteRange(self.apply_delete(draft, change, request)?)
                }
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path for each nested transaction");
                    Response::ResponseTxn(self.run(draft, change, request, path)?)
                }
                None => return Err(ApiError::KeyNotFound.into()),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            // Nested headers are there and empty; the outermost is filled in at the end.
            header: Some(ResponseHeader::default()),
            succeeded: path.succeeded,
            responses,
        })
    }

    /// Returns true if every key in the range of `compare` satisfies it.
    fn holds(&self, view: &dyn View, compare: &Compare) -> storage::Result<bool> {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let target = CompareTarget::try_from(compare.target).ok();
        let stored = matches!(target, Some(CompareTarget::Value | CompareTarget::Lease));
        let (mut any, mut verdict) = (false, Ok(true));
        self.index
            .walk(&range, self.revision, &mut |key, version, handle| {
                any = true;
                let kv = match stored {
                    true => self.kv(view, key, version, handle),
                    false => Ok(KeyValue {
                        create_revision: version.created,
                        mod_revision: version.modified.main,
                        version: version.version,
                        ..KeyValue::default()
                    }),
                };
                verdict = kv.map(|kv| satisfies(&kv, compare, target));
                match verdict {
                    Ok(true) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            });
        match (any, target) {
            (true, _) => verdict,
            // A key that does not exist has no value, not even an unequal one.
            (false, Some(CompareTarget::Value)) => Ok(false),
            (false, _) => Ok(satisfies(&KeyValue::default(), compare, target)),
        }
    }
}

/// An operand of another kind than the target counts as zero; an unknown target compares equal, and an
/// unknown operator is always satisfied.
fn satisfies(kv: &KeyValue, compare: &Compare, target: Option<CompareTarget>) -> bool {
    use TargetUnion as Operand;
    let operand = compare.target_union.as_ref();
    let order = match (target, operand) {
        (None, _) => Ordering::Equal,
        (Some(CompareTarget::Value), Some(Operand::Value(value))) => kv.value[..].cmp(value),
        (Some(CompareTarget::Value), _) => kv.value[..].cmp(&[]),
        (Some(CompareTarget::Version), Some(Operand::Version(n))) => kv.version.cmp(n),
        (Some(CompareTarget::Version), _) => kv.version.cmp(&0),
        (Some(CompareTarget::Create), Some(Operand::CreateRevision(n))) => {
            kv.create_revision.cmp(n)
        }
        (Some(CompareTarget::Create), _) => kv.create_revision.cmp(&0),
        (Some(CompareTarget::Mod), Some(Operand::ModRevision(n))) => kv.mod_revision.cmp(n),
        (Some(CompareTarget::Mod), _) => kv.mod_revision.cmp(&0),
        (Some(CompareTarget::Lease), Some(Operand::Lease(n))) => kv.lease.cmp(n),
        (Some(CompareTarget::Lease), _) => kv.lease.cmp(&0),
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}
