//! What a unit can't do, seen from inside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use units::{Capability, Client, ExitKind, Limits, Paths, UnitSpec, Units, ids};

use crate::device::{Device, block, lives, name, service, shell, uid};

fn run(device: &Device, spec: UnitSpec) -> (ExitKind, String) {
    let unit = spec.name.clone();
    let root = device.root();
    let kind = block(async {
        let client = Client::connect(&root).unwrap();
        client.start(spec).await.unwrap();
        client.wait(&unit).await.unwrap().last_exit.unwrap().kind
    });
    (kind, device.log(unit.as_str()))
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.starts_with(name));
    line.unwrap_or_default()
        .split(':')
        .nth(1)
        .unwrap_or_default()
        .trim()
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_unit_is_its_own_user_with_its_own_capabilities_and_no_others() {
    let device = Device::start(&[]);
    let mut spec = shell(
        "zedrouter/caps",
        "cat /proc/self/status; umask; env; id -u > /dev/null",
    )
    .capabilities([Capability::NetAdmin, Capability::NetRaw]);
    spec.sandbox.groups = vec![ids::KEYS_GID];
    spec.env.insert("GREETING".into(), "a b".into());
    let (kind, log) = run(&device, spec);
    assert_eq!(kind, ExitKind::Code(0), "{log}");
    let user = uid("zedrouter").to_string();
    let words: Vec<_> = field(&log, "Uid").split_whitespace().collect();
    assert!(words.iter().all(|word| *word == user), "{words:?}");
    assert!(field(&log, "Gid").starts_with(&ids::EVE_GID.to_string()));
    assert_eq!(field(&log, "Groups"), ids::KEYS_GID.to_string());
    // CAP_NET_ADMIN is 12, CAP_NET_RAW 13.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&log, set), "0000000000003000", "{set}");
    }
    assert_eq!(field(&log, "NoNewPrivs"), "1");
    let ignored = u64::from_str_radix(field(&log, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & (1 << 12), 0, "SIGPIPE has its usual effect");
    assert!(log.contains("\n0027\n"));
    assert!(log.contains("GREETING=a b") && log.contains("PATH=/usr/local/sbin"));
    assert!(
        !log.contains("CARGO"),
        "the supervisor's environment stays its own"
    );

    let (_, none) = run(&device, shell("zedrouter/none", "cat /proc/self/status"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&none, set), "0000000000000000", "{set}");
    }
    let root = UnitSpec::new(name("zedrouter/root"), "/bin/cat", 0).args(["/proc/self/status"]);
    let (_, root) = run(&device, root);
    assert_eq!(
        field(&root, "CapEff"),
        "0000000000000000",
        "not even root's"
    );
}

fn has_landlock() -> bool {
    // Without the system call the test below would show nothing.
    let status = landlock::Ruleset::default();
    landlock::RulesetAttr::handle_access(status, landlock::AccessFs::Execute)
        .and_then(landlock::Ruleset::create)
        .is_ok()
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_unit_reaches_only_the_paths_of_its_rules() {
    assert!(has_landlock(), "this kernel has no Landlock");
    let device = Device::start(&[]);
    let scratch = device.scratch();
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for dir in ["read", "write", "other", "exec"] {
        fs::create_dir(scratch.join(dir)).unwrap();
        open(&scratch.join(dir), 0o777);
        fs::write(scratch.join(dir).join("file"), "#!/bin/sh\necho ran\n").unwrap();
        open(&scratch.join(dir).join("file"), 0o777);
    }
    // File permissions allow everything here; every "no" is Landlock's.
    let script = r#"try() { if (eval "$2") > /dev/null 2>&1; then echo "$1 yes"; else echo "$1 no"; fi; }
try read-read 'cat read/file'; try read-write 'echo x >> read/file'; try read-exec 'read/file'
try write-read 'cat write/file'; try write-write 'echo x > write/new'; try write-delete 'rm write/new'
try write-exec 'write/file'; try other-read 'cat other/file'; try other-list 'ls other'
try other-write 'echo x > other/new'; try exec-exec 'exec/file'; try exec-write 'echo x > exec/new'
try null 'echo x > /dev/null'; try etc 'cat /etc/passwd'; try proc 'cat /proc/self/stat'; try tmp 'ls /tmp'
try write-rename 'echo x > write/a && mv write/a write/b'; try write-mkdir 'mkdir write/d && rmdir write/d'
"#;
    let mut spec = shell("zedrouter/paths", script);
    spec.cwd = scratch.clone();
    spec.sandbox.paths = Some(Paths {
        read: vec![scratch.join("read"), scratch.join("absent")],
        write: vec![scratch.join("write")],
        execute: vec![scratch.join("exec")],
    });
    let (kind, log) = run(&device, spec);
    assert_eq!(kind, ExitKind::Code(0), "{log}");
    let expected = "read-read yes\nread-write no\nread-exec no\nwrite-read yes\nwrite-write yes\n\
        write-delete yes\nwrite-exec no\nother-read no\nother-list no\nother-write no\nexec-exec yes\n\
        exec-write no\nnull yes\netc yes\nproc yes\ntmp no\nwrite-rename yes\nwrite-mkdir yes\n";
    assert_eq!(log, expected);
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_program_below_a_directory_that_its_user_cannot_pass_still_runs() {
    let device = Device::start(&[]);
    let private = device.scratch().join("private");
    fs::create_dir(&private).unwrap();
    fs::copy("/bin/sleep", private.join("nap")).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let program = private.join("nap");
    let mut spec = UnitSpec::new(
        name("zedrouter/nap"),
        program.to_str().unwrap(),
        uid("zedrouter"),
    )
    .args(["0.1"]);
    spec.sandbox.paths = Some(Paths::default());
    let (kind, log) = run(&device, spec);
    assert_eq!(kind, ExitKind::Code(0), "{log}");
}

#[test]
#[cfg_attr(not(has_memory_cgroup), ignore = "no writable memory controller")]
fn the_memory_limit_kills_the_unit_and_only_it() {
    let mut device = Device::start(&[service("nim", "exec sleep 3600")]);
    let bystander = device.running("nim");
    let mut spec = UnitSpec::new(name("domainmgr/hog"), "/usr/bin/perl", uid("domainmgr"))
        .args(["-e", "my $x = ''; while (1) { $x .= 'y' x 1048576; }"]);
    spec.limits = Limits {
        memory_bytes: Some(48 << 20),
        cpu_percent: Some(50),
    };
    let (kind, _) = run(&device, spec);
    assert_eq!(kind, ExitKind::OutOfMemory);
    assert!(lives(bystander) && device.is_running());
    assert_eq!(device.running("nim"), bystander);
    let status = device.status("domainmgr/hog").unwrap();
    assert!(
        status.last_exit.contains("memory limit"),
        "{}",
        status.last_exit
    );
}

#[test]
#[cfg_attr(not(has_tun), ignore = "no /dev/net/tun")]
fn devices_of_guests_open_for_their_group_and_stay_as_they_are_for_the_machine() {
    let node = "/dev/net/tun";
    let mode = || {
        let metadata = fs::metadata(node).unwrap();
        (metadata.permissions().mode(), metadata.gid())
    };
    let before = mode();
    let mut device = Device::start(&[]);
    let script = format!("exec 3<> {node} && echo open");
    let mut guest =
        UnitSpec::new(name("domainmgr/g"), "/bin/sh", ids::GUEST_UID_FIRST).args(["-c", &script]);
    guest.sandbox.gid = ids::GUESTS_GID;
    guest.sandbox.paths = Some(Paths {
        write: vec![node.into()],
        ..Paths::default()
    });
    let (kind, log) = run(&device, guest.clone());
    assert_eq!((kind, log.as_str()), (ExitKind::Code(0), "open\n"));
    // Without the rule or without the group it does not open.
    guest.sandbox.paths = Some(Paths::default());
    assert_ne!(run(&device, guest.clone()).0, ExitKind::Code(0));
    guest.sandbox.paths = None;
    guest.sandbox.gid = ids::GUEST_UID_FIRST + 1;
    let open_to_all = before.0 & 0o006 == 0o006;
    assert_eq!(run(&device, guest).0 == ExitKind::Code(0), open_to_all);
    assert_eq!(mode(), before);
    device.terminate();
    assert_eq!(mode(), before);
}
