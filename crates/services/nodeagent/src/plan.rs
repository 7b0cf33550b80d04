//! The device's phases, commands and reboot records.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    app::{AppInstanceStatus, AppPhase},
    config_item::ConfigItemValueMap,
    node::{
        BootReason, ConfigSource, DeviceOpCounters, DeviceOperation, DeviceOperationKind,
        DevicePhase, MaintenanceReason, NodeAgentStatus, OnboardPhase, OnboardingStatus,
        RebootRecord, ZedAgentStatus,
    },
    security::TpmSanityStatus,
    topics::{
        APP_INSTANCE_STATUS, CONFIG_ITEMS, DEVICE_OP_COUNTERS, DISK_METRIC, NODE_AGENT_STATUS,
        ONBOARDING_STATUS, REBOOT_RECORD, TPM_SANITY_STATUS, VAULT_STATUS, ZEDAGENT_STATUS,
    },
    vault::{VaultPhase, VaultStatus},
    volume::DiskMetric,
};

/// How long applications may take to halt before the device goes on without waiting (EVE's
/// `maxDomainHaltTime`).
const HALT_LIMIT: Duration = Duration::from_secs(300);

/// The service.
pub struct Nodeagent;

/// What is wanted, and what the others say about it.
pub struct Desired {
    /// The controller's commands.
    pub zedagent: Arc<Rows<ZedAgentStatus>>,
    /// Whether the device is onboarded.
    pub onboarding: Option<Arc<Rows<OnboardingStatus>>>,
    /// Unknown until zedmanager has spoken.
    pub apps: Option<Arc<Rows<AppInstanceStatus>>>,
    /// Properties; unknown counts as none.
    pub items: Option<Arc<Rows<ConfigItemValueMap>>>,
    /// How the vault is.
    pub vault: Option<Arc<Rows<VaultStatus>>>,
    /// How the keeper of the keys is.
    pub tpm: Option<Arc<Rows<TpmSanityStatus>>>,
    /// How full the disk is.
    pub disk: Option<Arc<Rows<DiskMetric>>>,
    /// Our own status of this boot; none at its first turn.
    pub status: Option<NodeAgentStatus>,
    /// Commands carried out.
    pub counters: Option<DeviceOpCounters>,
    /// Why the device booted (`last`) and why it is about to (`next`).
    pub records: Arc<Rows<RebootRecord>>,
}

/// Every row that nodeagent publishes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The device as a whole.
    pub status: NodeAgentStatus,
    /// Commands carried out.
    pub counters: DeviceOpCounters,
    /// Why the device booted and why it is about to.
    pub records: Rows<RebootRecord>,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        let one = |key: &str| key.to_owned();
        // The status first: with it, what follows can be made again after a crash in between.
        out.put(
            &NODE_AGENT_STATUS,
            Some([(one("nodeagent"), self.status)].into()),
        );
        out.put(&REBOOT_RECORD, Some(self.records));
        out.put(
            &DEVICE_OP_COUNTERS,
            Some([(one("global"), self.counters)].into()),
        );
    }
}

/// Asks the supervisor to stop everything and end this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// For the supervisor's log.
    pub reason: String,
    /// Switch off rather than boot again.
    pub power_off: bool,
}

impl Action for Ask {
    fn subject(&self) -> String {
        "device".to_owned()
    }

    // The supervisor stops us when it obeys; until then the call may take its time.
    fn is_slow(&self) -> bool {
        true
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            max: Duration::from_secs(30),
            permanent: Some(Duration::from_secs(30)),
            ..Backoff::default()
        }
    }
}

impl Service for Nodeagent {
    const NAME: &'static str = "nodeagent";
    type Desired = Desired;
    type Actual = ();
    type Action = Ask;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let zedagent = tables.get(&ZEDAGENT_STATUS);
        let desired = Desired {
            onboarding: tables.peek(&ONBOARDING_STATUS),
            apps: tables.peek(&APP_INSTANCE_STATUS),
            items: tables.peek(&CONFIG_ITEMS),
            vault: tables.peek(&VAULT_STATUS),
            tpm: tables.peek(&TPM_SANITY_STATUS),
            disk: tables.peek(&DISK_METRIC),
            status: tables.own(&NODE_AGENT_STATUS).get("nodeagent").cloned(),
            counters: tables.own(&DEVICE_OP_COUNTERS).get("global").copied(),
            records: tables.own(&REBOOT_RECORD),
            zedagent: zedagent?,
        };
        Some(desired)
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let desired = turn.desired;
        let mut counters = desired.counters.unwrap_or_default();
        let before = desired
            .status
            .clone()
            .unwrap_or_else(|| booted(turn, &counters));
        counters.boots = before.restart_counter;
        let mut records = Rows::from([("last".to_owned(), last_record(&before, turn.now))]);
        let next = desired
            .records
            .get("next")
            .filter(|_| before.operation.is_some());
        let (status, next) = step(turn, before, &mut counters, next.cloned());
        let status = NodeAgentStatus {
            maintenance: maintenance(desired),
            ..status
        };
        if let Some(next) = &next {
            records.insert("next".to_owned(), next.clone());
        }
        let mut plan = Plan::report(Report {
            counters,
            records,
            status: status.clone(),
        });
        match (&status.phase, &status.operation) {
            (DevicePhase::Halting { deadline }, _) => {
                plan.wake_in(
                    Duration::try_from(deadline.duration_since(turn.now)).unwrap_or_default(),
                );
            }
            (DevicePhase::Rebooting, Some(operation)) => plan.actions.push(Ask {
                reason: next.map_or_else(|| text(operation), |n| n.text),
                power_off: operation.kind == DeviceOperationKind::PowerOff,
            }),
            (
                DevicePhase::Rebooting
                | DevicePhase::Onboarding
                | DevicePhase::Online
                | DevicePhase::ShutDown,
                _,
            ) => {}
        }
        plan
    }
}

/// Why the device takes on nothing new. `maintenance.mode: disabled` is a person's word against all reasons.
fn maintenance(desired: &Desired) -> Vec<MaintenanceReason> {
    let no_items = ConfigItemValueMap::default();
    let items = desired.items.as_ref().and_then(|rows| rows.values().next());
    let items = items.unwrap_or(&no_items);
    let property = items.text("maintenance.mode");
    if property == "disabled" {
        return Vec::new();
    }
    let mut reasons = BTreeSet::new();
    if property == "enabled" || desired.zedagent.values().any(|z| z.maintenance_mode) {
        reasons.insert(MaintenanceReason::UserRequested);
    }
    reasons.extend(desired.zedagent.values().flat_map(|z| &z.maintenance));
    let tpm = desired.tpm.iter().flat_map(|rows| rows.values());
    reasons.extend(tpm.filter_map(|tpm| tpm.maintenance));
    // It is locked at every boot, until it is opened; only one that can't be opened says why.
    let is_stuck = |v: &VaultStatus| v.phase == VaultPhase::Locked && v.fault.is_some();
    if desired
        .vault
        .as_ref()
        .is_some_and(|rows| rows.values().any(is_stuck))
    {
        reasons.insert(MaintenanceReason::VaultLockedUp);
    }
    let is_full = |disk: &DiskMetric| disk.total_bytes > 0 && disk.available_bytes == 0;
    if !items.flag("storage.apps.ignore.disk.check")
        && desired
            .disk
            .as_ref()
            .is_some_and(|rows| rows.values().any(is_full))
    {
        reasons.insert(MaintenanceReason::LowDiskSpace);
    }
    reasons.into_iter().collect()
}

/// The status at the first turn of a boot.
fn booted(turn: &Turn<'_, Nodeagent>, counters: &DeviceOpCounters) -> NodeAgentStatus {
    let next = turn.desired.records.get("next");
    let (boot_reason, reboot_text) = match next {
        Some(record) => (record.reason, record.text.clone()),
        None if turn.desired.counters.is_none() => (BootReason::First, "first boot".to_owned()),
        None => (
            BootReason::PowerFail,
            "no reason was recorded before this boot: power was lost or the device hung".to_owned(),
        ),
    };
    NodeAgentStatus {
        restart_counter: counters.boots + 1,
        boot_time: Some(turn.now),
        boot_reason,
        reboot_text,
        reboot_time: next.map(|r| r.at),
        ..NodeAgentStatus::default()
    }
}

fn last_record(status: &NodeAgentStatus, now: Timestamp) -> RebootRecord {
    RebootRecord {
        reason: status.boot_reason,
        text: status.reboot_text.clone(),
        at: status.reboot_time.or(status.boot_time).unwrap_or(now),
        image: String::new(),
    }
}

fn step(
    turn: &Turn<'_, Nodeagent>,
    before: NodeAgentStatus,
    counters: &mut DeviceOpCounters,
    next: Option<RebootRecord>,
) -> (NodeAgentStatus, Option<RebootRecord>) {
    let operation = before.operation.clone();
    // Not written yet when we ended between the status and the record.
    let next = next.or_else(|| reboot_record(turn, operation.as_ref()?));
    match before.phase {
        DevicePhase::Onboarding | DevicePhase::Online | DevicePhase::ShutDown => {
            let accepted = news(turn.desired, counters).filter(|o| {
                !(before.phase == DevicePhase::ShutDown && o.kind == DeviceOperationKind::Shutdown)
            });
            if let Some(operation) = accepted {
                let deadline = turn.now.checked_add(HALT_LIMIT).unwrap_or(turn.now);
                let record = reboot_record(turn, &operation);
                let phase = DevicePhase::Halting { deadline };
                return (
                    NodeAgentStatus {
                        phase,
                        halt_apps: true,
                        operation: Some(operation),
                        ..before
                    },
                    record,
                );
            }
            let phase = match before.phase {
                DevicePhase::ShutDown => DevicePhase::ShutDown,
                _ if is_onboarded(turn.desired) => DevicePhase::Online,
                _ => DevicePhase::Onboarding,
            };
            (
                NodeAgentStatus {
                    phase,
                    operation: None,
                    ..before
                },
                None,
            )
        }
        DevicePhase::Halting { deadline } => {
            // When the clock was set back the wait begins anew rather than last for years.
            let latest = turn.now.checked_add(HALT_LIMIT).unwrap_or(turn.now);
            let deadline = deadline.min(latest);
            // A second command meanwhile is noted as carried out: the device is already going down.
            let _ = news(turn.desired, counters);
            let done = all_halted(turn.desired) || deadline <= turn.now;
            let shutdown = operation
                .as_ref()
                .is_none_or(|o| o.kind == DeviceOperationKind::Shutdown);
            let phase = match (done, shutdown) {
                (false, _) => DevicePhase::Halting { deadline },
                (true, true) => DevicePhase::ShutDown,
                (true, false) => DevicePhase::Rebooting,
            };
            (
                NodeAgentStatus {
                    phase,
                    operation,
                    ..before
                },
                next,
            )
        }
        DevicePhase::Rebooting => (
            NodeAgentStatus {
                operation,
                ..before
            },
            next,
        ),
    }
}

/// The first command that was not carried out yet; its counter is moved.
fn news(desired: &Desired, counters: &mut DeviceOpCounters) -> Option<DeviceOperation> {
    let mut found = None;
    for operation in desired.zedagent.values().flat_map(|z| &z.operations) {
        let carried_out = match operation.kind {
            DeviceOperationKind::Reboot => &mut counters.reboot,
            DeviceOperationKind::Shutdown => &mut counters.shutdown,
            DeviceOperationKind::PowerOff => &mut counters.power_off,
        };
        let old = carried_out.replace(operation.counter);
        if old.is_some_and(|old| old != operation.counter) && found.is_none() {
            found = Some(operation.clone());
        }
    }
    // A config without a command says that there was none so far: the first one is news.
    if desired
        .zedagent
        .values()
        .any(|z| z.config_source != ConfigSource::None)
    {
        counters.reboot.get_or_insert(0);
        counters.shutdown.get_or_insert(0);
        counters.power_off.get_or_insert(0);
    }
    found
}

fn reboot_record(turn: &Turn<'_, Nodeagent>, operation: &DeviceOperation) -> Option<RebootRecord> {
    let reason = match operation.kind {
        DeviceOperationKind::Reboot => BootReason::RebootCmd,
        DeviceOperationKind::PowerOff => BootReason::PoweroffCmd,
        DeviceOperationKind::Shutdown => return None,
    };
    Some(RebootRecord {
        reason,
        text: text(operation),
        at: turn.now,
        image: String::new(),
    })
}

fn text(operation: &DeviceOperation) -> String {
    let what = match operation.kind {
        DeviceOperationKind::Reboot => "reboot",
        DeviceOperationKind::Shutdown => "shutdown",
        DeviceOperationKind::PowerOff => "power-off",
    };
    format!(
        "the controller's {what} command number {}",
        operation.counter
    )
}

fn is_onboarded(desired: &Desired) -> bool {
    desired
        .onboarding
        .as_ref()
        .is_some_and(|t| t.values().any(|o| o.phase == OnboardPhase::Onboarded))
}

/// Unknown counts as not halted: then the deadline decides.
fn all_halted(desired: &Desired) -> bool {
    desired.apps.as_ref().is_some_and(|apps| {
        apps.values().all(|app| match app.phase {
            AppPhase::Halted
            | AppPhase::Failed
            | AppPhase::Preparing { .. }
            | AppPhase::AwaitNetwork => true,
            AppPhase::StartDelayed { .. }
            | AppPhase::Booting
            | AppPhase::Running { .. }
            | AppPhase::Halting
            | AppPhase::Restarting
            | AppPhase::Purging
            | AppPhase::Deleting => false,
        })
    })
}
