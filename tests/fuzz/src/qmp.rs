//! What QEMU says. A line is one message or an error, however it was cut into pieces, and a client is
//! through with any peer that goes away.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    runtime::{Builder, Runtime},
};
use vmm::qmp::{
    Limits, Message, Qmp,
    codec::{CodecError, Lines, MAX_LINE, parse_line},
};

/// Feeds it to the codec whole and in pieces, then to a client.
pub fn check(bytes: &[u8]) {
    let whole = lines(bytes, bytes.len().max(1));
    for size in [1, 7] {
        assert_eq!(lines(bytes, size), whole, "pieces of {size}");
    }
    let mut greeted = false;
    for line in &whole.0 {
        assert!(line.len() <= MAX_LINE);
        match parse_line(line) {
            Ok(Message::Greeting(_)) => greeted = true,
            Ok(message) => assert_eq!(parse_line(line).ok(), Some(message)),
            Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
        }
    }
    if greeted {
        converse(bytes);
    }
}

/// The lines, and whether one was too long.
fn lines(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, bool) {
    let mut lines = Lines::new(MAX_LINE);
    let mut found = Vec::new();
    for piece in bytes.chunks(size) {
        lines.push(piece);
        loop {
            match lines.next_line() {
                Ok(Some(line)) => found.push(line),
                Ok(None) => break,
                Err(CodecError::LineTooLong { .. }) => return (found, true),
                Err(error) => panic!("cutting lines: {error}"),
            }
        }
    }
    (found, false)
}

struct Peer {
    runtime: Runtime,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

static PEER: LazyLock<Peer> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    Peer {
        runtime: Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
        path: dir.path().join("qmp"),
        _dir: dir,
    }
});

/// A client against a peer that says all of it and goes.
fn converse(bytes: &[u8]) {
    PEER.runtime.block_on(async {
        let _ = std::fs::remove_file(&PEER.path);
        let listener = UnixListener::bind(&PEER.path).expect("a socket");
        let peer = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            // The client may have heard enough.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let client = async {
            let limits = Limits {
                greeting: Duration::from_secs(5),
                command: Duration::from_secs(5),
            };
            let Ok((qmp, mut events)) = Qmp::connect(&PEER.path, limits).await else {
                return;
            };
            let _ = (qmp.status().await, qmp.cpus().await);
            let _ = (qmp.block_stats().await, qmp.vnc().await);
            drop(qmp);
            while events.next().await.is_some() {}
        };
        let both = async { tokio::join!(peer, client) };
        let ended = tokio::time::timeout(Duration::from_secs(4), both).await;
        assert!(ended.is_ok(), "the client waits for a peer that is gone");
    });
}

/// A conversation with QEMU 7.2, and its parts.
pub fn seeds() -> Vec<Vec<u8>> {
    let greeting = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "#,
        r#""package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#,
        "\r\n"
    );
    let answers = [
        r#"{"return": {}, "id": 0}"#,
        r#"{"return": {"status": "running", "singlestep": false, "running": true}, "id": 1}"#,
        r#"{"return": [{"thread-id": 4711, "props": {"core-id": 0, "thread-id": 0, "socket-id": 0}, "qom-path": "/machine/unattached/device[0]", "cpu-index": 0, "target": "x86_64"}], "id": 2}"#,
        r#"{"return": [{"device": "", "qdev": "disk0", "node-name": "disk0", "stats": {"rd_bytes": 1024, "wr_bytes": 18446744073709551615, "rd_operations": 1, "wr_operations": 2, "flush_operations": 3, "failed_rd_operations": 0, "failed_wr_operations": 18446744073709551615, "wr_highest_offset": 4096}}], "id": 3}"#,
        r#"{"return": {"enabled": true, "host": "127.0.0.1", "service": "5900", "auth": "vnc", "clients": []}, "id": 4}"#,
        r#"{"timestamp": {"seconds": 1800000000, "microseconds": 12345}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
        r#"{"id": 3, "error": {"class": "GenericError", "desc": "no such thing"}}"#,
        r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "disk0", "operation": "write", "action": "stop"}, "timestamp": {"seconds": -1, "microseconds": -1}}"#,
    ];
    let mut all = greeting.to_owned();
    let mut seeds = vec![greeting.as_bytes().to_vec()];
    for answer in answers {
        all.push_str(answer);
        all.push_str("\r\n");
        seeds.push(format!("{greeting}{answer}\n").into_bytes());
    }
    seeds.push(all.into_bytes());
    seeds
}
