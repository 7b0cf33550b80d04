//! USB, terminals and screens, by the kernel's files.
//!
//! ```text
//! sys/bus/usb/devices/usb1/interface_authorized_default   whether what is plugged in gets a driver by itself
//! sys/bus/usb/devices/1-1:1.0/{bInterfaceClass,authorized,driver}
//! sys/bus/usb/drivers_probe                               asks for the driver of an interface that may have one
//! sys/class/tty/console/active                            terminals that the kernel talks to
//! sys/class/vtconsole/vtcon1/{name,bind}                  what draws on the screen
//! ```
//! All of it below the root of the device: on a device that is this machine it is the machine's, in a lab there is none,
//! and nobody's keyboard is taken away.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use units::login::Terminal;

use crate::{Hardware, UsbInterface};

const USB: &str = "sys/bus/usb/devices";
const PROBE: &str = "sys/bus/usb/drivers_probe";
const DEFAULT: &str = "interface_authorized_default";
const CONSOLES: &str = "sys/class/tty/console/active";
const FRAMEBUFFERS: &str = "sys/class/vtconsole";
/// The terminal on the screen that has a shell. Others would be the same person's.
const SCREEN: &str = "tty1";
/// Of a program that speaks with the device itself.
const ASSIGNED: &str = "usbfs";

/// A switch that does not move.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub(super) struct SwitchError {
    path: PathBuf,
    source: io::Error,
}

/// Names in a directory; none where there is no such directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<String> = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// A file of the kernel's; none if it is not there, or no longer.
fn value(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// What there is.
pub(super) fn look(root: &Path) -> io::Result<Hardware> {
    let active = value(&root.join(CONSOLES)).unwrap_or_default();
    let terminals = active.split_whitespace().filter_map(Terminal::new);
    let serial = terminals
        .filter(|terminal| !terminal.is_virtual())
        .collect();
    let has_screen = root.join("dev").join(SCREEN).exists();
    let screens = Terminal::new(SCREEN).filter(|_| has_screen && root.join(FRAMEBUFFERS).exists());

    let usb = root.join(USB);
    let (mut controllers, mut interfaces) = (BTreeMap::new(), Vec::new());
    for name in names(&usb)? {
        let dir = usb.join(&name);
        if let Some(allows) = value(&dir.join(DEFAULT)) {
            controllers.insert(name, allows == "1");
        } else if let Some(interface) = interface(name, &dir) {
            interfaces.push(interface);
        }
    }

    let mut framebuffers = BTreeMap::new();
    for name in names(&root.join(FRAMEBUFFERS))? {
        let dir = root.join(FRAMEBUFFERS).join(&name);
        let draws = value(&dir.join("name")).is_some_and(|what| what.contains("frame buffer"));
        if let (true, Some(bound)) = (draws, value(&dir.join("bind"))) {
            framebuffers.insert(name, bound == "1");
        }
    }
    Ok(Hardware {
        serial,
        screens: screens.into_iter().collect(),
        usb: controllers,
        interfaces,
        framebuffers,
    })
}

fn interface(name: String, dir: &Path) -> Option<UsbInterface> {
    let class = value(&dir.join("bInterfaceClass"))?;
    let driver = fs::read_link(dir.join("driver")).ok();
    Some(UsbInterface {
        class: u8::from_str_radix(&class, 16).ok()?,
        is_authorized: value(&dir.join("authorized"))? == "1",
        is_assigned: driver.is_some_and(|driver| driver.ends_with(ASSIGNED)),
        name,
    })
}

/// Writes into a file that is there: the kernel's are never made.
fn set(path: PathBuf, value: &str) -> Result<(), SwitchError> {
    let file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path);
    file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| SwitchError { path, source })
}

fn digit(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

/// Says whether new interfaces of a host controller have drivers.
pub(super) fn usb_default(root: &Path, name: &str, on: bool) -> Result<(), SwitchError> {
    set(root.join(USB).join(name).join(DEFAULT), digit(on))
}

/// Says whether an interface may have a driver. Permission alone does not give it one.
pub(super) fn usb_interface(root: &Path, name: &str, on: bool) -> Result<(), SwitchError> {
    set(root.join(USB).join(name).join("authorized"), digit(on))?;
    if on {
        return set(root.join(PROBE), name);
    }
    Ok(())
}

/// Says whether a console draws on the screen.
pub(super) fn framebuffer(root: &Path, name: &str, on: bool) -> Result<(), SwitchError> {
    set(root.join(FRAMEBUFFERS).join(name).join("bind"), digit(on))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn content(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn a_machine_without_any_of_it_is_fine() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()).unwrap(), Hardware::default());
    }

    #[test]
    fn what_the_kernel_shows_is_seen_and_switched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let usb = "sys/bus/usb/devices";
        file(root, &format!("{usb}/usb1/{DEFAULT}"), "1\n");
        file(root, &format!("{usb}/1-1/bDeviceClass"), "00\n");
        for (name, class) in [
            ("1-1:1.0", "03\n"),
            ("1-2:1.0", "08\n"),
            ("1-3:1.0", "ff\n"),
        ] {
            file(root, &format!("{usb}/{name}/bInterfaceClass"), class);
            file(root, &format!("{usb}/{name}/authorized"), "1\n");
        }
        std::os::unix::fs::symlink(
            "../../../../bus/usb/drivers/usbfs",
            root.join(format!("{usb}/1-2:1.0/driver")),
        )
        .unwrap();
        file(root, PROBE, "");
        file(root, CONSOLES, "tty0 ttyS0 pts/3\n");
        file(root, "dev/tty1", "");
        file(
            root,
            "sys/class/vtconsole/vtcon0/name",
            "(S) dummy device\n",
        );
        file(root, "sys/class/vtconsole/vtcon0/bind", "0\n");
        file(
            root,
            "sys/class/vtconsole/vtcon1/name",
            "(M) frame buffer device\n",
        );
        file(root, "sys/class/vtconsole/vtcon1/bind", "1\n");

        let seen = look(root).unwrap();
        let names = |terminals: &[Terminal]| {
            terminals
                .iter()
                .map(|t| t.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&seen.serial), ["ttyS0"]);
        assert_eq!(names(&seen.screens), ["tty1"]);
        assert_eq!(seen.usb, [("usb1".to_owned(), true)].into());
        assert_eq!(seen.framebuffers, [("vtcon1".to_owned(), true)].into());
        let interfaces: Vec<_> = seen
            .interfaces
            .iter()
            .map(|i| (i.name.as_str(), i.class, i.is_authorized, i.is_assigned))
            .collect();
        assert_eq!(
            interfaces,
            [
                ("1-1:1.0", 3, true, false),
                ("1-2:1.0", 8, true, true),
                ("1-3:1.0", 255, true, false)
            ]
        );

        usb_default(root, "usb1", false).unwrap();
        usb_interface(root, "1-1:1.0", false).unwrap();
        framebuffer(root, "vtcon1", false).unwrap();
        assert_eq!(content(root, &format!("{usb}/usb1/{DEFAULT}")), "0");
        assert_eq!(content(root, &format!("{usb}/1-1:1.0/authorized")), "0");
        assert_eq!(content(root, "sys/class/vtconsole/vtcon1/bind"), "0");
        assert_eq!(content(root, PROBE), "");
        usb_interface(root, "1-1:1.0", true).unwrap();
        assert_eq!(content(root, PROBE), "1-1:1.0");
        assert!(usb_interface(root, "9-9:1.0", false).is_err());
    }
}
