//! Giving up rights: network, user, groups, capabilities, new privileges, paths, system calls.
//!
//! Runs in the shim, single-threaded. Order matters: [`rules`] opens the paths of the Landlock rules
//! while everything can be opened, [`leave_network`] and [`become_user`] need root, [`restrict`] closes the
//! door, and `filter.rs` takes the tools away with which doors are opened.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use units::{Output, Sandbox, UnitSpec};

use crate::calls::{Network, SCREEN_PORTS};
use crate::filter::Filter;
use crate::machine::Origin;

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
pub(crate) const SYSTEM_PROGRAMS: &[&str] =
    &["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt"];
/// What loads a program's libraries: the one program that a unit runs which starts no others.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
const SYSTEM_READ: &[&str] = &[
    "/etc",
    // Often links to where a network daemon keeps them.
    "/etc/resolv.conf",
    "/etc/localtime",
    "/proc",
    "/sys",
    "/dev/random",
    "/dev/urandom",
];
const SYSTEM_WRITE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SandboxError {
    move |source| SandboxError::Kernel {
        what,
        source: source.into(),
    }
}

fn changing(set: &'static str) -> impl Fn(caps::errors::CapsError) -> SandboxError {
    move |source| SandboxError::Capabilities { set, source }
}

/// The Landlock rules of a unit; `None` when nothing is to be ruled.
///
/// On the way to the paths of a transient unit no links are followed: whoever asked for it has no say about
/// more than those paths, but may write to some of the directories on the way.
pub(crate) fn rules(
    spec: &UnitSpec,
    filter: Filter,
    origin: Origin,
) -> Result<Option<RulesetCreated>, SandboxError> {
    let is_offline = !filter.network.connects();
    if spec.sandbox.paths.is_none() && !is_offline {
        return Ok(None);
    }
    let mut ruleset = Ruleset::default().scope(Scope::AbstractUnixSocket)?;
    if !filter.calls.signals_others() {
        ruleset = ruleset.scope(Scope::Signal)?;
    }
    if spec.sandbox.paths.is_some() {
        ruleset = ruleset.handle_access(AccessFs::from_all(KERNEL))?;
    }
    if is_offline {
        ruleset = ruleset.handle_access(AccessNet::from_all(KERNEL))?;
    }
    let mut rules = ruleset.create()?;
    if filter.network == Network::Screen {
        for port in SCREEN_PORTS {
            rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
    }
    for (path, access) in system_paths(spec, filter) {
        rules = allow(rules, &path, access, ResolveFlags::empty())?;
    }
    let links = match origin {
        Origin::Service => ResolveFlags::empty(),
        Origin::Transient => ResolveFlags::NO_SYMLINKS,
    };
    for (path, access) in own_paths(spec) {
        rules = allow(rules, &path, access, links)?;
    }
    Ok(Some(rules))
}

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const EXECUTE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});

/// Everything but executing what one wrote.
fn write() -> BitFlags<AccessFs> {
    AccessFs::from_all(KERNEL) & !BitFlags::from(AccessFs::Execute)
}

type Rules = Vec<(PathBuf, BitFlags<AccessFs>)>;

/// What every unit finds of the machine. Programs may be executed by those that start some; for the
/// others its own program and the loader of its libraries are enough.
fn system_paths(spec: &UnitSpec, filter: Filter) -> Rules {
    if spec.sandbox.paths.is_none() {
        return Rules::new();
    }
    let programs = if filter.calls.starts_programs() {
        EXECUTE
    } else {
        READ
    };
    let program = spec.argv.first().map(String::as_str).into_iter();
    let all = |paths: &[&'static str], access| {
        paths
            .iter()
            .map(move |path| (*path, access))
            .collect::<Vec<_>>()
    };
    [
        all(SYSTEM_PROGRAMS, programs),
        all(LOADERS, EXECUTE),
        all(SYSTEM_READ, READ),
        all(SYSTEM_WRITE, write()),
    ]
    .concat()
    .into_iter()
    .chain(program.map(|path| (path, EXECUTE)))
    .map(|(path, access)| (path.into(), access))
    .collect()
}

/// What it declares.
fn own_paths(spec: &UnitSpec) -> Rules {
    let Some(paths) = &spec.sandbox.paths else {
        return Rules::new();
    };
    let output = match &spec.output {
        Output::File(path) => Some(path),
        Output::Log | Output::Discard => None,
    };
    let read = paths.read.iter().map(|path| (path, READ));
    let execute = paths.execute.iter().map(|path| (path, EXECUTE));
    let write = paths.write.iter().chain(output).map(|path| (path, write()));
    read.chain(execute)
        .chain(write)
        .map(|(path, access)| (path.clone(), access))
        .collect()
}

/// Opens what lies at `path`.
pub(crate) fn open(path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let mode = if flags.contains(OFlags::CREATE) {
        mode
    } else {
        Mode::empty()
    };
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(CWD, path, flags, mode, resolve)?)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
    resolve: ResolveFlags,
) -> Result<RulesetCreated, SandboxError> {
    // A path that isn't there can't be opened either.
    let Ok(fd) = open(path, OFlags::PATH, resolve) else {
        return Ok(rules);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(KERNEL)
    };
    Ok(rules.add_rule(PathBeneath::new(fd, access))?)
}

/// Moves into a network namespace of its own, in which there is nothing but a loopback interface that
/// is down, if the unit has no network.
pub(crate) fn leave_network(network: Network) -> Result<(), SandboxError> {
    if network != Network::Nothing {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(kernel("leave the network"))
}

/// A login's sandbox without the capabilities that this machine does not even give to the supervisor (one that is a
/// container itself): a service without one of its own could not work, a person works with what there is.
pub(crate) fn of_login(sandbox: &Sandbox) -> Result<Sandbox, SandboxError> {
    let had = caps::read(None, CapSet::Permitted).map_err(changing("permitted"))?;
    let mut sandbox = sandbox.clone();
    sandbox.capabilities.retain(|one| {
        let capability = one.as_str().parse::<caps::Capability>();
        capability.is_ok_and(|capability| had.contains(&capability))
    });
    Ok(sandbox)
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
