//! Units that services ask for.

use std::fs;
use std::time::Duration;

use units::{Client, ExitKind, Output, Phase, RestartPolicy, UnitSpec, Units, UnitsError, ids};

use crate::device::{Device, block, block_as, lives, name, ruled, service, shell, uid, until};

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_service_runs_its_units_from_start_to_end() {
    let device = Device::start(&[service("nim", "exec sleep 3600")]);
    let root = device.root();
    let unit = name("zedrouter/dns");
    let spec = ruled("zedrouter/dns", "echo up; exec sleep 3600");
    let pid = block_as("zedrouter", || async {
        let client = Client::connect(&root).unwrap();
        let mut watch = client.watch("zedrouter/");
        let first = client.start(spec.clone()).await.unwrap();
        let again = client.start(spec.clone()).await.unwrap();
        assert_eq!(first.phase, again.phase);
        let other = client.start(spec.clone().args(["x"])).await;
        assert!(matches!(other, Err(UnitsError::Exists { .. })), "{other:?}");
        watch
            .wait_for(|table| {
                table
                    .as_ref()
                    .is_some_and(|table| table.contains_key(&unit))
            })
            .await
            .unwrap();

        let before = first.phase.pid().unwrap();
        until("it is up", || device.log("zedrouter/dns") == "up\n");
        client.restart(&unit).await.unwrap();
        watch
            .wait_for(|table| {
                table.as_ref().is_some_and(|table| {
                    matches!(table[&unit].phase, Phase::Running { pid, .. } if pid != before)
                })
            })
            .await
            .unwrap();
        assert_eq!(client.get(&unit).await.unwrap().unwrap().restarts, 1);

        let busy = client.forget(&unit).await;
        assert!(matches!(busy, Err(UnitsError::Failed { .. })), "{busy:?}");
        let pid = client
            .get(&unit)
            .await
            .unwrap()
            .unwrap()
            .phase
            .pid()
            .unwrap();
        until("both were up", || device.log("zedrouter/dns") == "up\nup\n");
        client.stop(&unit).await.unwrap();
        let end = client.wait(&unit).await.unwrap();
        assert_eq!(end.last_exit.unwrap().kind, ExitKind::Signal(15));
        client.stop(&unit).await.unwrap();
        assert!(client.list("nim").await.unwrap().contains_key(&name("nim")));
        client.forget(&unit).await.unwrap();
        client.forget(&unit).await.unwrap();
        assert_eq!(client.get(&unit).await.unwrap(), None);
        watch
            .wait_for(|table| table.as_ref().is_some_and(|table| table.is_empty()))
            .await
            .unwrap();
        pid
    });
    assert!(!lives(pid));
    until("the bus forgets it", || {
        device.status("zedrouter/dns").is_none()
    });
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn the_kernel_says_who_asks_and_the_table_what_they_may() {
    let device = Device::start(&[service("nim", "exec sleep 3600")]);
    let root = device.root();
    let client = || Client::connect(&root).unwrap();
    let dns = name("zedrouter/dns");
    block_as("zedrouter", || async {
        client()
            .start(ruled("zedrouter/dns", "exec sleep 3600"))
            .await
    })
    .unwrap();
    let refused = |result: Result<units::UnitState, UnitsError>| {
        assert!(
            matches!(result, Err(UnitsError::Refused { .. })),
            "{result:?}"
        );
    };
    for other in ["domainmgr", "nim", "nodeagent"] {
        refused(block_as(other, || async { client().stop(&dns).await }));
        refused(block_as(other, || async {
            client().start(ruled("zedrouter/y", "exit")).await
        }));
        let seen = block_as(other, || async { client().get(&dns).await }).unwrap();
        assert!(seen.is_some(), "everybody may look");
    }
    refused(block_as("zedrouter", || async {
        client().stop(&name("nim")).await
    }));
    refused(block_as("zedrouter", || async {
        client()
            .start(UnitSpec::new(name("zedrouter/root"), "/bin/sh", 0))
            .await
    }));
    refused(block_as("nim", || async {
        client().start(ruled("nim/x", "exit")).await
    }));
    let mut guest = ruled("domainmgr/g", "exit");
    guest.sandbox.uid = ids::GUEST_UID_FIRST;
    guest.sandbox.gid = ids::GUESTS_GID;
    block_as("domainmgr", || async { client().start(guest).await }).unwrap();
    // Root, the operator, may.
    block(async { client().stop(&dns).await }).unwrap();
    block(async { client().stop(&name("nim")).await }).unwrap();
    block(async { client().wait(&name("nim")).await }).unwrap();
    block(async { client().restart(&name("nim")).await }).unwrap();
    device.running("nim");
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn policies_say_what_an_exit_means_and_failures_say_why() {
    let device = Device::start(&[]);
    let root = device.root();
    let start = |spec: UnitSpec| {
        let root = root.clone();
        block(async move { Client::connect(&root).unwrap().start(spec).await.unwrap() })
    };
    let wait = |unit: &str| {
        let state = block(async { Client::connect(&root).unwrap().wait(&name(unit)).await });
        state.unwrap().last_exit.unwrap().kind
    };
    start(shell("zedrouter/done", "exit 0"));
    assert_eq!(wait("zedrouter/done"), ExitKind::Code(0));
    start(shell("zedrouter/bad", "exit 7"));
    assert_eq!(wait("zedrouter/bad"), ExitKind::Code(7));

    let marker = device.scratch().join("once");
    let script = format!("test -e {0} && exit 0; touch {0}; exit 1", marker.display());
    let mut spec = shell("zedrouter/second", &script);
    spec.restart = RestartPolicy::OnFailure;
    start(spec);
    assert_eq!(wait("zedrouter/second"), ExitKind::Code(0));
    assert_eq!(device.status("zedrouter/second").unwrap().restarts, 1);

    let missing = UnitSpec::new(name("zedrouter/none"), "/no/such/program", uid("zedrouter"));
    start(missing);
    let ExitKind::NotStarted(why) = wait("zedrouter/none") else {
        panic!("not started");
    };
    assert!(
        why.contains("/no/such/program") && why.contains("No such file"),
        "{why}"
    );
    let mut lost = shell("zedrouter/lost", "exit 0");
    lost.cwd = "/no/such/dir".into();
    start(lost);
    assert!(
        matches!(wait("zedrouter/lost"), ExitKind::NotStarted(why) if why.contains("/no/such/dir"))
    );
    let fault = device.status("zedrouter/lost").unwrap().fault.unwrap();
    assert_eq!(fault.code, model::code::Code::UnitStart);
    // An ended unit is replaced by the next start.
    start(shell("zedrouter/bad", "exit 0"));
    assert_eq!(wait("zedrouter/bad"), ExitKind::Code(0));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn output_goes_where_it_is_asked_to_with_the_units_own_rights() {
    let device = Device::start(&[]);
    let root = device.root();
    let scratch = device.scratch();
    let run = |spec: UnitSpec| {
        let unit = spec.name.clone();
        block(async {
            let client = Client::connect(&root).unwrap();
            client.start(spec).await.unwrap();
            client.wait(&unit).await.unwrap().last_exit.unwrap().kind
        })
    };
    let mut spec = shell("zedrouter/out", "echo one; echo two >&2");
    spec.output = Output::File(scratch.join("console"));
    assert_eq!(run(spec.clone()), ExitKind::Code(0));
    assert_eq!(run(spec.clone()), ExitKind::Code(0));
    let text = fs::read_to_string(scratch.join("console")).unwrap();
    assert_eq!(text, "one\ntwo\none\ntwo\n");
    let owner = fs::metadata(scratch.join("console")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&owner),
        uid("zedrouter")
    );
    // Root's file is not the unit's to write to.
    let secret = scratch.join("roots");
    fs::write(&secret, "").unwrap();
    spec.output = Output::File(secret.clone());
    assert!(matches!(run(spec.clone()), ExitKind::NotStarted(_)));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "");
    spec.output = Output::Discard;
    assert_eq!(run(spec), ExitKind::Code(0));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_watch_outlives_the_supervisor_and_keeps_its_last_table_meanwhile() {
    let mut device = Device::start(&[]);
    let root = device.root();
    let unit = name("zedrouter/dns");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (client, mut watch) = runtime.block_on(async {
        let client = Client::connect(&root).unwrap();
        client
            .start(shell("zedrouter/dns", "exec sleep 3600"))
            .await
            .unwrap();
        let mut watch = client.watch("");
        watch.wait_for(Option::is_some).await.unwrap();
        (client, watch)
    });
    device.kill_supervisor();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        watch
            .borrow_and_update()
            .as_ref()
            .unwrap()
            .contains_key(&unit)
    );
    let away = runtime.block_on(client.get(&unit));
    assert!(away.unwrap_err().is_transient());
    device.boot();
    runtime.block_on(async {
        client.stop(&unit).await.unwrap();
        let seen = tokio::time::timeout(
            Duration::from_secs(20),
            watch.wait_for(|table| {
                table
                    .as_ref()
                    .is_some_and(|table| table[&unit].phase.is_ended())
            }),
        );
        seen.await.expect("in time").unwrap();
    });
}
