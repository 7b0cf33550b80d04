//! Who may ask what: one table, and the rules that use it. Pure.
//!
//! The caller is the uid that the kernel gives for the connection (SO_PEERCRED). Everybody who can connect
//! (the group `eve`) may look: at the description and at PCR values. What uses a key, opens a secret or
//! changes the TPM has a row. Root may everything: it could open the TPM itself.

use tpm::{Key, TpmError};
use units::ids;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    /// The description, PCR values.
    Look,
    /// A signature.
    Sign(Key),
    /// A shared point.
    Ecdh,
    /// A quote.
    Quote,
    /// To seal, unseal, inspect or erase a slot.
    Slot(&'a str),
    /// To extend a PCR.
    Extend,
    /// To read or write an NV index.
    Nv(u32),
}

/// A service and what it may ask.
struct Row {
    service: &'static str,
    /// Keys that it signs with.
    sign: &'static [Key],
    /// It decrypts objects that the controller encrypted to the device.
    ecdh: bool,
    /// It attests.
    quote: bool,
    /// Begin of the names of its slots.
    slots: Option<&'static str>,
    /// Its range of NV indices.
    nv: Option<(u32, u32)>,
}

const NOTHING: Row = Row {
    service: "",
    sign: &[],
    ecdh: false,
    quote: false,
    slots: None,
    nv: None,
};

const ROWS: &[Row] = &[
    Row {
        service: "zedagent",
        sign: &[Key::Device, Key::Onboarding],
        ecdh: true,
        quote: true,
        ..NOTHING
    },
    Row {
        service: "reporter",
        sign: &[Key::Device],
        ..NOTHING
    },
    Row {
        service: "newlogd",
        sign: &[Key::Device],
        ..NOTHING
    },
    // Credentials of datastores, user data of guests, secrets of ports: each is opened where it is used.
    Row {
        service: "downloader",
        ecdh: true,
        ..NOTHING
    },
    Row {
        service: "domainmgr",
        ecdh: true,
        slots: Some("guest"),
        ..NOTHING
    },
    Row {
        service: "nim",
        ecdh: true,
        ..NOTHING
    },
    Row {
        service: "vaultmgr",
        ecdh: true,
        slots: Some("vault"),
        nv: Some((0x0180_0000, 0x0190_0000)),
        ..NOTHING
    },
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    uid: u32,
}

impl Caller {
    /// The caller with this uid.
    pub fn new(uid: u32) -> Self {
        Self { uid }
    }

    /// For messages.
    pub fn describe(self) -> String {
        match ids::service_of(self.uid) {
            Some(service) => service.to_owned(),
            None if self.uid == 0 => "root".to_owned(),
            None => format!("uid {}", self.uid),
        }
    }

    fn row(self) -> Option<&'static Row> {
        let service = ids::service_of(self.uid)?;
        ROWS.iter().find(|row| row.service == service)
    }

    /// Whether it may ask this.
    pub fn may(self, wish: Wish<'_>) -> Result<(), TpmError> {
        if self.uid == 0 || wish == Wish::Look {
            return Ok(());
        }
        let allowed = |row: &Row| match wish {
            Wish::Look => true,
            Wish::Sign(key) => row.sign.contains(&key),
            Wish::Ecdh => row.ecdh,
            Wish::Quote => row.quote,
            Wish::Slot(name) => row.slots.is_some_and(|begin| is_below(name, begin)),
            // Measurements are made before services start, and by tpmmgr itself.
            Wish::Extend => false,
            Wish::Nv(index) => row
                .nv
                .is_some_and(|(first, last)| (first..=last).contains(&index)),
        };
        if self.row().is_some_and(allowed) {
            return Ok(());
        }
        let what = match wish {
            Wish::Look => "look".to_owned(),
            Wish::Sign(key) => format!("sign with the {} key", key.name()),
            Wish::Ecdh => "use the ECDH key".to_owned(),
            Wish::Quote => "have a quote".to_owned(),
            Wish::Slot(name) => format!("use slot {name:?}"),
            Wish::Extend => "extend a PCR".to_owned(),
            Wish::Nv(index) => format!("use NV index {index:#x}"),
        };
        Err(TpmError::Refused {
            reason: format!("{} may not {what}", self.describe()),
        })
    }
}

/// `vault` and `vault-...` are below `vault`; `vaults` is not.
fn is_below(name: &str, begin: &str) -> bool {
    name.strip_prefix(begin)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [&str; 14] = [
        "zedagent",
        "reporter",
        "zedmanager",
        "volumemgr",
        "downloader",
        "verifier",
        "domainmgr",
        "zedrouter",
        "nim",
        "nodeagent",
        "baseosmgr",
        "tpmmgr",
        "vaultmgr",
        "newlogd",
    ];

    fn who_may(wish: Wish<'_>) -> Vec<&'static str> {
        let may = |service: &&str| {
            let uid = ids::service_uid(service).unwrap();
            Caller::new(uid).may(wish).is_ok()
        };
        assert!(Caller::new(0).may(wish).is_ok());
        for stranger in [1000, ids::GUEST_UID_FIRST, u32::MAX] {
            let looks = wish == Wish::Look;
            assert_eq!(Caller::new(stranger).may(wish).is_ok(), looks);
        }
        ALL.into_iter().filter(may).collect()
    }

    #[test]
    fn who_may_ask_what() {
        assert_eq!(who_may(Wish::Look), ALL);
        let tells = ["zedagent", "reporter", "newlogd"];
        assert_eq!(who_may(Wish::Sign(Key::Device)), tells);
        assert_eq!(who_may(Wish::Sign(Key::Onboarding)), ["zedagent"]);
        assert_eq!(who_may(Wish::Quote), ["zedagent"]);
        let opens = ["zedagent", "downloader", "domainmgr", "nim", "vaultmgr"];
        assert_eq!(who_may(Wish::Ecdh), opens);
        assert_eq!(who_may(Wish::Slot("vault")), ["vaultmgr"]);
        assert_eq!(who_may(Wish::Slot("vault-next")), ["vaultmgr"]);
        assert_eq!(who_may(Wish::Slot("guest-1")), ["domainmgr"]);
        for slot in ["", "vaults", "xvault", "Vault"] {
            assert!(who_may(Wish::Slot(slot)).is_empty(), "{slot:?}");
        }
        assert!(who_may(Wish::Extend).is_empty());
        assert_eq!(who_may(Wish::Nv(0x0180_0000)), ["vaultmgr"]);
        assert!(who_may(Wish::Nv(0x0150_0000)).is_empty());
    }
}
