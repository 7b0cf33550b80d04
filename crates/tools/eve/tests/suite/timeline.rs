//! `eve timeline` on logs.

use eve::timeline::{Event, What, build, timeline_text};
use jiff::{SignedDuration, Timestamp};
use model::service::ServicePhase;

use crate::device::*;

/// After the boot.
fn after(millis: i64) -> Timestamp {
    before(3700) + SignedDuration::from_millis(millis)
}

fn event(millis: i64, unit: &str, what: What) -> Event {
    Event {
        at: after(millis),
        unit: unit.to_owned(),
        what,
    }
}

fn phase(millis: i64, unit: &str, topic: &str, key: &str, to: &str) -> Event {
    let what = What::Phase {
        topic: topic.to_owned(),
        key: key.to_owned(),
        to: to.to_owned(),
    };
    event(millis, unit, what)
}

fn events() -> Vec<Event> {
    let refused = What::Fault {
        topic: "OnboardingStatus".to_owned(),
        key: "global".to_owned(),
        text: "[controller.refused] onboarding: code 403: not claimed yet, ask again later"
            .to_owned(),
    };
    let lease = What::Lease {
        if_name: "eth0".to_owned(),
        address: "10.0.0.7/24".to_owned(),
    };
    vec![
        // Of the boot before.
        event(-90_000, "nim", What::Started),
        phase(-80_000, "zedmanager", "AppInstanceStatus", APP, "Running"),
        event(-20, "nim", What::Started),
        event(30, "zedagent", What::Started),
        event(60, "zedrouter", What::Started),
        event(
            90,
            "zedrouter",
            What::Waiting("zedagent/NetworkInstanceConfig, zedmanager/AppNetworkConfig".to_owned()),
        ),
        phase(100, "zedagent", "OnboardingStatus", "global", "Register"),
        event(150, "nim", lease),
        event(200, "zedagent", refused),
        phase(1200, "zedagent", "OnboardingStatus", "global", "Onboarded"),
        phase(1300, "zedmanager", "AppInstanceStatus", APP, "Preparing"),
        phase(
            1350,
            "zedrouter",
            "NetworkInstanceStatus",
            NETWORK,
            "Creating",
        ),
        phase(1500, "zedrouter", "NetworkInstanceStatus", NETWORK, "Up"),
        phase(2000, "zedmanager", "AppInstanceStatus", APP, "Running"),
        // After a crash, when all was ready.
        event(900_000, "zedrouter", What::Started),
        phase(
            950_000,
            "zedmanager",
            "AppInstanceStatus",
            APP,
            "Restarting",
        ),
    ]
}

fn device() -> eve::Device {
    with(|d| {
        d.services.rows.retain(|name, _| {
            ["nim", "zedagent", "zedrouter", "zedrouter/dns-bn1"].contains(&name.as_str())
        });
        let phase = ServicePhase::Running {
            pid: 9,
            since: after(1400),
        };
        d.services.rows.get_mut("zedrouter/dns-bn1").unwrap().phase = phase;
        d.services.rows.get_mut("zedrouter").unwrap().restarts = 1;
        d.network.ready_at = Some(after(140));
        d.leases.known = false;
        d.port_config_list.known = false;
        d.zedagent.ready_at = Some(after(1250));
        d.network_instances.ready_at = Some(after(900_100));
    })
}

#[test]
fn from_boot_to_ready() {
    let whole = build(&device(), &events());
    let mut waits = device();
    waits.onboarding.rows.clear();
    let stuck: Vec<Event> = events()
        .into_iter()
        .filter(|e| e.at < after(1200))
        .collect();
    let cases = [
        ("ready", timeline_text(PLAIN, &whole, false)),
        ("and after it", timeline_text(PLAIN, &whole, true)),
        (
            "not onboarded",
            timeline_text(PLAIN, &build(&waits, &stuck), false),
        ),
        (
            "nothing is known",
            timeline_text(PLAIN, &build(&bare(), &[]), false),
        ),
    ];
    golden("timeline", &cases);
    let json = serde_json::to_value(&whole).unwrap();
    assert_eq!(
        serde_json::from_value::<eve::timeline::Timeline>(json).unwrap(),
        whole
    );
}
