//! EVC, the controller that comes with EVE: it admits devices, tells them what to run and keeps
//! what they report.
//!
//! ```text
//!  devices ──HTTPS──> serve::device ──> decide (pure) ──> store (SQLite, one writer)
//!  people ──evc──HTTP, token──> serve::admin ──> config (pure) ──┘
//! ```
//! - [`decide`]: request and facts in, verdict out; all status codes come from there.
//! - [`config`]: YAML and manifests to the configuration that a device receives.
//! - [`store`]: what was acknowledged is on the disk.
//! - [`pki`], [`cert`], [`envelope`]: identities and signatures.
//! - [`serve`]: sockets; [`admin`]: the JSON that `evc` and tests speak with it.
//! - [`cli`]: the command.
//!
//! The device's side of the same protocol is in the crate `controller`, written independently.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cert;
pub mod cli;
pub mod config;
pub mod decide;
pub mod envelope;
pub mod pki;
pub mod secret;
pub mod serve;
pub mod store;
