//! What a watcher hears: one change of one key.

use std::sync::OnceLock;

use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;

use crate::proto::mvccpb::KeyValue;
pub use crate::proto::mvccpb::event::EventType;

/// A put or a deletion, in the words of the wire, encoded at most once however many watchers there are.
///
/// A deletion's `kv` has the key and the revision of the deletion, nothing else.
#[derive(Debug)]
pub struct Event {
    pub kv: KeyValue,
    pub kind: EventType,
    encoded: OnceLock<Bytes>,
}

/// `WatchResponse.events`, length-delimited.
const EVENTS_TAG: u8 = 11 << 3 | 2;
/// `Event.kv` and `Event.prev_kv`, length-delimited.
const KV_TAG: u8 = 2 << 3 | 2;
const PREV_KV_TAG: u8 = 3 << 3 | 2;
/// `Event.type = DELETE`, whole; a put is the default and takes no bytes.
const DELETE: &[u8] = &[1 << 3, 1];

impl Event {
    pub fn put(kv: KeyValue) -> Event {
        Event {
            kv,
            kind: EventType::Put,
            encoded: OnceLock::new(),
        }
    }

    pub fn delete(kv: KeyValue) -> Event {
        Event {
            kv,
            kind: EventType::Delete,
            encoded: OnceLock::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.kv.mod_revision
    }

    /// The bytes of this event inside an encoded `WatchResponse`: its `events` field, without `prev_kv`.
    pub fn encoded(&self) -> Bytes {
        self.encoded.get_or_init(|| self.encode(None)).clone()
    }

    /// The same with the key's state before the change.
    pub fn encoded_with(&self, prev_kv: &KeyValue) -> Bytes {
        self.encode(Some(prev_kv))
    }

    fn encode(&self, prev_kv: Option<&KeyValue>) -> Bytes {
        let field = |kv: &KeyValue| {
            let length = kv.encoded_len();
            1 + encoded_len_varint(length as u64) + length
        };
        let kind: &[u8] = match self.kind {
            EventType::Put => &[],
            EventType::Delete => DELETE,
        };
        let body = kind.len() + field(&self.kv) + prev_kv.map_or(0, field);
        let mut out = BytesMut::with_capacity(1 + encoded_len_varint(body as u64) + body);
        out.extend_from_slice(&[EVENTS_TAG]);
        encode_varint(body as u64, &mut out);
        out.extend_from_slice(kind);
        for (tag, kv) in [(KV_TAG, Some(&self.kv)), (PREV_KV_TAG, prev_kv)] {
            if let Some(kv) = kv {
                out.extend_from_slice(&[tag]);
                encode_varint(kv.encoded_len() as u64, &mut out);
                kv.encode_raw(&mut out);
            }
        }
        out.freeze()
    }

    /// The event as a message, for callers that do not send encoded bytes.
    pub fn message(&self, prev_kv: Option<KeyValue>) -> crate::proto::mvccpb::Event {
        crate::proto::mvccpb::Event {
            r#type: self.kind as i32,
            kv: Some(self.kv.clone()),
            prev_kv,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::WatchResponse;

    fn kv(value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"key"),
            create_revision: 2,
            mod_revision: 300,
            version: 3,
            value: Bytes::from_static(value),
            lease: -4,
        }
    }

    #[test]
    fn encoded_bytes_are_a_field_of_a_watch_response() {
        let gone = KeyValue {
            key: Bytes::from_static(b"key"),
            mod_revision: 300,
            ..KeyValue::default()
        };
        for event in [Event::put(kv(b"v")), Event::delete(gone)] {
            for prev_kv in [None, Some(kv(&[7; 500]))] {
                let expected = WatchResponse {
                    events: vec![event.message(prev_kv.clone())],
                    ..WatchResponse::default()
                };
                let encoded = match &prev_kv {
                    Some(prev_kv) => event.encoded_with(prev_kv),
                    None => event.encoded(),
                };
                let decoded = WatchResponse::decode(encoded).expect("a message");
                assert_eq!(decoded, expected);
            }
        }
    }

    #[test]
    fn the_encoding_is_made_once() {
        let event = Event::put(kv(b"v"));
        assert_eq!(event.encoded().as_ptr(), event.encoded().as_ptr());
    }
}
