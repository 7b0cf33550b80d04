//! The device's own client, which is written independently, against this controller.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use api::attest::{ZAttestQuote, ZAttestReq, ZAttestReqType};
use api::info::{ZInfoDevice, ZInfoMsg, z_info_msg::InfoContent};
use controller::identity::{load_or_create, system_random};
use controller::{
    ApiVersion, ConfigAnswer, ConfigPartition, Controller, Introduction, KeyFiles, Keys as _,
};
use jiff::Timestamp;
use support::World;
use uplink::Port;

fn device(world: &World, partition: &Path) -> Controller {
    std::fs::create_dir_all(partition).unwrap();
    for entry in std::fs::read_dir(world.dir.path().join("device-config")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), partition.join(entry.file_name())).unwrap();
    }
    std::fs::write(partition.join("server"), format!("{}\n", world.devices)).unwrap();
    std::fs::write(partition.join("soft_serial"), "soft-1\n").unwrap();
    let read = ConfigPartition::read(partition).unwrap();
    let (key, _) = load_or_create(partition, Timestamp::now(), &mut system_random).unwrap();
    let mut device = Controller::new(&read, Arc::new(key), "HW-1", partition).unwrap();
    let onboarding = KeyFiles::of(partition).onboarding().unwrap();
    device.set_onboarding(onboarding).unwrap();
    let problems = device.set_ports(vec![Port::new("lo", vec!["127.0.0.1".parse().unwrap()])]);
    assert!(problems.is_empty());
    device
}

fn info(device: &Controller) -> ZInfoMsg {
    ZInfoMsg {
        dev_id: device.uuid().unwrap().to_string(),
        info_content: Some(InfoContent::Dinfo(ZInfoDevice::default())),
        ..ZInfoMsg::default()
    }
}

#[tokio::test]
async fn the_device_comes_in_by_version_2() {
    let world = World::new().await;
    world.admit("soft-1", false).await;
    let dir = tempfile::tempdir().unwrap();
    let mut device = device(&world, &dir.path().join("config"));

    device.ping().await.unwrap();
    let certs = device.certs(Timestamp::now()).await.unwrap().value;
    device.set_certs(Some(Arc::new(certs)));
    assert_eq!(device.register().await.unwrap().value, Introduction::New);
    assert_eq!(device.register().await.unwrap().value, Introduction::Known);
    let name = device.device_name().await.unwrap().value;
    device.set_uuid(Some(name.uuid));
    assert!(device.config("", b"").await.is_err());

    let step = |kind: ZAttestReqType| ZAttestReq {
        req_type: kind.into(),
        ..Default::default()
    };
    let nonce = device
        .attest(&step(ZAttestReqType::AttestReqNonce))
        .await
        .unwrap()
        .value;
    assert_eq!(nonce.nonce.unwrap().nonce.len(), 32);
    let mut quote = step(ZAttestReqType::AttestReqQuote);
    quote.quote = Some(ZAttestQuote::default());
    let answer = device
        .attest(&quote)
        .await
        .unwrap()
        .value
        .quote_resp
        .unwrap();
    let token = answer.integrity_token;

    let ConfigAnswer::Changed { response, .. } = device.config("", &token).await.unwrap().value
    else {
        panic!("no configuration")
    };
    assert_eq!(response.config.unwrap().device_name, "soft-1");
    let again = device.config(&response.config_hash, &token).await.unwrap();
    assert_eq!((again.code, again.value), (304, ConfigAnswer::Unchanged));
    device.info(&info(&device)).await.unwrap();
    assert_eq!(world.admin.device("soft-1").await.unwrap().sent_version, 1);
    world.end().await;
}

#[tokio::test]
async fn the_device_comes_in_by_version_1() {
    let world = World::new().await;
    world.admit("soft-1", false).await;
    let dir = tempfile::tempdir().unwrap();
    let mut device = device(&world, &dir.path().join("config"));
    device.set_version(ApiVersion::V1);
    assert_eq!(device.register().await.unwrap().value, Introduction::New);
    let name = device.device_name().await.unwrap().value;
    device.set_uuid(Some(name.uuid));
    let answer = device.config("", b"").await.unwrap().value;
    assert!(matches!(answer, ConfigAnswer::Changed { .. }));
    device.info(&info(&device)).await.unwrap();
    world.end().await;
}
