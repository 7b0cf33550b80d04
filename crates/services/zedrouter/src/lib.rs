//! zedrouter connects applications: their network instances, interfaces and access rules.
//!
//! | | topics |
//! |---|---|
//! | reads | `zedagent/NetworkInstanceConfig`; when known: `zedmanager/AppNetworkConfig`, `nim/DeviceNetworkStatus` |
//! | writes | `UUIDPairToNum`, `AppInterfaceToNum` (both persistent), `NetworkInstanceStatus`, `AppNetworkStatus`, `NetworkMetrics` |
//!
//! ```text
//!           guest 1     guest 2                  guest 3
//!              |           |                        |
//!           nbu1x1      nbu1x2   (isolated)      nbu1x3
//!        ------+---- bn1 --+------             ----+-- bn2 (switch) --+--- eth1
//!            10.1.0.1 | dnsmasq                      one filter on bridge
//!      filter, NAT    | policy rules                 and IP layer
//!                   eth0 (chosen by label)
//! ```
//!
//! **Everything is an item.** A bridge, its address and its being up are three; so are a tap, its
//! place in a bridge and its isolation. `plan/item.rs` lists them and what each needs; the difference
//! between what is there and what is to be there is the plan (crate `graph`). So every half-made state
//! converges, and a restart finds nothing to do.
//!
//! **Numbers stay.** An application's and an instance's number, the subnets and addresses that the
//! device chose, are persistent rows: names, hardware addresses and leases are the same after every
//! restart and reboot.
//!
//! **What runs stays.** While zedmanager or nim has not spoken nothing that is there is changed or
//! removed. An instance whose new config is faulty goes on with its last good one, which is kept
//! beside the resolvers' files. An instance that is no longer configured goes when the last guest left.
//!
//! **Default deny**, in two tables of the packet filter; `plan/filter.rs` has the picture.
//!
//! **Switch instances**: a bridge with a device port that the device itself does not use. The device
//! knows neither addresses nor names there: rules by host and port maps are refused, and a changed rule
//! applies to new connections. Frames other than IPv4 and ARP are dropped.
//!
//! Look at `plan.rs` first. `world.rs` does what it says: netlink, `nft`, `conntrack`, and dnsmasq as a
//! unit of the supervisor.
#![forbid(unsafe_code)]

mod plan;
pub mod world;

pub use plan::{
    Actual, Desired, Do, Lease, Own, Present, Report, Resolver, Sample, TABLE, Zedrouter, host_set,
    item,
};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Zedrouter, _, _, _>(world::Kernel::open)
}
