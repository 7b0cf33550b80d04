//! Every check with its number, name and question. A number is never given to another check.

use std::fmt;

use serde::Serialize;

/// What a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Group {
    /// Clock, keys and certificates.
    Identity,
    /// Ports, DNS, proxies, controller, datastores.
    Network,
    /// Disks.
    Storage,
    /// Processor, memory, TPM, programs.
    Machine,
    /// Services, bus, reboots, reports.
    Services,
    /// What processes may.
    Sandbox,
}

impl Group {
    /// In the order in which they are shown.
    pub const ALL: &'static [Group] = &[
        Self::Identity,
        Self::Network,
        Self::Storage,
        Self::Machine,
        Self::Services,
        Self::Sandbox,
    ];

    /// One word, as typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Machine => "machine",
            Self::Services => "services",
            Self::Sandbox => "sandbox",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity: clock, keys, certificates",
            Self::Network => "network: ports, DNS, proxies, controller, datastores",
            Self::Storage => "storage",
            Self::Machine => "machine: processor, memory, TPM, programs",
            Self::Services => "services, bus, reboots, reports",
            Self::Sandbox => "sandbox: what processes may",
        })
    }
}

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Spec {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub id: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// What it asks.
    pub title: &'static str,
}

const fn spec(number: u16, id: &'static str, group: Group, title: &'static str) -> Spec {
    Spec {
        number,
        id,
        group,
        title,
    }
}

use Group::{Identity, Machine, Network, Sandbox, Services, Storage};

/// Every check, by number.
pub const CATALOGUE: &[Spec] = &[
    spec(1, "clock.sane", Identity, "the clock is plausible"),
    spec(2, "clock.ntp", Identity, "the clock is kept by NTP"),
    spec(3, "config.server", Identity, "CONFIG names the controller"),
    spec(
        4,
        "config.partition",
        Identity,
        "CONFIG is complete and readable",
    ),
    spec(5, "cert.root", Identity, "the root certificate is valid"),
    spec(
        6,
        "cert.tls-roots",
        Identity,
        "further roots for TLS are readable",
    ),
    spec(
        7,
        "cert.onboarding",
        Identity,
        "the onboarding certificate is valid and has its key",
    ),
    spec(
        8,
        "cert.device",
        Identity,
        "the device certificate is valid and has its key",
    ),
    spec(
        9,
        "key.private",
        Identity,
        "private keys are readable to those who sign only",
    ),
    spec(
        10,
        "cert.signing",
        Identity,
        "the controller's signing certificate is valid",
    ),
    spec(
        11,
        "cert.chain",
        Identity,
        "the saved controller certificates lead to the root",
    ),
    spec(
        12,
        "cert.ecdh",
        Identity,
        "the controller's key exchange certificate is valid",
    ),
    spec(13, "tpm.key", Identity, "the device key is in a TPM"),
    spec(
        14,
        "attestation",
        Identity,
        "the controller trusts the device's software",
    ),
    spec(
        20,
        "port.exists",
        Network,
        "the configured interface is there",
    ),
    spec(21, "port.link", Network, "the port has a carrier"),
    spec(
        22,
        "port.address",
        Network,
        "the management port has an address that reaches further",
    ),
    spec(
        23,
        "port.gateway",
        Network,
        "the management port has a default gateway",
    ),
    spec(24, "port.lease", Network, "the DHCP lease is fresh"),
    spec(
        25,
        "port.fault",
        Network,
        "nim has nothing to complain about",
    ),
    spec(26, "subnet.overlap", Network, "networks do not overlap"),
    spec(
        27,
        "dns.servers",
        Network,
        "the management port has DNS servers",
    ),
    spec(
        28,
        "dns.answers",
        Network,
        "the DNS server knows the controller (asked from the port's address)",
    ),
    spec(
        29,
        "proxy.usable",
        Network,
        "the port's proxies can be used",
    ),
    spec(
        30,
        "controller.connect",
        Network,
        "the controller accepts connections from the port",
    ),
    spec(
        31,
        "controller.tls",
        Network,
        "the controller's TLS certificate is accepted",
    ),
    spec(
        32,
        "controller.ping",
        Network,
        "the controller answers the device's ping",
    ),
    spec(
        33,
        "controller.contact",
        Network,
        "the controller answered the config channel lately",
    ),
    spec(
        34,
        "controller.config",
        Network,
        "the last config was accepted",
    ),
    spec(
        35,
        "config.objects",
        Network,
        "every object of the config is acceptable",
    ),
    spec(
        36,
        "datastore.reachable",
        Network,
        "the datastore accepts connections",
    ),
    spec(
        37,
        "network.forwarding",
        Network,
        "the kernel forwards packets of applications",
    ),
    spec(
        40,
        "disk.writable",
        Storage,
        "/persist can be written durably",
    ),
    spec(
        41,
        "disk.reserve",
        Storage,
        "the device's own reserve is free",
    ),
    spec(42, "disk.inodes", Storage, "/persist has free inodes"),
    spec(43, "disk.run", Storage, "/run has room"),
    spec(
        44,
        "disk.image-fit",
        Storage,
        "applications' images fit the disk",
    ),
    spec(
        45,
        "disk.orphans",
        Storage,
        "every file below /persist/vault/volumemgr/volumes is somebody's",
    ),
    spec(
        46,
        "saved.config",
        Storage,
        "the last config is saved for a boot without the controller",
    ),
    spec(
        47,
        "saved.certs",
        Storage,
        "the controller's certificates are saved",
    ),
    spec(
        48,
        "logs.quota",
        Storage,
        "logs are within their quota and leave the device",
    ),
    spec(
        49,
        "logs.sources",
        Storage,
        "no source prints more than is kept of it",
    ),
    spec(
        50,
        "vault",
        Storage,
        "images and volumes are encrypted, and open at the next boot",
    ),
    spec(
        60,
        "accelerator",
        Machine,
        "guests run on the processor itself",
    ),
    spec(61, "memory.budget", Machine, "applications fit the memory"),
    spec(62, "memory.available", Machine, "there is free memory"),
    spec(
        63,
        "cpu.budget",
        Machine,
        "no application wants more processors than there are",
    ),
    spec(64, "watchdog", Machine, "a hardware watchdog is there"),
    spec(
        65,
        "landlock",
        Machine,
        "the kernel restricts paths (Landlock)",
    ),
    spec(
        66,
        "program",
        Machine,
        "a program that services call is installed",
    ),
    spec(67, "firmware", Machine, "the UEFI firmware is installed"),
    spec(80, "supervisor", Services, "the supervisor answers"),
    spec(81, "services.running", Services, "every service runs"),
    spec(
        82,
        "services.ready",
        Services,
        "every service has completed its topics",
    ),
    spec(
        83,
        "services.restarts",
        Services,
        "no service had to be restarted",
    ),
    spec(
        84,
        "services.memory",
        Services,
        "no unit is near its memory limit",
    ),
    spec(
        85,
        "crash.evidence",
        Services,
        "there is no fresh evidence of crashes",
    ),
    spec(
        86,
        "bus.quarantined",
        Services,
        "no object had to be moved away",
    ),
    spec(
        87,
        "bus.unreadable",
        Services,
        "every object is readable to this version",
    ),
    spec(88, "objects", Services, "every object is as wanted"),
    spec(
        89,
        "reports",
        Services,
        "the controller has taken every report",
    ),
    spec(90, "reboot.reason", Services, "the last reboot was wanted"),
    spec(
        91,
        "maintenance",
        Services,
        "the device takes on new applications",
    ),
    spec(
        100,
        "sandbox.service",
        Sandbox,
        "the service has what its table row gives, and no more",
    ),
    spec(
        101,
        "sandbox.helpers",
        Sandbox,
        "guests and helpers are restricted",
    ),
    spec(
        102,
        "sandbox.keys",
        Sandbox,
        "only those who sign are in the keys' group",
    ),
    spec(
        103,
        "sockets",
        Sandbox,
        "whatever listens is in the table of sockets",
    ),
    spec(
        104,
        "access",
        Sandbox,
        "a person gets in by what the config opens, and by nothing else",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_names_are_unique() {
        assert!(CATALOGUE.is_sorted_by(|a, b| a.number < b.number));
        for (index, spec) in CATALOGUE.iter().enumerate() {
            let others = &CATALOGUE[index + 1..];
            assert!(
                others.iter().all(|other| other.id != spec.id),
                "{}",
                spec.id
            );
        }
        assert!(CATALOGUE.len() >= 30);
    }
}
