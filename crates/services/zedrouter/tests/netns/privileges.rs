//! The binary as the supervisor runs it: its own user, three capabilities, nothing else.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use bus::Bus;
use model::{
    code::Code,
    network::NetworkInstancePhase,
    topics::{
        APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DEVICE_NETWORK_STATUS, NETWORK_INSTANCE_CONFIG,
        NETWORK_INSTANCE_STATUS,
    },
};
use units::ids;

use crate::{
    site::{Device, in_netns, ip, run},
    wishes::{allow, app, app_id, instance, instance_id},
};

#[test]
fn its_rights_suffice_and_without_a_supervisor_it_says_so() {
    in_netns(|| async {
        let device = Device::new();
        let root = &device.root;
        for dir in [
            "run",
            "run/.bus-tmp",
            "persist",
            "persist/status",
            "persist/crash",
        ] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let open = |service| Bus::open(root, service).unwrap();
        let mut instances = open("zedagent")
            .publisher(&NETWORK_INSTANCE_CONFIG)
            .unwrap();
        instances
            .publish(&instance_id(1).to_string(), &instance(1, ""))
            .unwrap();
        instances.set_ready().unwrap();
        let guest = device.guest("nbu1x1").await;
        let mut apps = open("zedmanager").publisher(&APP_NETWORK_CONFIG).unwrap();
        let wish = app(1, &[(1, &[allow(1, &[])])]);
        apps.publish(&app_id(1).to_string(), &wish).unwrap();
        apps.set_ready().unwrap();
        open("nim")
            .publisher(&DEVICE_NETWORK_STATUS)
            .unwrap()
            .set_ready()
            .unwrap();
        run("chmod", &["-R", "a+rX", &root.to_string_lossy()]);

        let program = root.join("zedrouter");
        fs::copy(env!("CARGO_BIN_EXE_zedrouter"), &program).unwrap();
        let uid = ids::service_uid("zedrouter").unwrap().to_string();
        let caps = "-all,+net_admin,+net_raw,+net_bind_service";
        let output = Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &ids::EVE_GID.to_string()])
            .args(["--clear-groups", "--no-new-privs", "--bounding-set", caps])
            .args(["--inh-caps", caps, "--ambient-caps", caps])
            .arg(&program)
            .args(["--once", "--root"])
            .arg(root)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");

        let reader = open("tester");
        let status = reader.read(&NETWORK_INSTANCE_STATUS).unwrap().unwrap();
        let status = &status[&instance_id(1).to_string()];
        // Everything but the resolver, which is the supervisor's.
        assert_eq!(status.phase, NetworkInstancePhase::Creating);
        assert_eq!(
            status.fault.as_ref().unwrap().code,
            Code::SupervisorUnreachable,
            "{said}"
        );
        assert!(ip("addr show bn1").contains("10.1.0.1/24"));
        assert!(ip("link show nbu1x1").contains("master bn1"));
        assert!(run("nft", &["list", "table", "inet", "eve_apps"]).contains("v1x1_out"));
        assert_eq!(run("sysctl", &["-n", "net.ipv4.ip_forward"]).trim(), "1");
        let apps = reader.read(&APP_NETWORK_STATUS).unwrap().unwrap();
        assert_eq!(apps[&app_id(1).to_string()].number, 1);
        drop(guest);
    });
}
