//! One table of the kernel's packet filter (nftables): described by values, written as text for
//! `nft -f -`, applied in one transaction, read back.
//!
//! A service owns one [`Table`] per concern and never looks at anybody else's: there is no way in
//! here to flush the whole ruleset. What is in the kernel after [`Nft::apply`] is what the `Table`
//! says, or, if `nft` refused anything, what was there before.
//!
//! # Three ways to put a table into the kernel
//!
//! - [`Table::creating`] makes the table where none is, and is refused where one is.
//! - [`Table::replacing`] deletes the table and makes it anew in one transaction. Counters start
//!   at zero, and sets that others fill (the host sets that dnsmasq fills from DNS answers) are
//!   empty. Emptied host sets are not harmless: answers that dnsmasq has cached don't fill them
//!   again, so hosts stay denied until the answer's TTL is over.
//! - [`Table::updating`] starts from a [`Listing`] of what is there: rules, maps and fixed sets
//!   are made anew, but counters, chains with an unchanged hook, and [kept sets](Set::kept) with an
//!   unchanged type stay what they are, contents included. It is one transaction too: no packet
//!   meets a half-made table.
//!
//! [`Nft::apply`] does the last, or the first where there is no table, does nothing if the kernel
//! already holds the table (a fingerprint is stored in the table itself, so this survives a
//! restart), and says which kept sets begin empty, so that the service can make dnsmasq forget its
//! cache. [`Nft::create`] is the same for a table that is most likely not there.
//!
//! # Speed
//!
//! A linear rule costs every packet about 24 ns, so what grows with the number of applications
//! belongs into sets and maps: one rule that looks up a [`Key`] of several packet fields
//! ([`Match::within`], [`End::VerdictBy`], [`MarkValue::By`], [`End::Dnat4By`]) costs the same for
//! ten entries as for ten thousand.
//!
//! # Text from outside
//!
//! Nothing gets into the text but through a type that can only hold harmless text: addresses,
//! numbers, [`Name`], [`Interface`], [`Tag`].
//!
//! Where to look: `value.rs` and `field.rs` (what can be compared), `rule.rs`, `table.rs`,
//! `check.rs` (mistakes found before `nft` sees them), `render.rs` (the text), `listing.rs` (the
//! text's reverse), `process.rs` (running `nft`).
#![forbid(unsafe_code)]

mod check;
mod error;
pub mod field;
mod listing;
mod name;
mod process;
mod render;
mod rule;
mod table;
mod value;

pub use error::{BuildError, Mistake, NftError};
pub use field::{Field, Key};
pub use listing::{Count, Listing};
pub use name::{BadText, Interface, Name, Tag};
pub use process::{Applied, Nft};
pub use rule::{
    ConnState, End, Limit, LocalAddress, Log, Mark, MarkValue, Match, Rate, Reject, Rule,
    Statement, Verdict,
};
pub use table::{Base, Chain, Family, Hook, Map, Policy, Set, Table, TableId};
pub use value::{Element, EtherType, Net4, Net6, Ports, Protocol, Value};
