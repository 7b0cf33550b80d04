//! Processor, memory, watchdog, kernel, programs.

use model::{app::BootMode, domain::Accelerator};

use super::{Fact, Judge, fail, ok, skipped, warn};
use crate::words;

/// What the device itself needs, services and kernel.
const OWN_MEMORY: u64 = 256 << 20;
/// QEMU's own memory for a guest whose unit does not say.
const QEMU_MEMORY: u64 = 128 << 20;

impl Judge<'_> {
    pub(super) fn machine(&mut self) {
        self.accelerator();
        self.memory();
        self.processors();
        self.kernel();
        self.programs();
    }

    fn accelerator(&mut self) {
        let verdict = match self.device.capabilities.get("global") {
            None => skipped("domainmgr has not probed it"),
            Some(row) => match &row.accelerator {
                Accelerator::Kvm => ok(format!("KVM, QEMU {}", row.qemu_version)),
                Accelerator::Tcg { reason } => warn(
                    format!("QEMU translates, which is slow: {reason}"),
                    "Switch on virtualization in the firmware, or use hardware with it.",
                ),
            },
        };
        self.add("accelerator", verdict);
    }

    fn memory(&mut self) {
        let d = self.device;
        let of_unit = |app: &str| {
            let unit = d.services.get(&format!("domainmgr/{app}"))?;
            unit.memory_limit
        };
        let wanted: u64 = d
            .app_configs
            .rows
            .iter()
            .filter(|(_, app)| app.activate)
            .map(|(key, app)| {
                let guest = app.resources.memory_kib.saturating_mul(1024);
                of_unit(key).unwrap_or_else(|| guest.saturating_add(QEMU_MEMORY))
            })
            .fold(0, u64::saturating_add);
        let verdict = match &self.facts.memory {
            _ if d.app_configs.rows.is_empty() => skipped("the config has no application"),
            Fact::Known(memory) => {
                let text = format!(
                    "applications may take {}",
                    words::part(wanted, memory.total)
                );
                if wanted.saturating_add(OWN_MEMORY) > memory.total {
                    fail(
                        format!("{text}, and the device needs {}", words::size(OWN_MEMORY)),
                        "Stop applications or give them less memory.",
                    )
                } else {
                    ok(text)
                }
            }
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("memory.budget", verdict);
        let verdict = match &self.facts.memory {
            Fact::Known(memory) => {
                let text = format!(
                    "{} of {} available",
                    words::size(memory.available),
                    words::size(memory.total)
                );
                if memory.available < memory.total / 20 {
                    warn(text, "See `eve ps` for who takes it.")
                } else {
                    ok(text)
                }
            }
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("memory.available", verdict);
    }

    fn processors(&mut self) {
        let d = self.device;
        let largest = d
            .app_configs
            .rows
            .values()
            .filter(|app| app.activate)
            .max_by_key(|app| app.resources.vcpus);
        let verdict = match (largest, &self.facts.cpus) {
            (None, _) => skipped("the config has no application that shall run"),
            (Some(app), Fact::Known(cpus)) => {
                let text = format!(
                    "{} wants {} of {}",
                    app.display_name, app.resources.vcpus, cpus
                );
                if app.resources.vcpus > *cpus {
                    warn(
                        text,
                        "Give it no more virtual processors than the device has.",
                    )
                } else {
                    ok(text)
                }
            }
            (Some(_), Fact::Failed(why) | Fact::Skipped(why)) => skipped(why.clone()),
        };
        self.add("cpu.budget", verdict);
    }

    fn kernel(&mut self) {
        let verdict = match &self.facts.watchdog {
            Fact::Known(text) => ok(text.clone()),
            Fact::Failed(why) => warn(
                why.clone(),
                "Load the driver of the hardware's watchdog: a kernel that hangs is not reset without it.",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("watchdog", verdict);
        let verdict = match &self.facts.landlock {
            Fact::Known(version) => ok(format!("rights of version {version}")),
            Fact::Failed(why) => warn(
                format!("the kernel has none, only file permissions protect paths: {why}"),
                "Boot a kernel with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...).",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("landlock", verdict);
    }

    fn programs(&mut self) {
        let facts = self.facts;
        let programs: Vec<_> = facts.programs.iter().collect();
        self.each("program", &programs, "not looked for", |_, (name, fact)| {
            let verdict = match fact {
                Fact::Known(path) => ok(path.display().to_string()),
                Fact::Failed(why) => fail(
                    why.clone(),
                    "It belongs into the device's image: install it.",
                ),
                Fact::Skipped(why) => skipped(why.clone()),
            };
            ((**name).to_owned(), verdict)
        });
        let wanted = self
            .device
            .app_configs
            .rows
            .values()
            .find(|app| app.resources.boot_mode == BootMode::Uefi);
        let verdict = match (&facts.firmware, wanted) {
            (Fact::Known(path), _) => ok(path.display().to_string()),
            (Fact::Failed(why), Some(app)) => fail(
                format!("{why}, and {} boots by UEFI", app.display_name),
                "It belongs into the device's image: install OVMF.",
            ),
            (Fact::Failed(why), None) => warn(
                format!("{why}; applications that boot by UEFI could not start"),
                "It belongs into the device's image: install OVMF.",
            ),
            (Fact::Skipped(why), _) => skipped(why.clone()),
        };
        self.add("firmware", verdict);
    }
}
