//! What the disk sees: cancelled downloads, two at once, a disk that fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../uplink/tests/support/mod.rs"]
mod support;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fetch::{FetchError, download};
use support::{Step, head, serve};
use world::{Disk, TAG, broken_at, content, digest, get, limits, source, store, ways};

#[tokio::test]
async fn a_cancelled_download_is_resumed() {
    let file = content(400_000);
    let sent = file.clone();
    let count = AtomicUsize::new(0);
    let server = serve(None, move |request| {
        if count.fetch_add(1, Ordering::Relaxed) > 0 {
            return broken_at(request, &sent, usize::MAX);
        }
        let half = sent[..200_000].to_vec();
        vec![
            Step::Send(head(200, &[TAG], 400_000)),
            Step::Send(half),
            Step::Sleep(Duration::from_mins(1)),
        ]
    })
    .await;
    let disk = Disk::new();
    let limits = limits(&file);
    tokio::select! {
        ended = get(&server, &disk, &limits) => panic!("{ended:?}"),
        () = async { while disk.paths.kept() < 150_000 { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    // At once: the writer of the first may still be busy with its last chunks.
    let done = get(&server, &disk, &limits).await.unwrap();
    assert!(done.received < 400_000);
    assert_eq!(done.digest, digest(&file));
    assert_eq!(disk.file(), file);
}

#[tokio::test]
async fn two_downloads_of_one_file_dont_mix() {
    let file = content(100_000);
    let server = store(&file).await;
    let disk = Disk::new();
    let held = std::fs::File::create(&disk.paths.part).unwrap();
    held.lock().unwrap();
    let error = get(&server, &disk, &limits(&file)).await.unwrap_err();
    assert!(matches!(error, FetchError::Busy { .. }));
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_disk_that_fails_is_told() {
    let file = content(1000);
    let server = store(&file).await;
    let disk = Disk::new();
    let missing = disk.target.join("no/such/dir");
    let error = download(
        &source(&server),
        &ways(1),
        &missing,
        &limits(&file),
        &mut |_| {},
    )
    .await
    .unwrap_err();
    assert!(
        matches!(&error, FetchError::Local { doing: "opening", path, .. } if path.ends_with("dir.part")),
        "{error}"
    );
    // The target is a directory that can't be replaced.
    std::fs::create_dir_all(disk.target.join("x")).unwrap();
    let error = get(&server, &disk, &limits(&file)).await.unwrap_err();
    assert!(
        matches!(
            &error,
            FetchError::Local {
                doing: "finishing",
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_transient());
}
