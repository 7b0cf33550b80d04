//! Who may ask for what: one table, and the rules that use it. Pure.
//!
//! The caller is the uid that the kernel gives for the connection (SO_PEERCRED). Root may everything.
//! Everybody who can connect (the group `eve`) may look. A service may start, stop, restart and
//! forget transient units under its own name if it has a row in `transient.rs`, within what the row allows. Logins are
//! root and exactly what `units::login` says; over the network there are none where CONFIG forbids them.
//! Nobody but root touches another's units or services.

use std::path::{Component, Path};

use units::{Output, UnitName, UnitSpec, UnitsError, ids, login};

use crate::filter::Filter;
use crate::sandbox::SYSTEM_PROGRAMS;
use crate::transient::{self, Transient};

/// The service that may ask for a reboot.
const REBOOTER: &str = "nodeagent";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    uid: u32,
}

/// What a decision needs to know of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The groups of the devices that guests use.
    pub device_groups: &'a [u32],
    /// Whether CONFIG forbids logins over the network, or can't be asked.
    pub remote_access_disabled: bool,
}

fn refused(reason: String) -> UnitsError {
    UnitsError::Refused { reason }
}

impl Caller {
    /// The caller with this uid.
    pub fn new(uid: u32) -> Self {
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

    fn service(self) -> Option<&'static str> {
        ids::service_of(self.uid)
    }

    /// The row of its transient units.
    fn row(self) -> Option<&'static Transient> {
        self.service().and_then(transient::of)
    }

    /// The system calls and the network of the units that it starts. Root's are for tests and emergencies.
    pub(crate) fn filter(self) -> Filter {
        self.row().map_or_else(Filter::default, |row| row.filter)
    }

    /// Whether it may start this unit on the device below `root`.
    pub fn may_start(
        self,
        spec: &UnitSpec,
        root: &Path,
        facts: &Facts<'_>,
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
        let Some(row) = self.row() else {
            // Only root gets here without one.
            return Ok(());
        };
        let surplus = if row.logins {
            forbidden(spec, root, facts)
        } else {
            surplus(row, self.uid, spec, root, facts.device_groups)
        };
        surplus.map_or(Ok(()), |what| {
            Err(refused(format!("{} may not {what}", self.describe())))
        })
    }

    /// Whether it may stop, restart or forget this unit.
    pub fn may_manage(self, name: &UnitName) -> Result<(), UnitsError> {
        if self.is_root() {
            return Ok(());
        }
        let owner = self.row().map(|row| row.owner);
        if name.instance().is_some() && Some(name.owner()) == owner {
            return Ok(());
        }
        Err(refused(format!(
            "{} may not manage {name}: it is not its own transient unit",
            self.describe()
        )))
    }

    /// Whether it may ask for a reboot.
    pub(crate) fn may_reboot(self) -> Result<(), UnitsError> {
        if self.is_root() || self.service() == Some(REBOOTER) {
            Ok(())
        } else {
            Err(refused(format!("{} may not reboot", self.describe())))
        }
    }
}

/// Why this is not a login that may be, as the end of a sentence.
fn forbidden(spec: &UnitSpec, root: &Path, facts: &Facts<'_>) -> Option<String> {
    if !login::is_login(root, spec) {
        return Some(format!("run anything but a login as {}", spec.name));
    }
    let is_remote = matches!(login::Login::of(&spec.name), Some(login::Login::Ssh(_)));
    (is_remote && facts.remote_access_disabled)
        .then(|| "open the network to logins: CONFIG forbids it for ever".to_owned())
}

/// What a spec has that the row does not allow, as the end of a sentence.
fn surplus(
    row: &Transient,
    owner: u32,
    spec: &UnitSpec,
    root: &Path,
    device_groups: &[u32],
) -> Option<String> {
    let UnitSpec { name, sandbox, .. } = spec;
    let is_guest = row.guests && transient::is_guests(sandbox.uid);
    if sandbox.uid != owner && !is_guest {
        return Some(format!("run {name} as uid {}", sandbox.uid));
    }
    // A guest in the group of the services could read what those share.
    let own_group = |gid: u32| {
        if is_guest {
            transient::is_guests(gid)
        } else {
            gid == ids::EVE_GID
        }
    };
    let mut groups = std::iter::once(&sandbox.gid).chain(&sandbox.groups);
    if let Some(gid) = groups.find(|gid| !own_group(**gid) && !device_groups.contains(gid)) {
        return Some(format!("run {name} in group {gid}"));
    }
    let mut capabilities = sandbox.capabilities.iter();
    if let Some(capability) = capabilities.find(|one| !row.capabilities.contains(one)) {
        return Some(format!("give {capability} to {name}"));
    }
    let program = spec.argv.first().map(Path::new);
    let is_system = |path: &Path| SYSTEM_PROGRAMS.iter().any(|dir| path.starts_with(dir));
    if let Some(program) = program.filter(|path| !is_system(path) || climbs(path)) {
        return Some(format!("run {} as {name}", program.display()));
    }
    let Some(paths) = &sandbox.paths else {
        return Some(format!("leave every path open to {name}"));
    };
    let output = match &spec.output {
        Output::File(path) => Some(path),
        Output::Log | Output::Discard => None,
    };
    let within = |path: &Path| {
        let mut bounds = row.within.iter();
        !climbs(path) && bounds.any(|bound| path.starts_with(bound.below(root)))
    };
    let foreign = [&paths.read, &paths.write, &paths.execute]
        .into_iter()
        .flatten()
        .chain(output)
        .find(|path| !within(path));
    foreign.map(|path| format!("open {} to {name}", path.display()))
}

fn climbs(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use units::{Capability, Paths};

    fn caller(service: &str) -> Caller {
        Caller::new(ids::service_uid(service).unwrap())
    }

    const ROOT: &str = "/r";

    fn spec(name: &str, uid: u32) -> UnitSpec {
        let mut spec = UnitSpec::new(name.parse().unwrap(), "/usr/bin/x", uid);
        spec.sandbox.paths = Some(Paths::default());
        spec
    }

    fn guest(name: &str) -> UnitSpec {
        let mut spec = spec(name, ids::GUEST_UID_FIRST);
        spec.sandbox.gid = ids::GUESTS_GID;
        spec
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

    const FACTS: Facts<'_> = Facts {
        device_groups: &[104],
        remote_access_disabled: false,
    };

    fn may(service: &str, spec: &UnitSpec) -> bool {
        caller(service)
            .may_start(spec, Path::new(ROOT), &FACTS)
            .is_ok()
    }

    #[test]
    fn the_doorkeeper_starts_logins_and_nothing_else_and_nobody_else_does() {
        let root = Path::new(ROOT);
        let ssh = login::spec(root, &login::Login::Ssh(login::SSH_PORT)).unwrap();
        assert!(may(ids::DOORKEEPER, &ssh));
        for other in ["zedrouter", "domainmgr", "nim"] {
            assert!(!may(other, &ssh), "{other}");
        }
        let mut shell = ssh.clone();
        shell.argv = vec!["/bin/sh".to_owned()];
        assert!(!may(ids::DOORKEEPER, &shell));
        let own = ids::service_uid(ids::DOORKEEPER).unwrap();
        assert!(!may(ids::DOORKEEPER, &spec("accessmgr/ssh", own)));
        let forbids = Facts {
            remote_access_disabled: true,
            ..FACTS
        };
        let doorkeeper = caller(ids::DOORKEEPER);
        assert!(doorkeeper.may_start(&ssh, root, &forbids).is_err());
        let terminal = login::Terminal::new("ttyS0").unwrap();
        let console = login::spec(root, &login::Login::Shell(terminal)).unwrap();
        doorkeeper.may_start(&console, root, &forbids).unwrap();
    }

    #[test]
    fn nobody_gains_rights_by_starting_a_unit() {
        let own = ids::service_uid("zedrouter").unwrap();
        let good = spec("zedrouter/dns", own).capabilities([Capability::NetAdmin]);
        let changed = |change: fn(&mut UnitSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            may("zedrouter", &spec)
        };
        assert!(changed(|_| {}));
        assert!(!changed(|spec| spec.sandbox.uid = 0));
        assert!(!changed(|spec| spec.sandbox.uid = ids::GUEST_UID_FIRST));
        assert!(!changed(|spec| spec.sandbox.groups = vec![ids::KEYS_GID]));
        assert!(!changed(|spec| spec.sandbox.gid = 0));
        assert!(!changed(|spec| {
            spec.sandbox.capabilities.insert(Capability::SysAdmin);
        }));
        assert!(changed(|spec| spec.sandbox.groups = vec![104]));
        assert!(!may("zedrouter", &spec("domainmgr/x", own)));
        let service = Caller::new(0).may_start(&spec("nim", 0), Path::new(ROOT), &FACTS);
        assert!(matches!(service, Err(UnitsError::Invalid { .. })));
    }

    #[test]
    fn a_guest_is_in_no_group_that_services_share() {
        assert!(may("domainmgr", &guest("domainmgr/g")));
        let mut member = guest("domainmgr/g");
        member.sandbox.groups = vec![ids::EVE_GID];
        assert!(!may("domainmgr", &member));
        assert!(!may(
            "domainmgr",
            &spec("domainmgr/g", ids::GUEST_UID_FIRST)
        ));
        let own = ids::service_uid("domainmgr").unwrap();
        assert!(may("domainmgr", &spec("domainmgr/tool", own)));
    }

    #[test]
    fn a_unit_reaches_no_more_than_its_row() {
        let own = ids::service_uid("zedrouter").unwrap();
        let with = |paths: Option<Paths>, output: Output, program: &str| {
            let mut spec = spec("zedrouter/dns", own);
            spec.sandbox.paths = paths;
            spec.output = output;
            program.clone_into(&mut spec.argv[0]);
            may("zedrouter", &spec)
        };
        let dnsmasq = "/usr/sbin/dnsmasq";
        let read = |path: &str| {
            Some(Paths {
                read: vec![path.into()],
                ..Paths::default()
            })
        };
        let write = |path: &str| {
            Some(Paths {
                write: vec![path.into()],
                ..Paths::default()
            })
        };
        let execute = |path: &str| {
            Some(Paths {
                execute: vec![path.into()],
                ..Paths::default()
            })
        };
        for paths in [
            read("/r/run/zedrouter-net"),
            write("/r/run/zedrouter-net/a"),
        ] {
            assert!(with(paths, Output::Log, dnsmasq));
        }
        for paths in [
            None,
            read("/"),
            read("/r/persist/vault/volumemgr/volumes/v"),
            read("/r/run"),
            write("/r/run/zedagent"),
            write("/r/run/zedrouter-network"),
            write("/r/run/zedrouter-net/../zedagent"),
            execute("/r/persist"),
        ] {
            assert!(!with(paths.clone(), Output::Log, dnsmasq), "{paths:?}");
        }
        let file = |path: &str| Output::File(path.into());
        let nothing = || Some(Paths::default());
        assert!(with(nothing(), file("/r/run/zedrouter-net/out"), dnsmasq));
        assert!(!with(
            nothing(),
            file("/r/persist/vault/volumemgr/volumes/v"),
            dnsmasq
        ));
        for program in ["/r/run/zedrouter-net/x", "/usr/../r/x", "/tmp/x"] {
            assert!(!with(nothing(), Output::Log, program), "{program}");
        }
    }

    #[test]
    fn the_filter_is_the_rows() {
        use crate::calls::{Calls, Network};
        let guests = caller("domainmgr").filter();
        assert_eq!(
            (guests.calls, guests.network),
            (Calls::Emulator, Network::Screen)
        );
        assert_eq!(caller("zedrouter").filter().calls, Calls::Resolver);
        assert_eq!(Caller::new(0).filter(), Filter::default());
    }

    #[test]
    fn only_nodeagent_reboots() {
        caller("nodeagent").may_reboot().unwrap();
        Caller::new(0).may_reboot().unwrap();
        assert!(caller("zedagent").may_reboot().is_err());
        assert!(Caller::new(1000).may_reboot().is_err());
    }
}
