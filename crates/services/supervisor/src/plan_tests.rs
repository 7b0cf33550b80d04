//! The plan against a simulated world.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use units::{ExitKind, RestartPolicy, UnitSpec};

use super::*;

fn at(ms: u64) -> Now {
    Now {
        uptime: Uptime(Duration::from_millis(ms)),
        wall: Timestamp::from_millisecond(1_700_000_000_000 + i64::try_from(ms).unwrap()).unwrap(),
    }
}

fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

fn unit(text: &str, after: &[&str]) -> (UnitName, Unit) {
    let mut spec = UnitSpec::new(name(text), "/bin/x", 1);
    spec.restart = RestartPolicy::Always;
    let origin = if text.contains('/') {
        Origin::Transient
    } else {
        Origin::Service
    };
    let mut unit = Unit::new(spec, origin);
    unit.after = after.iter().map(|text| name(text)).collect();
    (name(text), unit)
}

fn beating(text: &str, after: &[&str]) -> (UnitName, Unit) {
    let (name, mut unit) = unit(text, after);
    unit.spec.heartbeat = Some(Duration::from_secs(10));
    (name, unit)
}

fn serving(fleet: &Fleet, ms: u64) -> Plan {
    plan(fleet, Mode::Serving, at(ms), &Policy::default())
}

#[test]
fn units_start_when_those_before_them_are_ready() {
    let mut fleet: Fleet = [beating("nim", &[]), beating("zedagent", &["nim"])].into();
    assert_eq!(serving(&fleet, 0).actions, [Action::Start(name("nim"))]);
    fleet.get_mut(&name("nim")).unwrap().started(5, 5, at(0));
    let waiting = serving(&fleet, 1);
    assert_eq!(waiting.actions, []);
    assert_eq!(waiting.wake, Some(at(10_000).uptime));
    let mut ready = fleet.clone();
    ready
        .get_mut(&name("nim"))
        .unwrap()
        .heard(true, None, at(2));
    let start = [Action::Start(name("zedagent"))];
    assert_eq!(serving(&ready, 3).actions, start);
    // Neither a crash nor a slow start of the first keeps the second down.
    assert_eq!(serving(&fleet, 10_000).actions, start);
    fleet
        .get_mut(&name("nim"))
        .unwrap()
        .exited(ExitKind::Code(1), at(4), &Policy::default());
    assert_eq!(serving(&fleet, 5).actions, start);
}

#[test]
fn a_name_in_after_that_is_not_there_holds_nobody_up() {
    let fleet: Fleet = [unit("reporter", &["zedagent"])].into();
    assert_eq!(
        serving(&fleet, 0).actions,
        [Action::Start(name("reporter"))]
    );
}

#[test]
fn silence_beyond_the_deadline_is_a_hang_and_ends_in_sigkill() {
    let mut fleet: Fleet = [beating("nim", &[])].into();
    let policy = Policy::default();
    let nim =
        |fleet: &mut Fleet, act: &dyn Fn(&mut Unit)| act(fleet.get_mut(&name("nim")).unwrap());
    nim(&mut fleet, &|u| u.started(5, 5, at(0)));
    assert_eq!(
        serving(&fleet, 89_999).actions,
        [],
        "the start takes longer"
    );
    nim(&mut fleet, &|u| u.heard(true, None, at(20_000)));
    assert_eq!(serving(&fleet, 29_999).actions, []);
    let silence = Duration::from_secs(10);
    assert_eq!(
        serving(&fleet, 30_000).actions,
        [Action::Abort(name("nim"), silence)]
    );
    nim(&mut fleet, &|u| u.ending(Why::Hung(silence), at(30_000)));
    assert_eq!(serving(&fleet, 31_999).actions, []);
    assert_eq!(serving(&fleet, 32_000).actions, [Action::Kill(name("nim"))]);
    nim(&mut fleet, &|u| u.killed(at(32_000)));
    assert_eq!(serving(&fleet, 36_999).actions, []);
    assert_eq!(serving(&fleet, 37_000).actions, [Action::Kill(name("nim"))]);
    nim(&mut fleet, &|u| {
        u.exited(ExitKind::Signal(9), at(37_001), &policy);
    });
    let wake = serving(&fleet, 37_002).wake.unwrap();
    assert!(wake > at(37_002).uptime);
    let ms = u64::try_from(wake.0.as_millis()).unwrap() + 1;
    assert_eq!(serving(&fleet, ms).actions, [Action::Start(name("nim"))]);
}

#[test]
fn the_end_goes_in_reverse_and_leaves_what_outlives() {
    let mut fleet: Fleet = [
        unit("nim", &[]),
        unit("zedrouter", &["nim"]),
        unit("zedrouter/dns", &[]),
        unit("domainmgr/guest", &[]),
    ]
    .into();
    let guest = name("domainmgr/guest");
    fleet.get_mut(&guest).unwrap().spec.outlives_supervisor = true;
    for unit in fleet.values_mut() {
        unit.started(5, 5, at(0));
    }
    let policy = Policy::default();
    let leaving = |fleet: &Fleet| plan(fleet, Mode::Leaving, at(1), &policy);
    for expected in ["zedrouter/dns", "zedrouter", "nim"] {
        let step = leaving(&fleet);
        assert_eq!(step.actions, [Action::Ask(name(expected))]);
        assert!(!step.finished);
        let unit = fleet.get_mut(&name(expected)).unwrap();
        unit.ending(Why::Asked, at(1));
        unit.want_down(at(1));
        unit.exited(ExitKind::Signal(15), at(1), &policy);
    }
    let end = leaving(&fleet);
    assert!(end.finished && end.actions.is_empty());
    let halt = plan(&fleet, Mode::Halting, at(1), &policy);
    assert_eq!(halt.actions, [Action::Ask(guest)]);
    assert!(!halt.finished);
}

#[test]
fn a_unit_that_ignores_its_signal_is_killed_after_its_timeout() {
    let mut fleet: Fleet = [unit("zedrouter/dns", &[])].into();
    let dns = name("zedrouter/dns");
    fleet.get_mut(&dns).unwrap().started(5, 5, at(0));
    fleet.get_mut(&dns).unwrap().want_down(at(1));
    assert_eq!(serving(&fleet, 1).actions, [Action::Ask(dns.clone())]);
    fleet.get_mut(&dns).unwrap().ending(Why::Asked, at(1));
    assert_eq!(serving(&fleet, 10_000).wake, Some(at(10_001).uptime));
    assert_eq!(serving(&fleet, 10_001).actions, [Action::Kill(dns)]);
}

/// What may happen between two turns.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Exit(usize, i32),
    Beat(usize),
    Down(usize),
    Again(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let unit = 0usize..4;
    let event = prop_oneof![
        (1u64..20_000).prop_map(Event::Wait),
        (unit.clone(), 0i32..3).prop_map(|(unit, code)| Event::Exit(unit, code)),
        unit.clone().prop_map(Event::Beat),
        unit.clone().prop_map(Event::Down),
        unit.prop_map(Event::Again),
    ];
    proptest::collection::vec(event, 0..60)
}

/// Does what a plan says, as the kernel would: `stubborn` processes go only at `SIGKILL`.
fn perform(fleet: &mut Fleet, action: &Action, now: Now, stubborn: bool, next: &mut u32) {
    let policy = Policy::default();
    match action {
        Action::Start(name) => {
            let unit = fleet.get_mut(name).unwrap();
            assert!(unit.process().is_none(), "{name} is started twice");
            assert_ne!(unit.goal, Goal::Down, "{name} is started against its goal");
            *next += 1;
            unit.started(*next, u64::from(*next), now);
        }
        Action::Ask(name) => {
            let unit = fleet.get_mut(name).unwrap();
            assert!(unit.process().unwrap().ending.is_none());
            unit.ending(Why::Asked, now);
            if !stubborn {
                unit.exited(ExitKind::Signal(15), now, &policy);
            }
        }
        Action::Abort(name, silence) => {
            let unit = fleet.get_mut(name).unwrap();
            assert!(*silence >= unit.spec.heartbeat.unwrap());
            unit.ending(Why::Hung(*silence), now);
        }
        Action::Kill(name) => {
            let unit = fleet.get_mut(name).unwrap();
            assert!(unit.process().unwrap().ending.is_some());
            unit.killed(now);
            unit.exited(ExitKind::Signal(9), now, &policy);
        }
    }
}

proptest! {
    /// Whatever happens: each turn settles, no unit is started twice or against its goal, and
    /// once nothing happens any more every unit that should run does and every other is down.
    #[test]
    fn any_history_settles(events in events(), stubborn: bool) {
        let mut fleet: Fleet = [
            beating("nim", &[]),
            beating("zedagent", &["nim"]),
            unit("zedrouter", &["nim", "zedagent"]),
            unit("zedrouter/dns", &[]),
        ].into();
        let names: Vec<_> = fleet.keys().cloned().collect();
        let policy = Policy::default();
        let (mut ms, mut next) = (0u64, 0u32);
        for event in events.into_iter().chain([Event::Wait(1)]) {
            let now = at(ms);
            match event {
                Event::Wait(more) => ms += more,
                Event::Exit(unit, code) => {
                    let unit = fleet.get_mut(&names[unit]).unwrap();
                    if unit.process().is_some() { unit.exited(ExitKind::Code(code), now, &policy); }
                }
                Event::Beat(unit) => fleet.get_mut(&names[unit]).unwrap().heard(true, None, now),
                Event::Down(unit) => fleet.get_mut(&names[unit]).unwrap().want_down(now),
                Event::Again(unit) => fleet.get_mut(&names[unit]).unwrap().want_again(),
            }
            settle(&mut fleet, at(ms), stubborn, &mut next);
        }
        // Quiet time: everybody beats, nobody dies.
        for _ in 0..200 {
            ms += 1000;
            for unit in fleet.values_mut() { unit.heard(true, None, at(ms)); }
            settle(&mut fleet, at(ms), stubborn, &mut next);
        }
        for (name, unit) in &fleet {
            let runs = unit.process().is_some_and(|process| process.ending.is_none());
            prop_assert_eq!(runs, unit.goal == Goal::Up, "{}: {:?}", name, unit);
        }
        // And the end comes, stubborn or not.
        let mut finished = false;
        for _ in 0..200 {
            ms += 1000;
            let step = plan(&fleet, Mode::Halting, at(ms), &policy);
            for action in &step.actions {
                if let Action::Ask(name) = action { fleet.get_mut(name).unwrap().want_down(at(ms)); }
                perform(&mut fleet, action, at(ms), stubborn, &mut next);
            }
            finished = step.finished;
            if finished { break; }
        }
        prop_assert!(finished);
        prop_assert!(fleet.values().all(|unit| unit.process().is_none()));
    }
}

fn settle(fleet: &mut Fleet, now: Now, stubborn: bool, next: &mut u32) {
    for turn in 0.. {
        assert!(turn < 10, "a turn must settle");
        let step = plan(fleet, Mode::Serving, now, &Policy::default());
        if step.actions.is_empty() {
            return;
        }
        for action in &step.actions {
            perform(fleet, action, now, stubborn, next);
        }
    }
}
