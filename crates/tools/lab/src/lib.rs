//! The lab: a world on one machine in which a whole device runs for real.
//!
//! - [`World`]: network namespaces for the device, its uplinks (DHCP, DNS, NAT) and the outside, with
//!   programs on both sides; [`Fault`] breaks things on request; [`Datastore`] serves images, badly
//!   if asked to.
//! - [`Device`]: the device itself, from power-on to power cut, below its real supervisor.
//! - [`guest`]: guest images built from Debian packages.
//!
//! Scenario tests and the demo are users of this library; the `lab` command is the same for people.
//! Everything needs root; nothing outside the world's namespaces and directory is touched, and nothing
//! survives the owner's end ([`jail`], [`netns`]).
#![forbid(unsafe_code)]

pub mod command;
pub mod datastore;
pub mod device;
pub mod fault;
pub mod guest;
pub mod jail;
pub mod layout;
pub mod netns;
pub mod pki;
pub mod process;
pub mod record;
pub mod site;
pub mod tpm;
pub mod world;

pub use datastore::{Datastore, Trouble};
pub use device::Device;
pub use fault::Fault;
pub use netns::Netns;
pub use process::Process;
pub use site::{Side, Site, SiteError, Uplink};
pub use world::World;
