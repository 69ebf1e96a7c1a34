//! A prefix that callers do not see: put in front of keys on the way out, taken off on the way back.

use std::sync::Arc;

use bytes::Bytes;

use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::KeyValue;

/// The prefix of a client; empty for most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace(Arc<[u8]>);

impl Namespace {
    pub(super) fn inside(&self, prefix: &[u8]) -> Namespace {
        Namespace([&self.0, prefix].concat().into())
    }

    pub(super) fn enter_key(&self, key: &mut Vec<u8>) {
        // An empty key stays one: it is the server's to refuse.
        if !self.0.is_empty() && !key.is_empty() {
            key.splice(0..0, self.0.iter().copied());
        }
    }

    /// Moves a range under the prefix; one that was open above ends with the prefix.
    pub(super) fn enter(&self, key: &mut Vec<u8>, end: &mut Vec<u8>) {
        if self.0.is_empty() || (key.is_empty() && end.is_empty()) {
            return;
        }
        key.splice(0..0, self.0.iter().copied());
        match end.as_slice() {
            [] => {}
            [0] => *end = prefix_end(&self.0),
            _ => drop(end.splice(0..0, self.0.iter().copied())),
        }
    }

    pub(super) fn leave_key(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    pub(super) fn leave_all<'a>(&self, kvs: impl IntoIterator<Item = &'a mut KeyValue>) {
        if self.0.is_empty() {
            return;
        }
        for kv in kvs {
            self.leave_key(&mut kv.key);
        }
    }

    pub(super) fn enter_txn(&self, request: &mut TxnRequest) {
        if self.0.is_empty() {
            return;
        }
        for compare in &mut request.compare {
            self.enter(&mut compare.key, &mut compare.range_end);
        }
        let ops = request.success.iter_mut().chain(&mut request.failure);
        for op in ops.filter_map(|op| op.request.as_mut()) {
            match op {
                Request::RequestRange(range) => self.enter(&mut range.key, &mut range.range_end),
                Request::RequestPut(put) => self.enter_key(&mut put.key),
                Request::RequestDeleteRange(delete) => {
                    self.enter(&mut delete.key, &mut delete.range_end);
                }
                Request::RequestTxn(txn) => self.enter_txn(txn),
            }
        }
    }

    pub(super) fn leave_txn(&self, response: &mut TxnResponse) {
        let ops = response.responses.iter_mut();
        for op in ops.filter_map(|op| op.response.as_mut()) {
            match op {
                Response::ResponseRange(range) => self.leave_all(&mut range.kvs),
                Response::ResponsePut(put) => self.leave_all(&mut put.prev_kv),
                Response::ResponseDeleteRange(delete) => self.leave_all(&mut delete.prev_kvs),
                Response::ResponseTxn(txn) => self.leave_txn(txn),
            }
        }
    }
}

/// The first key after every key with this prefix; `\0`, which means no end, if there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_move_under_the_prefix() {
        type Case = [&'static [u8]; 4];
        let cases: &[Case] = &[
            [b"a", b"", b"p/a", b""],
            [b"a", b"c", b"p/a", b"p/c"],
            [b"a", b"\0", b"p/a", b"p0"],
            [b"\0", b"\0", b"p/\0", b"p0"],
            [b"", b"", b"", b""],
        ];
        let namespace = Namespace::default().inside(b"p/");
        for [key, end, wanted_key, wanted_end] in cases {
            let (mut key, mut end) = (key.to_vec(), end.to_vec());
            namespace.enter(&mut key, &mut end);
            assert_eq!((&key[..], &end[..]), (*wanted_key, *wanted_end));
        }
    }

    #[test]
    fn prefixes_end_after_their_last_key() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
            (b"", b"\0"),
        ];
        for (prefix, end) in cases {
            assert_eq!(prefix_end(prefix), *end, "{prefix:?}");
        }
    }
}
