//! What processes may, as the kernel enforces it, beside what they should.

use supervisor::{
    Filter,
    calls::Network,
    table::{At, SERVICES, Service},
    transient::TRANSIENTS,
};
use units::{Capability, ids};

use super::{
    Fact, Judge,
    facts::Process,
    fail, ok,
    processes::{bit, capability_names},
    skipped, some_of, warn,
};
use crate::{Device, words};

use super::Facts;

/// One unit's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Row {
    /// The unit.
    pub unit: String,
    /// Its process, if it runs and may be looked at; else why not.
    pub effective: Result<Effective, String>,
    /// What the supervisor's table gives it; for a helper the most that its owner may ask for; none for what
    /// an operator started.
    pub declared: Option<Declared>,
    /// Memory limit in bytes, as the supervisor tells it.
    pub memory_limit: Option<u64>,
    /// Where the two differ for the worse, in words.
    pub differences: Vec<String>,
    /// What weakens it though it is as declared, in words.
    pub weaknesses: Vec<String>,
}

/// What the kernel enforces.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Effective {
    /// User.
    pub uid: u32,
    /// Group and further groups.
    pub groups: Vec<u32>,
    /// Capabilities by name.
    pub capabilities: Vec<String>,
    /// It can't get new privileges.
    pub no_new_privileges: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// How many filters the kernel asks, where it tells.
    pub filters: Option<u32>,
    /// Network interfaces that it sees.
    pub interfaces: Option<Vec<String>>,
    /// Memory that its control group may have in bytes; none for no limit.
    pub memory_limit: Option<u64>,
    /// The kernel's version of Landlock, which holds it to the paths; none without.
    pub landlock: Option<u8>,
}

/// What a row of the table gives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Declared {
    /// User; none for a helper, whose owner chooses among its own.
    pub uid: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Capabilities by name.
    pub capabilities: Vec<String>,
    /// Class of system calls.
    pub calls: String,
    /// Class of network.
    pub network: String,
    /// Paths to read beside the bus,
    pub read: Vec<String>,
    /// and to write beside its own part of it; of a helper the most that its owner may ask for.
    pub write: Vec<String>,
}

impl Declared {
    fn of(unit: &str) -> Option<Self> {
        if let Some(service) = service(unit) {
            return Some(Self {
                uid: Some(service.uid()),
                groups: service.groups.to_vec(),
                capabilities: names(service.capabilities),
                calls: service.calls.to_string(),
                network: service.network.to_string(),
                read: paths(service.read),
                write: paths(service.write),
            });
        }
        let (owner, _) = unit.split_once('/')?;
        let row = TRANSIENTS.iter().find(|row| row.owner == owner)?;
        Some(Self {
            uid: None,
            groups: Vec::new(),
            capabilities: names(row.capabilities),
            calls: row.filter.calls.to_string(),
            network: row.filter.network.to_string(),
            read: Vec::new(),
            write: paths(row.within),
        })
    }
}

fn names(capabilities: &[Capability]) -> Vec<String> {
    let names = capabilities.iter().map(|c| c.as_str().to_owned());
    names.collect()
}

fn paths(paths: &[At]) -> Vec<String> {
    let text = |path: &At| match path {
        At::Root(path) => format!("/{path}"),
        At::Host(path) => (*path).to_owned(),
    };
    paths.iter().map(text).collect()
}

fn service(unit: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|row| row.name == unit)
}

/// System calls and network of a unit: of a service, or of what its owner may ask for.
fn filter_of(unit: &str) -> Option<Filter> {
    if let Some(service) = service(unit) {
        return Some(Filter {
            calls: service.calls,
            network: service.network,
        });
    }
    let (owner, _) = unit.split_once('/')?;
    let row = TRANSIENTS.iter().find(|row| row.owner == owner)?;
    Some(row.filter)
}

/// The sandbox of every unit: services in the order of the table, helpers below.
pub fn rows(device: &Device, facts: &Facts) -> Vec<Row> {
    let order = |name: &str| {
        let owner = name.split('/').next().unwrap_or_default();
        SERVICES
            .iter()
            .position(|row| row.name == owner)
            .unwrap_or(SERVICES.len())
    };
    let mut names: Vec<&String> = device.services.rows.keys().collect();
    names.sort_by_key(|name| (order(name), name.as_str()));
    names
        .into_iter()
        .map(|name| row(device, facts, name))
        .collect()
}

fn row(device: &Device, facts: &Facts, unit: &str) -> Row {
    let service = service(unit);
    let mut differences = Vec::new();
    let mut weaknesses = Vec::new();
    let effective = match facts.processes.get(unit) {
        None => Err("does not run".to_owned()),
        Some(Fact::Failed(why) | Fact::Skipped(why)) => Err(why.clone()),
        Some(Fact::Known(process)) => {
            compare(unit, service, process, &mut differences);
            compare_filter(unit, process, &mut differences);
            compare_memory(device, unit, process, &mut differences);
            let landlock = facts.landlock.known().copied();
            if let Fact::Failed(_) = facts.landlock {
                let text = "the kernel has no Landlock: only users keep it from other paths";
                weaknesses.push(text.to_owned());
            }
            let mut groups = vec![process.gid];
            groups.extend(process.groups.iter().filter(|gid| **gid != process.gid));
            Ok(Effective {
                uid: process.uid,
                groups,
                capabilities: capability_names(process.effective),
                no_new_privileges: process.no_new_privileges,
                seccomp: process.seccomp,
                filters: process.filters,
                interfaces: process
                    .interfaces
                    .as_ref()
                    .map(|names| names.iter().cloned().collect()),
                memory_limit: process.memory_limit.flatten(),
                landlock,
            })
        }
    };
    Row {
        unit: unit.to_owned(),
        effective,
        declared: Declared::of(unit),
        memory_limit: device.services.get(unit).and_then(|row| row.memory_limit),
        differences,
        weaknesses,
    }
}

/// A unit gets three filters (`filter.rs` of the supervisor); what it starts may add more.
const FILTERS: u32 = 3;

/// System calls and network: the kernel does not tell what its filters say, but how many there are.
fn compare_filter(unit: &str, process: &Process, differences: &mut Vec<String>) {
    match process.filters {
        _ if process.seccomp == 0 => differences.push("no system call filter".to_owned()),
        Some(filters) if filters < FILTERS => differences.push(format!(
            "{filters} of {FILTERS} system call filters are in force"
        )),
        Some(_) | None => {}
    }
    let Some(Filter { network, .. }) = filter_of(unit) else {
        return;
    };
    let foreign: Vec<String> = process
        .interfaces
        .iter()
        .flatten()
        .filter(|name| *name != "lo")
        .cloned()
        .collect();
    if network == Network::Nothing && !foreign.is_empty() {
        differences.push(format!(
            "is in a network with {} and should have none",
            some_of(&foreign)
        ));
    }
}

fn compare_memory(device: &Device, unit: &str, process: &Process, differences: &mut Vec<String>) {
    let wanted = device.services.get(unit).and_then(|row| row.memory_limit);
    let (Some(wanted), Some(enforced)) = (wanted, process.memory_limit) else {
        return;
    };
    if enforced.is_none_or(|bytes| bytes > wanted) {
        let enforced = enforced.map_or("no limit".to_owned(), words::size);
        differences.push(format!(
            "its memory: {enforced} instead of {}",
            words::size(wanted)
        ));
    }
}

fn compare(
    unit: &str,
    service: Option<&Service>,
    process: &Process,
    differences: &mut Vec<String>,
) {
    let mut differs = |text: String| differences.push(text);
    let bits = |capabilities: &[Capability]| {
        capabilities
            .iter()
            .filter_map(|c| bit(c.as_str()))
            .fold(0, |all, bit| all | bit)
    };
    // A guest's helpers have what their owners asked for; the supervisor gives no more than the owner has.
    let allowed = if let Some(service) = service {
        bits(service.capabilities)
    } else {
        let owner = unit.split('/').next().unwrap_or_default();
        let owner = SERVICES.iter().find(|row| row.name == owner);
        owner.map_or(0, |owner| bits(owner.capabilities))
    };
    if let Some(service) = service {
        if process.uid != service.uid() {
            differs(format!(
                "runs as uid {} instead of {}",
                process.uid,
                service.uid()
            ));
        }
        if process.gid != ids::EVE_GID {
            differs(format!(
                "its group is {} instead of {}",
                process.gid,
                ids::EVE_GID
            ));
        }
        let foreign: Vec<String> = process
            .groups
            .iter()
            .filter(|gid| **gid != ids::EVE_GID && !service.groups.contains(gid))
            .map(ToString::to_string)
            .collect();
        if !foreign.is_empty() {
            differs(format!("is also in group {}", foreign.join(", ")));
        }
        let missing = allowed & !process.effective;
        if missing != 0 {
            differs(format!("lacks {}", capability_names(missing).join(", ")));
        }
    } else if process.uid == 0 {
        differs("runs as root".to_owned());
    }
    let surplus = process.effective & !allowed;
    if surplus != 0 {
        differs(format!(
            "has {} beyond its row",
            capability_names(surplus).join(", ")
        ));
    }
    let reachable = process.bounding & !allowed;
    if reachable != 0 {
        differs(format!(
            "could get {}",
            some_of(&capability_names(reachable))
        ));
    }
    if !process.no_new_privileges {
        differs("may get new privileges".to_owned());
    }
}

impl Row {
    fn cell(&self, of: impl Fn(&Effective) -> String) -> String {
        self.effective.as_ref().map_or_else(|_| "-".to_owned(), of)
    }

    pub(super) fn user(&self) -> String {
        match &self.effective {
            Ok(effective) => effective.uid.to_string(),
            Err(why) => why.clone(),
        }
    }

    pub(super) fn groups(&self) -> String {
        self.cell(|effective| {
            let names = effective.groups.iter().map(|gid| match *gid {
                ids::EVE_GID => "eve".to_owned(),
                ids::KEYS_GID => "keys".to_owned(),
                ids::GUESTS_GID => "guests".to_owned(),
                other => other.to_string(),
            });
            names.collect::<Vec<_>>().join(",")
        })
    }

    pub(super) fn capabilities(&self) -> String {
        self.cell(|effective| {
            let names = effective
                .capabilities
                .iter()
                .map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_lowercase());
            match names.collect::<Vec<_>>().join(",") {
                none if none.is_empty() => "none".to_owned(),
                names => names,
            }
        })
    }

    pub(super) fn no_new_privileges(&self) -> String {
        self.cell(|effective| {
            if effective.no_new_privileges {
                "never"
            } else {
                "POSSIBLE"
            }
            .to_owned()
        })
    }

    /// The class of the row, if any filter is in force.
    pub(super) fn calls(&self) -> String {
        self.cell(|effective| match effective.seccomp {
            0 => "ALL".to_owned(),
            1 => "strict".to_owned(),
            _ => {
                let class = self.declared.as_ref().map_or("filter", |row| &row.calls);
                match effective.filters {
                    Some(filters) => format!("{class}, {filters} filters"),
                    None => class.to_owned(),
                }
            }
        })
    }

    /// The class of the row, and that there is nothing to be seen where there is none.
    pub(super) fn network(&self) -> String {
        self.cell(|effective| {
            let class = self.declared.as_ref().map_or("all", |row| &row.network);
            let empty = effective
                .interfaces
                .as_ref()
                .is_some_and(|names| names.iter().all(|name| name == "lo"));
            if empty {
                format!("{class}, empty")
            } else {
                class.to_owned()
            }
        })
    }

    pub(super) fn landlock(&self) -> String {
        self.cell(|effective| match effective.landlock {
            Some(version) => format!("version {version}"),
            None => "none".to_owned(),
        })
    }

    pub(super) fn paths(&self) -> String {
        match &self.declared {
            None => "all".to_owned(),
            Some(declared) if declared.uid.is_none() => {
                format!("its own of {}", declared.write.join(" "))
            }
            Some(declared) => {
                let list = |paths: &[String], verb: &str| {
                    (!paths.is_empty()).then(|| format!("{verb} {}", paths.join(" ")))
                };
                let parts = [list(&declared.read, "r"), list(&declared.write, "w")];
                let text = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
                if text.is_empty() {
                    "none".to_owned()
                } else {
                    text
                }
            }
        }
    }

    pub(super) fn memory(&self) -> String {
        self.memory_limit.map_or("no limit".to_owned(), words::size)
    }
}

/// A sandbox in one line.
fn summary(effective: &Effective, row: &Row) -> String {
    format!(
        "uid {}, capabilities {}, calls {}, network {}",
        effective.uid,
        row.capabilities(),
        row.calls(),
        row.network()
    )
}

impl Judge<'_> {
    pub(super) fn sandboxes(&mut self) {
        let all = rows(self.device, self.facts);
        let (services, helpers): (Vec<Row>, Vec<Row>) = all
            .into_iter()
            .partition(|row| service(&row.unit).is_some());
        let judge = |_: &Self, row: &Row| {
            let verdict = match &row.effective {
                Err(why) => skipped(why.clone()),
                Ok(_) if !row.differences.is_empty() => fail(
                    row.differences.join("; "),
                    "It was not started by the supervisor of this version: restart it.",
                ),
                Ok(_) if !row.weaknesses.is_empty() => warn(
                    row.weaknesses.join("; "),
                    "Boot a kernel with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...).",
                ),
                Ok(effective) => ok(summary(effective, row)),
            };
            (words::short(&row.unit), verdict)
        };
        self.each(
            "sandbox.service",
            &services,
            "the supervisor runs no service",
            judge,
        );
        self.each(
            "sandbox.helpers",
            &helpers,
            "there is no guest and no helper",
            |_, row| {
                let verdict = match &row.effective {
                    Err(why) => skipped(why.clone()),
                    Ok(_) if !row.differences.is_empty() => fail(
                        row.differences.join("; "),
                        "Stop the application, and report it with `eve support-bundle`.",
                    ),
                    Ok(effective) => ok(summary(effective, row)),
                };
                (words::short(&row.unit), verdict)
            },
        );
        self.keys();
    }

    fn keys(&mut self) {
        let known: Vec<(&String, &Process)> = self
            .facts
            .processes
            .iter()
            .filter_map(|(unit, fact)| Some((unit, fact.known()?)))
            .collect();
        let holders: Vec<&str> = known
            .iter()
            .filter(|(_, process)| {
                process.gid == ids::KEYS_GID || process.groups.contains(&ids::KEYS_GID)
            })
            .map(|(unit, _)| unit.as_str())
            .collect();
        let foreign: Vec<String> = holders
            .iter()
            .filter(|unit| {
                let row = SERVICES.iter().find(|row| row.name == **unit);
                !row.is_some_and(|row| row.groups.contains(&ids::KEYS_GID))
            })
            .map(|unit| (*unit).to_owned())
            .collect();
        let verdict = if known.is_empty() {
            skipped("no process of the device could be looked at")
        } else if holders.is_empty() {
            ok("no process that was looked at")
        } else if foreign.is_empty() {
            ok(holders.join(", "))
        } else {
            fail(
                format!("{} can read the device's private keys", some_of(&foreign)),
                "Restart it; if that does not help, report it with `eve support-bundle`.",
            )
        };
        self.add("sandbox.keys", verdict);
    }
}
