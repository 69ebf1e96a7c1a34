//! What arrives broken, half or on purpose: it ends its own call or connection and nothing else.
//!
//! The refusals are those that grpc-go gives in etcd 3.7.1, asked of the real one.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;

use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::kv_client::KvClient;
use kv::proto::etcdserverpb::request_op::Request;

use crate::support::Server;
use crate::support::TempDir;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// One call over a connection of its own.
struct Call<'a> {
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Vec<u8>,
}

impl<'a> Call<'a> {
    fn range(body: Vec<u8>) -> Call<'a> {
        Call {
            path: "/etcdserverpb.KV/Range",
            headers: &[],
            body,
        }
    }

    fn with(self, headers: &'a [(&'a str, &'a str)]) -> Call<'a> {
        Call { headers, ..self }
    }

    fn to(self, path: &'a str) -> Call<'a> {
        Call { path, ..self }
    }

    /// The HTTP status, the gRPC status and its text.
    async fn answer(self, server: &Server) -> (u16, i32, String) {
        let address = server.client_url();
        let address = address.strip_prefix("http://").expect("a plain URL");
        let stream = tokio::net::TcpStream::connect(address).await;
        let io = TokioIo::new(stream.expect("a connection"));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        let frame = Ok::<_, std::io::Error>(Frame::data(Bytes::from(self.body)));
        let mut request = http::Request::post(format!("http://{address}{}", self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(stream::iter([frame])))
            .expect("a request");
        for (name, value) in self.headers {
            match *name {
                ":method" => *request.method_mut() = value.parse().expect("a method"),
                _ => {
                    let name = http::HeaderName::try_from(*name).expect("a name");
                    request
                        .headers_mut()
                        .insert(name, value.parse().expect("a value"));
                }
            }
        }
        let response = sender.send_request(request).await.expect("a response");
        let code = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.expect("a whole body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let field = |name: &str| headers.get(name).or(trailers.get(name)).cloned();
        let status = field("grpc-status").map_or(-1, |value| {
            value
                .to_str()
                .expect("digits")
                .parse()
                .expect("a status number")
        });
        let text = field("grpc-message").map_or_else(String::new, |value| {
            value.to_str().expect("printable ASCII").to_string()
        });
        (code, status, text)
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    framed(0, body)
}

fn framed(format: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[format], &length[..], body].concat()
}

const KEY: &[u8] = b"\x0a\x01k";
const UNPARSABLE: &str =
    "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";

#[test]
fn malformed_calls_get_the_errors_of_grpc_go() {
    let dir = TempDir::new("hostile-calls");
    let server = Server::start(dir.path(), &[]);
    let range = || Call::range(message(KEY));
    let large = "grpc: received message larger than max (4294967295 vs. 2097152)";
    let cases: Vec<(Call<'_>, u16, i32, &str)> = vec![
        (range(), 200, 0, ""),
        (
            Call::range([message(KEY), message(KEY)].concat()),
            200,
            0,
            "",
        ),
        (Call::range([message(KEY), vec![0, 0]].concat()), 200, 0, ""),
        (
            Call::range(message(b"\x0a\x01k\xfa\x7f\x03abc")),
            200,
            0,
            "",
        ),
        (Call::range(vec![]), 200, 2, "EOF"),
        (Call::range(vec![0, 0, 0]), 200, 2, "EOF"),
        (
            Call::range(vec![0, 0, 0, 0, 10, 1]),
            200,
            2,
            "unexpected EOF",
        ),
        (Call::range(vec![0, 255, 255, 255, 255]), 200, 8, large),
        (
            Call::range(framed(1, KEY)),
            200,
            13,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (
            Call::range(framed(7, KEY)),
            200,
            13,
            "grpc: received unexpected payload format 7",
        ),
        (
            Call::range(framed(1, KEY)).with(&[("grpc-encoding", "gzip")]),
            200,
            13,
            "grpc: failed to decompress the message: unexpected EOF",
        ),
        (
            range().with(&[("grpc-encoding", "foo")]),
            200,
            12,
            "grpc: Decompressor is not installed for grpc-encoding \"foo\"",
        ),
        (Call::range(message(b"\x0a\xff")), 200, 13, UNPARSABLE),
        (Call::range(message(b"\x0b\x01")), 200, 13, UNPARSABLE),
        (Call::range(message(b"\x02\x01a")), 200, 13, UNPARSABLE),
        (
            Call::range(message(&[&b"\x18"[..], &[0xff; 11], b"\x01"].concat())),
            200,
            13,
            UNPARSABLE,
        ),
        (
            Call::range(message(&[0x0b; 1_000_000])),
            200,
            13,
            UNPARSABLE,
        ),
        (
            range().to("/etcdserverpb.KV/Nope"),
            200,
            12,
            "unknown method Nope for service etcdserverpb.KV",
        ),
        (range().to("/a.B/C"), 200, 12, "unknown service a.B"),
        (
            range().to("/abc"),
            200,
            12,
            "malformed method name: \"/abc\"",
        ),
        (
            range().with(&[("content-type", "text/plain")]),
            415,
            3,
            "invalid gRPC request content-type \"text/plain\"",
        ),
        (
            range().with(&[("content-type", "application/grpcx")]),
            415,
            3,
            "invalid gRPC request content-type \"application/grpcx\"",
        ),
        (
            range().with(&[("content-type", "application/grpc+proto")]),
            200,
            0,
            "",
        ),
        (
            range().with(&[(":method", "GET")]),
            405,
            13,
            "Received a HEADERS frame with :method \"GET\" which should be POST",
        ),
        (
            range().with(&[("grpc-timeout", "x")]),
            400,
            13,
            "malformed grpc-timeout: transport: timeout string is too short: \"x\"",
        ),
        (
            range().with(&[("grpc-timeout", "0n")]),
            200,
            4,
            "context deadline exceeded",
        ),
        (range().with(&[("grpc-timeout", "99999999H")]), 200, 0, ""),
    ];
    block_on(async {
        for (call, code, status, text) in cases {
            let asked = format!(
                "{} {:?} {:?}",
                call.path,
                call.headers,
                &call.body[..call.body.len().min(20)]
            );
            let answer = call.answer(&server).await;
            assert_eq!(answer, (code, status, text.to_string()), "{asked}");
        }
    });
}

/// A transaction with `depth` others inside each other, the innermost of which puts.
fn nested(depth: usize) -> TxnRequest {
    let operation = |request| RequestOp {
        request: Some(request),
    };
    let put = PutRequest {
        key: "nested".into(),
        value: "v".into(),
        ..Default::default()
    };
    let innermost = TxnRequest {
        success: vec![operation(Request::RequestPut(put))],
        ..Default::default()
    };
    (0..depth).fold(innermost, |inner, _| TxnRequest {
        success: vec![operation(Request::RequestTxn(inner))],
        ..Default::default()
    })
}

#[test]
fn transactions_nest_as_deep_as_the_log_can_be_read_back() {
    let dir = TempDir::new("hostile-nested");
    let mut server = Server::start(dir.path(), &[]);
    block_on(async {
        let mut kv = KvClient::new(server.channel());
        kv.txn(nested(40)).await.expect("an answer");
        for depth in [41, 200, 2000] {
            let status = kv.txn(nested(depth)).await.expect_err("a refusal");
            assert_eq!(
                status.message(),
                "etcdserver: too many operations in txn request"
            );
        }
    });
    server.kill();
    server.restart();
    block_on(async {
        let mut kv = KvClient::new(server.channel());
        let request = RangeRequest {
            key: "nested".into(),
            ..Default::default()
        };
        let found = kv.range(request).await.expect("an answer").into_inner();
        assert_eq!(found.count, 1);
    });
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends bytes on a connection of their own, and reads what comes back until the server closes it or nothing
/// more comes.
fn throw(server: &Server, bytes: &[u8]) {
    let address = server.client_url();
    let address = address.strip_prefix("http://").expect("a plain URL");
    let mut stream = TcpStream::connect(address).expect("a connection");
    let patience = Some(Duration::from_millis(300));
    stream.set_read_timeout(patience).expect("a timeout");
    stream.set_write_timeout(patience).expect("a timeout");
    // The server may hang up before everything is out.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 16 << 10];
    while matches!(stream.read(&mut answer), Ok(read) if read > 0) {}
}

fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the status of a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.expect("a size").parse::<usize>().expect("a number") << 10
}

#[test]
fn broken_and_flooded_connections_leave_the_others_alone() {
    let dir = TempDir::new("hostile-frames");
    let server = Server::start(dir.path(), &[]);
    let http2 = |frames: &[u8]| [PREFACE, frames].concat();
    let many = |frame: &dyn Fn(u32) -> Vec<u8>, count: u32| {
        http2(&(0..count).flat_map(frame).collect::<Vec<_>>())
    };
    // `:method POST, :scheme http, :path /, :authority x` out of the static table.
    let head: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'x'];
    let reset = |n: u32| {
        let stream = 2 * n + 1;
        [
            frame(1, 4, stream, head),
            frame(3, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("a byte", vec![0]),
        ("half a preface", PREFACE[..10].to_vec()),
        (
            "noise",
            (0..60_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        ("noise after the preface", http2(&[0xff; 5000])),
        (
            "HTTP/1 without an end",
            b"GET /health HTTP/1.1\r\nHost: x\r\nA: ".to_vec(),
        ),
        (
            "HTTP/1 with endless headers",
            [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100_000)].concat(),
        ),
        (
            "HTTP/1 with two lengths",
            b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
                .to_vec(),
        ),
        (
            "a frame that is too long",
            http2(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        ),
        ("data on an idle stream", http2(&frame(0, 1, 1, b"x"))),
        ("headers on stream 0", http2(&frame(1, 4, 0, head))),
        (
            "headers that do not decode",
            http2(&frame(1, 4, 1, &[0xff; 30])),
        ),
        ("a lone continuation", http2(&frame(9, 4, 1, head))),
        (
            "a window that overflows",
            http2(
                &[
                    frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                    frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                ]
                .concat(),
            ),
        ),
        ("settings of a bad length", http2(&frame(4, 0, 0, &[0; 5]))),
        ("a ping of a bad length", http2(&frame(6, 0, 0, &[0; 3]))),
        ("many pings", many(&|_| frame(6, 0, 0, &[0; 8]), 50_000)),
        ("many settings", many(&|_| frame(4, 0, 0, &[]), 50_000)),
        ("many streams opened and reset", many(&reset, 50_000)),
        (
            "many streams opened and left",
            many(&|n| frame(1, 4, 2 * n + 1, head), 5000),
        ),
        ("endless continuations", {
            let rest = (0..20_000)
                .flat_map(|_| frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']))
                .collect::<Vec<_>>();
            http2(&[frame(1, 0, 1, head), rest].concat())
        }),
        ("empty data for ever", {
            let rest = (0..50_000)
                .flat_map(|_| frame(0, 0, 1, &[]))
                .collect::<Vec<_>>();
            http2(&[frame(1, 4, 1, head), rest].concat())
        }),
    ];
    block_on(async {
        let mut kv = KvClient::new(server.channel());
        let request = || RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        kv.range(request()).await.expect("an answer");
        let before = resident(&server);
        for (what, bytes) in &attacks {
            throw(&server, bytes);
            // The connection that was there before still serves.
            let answer = kv.range(request()).await;
            assert!(answer.is_ok(), "after {what}: {answer:?}");
        }
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < 64 << 20, "grew by {grown} bytes");
    });
    let log = server.log();
    assert!(!log.contains("panic"), "{log}");
}
