//! The server as a process: what it refuses to start with, how clients hear from it, how it ends.

use std::future::Future;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use kv::proto::etcdserverpb::CompactionRequest;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::LeaseKeepAliveRequest;
use kv::proto::etcdserverpb::LeaseTimeToLiveRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::StatusRequest;
use kv::proto::etcdserverpb::WatchCreateRequest;
use kv::proto::etcdserverpb::WatchRequest;
use kv::proto::etcdserverpb::WatchResponse;
use kv::proto::etcdserverpb::kv_client::KvClient;
use kv::proto::etcdserverpb::lease_client::LeaseClient;
use kv::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv::proto::etcdserverpb::watch_client::WatchClient;
use kv::proto::etcdserverpb::watch_request::RequestUnion;
use kv::proto::healthpb::HealthCheckRequest;
use kv::proto::healthpb::health_client::HealthClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::support::Server;
use crate::support::TempDir;
use crate::support::binary;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.arg("server").args(args);
    command.envs(variables.iter().copied());
    command.output().expect("the server ends by itself")
}

async fn put(channel: &Channel, key: &str, value: &str) -> i64 {
    let request = PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    };
    let put = KvClient::new(channel.clone()).put(request).await;
    let header = put.expect("a put").into_inner().header;
    header.expect("a header").revision
}

fn range(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }
}

/// A watch stream and the way to ask it for more.
struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watch {
    async fn open(channel: &Channel) -> Watch {
        let (requests, stream) = mpsc::channel(16);
        // History comes in responses of up to a thousand revisions.
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(1 << 30);
        let opened = client.watch(ReceiverStream::new(stream)).await;
        Watch {
            requests,
            responses: opened.expect("a stream").into_inner(),
        }
    }

    async fn create(&mut self, key: &str, start_revision: i64) {
        let request = WatchCreateRequest {
            key: key.into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        };
        self.requests.send(request).await.expect("an open stream");
    }

    async fn next(&mut self) -> WatchResponse {
        let message = self.responses.message().await;
        message.expect("no error").expect("another response")
    }
}

/// One HTTP/1.1 exchange on a connection of its own.
fn http(server: &Server, request: &str) -> String {
    let address = server.client_url().replace("http://", "");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn get(server: &Server, path: &str) -> String {
    http(
        server,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
}

/// The value of a metric without labels.
fn metric(server: &Server, name: &str) -> f64 {
    let text = get(server, "/metrics");
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.split(' ').nth(1));
    value.expect(name).parse().expect("a number")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn refused_command_lines_end_with_etcds_codes_and_words() {
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["--no-such-flag"],
            2,
            "flag provided but not defined: -no-such-flag\nUsage:",
        ),
        (&["--log-level=bad"], 2, "unrecognized level: \"bad\""),
        (&["serve"], 1, r#""error":"\"serve\" is not a valid flag""#),
        (
            &["--heartbeat-interval=0"],
            1,
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            &["--cert-file=a.crt"],
            1,
            "--cert-file is not supported yet",
        ),
        (
            &["--config-file=no-such.yml"],
            1,
            "open no-such.yml: no such file or directory",
        ),
    ];
    for (args, code, text) in cases {
        let output = run(args, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
    let output = run(&["--name=b"], &[("ETCD_NAME", "")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains(r#""level":"fatal""#)
            && stderr.contains(r#""environment-variable":"ETCD_NAME""#)
    );
}

#[test]
fn version_and_help_are_printed() {
    let version = run(&["--version"], &[]);
    assert!(version.stdout.starts_with(b"etcd Version: 3.7.1\n"));
    assert!(version.status.success());
    let help = run(&["--help"], &[]);
    let stdout = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(stdout.contains("\n  --snapshot-count '10000'\n"));
    assert!(help.status.success());
}

#[test]
fn the_log_of_a_start_has_the_lines_that_tools_wait_for() {
    let dir = TempDir::new("server-log");
    let mut server = Server::start(dir.path(), &[]);
    server.stop();
    let log = server.log();
    let at = |text: &str| {
        log.find(text)
            .unwrap_or_else(|| panic!("{text} is missing:\n{log}"))
    };
    let order = [
        "\"msg\":\"Running: \"",
        "starting an etcd server",
        "published local member to cluster through raft",
        "ready to serve client requests",
        "serving client traffic",
        "received signal; shutting down",
        "closing etcd server",
        "closed etcd server",
    ];
    assert!(order.map(at).is_sorted(), "{log}");
    for line in log.lines() {
        assert!(
            line.starts_with("{\"level\":\"") && line.contains("\"ts\":\""),
            "{line}"
        );
    }
    assert!(
        log.contains("\"snapshot-catchup-entries\":5000")
            && log.contains("\"v2-deprecation\":\"write-only\"")
    );
}

#[test]
fn a_signal_ends_streams_as_unavailable_and_the_process_by_itself() {
    let dir = TempDir::new("server-stop");
    let mut server = Server::start(dir.path(), &[]);
    block_on(async {
        let channel = server.channel();
        let mut watch = Watch::open(&channel).await;
        watch.create("a", 0).await;
        assert!(watch.next().await.created);
        let start = Instant::now();
        // The connection must be able to answer meanwhile.
        let stopped = tokio::task::spawn_blocking(move || server.stop()).await;
        let status = stopped.expect("an end");
        assert_eq!(status.signal(), Some(15));
        assert!(start.elapsed() < Duration::from_secs(3));
        let end = watch.responses.message().await;
        assert_eq!(
            end.err().map(|status| status.code()),
            Some(Code::Unavailable)
        );
    });
}

#[test]
fn keys_leases_and_history_survive_a_restart() {
    let dir = TempDir::new("server-restart");
    let mut server = Server::start(dir.path(), &[]);
    let lease = block_on(async {
        let channel = server.channel();
        put(&channel, "a", "1").await;
        put(&channel, "a", "2").await;
        let grant = LeaseGrantRequest { ttl: 500, id: 0 };
        let granted = LeaseClient::new(channel).lease_grant(grant).await;
        granted.expect("a lease").into_inner().id
    });
    server.stop();
    server.restart();
    block_on(async {
        let channel = server.channel();
        let found = KvClient::new(channel.clone()).range(range("a")).await;
        let found = found.expect("a range").into_inner();
        assert_eq!(found.kvs[0].value, "2");
        let asked = LeaseTimeToLiveRequest {
            id: lease,
            keys: false,
        };
        let left = LeaseClient::new(channel.clone())
            .lease_time_to_live(asked)
            .await;
        assert_eq!(left.expect("an answer").into_inner().granted_ttl, 500);
        let mut watch = Watch::open(&channel).await;
        watch.create("a", 1).await;
        assert!(watch.next().await.created);
        assert_eq!(watch.next().await.events.len(), 2);
        let mut maintenance = MaintenanceClient::new(channel);
        let status = maintenance.status(StatusRequest {}).await;
        assert_eq!(status.expect("a status").into_inner().version, "3.7.1");
    });
}

#[test]
fn ten_thousand_watches_come_and_go() {
    let dir = TempDir::new("server-watches");
    let server = Server::start(dir.path(), &[]);
    block_on(async {
        let channel = server.channel();
        for _ in 0..10 {
            let mut watch = Watch::open(&channel).await;
            for key in 0..1000 {
                watch.create(&format!("k{key}"), 0).await;
                assert!(watch.next().await.created);
            }
        }
    });
    let gone = |name| move || metric(&server, name) == 0.0;
    eventually(
        "no watcher is left",
        gone("etcd_debugging_mvcc_watcher_total"),
    );
}

#[test]
fn a_client_that_never_reads_does_not_hold_what_it_was_sent() {
    let dir = TempDir::new("server-unread");
    let flags = ["--value-cache-bytes=1000000"];
    let server = Server::start(dir.path(), &flags);
    let resident = |server: &Server| metric(server, "process_resident_memory_bytes");
    block_on(async {
        let channel = server.channel();
        let mut unread = Vec::new();
        for _ in 0..50 {
            // A connection each: one that is not read would hold up the others.
            let mut watch = Watch::open(&server.channel()).await;
            watch.create("big", 0).await;
            assert!(watch.next().await.created);
            unread.push(watch);
        }
        let value = "v".repeat(10_000);
        let before = resident(&server);
        for _ in 0..3000 {
            put(&channel, "big", &value).await;
        }
        // 30 MB were written; fifty copies of them would be 1.5 GB.
        let grown = resident(&server) - before;
        assert!(grown < 400e6, "grew by {grown} bytes");
        let mut last = unread.pop().expect("a watch");
        let mut seen = 0;
        while seen < 3000 {
            seen += last.next().await.events.len();
        }
    });
}

#[test]
fn one_port_serves_grpc_and_http() {
    let dir = TempDir::new("server-port");
    let server = Server::start(dir.path(), &[]);
    let health = get(&server, "/health");
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.ends_with("\r\n\r\n{\"health\":\"true\",\"reason\":\"\"}"));
    assert!(get(&server, "/nosuch").ends_with("404 page not found\n"));
    let refused = http(&server, "GET /version HTTP/1.1\r\n\r\n");
    assert!(
        refused.starts_with("HTTP/1.1 400 Bad Request: missing required Host header\r\n"),
        "{refused}"
    );
    assert!(http(&server, "GET /version HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 OK"));
    block_on(async {
        let mut health = HealthClient::new(server.channel());
        let answer = health.check(HealthCheckRequest::default()).await;
        assert_eq!(answer.expect("an answer").into_inner().status, 1);
        let unknown = HealthCheckRequest {
            service: "x".into(),
        };
        let refusal = health.check(unknown).await.err();
        assert_eq!(refusal.map(|status| status.code()), Some(Code::NotFound));
    });
}

#[test]
fn too_large_messages_are_refused_in_the_words_of_grpc_go() {
    let dir = TempDir::new("server-large");
    let server = Server::start(dir.path(), &["--max-request-bytes=1000"]);
    block_on(async {
        let mut kv = KvClient::new(server.channel());
        let mut refusal = async |bytes: usize| {
            let request = PutRequest {
                key: "k".into(),
                value: vec![7; bytes],
                ..PutRequest::default()
            };
            let status = kv.put(request).await.expect_err("a refusal");
            (status.code(), status.message().to_string())
        };
        assert_eq!(
            refusal(2000).await,
            (
                Code::InvalidArgument,
                "etcdserver: request is too large".into()
            )
        );
        let (code, message) = refusal(600_000).await;
        assert_eq!(code, Code::ResourceExhausted);
        assert_eq!(
            message,
            "grpc: received message larger than max (600007 vs. 525288)"
        );
    });
}

#[test]
fn leases_end_by_themselves_and_take_their_keys() {
    let dir = TempDir::new("server-lease");
    let server = Server::start(dir.path(), &[]);
    block_on(async {
        let channel = server.channel();
        let mut leases = LeaseClient::new(channel.clone());
        let mut ids = Vec::new();
        for _ in 0..2 {
            let granted = leases
                .lease_grant(LeaseGrantRequest { ttl: 2, id: 0 })
                .await;
            ids.push(granted.expect("a lease").into_inner().id);
        }
        let mut kv = KvClient::new(channel);
        for (key, lease) in [("kept", ids[0]), ("gone", ids[1])] {
            let request = PutRequest {
                key: key.into(),
                lease,
                ..PutRequest::default()
            };
            kv.put(request).await.expect("a put");
        }
        let (requests, stream) = mpsc::channel(1);
        let answers = leases.lease_keep_alive(ReceiverStream::new(stream)).await;
        let mut answers = answers.expect("a stream").into_inner();
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let keep = LeaseKeepAliveRequest { id: ids[0] };
            requests.send(keep).await.expect("an open stream");
            let answer = answers.message().await.expect("no error");
            assert_eq!(answer.expect("an answer").ttl, 2);
            let found = kv.range(range("gone")).await.expect("a range").into_inner();
            if found.count == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "the lease did not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let found = kv.range(range("kept")).await.expect("a range").into_inner();
        assert_eq!(found.count, 1);
    });
}

#[test]
fn a_physical_compaction_answers_when_it_is_done() {
    let dir = TempDir::new("server-compact");
    let server = Server::start(dir.path(), &[]);
    block_on(async {
        let channel = server.channel();
        let mut last = 0;
        for at in 0..500 {
            last = put(&channel, "k", &at.to_string()).await;
        }
        let mut kv = KvClient::new(channel);
        let request = CompactionRequest {
            revision: last,
            physical: true,
        };
        kv.compact(request).await.expect("a compaction");
        let old = RangeRequest {
            revision: last - 1,
            ..range("k")
        };
        let refusal = kv.range(old).await.expect_err("a refusal");
        assert_eq!(refusal.code(), Code::OutOfRange);
    });
    eventually("the log tells", || {
        server.log().contains("finished scheduled compaction")
    });
}
