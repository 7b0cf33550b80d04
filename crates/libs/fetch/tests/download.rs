//! Downloads from a datastore on loopback that breaks in every way we know of.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../uplink/tests/support/mod.rs"]
mod support;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fetch::{FetchError, Limits, Problem, download};
use support::{Server, Step, answer, head, refusing, serve, silent};
use uplink::Reason;
use world::{
    Disk, TAG, broken_at, content, digest, get, limits, range_of, source, source_at, store, ways,
};

fn only(error: &FetchError) -> &Problem {
    match error {
        FetchError::Attempts { errors, .. } if errors.len() == 1 => &errors[0].problem,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_whole_file() {
    let file = content(300_000);
    let server = store(&file).await;
    let disk = Disk::new();
    let mut seen = Vec::new();
    let mut progress = |p: fetch::Progress<'_>| seen.push((p.port.to_owned(), p.done, p.total));
    let limits = Limits {
        exact_bytes: Some(300_000),
        max_bytes: Some(300_000),
        ..limits(&file)
    };
    let done = download(
        &source(&server),
        &ways(1),
        &disk.target,
        &limits,
        &mut progress,
    )
    .await
    .unwrap();
    assert_eq!(
        (done.size, done.digest, done.received),
        (300_000, digest(&file), 300_000)
    );
    assert!(done.failed.is_empty());
    assert_eq!(disk.file(), file);
    assert_eq!(disk.names(), ["image"]);
    assert_eq!(
        seen.first().unwrap(),
        &("eth0".to_owned(), 0, Some(300_000))
    );
    assert_eq!(
        seen.last().unwrap(),
        &("eth0".to_owned(), 300_000, Some(300_000))
    );
    assert!(seen.windows(2).all(|w| w[0].1 <= w[1].1));
    let asked = &server.requests()[0];
    assert_eq!(
        (asked.header("range"), asked.header("accept-encoding")),
        (None, Some("identity"))
    );
}

#[tokio::test]
async fn an_empty_file() {
    let server = store(&[]).await;
    let disk = Disk::new();
    let done = get(&server, &disk, &limits(&[])).await.unwrap();
    assert_eq!((done.size, disk.file().len()), (0, 0));
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let file = content(200_000);
    let sent = file.clone();
    let count = AtomicUsize::new(0);
    let server = serve(None, move |request| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        broken_at(request, &sent, if first { 90_000 } else { usize::MAX })
    })
    .await;
    let disk = Disk::new();
    let error = get(
        &server,
        &disk,
        &Limits {
            digest: None,
            ..limits(&file)
        },
    )
    .await
    .unwrap_err();
    assert!(error.is_transient());
    assert!(
        matches!(only(&error), Problem::Transport(t) if t.reason == Reason::Truncated),
        "{error}"
    );
    assert!(
        matches!(error, FetchError::Attempts { kept: 90_000, .. }),
        "{error}"
    );
    assert_eq!(disk.names(), ["image.part", "image.part.json"]);
    let done = get(
        &server,
        &disk,
        &Limits {
            digest: None,
            ..limits(&file)
        },
    )
    .await
    .unwrap();
    assert_eq!(
        (done.received, done.size, done.digest),
        (110_000, 200_000, digest(&file))
    );
    assert_eq!(disk.file(), file);
    assert_eq!(disk.names(), ["image"]);
    let asked = server.requests();
    assert_eq!(
        (asked[1].header("range"), asked[1].header("if-range")),
        (Some("bytes=90000-"), Some("\"v1\""))
    );
}

#[tokio::test]
async fn the_next_port_goes_on_where_the_first_stopped() {
    let file = content(200_000);
    let sent = file.clone();
    let server = serve(None, move |request| {
        let first = request.peer.ip().to_string() == "127.0.0.2";
        broken_at(request, &sent, if first { 50_000 } else { usize::MAX })
    })
    .await;
    let disk = Disk::new();
    let done = download(
        &source(&server),
        &ways(2),
        &disk.target,
        &limits(&file),
        &mut |_| {},
    )
    .await
    .unwrap();
    assert_eq!((done.port.as_str(), done.received), ("eth1", 200_000));
    assert_eq!(
        (done.failed[0].port.as_str(), done.failed[0].received),
        ("eth0", 50_000)
    );
    assert_eq!(disk.file(), file);
    // With no way left, each has its error.
    let nobody = source_at(&format!("http://{}/image", refusing().await));
    let error = download(&nobody, &ways(2), &disk.target, &limits(&file), &mut |_| {})
        .await
        .unwrap_err();
    let FetchError::Attempts { errors, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(errors.len(), 2);
    assert!(
        errors
            .iter()
            .all(|e| matches!(&e.problem, Problem::Transport(t) if t.reason == Reason::Refused))
    );
    let none = download(&nobody, &[], &disk.target, &limits(&file), &mut |_| {})
        .await
        .unwrap_err();
    assert!(matches!(none, FetchError::NoAttempt { .. }));
}

/// Leaves the first `kept` bytes of `file` on the disk, as fetched under the tag v1.
fn interrupted(file: &[u8], kept: usize, server_of_rest: &Server) -> Disk {
    let disk = Disk::new();
    disk.keep(&file[..kept], &source(server_of_rest), Some("\"v1\""), None);
    disk
}

#[tokio::test]
async fn a_datastore_that_ignores_ranges_sends_all_again() {
    let file = content(100_000);
    let sent = file.clone();
    let server = serve(None, move |_| answer(200, &[TAG], &sent)).await;
    let disk = interrupted(&file, 40_000, &server);
    let done = get(
        &server,
        &disk,
        &Limits {
            digest: None,
            ..limits(&file)
        },
    )
    .await
    .unwrap();
    assert_eq!((done.received, done.digest), (100_000, digest(&file)));
    assert_eq!(disk.file(), file);
}

#[tokio::test]
async fn another_file_under_the_same_name_is_fetched_from_the_start() {
    let (old, new) = (content(100_000), vec![9; 70_000]);
    // One obeys If-Range, one does not look at it, one sends another range.
    let kinds = [
        answer(200, &[("ETag", "\"v2\"")], &new),
        answer(
            206,
            &[
                ("ETag", "\"v2\""),
                ("Content-Range", "bytes 40000-69999/70000"),
            ],
            &new[40_000..],
        ),
        answer(
            206,
            &[TAG, ("Content-Range", "bytes 50000-69999/70000")],
            &new[50_000..],
        ),
        answer(206, &[TAG], &new[40_000..]),
        answer(416, &[TAG, ("Content-Range", "bytes */30000")], b""),
    ];
    for partly in kinds {
        let whole = answer(200, &[("ETag", "\"v2\"")], &new);
        let server = serve(None, move |request| {
            if range_of(request).is_some() {
                partly.clone()
            } else {
                whole.clone()
            }
        })
        .await;
        let disk = interrupted(&old, 40_000, &server);
        let done = get(
            &server,
            &disk,
            &Limits {
                digest: None,
                ..limits(&new)
            },
        )
        .await
        .unwrap();
        assert_eq!((done.size, done.digest), (70_000, digest(&new)));
        assert_eq!(disk.file(), new);
    }
}

#[tokio::test]
async fn a_part_that_is_complete_needs_no_byte() {
    let file = content(50_000);
    let server = serve(None, |_| {
        answer(416, &[("Content-Range", "bytes */50000")], b"")
    })
    .await;
    let disk = interrupted(&file, 50_000, &server);
    let done = get(&server, &disk, &limits(&file)).await;
    // Kept without a digest, wanted with one: it is not known to be the same.
    assert!(done.is_err());
    let disk = interrupted(&file, 50_000, &server);
    let done = get(
        &server,
        &disk,
        &Limits {
            digest: None,
            ..limits(&file)
        },
    )
    .await
    .unwrap();
    assert_eq!((done.received, done.digest), (0, digest(&file)));
}

#[tokio::test]
async fn a_part_of_unknown_origin_is_not_used() {
    let file = content(50_000);
    let server = store(&file).await;
    let disk = Disk::new();
    std::fs::write(disk.paths.part.clone(), vec![1; 20_000]).unwrap();
    let done = get(&server, &disk, &limits(&file)).await.unwrap();
    assert_eq!((done.received, done.digest), (50_000, digest(&file)));
}

#[tokio::test]
async fn a_part_from_another_datastore_is_used_if_the_digest_is_known() {
    let file = content(80_000);
    let server = store(&file).await;
    let disk = Disk::new();
    disk.keep(
        &file[..30_000],
        &source_at("http://other.test/image"),
        Some("\"x\""),
        Some(digest(&file)),
    );
    let done = get(&server, &disk, &limits(&file)).await.unwrap();
    assert_eq!(done.received, 50_000);
    assert_eq!(server.requests()[0].header("if-range"), None);
}

#[tokio::test]
async fn a_damaged_part_is_fetched_again() {
    let file = content(80_000);
    let server = store(&file).await;
    let disk = Disk::new();
    let damaged = vec![0xee; 30_000];
    disk.keep(
        &damaged,
        &source(&server),
        Some("\"v1\""),
        Some(digest(&file)),
    );
    let done = get(&server, &disk, &limits(&file)).await.unwrap();
    assert_eq!((done.received, done.digest), (130_000, digest(&file)));
    assert_eq!(disk.file(), file);
}

#[tokio::test]
async fn a_wrong_file_is_refused_and_thrown_away() {
    let file = content(10_000);
    let server = store(&file).await;
    let disk = Disk::new();
    let error = get(&server, &disk, &limits(b"something else"))
        .await
        .unwrap_err();
    assert!(matches!(&error, FetchError::WrongDigest { found, .. } if *found == digest(&file)));
    assert!(!error.is_transient());
    assert!(disk.names().is_empty());
    for wrong in [9_999, 10_001] {
        let limits = Limits {
            exact_bytes: Some(wrong),
            ..limits(&file)
        };
        let error = get(&server, &disk, &limits).await.unwrap_err();
        assert!(
            matches!(error, FetchError::WrongLength { size: 10_000, .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused() {
    let announced = store(&content(10_000)).await;
    let disk = Disk::new();
    let tight = Limits {
        max_bytes: Some(9_999),
        digest: None,
        ..limits(b"")
    };
    let error = get(&announced, &disk, &tight).await.unwrap_err();
    assert!(matches!(
        error,
        FetchError::TooLarge {
            size: 10_000,
            at_least: false,
            limit: 9_999,
            ..
        }
    ));
    assert!(!error.is_transient());
    // It ends long before the server would.
    let endless = serve(None, |_| {
        let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())];
        steps.extend(std::iter::repeat_n(Step::Send(vec![1; 8192]), 100_000));
        steps
    })
    .await;
    let error = get(&endless, &disk, &tight).await.unwrap_err();
    assert!(
        matches!(error, FetchError::TooLarge { at_least: true, .. }),
        "{error}"
    );
    assert!(disk.names().is_empty());
}

#[tokio::test]
async fn a_connection_that_ends_early_is_noticed() {
    let file = content(40_000);
    let half = file[..20_000].to_vec();
    let server = serve(None, move |_| {
        vec![
            Step::Send(head(200, &[TAG], 40_000)),
            Step::Send(half.clone()),
        ]
    })
    .await;
    let disk = Disk::new();
    let error = get(&server, &disk, &limits(&file)).await.unwrap_err();
    assert!(
        matches!(only(&error), Problem::Transport(t) if t.reason == Reason::Truncated),
        "{error}"
    );
    // With no announced size only the expected one tells.
    let half = file[..20_000].to_vec();
    let server = serve(None, move |_| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec()),
            Step::Send(half.clone()),
        ]
    })
    .await;
    let disk = Disk::new();
    let limits = Limits {
        exact_bytes: Some(40_000),
        ..limits(&file)
    };
    let error = get(&server, &disk, &limits).await.unwrap_err();
    assert_eq!(
        only(&error),
        &Problem::ShortBody {
            got: 20_000,
            total: 40_000
        }
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_stall_ends_a_way_and_slowness_does_not() {
    let file = content(40_000);
    let (slow, stuck) = (file.clone(), file.clone());
    let stuck = serve(None, move |_| {
        let half = stuck[..20_000].to_vec();
        vec![
            Step::Send(head(200, &[TAG], 40_000)),
            Step::Send(half),
            Step::Sleep(Duration::from_mins(1)),
        ]
    })
    .await;
    let impatient = Limits {
        stall: Duration::from_secs(1),
        ..limits(&file)
    };
    let disk = Disk::new();
    let error = get(&stuck, &disk, &impatient).await.unwrap_err();
    assert_eq!(only(&error), &Problem::Stalled(Duration::from_secs(1)));
    assert!(matches!(error, FetchError::Attempts { kept: 20_000, .. }));
    let mute = silent().await;
    let error = get(&mute, &Disk::new(), &impatient).await.unwrap_err();
    assert_eq!(only(&error), &Problem::Stalled(Duration::from_secs(1)));
    let server = serve(None, move |_| {
        let mut steps = vec![Step::Send(head(200, &[TAG], 40_000))];
        for chunk in slow.chunks(1_250) {
            steps.extend([
                Step::Send(chunk.to_vec()),
                Step::Sleep(Duration::from_millis(50)),
            ]);
        }
        steps
    })
    .await;
    let begin = std::time::Instant::now();
    get(&server, &Disk::new(), &impatient).await.unwrap();
    assert!(begin.elapsed() > impatient.stall);
}

#[tokio::test]
async fn refusals_and_redirects() {
    for (code, transient) in [
        (401, false),
        (403, false),
        (404, true),
        (410, false),
        (429, true),
        (500, true),
        (503, true),
    ] {
        let server = serve(None, move |_| {
            let headers = [("Content-Type", "text/plain"), ("Retry-After", "7")];
            answer(code, &headers, b"no  such\nimage")
        })
        .await;
        let error = get(&server, &Disk::new(), &limits(b"")).await.unwrap_err();
        assert_eq!(
            only(&error),
            &Problem::Code {
                code,
                text: "no such image".into(),
                retry_after: Some(Duration::from_secs(7)),
            }
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.is_transient(), transient, "{code}");
    }
    let looping = serve(None, |request| {
        answer(302, &[("Location", &request.path)], b"")
    })
    .await;
    let error = get(&looping, &Disk::new(), &limits(b"")).await.unwrap_err();
    assert!(matches!(only(&error), Problem::Transport(t) if t.reason == Reason::TooManyRedirects));
    assert_eq!(looping.requests().len(), 11);
    let file = content(1000);
    let end = store(&file).await;
    let to = format!("http://{}/elsewhere", end.address);
    let hop = serve(None, move |_| answer(307, &[("Location", &to)], b"")).await;
    assert_eq!(
        get(&hop, &Disk::new(), &limits(&file)).await.unwrap().size,
        1000
    );
    let zipped = serve(None, |_| {
        answer(200, &[("Content-Encoding", "gzip")], b"zip")
    })
    .await;
    let error = get(&zipped, &Disk::new(), &limits(b"")).await.unwrap_err();
    assert_eq!(only(&error), &Problem::Encoded("gzip".into()));
}
