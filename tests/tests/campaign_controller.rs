//! Every fault of every endpoint of the controller, against the services that speak with it: real TLS on loopback, the
//! real controller behind it, hours in seconds.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{panic::AssertUnwindSafe, time::Duration};

use evc::decide::messages::Kind;
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream};
use model::{
    code::Code,
    fault::Fault as Told,
    node::{AttestPhase, ConfigSource, OnboardPhase},
};
use scenarios::outside::{Fault, Front, Member, Seen, Site};

const MINUTE: Duration = Duration::from_secs(60);
/// Faults last so long.
const TROUBLE: Duration = Duration::from_secs(20 * 60);
/// Those that cost each request its real time last so long.
const SLOW_TROUBLE: Duration = Duration::from_secs(6 * 60);
/// After a fault everything is well again within so long: the longest pause between two tries, and a bit.
const HEALED: Duration = Duration::from_secs(16 * 60);
/// Cells of a table that run at once.
const AT_ONCE: usize = 6;

const PROPERTIES: &str = "timer.config.interval: 60, timer.send.timeout: 10, timer.dial.timeout: 10, newlog.allow.fastupload: true";

/// What the device shall be, with metrics every so many seconds.
fn wanted(metrics: u64) -> String {
    format!(
        r#"
properties: {{{PROPERTIES}, timer.metric.interval: {metrics}}}
networks: [{{name: dhcp}}]
ports: [{{name: eth0, network: dhcp}}]
datastores: [{{name: store, url: "https://store.example:8443", path: images}}]
images:
- {{name: debian, datastore: store, file: debian.qcow2, size: 209MiB, sha256: {}}}
volumes: [{{name: root, image: debian, size: 2GiB}}]
network_instances: [{{name: nat, port: eth0, subnet: 10.11.0.0/24}}]
apps:
- name: vm
  memory: 512MiB
  volumes: [root]
  interfaces: [{{name: eth0, network: nat}}]
"#,
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )
}

struct Cell {
    site: Site,
    front: Front,
    member: Member,
    what: String,
}

impl Cell {
    /// A new device, and what it shall be.
    async fn new(what: String) -> Self {
        let site = Site::new().await;
        let (clock, hand) = agent::Clock::by_hand(jiff::Timestamp::now());
        let front = Front::before(site.address, &site.pki(), clock.clone()).await;
        let member = Member::with(&site, front.address, clock, hand);
        Self {
            site,
            front,
            member,
            what,
        }
    }

    /// It is onboarded, has its config, and told everything.
    async fn settled(what: String) -> Self {
        let mut cell = Self::new(what).await;
        cell.member.app("one");
        cell.member.print("line one");
        let began = cell
            .member
            .lives
            .until(5 * MINUTE, async || cell.site.devices_are_there().await)
            .await;
        assert!(began.is_some(), "{}: never registered", cell.what);
        cell.site.want(&wanted(300)).await;
        cell.converged("begin", "one", "line one", None).await;
        cell
    }

    fn onboarded(&self) -> bool {
        self.member.onboarding().phase == OnboardPhase::Onboarded
    }

    /// Everything is well: another config than `old` is in force, the app's state and the line arrived.
    async fn converged(&mut self, when: &str, app: &str, line: &str, old: Option<&str>) {
        let Self {
            site,
            front,
            member,
            what,
        } = self;
        let bus = member.bus.clone();
        let channel = || {
            let rows = bus.read(&model::topics::ZEDAGENT_STATUS).unwrap();
            rows.unwrap_or_default().get("zedagent").cloned()
        };
        let well = async || {
            let Some(channel) = channel() else {
                return false;
            };
            channel.config_source == ConfigSource::Controller
                && channel.attest == AttestPhase::Complete
                && channel.fault.is_none()
                && Some(channel.config_hash.as_str()) != old
                && site
                    .told(Kind::Info, None)
                    .await
                    .iter()
                    .any(|message| message.contains(&format!("\"{app}\"")))
                && site.lines().await.iter().any(|l| l == line)
        };
        let took = member.lives.until(HEALED, well).await;
        let journal = member.journal();
        let late = journal.values().filter(|record| record.fault.is_some());
        assert!(
            took.is_some(),
            "{what}, {when}: not well; onboarding {:?}, channel {:?}, logs {:?}, journal {:?}, lines {:?}, seen {:?}",
            member.onboarding(),
            member.channel(),
            member.logs().fault,
            late.collect::<Vec<_>>(),
            site.lines().await,
            summary(&front.take()),
        );
    }
}

fn summary(seen: &[Seen]) -> Vec<String> {
    seen.iter()
        .map(|s| format!("{} {} {:?}", s.at.as_secs(), s.endpoint, s.code))
        .collect()
}

fn lasts(fault: Fault) -> Duration {
    match fault {
        Fault::Hangs | Fault::Drips => SLOW_TROUBLE,
        _ => TROUBLE,
    }
}

/// What may be said about a fault.
fn codes(endpoint: &str, fault: Fault) -> &'static [Code] {
    use Code::{
        ConfigParse, ConfigSignature, ControllerCert, ControllerRefused, ControllerTls,
        ControllerUnreachable, ReportRefused,
    };
    match (endpoint, fault) {
        ("info", Fault::Code(404 | 409 | 422)) | ("newlogs", Fault::Code(409 | 422)) => {
            return &[ReportRefused];
        }
        _ => {}
    }
    match fault {
        Fault::Code(_) | Fault::Busy(..) | Fault::Flaps | Fault::Redirects => &[ControllerRefused],
        Fault::Expired | Fault::NotYet | Fault::Foreign => &[ControllerTls],
        Fault::Garbage => &[ConfigParse, ConfigSignature, ControllerCert],
        Fault::Resets
        | Fault::Hangs
        | Fault::Drips
        | Fault::Short
        | Fault::Huge
        | Fault::Portal
        | Fault::Down
        | Fault::Plain => &[ControllerUnreachable],
    }
}

/// A fault says what, and when the next try is.
fn check_told(what: &str, told: Option<&Told>, codes: &[Code], now: jiff::Timestamp) {
    let Some(told) = told else {
        panic!("{what}: nothing is said");
    };
    assert!(codes.contains(&told.code), "{what}: {}", told.line());
    let next = told
        .next
        .unwrap_or_else(|| panic!("{what}: no next try: {}", told.line()));
    let wait = next.duration_since(now).as_secs();
    assert!(
        (-5..=1100).contains(&wait),
        "{what}: next try in {wait} s: {}",
        told.line()
    );
}

/// Requests of an endpoint are so few, and not before the controller said.
fn check_pace(what: &str, seen: &[Seen], endpoint: &str, fault: Fault, most: usize) {
    let at: Vec<f64> = seen
        .iter()
        .filter(|s| s.endpoint == endpoint || s.endpoint == "connection")
        .map(|s| s.at.as_secs_f64())
        .collect();
    assert!(!at.is_empty(), "{what}: never tried");
    assert!(at.len() <= most, "{what}: {} tries at {at:?}", at.len());
    if let Some(asked) = fault.asks_for() {
        #[allow(clippy::cast_precision_loss, reason = "a few hundred seconds")]
        let asked = asked as f64;
        for pair in at.windows(2) {
            assert!(pair[1] - pair[0] >= asked, "{what}: tries at {at:?}");
        }
    }
}

/// Runs the cells of a table, some at once.
async fn table(cells: Vec<LocalBoxFuture<'_, ()>>) {
    let caught = cells
        .into_iter()
        .map(|cell| AssertUnwindSafe(cell).catch_unwind());
    let ended: Vec<_> = stream::iter(caught)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed = ended.iter().filter(|cell| cell.is_err()).count();
    assert_eq!(failed, 0, "of {} cells; their words are above", ended.len());
}

/// A fault meets a device that was never onboarded.
async fn first_contact(endpoint: &'static str, fault: Fault) {
    let mut cell = Cell::new(format!("first {endpoint} {fault:?}")).await;
    cell.front.fault(endpoint, Some(fault));
    cell.member.app("one");
    cell.member.print("line one");
    cell.member.pass(lasts(fault)).await;
    let seen = cell.front.take();
    let what = cell.what.clone();
    let now = cell.member.lives.clock.now();
    let expected = codes(endpoint, fault);
    if fault != Fault::Flaps {
        match endpoint {
            "config" => {
                assert_eq!(cell.member.channel().config_source, ConfigSource::None);
                check_told(&what, cell.member.channel().fault.as_ref(), expected, now);
            }
            "attest" => {
                // This controller gives no config without a token: that is what is said first.
                let expected = [expected, &[Code::ControllerRefused]].concat();
                check_told(&what, cell.member.channel().fault.as_ref(), &expected, now);
            }
            _ => {
                assert!(!cell.onboarded(), "{what}: onboarded");
                check_told(
                    &what,
                    cell.member.onboarding().fault.as_ref(),
                    expected,
                    now,
                );
            }
        }
    }
    // 20 minutes: 1, 2, 4 ... 512 s, and at most one a minute for the config.
    let most = match endpoint {
        "config" => 60,
        "attest" => 40,
        _ => 18,
    };
    check_pace(&what, &seen, endpoint_of(endpoint), fault, most);
    cell.front.fault(endpoint, None);
    let there = cell
        .member
        .lives
        .until(HEALED, async || cell.site.devices_are_there().await)
        .await;
    assert!(there.is_some(), "{what}: not registered after it");
    cell.site.want(&wanted(300)).await;
    cell.converged("after it", "one", "line one", None).await;
}

/// With no connection at all the first endpoint is the one that suffers.
fn endpoint_of(endpoint: &'static str) -> &'static str {
    if endpoint.is_empty() {
        "certs"
    } else {
        endpoint
    }
}

/// A fault meets a device that does its work.
async fn at_work(endpoint: &'static str, fault: Fault) {
    let mut cell = Cell::settled(format!("at work {endpoint} {fault:?}")).await;
    let what = cell.what.clone();
    let (apps, hash) = (cell.member.apps(), cell.member.channel().config_hash);
    assert!(!apps.is_empty());
    cell.front.take();
    cell.front.fault(endpoint, Some(fault));
    cell.site.want(&wanted(301)).await;
    cell.member.app("two");
    cell.member.print("line two");
    cell.member.pass(lasts(fault)).await;
    let seen = cell.front.take();
    let now = cell.member.lives.clock.now();
    let expected = codes(endpoint, fault);
    assert_eq!(cell.member.apps(), apps, "{what}: an app is touched");
    if fault != Fault::Flaps {
        let channel = cell.member.channel();
        if matches!(endpoint, "config" | "") {
            assert_eq!(channel.config_hash, hash, "{what}: another config");
            check_told(&what, channel.fault.as_ref(), expected, now);
        }
        if matches!(endpoint, "info" | "") {
            let journal = cell.member.journal();
            let told = journal.values().find_map(|record| record.fault.clone());
            check_told(&what, told.as_ref(), codes("info", fault), now);
        }
        if matches!(endpoint, "newlogs" | "") {
            let told = cell.member.logs().fault;
            let told = told.unwrap_or_else(|| panic!("{what}: nothing is said of logs"));
            assert!(
                codes("newlogs", fault).contains(&told.code),
                "{what}: {}",
                told.line()
            );
        }
    }
    let most = match endpoint {
        // Four messages at once, each at most once a minute.
        "info" => 120,
        // Metrics every 90 to 300 s.
        "metrics" => 16,
        // Fast upload until it fails for 20 minutes.
        "newlogs" => 450,
        "" => 120 + 16 + 450 + 60,
        _ => 60,
    };
    check_pace(
        &what,
        &seen,
        endpoint,
        if endpoint == "info" {
            Fault::Down
        } else {
            fault
        },
        most,
    );
    cell.front.fault(endpoint, None);
    let before = cell.site.told(Kind::Metrics, None).await.len();
    let mut line = "line two";
    if endpoint == "newlogs" && codes(endpoint, fault) == [Code::ReportRefused] {
        // The file with that line was refused for its content, again and again. It stays on the disk.
        assert!(cell.member.refused_logs() > 0, "{what}: not kept");
        line = "line three";
        cell.member.print(line);
    }
    cell.converged("after it", "two", line, Some(&hash)).await;
    let site = &cell.site;
    let more = cell
        .member
        .lives
        .until(HEALED, async || {
            site.told(Kind::Metrics, None).await.len() > before
        })
        .await;
    assert!(more.is_some(), "{what}: no metrics after it");
    assert_eq!(cell.member.apps(), apps, "{what}: an app is touched");
}

/// All faults meet the endpoints that differ most, and the others only those that they may take differently, unless all are
/// asked for (`ALL=1`), or one (`CELL='config Hangs'`).
fn is_in_short_run(endpoint: &str, fault: Fault) -> bool {
    if let Ok(cell) = std::env::var("CELL") {
        return cell == format!("{endpoint} {fault:?}");
    }
    let usual = matches!(
        fault,
        Fault::Code(403 | 404 | 429)
            | Fault::Busy(503, _)
            | Fault::Resets
            | Fault::Portal
            | Fault::Flaps
    );
    let slow = matches!(fault, Fault::Hangs | Fault::Drips);
    std::env::var_os("ALL").is_some() || usual || (matches!(endpoint, "config" | "info") && !slow)
}

fn cells<'a, F: Future<Output = ()> + 'a>(
    endpoints: &[&'static str],
    run: impl Fn(&'static str, Fault) -> F,
) -> Vec<LocalBoxFuture<'a, ()>> {
    let mut cells: Vec<LocalBoxFuture<'a, ()>> = Vec::new();
    for endpoint in endpoints {
        for fault in Fault::OF_ONE {
            // A report needs no answer but a code of success; version 1 is what a 404 to certs means at first.
            let pointless = matches!(
                (*endpoint, fault),
                ("register" | "info" | "metrics" | "newlogs", Fault::Garbage)
                    | ("certs", Fault::Code(404))
            );
            if !pointless && is_in_short_run(endpoint, fault) {
                cells.push(Box::pin(run(endpoint, fault)));
            }
        }
    }
    for fault in Fault::OF_ALL {
        if std::env::var_os("CELL").is_none() || is_in_short_run("", fault) {
            cells.push(Box::pin(run("", fault)));
        }
    }
    cells
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_faults_at_first_contact() {
    let endpoints = ["certs", "register", "uuid", "attest", "config"];
    table(cells(&endpoints, first_contact)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_faults_at_work() {
    let endpoints = ["config", "info", "metrics", "newlogs"];
    table(cells(&endpoints, at_work)).await;
}

/// The controller signs with another key from one moment to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_rotates_its_keys() {
    let mut cell = Cell::settled("rotation".to_owned()).await;
    let (apps, hash) = (cell.member.apps(), cell.member.channel().config_hash);
    cell.site = cell.site.with_new_keys().await;
    cell.front.moved(cell.site.address);
    cell.front.take();
    cell.site.want(&wanted(301)).await;
    cell.member.app("two");
    cell.member.print("line two");
    cell.converged("after it", "two", "line two", Some(&hash))
        .await;
    let seen = cell.front.take();
    let fetched = seen.iter().filter(|s| s.endpoint == "certs").count();
    assert!((1..=2).contains(&fetched), "{:?}", summary(&seen));
    assert_eq!(cell.member.apps(), apps);
}

/// Half a day without the controller, and restarts in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_is_away_for_long() {
    let mut cell = Cell::settled("away".to_owned()).await;
    let (apps, hash) = (cell.member.apps(), cell.member.channel().config_hash);
    cell.site.want(&wanted(301)).await;
    cell.front.fault("", Some(Fault::Down));
    cell.front.take();
    for hour in 0..12 {
        cell.member.app(&format!("hour {hour}"));
        cell.member.print("line of the night");
        if hour % 5 == 4 {
            cell.member.restart();
        }
        cell.member.pass(60 * MINUTE).await;
    }
    // Config and four reports once a minute at most, metrics every few minutes, logs.
    let tries = cell.front.take().len();
    assert!((600..=6000).contains(&tries), "{tries} tries in 12 hours");
    assert_eq!(cell.member.apps(), apps);
    cell.member.app("two");
    cell.member.print("line two");
    cell.front.fault("", None);
    cell.converged("after it", "two", "line two", Some(&hash))
        .await;
    let lines = cell.site.lines().await;
    let kept = lines.iter().filter(|l| *l == "line of the night").count();
    assert_eq!(kept, 12, "no line is lost");
}

/// A device whose clock says 1970 gets to work, and a device at work does not mind what its clock says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_clock_of_1970() {
    let site = Site::new().await;
    let (clock, hand) = agent::Clock::by_hand(jiff::Timestamp::UNIX_EPOCH);
    let front = Front::before(site.address, &site.pki(), clock.clone()).await;
    let member = Member::with(&site, front.address, clock, hand);
    let mut cell = Cell {
        site,
        front,
        member,
        what: "1970".to_owned(),
    };
    cell.member.app("one");
    cell.member.print("line one");
    let site = &cell.site;
    let there = cell
        .member
        .lives
        .until(5 * MINUTE, async || site.devices_are_there().await);
    assert!(there.await.is_some(), "{:?}", cell.member.onboarding());
    cell.site.want(&wanted(300)).await;
    cell.converged("in 1970", "one", "line one", None).await;
    let hash = cell.member.channel().config_hash;
    cell.site.want(&wanted(301)).await;
    cell.member.app("two");
    cell.member.print("line two");
    let to_now = jiff::Timestamp::now().duration_since(cell.member.lives.clock.now());
    cell.member.lives.hand.jump(to_now);
    cell.converged("today", "two", "line two", Some(&hash))
        .await;
}

/// The wall clock jumps by years, there and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_clock_jumps() {
    let year = jiff::SignedDuration::from_hours(24 * 365);
    let mut cell = Cell::settled("jumps".to_owned()).await;
    let apps = cell.member.apps();
    let mut config = 300;
    for (number, jump) in [-6, -50, 15, -1].into_iter().enumerate() {
        let name = format!("jump {number}");
        let hash = cell.member.channel().config_hash;
        config += 1;
        cell.site.want(&wanted(config)).await;
        cell.member.app(&name);
        cell.member.print(&name);
        cell.front.take();
        cell.member.lives.hand.jump(year * jump);
        cell.member.pass(TROUBLE).await;
        let seen = cell.front.take();
        assert!(seen.len() <= 400, "{name}: {:?}", summary(&seen));
        if jump > 0 {
            // By this clock the controller's certificate is over.
            let channel = cell.member.channel();
            let now = cell.member.lives.clock.now();
            check_told(&name, channel.fault.as_ref(), &[Code::ControllerTls], now);
        } else {
            cell.converged(&name, &name, &name, Some(&hash)).await;
        }
        cell.member.lives.hand.jump(-year * jump);
        cell.converged(&name, &name, &name, Some(&hash)).await;
        assert_eq!(cell.member.apps(), apps, "{name}: an app is touched");
    }
}

/// The CONFIG partition names another server while the device is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_controller_moves() {
    let mut cell = Cell::settled("moves".to_owned()).await;
    let (apps, hash) = (cell.member.apps(), cell.member.channel().config_hash);
    let clock = cell.member.lives.clock.clone();
    let other = Front::before(cell.site.address, &cell.site.pki(), clock).await;
    cell.front.fault("", Some(Fault::Down));
    cell.member.serve_by(other.address);
    cell.site.want(&wanted(301)).await;
    cell.member.app("two");
    cell.member.print("line two");
    let former = std::mem::replace(&mut cell.front, other);
    cell.converged("after it", "two", "line two", Some(&hash))
        .await;
    let seen = cell.front.take();
    for endpoint in ["certs", "uuid", "attest", "config", "info", "newlogs"] {
        assert!(
            seen.iter().any(|s| s.endpoint == endpoint),
            "{endpoint}: {:?}",
            summary(&seen)
        );
    }
    former.take();
    cell.member.pass(5 * MINUTE).await;
    assert!(
        former.take().is_empty(),
        "nobody speaks with the former one"
    );
    assert_eq!(cell.member.apps(), apps);
}
