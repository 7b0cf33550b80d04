//! What makes another look necessary.

use std::{path::Path, sync::Arc, time::Duration};

use dirwatch::DirWatch;
use netlink::{Change, Events};
use tokio::{sync::Notify, task::AbortHandle, time::sleep};
use tracing::warn;
use units::Watch;

/// A task that ends with its owner.
pub(super) struct Task(AbortHandle);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pause before a broken source is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells when interfaces, addresses or policy rules change.
pub(super) async fn links(changed: Arc<Notify>) {
    loop {
        if let Err(error) = listen(&changed).await {
            warn!(%error, "cannot hear of network changes");
        }
        sleep(AGAIN).await;
    }
}

async fn listen(changed: &Notify) -> Result<(), netlink::NetlinkError> {
    let mut events = Events::open()?;
    // What happened before it was open.
    changed.notify_one();
    loop {
        let what = events.changed().await?;
        if [Change::Links, Change::Addresses, Change::Rules]
            .into_iter()
            .any(|change| what.has(change))
        {
            changed.notify_one();
        }
    }
}

/// Tells when a unit changes.
pub(super) async fn units(mut seen: Watch, changed: Arc<Notify>) {
    while seen.changed().await.is_ok() {
        changed.notify_one();
    }
}

/// Tells when a resolver writes a lease.
pub(super) async fn leases(files: DirWatch, changed: Arc<Notify>) {
    loop {
        files.changed().await;
        if files.take(|name| Path::new(name).extension().is_some_and(|e| e == "leases")) {
            changed.notify_one();
        }
    }
}
