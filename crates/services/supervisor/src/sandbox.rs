//! Giving up rights: user, groups, capabilities, new privileges, paths.
//!
//! Runs in the shim, single-threaded. Order matters: [`rules`] opens the paths of the Landlock rules
//! while everything can be opened, [`become_user`] changes the user, [`restrict`] closes the door.

use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use units::{Output, Sandbox, UnitSpec};

/// A right that could not be given up; the unit is not started then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// Users, groups, privileges.
    #[error("can't {what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Capabilities.
    #[error("can't change the {set} capabilities: {source}")]
    Capabilities {
        /// Which set.
        set: &'static str,
        /// Why not.
        source: caps::errors::CapsError,
    },
    /// Landlock is there but refuses.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
}

/// The rights known to this version; older kernels enforce those that they know.
const KERNEL: ABI = ABI::V5;

/// What every program needs: itself, its libraries, its configuration, the kernel's files.
const SYSTEM_EXECUTE: &[&str] = &["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt"];
const SYSTEM_READ: &[&str] = &["/etc", "/proc", "/sys", "/dev/random", "/dev/urandom"];
const SYSTEM_WRITE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];
/// Often links to where a network daemon keeps them.
const SYSTEM_LINKS: &[&str] = &["/etc/resolv.conf", "/etc/localtime"];

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SandboxError {
    move |source| SandboxError::Kernel {
        what,
        source: source.into(),
    }
}

fn changing(set: &'static str) -> impl Fn(caps::errors::CapsError) -> SandboxError {
    move |source| SandboxError::Capabilities { set, source }
}

/// The Landlock rules of a unit; `None` when it has none.
pub(crate) fn rules(spec: &UnitSpec) -> Result<Option<RulesetCreated>, SandboxError> {
    let Some(paths) = &spec.sandbox.paths else {
        return Ok(None);
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = read | AccessFs::Execute;
    // Everything but executing what one wrote.
    let write = AccessFs::from_all(KERNEL) & !BitFlags::from(AccessFs::Execute);

    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KERNEL))?
        .create()?;
    for path in SYSTEM_LINKS {
        if let Ok(target) = std::fs::canonicalize(path) {
            rules = allow(rules, &target, read)?;
        }
    }
    let system = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let program = spec.argv.first().map(PathBuf::from).into_iter();
    let output = match &spec.output {
        Output::File(path) => Some(path.clone()),
        Output::Log | Output::Discard => None,
    };
    let groups = [
        (system(SYSTEM_EXECUTE), execute),
        (system(SYSTEM_READ), read),
        (system(SYSTEM_WRITE), write),
        (program.collect(), execute),
        (output.into_iter().collect(), write),
        (paths.read.clone(), read),
        (paths.execute.clone(), execute),
        (paths.write.clone(), write),
    ];
    for (paths, access) in groups {
        for path in paths {
            rules = allow(rules, &path, access)?;
        }
    }
    Ok(Some(rules))
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    // A path that isn't there can't be opened either.
    let Ok(fd) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(KERNEL)
    };
    Ok(rules.add_rule(PathBeneath::new(fd, access))?)
}

/// Changes user and groups and keeps the unit's capabilities, and only those, for good.
pub(crate) fn become_user(sandbox: &Sandbox) -> Result<(), SandboxError> {
    let wanted = sandbox
        .capabilities
        .iter()
        .map(|capability| capability.as_str().parse())
        .collect::<Result<CapsHashSet, _>>()
        .map_err(changing("wanted"))?;

    for capability in caps::read(None, CapSet::Bounding).map_err(changing("bounding"))? {
        if !wanted.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(changing("bounding"))?;
        }
    }
    prctl::set_keepcaps(true).map_err(kernel("keep capabilities"))?;
    let groups: Vec<_> = sandbox.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(kernel("set the groups"))?;
    let gid = Gid::from_raw(sandbox.gid);
    setresgid(gid, gid, gid).map_err(kernel("set the group"))?;
    let uid = Uid::from_raw(sandbox.uid);
    setresuid(uid, uid, uid).map_err(kernel("set the user"))?;
    // A change of user hides the process's own /proc files from it, which the last resort of `exec`
    // needs.
    prctl::set_dumpable(true).map_err(kernel("read one's own /proc"))?;

    // The inheritable set first: it may only be filled from the permitted one.
    caps::set(None, CapSet::Effective, &CapsHashSet::new()).map_err(changing("effective"))?;
    caps::set(None, CapSet::Inheritable, &wanted).map_err(changing("inheritable"))?;
    caps::set(None, CapSet::Permitted, &wanted).map_err(changing("permitted"))?;
    caps::set(None, CapSet::Effective, &wanted).map_err(changing("effective"))?;
    caps::set(None, CapSet::Ambient, &wanted).map_err(changing("ambient"))?;
    prctl::set_no_new_privs().map_err(kernel("refuse new privileges"))
}

/// Enforces the rules from here on. On a kernel without Landlock the unit runs with what its user
/// may, and says so in its log.
pub(crate) fn restrict(rules: Option<RulesetCreated>) -> Result<(), SandboxError> {
    let Some(rules) = rules else { return Ok(()) };
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        eprintln!("the kernel has no Landlock: only file permissions protect other paths");
    }
    Ok(())
}
