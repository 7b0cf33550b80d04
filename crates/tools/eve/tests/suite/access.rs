//! The ways in: what `eve` says of them.

use eve::why::{self, Asked};
use model::{
    access::{AccessPhase, AccessReason, AccessStatus, KeyInForce, Session, Way},
    code::Code,
    fault::Fault,
};

use crate::{check::amiss, device::*};

/// Nobody gets in.
pub(crate) fn shut(way: Way) -> AccessStatus {
    AccessStatus {
        way,
        phase: AccessPhase::Closed,
        reason: AccessReason::Nothing,
        since: before(3600),
        places: Vec::new(),
        keys: Vec::new(),
        sessions: Vec::new(),
        fault: None,
    }
}

/// Somebody may log in, and has.
fn open() -> AccessStatus {
    AccessStatus {
        phase: AccessPhase::Open,
        reason: AccessReason::Property,
        places: vec!["tcp port 22".to_owned()],
        keys: vec![KeyInForce {
            fingerprint: "SHA256:qZ1".to_owned(),
            kind: "ssh-ed25519".to_owned(),
            comment: "ada".to_owned(),
        }],
        sessions: vec![Session {
            from: "10.0.0.9:50000".to_owned(),
            key: Some("SHA256:qZ1".to_owned()),
            since: before(60),
        }],
        ..shut(Way::Ssh)
    }
}

#[test]
fn ways_in_are_told_with_who_is_in_and_what_is_wrong() {
    let fault = |code, text: &str| Some(Fault::new(code, "way", text, before(30)));
    let cases = [
        (
            "open, and what keeps out",
            amiss(|d, _| {
                one(&mut d.access, "ssh", open());
                let usb = AccessStatus {
                    phase: AccessPhase::Closing,
                    places: vec!["1-1:1.0 (keyboard or mouse)".to_owned()],
                    fault: fault(Code::AccessHardware, "authorized: Invalid argument"),
                    ..shut(Way::Usb)
                };
                one(&mut d.access, "usb", usb);
            }),
        ),
        (
            "forbidden and asked for",
            amiss(|d, _| {
                let ssh = AccessStatus {
                    reason: AccessReason::Disabled,
                    fault: fault(Code::AccessDisabled, "the config authorizes keys"),
                    ..shut(Way::Ssh)
                };
                one(&mut d.access, "ssh", ssh);
            }),
        ),
    ];
    golden("check-access", &cases);
}

#[test]
fn why_a_way_is_not_as_wanted() {
    let ssh = |row: AccessStatus| {
        let d = with(|d| {
            one(&mut d.access, "ssh", row);
        });
        let answer = why::why(&d, Some(Asked::Access), "ssh").unwrap();
        why::answer_text(PLAIN, &answer, d.at)
    };
    let opening = AccessStatus {
        phase: AccessPhase::Opening,
        ..open()
    };
    let bad = AccessStatus {
        fault: Some(Fault::new(
            Code::AccessKeys,
            "ssh",
            "debug.enable.ssh: line 2: options are not accepted",
            before(30),
        )),
        ..shut(Way::Ssh)
    };
    let cases = [
        ("open", ssh(open())),
        ("being opened", ssh(opening)),
        ("a line that is no key", ssh(bad)),
    ];
    golden("access", &cases);
}
