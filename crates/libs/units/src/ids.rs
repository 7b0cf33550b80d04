//! The numbers of the device's users and group.
//!
//! They need no entry in `/etc/passwd`. They are far from what distributions hand out, so that a
//! device in a lab shares no uid with a person or a daemon of the machine it runs on.

/// The group `eve`: every service is in it, the bus is readable to it.
pub const EVE_GID: u32 = 47_100;

/// The service that keeps the device's keys, in the TPM or not, and signs for the others.
pub const KEEPER: &str = "tpmmgr";

/// The service that opens and closes the ways for a person into the device.
pub const DOORKEEPER: &str = "accessmgr";

/// The group of those that may read the device's private keys: of its keeper alone.
pub const KEYS_GID: u32 = 47_099;

/// The group of all guests. Taps belong to it, so that QEMU may attach to them without a capability;
/// files that guests only read are readable to it.
pub const GUESTS_GID: u32 = 48_000;

/// First of the uids for guests (QEMU processes), one per guest.
pub const GUEST_UID_FIRST: u32 = 48_000;
/// Last of the uids for guests.
pub const GUEST_UID_LAST: u32 = 48_999;

/// Services with a uid of their own, by name.
const SERVICES: &[(&str, u32)] = &[
    ("zedagent", 47_101),
    ("reporter", 47_102),
    ("zedmanager", 47_103),
    ("volumemgr", 47_104),
    ("downloader", 47_105),
    ("verifier", 47_106),
    ("domainmgr", 47_107),
    ("zedrouter", 47_108),
    ("nim", 47_109),
    ("nodeagent", 47_110),
    ("baseosmgr", 47_111),
    ("tpmmgr", 47_112),
    ("vaultmgr", 47_113),
    ("newlogd", 47_114),
    ("accessmgr", 47_115),
];

/// The uid that a service runs as; `None` for a name that is not a service's.
pub fn service_uid(service: &str) -> Option<u32> {
    SERVICES
        .iter()
        .find(|(name, _)| *name == service)
        .map(|(_, uid)| *uid)
}

/// The service that runs as this uid.
pub fn service_of(uid: u32) -> Option<&'static str> {
    SERVICES
        .iter()
        .find(|(_, other)| *other == uid)
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_uid_is_given_once_and_none_is_a_guests() {
        for (index, (name, uid)) in SERVICES.iter().enumerate() {
            assert!(SERVICES[..index].iter().all(|(n, u)| n != name && u != uid));
            assert!(!(GUEST_UID_FIRST..=GUEST_UID_LAST).contains(uid));
            assert_ne!(*uid, EVE_GID);
            assert_eq!(service_of(*uid), Some(*name));
            assert_eq!(service_uid(name), Some(*uid));
        }
    }
}
