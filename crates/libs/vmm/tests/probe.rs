//! The accelerator probe with real children.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use vmm::Accel;
use vmm::probe::{Child, Facts, Force, LIMIT, Outcome, TURNS, TcgReason, probe};

/// Set in the child, which is this test program running `the_child` alone.
const CHILD: &str = "VMM_TEST_IS_THE_CHILD";

fn this_test_as_child() -> Child {
    let arguments = ["the_child", "--exact", "--nocapture", "--include-ignored"];
    let env = Path::new("/usr/bin/env");
    let mut words: Vec<OsString> = vec![format!("{CHILD}=1").into()];
    words.push(std::env::current_exe().unwrap().into());
    words.extend(arguments.map(OsString::from));
    Child::program(env, words)
}

fn shell(script: &str) -> Child {
    Child::program("/bin/sh", vec!["-c".into(), script.into()])
}

#[test]
#[ignore = "the child of the other tests"]
fn the_child() {
    if std::env::var_os(CHILD).is_some() {
        let _ = vmm::probe::run_loop();
    }
}

/// On a host with hardware virtualization the loop is in time; elsewhere it must not be, and
/// nothing is left behind or waited for.
#[tokio::test]
async fn the_loop_tells_hardware_from_pretence() {
    let started = Instant::now();
    let outcome = this_test_as_child().run(TURNS, LIMIT).await;
    println!("{TURNS} turns: {outcome:?} after {:?}", started.elapsed());
    let facts = Facts::read(Path::new("/"));
    if !(facts.cpu_flag && facts.module) {
        assert_ne!(outcome, Outcome::InTime);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// The short loop that would be believed: recorded to show why the long one is needed.
#[tokio::test]
async fn a_short_loop_is_run_if_there_is_any_kvm() {
    let outcome = this_test_as_child().run(1, Duration::from_secs(3)).await;
    println!("1 turn: {outcome:?}");
    if Path::new("/dev/kvm").exists() {
        assert_ne!(outcome, Outcome::TooSlow);
    } else {
        assert!(matches!(outcome, Outcome::Failed(why) if why.contains("/dev/kvm")));
    }
}

#[tokio::test]
async fn a_child_that_hangs_in_its_loop_is_killed() {
    let started = Instant::now();
    let child = shell("echo kvm-probe: running; exec sleep 1000");
    assert_eq!(
        child.run(1, Duration::from_millis(100)).await,
        Outcome::TooSlow
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_child_that_is_another_program_gives_no_kvm() {
    for (script, says) in [
        ("exit 0", "without a word"),
        ("echo in-time", "without a word"),
        ("echo kvm-probe: running; exit 9", "without a word"),
        ("echo kvm-probe: in-time", "in-time"),
        ("echo 'kvm-probe: failed no luck'", "no luck"),
    ] {
        let outcome = shell(script).run(1, LIMIT).await;
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains(says)),
            "{outcome:?}"
        );
    }
    let nobody = Child::program("/no/such/program", vec![]);
    assert!(matches!(nobody.run(1, LIMIT).await, Outcome::Failed(_)));
}

fn capable_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::create_dir_all(root.path().join("sys/module/kvm_intel")).unwrap();
    std::fs::write(root.path().join("proc/cpuinfo"), "flags\t: fpu vmx\n").unwrap();
    root
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn the_whole_probe() {
    let root = capable_root();
    let good = shell("echo kvm-probe: running; echo kvm-probe: in-time");
    assert_eq!(probe(root.path(), Force::Auto, &good).await, Accel::Kvm);

    let marks = root.path().join("marks");
    let script = format!(
        "echo x >> {0}; echo kvm-probe: running; test $(wc -l < {0}) = 2 || exec sleep 1000; \
         echo kvm-probe: in-time",
        marks.display()
    );
    assert_eq!(
        probe(root.path(), Force::Auto, &shell(&script)).await,
        Accel::Kvm
    );

    let slow = shell("echo kvm-probe: running; exec sleep 1000");
    let Accel::Tcg { reason } = probe(root.path(), Force::Auto, &slow).await else {
        panic!("believed");
    };
    assert!(matches!(reason, TcgReason::TooSlow { .. }), "{reason}");

    let nothing = tempfile::tempdir().unwrap();
    let reason = TcgReason::NoCpuFlag;
    let answer = probe(nothing.path(), Force::Auto, &good).await;
    assert_eq!(answer, Accel::Tcg { reason });
}

/// This test program doesn't know the argument, as a service that forgot the hook would not.
#[tokio::test]
async fn a_program_without_the_hook_gives_no_kvm() {
    let outcome = Child::this_program().run(1, LIMIT).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}
