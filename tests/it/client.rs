//! The client library against real servers that come and go.

use std::time::Duration;

use kv::client::Client;
use kv::client::Config;
use kv::client::Watcher;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::LeaseTimeToLiveRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::WatchCreateRequest;

use crate::support::Server;
use crate::support::TempDir;

/// Long enough for a slow machine; nothing waits this long when things work.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(server: &Server) -> Client {
    let config = Config {
        request_timeout: Some(PATIENCE),
        ..Config::new([server.client_url()])
    };
    Client::connect(config).await.expect("a client")
}

async fn put(client: &Client, key: &str) -> i64 {
    let request = PutRequest {
        key: key.into(),
        value: key.into(),
        ..Default::default()
    };
    let response = client.kv().put(request).await.expect("a put");
    response.header.expect("a header").revision
}

async fn watch_all(client: &Client) -> Watcher {
    let request = WatchCreateRequest {
        key: vec![0],
        range_end: vec![0],
        ..Default::default()
    };
    client.watch().create(request).await.expect("a watch")
}

/// Kills a server and starts it again, while the client's tasks go on.
async fn bounce(mut server: Server) -> Server {
    let bounced = tokio::task::spawn_blocking(move || {
        server.kill();
        server.restart();
        server
    });
    bounced.await.expect("a server again")
}

/// The revisions of the next events, as many as asked for.
async fn revisions(watcher: &mut Watcher, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let response = tokio::time::timeout(PATIENCE, watcher.next()).await;
        let response = response.expect("events in time").expect("an open watch");
        let events = response.expect("no error").events.into_iter();
        seen.extend(
            events
                .filter_map(|event| event.kv)
                .map(|kv| kv.mod_revision),
        );
    }
    seen
}

#[tokio::test]
async fn a_watch_goes_on_after_its_server_was_killed() {
    let dir = TempDir::new("client-watch");
    let mut server = Server::start(dir.path(), &[]);
    let client = connect(&server).await;
    let mut watcher = watch_all(&client).await;
    let mut written = Vec::new();
    for round in 0..3 {
        for key in 0..5 {
            written.push(put(&client, &format!("{round}-{key}")).await);
        }
        // Some of the events are read before the server goes, some after.
        let seen = revisions(&mut watcher, 3).await;
        assert_eq!(seen, written[..seen.len()], "round {round}");
        written.drain(..seen.len());
        server = bounce(server).await;
    }
    written.push(put(&client, "last").await);
    let seen = revisions(&mut watcher, written.len()).await;
    assert_eq!(seen, written);
}

#[tokio::test]
async fn a_lease_lives_as_long_as_its_handle() {
    let dir = TempDir::new("client-lease");
    let server = Server::start(dir.path(), &[]);
    let client = connect(&server).await;
    let grant = LeaseGrantRequest { ttl: 2, id: 0 };
    let id = client.lease().grant(grant).await.expect("a lease").id;
    let mut handle = client.lease().keep_alive(id);
    // Four renewals take longer than the lease would live without them.
    for _ in 0..4 {
        let renewal = tokio::time::timeout(PATIENCE, handle.next()).await;
        assert_eq!(renewal.expect("in time").expect("a lease").ttl, 2);
    }
    drop(handle);
    let request = LeaseTimeToLiveRequest { id, keys: false };
    let gone = async {
        while client
            .lease()
            .time_to_live(request)
            .await
            .expect("an answer")
            .ttl
            != -1
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the end of the lease");
}

#[tokio::test]
async fn keys_of_a_namespace_carry_its_prefix_on_the_server_only() {
    let dir = TempDir::new("client-namespace");
    let server = Server::start(dir.path(), &[]);
    let client = connect(&server).await;
    let inside = client.with_namespace("app/");
    let mut watcher = watch_all(&inside).await;
    put(&client, "other").await;
    put(&inside, "a").await;
    let everything = |client: &Client| {
        let request = RangeRequest {
            key: vec![0],
            range_end: vec![0],
            ..Default::default()
        };
        let kv = client.kv();
        async move {
            let response = kv.range(request).await.expect("a range");
            response
                .kvs
                .into_iter()
                .map(|kv| kv.key)
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(everything(&inside).await, ["a"]);
    assert_eq!(everything(&client).await, ["app/a", "other"]);
    let response = watcher
        .next()
        .await
        .expect("an open watch")
        .expect("no error");
    let event = response.events[0].kv.clone().expect("a pair");
    assert_eq!(event.key, "a");
}

#[tokio::test]
async fn calls_wait_for_a_server_until_their_time_is_up() {
    let dir = TempDir::new("client-wait");
    let mut server = Server::prepare(dir.path(), &[]);
    let client = connect(&server).await;
    let hurried = client.with_timeout(Some(Duration::from_millis(100)));
    let request = PutRequest {
        key: b"a".to_vec(),
        ..Default::default()
    };
    let error = hurried.kv().put(request).await.expect_err("nobody there");
    assert_eq!(error, kv::client::Error::DeadlineExceeded);
    let starting = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let revision = put(&client, "a").await;
    assert_eq!(revision, 2);
    drop(starting.await);
}
