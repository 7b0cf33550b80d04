//! What the tests of both stores stand on: one bus, several services, objects to publish.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, Object, Rows, Subscription, Topic};
use serde::{Deserialize, Serialize};

/// Runs each test on the files and in memory.
#[allow(unused_macros, reason = "each test binary uses a part")]
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod files { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(super::World::files()).await; })+ }
        mod memory { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(super::World::memory()).await; })+ }
    };
}

/// Long enough for a loaded machine; a wait that succeeds takes microseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An object with the kinds of fields that go wrong first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Port {
    pub(crate) name: String,
    /// Above 2^53 a detour through floating point would be seen.
    pub(crate) counter: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<String>,
}

pub(crate) const PORTS: Topic<Port> = Topic::run("nim", "PortStatus");
pub(crate) const KEPT_PORTS: Topic<Port> = Topic::persist("nim", "PortList");

pub(crate) fn port(name: &str, counter: u64) -> Port {
    Port {
        name: name.into(),
        counter,
        addresses: Vec::new(),
    }
}

pub(crate) fn table<const N: usize>(rows: [(&str, Port); N]) -> Rows<Port> {
    rows.into_iter()
        .map(|(key, port)| (key.to_owned(), port))
        .collect()
}

/// One bus, on either store.
pub(crate) enum World {
    Memory(Bus),
    Files(tempfile::TempDir),
}

impl World {
    pub(crate) fn memory() -> Self {
        Self::Memory(Bus::memory())
    }

    pub(crate) fn files() -> Self {
        Self::Files(tempfile::tempdir().unwrap())
    }

    /// The bus as `service` sees it, as if in a process of its own.
    pub(crate) fn acting_as(&self, service: &str) -> Bus {
        match self {
            Self::Memory(bus) => bus.acting_as(service),
            Self::Files(root) => Bus::open(root.path(), service).unwrap(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Memory(_) => panic!("the bus in memory has no directory"),
            Self::Files(root) => root.path(),
        }
    }
}

/// Waits until the table is as wanted.
pub(crate) async fn until<T: Object + std::fmt::Debug>(
    subscription: &mut Subscription<T>,
    wanted: impl Fn(&Rows<T>) -> bool,
) -> Arc<Rows<T>> {
    let started = Instant::now();
    loop {
        let rows = subscription.rows();
        if let Some(rows) = rows
            && wanted(&rows)
        {
            return rows;
        }
        let left = PATIENCE.saturating_sub(started.elapsed());
        if tokio::time::timeout(left, subscription.changed())
            .await
            .is_err()
        {
            panic!(
                "the table never became as wanted: {:?}",
                subscription.rows()
            );
        }
    }
}

/// Waits until the table is exactly `wanted`.
pub(crate) async fn until_is<T: Object + std::fmt::Debug>(
    subscription: &mut Subscription<T>,
    wanted: &Rows<T>,
) {
    until(subscription, |rows| rows == wanted).await;
}

/// Whether nothing changes for a while.
pub(crate) async fn stays<T: Object>(subscription: &mut Subscription<T>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), subscription.changed())
        .await
        .is_err()
}
