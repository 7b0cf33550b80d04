//! A device on its way into its controller's hands, when the way is not straight.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use evc::admin::{Claim, NewAdmission};
use model::{
    code::Code,
    node::{ConfigSource, OnboardPhase},
};
use scenarios::outside::{Fault, Front, Member, Site};

const MINUTE: Duration = Duration::from_secs(60);
/// The longest pause between two tries, and a bit.
const SOON: Duration = Duration::from_secs(16 * 60);
const WANTED: &str = "properties: {timer.config.interval: 60, timer.send.timeout: 10}\n\
    networks: [{name: dhcp}]\nports: [{name: eth0, network: dhcp}]\n";

async fn front(site: &Site, member: Option<&Member>) -> Front {
    let clock = member.map_or_else(
        || agent::Clock::by_hand(jiff::Timestamp::now()).0,
        |member| member.lives.clock.clone(),
    );
    Front::before(site.address, &site.pki(), clock).await
}

fn admission(site: &Site, hold: bool) -> NewAdmission {
    NewAdmission {
        serial: site.serial().to_owned(),
        hold,
        ..NewAdmission::default()
    }
}

/// Until it is onboarded.
async fn comes_in(member: &mut Member, limit: Duration) -> Duration {
    let bus = member.bus.clone();
    let is_in = async || {
        let rows = bus.read(&model::topics::ONBOARDING_STATUS).unwrap();
        let status = rows.unwrap_or_default().remove("global");
        status.is_some_and(|status| status.phase == OnboardPhase::Onboarded)
    };
    let took = member.lives.until(limit, is_in).await;
    took.unwrap_or_else(|| panic!("never came in: {:?}", member.onboarding()))
}

/// It is refused with this status, says so, and when it tries again.
async fn is_refused(member: &mut Member, status: &str) {
    let bus = member.bus.clone();
    let told = || {
        let rows = bus.read(&model::topics::ONBOARDING_STATUS).unwrap();
        rows.unwrap_or_default()
            .remove("global")
            .unwrap_or_default()
    };
    let says_so = async || {
        told()
            .fault
            .is_some_and(|fault| fault.line().contains(status))
    };
    let took = member.lives.until(SOON, says_so).await;
    let told = told();
    assert!(took.is_some(), "{status}: {told:?}");
    assert_ne!(told.phase, OnboardPhase::Onboarded);
    let fault = told.fault.unwrap();
    assert_eq!(fault.code, Code::ControllerRefused, "{}", fault.line());
    assert!(fault.next.is_some(), "{}", fault.line());
}

#[tokio::test]
async fn trust_onboarding_at_another_server_than_the_first() {
    let (wrong, right) = (Site::new().await, Site::new().await);
    wrong
        .admin
        .dismiss(&admission(&wrong, false))
        .await
        .unwrap();
    let before = front(&wrong, None).await;
    let mut member = Member::new(&wrong, before.address);
    is_refused(&mut member, "403").await;
    // Somebody corrects the CONFIG partition: another server, with its own root. It knows the batch too.
    let after = front(&right, Some(&member)).await;
    let config = member.config();
    let batch = std::fs::read_to_string(config.join("onboard.cert.pem")).unwrap();
    right
        .admin
        .dismiss(&admission(&right, false))
        .await
        .unwrap();
    let admission = NewAdmission {
        cert: Some(batch),
        ..admission(&right, false)
    };
    right.admin.admit(&admission).await.unwrap();
    let root = right.pki().join("root-certificate.pem");
    std::fs::copy(root, config.join("root-certificate.pem")).unwrap();
    member.serve_by(after.address);
    let took = comes_in(&mut member, SOON).await;
    assert!(took < 2 * MINUTE, "it notices by itself: {took:?}");
    assert_eq!(member.onboarding().server, after.address.to_string());
    assert!(right.devices_are_there().await && !wrong.devices_are_there().await);
}

#[tokio::test]
async fn trust_onboarding_after_refusals_of_every_kind() {
    let site = Site::new().await;
    site.admin.dismiss(&admission(&site, false)).await.unwrap();
    let front = front(&site, None).await;
    let mut member = Member::new(&site, front.address);
    is_refused(&mut member, "403").await;
    for code in [401, 409, 422, 500, 503] {
        for endpoint in ["register", "uuid"] {
            front.fault(endpoint, Some(Fault::Code(code)));
        }
        is_refused(&mut member, &code.to_string()).await;
    }
    for endpoint in ["register", "uuid"] {
        front.fault(endpoint, None);
    }
    // It registers, and waits for a person.
    site.admin.admit(&admission(&site, true)).await.unwrap();
    let registered = async || site.devices_are_there().await;
    assert!(member.lives.until(SOON, registered).await.is_some());
    member.lives.pass(MINUTE).await;
    is_refused(&mut member, "403").await;
    site.admin
        .claim(site.serial(), &Claim::default())
        .await
        .unwrap();
    comes_in(&mut member, SOON).await;
    site.want(WANTED).await;
    member.lives.pass(3 * MINUTE).await;
    let channel = member.channel();
    assert_eq!(
        (channel.config_source, channel.fault),
        (ConfigSource::Controller, None)
    );
}

#[tokio::test]
async fn trust_onboarding_when_another_box_has_the_serial() {
    let site = Site::new().await;
    let one = front(&site, None).await;
    let mut first = Member::new(&site, one.address);
    comes_in(&mut first, SOON).await;
    let mut second = Member::new(&site, one.address);
    is_refused(&mut second, "409").await;
    assert_eq!(first.onboarding().phase, OnboardPhase::Onboarded);
    // The first one was replaced.
    site.admin.delete_device(site.serial()).await.unwrap();
    comes_in(&mut second, SOON).await;
    assert_ne!(second.onboarding().device, first.onboarding().device);
}

#[tokio::test]
async fn trust_onboarding_under_another_name() {
    let site = Site::new().await;
    let front = front(&site, None).await;
    let mut member = Member::new(&site, front.address);
    comes_in(&mut member, SOON).await;
    site.want(WANTED).await;
    let bus = member.bus.clone();
    let hash = || {
        let rows = bus.read(&model::topics::ZEDAGENT_STATUS).unwrap();
        let status = rows.unwrap_or_default().remove("zedagent");
        status.map_or(String::new(), |status| status.config_hash)
    };
    let has_config = async || !hash().is_empty();
    assert!(member.lives.until(SOON, has_config).await.is_some());
    let (old, old_hash) = (member.onboarding().device.unwrap(), hash());

    // The controller forgot it; it comes as if it were new, and gets another name.
    site.admin.delete_device(site.serial()).await.unwrap();
    let again = async || site.devices_are_there().await;
    assert!(member.lives.until(2 * SOON, again).await.is_some());
    site.want(WANTED).await;
    let renamed = async || hash() != old_hash;
    assert!(member.lives.until(SOON, renamed).await.is_some());
    let new = member.onboarding().device.unwrap();
    assert_ne!(new, old);
    assert_eq!(new.0, site.device().await.uuid);
    assert_eq!(member.channel().fault, None);
}
