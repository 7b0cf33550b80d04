//! The VMManifest: how the image, size and network needs of an application are written down once,
//! for any device.
//!
//! All amounts (`maxsize`, `memory`, `storage`) are in **KB** of 1024 bytes. `maxsizeUnit` and
//! `maxsizeDisplayUnit` only say how a screen should show the number. Rules have the form of the
//! API's ACE, so that a port map is
//! `{"matches": [{"type": "protocol", "value": "tcp"}, {"type": "lport", "value": "8080"}],
//!   "actions": [{"portmap": true, "appPort": 80}]}`.

use serde::{Deserialize, Serialize};

use super::read::{self, closest};
use super::spec::{Acl, Direction, Limit, Target, VmMode};
use super::{Problem, Problems};

/// A manifest as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `VMManifest`.
    #[serde(rename = "acKind")]
    pub ac_kind: String,
    /// Version of the format, `1.x.y`.
    #[serde(rename = "acVersion")]
    pub ac_version: String,
    /// Name of the application.
    pub name: String,
    /// Name for a screen.
    #[serde(default)]
    pub displayname: String,
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// Who made it; kept for people.
    #[serde(default)]
    pub owner: serde_json::Value,
    /// Screen and keyboard over VNC.
    #[serde(default)]
    pub enablevnc: bool,
    /// `HV_HVM`, `HV_PV`, `HV_FML`, `HV_NOHYPER`, `HV_LEGACY`.
    #[serde(default)]
    pub vmmode: String,
    /// Its disks.
    pub images: Vec<ManifestImage>,
    /// Its network interfaces.
    #[serde(default)]
    pub interfaces: Vec<ManifestInterface>,
    /// What it needs.
    pub resources: Vec<Resource>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestImage {
    /// Name of the image.
    #[serde(default)]
    pub imagename: String,
    /// How large the disk may grow, KB.
    #[serde(default)]
    pub maxsize: serde_json::Value,
    /// Unit that a screen shows.
    #[serde(default, rename = "maxsizeUnit")]
    pub maxsize_unit: String,
    /// Unit that a screen shows.
    #[serde(default, rename = "maxsizeDisplayUnit")]
    pub maxsize_display_unit: String,
    /// The application can't write to it.
    #[serde(default)]
    pub readonly: bool,
    /// Keep what the application wrote when it starts again.
    #[serde(default = "yes")]
    pub preserve: bool,
    /// `Disk`, `Kernel`, `Initrd`, `RamDisk`.
    #[serde(default)]
    pub target: String,
    /// `HDD`, `CDROM`, `HDD_EMPTY`.
    #[serde(default)]
    pub drvtype: String,
}

fn yes() -> bool {
    true
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestInterface {
    /// Its name.
    pub name: String,
    /// The application gets the hardware itself.
    #[serde(default)]
    pub directattach: bool,
    /// What may pass.
    #[serde(default)]
    pub acls: Vec<ManifestAcl>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManifestAcl {
    /// Its name.
    pub name: String,
    /// Its number; rules are numbered in order whatever it is.
    pub id: i32,
    /// What must all match.
    pub matches: Vec<ManifestMatch>,
    /// What then happens; nothing given lets it pass.
    pub actions: Vec<ManifestAction>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestMatch {
    /// `ip`, `host`, `eidset`, `protocol`, `lport`, `fport`, `adapter`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The value; numbers may be written as such.
    pub value: serde_json::Value,
}

/// One action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManifestAction {
    /// Drop it.
    pub drop: bool,
    /// Let pass so much.
    pub limit: bool,
    /// Packets.
    pub limitrate: u32,
    /// In each `s`, `m` or `h`.
    pub limitunit: String,
    /// Packets at once.
    pub limitburst: u32,
    /// Pass a port of the device on.
    pub portmap: bool,
    /// To this port of the application.
    #[serde(rename = "appPort")]
    pub app_port: u32,
}

/// One need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// `cpus`, `memory` or `storage`.
    pub name: String,
    /// How much; memory and storage in KB.
    pub value: serde_json::Value,
    /// May say `KB` for the sake of clarity.
    #[serde(default)]
    pub unit: String,
}

/// A manifest understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Needs {
    /// Name of the application.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// How it is virtualized.
    pub mode: VmMode,
    /// Screen and keyboard over VNC.
    pub vnc: bool,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its interfaces.
    pub interfaces: Vec<Nic>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// A disk understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name of the image; none for a blank disk.
    pub image: Option<String>,
    /// How large it may grow, bytes; 0 for as large as the image.
    pub max_bytes: u64,
    /// The application can't write to it.
    pub readonly: bool,
    /// What it is to the application.
    pub target: Target,
    /// A CD.
    pub cdrom: bool,
}

/// An interface understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// The application gets the hardware itself.
    pub direct: bool,
    /// What may pass.
    pub acls: Vec<Acl>,
}

/// Reads and understands a manifest.
pub fn read(text: &str) -> Result<Needs, Problems> {
    understand(&read::json(text)?)
}

/// Checks every field and turns words and units into values.
pub fn understand(manifest: &Manifest) -> Result<Needs, Problems> {
    let mut problems = Vec::new();
    if manifest.ac_kind != "VMManifest" {
        let what = format!("{:?} is not \"VMManifest\"", manifest.ac_kind);
        problems.push(Problem::new("acKind", what));
    }
    if manifest.ac_version.split('.').next() != Some("1") {
        let what = format!("{:?} is not a version 1.x.y", manifest.ac_version);
        problems.push(Problem::new("acVersion", what));
    }
    if manifest.name.trim().is_empty() {
        problems.push(Problem::new("name", "is empty"));
    }
    let mut notes = Vec::new();
    let mode = keep(vm_mode(&manifest.vmmode), &mut problems).unwrap_or_default();
    let (cpus, memory, storage) = resources(&manifest.resources, &mut problems);
    let mut disks = Vec::new();
    for (i, image) in manifest.images.iter().enumerate() {
        disks.extend(disk(image, i, &mut problems));
        if !image.preserve {
            notes.push(format!(
                "images[{i}].preserve: volumes keep their contents; order a purge to start afresh"
            ));
        }
    }
    if manifest.images.is_empty() {
        problems.push(Problem::new("images", "is empty: there is nothing to boot"));
    }
    let wanted: u64 = disks
        .iter()
        .map(|d| d.max_bytes)
        .fold(0, u64::saturating_add);
    if storage.is_some_and(|bytes| wanted > bytes) {
        problems.push(Problem::new(
            "resources",
            format!(
                "storage is less than the images' maxsize together ({} KB)",
                wanted / 1024
            ),
        ));
    }
    let interfaces = interfaces(&manifest.interfaces, &mut problems);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    Ok(Needs {
        name: manifest.name.clone(),
        cpus,
        memory,
        mode,
        vnc: manifest.enablevnc,
        disks,
        interfaces,
        notes,
    })
}

fn keep<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// Finds `word` among `known`, forgiving case and separators but nothing else.
fn choose<T: Copy>(path: &str, word: &str, known: &[(&'static str, T)]) -> Result<T, Problem> {
    let plain = |text: &str| text.replace([' ', '-', '_'], "").to_ascii_lowercase();
    if let Some((_, value)) = known.iter().find(|(name, _)| plain(name) == plain(word)) {
        return Ok(*value);
    }
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let hint = closest(word, names.iter().copied())
        .map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
    Err(Problem::new(
        path,
        format!("{word:?} is not one of {}{hint}", names.join(", ")),
    ))
}

fn vm_mode(word: &str) -> Result<VmMode, Problem> {
    if word.is_empty() {
        return Ok(VmMode::Hvm);
    }
    let known = [
        ("HV_HVM", VmMode::Hvm),
        ("HV_PV", VmMode::Pv),
        ("HV_FML", VmMode::Fml),
        ("HV_NOHYPER", VmMode::Nohyper),
        ("HV_LEGACY", VmMode::Legacy),
    ];
    let full = if word.to_ascii_uppercase().starts_with("HV") && word.len() > 3 {
        word.to_owned()
    } else {
        format!("HV_{word}")
    };
    choose("vmmode", &full, &known)
}

/// A whole number, also when it is written as text.
fn whole(path: &str, value: &serde_json::Value) -> Result<u64, Problem> {
    let number = match value {
        serde_json::Value::Number(n) => n.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| {
        Problem::new(
            path,
            format!("{value} is not a whole number (of KB for amounts)"),
        )
    })
}

fn kilobytes(path: &str, value: &serde_json::Value) -> Result<u64, Problem> {
    whole(path, value)?
        .checked_mul(1024)
        .ok_or_else(|| Problem::new(path, format!("{value} KB is too large")))
}

fn resources(resources: &[Resource], problems: &mut Vec<Problem>) -> (u32, u64, Option<u64>) {
    let (mut cpus, mut memory, mut storage) = (None, None, None);
    for (i, resource) in resources.iter().enumerate() {
        let path = format!("resources[{i}].value");
        let unit_path = format!("resources[{i}].unit");
        let kinds = [("cpus", 0), ("memory", 1), ("storage", 2)];
        let kind = choose(&format!("resources[{i}].name"), &resource.name, &kinds);
        let Some(kind) = keep(kind, problems) else {
            continue;
        };
        let fixed_unit = if kind == 0 { "" } else { "KB" };
        if !resource.unit.is_empty() && resource.unit != fixed_unit {
            let what = if kind == 0 {
                format!("{:?}: cpus have no unit", resource.unit)
            } else {
                format!("{:?}: {} is always in KB", resource.unit, resource.name)
            };
            problems.push(Problem::new(unit_path, what));
            // Given, if badly: not missing.
            match kind {
                0 => cpus = Some(None),
                1 => memory = Some(None),
                _ => storage = Some(None),
            }
            continue;
        }
        let twice = match kind {
            0 => cpus
                .replace(keep(whole(&path, &resource.value), problems))
                .is_some(),
            1 => memory
                .replace(keep(kilobytes(&path, &resource.value), problems))
                .is_some(),
            _ => storage
                .replace(keep(kilobytes(&path, &resource.value), problems))
                .is_some(),
        };
        if twice {
            problems.push(Problem::new(
                format!("resources[{i}].name"),
                format!("{:?} is given twice", resource.name),
            ));
        }
        if let (1, Some(Some(bytes))) = (kind, memory)
            && bytes < super::build_app::MIN_MEMORY
        {
            problems.push(Problem::new(
                path,
                format!(
                    "memory is in KB: {} would be less than 16 MB; 512 MB is 524288",
                    resource.value
                ),
            ));
        }
    }
    if memory.is_none() {
        problems.push(Problem::new("resources", "memory is missing"));
    }
    let cpus = cpus.flatten().unwrap_or(1);
    if !(1..=255).contains(&cpus) {
        problems.push(Problem::new(
            "resources",
            format!("{cpus} cpus are not between 1 and 255"),
        ));
    }
    let cpus = u32::try_from(cpus).unwrap_or(1);
    (
        cpus,
        memory.flatten().unwrap_or_default(),
        storage.flatten(),
    )
}

#[derive(Clone, Copy, PartialEq)]
enum Drive {
    Hdd,
    Cdrom,
    Empty,
}

fn disk(image: &ManifestImage, i: usize, problems: &mut Vec<Problem>) -> Option<Disk> {
    let at = |field: &str| format!("images[{i}].{field}");
    for (field, unit) in [
        ("maxsizeUnit", &image.maxsize_unit),
        ("maxsizeDisplayUnit", &image.maxsize_display_unit),
    ] {
        if !matches!(unit.as_str(), "" | "KB" | "MB" | "GB" | "TB") {
            let what = format!("{unit:?} is not one of KB, MB, GB, TB");
            problems.push(Problem::new(at(field), what));
        }
    }
    let max_bytes = if image.maxsize.is_null() {
        Some(0)
    } else {
        keep(kilobytes(&at("maxsize"), &image.maxsize), problems)
    };
    let targets = [
        ("Disk", Target::Disk),
        ("Kernel", Target::Kernel),
        ("Initrd", Target::Initrd),
        ("RamDisk", Target::RamDisk),
    ];
    let target = if image.target.is_empty() {
        Some(Target::Disk)
    } else {
        keep(choose(&at("target"), &image.target, &targets), problems)
    };
    let drives = [
        ("HDD", Drive::Hdd),
        ("CDROM", Drive::Cdrom),
        ("HDD_EMPTY", Drive::Empty),
    ];
    let drive = if image.drvtype.is_empty() {
        Some(Drive::Hdd)
    } else {
        keep(choose(&at("drvtype"), &image.drvtype, &drives), problems)
    };
    let (max_bytes, target, drive) = (max_bytes?, target?, drive?);
    let blank = drive == Drive::Empty;
    if blank && max_bytes == 0 {
        problems.push(Problem::new(at("maxsize"), "is needed by an empty disk"));
    }
    if !blank && image.imagename.is_empty() {
        problems.push(Problem::new(at("imagename"), "is empty"));
    }
    let cdrom = drive == Drive::Cdrom;
    Some(Disk {
        image: (!blank).then(|| image.imagename.clone()),
        max_bytes,
        readonly: image.readonly || cdrom,
        target,
        cdrom,
    })
}

fn interfaces(interfaces: &[ManifestInterface], problems: &mut Vec<Problem>) -> Vec<Nic> {
    let mut out = Vec::new();
    for (i, interface) in interfaces.iter().enumerate() {
        let mut acls = Vec::new();
        for (j, acl) in interface.acls.iter().enumerate() {
            acls.extend(rule(acl, &format!("interfaces[{i}].acls[{j}]"), problems));
        }
        if interface.name.is_empty() {
            problems.push(Problem::new(format!("interfaces[{i}].name"), "is empty"));
        }
        out.push(Nic {
            name: interface.name.clone(),
            direct: interface.directattach,
            acls,
        });
    }
    out
}

fn rule(acl: &ManifestAcl, path: &str, problems: &mut Vec<Problem>) -> Option<Acl> {
    let before = problems.len();
    let mut out = Acl {
        name: acl.name.clone(),
        direction: Direction::Both,
        ..Acl::default()
    };
    for (k, condition) in acl.matches.iter().enumerate() {
        let at = format!("{path}.matches[{k}]");
        if let Err(problem) = condition_into(&mut out, condition, &at) {
            problems.push(problem);
        }
    }
    if acl.actions.len() > 1 {
        problems.push(Problem::new(
            format!("{path}.actions"),
            "holds more than one action",
        ));
    }
    if let Some(action) = acl.actions.first() {
        let at = format!("{path}.actions[0]");
        if let Err(problem) = action_into(&mut out, action, &at) {
            problems.push(problem);
        }
    }
    (problems.len() == before).then_some(out)
}

fn condition_into(acl: &mut Acl, condition: &ManifestMatch, path: &str) -> Result<(), Problem> {
    let text = match &condition.value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        other => {
            return Err(Problem::new(
                format!("{path}.value"),
                format!("{other} is not text"),
            ));
        }
    };
    let twice = || Problem::new(path, format!("{:?} is matched twice", condition.kind));
    let port = |slot: &mut Option<u16>| match text.parse() {
        Ok(number) => slot.replace(number).map_or(Ok(()), |_| Err(twice())),
        Err(_) => Err(Problem::new(
            format!("{path}.value"),
            format!("{text:?} is not a port"),
        )),
    };
    let kinds = [
        ("ip", 0),
        ("host", 1),
        ("eidset", 2),
        ("protocol", 3),
        ("adapter", 4),
        ("lport", 5),
        ("fport", 6),
    ];
    let slot = match choose(&format!("{path}.type"), &condition.kind, &kinds)? {
        0 => &mut acl.ip,
        1 => &mut acl.host,
        2 => &mut acl.eidset,
        3 => &mut acl.protocol,
        4 => &mut acl.adapter,
        5 => return port(&mut acl.lport),
        _ => return port(&mut acl.fport),
    };
    if slot.is_empty() {
        *slot = text;
        Ok(())
    } else {
        Err(twice())
    }
}

fn action_into(acl: &mut Acl, action: &ManifestAction, path: &str) -> Result<(), Problem> {
    let given = [action.drop, action.limit, action.portmap]
        .into_iter()
        .filter(|a| *a)
        .count();
    if given != 1 {
        return Err(Problem::new(path, "must be one of drop, limit and portmap"));
    }
    acl.drop = action.drop;
    if action.limit {
        acl.limit = Some(Limit {
            rate: action.limitrate,
            unit: action.limitunit.clone(),
            burst: action.limitburst,
        });
    }
    if action.portmap {
        match u16::try_from(action.app_port) {
            Ok(port) if port > 0 => acl.portmap = Some(port),
            _ => {
                let what = format!("{} is not a port", action.app_port);
                return Err(Problem::new(format!("{path}.appPort"), what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
