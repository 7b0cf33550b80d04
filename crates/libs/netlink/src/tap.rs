//! Tap interfaces, which are made by a device file and not by netlink.
//!
//! A persistent tap outlives the process that made it, so that a guest's network survives the
//! restart of the service, and belongs to the user or the group of the guest's process, which opens
//! it without privileges.
#![allow(
    unsafe_code,
    reason = "the kernel makes taps by ioctl, for which there is no safe interface"
)]

use crate::link::checked;
use crate::{Netlink, NetlinkError, Owner};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// A tap to be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// The uid that may open it (beside root).
    pub user: Option<u32>,
    /// The group whose members may open it; with a user too, both must fit. With neither, everybody
    /// who may open the device file may.
    pub group: Option<u32>,
    /// Whether it has a queue per guest CPU. Must be the same when it is opened.
    pub multi_queue: bool,
    /// Who makes it.
    pub owner: Owner,
}

impl Netlink {
    /// Makes a persistent tap, down. Delete it by [`delete_link`](Self::delete_link).
    ///
    /// It is persistent only when everything about it is set: a crash in between leaves nothing.
    pub async fn create_tap(&self, tap: &Tap) -> Result<(), NetlinkError> {
        let name = checked(&tap.name)?;
        let what = format!("create tap {name}");
        let refused = |source| NetlinkError::Refused {
            what: what.clone(),
            source,
        };
        let file = attach(name, tap.multi_queue).map_err(refused)?;
        let ids = [
            (libc::TUNSETOWNER, tap.user),
            (libc::TUNSETGROUP, tap.group),
        ];
        for (property, id) in ids {
            if let Some(id) = id {
                set(&file, property, id.into()).map_err(refused)?;
            }
        }
        self.set_owner(name, tap.owner).await?;
        set(&file, libc::TUNSETPERSIST, 1).map_err(refused)
    }
}

/// Makes a new tap that lives as long as the file is open.
fn attach(name: &str, multi_queue: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // The flags are 16 bits of which the highest is IFF_TUN_EXCL.
    let flags = i16::from_ne_bytes(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // At most 15 bytes, so that the zero at the end stays.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open for the whole call, and TUNSETIFF reads and writes one
    // `ifreq`, which is what it gets: a live, initialised value that nobody else refers to.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match result {
        0.. => Ok(file),
        // That is how it says that there is such an interface.
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EBUSY) => {
                Err(io::Error::from_raw_os_error(libc::EEXIST))
            }
            error => Err(error),
        },
    }
}

/// Sets a property of the tap whose value is a number.
fn set(tap: &File, property: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and the properties that are set here
    // take their argument as a number; no memory is passed.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), property, value) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
