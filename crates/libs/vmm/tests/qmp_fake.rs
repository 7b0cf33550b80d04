//! The QMP client against servers that behave badly.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use vmm::qmp::{ErrorClass, Follow, FollowNotice, Limits, Link, Notice, Qmp, QmpError, RunState};

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}"#;

fn limits() -> Limits {
    Limits {
        greeting: Duration::from_millis(300),
        command: Duration::from_millis(300),
    }
}

struct Server {
    _directory: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        Self {
            _directory: directory,
            path,
            listener,
        }
    }

    /// Accepts, greets and answers the handshake.
    async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer(BufReader::new(stream));
        peer.say(GREETING).await;
        let id = peer.expect("qmp_capabilities").await["id"].clone();
        peer.say(&json!({ "return": {}, "id": id }).to_string())
            .await;
        peer
    }

    async fn pair(&self) -> (Peer, Qmp, vmm::qmp::Events) {
        let (peer, connected) = tokio::join!(self.accept(), Qmp::connect(&self.path, limits()));
        let (qmp, events) = connected.unwrap();
        (peer, qmp, events)
    }
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    async fn say(&mut self, line: &str) {
        let line = format!("{line}\r\n");
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
    }

    async fn expect(&mut self, command: &str) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["execute"], command);
        value
    }
}

#[tokio::test]
async fn a_server_that_does_not_greet_is_given_up() {
    let server = Server::new();
    let error = Qmp::connect(&server.path, limits()).await.unwrap_err();
    assert!(matches!(&error, QmpError::NoGreeting { .. }), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn nobody_listens() {
    let path = PathBuf::from("/nowhere/qmp");
    let error = Qmp::connect(&path, limits()).await.unwrap_err();
    assert!(matches!(&error, QmpError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn another_protocol_is_named() {
    let server = Server::new();
    let talk = async {
        let (stream, _) = server.listener.accept().await.unwrap();
        let mut peer = Peer(BufReader::new(stream));
        peer.say("220 mail.example.org ESMTP").await;
        peer
    };
    let (_peer, connected) = tokio::join!(talk, Qmp::connect(&server.path, limits()));
    let error = connected.unwrap_err();
    assert!(matches!(&error, QmpError::Protocol { .. }), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let server = Server::new();
    let (mut peer, qmp, _events) = server.pair().await;
    let serve = async {
        let first = peer.expect("query-status").await["id"].clone();
        let second = peer.expect("query-cpus-fast").await["id"].clone();
        peer.say(r#"{"event": "RESUME"}"#).await;
        let cpus = json!([{ "cpu-index": 0, "thread-id": 42, "target": "x86_64" }]);
        peer.say(&json!({ "id": second, "return": cpus }).to_string())
            .await;
        peer.say(r#"{"return": {}, "id": 999}"#).await;
        let status = json!({ "running": true, "status": "running" });
        peer.say(&json!({ "id": first, "return": status }).to_string())
            .await;
    };
    let asks = async { tokio::join!(biased; qmp.status(), qmp.cpus()) };
    let ((), (status, cpus)) = tokio::join!(serve, asks);
    assert_eq!(status.unwrap().state, RunState::Running);
    assert_eq!(cpus.unwrap()[0].thread_id, 42);
}

#[tokio::test]
async fn a_refusal_has_class_and_words() {
    let server = Server::new();
    let (mut peer, qmp, _events) = server.pair().await;
    let serve = async {
        let id = peer.expect("device_del").await["id"].clone();
        let error = json!({ "class": "DeviceNotFound", "desc": "no disk9" });
        peer.say(&json!({ "id": id, "error": error }).to_string())
            .await;
    };
    let ((), refused) = tokio::join!(serve, qmp.unplug("disk9"));
    let error = refused.unwrap_err();
    assert_eq!(error.to_string(), "device_del refused: no disk9");
    let not_found = ErrorClass::DeviceNotFound;
    assert!(matches!(error, QmpError::Refused { class, .. } if class == not_found));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_goes_to_nobody() {
    let server = Server::new();
    let (mut peer, qmp, _events) = server.pair().await;
    let error = qmp.stop().await.unwrap_err();
    assert!(matches!(&error, QmpError::NoAnswer { .. }), "{error}");
    let late = peer.expect("stop").await["id"].clone();
    let serve = async {
        let id = peer.expect("query-status").await["id"].clone();
        peer.say(&json!({ "id": late, "return": {} }).to_string())
            .await;
        let status = json!({ "running": false, "status": "paused" });
        peer.say(&json!({ "id": id, "return": status }).to_string())
            .await;
    };
    let ((), status) = tokio::join!(serve, qmp.status());
    assert_eq!(status.unwrap().state, RunState::Paused);
}

#[tokio::test]
async fn a_closed_connection_answers_everyone() {
    let server = Server::new();
    let (mut peer, qmp, mut events) = server.pair().await;
    let serve = async {
        peer.expect("cont").await;
        drop(peer);
    };
    let ((), closed) = tokio::join!(serve, qmp.cont());
    assert!(matches!(closed, Err(QmpError::Closed { .. })));
    assert_eq!(events.next().await, None);
    assert!(!qmp.is_open());
    assert!(matches!(qmp.cont().await, Err(QmpError::Closed { .. })));
}

#[tokio::test]
async fn quit_may_close_before_it_answers() {
    let server = Server::new();
    let (mut peer, qmp, _events) = server.pair().await;
    let serve = async {
        peer.expect("quit").await;
        drop(peer);
    };
    let ((), quit) = tokio::join!(serve, qmp.quit());
    quit.unwrap();
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed() {
    let server = Server::new();
    let (mut peer, qmp, mut events) = server.pair().await;
    let serve = async {
        for n in 0..300 {
            peer.say(&json!({ "event": "E", "data": { "n": n } }).to_string())
                .await;
        }
        let id = peer.expect("cont").await["id"].clone();
        peer.say(&json!({ "return": {}, "id": id }).to_string())
            .await;
    };
    let ((), done) = tokio::join!(serve, qmp.cont());
    done.unwrap();
    assert_eq!(events.next().await, Some(Notice::Lost(44)));
    assert!(matches!(events.next().await, Some(Notice::Event(e)) if e.data["n"] == 0));
}

#[tokio::test]
async fn dropping_every_handle_frees_the_socket() {
    let server = Server::new();
    let (mut peer, qmp, events) = server.pair().await;
    drop(qmp);
    drop(events);
    let mut line = String::new();
    assert_eq!(peer.0.read_line(&mut line).await.unwrap(), 0);
}

#[tokio::test]
async fn a_flood_without_a_line_end_is_cut() {
    let server = Server::new();
    let (mut peer, _qmp, mut events) = server.pair().await;
    let flood = vec![b'x'; 1 << 20];
    let pour = async { while peer.0.get_mut().write_all(&flood).await.is_ok() {} };
    let ((), ended) = tokio::join!(pour, events.next());
    assert_eq!(ended, None);
}

#[tokio::test]
async fn a_link_connects_again() {
    let server = Server::new();
    let mut link = Link::new(&server.path, limits());
    let (peer, first) = tokio::join!(server.accept(), link.client());
    first.unwrap();
    drop(peer);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let patience = Duration::from_secs(5);
    let (_peer, second) = tokio::join!(server.accept(), link.client_within(patience));
    assert!(second.unwrap().is_open());
}

#[tokio::test]
async fn a_link_waits_for_a_server_that_is_starting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut link = Link::new(&path, limits());
    let start = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let listener = UnixListener::bind(&path).unwrap();
        let server = Server {
            _directory: tempfile::tempdir().unwrap(),
            path: path.clone(),
            listener,
        };
        server.accept().await
    };
    let (_peer, client) = tokio::join!(start, link.client_within(Duration::from_secs(5)));
    client.unwrap();
}

#[tokio::test]
async fn a_follower_says_when_it_was_away() {
    let server = Server::new();
    let mut follow = Follow::new(&server.path, limits());
    let (mut peer, notice) = tokio::join!(server.accept(), follow.next());
    assert_eq!(notice, FollowNotice::Connected);
    peer.say(r#"{"event": "STOP"}"#).await;
    let heard = follow.next().await;
    assert!(matches!(heard, FollowNotice::Heard(Notice::Event(e)) if e.name == "STOP"));
    drop(peer);
    assert_eq!(follow.next().await, FollowNotice::Disconnected);
    let (_peer, notice) = tokio::join!(server.accept(), follow.next());
    assert_eq!(notice, FollowNotice::Connected);
}

#[tokio::test]
async fn connections_can_move_between_threads() {
    fn sendable<T: Send>(_: &T) {}
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    sendable(&Qmp::connect(&path, limits()));
    let mut follow = Follow::new(&path, limits());
    sendable(&follow.next());
    let tool = vmm::image::QemuImg::default();
    let raw = vmm::spec::ImageFormat::Raw;
    sendable(&tool.convert(&path, raw, &path, raw, |_| {}));
    sendable(&tool.create(&path, raw, 1));
}
