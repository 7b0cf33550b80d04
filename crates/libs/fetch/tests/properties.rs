//! However often and wherever a download breaks, the file is right in the end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../uplink/tests/support/mod.rs"]
mod support;
mod world;

use std::sync::Mutex;

use bytes::Bytes;
use fetch::{FetchError, Limits, Login, Opened, Problem, Resume, Source, download};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use proptest::prelude::*;
use support::{Ca, Request, Step, answer, head, serve, server_tls};
use uplink::Attempt;
use world::{Disk, content, digest, limits, range_of, source, source_for_test, ways};

/// What the datastore does with one request.
#[derive(Debug, Clone)]
enum Fault {
    /// Sends that many bytes, then resets or closes.
    Cut {
        after: usize,
        reset: bool,
    },
    /// Starts from 0 although asked for a range, and is cut.
    IgnoreRange {
        after: usize,
    },
    /// Has another tag (and the same bytes) from now on.
    Retag,
    Refuse(u16),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0usize..60_000, any::<bool>()).prop_map(|(after, reset)| Fault::Cut { after, reset }),
        (0usize..60_000).prop_map(|after| Fault::IgnoreRange { after }),
        Just(Fault::Retag),
        prop_oneof![Just(500), Just(503), Just(404)].prop_map(Fault::Refuse),
    ]
}

struct Store {
    file: Vec<u8>,
    faults: Vec<Fault>,
    tag: u32,
}

impl Store {
    fn serve(&mut self, request: &Request) -> Vec<Step> {
        let fault = self.faults.pop();
        if let Some(Fault::Refuse(code)) = fault {
            return answer(code, &[], b"");
        }
        if matches!(fault, Some(Fault::Retag)) {
            self.tag += 1;
        }
        let tag = format!("\"{}\"", self.tag);
        let proven = request.header("if-range").is_none_or(|proof| proof == tag);
        let ignore = matches!(fault, Some(Fault::IgnoreRange { .. })) || !proven;
        let begin = if ignore {
            0
        } else {
            range_of(request).unwrap_or(0)
        };
        let total = self.file.len();
        if begin >= total && begin > 0 {
            return answer(
                416,
                &[
                    ("ETag", &tag),
                    ("Content-Range", &format!("bytes */{total}")),
                ],
                b"",
            );
        }
        let range = format!("bytes {begin}-{}/{total}", total - 1);
        let head = match begin {
            0 => head(200, &[("ETag", &tag)], total),
            _ => head(
                206,
                &[("ETag", &tag), ("Content-Range", &range)],
                total - begin,
            ),
        };
        let (after, reset) = match fault {
            Some(Fault::Cut { after, reset }) => (after, reset),
            Some(Fault::IgnoreRange { after }) => (after, false),
            _ => (usize::MAX, false),
        };
        let end = total.min(begin.saturating_add(after));
        let mut steps = vec![Step::Send(head), Step::Send(self.file[begin..end].to_vec())];
        if reset && end < total {
            steps.push(Step::Reset);
        }
        steps
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_file_is_right_in_the_end(
        size in 1usize..60_000,
        faults in proptest::collection::vec(fault(), 0..8),
        two_ports: bool,
        with_digest: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = content(size);
            let count = faults.len();
            let store = Mutex::new(Store { file: file.clone(), faults, tag: 1 });
            let server = serve(None, move |request| store.lock().unwrap().serve(request)).await;
            let disk = Disk::new();
            let mut limits = limits(&file);
            if !with_digest {
                limits.digest = None;
            }
            let ways = ways(if two_ports { 2 } else { 1 });
            for _ in 0..=count {
                match download(&source(&server), &ways, &disk.target, &limits, &mut |_| {}).await {
                    Ok(done) => {
                        assert_eq!(done.digest, digest(&file));
                        assert_eq!(disk.file(), file);
                        assert_eq!(disk.names(), ["image"]);
                        return;
                    }
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
            panic!("it did not end although the datastore had become healthy");
        });
    }
}

#[tokio::test]
async fn https_with_the_datastores_own_certificate_and_a_login() {
    let ca = Ca::new("datastore root");
    let file = content(5_000);
    let sent = file.clone();
    let leaf = ca.leaf(&["127.0.0.1"]);
    let server = serve(Some(server_tls(&leaf, None)), move |request| match request
        .header("authorization")
    {
        Some("Basic dXNlcjpwYXNz") => answer(200, &[], &sent),
        _ => answer(401, &[], b""),
    })
    .await;
    let login = Login {
        user: "user".to_owned().into(),
        password: "pass".to_owned().into(),
    };
    let run = async |pems: &[&str], login: Option<Login>| {
        let disk = Disk::new();
        let source = source_for_test(server.address, pems, login);
        download(
            source.as_ref(),
            &ways(1),
            &disk.target,
            &limits(&file),
            &mut |_| {},
        )
        .await
    };
    assert_eq!(
        run(&[&ca.pem], Some(login.clone())).await.unwrap().size,
        5_000
    );
    assert!(matches!(
        run(&[&ca.pem], None).await,
        Err(FetchError::Attempts { .. })
    ));
    let untrusted = run(&[], Some(login)).await.unwrap_err();
    assert!(!untrusted.is_transient());
    assert!(untrusted.to_string().contains("tls:"), "{untrusted}");
}

/// A datastore as fast as memory.
#[derive(Debug)]
struct Flood;

const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 768;

impl Source for Flood {
    fn url(&self) -> &'static str {
        "flood"
    }

    fn open<'a>(
        &'a self,
        _: &'a Attempt,
        _: Option<&'a Resume>,
    ) -> BoxFuture<'a, Result<Opened, Problem>> {
        let chunks = (0..CHUNKS).map(|_| Ok(Bytes::from(vec![5; CHUNK])));
        let body = stream::iter(chunks).boxed();
        Box::pin(async {
            Ok(Opened {
                start: 0,
                total: None,
                validator: None,
                body,
            })
        })
    }
}

/// Most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn memory_does_not_grow_with_the_file() {
    let disk = Disk::new();
    let before = peak();
    let mut reports = 0;
    let limits = Limits::default();
    let done = download(&Flood, &ways(1), &disk.target, &limits, &mut |_| {
        reports += 1;
    })
    .await
    .unwrap();
    assert_eq!(done.size, (CHUNK * CHUNKS) as u64);
    let grown = peak() - before;
    assert!(grown < 40 << 10, "192 MiB took {grown} KiB");
    // Reports follow the clock, not the chunks.
    assert!(reports < CHUNKS / 2, "{reports}");
}
