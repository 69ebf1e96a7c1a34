//! One revision of one key, as it is stored.
//!
//! The key is the revision's place in history, so the table is the log of all changes in order. The value
//! is who made the change, then the encoded `KeyValue`; a deletion stores the key alone. Origins stay
//! outside the `KeyValue` because hashes and clients must see the bytes etcd would have written.

use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;
use prost::encoding::encode_varint;

use super::Event;
use super::Revision;
use super::index::Version;
use crate::error::Fault;
use crate::proto::kvpb::Origin;
use crate::proto::mvccpb::KeyValue;
use crate::storage;
use crate::storage::Table;
use crate::storage::View;

const KEY_BYTES: usize = 12;

/// The key of a revision in [`Table::Revisions`]: main and sub, big endian, so that byte order is history.
pub fn key(at: Revision) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&at.main.to_be_bytes());
    key[8..].copy_from_slice(&at.sub.to_be_bytes());
    key
}

/// The lowest key any record of revision `main` can have.
pub fn first_key(main: i64) -> [u8; KEY_BYTES] {
    key(Revision { main, sub: 0 })
}

/// A stored revision.
#[derive(Clone, Debug)]
pub struct Record {
    pub at: Revision,
    /// The encoded [`Origin`].
    pub origin: Bytes,
    /// The encoded `KeyValue`, byte for byte what etcd stores and hashes.
    pub encoded: Bytes,
    pub kv: KeyValue,
}

impl Record {
    pub fn parse(key: &[u8], value: Bytes) -> storage::Result<Record> {
        let at = parse_key(key)?;
        parse_value(at, value).ok_or_else(|| damaged(at, "the record does not decode"))
    }

    /// Reads the record of a version that is known to exist.
    pub fn load(view: &dyn View, at: Revision) -> storage::Result<Record> {
        match view.get(Table::Revisions, &key(at))? {
            Some(value) => Record::parse(&key(at), value),
            None => Err(damaged(at, "the record is missing")),
        }
    }

    /// Returns true if this revision deleted the key. A put always has a version.
    pub fn is_tombstone(&self) -> bool {
        self.kv.version == 0
    }

    pub fn version(&self) -> Version {
        Version {
            modified: self.at,
            created: self.kv.create_revision,
            version: self.kv.version,
        }
    }

    pub fn origin(&self) -> storage::Result<Origin> {
        Origin::decode(self.origin.clone())
            .map_err(|_| damaged(self.at, "the origin does not decode"))
    }

    /// The bytes it takes, key included.
    pub fn size(&self) -> usize {
        KEY_BYTES + 2 + self.origin.len() + self.encoded.len()
    }

    /// What a watcher would have heard.
    pub fn into_event(self) -> Event {
        match self.is_tombstone() {
            false => Event::put(self.kv),
            true => Event::delete(KeyValue {
                key: self.kv.key,
                mod_revision: self.at.main,
                ..KeyValue::default()
            }),
        }
    }

    /// The key under which etcd stores this revision, which is part of every hash.
    pub fn etcd_key(&self) -> ([u8; 18], usize) {
        let mut key = [0; 18];
        key[..8].copy_from_slice(&self.at.main.to_be_bytes());
        key[8] = b'_';
        key[9..17].copy_from_slice(&u64::from(self.at.sub).to_be_bytes());
        key[17] = b't';
        (key, if self.is_tombstone() { 18 } else { 17 })
    }
}

fn parse_key(key: &[u8]) -> storage::Result<Revision> {
    let (main, sub) = key.split_at_checked(8).unwrap_or_default();
    match (main.try_into(), sub.try_into()) {
        (Ok(main), Ok(sub)) => Ok(Revision {
            main: i64::from_be_bytes(main),
            sub: u32::from_be_bytes(sub),
        }),
        _ => Err(Fault::damaged(
            "revisions",
            format!("a key has {} bytes", key.len()),
        )),
    }
}

fn parse_value(at: Revision, mut value: Bytes) -> Option<Record> {
    let length = u16::from_le_bytes(*value.first_chunk::<2>()?);
    let mut encoded = value.split_off(2);
    if encoded.len() < usize::from(length) {
        return None;
    }
    let origin = encoded.split_to(usize::from(length));
    let kv = KeyValue::decode(encoded.clone()).ok()?;
    let whole = kv.version == 0 || kv.mod_revision == at.main;
    (whole && !kv.key.is_empty()).then_some(Record {
        at,
        origin,
        encoded,
        kv,
    })
}

fn damaged(at: Revision, reason: &str) -> Fault {
    Fault::damaged(format!("revision {}.{}", at.main, at.sub), reason)
}

/// Encodes the records of one transaction, which all have one origin.
pub struct Encoder {
    origin: Vec<u8>,
}

impl Encoder {
    pub fn new(origin: &Origin) -> Encoder {
        let mut length = origin.encoded_len();
        let mut encoded = Vec::with_capacity(2 + length);
        // Names too long for the prefix are dropped; the time is still worth having.
        let short = Origin {
            wall_time_ms: origin.wall_time_ms,
            ..Origin::default()
        };
        let fits = u16::try_from(length).is_ok();
        let origin = if fits { origin } else { &short };
        length = origin.encoded_len();
        encoded.extend_from_slice(&(length as u16).to_le_bytes());
        origin.encode_raw(&mut encoded);
        Encoder { origin: encoded }
    }

    /// Encodes a put; the returned `KeyValue` shares the record's bytes.
    pub fn put(&self, key: &[u8], version: Version, value: &[u8], lease: i64) -> (Bytes, KeyValue) {
        let room = self.origin.len() + key.len() + value.len() + 64;
        let mut record = BytesMut::with_capacity(room);
        record.extend_from_slice(&self.origin);
        let key_at = put_bytes(&mut record, 1, key);
        put_int(&mut record, 2, version.created);
        put_int(&mut record, 3, version.modified.main);
        put_int(&mut record, 4, version.version);
        let value_at = put_bytes(&mut record, 5, value);
        put_int(&mut record, 6, lease);
        let record = record.freeze();
        let kv = KeyValue {
            key: record.slice(key_at..key_at + key.len()),
            create_revision: version.created,
            mod_revision: version.modified.main,
            version: version.version,
            value: record.slice(value_at..value_at + value.len()),
            lease,
        };
        (record, kv)
    }

    /// Encodes a deletion; the returned `KeyValue` is what its event shows.
    pub fn tombstone(&self, key: &[u8], at: Revision) -> (Bytes, KeyValue) {
        let mut record = BytesMut::with_capacity(self.origin.len() + key.len() + 8);
        record.extend_from_slice(&self.origin);
        let key_at = put_bytes(&mut record, 1, key);
        let record = record.freeze();
        let kv = KeyValue {
            key: record.slice(key_at..key_at + key.len()),
            mod_revision: at.main,
            ..KeyValue::default()
        };
        (record, kv)
    }
}

/// Appends a `bytes` field and returns where its content starts. Empty fields are left out, as in proto3.
fn put_bytes(out: &mut BytesMut, field: u32, content: &[u8]) -> usize {
    if !content.is_empty() {
        encode_varint(u64::from(field << 3 | 2), out);
        encode_varint(content.len() as u64, out);
        out.extend_from_slice(content);
    }
    out.len() - content.len()
}

fn put_int(out: &mut BytesMut, field: u32, value: i64) {
    if value != 0 {
        encode_varint(u64::from(field << 3), out);
        encode_varint(value as u64, out);
    }
}

/// Reads the stored revisions of `[from, to)` in order, a page at a time.
pub struct Pages {
    next: Option<Vec<u8>>,
    to: [u8; KEY_BYTES],
    limit: usize,
}

/// Pages grow to this many records while they are small, and shrink when they are large.
const PAGE_RECORDS: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;

impl Pages {
    /// Reads revisions `from..=last`.
    pub fn new(from: i64, last: i64) -> Pages {
        Pages {
            next: Some(first_key(from.max(0)).to_vec()),
            to: first_key(last.saturating_add(1).max(0)),
            limit: 32,
        }
    }

    /// Returns the next page; `None` at the end.
    pub fn read(&mut self, view: &dyn View) -> storage::Result<Option<Vec<Record>>> {
        let Some(from) = self.next.take() else {
            return Ok(None);
        };
        let pairs = view.scan(Table::Revisions, &from, Some(&self.to), self.limit)?;
        let bytes: usize = pairs.iter().map(|(_, value)| value.len()).sum();
        if pairs.len() == self.limit {
            let (last, _) = &pairs[pairs.len() - 1];
            self.next = Some([&last[..], &[0]].concat());
        }
        if bytes > PAGE_BYTES {
            self.limit = (self.limit / 2).max(1);
        } else if bytes < PAGE_BYTES / 4 {
            self.limit = (self.limit * 2).min(PAGE_RECORDS);
        }
        let records = pairs
            .into_iter()
            .map(|(key, value)| Record::parse(&key, value));
        records.collect::<storage::Result<Vec<_>>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_the_bytes_prost_would_write() {
        let origin = Origin {
            user: "root".into(),
            wall_time_ms: 7,
            ..Origin::default()
        };
        let at = Revision { main: 300, sub: 2 };
        let cases: [(&[u8], &[u8], i64); 4] = [
            (b"key", b"value", 0),
            (b"k", b"", 5),
            (&[0xff; 200], &[1; 300], -1),
            (b"a", b"b", i64::MAX),
        ];
        for (key_bytes, value, lease) in cases {
            let version = Version {
                modified: at,
                created: 2,
                version: 17,
            };
            let (bytes, kv) = Encoder::new(&origin).put(key_bytes, version, value, lease);
            let record = Record::parse(&key(at), bytes).expect("readable");
            assert_eq!(record.kv, kv);
            assert_eq!(record.encoded, kv.encode_to_vec());
            assert_eq!(record.origin().expect("readable"), origin);
            assert_eq!(
                (kv.key.as_ref(), kv.value.as_ref(), kv.lease),
                (key_bytes, value, lease)
            );
            assert!(!record.is_tombstone());
        }
    }

    #[test]
    fn a_tombstone_is_the_key_alone() {
        let at = Revision { main: 9, sub: 1 };
        let (bytes, kv) = Encoder::new(&Origin::default()).tombstone(b"gone", at);
        assert_eq!((kv.key.as_ref(), kv.mod_revision), (b"gone".as_ref(), 9));
        let record = Record::parse(&key(at), bytes).expect("readable");
        assert!(record.is_tombstone());
        assert_eq!(record.encoded.as_ref(), b"\x0a\x04gone");
        let (etcd_key, length) = record.etcd_key();
        assert_eq!(
            &etcd_key[..length],
            b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\x01t"
        );
    }

    #[test]
    fn an_origin_that_is_too_long_keeps_its_time() {
        let origin = Origin {
            user: "u".repeat(1 << 17),
            wall_time_ms: 7,
            ..Origin::default()
        };
        let at = Revision { main: 2, sub: 0 };
        let (bytes, _) = Encoder::new(&origin).tombstone(b"k", at);
        let kept = Record::parse(&key(at), bytes)
            .expect("readable")
            .origin()
            .expect("readable");
        assert_eq!((kept.user.as_str(), kept.wall_time_ms), ("", 7));
    }

    #[test]
    fn damage_is_named() {
        let at = Revision { main: 2, sub: 0 };
        for value in [&b""[..], b"\x05\0abc", b"\0\0\xff\xff", b"\0\0"] {
            let error = Record::parse(&key(at), Bytes::copy_from_slice(value)).unwrap_err();
            assert!(error.to_string().contains("revision 2.0"), "{error}");
        }
        assert!(Record::parse(b"short", Bytes::new()).is_err());
    }
}
