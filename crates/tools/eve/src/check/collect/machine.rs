//! TPM, watchdog, memory, processors, kernel, programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};

use crate::check::{Fact, Facts, facts::Memory};

/// What services call.
const PROGRAMS: [&str; 5] = [
    "qemu-system-x86_64",
    "qemu-img",
    "dnsmasq",
    "nft",
    "conntrack",
];
/// Where, whatever this shell's PATH is.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// What UEFI guests start from.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

pub(super) fn look(root: &Path, facts: &mut Facts) {
    facts.tpm = match fs::read_to_string("/sys/class/tpm/tpm0/tpm_version_major") {
        Ok(version) => Fact::Known(format!("version {}", version.trim())),
        Err(_) if Path::new("/dev/tpm0").exists() => Fact::Known("/dev/tpm0".to_owned()),
        Err(_) => Fact::Failed("there is no TPM".to_owned()),
    };
    facts.watchdog = if root != Path::new("/") && root.join("run/supervisor/watchdog").exists() {
        Fact::Skipped(
            "the supervisor of this device keeps a record instead: it is no whole machine"
                .to_owned(),
        )
    } else if Path::new("/dev/watchdog").exists() {
        Fact::Known("/dev/watchdog".to_owned())
    } else {
        Fact::Failed("there is no /dev/watchdog".to_owned())
    };
    facts.memory = memory();
    facts.cpus = match std::thread::available_parallelism() {
        Ok(count) => Fact::Known(u32::try_from(count.get()).unwrap_or(u32::MAX)),
        Err(error) => Fact::Skipped(error.to_string()),
    };
    facts.landlock = landlock();
    facts.programs = PROGRAMS.iter().map(|name| (*name, program(name))).collect();
    facts.firmware = if Path::new(FIRMWARE).exists() {
        Fact::Known(PathBuf::from(FIRMWARE))
    } else {
        Fact::Failed(format!("there is no {FIRMWARE}"))
    };
}

/// Says of all of it that it was not looked at.
pub(super) fn skip(why: &str, facts: &mut Facts) {
    let why = || why.to_owned();
    facts.tpm = Fact::Skipped(why());
    facts.watchdog = Fact::Skipped(why());
    facts.memory = Fact::Skipped(why());
    facts.cpus = Fact::Skipped(why());
    facts.landlock = Fact::Skipped(why());
    facts.programs = PROGRAMS
        .iter()
        .map(|name| (*name, Fact::Skipped(why())))
        .collect();
    facts.firmware = Fact::Skipped(why());
}

/// The newest rights that a ruleset can be made of. It is not applied.
fn landlock() -> Fact<u8> {
    let versions = [(ABI::V5, 5), (ABI::V3, 3), (ABI::V2, 2), (ABI::V1, 1)];
    let mut refused = String::new();
    for (abi, version) in versions {
        let made = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))
            .and_then(Ruleset::create);
        match made {
            Ok(_) => return Fact::Known(version),
            Err(error) => refused = error.to_string(),
        }
    }
    Fact::Failed(refused)
}

fn memory() -> Fact<Memory> {
    let text = match fs::read_to_string("/proc/meminfo") {
        Ok(text) => text,
        Err(error) => return Fact::Skipped(format!("/proc/meminfo: {error}")),
    };
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    match (field("MemTotal:"), field("MemAvailable:")) {
        (Some(total), Some(available)) => Fact::Known(Memory { total, available }),
        _ => Fact::Skipped("/proc/meminfo does not tell".to_owned()),
    }
}

fn program(name: &str) -> Fact<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(DIRECTORIES.iter().map(PathBuf::from));
    let mut files = dirs.map(|dir| dir.join(name));
    match files.find(|file| file.is_file()) {
        Some(file) => Fact::Known(file),
        None => Fact::Failed(format!("there is no {name}")),
    }
}
