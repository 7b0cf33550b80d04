//! Requests on the supervisor's socket, from a service that somebody has taken over. What a service may
//! start runs as itself or as a guest, in its own directories, with its own few rights.

use std::path::Path;

use ::units::{
    Output, UnitName, UnitSpec, ids,
    login::{Login, spec as login_spec},
    wire::{spec_from_wire, spec_to_wire, state_from_wire, state_to_wire, v1},
};
use prost::Message as _;
use supervisor::{Caller, Facts, Message, transient::TRANSIENTS};

const FACTS: Facts<'_> = Facts {
    device_groups: &[],
    remote_access_disabled: false,
};

/// Takes it as a request to start, as a state, as a name, and as a sign of life.
pub fn check(bytes: &[u8]) {
    if let Ok(message) = v1::UnitSpec::decode(bytes) {
        match spec_from_wire(message) {
            Ok(spec) => request(&spec),
            Err(error) => assert!(error.to_string().len() < 8 * bytes.len() + 500, "{error}"),
        }
    }
    if let Ok(message) = v1::Unit::decode(bytes)
        && let Ok(state) = state_from_wire(message)
    {
        let again = state_from_wire(state_to_wire(&state)).expect("what was written");
        assert_eq!(again, state);
    }
    let said = Message::parse(bytes);
    assert!(said.status.is_none_or(|text| text.chars().count() <= 300));
    if let Ok(name) = String::from_utf8_lossy(bytes).parse::<UnitName>() {
        is_safe(&name);
    }
}

fn is_safe(name: &UnitName) {
    let stem = name.stem();
    assert!(!stem.contains(['/', '\0']) && !stem.starts_with('.') && stem.len() < 200);
    assert_eq!(name.as_str().parse::<UnitName>().as_ref(), Ok(name));
}

fn request(spec: &UnitSpec) {
    is_safe(&spec.name);
    let again = spec_from_wire(spec_to_wire(spec).expect("a message")).expect("what was written");
    assert_eq!(again, *spec);
    let json = serde_json::to_vec(spec).expect("JSON");
    assert_eq!(
        serde_json::from_slice::<UnitSpec>(&json).ok().as_ref(),
        Some(spec)
    );

    let root = Path::new("/r");
    let services = [
        "zedagent",
        "downloader",
        "verifier",
        "newlogd",
        "domainmgr",
        "zedrouter",
        ids::DOORKEEPER,
    ];
    for service in services {
        let uid = ids::service_uid(service).expect("a service");
        if Caller::new(uid).may_start(spec, root, &FACTS).is_err() {
            continue;
        }
        if service == ids::DOORKEEPER {
            let login = Login::of(&spec.name).expect("a login");
            assert_eq!(login_spec(root, &login).as_ref(), Ok(spec));
            continue;
        }
        let row = TRANSIENTS.iter().find(|row| row.owner == service);
        let row = row.expect("who has no row starts nothing");
        assert_eq!(spec.name.owner(), service, "another's name");
        let sandbox = &spec.sandbox;
        let guests = ids::GUEST_UID_FIRST..=ids::GUEST_UID_LAST;
        let is_guest = row.guests && guests.contains(&sandbox.uid);
        assert!(sandbox.uid == uid || is_guest, "uid {}", sandbox.uid);
        assert!(sandbox.gid != 0 && sandbox.gid != ids::KEYS_GID);
        assert!(!sandbox.groups.contains(&0) && !sandbox.groups.contains(&ids::KEYS_GID));
        let mut capabilities = sandbox.capabilities.iter();
        assert!(capabilities.all(|one| row.capabilities.contains(one)));
        let paths = sandbox.paths.as_ref().expect("not every path");
        let output = match &spec.output {
            Output::File(path) => Some(path),
            Output::Log | Output::Discard => None,
        };
        for path in [&paths.read, &paths.write, &paths.execute]
            .into_iter()
            .flatten()
            .chain(output)
        {
            let climbs = path.components().any(|part| part.as_os_str() == "..");
            let of_others = path.starts_with("/r/persist/vault")
                && !path.starts_with("/r/persist/vault/volumemgr");
            let keys = ["/r/config", "/r/persist/tpmmgr", "/r/persist/certs"]
                .iter()
                .any(|keys| path.starts_with(keys))
                || of_others;
            assert!(!climbs && !keys, "{}", path.display());
            assert_ne!(path, root);
        }
    }
}

/// The units that there are.
pub fn seeds() -> Vec<Vec<u8>> {
    let unit = |name: &str, uid: u32, gid: u32, write: &[&str]| {
        let mut spec = UnitSpec::new(name.parse().expect("a name"), "/usr/bin/x", uid)
            .args(["--flag".to_owned(), "value".to_owned()])
            .label("config", "3");
        spec.sandbox.gid = gid;
        spec.sandbox.paths = Some(::units::Paths {
            write: write.iter().map(Into::into).collect(),
            ..::units::Paths::default()
        });
        spec_to_wire(&spec).expect("a message").encode_to_vec()
    };
    let uid = |service| ids::service_uid(service).expect("a service");
    let state = v1::Unit {
        name: "zedrouter/dns".to_owned(),
        phase: Some(v1::unit::Phase::Running(v1::Process {
            pid: 7,
            since_unix_ms: 1_800_000_000_000,
        })),
        last_exit: Some(v1::Exit {
            at_unix_ms: i64::MAX,
            how: Some(v1::exit::How::Code(3)),
        }),
        ..v1::Unit::default()
    };
    let login = login_spec(Path::new("/r"), &Login::Ssh(22)).expect("a name");
    vec![
        spec_to_wire(&login).expect("a message").encode_to_vec(),
        unit(
            "domainmgr/app",
            ids::GUEST_UID_FIRST,
            ids::GUESTS_GID,
            &["/r/persist/vault/volumemgr/volumes/a"],
        ),
        unit(
            "zedrouter/dnsmasq-bn1",
            uid("zedrouter"),
            ids::EVE_GID,
            &["/r/run/zedrouter-net"],
        ),
        unit("zedrouter/x", 0, 0, &["/"]),
        unit(
            "domainmgr/app",
            ids::GUEST_UID_FIRST,
            ids::EVE_GID,
            &["/r/persist/vault/volumemgr/volumes/../../config"],
        ),
        state.encode_to_vec(),
        b"READY=1\nSTATUS=all \x1b[1mwell\nWATCHDOG=1".to_vec(),
        b"zedrouter/dns-bn1".to_vec(),
    ]
}
