//! A device proves its software to the real controller, by a TPM in memory: what is accepted, what is not, what each
//! side says of it, and what a TPM in trouble leads to.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use evc::{
    admin::{Accept, AttestView, DeviceOrder},
    decide::attest::baseline::Comparison,
};
use jiff::Timestamp;
use model::{
    code::Code,
    node::{AttestPhase, ConfigSource, MaintenanceReason},
};
use scenarios::outside::{Front, Member, Site};
use tpm::{MemoryTpm, Pcr, Tpm as _, Trouble, TroubleKind};

const MINUTE: Duration = Duration::from_secs(60);
/// The longest pause between two tries, and a bit.
const SOON: Duration = Duration::from_secs(16 * 60);
const WANTED: &str = "properties: {timer.config.interval: 60, timer.send.timeout: 10}\n\
    networks: [{name: dhcp}]\nports: [{name: eth0, network: dhcp}]\n";

struct Scene {
    site: Site,
    front: Front,
    member: Member,
    tpm: MemoryTpm,
}

impl Scene {
    /// A device with a TPM that was let in.
    async fn new(policy: &str) -> Self {
        let site = Site::new().await;
        let clock = agent::Clock::by_hand(Timestamp::now()).0;
        let front = Front::before(site.address, &site.pki(), clock).await;
        let (member, tpm) = Member::with_tpm(&site, front.address);
        let mut scene = Self {
            site,
            front,
            member,
            tpm,
        };
        let there = async || scene.site.devices_are_there().await;
        assert!(scene.member.lives.until(SOON, there).await.is_some());
        scene.site.want(&format!("{WANTED}{policy}")).await;
        scene.member.pass(3 * MINUTE).await;
        scene
    }

    async fn view(&self) -> AttestView {
        let serial = self.site.serial();
        self.site.admin.attestation(serial).await.unwrap()
    }

    /// The controller wants another attestation; the device has time for it.
    async fn again(&mut self) {
        let order = self
            .site
            .admin
            .order(self.site.serial(), DeviceOrder::Attest);
        order.await.unwrap();
        self.member.pass(3 * MINUTE).await;
    }

    async fn extend(&self, pcr: u32) {
        let pcr = Pcr::new(pcr).unwrap();
        self.tpm.extend_pcr(pcr, [7; 32]).await.unwrap();
    }

    async fn accept(&self) {
        let accept = Accept {
            name: "seen".to_owned(),
            model: false,
        };
        let serial = self.site.serial();
        self.site.admin.accept(serial, &accept).await.unwrap();
    }

    fn is_in(&self) -> bool {
        let channel = self.member.channel();
        channel.attest == AttestPhase::Complete && channel.fault.is_none()
    }

    /// The device says so.
    async fn says(&mut self, words: &str) {
        let bus = self.member.bus.clone();
        let says_so = async || {
            let rows = bus.read(&model::topics::ZEDAGENT_STATUS).unwrap().unwrap();
            let fault = &rows["zedagent"].fault;
            fault.as_ref().is_some_and(|f| f.line().contains(words))
        };
        let took = self.member.lives.until(SOON, says_so).await;
        assert!(took.is_some(), "{words}: {:?}", self.member.channel());
    }

    async fn comes_in(&mut self) {
        let bus = self.member.bus.clone();
        let is_in = async || {
            let rows = bus.read(&model::topics::ZEDAGENT_STATUS).unwrap().unwrap();
            let channel = &rows["zedagent"];
            channel.attest == AttestPhase::Complete && channel.fault.is_none()
        };
        let took = self.member.lives.until(2 * SOON, is_in).await;
        assert!(took.is_some(), "{:?}", self.member.channel());
    }
}

fn trouble(kind: TroubleKind) -> Trouble {
    Trouble {
        kind,
        text: "it went".to_owned(),
        since: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn trust_what_was_accepted_comes_in_and_what_changed_is_named_on_both_sides() {
    let mut scene = Scene::new("policy: {measurements: enforce}\n").await;
    // Nobody has looked at it yet. The device has the config that it was given before that was asked.
    scene.again().await;
    let view = scene.view().await;
    assert_eq!(view.comparison, Some(Comparison::NoBaseline), "{view:?}");
    let channel = scene.member.channel();
    assert_eq!(channel.fault.as_ref().unwrap().code, Code::AttestRefused);
    assert_eq!(channel.config_source, ConfigSource::Controller);
    scene.accept().await;
    scene.comes_in().await;
    let view = scene.view().await;
    assert_eq!(view.comparison, Some(Comparison::Accepted));
    assert!(view.note.contains("by TPM quote"), "{view:?}");
    let state = view.state.unwrap();
    assert_eq!(state.pcrs.len(), 16);
    assert!(
        state.versions.iter().any(|v| v.starts_with("EVE ")),
        "{state:?}"
    );

    // Another kernel command line.
    scene.extend(8).await;
    scene.again().await;
    let view = scene.view().await;
    let Some(Comparison::Changed(changes)) = &view.comparison else {
        panic!("{view:?}")
    };
    let changed: Vec<_> = changes
        .iter()
        .map(|c| (c.pcr, c.component.as_str()))
        .collect();
    assert_eq!(changed, [(8, "bootloader commands and kernel parameters")]);
    let channel = scene.member.channel();
    let fault = channel.fault.unwrap();
    assert_eq!(fault.code, Code::AttestRefused, "{}", fault.line());
    assert!(fault.line().contains("PCR 8"), "{}", fault.line());
    assert!(fault.next.is_some() && fault.attempts > 0);
    assert_eq!(
        channel.config_source,
        ConfigSource::Controller,
        "the last one stays"
    );
    assert!(channel.maintenance.is_empty());

    scene.accept().await;
    scene.comes_in().await;
    assert!(scene.view().await.note.contains("as reviewed"));
}

#[tokio::test]
async fn trust_a_tpm_in_trouble_leads_to_no_empty_proof() {
    let mut scene = Scene::new("").await;
    assert!(scene.is_in(), "{:?}", scene.member.channel());
    let quoted = scene.view().await.quoted;
    for kind in [
        TroubleKind::Dead,
        TroubleKind::Lockout,
        TroubleKind::NoSha256,
        TroubleKind::Missing,
        TroubleKind::Keys,
    ] {
        scene.tpm.set_trouble(Some(trouble(kind)));
        let order = DeviceOrder::Attest;
        let serial = scene.site.serial();
        scene.site.admin.order(serial, order).await.unwrap();
        // What no time heals is tried at a slow pace.
        scene.says(&kind.to_string()).await;
        let channel = scene.member.channel();
        let fault = channel.fault.unwrap();
        assert_eq!(fault.code, Code::AttestQuote, "{kind}: {}", fault.line());
        assert!(fault.line().contains(&kind.to_string()), "{}", fault.line());
        assert!(fault.next.is_some(), "{kind}");
        assert_eq!(channel.attest, AttestPhase::QuoteWait, "{kind}");
        assert_eq!(channel.maintenance, [MaintenanceReason::TpmQuoteFailure]);
        assert_eq!(channel.config_source, ConfigSource::Controller);
        // The controller has seen nothing that it could judge.
        let view = scene.view().await;
        assert_eq!(view.quoted, quoted, "{kind}");
        assert_eq!(view.note, "ordered to attest again", "{kind}");
    }
    // tpmmgr is only away: a fault, but no reason to take on nothing new.
    scene.tpm.set_trouble(None);
    scene.tpm.set_unreachable(true);
    let away = async || false;
    assert!(scene.member.lives.until(SOON, away).await.is_none());
    let channel = scene.member.channel();
    assert_eq!(channel.fault.unwrap().code, Code::AttestQuote);
    assert!(channel.maintenance.is_empty());
    scene.tpm.set_unreachable(false);
    scene.comes_in().await;
    let view = scene.view().await;
    assert!(view.note.contains("by TPM quote"));
    assert!(scene.member.channel().maintenance.is_empty());
}

#[tokio::test]
async fn trust_a_controller_that_forgot_the_certificates_gets_them_again_at_once() {
    let mut scene = Scene::new("").await;
    assert!(scene.is_in(), "{:?}", scene.member.channel());
    // It forgot the device altogether, which comes in anew, under another name.
    let old = scene.member.onboarding().device;
    scene
        .site
        .admin
        .delete_device(scene.site.serial())
        .await
        .unwrap();
    let there = async || scene.site.devices_are_there().await;
    assert!(scene.member.lives.until(2 * SOON, there).await.is_some());
    scene.site.want(WANTED).await;
    scene.comes_in().await;
    assert_ne!(scene.member.onboarding().device, old);
    let view = scene.view().await;
    assert!(view.note.contains("by TPM quote"), "{view:?}");
    let asked = scene.front.take();
    let attest: Vec<_> = asked.iter().filter(|s| s.endpoint == "attest").collect();
    assert!(attest.iter().all(|s| s.code == Some(201)), "{attest:?}");
}
