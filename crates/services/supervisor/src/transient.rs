//! What the units may have that services ask for: one row for each service that may have some.
//!
//! The row is the bound; within it the service says what the unit gets (`units::UnitSpec`), except for
//! system calls and network, which are the row's and nobody's choice. `authority.rs` holds requests against
//! it.

use units::{Capability, ids};

use crate::calls::{Calls, Network};
use crate::filter::Filter;
use crate::table::At;

/// One row: the transient units of a service.
#[derive(Clone, Copy, Debug)]
pub struct Transient {
    /// The service that asks for them.
    pub owner: &'static str,
    /// What they are, for people.
    pub what: &'static str,
    /// Whether they may run as guests' users (else only as the service's own).
    pub guests: bool,
    /// Whether they are logins: exactly those of `units::login`, as root, and nothing else of this row counts.
    pub logins: bool,
    /// Capabilities that they may have.
    pub capabilities: &'static [Capability],
    /// Paths below which everything lies that they may read, write or execute (and what every program
    /// needs, see `sandbox.rs`).
    pub within: &'static [At],
    /// Their system calls and their network.
    pub filter: Filter,
}

/// The rows. Who has none has no units.
pub const TRANSIENTS: &[Transient] = &[
    Transient {
        owner: "domainmgr",
        what: "a guest (QEMU)",
        guests: true,
        logins: false,
        capabilities: &[],
        within: &[
            At::Root("run/hypervisor/kvm"),
            At::Root("persist/domainmgr"),
            At::Root("persist/log/guests"),
            At::Root("persist/vault/volumemgr"),
            At::Host("/dev/kvm"),
            At::Host("/dev/net/tun"),
            At::Host("/dev/vhost-net"),
        ],
        filter: Filter {
            calls: Calls::Emulator,
            network: Network::Screen,
        },
    },
    Transient {
        owner: "zedrouter",
        what: "a network's resolver (dnsmasq)",
        guests: false,
        logins: false,
        // Port 53 and 67, raw sockets for pings, nft sets.
        capabilities: &[
            Capability::NetAdmin,
            Capability::NetRaw,
            Capability::NetBindService,
        ],
        within: &[At::Root("run/zedrouter-net")],
        filter: Filter {
            calls: Calls::Resolver,
            network: Network::Everything,
        },
    },
    Transient {
        owner: ids::DOORKEEPER,
        what: "a login (sshd, agetty)",
        guests: false,
        logins: true,
        capabilities: Capability::ALL,
        within: &[],
        filter: Filter {
            calls: Calls::Login,
            network: Network::Everything,
        },
    },
];

/// The row of a service.
pub(crate) fn of(service: &str) -> Option<&'static Transient> {
    TRANSIENTS.iter().find(|row| row.owner == service)
}

/// The group of guests and those that a guest's unit may have beside it.
pub(crate) fn is_guests(id: u32) -> bool {
    (ids::GUEST_UID_FIRST..=ids::GUEST_UID_LAST).contains(&id)
}
