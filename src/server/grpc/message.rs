//! Messages of unary calls between bytes and values: framed, compressed and refused as grpc-go does.
//!
//! A message that came in one frame is decoded where it lies, and an answer leaves as one frame. Nothing is
//! reserved for a length that a client only claims.

use std::io;
use std::io::Read;
use std::io::Write;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::DecodeError;
use prost::Message;
use tonic::Status;

/// Transactions within each other that are served. etcd serves as many as `--max-txn-ops`.
pub const MAX_TXN_DEPTH: usize = 40;

/// A byte that tells whether the message is compressed, and its length.
pub const PREFIX: usize = 5;

/// How the messages of a call are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    pub fn of(headers: &HeaderMap) -> Result<Encoding, Status> {
        match headers.get("grpc-encoding").map(|name| name.as_bytes()) {
            None | Some(b"" | b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(name) => Err(Status::unimplemented(format!(
                "grpc: Decompressor is not installed for grpc-encoding {:?}",
                String::from_utf8_lossy(name)
            ))),
        }
    }
}

/// Reads the first message of a body and leaves the rest alone.
pub async fn receive<B>(body: &mut B, encoding: Encoding, limit: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut gathered = BytesMut::new();
    loop {
        let frame = match body.frame().await {
            Some(frame) => frame.map_err(|error| Status::from_error(error.into()))?,
            None if gathered.len() < PREFIX => return Err(Status::unknown("EOF")),
            None => return Err(Status::unknown("unexpected EOF")),
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if gathered.is_empty()
            && let Some(end) = frame_end(&data, limit)?
        {
            return unpack(data.slice(..end), encoding, limit);
        }
        gathered.extend_from_slice(&data);
        if let Some(end) = frame_end(&gathered, limit)? {
            return unpack(gathered.split_to(end).freeze(), encoding, limit);
        }
    }
}

/// Where the first message ends, if all of it is there.
fn frame_end(data: &[u8], limit: usize) -> Result<Option<usize>, Status> {
    let Some(mut length) = data.get(1..PREFIX) else {
        return Ok(None);
    };
    let length = length.get_u32() as usize;
    if length > limit {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {limit})"
        )));
    }
    let end = PREFIX + length;
    Ok((data.len() >= end).then_some(end))
}

fn unpack(mut frame: Bytes, encoding: Encoding, limit: usize) -> Result<Bytes, Status> {
    let format = frame[0];
    frame.advance(PREFIX);
    match (format, encoding) {
        (0, _) => Ok(frame),
        (1, Encoding::Gzip) => inflate(&frame, limit),
        (1, Encoding::Identity) => Err(Status::internal(
            "grpc: compressed flag set with identity or empty encoding",
        )),
        (other, _) => Err(Status::internal(format!(
            "grpc: received unexpected payload format {other}"
        ))),
    }
}

fn inflate(data: &[u8], limit: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let mut decoder = GzDecoder::new(data).take(limit as u64 + 1);
    decoder.read_to_end(&mut message).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "unexpected EOF",
            _ => "gzip: invalid header",
        };
        Status::internal(format!("grpc: failed to decompress the message: {reason}"))
    })?;
    if message.len() > limit {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message after decompression larger than max {limit}"
        )));
    }
    Ok(message.into())
}

/// Reads a value from its bytes.
pub fn decode<M: Message + Default>(message: &[u8]) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        Status::internal(format!(
            "grpc: error unmarshalling request: {}",
            reason(&error)
        ))
    })
}

/// What Go's protobuf says where prost says more.
fn reason(error: &DecodeError) -> &'static str {
    match error.to_string().contains("UTF-8") {
        true => "string field contains invalid UTF-8",
        false => "proto: cannot parse invalid wire-format data",
    }
}

/// Writes a value as one frame.
pub fn encode<M: Message>(message: &M, encoding: Encoding) -> Bytes {
    let mut frame = Vec::with_capacity(PREFIX + message.encoded_len());
    frame.resize(PREFIX, 0);
    message.encode_raw(&mut frame);
    seal(frame, encoding)
}

/// Makes a frame of an encoded message behind room for the prefix.
pub fn seal(mut frame: Vec<u8>, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Identity => {
            let length = (frame.len() - PREFIX) as u32;
            frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
            frame.into()
        }
        Encoding::Gzip => deflate(&frame[PREFIX..]),
    }
}

fn deflate(message: &[u8]) -> Bytes {
    let mut frame = vec![0; PREFIX];
    frame[0] = 1;
    let mut encoder = GzEncoder::new(frame, Compression::default());
    encoder
        .write_all(message)
        .expect("memory takes what is written");
    let mut frame = encoder.finish().expect("memory takes what is written");
    let length = (frame.len() - PREFIX) as u32;
    frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

/// Writes a status text as grpc-go does: what is not printable ASCII becomes `%XX`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => escaped.push_str(&format!("%{byte:02X}")),
            _ => escaped.push(byte.into()),
        }
    }
    escaped
}

/// The deepest nesting of transactions in an encoded `TxnRequest`, which is 0 without any inside.
///
/// prost gives up at a hundred messages within each other, and every transaction inside another is two; what
/// it would not read back from the log must not get there.
pub fn txn_depth(message: &[u8]) -> usize {
    const SUCCESS: u64 = 2 << 3 | 2;
    const FAILURE: u64 = 3 << 3 | 2;
    const REQUEST_TXN: u64 = 4 << 3 | 2;
    let mut deepest = 0;
    let mut pending = vec![(message, 0)];
    while let Some((txn, depth)) = pending.pop() {
        deepest = deepest.max(depth);
        for (tag, operation) in fields(txn) {
            if tag == SUCCESS || tag == FAILURE {
                let nested = fields(operation).filter(|(tag, _)| *tag == REQUEST_TXN);
                pending.extend(nested.map(|(_, txn)| (txn, depth + 1)));
            }
        }
    }
    deepest
}

/// The length-delimited fields of a message, up to what cannot be read.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        while message.has_remaining() {
            let tag = prost::encoding::decode_varint(&mut message).ok()?;
            match tag & 7 {
                0 => drop(prost::encoding::decode_varint(&mut message).ok()?),
                1 => message = message.get(8..)?,
                2 => {
                    let length = prost::encoding::decode_varint(&mut message).ok()?;
                    let (field, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
                    message = rest;
                    return Some((tag, field));
                }
                5 => message = message.get(4..)?,
                _ => return None,
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::proto::etcdserverpb::RequestOp;
    use crate::proto::etcdserverpb::TxnRequest;
    use crate::proto::etcdserverpb::request_op::Request;
    use futures_util::FutureExt;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    const LIMIT: usize = 1000;

    fn receive_chunks(chunks: &[&[u8]], encoding: Encoding) -> Result<Vec<u8>, String> {
        let frames = chunks
            .iter()
            .map(|chunk| Ok::<_, io::Error>(Frame::data(Bytes::copy_from_slice(chunk))));
        let mut body = StreamBody::new(stream::iter(frames.collect::<Vec<_>>()));
        receive(&mut body, encoding, LIMIT)
            .now_or_never()
            .expect("all of the body is there")
            .map(|message| message.to_vec())
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    }

    #[test]
    fn a_message_is_found_however_it_was_cut() {
        let stream = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0];
        for step in 1..=stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(step).collect();
            let received = receive_chunks(&chunks, Encoding::Identity);
            assert_eq!(received, Ok(vec![1, 2, 3]), "in steps of {step}");
        }
    }

    #[test]
    fn broken_frames_are_refused_in_the_words_of_grpc_go() {
        let large =
            "ResourceExhausted: grpc: received message larger than max (4294967295 vs. 1000)";
        let cases: &[(&[u8], &str)] = &[
            (&[], "Unknown: EOF"),
            (&[0, 0, 0], "Unknown: EOF"),
            (&[0, 0, 0, 0, 9, 1], "Unknown: unexpected EOF"),
            (&[0, 255, 255, 255, 255], large),
            (
                &[1, 0, 0, 0, 0],
                "Internal: grpc: compressed flag set with identity or empty encoding",
            ),
            (
                &[7, 0, 0, 0, 0],
                "Internal: grpc: received unexpected payload format 7",
            ),
        ];
        for (stream, want) in cases {
            let received = receive_chunks(&[stream], Encoding::Identity);
            assert_eq!(received, Err(want.to_string()), "{stream:?}");
        }
    }

    #[test]
    fn compressed_messages_come_back_and_do_not_swell() {
        let put = |bytes| PutRequest {
            value: vec![7; bytes],
            ..Default::default()
        };
        let frame = encode(&put(900), Encoding::Gzip);
        assert!(frame.len() < 100 && frame[0] == 1);
        let message = receive_chunks(&[&frame], Encoding::Gzip).expect("a message");
        assert_eq!(decode::<PutRequest>(&message).expect("a put"), put(900));
        let bomb = encode(&put(1_000_000), Encoding::Gzip);
        let refusal =
            "ResourceExhausted: grpc: received message after decompression larger than max 1000";
        let small_limit_but_fits = receive_chunks(&[&bomb], Encoding::Gzip);
        assert_eq!(small_limit_but_fits, Err(refusal_for(&bomb, refusal)));
        let cut = [1, 0, 0, 0, 2, 0x1f, 0x8b];
        let refusal = "Internal: grpc: failed to decompress the message: unexpected EOF";
        assert_eq!(
            receive_chunks(&[&cut], Encoding::Gzip),
            Err(refusal.to_string())
        );
    }

    /// The frame itself may already be over the limit.
    fn refusal_for(frame: &[u8], inflated: &str) -> String {
        let length = frame.len() - PREFIX;
        match length > LIMIT {
            true => format!(
                "ResourceExhausted: grpc: received message larger than max ({length} vs. {LIMIT})"
            ),
            false => inflated.to_string(),
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_told_like_go() {
        let cases: &[(&[u8], &str)] = &[
            (b"\x0a\xff", "proto: cannot parse invalid wire-format data"),
            (b"\x02\x01a", "proto: cannot parse invalid wire-format data"),
        ];
        for (message, want) in cases {
            let status = decode::<PutRequest>(message).expect_err("a refusal");
            assert_eq!(
                status.message(),
                format!("grpc: error unmarshalling request: {want}")
            );
        }
        type Named = crate::proto::etcdserverpb::AuthUserGetRequest;
        let status = decode::<Named>(b"\x0a\x02\xff\xfe").expect_err("a refusal");
        assert!(status.message().ends_with("contains invalid UTF-8"));
    }

    #[test]
    fn status_texts_are_escaped_like_go() {
        assert_eq!(escape("a \"b\"/100%\né"), "a \"b\"/100%25%0A%C3%A9");
    }

    #[test]
    fn nested_transactions_are_counted_without_decoding_them() {
        let mut txn = TxnRequest::default();
        for depth in 0..300usize {
            assert_eq!(txn_depth(&txn.encode_to_vec()), depth);
            let inner = RequestOp {
                request: Some(Request::RequestTxn(txn)),
            };
            let put = RequestOp {
                request: Some(Request::RequestPut(PutRequest::default())),
            };
            txn = TxnRequest {
                success: vec![put],
                failure: vec![inner],
                ..Default::default()
            };
        }
        assert_eq!(txn_depth(b"\x12\xff\xff\xff\xff\x7f"), 0);
        assert_eq!(txn_depth(b"\x0b"), 0);
    }
}
