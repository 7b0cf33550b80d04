//! Stories: what `diff` answers in the situations that services meet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use graph::{Item, Items, Obstacle, Step, diff, dot, items};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    name: &'static str,
    needs: Vec<&'static str>,
    version: u8,
    soft: bool,
    external: bool,
}

impl Item for Thing {
    type Id = String;
    fn id(&self) -> String {
        self.name.to_owned()
    }
    fn needs(&self) -> Vec<String> {
        self.needs.iter().map(ToString::to_string).collect()
    }
    fn can_change_to(&self, to: &Self) -> bool {
        self.soft && to.soft
    }
    fn is_external(&self) -> bool {
        self.external
    }
}

fn thing(name: &'static str, needs: &[&'static str]) -> Thing {
    Thing {
        name,
        needs: needs.to_vec(),
        version: 0,
        soft: false,
        external: false,
    }
}

fn soft(name: &'static str, needs: &[&'static str], version: u8) -> Thing {
    Thing {
        version,
        soft: true,
        ..thing(name, needs)
    }
}

fn external(name: &'static str) -> Thing {
    Thing {
        external: true,
        ..thing(name, &[])
    }
}

/// `-x` delete, `+x` create, `~x` change; groups parted by `|`.
fn shown(current: &Items<Thing>, intended: &Items<Thing>) -> String {
    let word = |step: &Step<Thing>| match step {
        Step::Delete(i) => format!("-{}", i.name),
        Step::Create(i) => format!("+{}", i.name),
        Step::Change { to, .. } => format!("~{}", to.name),
    };
    let level = |level: &Vec<Step<Thing>>| level.iter().map(word).collect::<Vec<_>>().join(" ");
    let levels = diff(current, intended).levels;
    levels.iter().map(level).collect::<Vec<_>>().join(" | ")
}

fn network() -> Vec<Thing> {
    vec![
        thing("bn1", &[]),
        thing("bn1/address", &["bn1"]),
        thing("bn1/up", &["bn1"]),
        thing("dnsmasq", &["bn1/address", "bn1/up"]),
    ]
}

#[test]
fn builds_up_and_tears_down() {
    let (none, all) = (items([]), items(network()));
    assert_eq!(shown(&none, &all), "+bn1 | +bn1/address +bn1/up | +dnsmasq");
    assert_eq!(shown(&all, &none), "-dnsmasq | -bn1/address -bn1/up | -bn1");
    assert!(diff(&all, &all).is_settled());
}

#[test]
fn finishes_what_was_half_made() {
    let half = items(network().into_iter().take(2));
    assert_eq!(shown(&half, &items(network())), "+bn1/up | +dnsmasq");
}

#[test]
fn a_new_version_takes_its_dependents_along() {
    let mut changed = network();
    changed[1].version = 1;
    assert_eq!(
        shown(&items(network()), &items(changed)),
        "-dnsmasq | -bn1/address | +bn1/address | +dnsmasq"
    );
}

#[test]
fn a_change_in_place_leaves_its_dependents_alone() {
    let before = items([soft("bn1", &[], 0), thing("up", &["bn1"])]);
    let after = items([soft("bn1", &[], 1), thing("up", &["bn1"])]);
    assert_eq!(shown(&before, &after), "~bn1");
}

#[test]
fn a_change_follows_its_new_need_and_precedes_the_end_of_its_old_one() {
    let before = items([thing("gw1", &[]), soft("route", &["gw1"], 0)]);
    let after = items([thing("gw2", &[]), soft("route", &["gw2"], 1)]);
    assert_eq!(shown(&before, &after), "+gw2 | ~route | -gw1");
}

#[test]
fn a_change_that_no_order_allows_becomes_delete_and_create() {
    // `user` moves from `base` to `other`, but `other` stands on the next version of `base`.
    let before = items([thing("base", &[]), soft("user", &["base"], 0)]);
    let base = Thing {
        version: 1,
        ..thing("base", &[])
    };
    let after = items([base, thing("other", &["base"]), soft("user", &["other"], 1)]);
    assert_eq!(
        shown(&before, &after),
        "-user | -base | +base | +other | +user"
    );
}

#[test]
fn external_items_are_needed_but_never_touched() {
    let wanted = items([thing("member", &["eth0"])]);
    let answer = diff(&items([]), &wanted);
    assert!(answer.is_empty());
    let reasons = &answer.waiting["member"].obstacles;
    assert_eq!(reasons, &[Obstacle::Absent("eth0".to_owned())]);

    let there = items([external("eth0"), external("eth7")]);
    assert_eq!(shown(&there, &wanted), "+member");

    // The port was pulled: what stood on it goes, as it can't work.
    let left = items([thing("member", &["eth0"])]);
    assert_eq!(shown(&left, &wanted), "-member");
}

#[test]
fn an_external_item_must_be_as_intended_if_that_is_said() {
    let other = Thing {
        version: 7,
        ..external("eth0")
    };
    let wanted = items([external("eth0"), thing("member", &["eth0"])]);
    let answer = diff(&items([other]), &wanted);
    let reasons = &answer.waiting["member"].obstacles;
    assert_eq!(reasons, &[Obstacle::Differs("eth0".to_owned())]);
    assert_eq!(shown(&items([external("eth0")]), &wanted), "+member");
}

#[test]
fn a_foreign_thing_with_our_name_is_in_the_way_and_stays() {
    let answer = diff(&items([external("bn1")]), &items(network()));
    assert!(answer.is_empty());
    assert_eq!(answer.waiting["bn1"].obstacles, [Obstacle::Taken]);
    let up = &answer.waiting["bn1/up"].obstacles;
    assert_eq!(up, &[Obstacle::Waits("bn1".to_owned())]);
    let (root, cause) = answer.cause(&"dnsmasq".to_owned()).unwrap();
    assert_eq!((root.item.name, cause), ("bn1", &Obstacle::Taken));
}

#[test]
fn cycles_are_named_and_the_rest_goes_on() {
    let wanted = items([
        thing("a", &["b"]),
        thing("b", &["c"]),
        thing("c", &["a"]),
        thing("d", &["a"]),
        thing("self", &["self"]),
        thing("fine", &[]),
    ]);
    let answer = diff(&items([]), &wanted);
    assert_eq!(shown(&items([]), &wanted), "+fine");
    let ring: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    assert_eq!(answer.cycles, [ring.clone(), vec!["self".to_owned()]]);
    assert_eq!(
        answer.waiting["b"].obstacles,
        [Obstacle::Cycle(ring.clone())]
    );
    let (_, cause) = answer.cause(&"d".to_owned()).unwrap();
    assert_eq!(cause, &Obstacle::Cycle(ring));
}

#[test]
fn a_cycle_that_exists_is_taken_apart() {
    let there = items([thing("a", &["b"]), thing("b", &["a"]), thing("c", &["a"])]);
    assert_eq!(shown(&there, &items([])), "-b -c | -a");
}

#[test]
fn the_drawing_shows_states_and_reasons() {
    let current = items([
        external("eth0"),
        thing("old", &["eth0"]),
        soft("soft", &[], 0),
        thing("kept", &["eth0"]),
    ]);
    let intended = items([
        soft("soft", &[], 1),
        thing("kept", &["eth0"]),
        thing("new", &["kept"]),
        thing("late\"", &["eth1"]),
    ]);
    let text = dot(&current, &intended);
    for line in [
        r#""eth0" [label="eth0", fillcolor=white, style="filled,dashed"];"#,
        r#""eth1" [label="eth1", fillcolor=mistyrose, style="filled,dashed"];"#,
        r#""old" [label="old", fillcolor=tomato];"#,
        r#""soft" [label="soft", fillcolor=khaki];"#,
        r#""kept" [label="kept", fillcolor=palegreen];"#,
        r#""new" [label="new", fillcolor=lightblue];"#,
        r#""late\"" [label="late\"\neth1 is absent", fillcolor=lightgrey];"#,
        r#""old" -> "eth0" [style=dashed];"#,
        r#""new" -> "kept";"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
