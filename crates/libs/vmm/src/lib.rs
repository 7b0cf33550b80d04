//! Virtual machines as QEMU runs them: what a guest is made of, the command line that makes it,
//! the control protocol that steers it, and the tools around its images.
//!
//! Used by `domainmgr` (guests) and `volumemgr` (images). This crate starts no guest itself: QEMU
//! is a unit of the supervisor, so that a guest outlives the service that asked for it. What it
//! gives is
//!
//! | module    | purpose                                                        | effects |
//! |-----------|----------------------------------------------------------------|---------|
//! | [`spec`]  | [`VmSpec`]: a guest as data, and the rules it must obey        | none    |
//! | [`args`]  | [`VmSpec`] + [`Host`] to the arguments of QEMU; golden-tested  | none    |
//! | [`nodes`] | QEMU's block nodes and devices as JSON; also used for hotplug  | none    |
//! | [`qmp`]   | the control protocol: codec, client, typed commands, reconnect | socket  |
//! | [`probe`] | hardware acceleration or not: decided by really running a vCPU | child   |
//! | [`seed`]  | NoCloud seed images (ISO 9660), byte for byte reproducible     | one file |
//! | [`qcow2`] | the header of a qcow2 image, read before any tool may open it  | none    |
//! | [`image`] | `qemu-img`: info, create, overlay, convert, resize, check      | child   |
//!
//! On restart nothing here has state to lose: a client reconnects to the socket that is named in
//! the spec, and QEMU's own status is the truth.

#[cfg(target_arch = "x86_64")]
mod kvm;

pub mod args;
pub mod image;
pub mod iso;
pub mod nodes;
pub mod probe;
pub mod qcow2;
pub mod qmp;
pub mod seed;
pub mod spec;

pub use args::{QEMU, qemu_args};
pub use probe::Accel;
pub use spec::{Host, SpecError, VmSpec};
