//! Object-level encryption: single secrets of a config that only one device can read.
//!
//! ```text
//! device key d, controller point Q  --ECDH on P-256-->  (X, Y) = d * Q
//! SHA-256(X || Y), both padded to 32 bytes             -->  AES-256 key
//! CFB with 128 bits of feedback, no padding            -->  clear text, whose SHA-256 must be the one sent
//! ```
//!
//! Pure: the private key is somebody else's ([`Exchange`]: tpmmgr on the device), and so are time and randomness.
//! Whatever holds a clear text, a key or a shared point is wiped when it is dropped.
//!
//! - [`curve`]: points on P-256, from certificates and bytes; the software half of the exchange;
//! - [`key`]: from the shared point to the AES key, and the cipher itself;
//! - [`open`](mod@open): from a cipher block of the bus to what is in it.
//!
//! The scheme gives no authenticity: that comes with the signature over the whole config. The digest only tells that the
//! right key was used.
#![forbid(unsafe_code)]

pub mod curve;
pub mod key;
pub mod open;

pub use curve::{CurveError, PeerKey, agree};
pub use key::{BlockError, Key, Sealed, SharedPoint};
pub use open::{
    Exchange, ExchangeError, Keys, Login, NoKey, OpenError, login, pem_hash, user_data,
};
