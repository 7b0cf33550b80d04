//! Tables in the real kernel, each test in a fresh network namespace. Needs root and `nft`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tables;

use nft::field::{IIF, IP4_TARGET, MARK, PROTOCOL, TCP_TARGET, UDP_TARGET};
use nft::{
    Chain, End, Family, Hook, Key, Map, Match, Nft, NftError, Policy, Protocol, Rule, Set, Table,
    TableId, Verdict, element,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tables::{applications, base, everything, interface, name, nat, rule, spoofing};

/// Runs `test` on a thread of its own in a new network namespace, which ends with the thread.
fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn kept_elements() -> Option<String> {
    let text = run("nft", &["-j", "list", "set", "inet", "eve_apps", "hosts_1"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let element = json["nftables"][1]["set"]["elem"][0].clone();
    let value = element["elem"]["val"].as_str().or(element.as_str());
    value.map(str::to_owned)
}

#[test]
fn a_table_is_applied_once() {
    in_netns(|| async {
        let nft = Nft::default();
        for table in [applications(3), spoofing(3), everything()] {
            nft.check(&table).await.unwrap();
            assert!(nft.list(table.id()).await.unwrap().is_none());
            assert!(nft.apply(&table).await.unwrap().changed);
            let present = nft.list(table.id()).await.unwrap().unwrap();
            assert!(present.holds(&table).unwrap(), "{}", table.id());
            let again = nft.apply(&table).await.unwrap();
            assert!(!again.changed && again.fresh.is_empty());
            // The update of a table to itself is accepted, too.
            let script = table.updating(&present).unwrap();
            assert!(script.starts_with("add table"));
            nft.delete(table.id()).await.unwrap();
            nft.delete(table.id()).await.unwrap();
            assert!(nft.list(table.id()).await.unwrap().is_none());
            // Without looking, and looking after all.
            let sure = nft.create(&table).await.unwrap();
            assert_eq!((sure.changed, &sure.fresh), (true, &table.fresh_sets(None)));
            let wrong = nft.create(&table).await.unwrap();
            assert!(!wrong.changed && wrong.fresh.is_empty());
            nft.delete(table.id()).await.unwrap();
        }
    });
}

#[test]
fn an_update_keeps_counters_and_what_others_filled_in() {
    in_netns(|| async {
        let nft = Nft::default();
        let applied = nft.apply(&applications(2)).await.unwrap();
        assert_eq!(applied.fresh, [name("hosts_1"), name("hosts_2")]);
        let element = "{ 192.0.2.7 }";
        run(
            "nft",
            &["add", "element", "inet", "eve_apps", "hosts_1", element],
        );
        let counted = "add rule inet eve_apps c_forward counter name c_out_1";
        run("nft", &[counted]);
        // Somebody else's rule is noticed and goes with the next application.
        assert!(nft.apply(&applications(2)).await.unwrap().changed);
        assert_eq!(kept_elements().as_deref(), Some("192.0.2.7"));

        // Up and down, with another chain, map, counter and set each time.
        for count in [3, 1, 5, 2] {
            let applied = nft.apply(&applications(count)).await.unwrap();
            assert!(applied.changed);
            assert!(!applied.fresh.contains(&name("hosts_1")));
            let present = nft.list(applications(count).id()).await.unwrap().unwrap();
            assert!(present.holds(&applications(count)).unwrap());
            assert_eq!(kept_elements().as_deref(), Some("192.0.2.7"));
        }
        // Replacing empties them, and that is why nobody does it.
        nft.replace(&applications(2)).await.unwrap();
        assert_eq!(kept_elements(), None);
    });
}

#[test]
fn what_changes_its_form_is_made_anew() {
    in_netns(|| async {
        let nft = Nft::default();
        let table = |priority, policy, timeout| {
            let timeout = Some(Duration::from_secs(timeout));
            Table::new(Family::Inet, name("a_table"))
                .set(Set::kept(&name("s_x"), Key::of(IP4_TARGET), timeout))
                .chain(
                    Chain::base(&name("c_x"), base(Hook::Input, priority, policy))
                        .rule(rule("r").when(Match::within(Key::of(IP4_TARGET), &name("s_x")))),
                )
        };
        let first = table(0, Policy::Accept, 60);
        for (next, fresh) in [
            (table(5, Policy::Accept, 60), false),
            (table(5, Policy::Drop, 60), false),
            (table(5, Policy::Accept, 61), true),
            (table(-7, Policy::Drop, 9), true),
        ] {
            nft.replace(&first).await.unwrap();
            let applied = nft.apply(&next).await.unwrap();
            assert!(applied.changed);
            assert_eq!(!applied.fresh.is_empty(), fresh);
            let present = nft.list(next.id()).await.unwrap().unwrap();
            assert!(present.holds(&next).unwrap());
        }
    });
}

#[test]
fn foreign_tables_stay() {
    in_netns(|| async {
        let nft = Nft::default();
        run(
            "nft",
            &[
                "add table ip eve_apps; add chain ip eve_apps x; add table inet other; add set inet other s { type mark; }",
            ],
        );
        let foreign = || {
            let one = run("nft", &["list", "table", "ip", "eve_apps"]);
            one + &run("nft", &["list", "table", "inet", "other"])
        };
        let before = foreign();
        nft.apply(&applications(2)).await.unwrap();
        nft.apply(&applications(1)).await.unwrap();
        nft.replace(&applications(1)).await.unwrap();
        nft.delete(applications(1).id()).await.unwrap();
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_refused_table_changes_nothing_and_the_error_says_where() {
    in_netns(|| async {
        let nft = Nft::default();
        nft.apply(&applications(1)).await.unwrap();
        let before = run("nft", &["-j", "list", "ruleset"]);
        // Only a chain for address translation may translate.
        let wrong = applications(1).chain(
            Chain::base(&name("c_wrong"), base(Hook::Input, 0, Policy::Accept)).rule(
                rule("no")
                    .when(Match::is(TCP_TARGET, 1))
                    .then(End::Redirect(80)),
            ),
        );
        let error = nft.apply(&wrong).await.unwrap_err();
        let NftError::Refused { line, .. } = &error else {
            panic!("{error}");
        };
        let line = line.as_deref().unwrap();
        assert_eq!(line, "tcp dport 1 redirect to :80 comment \"no\"");
        assert!(
            error
                .to_string()
                .starts_with("cannot update inet eve_apps: ")
        );
        assert!(error.is_transient());
        assert_eq!(run("nft", &["-j", "list", "ruleset"]), before);
    });
}

#[test]
fn a_program_that_hangs_or_is_missing_is_an_error() {
    in_netns(|| async {
        let dir = tempfile::tempdir().unwrap();
        let slow = dir.path().join("slow");
        std::fs::write(&slow, "#!/bin/sh\nexec sleep 60\n").unwrap();
        run("chmod", &["+x", slow.to_str().unwrap()]);
        let id = TableId {
            family: Family::Inet,
            name: name("a_table"),
        };
        let nft = Nft::default()
            .program(&slow)
            .limit(Duration::from_millis(200));
        let error = nft.list(&id).await.unwrap_err();
        assert!(matches!(error, NftError::TimedOut { .. }), "{error}");

        let nft = Nft::default().program(dir.path().join("missing"));
        let error = nft.list(&id).await.unwrap_err();
        assert!(matches!(error, NftError::Process { .. }), "{error}");

        let nft = Nft::default().program("/bin/echo");
        let error = nft.list(&id).await.unwrap_err();
        assert!(matches!(error, NftError::Garbled { .. }), "{error}");
    });
}

/// Answers the first connection to this port of the loopback interface.
fn answer(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
}

fn reaches(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) else {
        return false;
    };
    let mut text = String::new();
    stream.read_to_string(&mut text).is_ok() && text == "hello"
}

#[test]
fn maps_decide_about_real_packets() {
    in_netns(|| async {
        for port in [7001, 7002, 7003] {
            answer(port);
        }
        let counter = name("c_in");
        let table = |open: &[u16], translated: &[(u16, u16)]| {
            let verdicts = open.iter().map(|port| (element![*port], Verdict::Accept));
            let targets = translated
                .iter()
                .map(|(from, to)| (element![*from], (Ipv4Addr::LOCALHOST, *to)));
            Table::new(Family::Inet, name("a_table"))
                .counter(&counter)
                .map(Map::verdicts(
                    &name("m_open"),
                    Key::of(TCP_TARGET),
                    verdicts,
                ))
                .map(Map::targets4(&name("m_to"), Key::of(TCP_TARGET), targets))
                .chain(
                    Chain::base(&name("c_out"), nat(Hook::Output, -100))
                        .rule(rule("to").then(End::Dnat4By(Key::of(TCP_TARGET), name("m_to")))),
                )
                .chain(
                    Chain::base(&name("c_input"), base(Hook::Input, 0, Policy::Accept)).rules([
                        rule("answers").when(Match::reply()).then(Verdict::Accept),
                        rule("open").then(End::VerdictBy(Key::of(TCP_TARGET), name("m_open"))),
                        rule("rest")
                            .when(Match::is(PROTOCOL, Protocol::TCP))
                            .count(&counter)
                            .then(Verdict::Drop),
                    ]),
                )
        };
        let nft = Nft::default();
        assert!(reaches(7001) && reaches(7002) && !reaches(8001));
        let first = table(&[7001], &[(8001, 7001), (8002, 7002)]);
        nft.apply(&first).await.unwrap();
        assert!(reaches(7001) && !reaches(7002) && reaches(8001) && !reaches(8002));
        let seen = nft.counters(first.id()).await.unwrap()["c_in"];
        assert!(seen.packets > 0 && seen.bytes >= 40 * seen.packets);

        let second = table(&[7002], &[(8002, 7002)]);
        nft.apply(&second).await.unwrap();
        assert!(!reaches(7001) && reaches(7002) && !reaches(8001) && reaches(8002));
        let later = nft.counters(first.id()).await.unwrap();
        assert!(later["c_in"].packets > seen.packets, "counters went on");
        assert_eq!(later.len(), 1);
        nft.delete(first.id()).await.unwrap();
        assert!(reaches(7003));
    });
}

/// A table that drops everything but UDP to one port, by the last of many rules.
fn long(marker: u32, rules: u32) -> Table {
    let mut chain = Chain::base(&name("c_input"), base(Hook::Input, 0, Policy::Drop));
    for n in 0..rules {
        let none: Rule = rule("none").when(Match::is(MARK, 1000 + n));
        chain = chain.rule(none.then(Verdict::Drop));
    }
    let accept = rule("all")
        .when(Match::is(UDP_TARGET, 7000))
        .then(Verdict::Accept);
    Table::new(Family::Inet, name("a_table"))
        .set(Set::fixed(&name("s_x"), Key::of(MARK), [element![marker]]))
        .chain(chain.rule(accept))
}

#[test]
fn no_packet_is_lost_while_a_table_is_updated() {
    in_netns(|| async {
        let nft = Nft::default();
        nft.apply(&long(0, 1000)).await.unwrap();
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 7000)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.connect((Ipv4Addr::LOCALHOST, 7000)).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (stopping, sending) = (stop.clone(), sent.clone());
        let traffic = std::thread::spawn(move || {
            // One at a time: what is lost was lost by the filter, not by a full queue.
            let mut lost = 0_u64;
            let mut buffer = [0; 8];
            while !stopping.load(Ordering::Relaxed) {
                let n = sending.fetch_add(1, Ordering::Relaxed);
                let there = sender.send(&n.to_le_bytes()).is_ok()
                    && receiver.recv(&mut buffer).is_ok()
                    && buffer == n.to_le_bytes();
                lost += u64::from(!there);
            }
            lost
        });
        for round in 1..=15 {
            nft.apply(&long(round, 1000)).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let lost = traffic.join().unwrap();
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent > 1000, "only {sent} packets were sent");
        assert_eq!(lost, 0, "of {sent}");
    });
}

#[test]
fn ten_thousand_entries_are_one_rule() {
    in_netns(|| async {
        let entries = (0..10_000_u16).map(|n| {
            let address = Ipv4Addr::from(0x0a00_0000 + u32::from(n));
            (element![interface("bn1"), address], Verdict::Accept)
        });
        let table = Table::new(Family::Inet, name("a_table"))
            .map(Map::verdicts(
                &name("m_x"),
                Key::of(IIF).and(IP4_TARGET),
                entries,
            ))
            .chain(
                Chain::base(&name("c_x"), base(Hook::Forward, 0, Policy::Drop)).rule(
                    rule("all").then(End::VerdictBy(Key::of(IIF).and(IP4_TARGET), name("m_x"))),
                ),
            );
        let nft = Nft::default();
        nft.apply(&table).await.unwrap();
        assert!(!nft.apply(&table).await.unwrap().changed);
        let rules = run("nft", &["-a", "list", "chain", "inet", "a_table", "c_x"]);
        assert_eq!(rules.matches("comment").count(), 1);
    });
}
