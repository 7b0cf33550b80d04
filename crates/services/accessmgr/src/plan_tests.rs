#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use agent::{Action as _, Jobs};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use model::{access, config_item::ConfigItemValueMap};

use super::*;
use crate::Hardware;

fn key(fill: u8) -> String {
    let mut blob = Vec::new();
    for part in [&b"ssh-ed25519"[..], &[fill; 32]] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(part);
    }
    format!("ssh-ed25519 {} key {fill}", BASE64_STANDARD.encode(blob))
}

fn keys(fills: &[u8]) -> Vec<AuthorizedKey> {
    let lines: Vec<String> = fills.iter().map(|fill| key(*fill)).collect();
    parse_keys(&lines.join("\n")).unwrap()
}

fn ssh() -> Login {
    Login::Ssh(22)
}

fn terminal(name: &str) -> Login {
    Login::Shell(Terminal::new(name).unwrap())
}

fn items(values: &[(&str, &str)]) -> ConfigItemValueMap {
    let values = values
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    ConfigItemValueMap {
        values: values.collect(),
        ..ConfigItemValueMap::default()
    }
}

fn wants(fills: &[u8]) -> Desired {
    let lines: Vec<String> = fills.iter().map(|fill| key(*fill)).collect();
    Desired {
        items: Some(items(&[(access::SSH, &lines.join("\n"))])),
        source: Some(ConfigSource::Controller),
        own: Arc::default(),
    }
}

fn shut() -> Actual {
    Actual {
        is_disabled: false,
        was_configured: true,
        first_keys: None,
        keys: KeysFile::Missing,
        has_host_key: true,
        logins: BTreeMap::new(),
        port: 22,
        peers: Vec::new(),
        hardware: Hardware::default(),
    }
}

fn open(fills: &[u8]) -> Actual {
    Actual {
        keys: KeysFile::Keys(keys(fills)),
        logins: [(ssh(), LoginState::Runs)].into(),
        ..shut()
    }
}

fn decide(desired: &Desired, actual: &Actual) -> (Vec<Do>, BTreeMap<Way, AccessStatus>) {
    let turn = Turn::<Accessmgr> {
        desired,
        actual,
        jobs: &Jobs::default(),
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        uptime: Duration::from_secs(9),
    };
    let plan = plan(&turn);
    let rows = plan.report.0.into_iter().map(|row| (row.way, row));
    (plan.actions, rows.collect())
}

fn actions(desired: &Desired, actual: &Actual) -> Vec<Do> {
    decide(desired, actual).0
}

fn way(desired: &Desired, actual: &Actual, way: Way) -> AccessStatus {
    decide(desired, actual).1.remove(&way).unwrap()
}

#[test]
fn by_default_all_is_shut() {
    let desired = Desired {
        items: Some(items(&[])),
        source: Some(ConfigSource::Controller),
        own: Arc::default(),
    };
    let (actions, rows) = decide(&desired, &shut());
    assert_eq!(actions, []);
    assert_eq!(rows.len(), 4);
    for row in rows.values() {
        assert_eq!(
            (row.phase, row.reason),
            (AccessPhase::Closed, AccessReason::Nothing)
        );
    }
}

#[test]
fn a_key_opens_and_the_list_is_written_before_anybody_listens() {
    let actual = Actual {
        has_host_key: false,
        ..shut()
    };
    let start = Do::Start(ssh());
    assert_eq!(
        actions(&wants(&[1]), &actual),
        [Do::MakeHostKey, Do::WriteKeys(keys(&[1])), start.clone()]
    );
    assert_eq!(start.needs(), [KEYS, HOST_KEY]);
    let row = way(&wants(&[1]), &open(&[1]), Way::Ssh);
    assert_eq!(
        (row.phase, row.reason),
        (AccessPhase::Open, AccessReason::Property)
    );
    assert_eq!(row.keys[0].comment, "key 1");
    assert!(row.keys[0].fingerprint.starts_with("SHA256:"));
    assert_eq!(row.places, ["tcp port 22"]);
    assert_eq!(actions(&wants(&[1]), &open(&[1])), []);
}

#[test]
fn who_runs_and_does_not_listen_is_not_open() {
    let actual = Actual {
        logins: [(ssh(), LoginState::Changes)].into(),
        ..open(&[1])
    };
    let row = way(&wants(&[1]), &actual, Way::Ssh);
    assert_eq!(row.phase, AccessPhase::Opening);
    assert_eq!(actions(&wants(&[1]), &actual), []);
}

#[test]
fn an_added_key_throws_nobody_out_and_a_removed_one_everybody() {
    let written = Do::WriteKeys(keys(&[1, 2]));
    assert_eq!(actions(&wants(&[1, 2]), &open(&[1])), [written]);
    // Not written before sshd is gone: else nobody would know any more that it has to go.
    let stop = [Do::Stop(ssh())];
    assert_eq!(actions(&wants(&[2]), &open(&[1, 2])), stop);
    assert_eq!(actions(&wants(&[2]), &open(&[1])), stop);
    let row = way(&wants(&[2]), &open(&[1, 2]), Way::Ssh);
    assert_eq!(row.phase, AccessPhase::Opening);
    let gone = Actual {
        logins: BTreeMap::new(),
        ..open(&[1, 2])
    };
    let again = [Do::WriteKeys(keys(&[2])), Do::Start(ssh())];
    assert_eq!(actions(&wants(&[2]), &gone), again);
}

#[test]
fn a_list_that_somebody_changed_or_took_away_ends_what_was_opened_by_it() {
    for strange in [KeysFile::Missing, KeysFile::Strange] {
        let actual = Actual {
            keys: strange,
            ..open(&[1])
        };
        assert_eq!(actions(&wants(&[1]), &actual), [Do::Stop(ssh())]);
    }
}

#[test]
fn an_empty_property_closes_whatever_state_it_is_in() {
    for state in [
        LoginState::Runs,
        LoginState::Changes,
        LoginState::Fails("x".to_owned()),
        LoginState::Ended,
    ] {
        let actual = Actual {
            logins: [(ssh(), state)].into(),
            ..open(&[1])
        };
        let (actions, mut rows) = decide(&wants(&[]), &actual);
        assert_eq!(actions, [Do::WriteKeys(Vec::new()), Do::Stop(ssh())]);
        let row = rows.remove(&Way::Ssh).unwrap();
        assert_eq!(row.phase, AccessPhase::Closing);
    }
}

#[test]
fn trust_remote_access_that_is_disabled_stays_so_whatever_anybody_says() {
    for first_keys in [None, Some(key(7))] {
        for source in [
            None,
            Some(ConfigSource::None),
            Some(ConfigSource::Controller),
        ] {
            let desired = Desired {
                source,
                ..wants(&[1])
            };
            let actual = Actual {
                is_disabled: true,
                was_configured: false,
                first_keys: first_keys.clone(),
                ..shut()
            };
            let (actions, mut rows) = decide(&desired, &actual);
            assert!(!actions.contains(&Do::Start(ssh())), "{actions:?}");
            let row = rows.remove(&Way::Ssh).unwrap();
            assert_eq!(row.reason, AccessReason::Disabled);
            assert_eq!(row.fault.unwrap().code, Code::AccessDisabled);
            let opened = Actual {
                is_disabled: true,
                ..open(&[1])
            };
            assert!(super::tests::actions(&desired, &opened).contains(&Do::Stop(ssh())));
        }
    }
    let nothing_asked = way(
        &wants(&[]),
        &Actual {
            is_disabled: true,
            ..shut()
        },
        Way::Ssh,
    );
    assert_eq!(nothing_asked.fault, None);
}

#[test]
fn what_is_not_known_opens_nothing_and_closes_nothing() {
    let desired = Desired::default();
    assert_eq!(actions(&desired, &shut()), []);
    assert_eq!(actions(&desired, &open(&[1])), []);
    let first = Actual {
        was_configured: false,
        first_keys: Some(key(7)),
        ..shut()
    };
    assert_eq!(actions(&desired, &first), []);
    let console = Actual {
        logins: [(terminal("ttyS0"), LoginState::Runs)].into(),
        ..shut()
    };
    assert_eq!(actions(&desired, &console), []);
    assert_eq!(
        way(&desired, &console, Way::Console).phase,
        AccessPhase::Open
    );
}

#[test]
fn what_can_not_be_read_opens_nothing_and_is_named() {
    for garbage in [
        format!("from=\"10.0.0.1\" {}", key(1)),
        "true".to_owned(),
        format!("{}\nssh-rsa AAAA", key(1)),
    ] {
        let desired = Desired {
            items: Some(items(&[(access::SSH, &garbage)])),
            ..wants(&[])
        };
        assert_eq!(actions(&desired, &shut()), []);
        let fault = way(&desired, &shut(), Way::Ssh).fault.unwrap();
        assert_eq!(fault.code, Code::AccessKeys);
        assert!(fault.text.contains("debug.enable.ssh: line "), "{fault}");
    }
}

#[test]
fn the_keys_of_config_count_until_the_first_config_and_never_again() {
    let first = Actual {
        was_configured: false,
        first_keys: Some(format!("# installer\n{}\n", key(7))),
        ..shut()
    };
    let before = Desired {
        source: Some(ConfigSource::None),
        ..wants(&[])
    };
    let (done, mut rows) = decide(&before, &first);
    assert_eq!(done, [Do::WriteKeys(keys(&[7])), Do::Start(ssh())]);
    assert_eq!(
        rows.remove(&Way::Ssh).unwrap().reason,
        AccessReason::FirstBoot
    );
    // The first config ends it, also when it is one of an earlier boot.
    for source in [
        ConfigSource::Controller,
        ConfigSource::Saved,
        ConfigSource::Bootstrap,
    ] {
        let after = Desired {
            source: Some(source),
            ..wants(&[])
        };
        let opened = Actual {
            was_configured: false,
            first_keys: first.first_keys.clone(),
            ..open(&[7])
        };
        assert_eq!(
            actions(&after, &opened),
            [Do::Remember, Do::WriteKeys(Vec::new()), Do::Stop(ssh())]
        );
    }
    let remembered = Actual {
        was_configured: true,
        ..first.clone()
    };
    assert_eq!(actions(&before, &remembered), []);
    let bad = Actual {
        first_keys: Some(format!("command=\"x\" {}", key(7))),
        ..first
    };
    assert_eq!(actions(&before, &bad), []);
    let fault = way(&before, &bad, Way::Ssh).fault.unwrap();
    assert!(
        fault.text.starts_with("/config/authorized_keys: line 1"),
        "{fault}"
    );
}

#[test]
fn sessions_keep_their_beginning() {
    let old: Timestamp = "2025-12-31T00:00:00Z".parse().unwrap();
    let mut desired = wants(&[1]);
    let mut row = way(&desired, &open(&[1]), Way::Ssh);
    row.since = old;
    row.sessions = vec![Session {
        from: "10.0.0.1:5".to_owned(),
        key: None,
        since: old,
    }];
    desired.own = Arc::new([("ssh".to_owned(), row)].into());
    let peer = |from: &str, key: Option<&str>| Peer {
        from: from.to_owned(),
        key: key.map(str::to_owned),
    };
    let actual = Actual {
        peers: vec![
            peer("10.0.0.1:5", Some("SHA256:a")),
            peer("10.0.0.1:6", None),
        ],
        ..open(&[1])
    };
    let row = way(&desired, &actual, Way::Ssh);
    assert_eq!(row.since, old);
    let seen: Vec<_> = row
        .sessions
        .iter()
        .map(|s| (s.since == old, s.key.clone()))
        .collect();
    assert_eq!(seen, [(true, Some("SHA256:a".to_owned())), (false, None)]);
}

fn hardware() -> Hardware {
    let interface = |name: &str, class, is_authorized, is_assigned| UsbInterface {
        name: name.to_owned(),
        class,
        is_authorized,
        is_assigned,
    };
    Hardware {
        serial: vec![Terminal::new("ttyS0").unwrap()],
        screens: vec![Terminal::new("tty1").unwrap()],
        usb: [("usb1".to_owned(), true)].into(),
        interfaces: vec![
            interface("1-1:1.0", CLASS_HID, true, false),
            interface("1-2:1.0", CLASS_STORAGE, true, true),
            interface("1-3:1.0", CLASS_STORAGE, true, false),
            interface("1-4:1.0", 2, false, false),
        ],
        framebuffers: [("vtcon1".to_owned(), true)].into(),
    }
}

#[test]
fn keyboards_and_disks_are_shut_out_and_modems_and_guests_are_not() {
    let actual = Actual {
        hardware: hardware(),
        ..shut()
    };
    let shuts = [
        Do::UsbDefault("usb1".to_owned(), false),
        Do::UsbInterface("1-1:1.0".to_owned(), false),
        Do::UsbInterface("1-3:1.0".to_owned(), false),
        Do::UsbInterface("1-4:1.0".to_owned(), true),
    ];
    // Also before anybody has said anything.
    assert_eq!(actions(&Desired::default(), &actual), shuts);
    let row = way(&Desired::default(), &actual, Way::Usb);
    assert_eq!(row.phase, AccessPhase::Closing);
    assert_eq!(
        row.places,
        ["1-1:1.0 (keyboard or mouse)", "1-3:1.0 (disk)"]
    );

    let mut closed = actual.clone();
    closed.hardware.usb.insert("usb1".to_owned(), false);
    for interface in &mut closed.hardware.interfaces {
        interface.is_authorized = !matches!(interface.name.as_str(), "1-1:1.0" | "1-3:1.0");
    }
    closed.hardware.framebuffers.clear();
    let off = Desired {
        items: Some(items(&[])),
        ..wants(&[])
    };
    assert_eq!(actions(&off, &closed), []);
    let on = Desired {
        items: Some(items(&[(access::USB, "true")])),
        ..wants(&[])
    };
    assert_eq!(
        actions(&on, &closed),
        [
            Do::UsbDefault("usb1".to_owned(), true),
            Do::UsbInterface("1-1:1.0".to_owned(), true),
            Do::UsbInterface("1-3:1.0".to_owned(), true),
        ]
    );
    // A restart of this service takes nothing away that is open.
    let mut restarted = Desired::default();
    let row = way(&on, &actual, Way::Usb);
    let row = AccessStatus {
        phase: AccessPhase::Open,
        ..row
    };
    restarted.own = Arc::new([("usb".to_owned(), row)].into());
    let mut opened = actual;
    opened.hardware.interfaces[3].is_authorized = true;
    assert_eq!(actions(&restarted, &opened), []);
}

#[test]
fn shells_are_on_their_terminals_while_their_property_stands() {
    let mut actual = Actual {
        hardware: Hardware {
            usb: BTreeMap::new(),
            interfaces: Vec::new(),
            ..hardware()
        },
        ..shut()
    };
    let off = Desired {
        items: Some(items(&[])),
        ..wants(&[])
    };
    let dark = Do::Framebuffer("vtcon1".to_owned(), false);
    assert_eq!(actions(&off, &actual), [dark]);
    let console = Desired {
        items: Some(items(&[(access::CONSOLE, "true")])),
        ..wants(&[])
    };
    let vga = Desired {
        items: Some(items(&[(access::VGA, "true")])),
        ..wants(&[])
    };
    actual
        .hardware
        .framebuffers
        .insert("vtcon1".to_owned(), false);
    assert_eq!(actions(&console, &actual), [Do::Start(terminal("ttyS0"))]);
    let bright = Do::Framebuffer("vtcon1".to_owned(), true);
    assert_eq!(
        actions(&vga, &actual),
        [Do::Start(terminal("tty1")), bright]
    );

    actual.logins = [
        (terminal("ttyS0"), LoginState::Runs),
        (terminal("tty1"), LoginState::Fails("exit 1".to_owned())),
    ]
    .into();
    let row = way(&console, &actual, Way::Console);
    assert_eq!(
        (row.phase, row.places),
        (AccessPhase::Open, vec!["ttyS0".to_owned()])
    );
    let row = way(&vga, &actual, Way::Vga);
    assert_eq!(row.phase, AccessPhase::Opening);
    assert_eq!(row.fault.unwrap().code, Code::AccessLogin);
    assert_eq!(
        actions(&off, &actual),
        [Do::Stop(terminal("ttyS0")), Do::Stop(terminal("tty1"))]
    );
}
