//! The supervisor's own death.

use std::time::Duration;

use nix::sys::signal::Signal;
use units::{ExitKind, Phase, Units};

use crate::device::{Device, beating, block, lives, name, service, shell, signal, until};

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn after_kill_9_the_same_processes_go_on_and_are_watched_as_before() {
    let mut device = Device::start(&[beating("nim"), service("zedagent", "exec sleep 3600")]);
    let (nim, zedagent) = (device.running("nim"), device.running("zedagent"));
    let root = device.root();
    let spec = shell("zedrouter/dns", "exec sleep 3600").label("bridge", "bn1");
    let dns = block(async {
        let client = units::Client::connect(&root).unwrap();
        client
            .start(spec.clone())
            .await
            .unwrap()
            .phase
            .pid()
            .unwrap()
    });
    device.kill_supervisor();
    std::thread::sleep(Duration::from_millis(300));
    let before = device.log("nim").len();
    device.boot();
    assert_eq!(device.running("nim"), nim);
    assert_eq!(device.running("zedagent"), zedagent);
    assert_eq!(device.running("zedrouter/dns"), dns);
    until("its output goes on", || device.log("nim").len() > before);
    assert_eq!(device.status("nim").unwrap().restarts, 0);

    // The owner asks again, as after any interruption: it is told of the one that runs.
    let state = block(async {
        let client = units::Client::connect(&root).unwrap();
        client.start(spec).await.unwrap()
    });
    assert_eq!(state.phase.pid(), Some(dns));
    assert_eq!(state.labels["bridge"], "bn1");

    // The end of an adopted process is seen, and that its status is unknown is said.
    signal(dns, Signal::SIGKILL);
    let end = block(async {
        let client = units::Client::connect(&root).unwrap();
        client.wait(&name("zedrouter/dns")).await.unwrap()
    });
    assert_eq!(end.last_exit.unwrap().kind, ExitKind::Unknown);
    signal(zedagent, Signal::SIGKILL);
    until("the service is started again", || {
        device
            .status("zedagent")
            .is_some_and(|status| status.restarts == 1)
    });

    // The heartbeat still counts.
    until("a full deadline passes", || {
        device.log("nim").len() > before + 2500 / 100 * 5
    });
    assert_eq!(device.running("nim"), nim);
    signal(nim, Signal::SIGSTOP);
    until("the hang is found", || {
        device
            .status("nim")
            .is_some_and(|status| status.restarts == 1)
    });
    assert!(!lives(nim));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn processes_that_end_while_no_supervisor_runs_are_started_again() {
    let mut device = Device::start(&[service("nim", "exec sleep 3600")]);
    let pid = device.running("nim");
    device.kill_supervisor();
    signal(pid, Signal::SIGKILL);
    until("it is gone", || !lives(pid));
    device.boot();
    until("it is replaced", || {
        device
            .status("nim")
            .is_some_and(|status| status.restarts == 1)
    });
    assert_ne!(device.running("nim"), pid);
    let evidence = device.evidence("nim");
    let reason = std::fs::read_to_string(evidence.first().unwrap().join("reason.json")).unwrap();
    assert!(reason.contains("how is not known"), "{reason}");
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
#[cfg_attr(not(has_memory_cgroup), ignore = "no writable memory controller")]
fn the_memory_limit_of_an_adopted_process_is_named_too() {
    let mut hungry = service(
        "nim",
        "while [ ! -e $0/eat ]; do sleep 0.1; done; exec tail /dev/zero",
    );
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(hungry.sandbox.uid), None).unwrap();
    hungry.argv.push(scratch.path().to_str().unwrap().into());
    if let Some(paths) = &mut hungry.sandbox.paths {
        paths.read.push(scratch.path().to_owned());
    }
    hungry.limits.memory_bytes = Some(48 << 20);
    let mut device = Device::start(&[hungry]);
    let pid = device.running("nim");
    device.kill_supervisor();
    device.boot();
    assert_eq!(device.running("nim"), pid);
    std::fs::write(scratch.path().join("eat"), "").unwrap();
    until("it is killed", || {
        device
            .status("nim")
            .is_some_and(|status| status.last_exit.contains("memory limit"))
    });
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn kill_9_at_any_moment_never_makes_a_second_process_of_a_unit() {
    let mut device = Device::start(&[service("nim", "exec sleep 3601"), beating("zedagent")]);
    let root = device.root();
    // Some that are there for sure, on however busy a machine.
    block(async {
        let client = units::Client::connect(&root).unwrap();
        let spec = shell("zedrouter/first", "exec sleep 3602");
        client.start(spec).await.unwrap();
    });
    for round in 0..25u64 {
        // While units are being started, which is when a process could get lost.
        let asking = {
            let root = root.clone();
            std::thread::spawn(move || {
                block(async {
                    let client = units::Client::connect(&root).unwrap();
                    for unit in 0..3 {
                        let spec = shell(&format!("zedrouter/r{round}-{unit}"), "exec sleep 3602");
                        // Whether it gets there before the kill is chance.
                        let _ =
                            tokio::time::timeout(Duration::from_secs(2), client.start(spec)).await;
                    }
                });
            })
        };
        std::thread::sleep(Duration::from_millis(round * 2));
        device.kill_supervisor();
        device.boot();
        asking.join().unwrap();
    }
    device.running("nim");
    device.running("zedagent");
    let table = block(async {
        let client = units::Client::connect(&root).unwrap();
        client.list("").await.unwrap()
    });
    assert!(table.len() > 2, "the first is still there");
    for (unit, state) in &table {
        let processes = device.processes(unit.as_str());
        match &state.phase {
            Phase::Running { pid, .. } => assert_eq!(processes, [*pid], "{unit}"),
            Phase::Ended { .. } => assert!(processes.is_empty(), "{unit}"),
            other => panic!("{unit}: {other:?}"),
        }
    }
}
