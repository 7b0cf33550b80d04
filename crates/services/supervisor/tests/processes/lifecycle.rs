//! Starting, failing, hanging, ending.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use model::code::Code;
use model::service::ServicePhase;
use nix::sys::signal::Signal;
use units::{Units, UnitsError};

use crate::device::{
    BEATING, Device, beating, block, block_as, lives, name, service, shell, signal, until,
};

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_crash_is_restarted_with_growing_pauses_and_leaves_evidence() {
    let device = Device::start(&[service("nim", "date +%s%N; echo last words; exit 3")]);
    until("four restarts", || {
        device
            .status("nim")
            .is_some_and(|status| status.restarts >= 4)
    });
    until("its fault shows", || {
        device.status("nim").unwrap().fault.is_some_and(|fault| {
            fault.code == Code::UnitCrashed && fault.attempts >= 4 && fault.next.is_some()
        })
    });
    let log = device.log("nim");
    let starts: Vec<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 0.2 s, 0.4 s, 0.8 s, 25 % up or down; a busy machine makes them longer, never shorter.
    let least = [150_000_000, 300_000_000, 600_000_000];
    assert!(
        pauses
            .iter()
            .zip(least)
            .all(|(pause, least)| *pause >= least),
        "{pauses:?}"
    );
    let evidence = device.evidence("nim");
    let case = evidence.first().unwrap();
    let output = fs::read_to_string(case.join("output.log")).unwrap();
    assert!(output.contains("last words"));
    let reason = fs::read_to_string(case.join("reason.json")).unwrap();
    assert!(reason.contains("exited with code 3"), "{reason}");
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_hang_past_the_heartbeat_leaves_evidence_and_is_restarted() {
    let device = Device::start(&[beating("nim")]);
    let pid = device.running("nim");
    assert_eq!(device.status("nim").unwrap().status_text, "beating");
    until("it has said something", || !device.log("nim").is_empty());
    signal(pid, Signal::SIGSTOP);
    until("it is replaced", || {
        let status = device.status("nim").unwrap();
        status.restarts == 1 && matches!(status.phase, ServicePhase::Running { .. })
    });
    assert_ne!(device.running("nim"), pid);
    assert!(!lives(pid));
    let last_exit = device.status("nim").unwrap().last_exit;
    assert!(last_exit.contains("no heartbeat"), "{last_exit}");
    let evidence = device.evidence("nim");
    let case = evidence.first().unwrap();
    let status = fs::read_to_string(case.join("status")).unwrap();
    assert!(status.contains("T (stopped)"), "{status}");
    let threads = fs::read_to_string(case.join("threads")).unwrap();
    assert!(threads.contains("perl"), "{threads}");
    assert!(case.join("stack").exists() && case.join("wchan").exists());
    let output = fs::read_to_string(case.join("output.log")).unwrap();
    assert!(output.ends_with("beat\n"));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_service_may_ask_to_be_treated_as_hung() {
    let script = BEATING.replace(
        "while (1) {",
        "if (!-e \"$ENV{MARK}\") { open(my $f, '>', $ENV{MARK}); note('WATCHDOG=trigger'); }\nwhile (1) {",
    );
    let mut spec = beating("nim");
    spec.argv[2] = script;
    let mark = tempfile::tempdir().unwrap();
    let file = mark.path().join("mark");
    std::os::unix::fs::chown(mark.path(), Some(spec.sandbox.uid), None).unwrap();
    spec.env
        .insert("MARK".into(), file.to_str().unwrap().into());
    let device = Device::start(&[spec]);
    until("it is replaced", || {
        device
            .status("nim")
            .is_some_and(|status| status.restarts == 1)
    });
    device.running("nim");
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn services_start_in_order_and_end_in_reverse_after_transient_units() {
    let order = tempfile::NamedTempFile::new().unwrap();
    let file = order.path().to_str().unwrap();
    fs::set_permissions(
        order.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let script = |name: &str| {
        format!(
            "echo start {name} >> {file}; trap 'sleep 0.2; echo end {name} >> {file}; exit 0' TERM; \
             while :; do sleep 0.05; done"
        )
    };
    // Ready, and so letting the next one start, only after it wrote its line.
    let service = |name: &str| {
        let write = |what: &str| {
            format!("open(my $f, '>>', '{file}'); print $f '{what} {name}', \"\\n\"; close $f;")
        };
        let mut spec = beating(name);
        spec.argv[2] = format!("{} {}", write("start"), BEATING).replace(
            "sub { exit 0 }",
            &format!(
                "sub {{ select(undef, undef, undef, 0.2); {} exit 0 }}",
                write("end")
            ),
        );
        spec
    };
    let mut device = Device::start_in_order(&[
        (service("zedmanager"), vec!["zedrouter"]),
        (service("zedrouter"), vec!["nim"]),
        (service("nim"), vec![]),
    ]);
    device.running("zedmanager");
    let dns = shell("zedrouter/dns", &script("dns"));
    let mut guest = shell("domainmgr/guest", &script("guest"));
    guest.outlives_supervisor = true;
    let root = device.root();
    block(async {
        let client = units::Client::connect(&root).unwrap();
        client.start(dns).await.unwrap();
        client.start(guest).await.unwrap();
    });
    let guest = device.running("domainmgr/guest");
    until("all are up", || {
        fs::read_to_string(file).unwrap().lines().count() == 5
    });
    assert_eq!(device.terminate().code(), Some(0));
    let lines = fs::read_to_string(file).unwrap();
    let words: Vec<_> = lines.lines().collect();
    assert_eq!(
        words[..3],
        ["start nim", "start zedrouter", "start zedmanager"]
    );
    assert_eq!(
        words[5..],
        ["end dns", "end zedmanager", "end zedrouter", "end nim"],
        "{words:?}"
    );
    assert!(lives(guest), "it outlives the supervisor");
    assert!(device.processes("zedrouter/dns").is_empty());
    let watchdog = fs::read_to_string(root.join("run/supervisor/watchdog")).unwrap();
    assert_eq!(watchdog, "disarmed\n");

    // The next supervisor finds the guest, and ends it when the machine goes down.
    device.boot();
    assert_eq!(device.running("domainmgr/guest"), guest);
    device.running("zedmanager");
    let refused = block_as("zedagent", || async {
        units::Client::connect(&root)
            .unwrap()
            .reboot("no", false)
            .await
    });
    assert!(
        matches!(refused, Err(UnitsError::Refused { .. })),
        "{refused:?}"
    );
    block_as("nodeagent", || async {
        units::Client::connect(&root)
            .unwrap()
            .reboot("test", false)
            .await
    })
    .unwrap();
    assert_eq!(device.ended().code(), Some(10));
    assert!(!lives(guest));
    assert!(!device.has_cgroups(), "nothing is left");
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn what_a_unit_leaves_running_is_killed_with_it() {
    let device = Device::start(&[service(
        "nim",
        "setsid sleep 3600 & echo child $!; sleep 0.5; exit 1",
    )]);
    let child = || {
        let log = device.log("nim");
        let line = log.lines().find(|line| line.starts_with("child "))?;
        line.split(' ').nth(1)?.parse::<u32>().ok()
    };
    until("the child runs", || child().is_some());
    let child = child().unwrap();
    until("the first process has ended", || {
        device
            .status("nim")
            .is_some_and(|status| status.restarts > 0)
    });
    assert!(!lives(child));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_process_that_ignores_sigterm_is_killed_after_its_timeout() {
    let mut spec = shell(
        "zedrouter/deaf",
        "trap '' TERM; echo deaf; while :; do sleep 0.05; done",
    );
    spec.stop.timeout = std::time::Duration::from_millis(300);
    let mut device = Device::start(&[]);
    let root = device.root();
    let pid = block(async {
        let client = units::Client::connect(&root).unwrap();
        let unit = name("zedrouter/deaf");
        let state = client.start(spec).await.unwrap();
        until("it is deaf", || !device.log("zedrouter/deaf").is_empty());
        client.stop(&unit).await.unwrap();
        let end = client.wait(&unit).await.unwrap();
        assert_eq!(end.last_exit.unwrap().kind, units::ExitKind::Signal(9));
        state.phase.pid().unwrap()
    });
    assert!(!lives(pid));
    assert_eq!(device.terminate().code(), Some(0));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn bad_input_harms_nobody() {
    let mut device = Device::start(&[beating("nim")]);
    let pid = device.running("nim");
    let run = device.root().join("run/supervisor");
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 5000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\njunk",
    ] {
        let mut stream = UnixStream::connect(run.join("supervisor.sock")).unwrap();
        let _ = stream.write_all(bytes);
    }
    let notify = UnixDatagram::unbound().unwrap();
    for bytes in [
        &b""[..],
        &[0xfe; 4000],
        b"READY",
        b"STATUS=\xff\xfe\n\n\n=",
        b"MAINPID=1",
    ] {
        notify.send_to(bytes, run.join("notify/nim")).unwrap();
    }
    let second = Command::new(env!("CARGO_BIN_EXE_supervisor"))
        .args(["--root".as_ref(), device.root().as_os_str()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another supervisor runs"), "{words}");
    fs::write(run.join("units/zedrouter+x.json"), "{\"boot\":").unwrap();
    fs::write(run.join("units/..json"), "\0").unwrap();
    device.kill_supervisor();
    device.boot();
    assert_eq!(device.running("nim"), pid);
    assert!(!run.join("units/zedrouter+x.json").exists());
    assert!(device.is_running());
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn units_hear_their_stop_signal_whatever_was_blocked_around_the_supervisor() {
    use nix::sys::signal::SigSet;
    // Of this thread alone, which all that it starts inherits.
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block().unwrap();
    let mut device = Device::start(&[service("nim", "exec sleep 3600"), beating("zedrouter")]);
    let masked = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("SigBlk:"));
        u64::from_str_radix(line.unwrap().split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    for pid in [
        device.running("nim"),
        device.running("zedrouter"),
        device.supervisor_pid(),
    ] {
        assert_eq!(masked(pid), 0, "process {pid}");
    }
    let began = std::time::Instant::now();
    assert!(device.terminate().success());
    // Ten seconds pass before a unit that does not listen is killed.
    assert!(began.elapsed() < std::time::Duration::from_secs(8));
}
