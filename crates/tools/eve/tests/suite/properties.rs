//! Whatever is on the bus, `eve why` answers, and its answer hangs together.

use std::sync::OnceLock;

use eve::{
    Device, Snapshot,
    snapshot::Supervisor,
    why::{self, Asked},
};
use model::{code::Code, content::DownloadPhase};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::device::*;

/// Devices to begin with, as they are on the bus.
fn bases() -> &'static [Snapshot] {
    static BASES: OnceLock<Vec<Snapshot>> = OnceLock::new();
    BASES.get_or_init(|| {
        let waits = DownloadPhase::Waiting { done_bytes: 7 };
        let devices: Vec<Device> = vec![
            healthy(),
            with(|d| set_download(d, waits.clone(), None)),
            with(|d| {
                let fault = fault(Code::DownloadNetwork, "blob", "no way out");
                set_download(d, waits.clone(), Some(fault));
                no_lease(d);
            }),
            with(|d| d.app_configs.rows.clear()),
            with(|d| SERVICES.iter().for_each(|name| down(d, name, 4))),
        ];
        let snapshot = |device: Device| {
            let root = tempfile::tempdir().unwrap();
            write(&device, root.path());
            Snapshot::load(root.path(), now()).unwrap()
        };
        devices.into_iter().map(snapshot).collect()
    })
}

/// Phases of all objects, and what else may stand in a field.
fn values() -> Vec<Value> {
    let at = "2026-01-02T03:03:00Z";
    vec![
        json!("Booting"),
        json!("Halted"),
        json!("Halting"),
        json!("Failed"),
        json!("Restarting"),
        json!("Purging"),
        json!("Deleting"),
        json!("AwaitNetwork"),
        json!("AwaitSpace"),
        json!("Created"),
        json!("Creating"),
        json!("Waiting"),
        json!("Loaded"),
        json!("Ready"),
        json!("Inactive"),
        json!("Up"),
        json!("Stopped"),
        json!("Identity"),
        json!("Register"),
        json!("Saved"),
        json!({"Booting": {"Since": at}}),
        json!({"Halting": {"Deadline": at}}),
        json!({"Running": {"Since": at}}),
        json!({"Running": {"Since": at, "Pid": 1, "Unit": "x"}}),
        json!({"Preparing": {"Volume": {"Volume": STORE, "Generation": u64::MAX}, "Percent": 255}}),
        json!({"StartDelayed": {"Until": "-009999-01-02T01:59:59Z"}}),
        json!({"Backoff": {"Until": "9999-12-30T22:00:00Z"}}),
        json!({"Waiting": {"After": ["nim", "zedagent", ""]}}),
        json!({"Waiting": {"DoneBytes": u64::MAX}}),
        json!({"Downloading": {"DoneBytes": u64::MAX, "TotalBytes": 1}}),
        json!({"Creating": {"Percent": 200}}),
        json!({"Verifying": {"Percent": 1}}),
        json!({"NoUplink": {"Port": "uplink"}}),
        json!({"NoUplink": {"Port": ""}}),
        json!({"AwaitNetworkInstance": {"NetworkInstance": STORE}}),
        Value::Null,
        json!(0),
        json!(u64::MAX),
        json!(false),
        json!(true),
        json!(""),
        json!("é\u{1b}[2J"),
        json!([]),
        json!({}),
        json!({"Code": "download.network", "Object": "", "Text": "", "Since": "9999-12-30T22:00:00Z",
            "Next": "-009999-01-02T01:59:59Z"}),
        json!({"Code": "of.another.version", "Object": "x", "Text": "y", "Since": at}),
    ]
}

/// One thing that is done to a bus; the numbers choose topic, object, field and value.
#[derive(Debug, Clone)]
enum Harm {
    DropTopic(usize),
    NotReady(usize),
    DropRow(usize, usize),
    Unreadable(usize, usize),
    Set(usize, usize, usize, usize),
    Rename(usize, usize, String),
}

fn harm() -> impl Strategy<Value = Harm> {
    let n = || 0_usize..10_000;
    prop_oneof![
        1 => n().prop_map(Harm::DropTopic),
        2 => n().prop_map(Harm::NotReady),
        2 => (n(), n()).prop_map(|(a, b)| Harm::DropRow(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Harm::Unreadable(a, b)),
        6 => (n(), n(), n(), n()).prop_map(|(a, b, c, d)| Harm::Set(a, b, c, d)),
        1 => (n(), n(), any::<String>()).prop_map(|(a, b, key)| Harm::Rename(a, b, key)),
    ]
}

fn nth<K: Ord + Clone, V>(map: &std::collections::BTreeMap<K, V>, n: usize) -> Option<K> {
    map.keys().nth(n.checked_rem(map.len())?).cloned()
}

fn inflict(snapshot: &mut Snapshot, harm: Harm) -> Option<()> {
    let (Harm::DropTopic(n)
    | Harm::NotReady(n)
    | Harm::DropRow(n, _)
    | Harm::Unreadable(n, _)
    | Harm::Set(n, ..)
    | Harm::Rename(n, ..)) = harm;
    let topic = nth(&snapshot.topics, n)?;
    let table = snapshot.topics.get_mut(&topic)?;
    match harm {
        Harm::DropTopic(_) => drop(snapshot.topics.remove(&topic)),
        Harm::NotReady(_) => table.info.ready = false,
        Harm::DropRow(_, row) => {
            let key = nth(&table.rows, row)?;
            table.rows.remove(&key);
        }
        Harm::Unreadable(_, row) => {
            let key = nth(&table.rows, row)?;
            table.rows.remove(&key);
            table.unreadable.push(key.clone());
            table.quarantined.push(key);
        }
        Harm::Set(_, row, field, value) => {
            let key = nth(&table.rows, row)?;
            let object = table.rows.get_mut(&key)?;
            let values = values();
            // The phase is what decides most.
            let field = if field % 2 == 0 && object.get("Phase").is_some() {
                object.get_mut("Phase")?
            } else {
                let fields = object.as_object_mut()?;
                let count = fields.len();
                fields.values_mut().nth(field.checked_rem(count)?)?
            };
            *field = values[value % values.len()].clone();
        }
        Harm::Rename(_, row, key) => {
            let old = nth(&table.rows, row)?;
            let object = table.rows.remove(&old)?;
            table.rows.insert(key, object);
        }
    }
    Some(())
}

const KINDS: [Asked; 9] = [
    Asked::App,
    Asked::Volume,
    Asked::Network,
    Asked::Port,
    Asked::Onboarding,
    Asked::Config,
    Asked::Report,
    Asked::Service,
    Asked::Access,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn why_always_has_an_answer_that_hangs_together(
        base in 0_usize..5,
        harms in prop::collection::vec(harm(), 0..12),
        silent: bool,
        name in any::<String>(),
    ) {
        let mut snapshot = bases()[base].clone();
        snapshot.supervisor = if silent { Supervisor::Silent } else { Supervisor::Unknown };
        for harm in harms {
            inflict(&mut snapshot, harm);
        }
        let device = Device::of(&snapshot);
        let _ = why::why(&device, None, &name);
        for kind in KINDS {
            for name in [APP, VOLUME, NETWORK, "eth0", "onboarding", "config", "device", "nim"] {
                let Ok(answer) = why::why(&device, Some(kind), name) else { continue };
                let text = why::answer_text(PLAIN, &answer, device.at);
                prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            }
        }
        for trouble in why::troubles(&device, None) {
            for answer in trouble.affects {
                let condition = answer.blocked_by.as_ref().unwrap();
                let (first, last) = (answer.chain.first().unwrap(), answer.chain.last().unwrap());
                let id = |subject: &why::Subject| (subject.kind, subject.key.clone());
                prop_assert_eq!(id(&first.subject), id(&answer.asked));
                prop_assert_eq!(id(&last.subject), id(&condition.subject), "{:?}", answer.chain);
                prop_assert!(!condition.text.is_empty() || condition.code.is_some());
            }
        }
    }
}
