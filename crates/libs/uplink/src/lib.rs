//! How the device reaches the outside: which management port, from which source address,
//! with which DNS servers, through which proxy, and the HTTP client that does exactly that.
//!
//! The device has several ports and its kernel routes by source address, so a connection
//! is chosen, not left to the default route. Two halves:
//!
//! - pure: [`attempts`] turns the ports' state into an ordered list of [`Attempt`]s
//!   ([`choice`]); [`ProxyRules`] says which proxy a URL goes through ([`proxy`]).
//! - shell: [`HttpClient`] is a client of one attempt: its connections leave from the
//!   attempt's source address, names are asked of the port's own DNS servers
//!   ([`resolver`]), and whatever goes wrong comes back as a [`Failure`] with the phase
//!   that it happened in ([`failure`]).
//!
//! Users: `controller` (the EVC) and `fetch` (datastores). Nothing here keeps state
//! between calls except TLS sessions ([`tls::Tls`]), and nothing retries: the caller walks
//! the attempts, the service's runtime repeats the walk.
#![forbid(unsafe_code)]

pub mod choice;
pub mod client;
pub mod failure;
pub mod hosts;
pub mod moment;
pub mod port;
pub mod proxy;
pub mod resolver;
mod stage;
pub mod status;
pub mod tls;
mod verifier;

pub use choice::{Attempt, Choice, DnsServer, NoAttempt, attempts};
pub use client::{ClientError, HttpClient, Settings};
pub use failure::{Failure, Phase, Reason};
pub use hosts::Hosts;
pub use moment::Moment;
pub use port::Port;
pub use proxy::{BadProxy, Proxy, ProxyAddress, ProxyKind, ProxyRules};
pub use resolver::{DnsError, lookup};
pub use status::ports;
pub use tls::{Roots, Tls, TlsError};

// The types in this crate's signatures, so that users need no pins of their own.
pub use reqwest;
pub use rustls;
