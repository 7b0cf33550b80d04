//! dnsmasq as a unit of the supervisor.

use std::{collections::BTreeMap, path::Path, time::Duration};

use units::{
    Capability, Limits, NameError, Paths, Phase, RestartPolicy, Stop, StopSignal, UnitName,
    UnitSpec, UnitState, UnitTable, ids,
};

use crate::Resolver;

/// The names of all resolvers begin with this.
pub(super) const PREFIX: &str = "zedrouter/dnsmasq-";
/// The program.
const DNSMASQ: &str = "/usr/sbin/dnsmasq";
/// What it needs is a tenth of this.
const MEMORY: u64 = 64 * 1024 * 1024;

const CONFIG: &str = "config";
const INDEX: &str = "index";

/// The name of a bridge's resolver.
pub(super) fn name(bridge: &str) -> Result<UnitName, NameError> {
    format!("{PREFIX}{bridge}").parse()
}

/// The unit of a bridge's resolver. Its labels say what it was started for.
pub(super) fn spec(
    directory: &Path,
    bridge: &str,
    config: &str,
    index: u32,
) -> Result<UnitSpec, NameError> {
    let file = directory.join(format!("{bridge}.conf"));
    let uid = ids::service_uid("zedrouter").unwrap_or(u32::MAX - 1);
    let arguments = [
        "--keep-in-foreground".to_owned(),
        format!("--conf-file={}", file.display()),
    ];
    let mut spec = UnitSpec::new(name(bridge)?, DNSMASQ, uid)
        .args(arguments)
        // Ports 53 and 67; one interface only; sets of addresses and the neighbour table.
        .capabilities([
            Capability::NetBindService,
            Capability::NetRaw,
            Capability::NetAdmin,
        ])
        .label(CONFIG, config)
        .label(INDEX, index.to_string());
    spec.sandbox.paths = Some(Paths {
        write: vec![directory.to_owned()],
        ..Paths::default()
    });
    spec.limits = Limits {
        memory_bytes: Some(MEMORY),
        cpu_percent: None,
    };
    spec.restart = RestartPolicy::Always;
    spec.stop = Stop {
        signal: StopSignal::Term,
        timeout: Duration::from_secs(5),
    };
    Ok(spec)
}

/// The resolvers among the units, by bridge.
pub(super) fn resolvers(table: &UnitTable) -> BTreeMap<String, Resolver> {
    let of = |(name, state): (&UnitName, &UnitState)| {
        let bridge = name.as_str().strip_prefix(PREFIX)?;
        Some((bridge.to_owned(), resolver(state)))
    };
    table.iter().filter_map(of).collect()
}

fn resolver(state: &UnitState) -> Resolver {
    let label = |key: &str| state.labels.get(key).cloned().unwrap_or_default();
    let (lives, trouble) = match &state.phase {
        Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Running { .. } => (true, None),
        Phase::Backoff { reason, .. } => (true, Some(reason.clone())),
        Phase::Stopping { .. } => (false, None),
        Phase::Ended { .. } => {
            let exit = state.last_exit.as_ref();
            let how = exit.map_or_else(|| "it never ran".to_owned(), |e| e.kind.to_string());
            (false, Some(how))
        }
    };
    Resolver {
        config: if lives { label(CONFIG) } else { String::new() },
        index: label(INDEX).parse().unwrap_or(0),
        trouble,
    }
}
