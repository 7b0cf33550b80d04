//! Datastores. Whatever they answer, and whatever an earlier download left on the disk: a file that is
//! there is whole and is the right one, and no answer fills the disk beyond the limit.

use std::{fs, net::SocketAddr, path::Path, sync::LazyLock, time::Duration};

use fetch::{HttpSource, Limits, download, partial::Paths};
use model::id::Digest;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use uplink::{Attempt, Choice, Port, Roots, Settings, Tls, attempts, reqwest::Url};

use crate::input;

/// The file that is wanted.
const FILE: &[u8] = b"0123456789abcdef0123456789abcdef";
const LARGEST: u64 = 64 * 1024;
/// A name for the datastore in what is kept, whatever its port is.
const HERE: &str = "http://datastore";

struct Datastore {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    ways: Vec<Attempt>,
}

static DATASTORE: LazyLock<Datastore> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a socket");
    let port = Port::new("eth0", vec![[127, 0, 0, 2].into()]);
    Datastore {
        address: listener.local_addr().expect("its address"),
        ways: attempts(&[port], &Choice::any_cost(0)).expect("a way"),
        listener,
        runtime,
    }
});

/// Fetches from a datastore that gives these answers one after the other.
pub fn check(bytes: &[u8]) {
    let [kept, sidecar, answers] = input::parts(bytes);
    let answers: Vec<&[u8]> = answers.split(|b| *b == input::SEPARATOR).collect();
    for digest in [Some(digest(FILE)), None] {
        let dir = tempfile::tempdir_in(memory()).expect("a directory");
        let paths = Paths::of(&dir.path().join("image"));
        if !kept.is_empty() {
            let here = format!("http://{}", DATASTORE.address);
            let sidecar = String::from_utf8_lossy(sidecar).replace(HERE, &here);
            fs::write(&paths.part, kept).expect("a part");
            fs::write(&paths.sidecar, sidecar).expect("a sidecar");
        }
        fetched(&paths, kept, &answers, digest);
    }
}

fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn fetched(paths: &Paths, kept: &[u8], answers: &[&[u8]], digest: Option<Digest>) {
    let limits = Limits {
        max_bytes: Some(LARGEST),
        exact_bytes: None,
        digest,
        stall: Duration::from_secs(3),
    };
    let settings = Settings {
        connect_timeout: Duration::from_secs(3),
        request_timeout: None,
        // Where it would lead is nobody's business here.
        redirects: 0,
        ..Settings::default()
    };
    let url = format!("http://{}/image", DATASTORE.address);
    let url = Url::parse(&url).expect("a URL");
    let tls = Tls::new(Roots::default(), None).expect("TLS");
    let source = HttpSource::new(url, None, tls, settings);
    let mut told = 0;
    let mut progress = |now: fetch::Progress<'_>| told = now.done;
    let result = DATASTORE.runtime.block_on(async {
        let wanted = download(
            &source,
            &DATASTORE.ways,
            &paths.target,
            &limits,
            &mut progress,
        );
        tokio::select! {
            result = tokio::time::timeout(Duration::from_secs(8), wanted) => result,
            () = serve(answers) => unreachable!("it serves for ever"),
        }
    });
    let result = result.expect("a download that waits for a datastore that is gone");
    assert!(told <= LARGEST || told <= kept.len() as u64, "{told} bytes");
    let left = paths.kept();
    assert!(left <= LARGEST.max(kept.len() as u64), "{left} bytes");
    match result {
        Ok(done) => {
            let file = fs::read(&paths.target).expect("the file");
            assert_eq!(
                (done.size, done.digest),
                (file.len() as u64, self::digest(&file))
            );
            assert!(done.size <= LARGEST && left == 0);
            assert!(
                digest.is_none_or(|wanted| wanted == done.digest),
                "another file"
            );
        }
        Err(error) => {
            assert!(!paths.target.exists(), "{error}, and yet a file");
            assert!(error.to_string().len() < 3000, "{error}");
        }
    }
}

/// One answer for each connection; then none any more.
async fn serve(answers: &[&[u8]]) {
    let mut answers = answers.iter();
    loop {
        let Ok((mut stream, _)) = DATASTORE.listener.accept().await else {
            continue;
        };
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut request).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // The client may have heard enough.
        let _ = stream.write_all(answers.next().unwrap_or(&&[][..])).await;
        let _ = stream.shutdown().await;
    }
}

/// Answers of honest and of broken datastores.
pub fn seeds() -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(FILE).expect("text");
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: 32\r\nETag: \"v1\"\r\n\r\n{text}");
    let rest = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 22\r\nETag: \"v1\"\r\nContent-Range: bytes 10-31/32\r\n\r\n{}",
        &text[10..]
    );
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nLast-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n\r\n20\r\n{text}\r\n0\r\n\r\n"
    );
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", text.repeat(40));
    let sidecar = |validator: &str| format!(r#"{{"Url":"{HERE}/image"{validator}}}"#);
    let tag = sidecar(r#","Validator":{"ETag":"\"v1\""},"Total":32"#);
    let wanted = sidecar(&format!(r#","Digest":"{}""#, hex(FILE)));
    let kept = &FILE[..10];
    let bytes = str::as_bytes;
    vec![
        input::join(&[b"", b"", bytes(&whole)]),
        input::join(&[kept, bytes(&tag), bytes(&rest)]),
        input::join(&[kept, bytes(&wanted), bytes(&rest), bytes(&whole)]),
        input::join(&[FILE, bytes(&wanted), b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */32\r\nContent-Length: 0\r\n\r\n"]),
        input::join(&[b"xxxxxxxxxx", bytes(&wanted), bytes(&rest), bytes(&whole)]),
        input::join(&[b"", b"", bytes(&chunked)]),
        input::join(&[b"", b"", bytes(&endless)]),
        input::join(&[b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc"]),
        input::join(&[b"", b"", b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbusy"]),
        input::join(&[b"", b"", b"HTTP/1.1 301 Moved\r\nLocation: /image\r\nContent-Length: 0\r\n\r\n"]),
        input::join(&[kept, b"{", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"]),
    ]
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).to_string()
}
