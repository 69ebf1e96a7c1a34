//! The wire's vocabulary: messages and services generated from `proto/`, and nothing decided.

macro_rules! package {
    ($name:ident, $package:literal) => {
        #[allow(missing_docs, clippy::all)]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

package!(mvccpb, "mvccpb");
package!(authpb, "authpb");
package!(etcdserverpb, "etcdserverpb");
package!(v3lockpb, "v3lockpb");
package!(v3electionpb, "v3electionpb");
package!(healthpb, "grpc.health.v1");
package!(kvpb, "kvpb");

/// The encoded descriptors of every message, for printing them as JSON.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("kv");

/// The half-open range that etcd's `(key, range_end)` pair selects.
///
/// `end: None` means "no upper bound". A single key `k` is `[k, k\0)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub start: Vec<u8>,
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Reads the pair as every etcd request means it: no end is one key, `"\0"` is "from key on".
    pub fn new(key: &[u8], range_end: &[u8]) -> KeyRange {
        let end = match range_end {
            [] => Some([key, &[0]].concat()),
            [0] => None,
            end => Some(end.to_vec()),
        };
        KeyRange {
            start: key.to_vec(),
            end,
        }
    }

    /// Returns true if no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Returns true if `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_end_selects_as_etcd_documents() {
        type Case = (&'static [u8], &'static [u8], &'static [u8], bool);
        let cases: &[Case] = &[
            (b"a", b"", b"a", true),
            (b"a", b"", b"a\0", false),
            (b"a", b"\0", b"zz", true),
            (b"b", b"\0", b"a", false),
            (b"a", b"c", b"b", true),
            (b"a", b"c", b"c", false),
            (b"c", b"a", b"b", false),
            (b"\0", b"\0", b"anything", true),
        ];
        for (key, end, probe, contains) in cases {
            assert_eq!(
                KeyRange::new(key, end).contains(probe),
                *contains,
                "{key:?} {end:?} {probe:?}"
            );
        }
    }
}
