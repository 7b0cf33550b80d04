//! The keeper of the device's keys, as the services that ask it see it.
//!
//! tpmmgr is the only process that opens the TPM; on a device that was installed without one it is the only
//! process that holds the private keys. Others ask it over a unix socket:
//!
//! - [`Tpm`] is what a service holds (as `Arc<dyn Tpm>`): [`Client`] on a device, [`MemoryTpm`] in tests;
//! - [`Blocking`] is the same for code that cannot wait asynchronously (a TLS handshake that needs a
//!   signature): every wait is bounded;
//! - [`SoftKey`] is a P-256 key in memory, what tpmmgr keeps where there is no TPM;
//! - [`identity`] makes the certificates of keys, wherever those are;
//! - [`DeviceExchange`] is what services decrypt secrets of the config with;
//! - [`TpmError`] says why not, and whether asking again can help;
//! - [`wire`] is the gRPC form (`proto/tpmmgr/tpmmgr.proto`) and the conversions.
//!
//! The serving side is the `tpmmgr` crate; who may ask what is its `authority.rs`.
#![forbid(unsafe_code)]

mod blocking;
mod client;
mod error;
mod exchange;
pub mod identity;
mod memory;
mod pcr;
mod soft;
mod state;
pub mod wire;

pub use blocking::Blocking;
pub use cipher::SharedPoint;
pub use client::{Client, SOCKET};
pub use error::TpmError;
pub use exchange::DeviceExchange;
pub use memory::MemoryTpm;
pub use pcr::{DigestOfPcr, PCRS_QUOTED, Pcr, PcrError, PcrSelection, PcrValues, extended};
pub use soft::{SoftKey, SoftKeyError};
pub use state::{
    Certificate, CertificateKind, Description, Keeper, Key, LONGEST_SECRET, MOST_EXPECTED, Quote,
    SealedSlot, Signature, Trouble, TroubleKind, Unsealed,
};
pub use zeroize::Zeroizing;

use futures::future::BoxFuture;

/// The answer to a request to tpmmgr.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, TpmError>>;

/// The keeper of the keys. Implemented by [`Client`] and [`MemoryTpm`].
pub trait Tpm: Send + Sync {
    /// What keeps the keys, how it is, and the certificates. Answers also when nothing else works.
    fn describe(&self) -> Reply<'_, Description>;

    /// Signs a SHA-256 digest.
    fn sign(&self, key: Key, digest: [u8; 32]) -> Reply<'_, Signature>;

    /// Multiplies a point (SEC1) by the device's ECDH key.
    fn ecdh(&self, peer: &[u8]) -> Reply<'_, SharedPoint>;

    /// A statement about PCR 0 to 15 by the quote key. `nonce` has 1 to 32 bytes.
    fn quote(&self, nonce: &[u8], event_log: bool) -> Reply<'_, Quote>;

    /// Seals a secret (1 to [`LONGEST_SECRET`] bytes) under the values that `pcrs` have now, and under each
    /// of `expected` (at most [`MOST_EXPECTED`]), which names the PCRs that will differ. What the slot held
    /// is replaced at once or not at all.
    fn seal(
        &self,
        slot: &str,
        secret: &[u8],
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Reply<'_, ()>;

    /// The secret of a slot; [`TpmError::Mismatch`] when the PCRs have none of the sets of values.
    fn unseal(&self, slot: &str) -> Reply<'_, Unsealed>;

    /// What a slot is sealed to; none when it is empty.
    fn inspect(&self, slot: &str) -> Reply<'_, Option<SealedSlot>>;

    /// Empties a slot. No error when it is empty.
    fn erase(&self, slot: &str) -> Reply<'_, ()>;

    /// PCRs of the SHA-256 bank.
    fn read_pcrs(&self, pcrs: PcrSelection) -> Reply<'_, PcrValues>;

    /// Extends a PCR and answers with its new value.
    fn extend_pcr(&self, pcr: Pcr, digest: [u8; 32]) -> Reply<'_, PcrValues>;

    /// The content of an NV index; none when it is not defined.
    fn read_nv(&self, index: u32) -> Reply<'_, Option<Vec<u8>>>;

    /// Writes an NV index, defining it when needed.
    fn write_nv(&self, index: u32, data: &[u8]) -> Reply<'_, ()>;
}
