//! Who may ask for what: one table, and the rules that use it. Pure.
//!
//! The caller is the uid that the kernel gives for the connection (SO_PEERCRED). Root may everything.
//! Everybody who can connect (the group `eve`) may look. A service may start, stop, restart and
//! forget transient units under its own name if it has a row here, within what the row allows.
//! Nobody but root touches another's units or services.

use units::{Capability, UnitName, UnitSpec, UnitsError, ids};

/// What one service may ask for.
struct Right {
    service: &'static str,
    /// Whether it may have transient units.
    units: bool,
    /// Capabilities that they may have.
    capabilities: &'static [Capability],
    /// Whether they may run as guests' users (else only as the service's own).
    guests: bool,
    /// Whether it may ask for a reboot.
    reboot: bool,
}

const NOTHING: Right = Right {
    service: "",
    units: false,
    capabilities: &[],
    guests: false,
    reboot: false,
};

const RIGHTS: &[Right] = &[
    Right {
        service: "domainmgr",
        units: true,
        guests: true,
        ..NOTHING
    },
    Right {
        service: "zedrouter",
        units: true,
        // dnsmasq: port 53 and 67, raw sockets for pings, nft sets.
        capabilities: &[
            Capability::NetAdmin,
            Capability::NetRaw,
            Capability::NetBindService,
        ],
        ..NOTHING
    },
    Right {
        service: "nodeagent",
        reboot: true,
        ..NOTHING
    },
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    uid: u32,
}

fn refused(reason: String) -> UnitsError {
    UnitsError::Refused { reason }
}

impl Caller {
    /// The caller with this uid.
    pub(crate) fn new(uid: u32) -> Self {
        Self { uid }
    }

    fn is_root(self) -> bool {
        self.uid == 0
    }

    /// For messages.
    pub(crate) fn describe(self) -> String {
        match ids::service_of(self.uid) {
            Some(service) => service.to_owned(),
            None if self.is_root() => "root".to_owned(),
            None => format!("uid {}", self.uid),
        }
    }

    fn right(self) -> &'static Right {
        let service = ids::service_of(self.uid);
        RIGHTS
            .iter()
            .find(|right| Some(right.service) == service)
            .unwrap_or(&NOTHING)
    }

    /// Whether it may start this unit. `device_groups` own the devices that guests use.
    pub(crate) fn may_start(
        self,
        spec: &UnitSpec,
        device_groups: &[u32],
    ) -> Result<(), UnitsError> {
        self.may_manage(&spec.name)?;
        if spec.name.instance().is_none() {
            return Err(UnitsError::Invalid {
                reason: format!(
                    "{} names a service; transient units are <owner>/<name>",
                    spec.name
                ),
            });
        }
        if self.is_root() {
            return Ok(());
        }
        let right = self.right();
        let is_guest =
            |id: u32| right.guests && (ids::GUEST_UID_FIRST..=ids::GUEST_UID_LAST).contains(&id);
        let sandbox = &spec.sandbox;
        if sandbox.uid != self.uid && !is_guest(sandbox.uid) {
            return Err(refused(format!(
                "{} may not run {} as uid {}",
                self.describe(),
                spec.name,
                sandbox.uid
            )));
        }
        let foreign = std::iter::once(&sandbox.gid)
            .chain(&sandbox.groups)
            .find(|gid| **gid != ids::EVE_GID && !is_guest(**gid) && !device_groups.contains(gid));
        if let Some(gid) = foreign {
            return Err(refused(format!(
                "{} may not run {} in group {gid}",
                self.describe(),
                spec.name
            )));
        }
        let surplus = sandbox
            .capabilities
            .iter()
            .find(|capability| !right.capabilities.contains(capability));
        if let Some(capability) = surplus {
            return Err(refused(format!(
                "{} may not give {capability} to {}",
                self.describe(),
                spec.name
            )));
        }
        Ok(())
    }

    /// Whether it may stop, restart or forget this unit.
    pub(crate) fn may_manage(self, name: &UnitName) -> Result<(), UnitsError> {
        if self.is_root() {
            return Ok(());
        }
        let owner = ids::service_of(self.uid);
        if name.instance().is_some() && Some(name.owner()) == owner && self.right().units {
            return Ok(());
        }
        Err(refused(format!(
            "{} may not manage {name}: it is not its own transient unit",
            self.describe()
        )))
    }

    /// Whether it may ask for a reboot.
    pub(crate) fn may_reboot(self) -> Result<(), UnitsError> {
        if self.is_root() || self.right().reboot {
            Ok(())
        } else {
            Err(refused(format!("{} may not reboot", self.describe())))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn caller(service: &str) -> Caller {
        Caller::new(ids::service_uid(service).unwrap())
    }

    fn spec(name: &str, uid: u32) -> UnitSpec {
        UnitSpec::new(name.parse().unwrap(), "/bin/x", uid)
    }

    #[test]
    fn owners_manage_their_own_transient_units_only() {
        let dns: UnitName = "zedrouter/dns".parse().unwrap();
        caller("zedrouter").may_manage(&dns).unwrap();
        Caller::new(0).may_manage(&dns).unwrap();
        for other in ["domainmgr", "nim", "nodeagent"] {
            assert!(caller(other).may_manage(&dns).is_err(), "{other}");
        }
        assert!(Caller::new(1000).may_manage(&dns).is_err());
        let service = "zedrouter".parse().unwrap();
        assert!(caller("zedrouter").may_manage(&service).is_err());
        // nim has no row, so it has no units even under its own name.
        assert!(caller("nim").may_manage(&"nim/x".parse().unwrap()).is_err());
    }

    #[test]
    fn nobody_gains_rights_by_starting_a_unit() {
        let router = caller("zedrouter");
        let own = ids::service_uid("zedrouter").unwrap();
        let good = spec("zedrouter/dns", own).capabilities([Capability::NetAdmin]);
        router.may_start(&good, &[]).unwrap();
        let refused = |spec: UnitSpec| router.may_start(&spec, &[104]).is_err();
        assert!(refused(spec("zedrouter/dns", 0)));
        assert!(refused(spec("zedrouter/dns", ids::GUEST_UID_FIRST)));
        assert!(refused(spec("domainmgr/x", own)));
        assert!(refused(good.clone().capabilities([Capability::SysAdmin])));
        let mut keys = good.clone();
        keys.sandbox.groups = vec![ids::KEYS_GID];
        assert!(refused(keys));
        let mut root_group = good.clone();
        root_group.sandbox.gid = 0;
        assert!(refused(root_group));
        let mut device = good;
        device.sandbox.groups = vec![104];
        assert!(!refused(device));
        let guest = spec("domainmgr/g", ids::GUEST_UID_FIRST);
        caller("domainmgr").may_start(&guest, &[]).unwrap();
        let service = Caller::new(0).may_start(&spec("nim", 0), &[]);
        assert!(matches!(service, Err(UnitsError::Invalid { .. })));
    }

    #[test]
    fn only_nodeagent_reboots() {
        caller("nodeagent").may_reboot().unwrap();
        Caller::new(0).may_reboot().unwrap();
        assert!(caller("zedagent").may_reboot().is_err());
        assert!(Caller::new(1000).may_reboot().is_err());
    }
}
