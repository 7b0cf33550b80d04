//! Real processes in distress: whatever is killed, frozen, starved or panics while an application is deployed, changed,
//! restarted, purged and removed, its guest goes on, nothing is done twice and nothing is left behind.
//!
//! `SEED=n` replays a campaign (1 unless given), `ROUNDS=n` gives it that many lives of an application (1 unless given).
//! A seed draws what is done and harmed, and when; what meets what in the device is up to the machine.

mod asker;
mod harm;
mod traces;

use std::{
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use demo::{Options, Stage};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use crate::{
    life::SERVICES,
    support::{MAPPED, PATIENCE, manifest, onboarded_with, user_data, view},
};
use asker::{Asker, Who};
use harm::{Harm, Kind, PLACES, Place};
use traces::Traces;

/// Heartbeat of services here, in seconds: a busy machine must not look like a hang.
const HEARTBEAT: u32 = 8;
/// The port that a changed ACL opens.
const SECOND: u16 = MAPPED + 1;
/// An emulated guest that starts on a machine with much else to do.
const BOOT: Duration = Duration::from_secs(300);
/// A line on which the image (14 MB) takes some 6 s.
const SLOW_KBITS: u32 = 20_000;
/// When a change has surely reached a device that asks every 5 s.
const LATE: Duration = Duration::from_secs(7);
/// How long nothing may happen after a step, for what comes late.
const QUIET: Duration = Duration::from_secs(2);

/// What is done with a running application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Steady,
    /// One more port map, or one less.
    Acl,
    /// Other labels and properties of the device.
    Describe,
    Restart,
    Purge,
}

/// A campaign's dice.
struct Dice {
    rng: SmallRng,
    /// Services not harmed yet, so that each has its turn.
    bag: Vec<&'static str>,
}

impl Dice {
    fn number(name: &str, otherwise: u64) -> u64 {
        std::env::var(name).map_or(otherwise, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name}={text} is no number"))
        })
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(0..2500))
    }

    fn service(&mut self) -> &'static str {
        if self.bag.is_empty() {
            self.bag = SERVICES.to_vec();
            self.bag.shuffle(&mut self.rng);
        }
        self.bag.pop().unwrap()
    }

    fn harm(&mut self) -> Harm {
        let service = self.service();
        match self.below(12) {
            0..=2 => Harm::One(Kind::Kill, service),
            3 | 4 => Harm::One(Kind::Freeze, service),
            5 | 6 => Harm::One(Kind::Memory(self.of(&PLACES)), service),
            7 | 8 => Harm::One(Kind::Panic(self.of(&PLACES)), service),
            9 => Harm::One(Kind::Panic(Place::IN_ACTION), service),
            10 => Harm::Two(service, self.service()),
            _ => Harm::Supervisor(service),
        }
    }
}

/// One application from its deployment to its removal.
struct Life<'a> {
    stage: &'a Stage,
    dice: &'a mut Dice,
    asker: &'a Asker,
    supervisors: &'a mut u32,
    began: Instant,
    is_wide: bool,
}

impl Life<'_> {
    fn say(&self, what: &str) {
        eprintln!("{:7.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Does harm so many times from now on; gives the services that were hurt.
    fn harms(&mut self, count: usize) -> Vec<&'static str> {
        let mut hurt = Vec::new();
        for turn in 0..count {
            let (harm, pause) = (self.dice.harm(), self.dice.pause());
            if turn > 0 {
                sleep(pause);
            } else if !harm.is_order() {
                // An order lies there before the device acts; a blow falls while it does.
                self.config_arrives();
                sleep(pause / 2);
            }
            self.say(&format!("{harm:?}"));
            let end = harm.inflict(self.stage, self.supervisors).unwrap();
            self.say(&format!("    {end}"));
            hurt.extend(harm.services());
        }
        hurt
    }

    /// Waits until the applications that the device is to have change, if they do.
    fn config_arrives(&self) {
        let dir = self.stage.device().root();
        let dir = dir.join("run/zedagent/AppInstanceConfig");
        let look = || -> Vec<_> {
            let rows = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            rows.map(|row| {
                (
                    row.file_name(),
                    row.metadata().and_then(|m| m.modified()).ok(),
                )
            })
            .collect()
        };
        let (before, deadline) = (look(), Instant::now() + LATE);
        while look() == before && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
    }

    /// The requests for the image so far.
    fn downloads(&self) -> Vec<String> {
        let log = self.stage.datastore().output();
        log.lines()
            .filter(|line| line.contains("method=GET") && line.contains("tiny.qcow2"))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until the guest that answers is as it should be.
    fn until(&self, what: &str, done: impl Fn(&Who) -> bool) -> Who {
        let mut found = None;
        self.stage
            .wait(what, BOOT, || {
                let last = self.asker.last();
                let is_done = last.as_ref().is_some_and(&done);
                found.clone_from(&last);
                last.with_context(|| "nobody answers".to_owned())?;
                Ok(is_done)
            })
            .unwrap_or_else(|e| panic!("{e:#}; last answer {:?}", self.asker.last()));
        found.unwrap()
    }

    fn deploy(&mut self) -> Who {
        let before = self.downloads().len();
        // On a slow line the download takes some seconds, and whoever is at it is hurt first.
        let is_slow = self.dice.below(2) == 0;
        self.say(if is_slow { "deploy slowly" } else { "deploy" });
        if is_slow {
            let line = lab::Fault::Slow(0, SLOW_KBITS);
            self.stage.world().fault(&line).unwrap();
            self.dice.bag.retain(|name| *name != "downloader");
            self.dice.bag.push("downloader");
        }
        let user_data = user_data();
        self.is_wide = false;
        self.stage
            .deploy(
                &manifest(),
                "edge",
                "tiny.qcow2",
                &["--user-data", &user_data],
            )
            .unwrap();
        let hurt = self.harms(2);
        if is_slow {
            self.stage.world().fault(&lab::Fault::Fast(0)).unwrap();
        }
        let who = self.until("the application answers", |_| true);
        self.say(&format!("answers: {who:?}"));
        assert_eq!(who.boots, 1, "booted once");
        let downloads = self.downloads().split_off(before);
        let interrupted = hurt.iter().filter(|name| **name == "downloader").count();
        assert!(
            (1..=1 + interrupted).contains(&downloads.len()),
            "{interrupted} interrupted: {downloads:#?}"
        );
        self.say(&format!("downloads: {downloads:?}"));
        who
    }

    /// One step with harm meanwhile, and what must be so after it.
    fn step(&mut self, step: Step, old: &Who) -> Who {
        self.say(&format!("{step:?}"));
        let (since, downloads) = (Instant::now(), self.downloads());
        let app = |verb: &str| self.stage.evc(&["app", verb, "web", "--device", "edge"]);
        match step {
            Step::Steady => {}
            Step::Acl => {
                self.is_wide = !self.is_wide;
                self.change_acl().unwrap();
            }
            Step::Describe => self.describe().unwrap(),
            Step::Restart => drop(app("restart").unwrap()),
            Step::Purge => drop(app("purge").unwrap()),
        }
        self.harms(2);
        let who = match step {
            Step::Steady | Step::Describe => old.clone(),
            Step::Acl => {
                self.second_port();
                old.clone()
            }
            Step::Restart => self.until("the guest restarts", |who| who.boots > old.boots),
            Step::Purge => self.until("the guest starts on a new volume", |who| {
                who.instance != old.instance
            }),
        };
        self.say("done");
        self.all_run();
        sleep(QUIET);
        match step {
            Step::Steady | Step::Acl | Step::Describe => {
                let gap = self.asker.longest_failure(since);
                assert!(gap < 2, "{gap} requests in a row without an answer");
            }
            Step::Restart => {
                assert_eq!(who.boots, old.boots + 1, "restarted once");
                assert_eq!(who.instance, old.instance);
            }
            Step::Purge => assert_eq!(who.boots, 1, "a new volume, booted once"),
        }
        let is_known = |seen: &Who| *seen == who || seen == old;
        let seen = self.asker.seen(since);
        assert!(
            seen.iter().all(is_known),
            "{old:?} -> {who:?}, but {seen:?}"
        );
        assert_eq!(self.downloads(), downloads, "nothing is downloaded again");
        who
    }

    fn change_acl(&self) -> Result<()> {
        let text = std::fs::read_to_string(manifest())?;
        let mut manifest: serde_json::Value = serde_json::from_str(&text)?;
        if self.is_wide {
            let acls = manifest.pointer_mut("/interfaces/0/acls").unwrap();
            let acls = acls.as_array_mut().unwrap();
            let mut second = acls[1].clone();
            second["matches"][1]["value"] = SECOND.to_string().into();
            acls.push(second);
        }
        let file = self.stage.world().dir().join("manifest.json");
        std::fs::write(&file, manifest.to_string())?;
        let user_data = user_data();
        self.stage
            .deploy(&file, "edge", "tiny.qcow2", &["--user-data", &user_data])?;
        Ok(())
    }

    /// Waits until the second port is as the ACL says.
    fn second_port(&self) {
        let second = std::net::SocketAddr::new(self.stage.device_address(), SECOND);
        let open = self.is_wide;
        self.stage
            .wait(
                &format!("the second port's state is {open}"),
                PATIENCE,
                || Ok(self.stage.get_from_outside(second, "/").is_ok() == open),
            )
            .unwrap();
    }

    fn describe(&mut self) -> Result<()> {
        let mut spec = spec(self.stage)?;
        let project = format!("project {}", self.dice.below(1000));
        spec["labels"]["project"] = project.into();
        spec["properties"]["timer.metric.interval"] = (60 + self.dice.below(60)).into();
        self.stage.apply(&spec.to_string())
    }

    /// Waits until every service runs.
    fn all_run(&self) {
        self.stage
            .wait("every service runs", PATIENCE, || {
                let services = view(self.stage).services;
                let down = SERVICES
                    .iter()
                    .find(|name| crate::support::pid(&services, name).is_none());
                down.map_or(Ok(true), |name| anyhow::bail!("{name} does not run"))
            })
            .unwrap();
        assert_eq!(
            self.stage.device().starts(),
            (1, *self.supervisors),
            "no boot but the first, no supervisor died but those killed"
        );
    }

    /// Takes back everything that the deployment brought: application, volume, image, network, datastore.
    fn remove(&mut self, bare: &str, before: &Traces) {
        self.say("remove");
        self.stage.apply(bare).unwrap();
        self.harms(2);
        let mut left = String::new();
        let gone = self.stage.wait("everything is gone", PATIENCE, || {
            left = before.difference(&Traces::of(self.stage)?);
            Ok(left.is_empty())
        });
        if let Err(error) = gone {
            panic!("{error:#}\nleft (+) or lost (-):\n{left}");
        }
        self.all_run();
        self.say("gone");
    }
}

/// What the device is to be, in the words of `apply`.
fn spec(stage: &Stage) -> Result<serde_json::Value> {
    let mut spec = stage.evc(&["device", "config", "edge", "--spec"])?;
    spec["device"] = "edge".into();
    Ok(spec)
}

#[test]
fn campaign_processes_die_and_the_guest_lives() {
    let (seed, rounds) = (Dice::number("SEED", 1), Dice::number("ROUNDS", 1));
    println!("SEED={seed} ROUNDS={rounds}");
    let mut dice = Dice {
        rng: SmallRng::seed_from_u64(seed),
        bag: Vec::new(),
    };
    let stage = onboarded_with(&Options {
        drill: Some(HEARTBEAT),
        ..Options::of_this_build().unwrap()
    });
    let mut supervisors = 0;
    let began = Instant::now();
    let asker = Asker::default();
    let bare = spec(&stage).unwrap().to_string();
    let before = Traces::settled(&stage).unwrap();
    scope(|scope| {
        let _end = asker.end_with_this();
        scope.spawn(|| asker.ask(&stage));
        for round in 0..rounds {
            eprintln!("life {round} of seed {seed}");
            let mut life = Life {
                stage: &stage,
                dice: &mut dice,
                asker: &asker,
                supervisors: &mut supervisors,
                began,
                is_wide: false,
            };
            asker.forget();
            let mut who = life.deploy();
            let quiet = life
                .dice
                .of(&[Step::Steady, Step::Acl, Step::Acl, Step::Describe]);
            let loud = life.dice.of(&[Step::Restart, Step::Purge]);
            let steps = if life.dice.below(2) == 0 {
                [quiet, loud]
            } else {
                [loud, quiet]
            };
            for step in steps {
                who = life.step(step, &who);
            }
            life.remove(&bare, &before);
        }
    });
    // Told to end, it leaves nothing of the kernel's either.
    let ended = stage.device().stop(Duration::from_secs(30)).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(traces::groups(&stage), Vec::<String>::new());
}
