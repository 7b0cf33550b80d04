//! Units: the supervisor's processes, as the services that ask for them see them.
//!
//! Any long-lived child of a service (QEMU, dnsmasq, swtpm) is a *transient unit*: it belongs to
//! the supervisor, so it keeps running while the service that asked for it crashes, restarts or is
//! upgraded. The service finds it again by name in its first turn.
//!
//! - [`UnitSpec`] says what to run and what it may do; [`UnitName`] is `<owner>/<name>`.
//! - [`Units`] is what a service's `world.rs` holds (as `Arc<dyn Units>`): [`Client`] on a device,
//!   [`FakeUnits`] in tests.
//! - [`UnitState`] is a unit as it is now; [`Units::watch`] keeps a table of them up to date, frozen
//!   while the supervisor restarts, as a bus subscription would.
//! - [`ids`] are the uids and the group of the device's services.
//! - [`login`] are the programs by which a person gets in.
//! - [`wire`] is the gRPC form (`proto/supervisor/supervisor.proto`) and the conversions.
//!
//! The serving side is the `supervisor` crate; who may ask for what is its `authority.rs`.
#![forbid(unsafe_code)]

mod capability;
mod client;
mod error;
mod fake;
pub mod ids;
pub mod login;
mod name;
mod signal;
mod spec;
mod state;
pub mod wire;

pub use capability::Capability;
pub use client::{Client, SOCKET, connect_socket};
pub use error::UnitsError;
pub use fake::FakeUnits;
pub use name::{NameError, UnitName};
pub use signal::StopSignal;
pub use spec::{
    Limits, Output, Paths, RestartPolicy, Sandbox, SpecError, Stop, TransientUnit, UnitSpec,
};
pub use state::{Exit, ExitKind, Phase, SIGSYS, UnitState};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Units by name.
pub type UnitTable = BTreeMap<UnitName, UnitState>;

/// Follows the units below a prefix. `None` until the supervisor answered once; the last complete
/// table while it cannot be reached.
pub type Watch = tokio::sync::watch::Receiver<Option<Arc<UnitTable>>>;

/// What the supervisor has told, after a wait for its first word; none if it says nothing within `limit`.
pub async fn told(watch: &Watch, limit: Duration) -> Option<Arc<UnitTable>> {
    let mut watch = watch.clone();
    let first = tokio::time::timeout(limit, watch.wait_for(Option::is_some)).await;
    first.ok()?.ok()?.clone()
}

/// The answer to a request to the supervisor.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, UnitsError>>;

/// The supervisor, as a service sees it. Implemented by [`Client`] and [`FakeUnits`].
pub trait Units: Send + Sync {
    /// Starts a unit, or answers with the state of the one that runs with this very spec.
    ///
    /// Fails with [`UnitsError::Exists`] when a unit of this name lives with another spec.
    fn start(&self, spec: UnitSpec) -> Reply<'_, UnitState>;

    /// Asks a unit to end and answers without waiting for it; see [`Units::wait`].
    ///
    /// Stopping a unit that has ended is no error.
    fn stop(&self, name: &UnitName) -> Reply<'_, UnitState>;

    /// Ends the unit's process and starts it again with the same spec.
    fn restart(&self, name: &UnitName) -> Reply<'_, UnitState>;

    /// Drops the record of a unit that ended. No error when there is none.
    fn forget(&self, name: &UnitName) -> Reply<'_, ()>;

    /// One unit's state.
    fn get(&self, name: &UnitName) -> Reply<'_, Option<UnitState>>;

    /// The units whose name starts with `prefix` (`"domainmgr/"`; `""` for all).
    fn list(&self, prefix: &str) -> Reply<'_, UnitTable>;

    /// Waits until the unit has ended and gives its last state.
    fn wait(&self, name: &UnitName) -> Reply<'_, UnitState>;

    /// Follows the units whose name starts with `prefix`, through restarts of the supervisor.
    fn watch(&self, prefix: &str) -> Watch;
}
