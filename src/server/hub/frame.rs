//! One response of a watch stream, most of it encoded before: the header once a change, the events once
//! however many watchers hear them.

use bytes::BufMut;
use bytes::Bytes;
use prost::Message;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;
use tonic::Status;
use tonic::codec::BufferSettings;
use tonic::codec::Codec;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;
use tonic_prost::ProstDecoder;

use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::WatchResponse;

const HEADER_TAG: u8 = 1 << 3 | 2;
const WATCH_ID_TAG: u8 = 2 << 3;
/// `fragment = true`, whole.
const FRAGMENT: &[u8] = &[7 << 3, 1];

/// A `WatchResponse` in pieces that are shared with other responses.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The header field.
    pub header: Bytes,
    pub watch_id: i64,
    /// Fields of control responses.
    pub control: Bytes,
    pub fragment: bool,
    /// Each one an `events` field.
    pub events: Events,
}

/// Most responses have one event; those cost no list.
#[derive(Clone, Debug)]
pub enum Events {
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Events {
    pub fn new(mut events: Vec<Bytes>) -> Events {
        match events.len() {
            0 => Events::None,
            1 => events.pop().map_or(Events::None, Events::One),
            _ => Events::Many(events),
        }
    }

    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Events::None => &[],
            Events::One(event) => std::slice::from_ref(event),
            Events::Many(events) => events,
        }
    }
}

/// Encodes a header as the field of a response.
pub fn header(header: &ResponseHeader) -> Bytes {
    let length = header.encoded_len();
    let mut out = Vec::with_capacity(2 + length);
    out.push(HEADER_TAG);
    encode_varint(length as u64, &mut out);
    header.encode_raw(&mut out);
    out.into()
}

impl Frame {
    /// A response without events. Of `response` the header and the id are left out.
    pub fn control(header: Bytes, watch_id: i64, response: &WatchResponse) -> Frame {
        Frame {
            header,
            watch_id,
            control: response.encode_to_vec().into(),
            fragment: false,
            events: Events::None,
        }
    }

    pub fn events(header: Bytes, watch_id: i64, events: Events) -> Frame {
        Frame {
            header,
            watch_id,
            control: Bytes::new(),
            fragment: false,
            events,
        }
    }

    /// The bytes of the encoded response.
    pub fn size(&self) -> usize {
        let id = match self.watch_id {
            0 => 0,
            id => 1 + encoded_len_varint(id as u64),
        };
        let events: usize = self.events.as_slice().iter().map(Bytes::len).sum();
        let fragment = if self.fragment { FRAGMENT.len() } else { 0 };
        self.header.len() + id + self.control.len() + fragment + events
    }

    /// Splits a response into pieces below `limit`, all but the last marked as fragments.
    ///
    /// An event that is larger goes alone.
    pub fn split(self, limit: usize) -> Vec<Frame> {
        let Events::Many(events) = &self.events else {
            return vec![self];
        };
        if self.size() < limit {
            return vec![self];
        }
        let piece = Frame {
            fragment: true,
            events: Events::None,
            ..self.clone()
        };
        let empty = piece.size();
        let (mut pieces, mut gathered, mut size) = (Vec::new(), Vec::new(), empty);
        for event in events {
            if size + event.len() >= limit && !gathered.is_empty() {
                pieces.push(Frame {
                    events: Events::new(std::mem::take(&mut gathered)),
                    ..piece.clone()
                });
                size = empty;
            }
            size += event.len();
            gathered.push(event.clone());
        }
        pieces.push(Frame {
            fragment: false,
            events: Events::new(gathered),
            ..piece
        });
        pieces
    }

    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.header);
        if self.watch_id != 0 {
            out.put_u8(WATCH_ID_TAG);
            encode_varint(self.watch_id as u64, out);
        }
        out.put_slice(&self.control);
        if self.fragment {
            out.put_slice(FRAGMENT);
        }
        for event in self.events.as_slice() {
            out.put_slice(event);
        }
    }
}

/// The codec of the Watch method: requests by prost, responses from their pieces.
#[derive(Default)]
pub struct WatchCodec;

pub struct FrameEncoder;

/// Ready responses are sent together up to so many bytes.
const BUFFER: usize = 1 << 10;
const COALESCED: usize = 32 << 10;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstDecoder::new(BufferSettings::new(512, COALESCED))
    }
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.size());
        frame.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, COALESCED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Event;
    use crate::proto::mvccpb::KeyValue;

    fn event(key: &str, value: usize) -> Bytes {
        let kv = KeyValue {
            key: key.to_string().into(),
            value: vec![7; value].into(),
            mod_revision: 5,
            ..KeyValue::default()
        };
        Event::put(kv).encoded()
    }

    fn decode(frame: &Frame) -> WatchResponse {
        let mut out = Vec::new();
        frame.encode(&mut out);
        assert_eq!(out.len(), frame.size());
        WatchResponse::decode(&out[..]).expect("a message")
    }

    #[test]
    fn pieces_make_the_message_that_prost_would() {
        let told = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 1,
            revision: 0,
            raft_term: 3,
        };
        let created = WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: "why".into(),
            ..WatchResponse::default()
        };
        for watch_id in [0, 7, -1] {
            let expected = WatchResponse {
                header: Some(told),
                watch_id,
                ..created.clone()
            };
            let frame = Frame::control(header(&told), watch_id, &created);
            assert_eq!(decode(&frame), expected);
        }
        let frame = Frame::events(
            header(&told),
            3,
            Events::new(vec![event("a", 1), event("b", 2)]),
        );
        let decoded = decode(&frame);
        let keys: Vec<_> = decoded
            .events
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .map(|kv| kv.key.clone())
            .collect();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(decoded.watch_id, 3);
    }

    #[test]
    fn fragments_stay_below_the_limit_and_keep_every_event() {
        let told = header(&ResponseHeader::default());
        let cases: &[(&[usize], usize, usize)] = &[
            (&[10, 10, 10], 1000, 1),
            (&[400, 400, 400], 1000, 2),
            (&[400, 2000, 400], 1000, 3),
            (&[2000], 1000, 1),
            (&[700; 7], 2048, 4),
        ];
        for (sizes, limit, pieces) in cases {
            let events: Vec<Bytes> = sizes.iter().map(|size| event("k", *size)).collect();
            let frame = Frame::events(told.clone(), 5, Events::new(events.clone()));
            let split = frame.split(*limit);
            assert_eq!(split.len(), *pieces, "{sizes:?}");
            let all: Vec<Bytes> = split
                .iter()
                .flat_map(|piece| piece.events.as_slice().to_vec())
                .collect();
            assert_eq!(all, events);
            for (at, piece) in split.iter().enumerate() {
                assert_eq!(piece.fragment, at + 1 < split.len());
                assert!(piece.size() < *limit || piece.events.as_slice().len() == 1);
            }
        }
    }
}
