//! In maintenance mode nothing new begins, and nothing that was begun ends.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod neighbours;

use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, AppPhase},
    code::Code,
    fault::Fault,
    node::{
        MaintenanceReason::{self, LowDiskSpace, TpmQuoteFailure, UserRequested},
        NodeAgentStatus,
    },
    topics::{APP_COMMAND_COUNTERS, APP_INSTANCE_STATUS, DOMAIN_CONFIG, VOLUME_REF_CONFIG},
};

use neighbours::{Device, app, key, runtime};

async fn maintain(d: &mut Device, reasons: &[MaintenanceReason]) {
    let status = NodeAgentStatus {
        maintenance: reasons.to_vec(),
        ..NodeAgentStatus::default()
    };
    d.node.publish("nodeagent", &status).unwrap();
    d.node.set_ready().unwrap();
    d.settle().await;
}

fn runs(d: &Device, n: u128) -> bool {
    matches!(d.phase(&key(n)), Some(AppPhase::Running { .. }))
}

/// What is said of an application that waits.
fn deferred(d: &Device, n: u128) -> Option<String> {
    let rows = d.rows(&APP_INSTANCE_STATUS);
    let fault = rows[&key(n)].fault.clone();
    fault
        .filter(|f| f.code == Code::AppDeferred)
        .map(|f| f.text)
}

#[tokio::test(start_paused = true)]
async fn what_runs_goes_on_and_what_is_new_waits_until_it_ends() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    maintain(&mut d, &[UserRequested, TpmQuoteFailure]).await;
    d.want(&[app(1), app(2)]);
    d.settle().await;
    assert!(runs(&d, 1) && !runs(&d, 2));
    assert_eq!(deferred(&d, 1), None);
    let text = deferred(&d, 2).unwrap();
    assert!(
        text.contains("asked for") && text.contains("does not attest"),
        "{text}"
    );
    // The config names its volumes on their own, so they are made; it holds on to them, whatever the next config says.
    let held = |d: &Device| {
        let refs = d.rows(&VOLUME_REF_CONFIG);
        refs.values().filter(|r| r.app == app(2).id).count()
    };
    assert_eq!(held(&d), 1);
    let broken = AppInstanceConfig {
        fault: Some(Fault::new(
            Code::ConfigReference,
            "app",
            "no volume",
            Timestamp::UNIX_EPOCH,
        )),
        volumes: Vec::new(),
        ..app(2)
    };
    d.want(&[app(1), broken]);
    d.settle().await;
    assert_eq!(held(&d), 1);
    d.want(&[app(1), app(2)]);
    d.settle().await;

    // What is known may be restarted and purged.
    let told = AppInstanceConfig {
        restart_counter: 1,
        purge_counter: 1,
        ..app(1)
    };
    d.want(&[told.clone(), app(2)]);
    d.settle().await;
    assert!(runs(&d, 1));
    assert_eq!(d.running[&key(1)].incarnation, (1 << 32) | 1);

    // Stopped and started again, also over a restart of zedmanager and a reboot.
    let stopped = AppInstanceConfig {
        activate: false,
        ..told.clone()
    };
    d.want(&[stopped, app(2)]);
    d.settle().await;
    assert!(!runs(&d, 1));
    d.zedmanager = runtime(&d.bus);
    d.want(&[told.clone(), app(2)]);
    d.settle().await;
    assert!(runs(&d, 1) && !runs(&d, 2));

    maintain(&mut d, &[]).await;
    assert!(runs(&d, 1) && runs(&d, 2));
    assert_eq!(deferred(&d, 2), None);
    // Once it ran, it is new no more.
    maintain(&mut d, &[UserRequested]).await;
    assert!(runs(&d, 1) && runs(&d, 2));
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_keeps_its_volumes_and_does_not_start() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.turn().await;
    d.step_volumes();
    d.turn().await;
    let begun = d.rows(&VOLUME_REF_CONFIG);
    assert_eq!(begun.len(), 1);
    maintain(&mut d, &[UserRequested]).await;
    assert_eq!(d.rows(&VOLUME_REF_CONFIG), begun);
    let domains = d.rows(&DOMAIN_CONFIG);
    assert!(domains.values().all(|d| !d.activate), "{domains:?}");
    assert!(deferred(&d, 1).is_some());
    assert!(!d.rows(&APP_COMMAND_COUNTERS)[&key(1)].started);
    // A purge of what never ran is nothing to begin with.
    d.want(&[AppInstanceConfig {
        purge_counter: 1,
        ..app(1)
    }]);
    d.settle().await;
    assert_eq!(d.rows(&VOLUME_REF_CONFIG), begun);
    maintain(&mut d, &[]).await;
    assert!(runs(&d, 1));
    assert!(d.rows(&APP_COMMAND_COUNTERS)[&key(1)].started);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_volumemgrs_to_tell_of() {
    let mut d = Device::new();
    maintain(&mut d, &[LowDiskSpace]).await;
    d.want(&[app(1)]);
    d.settle().await;
    assert!(runs(&d, 1), "it found room");
    maintain(&mut d, &[LowDiskSpace, UserRequested]).await;
    d.want(&[app(1), app(2)]);
    d.settle().await;
    assert!(deferred(&d, 2).unwrap().contains("disk is full"));
}

#[tokio::test(start_paused = true)]
async fn an_application_of_an_older_version_is_known() {
    let old = r#"{"Restart":0,"Purge":0}"#;
    let counters: model::app::AppCommandCounters = serde_json::from_str(old).unwrap();
    assert!(counters.started);
    let mut d = Device::new();
    let counters_of = d
        .bus
        .acting_as("zedmanager")
        .publisher(&APP_COMMAND_COUNTERS);
    let mut counters_of = counters_of.unwrap();
    counters_of.publish(&key(1), &counters).unwrap();
    drop(counters_of);
    maintain(&mut d, &[UserRequested]).await;
    d.want(&[app(1), app(2)]);
    d.settle().await;
    assert!(runs(&d, 1) && !runs(&d, 2));
}
