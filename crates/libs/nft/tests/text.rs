//! The text of tables: golden files (`BLESS=1` rewrites them) and mistakes that are found before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tables;

use nft::field::{IIF, IP4_TARGET, MARK, TCP_TARGET};
use nft::{
    Chain, End, Family, Hook, Key, Listing, Map, Match, Mistake, Policy, Ports, Set, Statement,
    Table, Verdict, element,
};
use std::path::Path;
use tables::{applications, base, everything, interface, name, rule, spoofing};

fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).expect("no golden file: run with BLESS=1");
    assert!(
        text == wanted,
        "{file} differs; look at the difference after BLESS=1\n{text}"
    );
}

#[test]
fn applications_read_well() {
    golden("applications.nft", &applications(2).replacing().unwrap());
    golden("spoofing.nft", &spoofing(2).replacing().unwrap());
}

#[test]
fn everything_has_a_text() {
    golden("everything.nft", &everything().replacing().unwrap());
}

#[test]
fn an_update_says_what_goes() {
    let json = br#"{"nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "eve_apps", "handle": 1}},
        {"counter": {"name": "c_denied", "packets": 7, "bytes": 700}},
        {"counter": {"name": "c_out_2", "packets": 0, "bytes": 0}},
        {"counter": {"name": "rev_0123456789abcdef", "packets": 0, "bytes": 0}},
        {"set": {"name": "hosts_1", "type": "ipv4_addr", "flags": ["timeout"], "timeout": 3600}},
        {"set": {"name": "hosts_2", "type": "ipv4_addr", "flags": "timeout", "timeout": 3600}},
        {"map": {"name": "m_in", "type": ["ipv4_addr", "inet_service"], "map": "verdict"}},
        {"chain": {"name": "c_forward", "type": "filter", "hook": "forward", "prio": 10, "policy": "drop"}},
        {"chain": {"name": "c_nat_pre", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"chain": {"name": "out_1"}},
        {"chain": {"name": "out_2"}},
        {"rule": {"chain": "out_2", "comment": "ace 1", "expr": []}},
        {"flowtable": {"name": "x"}}
    ]}"#;
    let present = Listing::parse(json).unwrap();
    let table = applications(1);
    let script = table.updating(&present).unwrap();
    let (head, body) = script.split_once("table inet eve_apps {").unwrap();
    assert_eq!(
        head,
        "add table inet eve_apps\nflush table inet eve_apps\ndelete map inet eve_apps m_in\n\
         delete set inet eve_apps hosts_2\ndelete chain inet eve_apps c_forward\n\
         delete chain inet eve_apps out_2\ndelete counter inet eve_apps c_out_2\n\
         delete counter inet eve_apps rev_0123456789abcdef\n"
    );
    let whole = table.replacing().unwrap();
    assert!(whole.ends_with(&format!("table inet eve_apps {{{body}")));
    assert!(table.fresh_sets(Some(&present)).is_empty());
    assert_eq!(table.fresh_sets(None), [name("hosts_1")]);
    assert!(!present.holds(&table).unwrap());
    assert_eq!(present.count(&name("c_denied")).unwrap().bytes, 700);
    assert_eq!(present.counts().count(), 2);
}

#[test]
fn a_listing_that_makes_no_sense_is_an_error() {
    assert!(Listing::parse(b"").is_err());
    assert!(Listing::parse(br#"{"nftables": [{"chain": {"prio": "x"}}]}"#).is_err());
}

fn mistake(table: &Table) -> (String, Mistake) {
    let error = table.replacing().unwrap_err();
    (error.place, error.mistake)
}

fn empty() -> Table {
    Table::new(Family::Inet, name("a_table"))
}

fn with_rule(rule: nft::Rule) -> Table {
    empty().chain(Chain::regular(&name("a_chain")).rule(rule))
}

#[test]
fn names_are_there_once() {
    let twice = empty().counter(&name("c_x")).counter(&name("c_x"));
    let place = "table inet a_table, counter c_x".to_owned();
    assert_eq!(mistake(&twice), (place, Mistake::Duplicate));

    let key = || Key::of(MARK);
    let twice = empty()
        .set(Set::fixed(&name("s_x"), key(), []))
        .map(Map::marks(&name("s_x"), key(), []));
    assert_eq!(mistake(&twice).1, Mistake::Duplicate);

    let taken = empty().counter(&name("rev_1"));
    assert_eq!(mistake(&taken).1, Mistake::Reserved);
}

#[test]
fn what_is_spoken_of_exists() {
    let unknown = |what, text| Mistake::Unknown {
        what,
        name: name(text),
    };
    let (place, what) = mistake(&with_rule(rule("r 1").count(&name("c_x"))));
    assert_eq!(place, "table inet a_table, chain a_chain, rule \"r 1\"");
    assert_eq!(what, unknown("counter", "c_x"));

    let jump = rule("r").then(Verdict::Jump(name("to_x")));
    assert_eq!(mistake(&with_rule(jump)).1, unknown("chain", "to_x"));

    let look = rule("r").when(Match::within(Key::of(MARK), &name("s_x")));
    assert_eq!(mistake(&with_rule(look)).1, unknown("set", "s_x"));

    // A map of marks is no map of verdicts.
    let by = rule("r").then(End::VerdictBy(Key::of(MARK), name("m_x")));
    let table = with_rule(by).map(Map::marks(&name("m_x"), Key::of(MARK), []));
    assert_eq!(mistake(&table).1, unknown("map of verdicts", "m_x"));

    let to_base = Verdict::Goto(name("c_base"));
    let table = empty()
        .chain(Chain::base(
            &name("c_base"),
            base(Hook::Input, 0, Policy::Accept),
        ))
        .map(Map::verdicts(
            &name("m_x"),
            Key::of(MARK),
            [(element![1_u32], to_base)],
        ));
    let wanted = Mistake::BaseTarget {
        name: name("c_base"),
    };
    assert_eq!(mistake(&table).1, wanted);
}

#[test]
fn types_fit() {
    let key = Key::of(IIF).and(IP4_TARGET);
    let table = empty().set(Set::fixed(&name("s_x"), key.clone(), [element![80_u16]]));
    let error = table.replacing().unwrap_err().to_string();
    assert_eq!(
        error,
        "table inet a_table, set s_x: 80 is no element of ifname . ipv4_addr"
    );

    let look = rule("r").when(Match::within(Key::of(IP4_TARGET), &name("s_x")));
    let table = with_rule(look).set(Set::fixed(&name("s_x"), key, []));
    let error = table.replacing().unwrap_err().to_string();
    assert_eq!(
        error,
        "table inet a_table, chain a_chain, rule \"r\": s_x is keyed by ifname . ipv4_addr, not by ipv4_addr"
    );

    let none = rule("r").when(Match::any(MARK, []));
    assert_eq!(mistake(&with_rule(none)).1, Mistake::Empty);
    let none = rule("r").when(Match::state([]));
    assert_eq!(mistake(&with_rule(none)).1, Mistake::Empty);
}

#[test]
fn overlaps_are_found() {
    let map = |entries: Vec<nft::Element>| {
        let entries = entries.into_iter().map(|key| (key, 1));
        empty().map(Map::marks(
            &name("m_x"),
            Key::of(IIF).and(TCP_TARGET),
            entries,
        ))
    };
    let at = |port: &str, first, last| element![interface(port), Ports::range(first, last)];
    let apart = map(vec![at("a", 80, 90), at("b", 80, 90), at("a", 91, 99)]);
    assert!(apart.replacing().is_ok());
    let overlap = map(vec![at("a", 85, 85), at("b", 1, 2), at("a", 80, 90)]);
    let wanted = Mistake::Overlap {
        first: "\"a\" . 80-90".to_owned(),
        second: "\"a\" . 85".to_owned(),
    };
    assert_eq!(mistake(&overlap).1, wanted);
    let same = map(vec![at("a", 1, 1), at("a", 1, 1)]);
    assert!(matches!(mistake(&same).1, Mistake::Overlap { .. }));

    // The many are near each other in one field only.
    let many = (0..20_000_u16).map(|n| at("a", n * 2, n * 2 + 1)).collect();
    assert!(map(many).replacing().is_ok());

    // nft merges overlaps in a set of one field.
    let nets =
        ["10.0.0.0/8", "10.1.0.0/16"].map(|net| element![net.parse::<ipnet::Ipv4Net>().unwrap()]);
    let merged = empty().set(Set::fixed(&name("s_x"), Key::of(IP4_TARGET), nets));
    assert!(merged.replacing().is_ok());
}

#[test]
fn the_text_depends_on_nothing_but_the_table() {
    let key = || Key::of(MARK);
    let set = |marks: [u32; 3]| {
        let elements = marks.map(|mark| element![mark]);
        empty().set(Set::fixed(&name("s_x"), key(), elements))
    };
    assert_eq!(set([1, 2, 3]).replacing(), set([3, 1, 2]).replacing());
    assert_ne!(set([1, 2, 3]).replacing(), set([3, 1, 4]).replacing());
    let log = |prefix: &str| {
        let prefix = nft::Tag::lossy(prefix);
        with_rule(rule("r").with(Statement::Log(nft::Log { group: 1, prefix })))
    };
    let text = log("\" accept\n}\nflush ruleset").replacing().unwrap();
    assert!(text.contains("log group 1 prefix \"_ accept___flush ruleset\" comment"));
}
