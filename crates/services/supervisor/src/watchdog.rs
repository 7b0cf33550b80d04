//! The hardware watchdog: it resets the machine when nobody writes to it for its timeout.
//!
//! Only the supervisor's own loop pets it, and only while the supervisor is healthy; the services'
//! health is the supervisor's matter, and a service never reboots the device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// How often it is petted. Drivers' timeouts begin at 30 s or more.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// Something that must be petted.
pub(crate) trait Watchdog: Send {
    /// Shows that the supervisor is well.
    fn pet(&mut self, now: Timestamp) -> io::Result<()>;

    /// Says that nobody will pet it from here on, on purpose.
    fn disarm(&mut self) -> io::Result<()>;
}

/// `/dev/watchdog`: every write is a sign of life; `V` before it is closed disarms it.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    /// Opens, and so arms, the device.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }
}

impl Watchdog for Device {
    fn pet(&mut self, _now: Timestamp) -> io::Result<()> {
        self.0.write_all(b"\n")
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.0.write_all(b"V")
    }
}

/// A file in the lab: holds the time of the last sign of life, or `disarmed`.
#[derive(Debug)]
pub(crate) struct Recorder(File);

impl Recorder {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map(Self)
    }

    fn record(&mut self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(text.as_bytes())
    }
}

impl Watchdog for Recorder {
    fn pet(&mut self, now: Timestamp) -> io::Result<()> {
        self.record(&format!("{now}\n"))
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.record("disarmed\n")
    }
}

/// The watchdog of the device below `root`: what was asked for, else the hardware's on a real device
/// (if it has one), else a file.
pub(crate) fn choose(
    root: &Path,
    asked: Option<&Path>,
    run: &Path,
) -> io::Result<Box<dyn Watchdog>> {
    let hardware = PathBuf::from("/dev/watchdog");
    match asked {
        Some(path) if path.starts_with("/dev") => Ok(Box::new(Device::open(path)?)),
        Some(path) => Ok(Box::new(Recorder::open(path)?)),
        None if root == Path::new("/") && hardware.exists() => {
            Ok(Box::new(Device::open(&hardware)?))
        }
        None => Ok(Box::new(Recorder::open(&run.join("watchdog"))?)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_labs_watchdog_tells_the_last_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let mut watchdog = choose(Path::new("/lab"), None, dir.path()).unwrap();
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        watchdog.pet(at).unwrap();
        let file = dir.path().join("watchdog");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{at}\n"));
        watchdog.disarm().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "disarmed\n");
    }
}
