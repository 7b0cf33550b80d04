//! `eve why app` on images and volumes.

use eve::Device;
use model::{
    app::AppPhase,
    code::Code,
    content::{ContentPhase, DownloadPhase, VerifyPhase},
    volume::VolumePhase,
};

use crate::device::*;

#[test]
fn content_of_an_app() {
    let waiting = |d: &mut Device| set_download(d, HALF, None);
    let cases = vec![
        (
            "the datastore refuses",
            with(|d| {
                let fault = fault(
                    Code::DownloadRefused,
                    "blob 3a7b",
                    "GET https://ds.example/images/web.qcow2: 404 Not Found",
                );
                set_download(d, HALF, Some(fault));
            }),
        ),
        (
            "bytes arrive",
            with(|d| {
                let phase = DownloadPhase::Downloading {
                    done_bytes: 30 << 20,
                    total_bytes: 60 << 20,
                };
                set_download(d, phase, None);
            }),
        ),
        ("it waits for its turn", with(waiting)),
        (
            "the port has no lease",
            with(|d| {
                let fault = fault(
                    Code::DownloadNetwork,
                    "blob 3a7b",
                    "no usable address on mgmt",
                );
                set_download(d, HALF, Some(fault));
                no_lease(d);
            }),
        ),
        (
            "the DHCP server is silent",
            with(|d| {
                waiting(d);
                no_lease(d);
                eth0(d).fault = Some(fault(
                    Code::PortDhcp,
                    "port eth0",
                    "no DHCP server answered",
                ));
            }),
        ),
        (
            "the cable is out",
            with(|d| {
                waiting(d);
                no_lease(d);
                eth0(d).link_up = false;
            }),
        ),
        (
            "DNS does not answer",
            with(|d| {
                let text = "no answer from 192.168.1.1";
                set_download(
                    d,
                    HALF,
                    Some(fault(
                        Code::DownloadNetwork,
                        "blob 3a7b",
                        "can't resolve ds.example",
                    )),
                );
                eth0(d).fault = Some(fault(Code::PortDns, "port eth0", text));
            }),
        ),
        (
            "DNS leads nowhere",
            with(|d| {
                let text = "https://ds.example/images/web.qcow2 over port mgmt: dns: ds.example: no answer";
                set_download(d, HALF, Some(fault(Code::PortDns, "blob 3a7b", text)));
            }),
        ),
        (
            "no DNS server is known",
            with(|d| {
                waiting(d);
                eth0(d).dns_servers.clear();
            }),
        ),
        (
            "the only port costs too much",
            with(|d| {
                waiting(d);
                eth0(d).cost = 10;
            }),
        ),
        (
            "the server is down, the ports are fine",
            with(|d| {
                let mut fault = fault(
                    Code::DownloadNetwork,
                    "blob 3a7b",
                    "can't connect to ds.example:443",
                );
                fault.causes.push("connection refused".to_owned());
                set_download(d, HALF, Some(fault));
            }),
        ),
        (
            "the datastore is not in the config",
            with(|d| {
                waiting(d);
                d.datastores.rows.clear();
            }),
        ),
        (
            "the datastore's config is faulty",
            with(|d| {
                waiting(d);
                let store = d.datastores.rows.get_mut(STORE).unwrap();
                store.fault = Some(fault(Code::DatastoreUnsupported, "datastore", "type SFTP"));
            }),
        ),
        (
            "the downloader is down",
            with(|d| {
                waiting(d);
                down(d, "downloader", 4);
            }),
        ),
        (
            "the digest is wrong",
            with(|d| {
                let fault = fault(
                    Code::VerifyDigest,
                    "blob 3a7b",
                    "the file of 62914560 bytes has SHA-256 00ff",
                );
                set_download(d, HALF, Some(fault.clone()));
                set_content(d, ContentPhase::Failed, VolumePhase::Failed, Some(fault));
            }),
        ),
        (
            "the verifier reads",
            with(|d| {
                verifying(d);
            }),
        ),
        (
            "the verifier is down",
            with(|d| {
                verifying(d);
                down(d, "verifier", 4);
            }),
        ),
        (
            "the content tree is not in the config",
            with(|d| {
                set_content(
                    d,
                    ContentPhase::Waiting,
                    VolumePhase::AwaitContent {
                        done_bytes: 0,
                        total_bytes: 0,
                        content: "content tree not in the config".to_owned(),
                    },
                    None,
                );
                d.content_tree_configs.rows.clear();
                preparing(d);
            }),
        ),
    ];
    golden("content", &about_app(&cases));
}

fn preparing(d: &mut Device) {
    let phase = AppPhase::Preparing {
        volume: volume(),
        percent: 0,
    };
    set_app(d, phase, None);
}

fn verifying(d: &mut Device) {
    let waits = VolumePhase::AwaitContent {
        done_bytes: 60 << 20,
        total_bytes: 60 << 20,
        content: "verifying".to_owned(),
    };
    set_content(d, ContentPhase::Verifying { percent: 70 }, waits, None);
    set_verification(d, VerifyPhase::Verifying { percent: 70 }, None);
    preparing(d);
}

#[test]
fn volumes_of_an_app() {
    let cases = vec![
        (
            "the disk is full",
            with(|d| {
                let mut fault = fault(
                    Code::VolumeSpace,
                    "volume",
                    "it needs 8.0 GiB, 5.0 GiB are available",
                );
                fault.next = None;
                fault.attempts = 0;
                set_content(
                    d,
                    ContentPhase::Waiting,
                    VolumePhase::AwaitSpace,
                    Some(fault.clone()),
                );
                set_app(
                    d,
                    AppPhase::Preparing {
                        volume: volume(),
                        percent: 0,
                    },
                    Some(fault),
                );
            }),
        ),
        (
            "the image is damaged",
            with(|d| {
                let fault = fault(
                    Code::VolumeCreate,
                    "volume",
                    "unusable image: no qcow2 header",
                );
                set_volume(d, VolumePhase::Failed, Some(fault.clone()));
                set_app(d, AppPhase::Failed, Some(fault));
            }),
        ),
        (
            "it is being made",
            with(|d| {
                set_volume(d, VolumePhase::Creating { percent: 30 }, None);
                preparing(d);
            }),
        ),
        (
            "volumemgr crashes",
            with(|d| {
                set_volume(d, VolumePhase::Creating { percent: 30 }, None);
                preparing(d);
                down(d, "volumemgr", 4);
            }),
        ),
        (
            "volumemgr has not spoken since it started",
            with(|d| {
                preparing(d);
                d.volumes.rows.clear();
                d.volumes.ready = false;
                d.volume_ref_statuses.rows.clear();
                d.volume_ref_statuses.ready = false;
            }),
        ),
        (
            "the vault is locked",
            with(|d| {
                preparing(d);
                let text =
                    "the software is not the one that key b5d1 is sealed to: PCR 8, 13 differ";
                lock_vault(d, Some(fault(Code::VaultLocked, "vault", text)));
            }),
        ),
        (
            "the vault is being opened",
            with(|d| {
                preparing(d);
                lock_vault(d, None);
            }),
        ),
        (
            "nobody asked volumemgr",
            with(|d| {
                preparing(d);
                d.volume_refs.rows.clear();
                down(d, "zedmanager", 4);
            }),
        ),
        (
            "the volume is not in the config",
            with(|d| {
                d.volume_configs.rows.clear();
                let waits = VolumePhase::AwaitContent {
                    done_bytes: 0,
                    total_bytes: 0,
                    content: "volume not in the config".to_owned(),
                };
                set_volume(d, waits, None);
                preparing(d);
            }),
        ),
        (
            "a purge makes the next generation",
            with(|d| {
                let mut next = d.volume_refs.rows.values().next().unwrap().clone();
                next.device_generation = 1;
                let key = next.key();
                d.volume_refs.rows.insert(key.clone(), next.clone());
                let mut row = d.volumes.rows[VOLUME].clone();
                row.key = next.device_volume();
                row.phase = VolumePhase::Creating { percent: 10 };
                d.volumes.rows.insert(row.key.to_string(), row);
                d.apps.rows.get_mut(APP).unwrap().phase = AppPhase::Purging;
            }),
        ),
    ];
    golden("volume", &about_app(&cases));
}
