//! The controller changes its keys, and no device loses a request for its config over it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use evc::decide::messages::Kind;
use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    node::ConfigSource,
    security::{ControllerCert, ControllerCertKind},
};
use scenarios::outside::{Fault, Front, Member, Site};

const MINUTE: Duration = Duration::from_secs(60);
const WANTED: &str = "properties: {timer.config.interval: 60, timer.send.timeout: 10}\n\
    networks: [{name: dhcp}]\nports: [{name: eth0, network: dhcp}]\n";

struct World {
    site: Site,
    front: Front,
    member: Member,
}

impl World {
    /// A device that has its config, at a time.
    async fn at(time: Timestamp) -> Self {
        let site = Site::new().await;
        let (clock, hand) = agent::Clock::by_hand(time);
        let front = Front::before(site.address, &site.pki(), clock.clone()).await;
        let member = Member::with(&site, front.address, clock, hand);
        let mut world = Self {
            site,
            front,
            member,
        };
        let there = async || world.site.devices_are_there().await;
        assert!(world.member.lives.until(5 * MINUTE, there).await.is_some());
        world.site.want(WANTED).await;
        world.until("its first config", Watched::is_current).await;
        world
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Watched) -> bool) {
        for _ in 0..600 {
            if is_so(&self.watched()) {
                return;
            }
            self.member.lives.pass(Duration::from_secs(1)).await;
        }
        let channel = self.member.channel();
        panic!("{what}: {channel:?} {:?}", self.front.take());
    }

    /// Lets time pass in which nothing is ever wrong with the channel, and every request is answered.
    async fn quietly(&mut self, minutes: u32) {
        self.front.take();
        for _ in 0..minutes * 60 {
            self.member.lives.pass(Duration::from_secs(1)).await;
            let channel = self.member.channel();
            assert_eq!(channel.fault, None);
            assert_eq!(self.member.onboarding().fault, None);
        }
        let seen = self.front.take();
        let polls: Vec<_> = seen.iter().filter(|s| s.endpoint == "config").collect();
        assert!(
            polls.len() >= usize::try_from(minutes).unwrap(),
            "{polls:?}"
        );
        let answered = |code: Option<u16>| matches!(code, Some(200 | 304));
        assert!(polls.iter().all(|s| answered(s.code)), "{polls:?}");
    }

    fn watched(&self) -> Watched {
        let channel = self.member.channel();
        Watched {
            source: channel.config_source,
            code: channel.fault.map(|fault| fault.code),
            certs: self.member.controller_certs().into_values().collect(),
        }
    }

    fn has_cert(&self, hash: &str, kind: ControllerCertKind) -> bool {
        let certs = self.member.controller_certs();
        certs.get(hash).is_some_and(|cert| cert.kind == kind)
    }
}

struct Watched {
    source: ConfigSource,
    code: Option<Code>,
    certs: Vec<ControllerCert>,
}

impl Watched {
    fn is_current(&self) -> bool {
        self.source == ConfigSource::Controller && self.code.is_none()
    }
}

#[tokio::test]
async fn trust_controller_certs_announced_ahead_lose_no_poll() {
    let mut world = World::at(Timestamp::now()).await;
    let old = world.site.signs_with();
    world.site.announces_new_keys();
    assert_eq!(world.site.signs_with(), old, "not yet");
    world.quietly(5).await;
    assert!(
        !world.has_cert(&old, ControllerCertKind::Signing),
        "the new one is known"
    );
    let exchange = |c: &&ControllerCert| c.kind == ControllerCertKind::EcdhExchange;
    let certs = world.watched().certs;
    assert_eq!(
        certs.iter().filter(exchange).count(),
        2,
        "secrets of both can be read"
    );

    let before = world.member.channel().config_hash;
    world.site.uses_new_keys();
    let new = world.site.signs_with();
    assert_ne!(new, old);
    world.quietly(5).await;
    assert!(world.has_cert(&new, ControllerCertKind::Signing));
    assert_ne!(
        world.member.channel().config_hash,
        before,
        "signed anew, to be kept"
    );
}

#[tokio::test]
async fn trust_controller_certs_replaced_at_once_lose_no_poll() {
    let mut world = World::at(Timestamp::now()).await;
    for _ in 0..3 {
        world.site.replaces_its_keys();
        let new = world.site.signs_with();
        world.quietly(3).await;
        assert!(world.has_cert(&new, ControllerCertKind::Signing));
    }
}

#[tokio::test]
async fn trust_controller_certs_of_before_open_what_they_signed() {
    let mut world = World::at(Timestamp::now()).await;
    world.site.announces_new_keys();
    let old = world.site.signs_with();
    // The config that tells of the new ones is signed with the former one, and is what is on the disk.
    world.quietly(5).await;
    assert!(!world.has_cert(&old, ControllerCertKind::Signing));
    world.front.fault("", Some(Fault::Down));
    world.member.restart();
    world
        .until("the saved config", |m| m.source == ConfigSource::Saved)
        .await;
    assert_eq!(world.watched().code, Some(Code::ControllerUnreachable));
    // After the boot the controller still uses the former one, and then the new one.
    world.front.fault("", None);
    world.until("it is back", Watched::is_current).await;
    world.quietly(3).await;
    world.site.uses_new_keys();
    world.quietly(3).await;
    // Those of before are not the controller's any more.
    world.site.goes_back_to_former_keys();
    world
        .until("a miss", |m| m.code == Some(Code::ControllerCert))
        .await;
}

#[tokio::test]
async fn trust_controller_certs_that_end_are_told_ahead() {
    // They last for 825 days.
    let month_before = Timestamp::now() + SignedDuration::from_hours((825 - 30) * 24);
    let mut world = World::at(month_before).await;
    let ending = world.member.channel().ending_certs;
    let kinds: Vec<_> = ending
        .iter()
        .map(|cert| (cert.kind, cert.has_ended))
        .collect();
    assert_eq!(kinds.len(), 2, "{ending:?}");
    assert!(kinds.contains(&(ControllerCertKind::Signing, false)));
    assert!(kinds.contains(&(ControllerCertKind::EcdhExchange, false)));
    world.quietly(3).await;
    let told = world.site.told(Kind::Info, None).await;
    assert!(
        told.iter()
            .any(|m| m.contains("controller: signing") && m.contains("evc pki rotate")),
        "{told:?}"
    );
}
