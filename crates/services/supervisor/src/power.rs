//! The end of the machine, behind a trait: real on a device, an exit code in the lab.

use std::io;
use std::path::Path;

use rustix::system::RebootCommand;

/// Exit code of a supervisor in the lab that was asked to reboot the device.
pub const EXIT_REBOOT: u8 = 10;
/// Exit code of a supervisor in the lab that was asked to power the device off.
pub const EXIT_POWER_OFF: u8 = 11;

/// How the machine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// It boots again.
    Reboot,
    /// It stays off.
    PowerOff,
}

/// Ends the machine once everything is stopped.
pub(crate) trait Power: Send {
    /// Gives the exit code of the supervisor, if the machine still runs after that.
    fn down(&self, down: Down) -> io::Result<u8>;
}

/// The real machine.
#[derive(Debug)]
pub(crate) struct Machine;

impl Power for Machine {
    fn down(&self, down: Down) -> io::Result<u8> {
        rustix::fs::sync();
        rustix::system::reboot(match down {
            Down::Reboot => RebootCommand::Restart,
            Down::PowerOff => RebootCommand::PowerOff,
        })?;
        Ok(0)
    }
}

/// A device in the lab: whoever started the supervisor sees from its exit code what to do.
#[derive(Debug)]
pub(crate) struct Lab;

impl Power for Lab {
    fn down(&self, down: Down) -> io::Result<u8> {
        Ok(match down {
            Down::Reboot => EXIT_REBOOT,
            Down::PowerOff => EXIT_POWER_OFF,
        })
    }
}

/// The machine for a device below `/`, else the lab's.
pub(crate) fn choose(root: &Path) -> Box<dyn Power> {
    if root == Path::new("/") {
        Box::new(Machine)
    } else {
        Box::new(Lab)
    }
}
