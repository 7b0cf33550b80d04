//! Device nodes that guests and taps need, made usable for the group of guests, in which QEMU
//! processes and the services that make taps and probe vCPUs are.
//!
//! On a device the nodes in `/dev` are handed to the group. In the lab they belong to the machine: the
//! supervisor takes a mount namespace of its own and lays nodes for the same devices over them there,
//! so that nothing changes for anybody else and nothing is left when the last unit is gone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use units::ids;

/// The nodes.
const NODES: &[&str] = &["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"];

/// The TPM through the kernel's resource manager.
const TPM: &str = "/dev/tpmrm0";

/// The firmware's log of what it measured into the TPM: root's alone, as the kernel makes it.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// For the group only.
const MODE: u32 = 0o660;

/// A node that stays as it is.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {path}: {source}")]
pub(crate) struct DeviceError {
    what: &'static str,
    path: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl Fn(E) -> DeviceError {
    let path = path.display().to_string();
    move |source| DeviceError {
        what,
        path: path.clone(),
        source: source.into(),
    }
}

/// Hands what is the TPM's to the keeper of the keys, and to nobody else. In the lab the machine's own stays as it is.
fn keep(node: &Path, mode: u32) -> Result<(), DeviceError> {
    if !node.exists() {
        return Ok(());
    }
    chown(node, ids::service_uid(ids::KEEPER), None).map_err(failed("give to its keeper", node))?;
    fs::set_permissions(node, PermissionsExt::from_mode(mode))
        .map_err(failed("set the mode of", node))
}

fn is_shared(node: &Path) -> bool {
    fs::metadata(node).is_ok_and(|metadata| {
        let mode = metadata.permissions().mode();
        mode & 0o006 == 0o006 || (metadata.gid() == ids::GUESTS_GID && mode & 0o060 == 0o060)
    })
}

/// Shares the nodes that exist and are not shared. Must be called before the process has threads: a
/// mount namespace is taken by the calling thread, and inherited from it.
pub(crate) fn share(root: &Path) -> Result<(), DeviceError> {
    let nodes: Vec<_> = NODES
        .iter()
        .map(Path::new)
        .filter(|node| {
            fs::metadata(node).is_ok_and(|metadata| metadata.file_type().is_char_device())
                && !is_shared(node)
        })
        .collect();
    if root == Path::new("/") {
        keep(Path::new(TPM), 0o600)?;
        keep(Path::new(EVENT_LOG), 0o400)?;
    }
    if nodes.is_empty() {
        return Ok(());
    }
    if root == Path::new("/") {
        for node in nodes {
            chown(node, None, Some(ids::GUESTS_GID)).map_err(failed("give to the group", node))?;
            fs::set_permissions(node, PermissionsExt::from_mode(MODE))
                .map_err(failed("set the mode of", node))?;
        }
        return Ok(());
    }
    let stage = root.join("run/supervisor/dev");
    fs::create_dir_all(&stage).map_err(failed("create", &stage))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("take a mount namespace for", root))?;
    let none = None::<&str>;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(none, "/", none, slave, none).map_err(failed("separate", Path::new("/")))?;
    // On a file system of its own, because the root's may refuse device nodes.
    let options = Some("mode=0755,size=64k");
    mount(
        Some("eve-dev"),
        &stage,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        options,
    )
    .map_err(failed("mount a tmpfs on", &stage))?;
    for node in nodes {
        let Some(name) = node.file_name() else {
            continue;
        };
        let ours = stage.join(name);
        let device = fs::metadata(node).map_err(failed("look at", node))?.rdev();
        let mode = Mode::from_bits_truncate(MODE);
        mknod(&ours, SFlag::S_IFCHR, mode, device).map_err(failed("make", &ours))?;
        chown(&ours, None, Some(ids::GUESTS_GID)).map_err(failed("give to the group", &ours))?;
        // The mode of `mknod` is cut by the umask.
        fs::set_permissions(&ours, PermissionsExt::from_mode(MODE))
            .map_err(failed("set the mode of", &ours))?;
        mount(Some(&ours), node, none, MsFlags::MS_BIND, none)
            .map_err(failed("mount over", node))?;
    }
    Ok(())
}
