#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

fn grant(last: u8) -> Grant {
    Grant {
        address: format!("10.1.0.{last}/24").parse().unwrap(),
        gateways: Vec::new(),
        dns_servers: Vec::new(),
        ntp_servers: Vec::new(),
        domain_name: String::new(),
        mtu: None,
        server: Ipv4Addr::new(10, 1, 0, 1),
        lease_seconds: 120,
        renew_seconds: 60,
        rebind_seconds: 105,
    }
}

const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);

/// Sends the events; gives what was sent, how long was waited in all, and the end.
fn run(ask: &Ask, events: &[Event]) -> (Vec<QueryKind>, Duration, Option<Outcome>) {
    let (mut exchange, effects) = Exchange::start(ask);
    let mut all = effects;
    for event in events {
        let (next, effects) = exchange.step(event.clone());
        exchange = next;
        all.extend(effects);
    }
    let mut result = (Vec::new(), Duration::ZERO, None);
    for effect in all {
        match effect {
            Effect::Send(query) => result.0.push(query.kind),
            Effect::Wait(wait) => result.1 += wait,
            Effect::End(outcome) => result.2 = Some(outcome),
        }
    }
    result
}

fn offer(last: u8) -> Event {
    Event::Reply(Reply::Offer(grant(last)))
}

fn ack(last: u8) -> Event {
    Event::Reply(Reply::Ack(grant(last)))
}

const NAK: Event = Event::Reply(Reply::Nak);
const LATE: Event = Event::Timeout;

#[test]
fn the_first_offer_is_taken() {
    let (sent, _, end) = run(&Ask::Discover, &[LATE, offer(7), offer(8), ack(7)]);
    let select = QueryKind::Select {
        address: OURS,
        server: Ipv4Addr::new(10, 1, 0, 1),
    };
    assert_eq!(sent, [QueryKind::Discover, QueryKind::Discover, select]);
    assert_eq!(end, Some(Outcome::Granted(grant(7))));
}

#[test]
fn silence_ends_within_seconds_and_the_first_repetition_comes_at_once() {
    let (_, effects) = Exchange::start(&Ask::Discover);
    assert!(matches!(effects[1], Effect::Wait(wait) if wait < Duration::from_millis(500)));
    let (sent, waited, end) = run(&Ask::Discover, &[LATE, LATE, LATE, LATE, LATE]);
    assert_eq!((sent.len(), waited), (5, Duration::from_secs(10)));
    assert_eq!(end, Some(Outcome::Silent { offered: false }));
}

#[test]
fn a_known_address_is_asked_for_first_and_forgotten_when_refused() {
    let confirm = Ask::Confirm { address: OURS };
    let (sent, _, end) = run(&confirm, &[ack(7)]);
    assert_eq!(sent, [QueryKind::Confirm { address: OURS }]);
    assert_eq!(end, Some(Outcome::Granted(grant(7))));
    assert_eq!(run(&confirm, &[NAK]).2, Some(Outcome::Refused));
    // A server that does not know us stays silent; then any address will do.
    let (sent, _, end) = run(&confirm, &[LATE, LATE, LATE, offer(9), ack(9)]);
    assert_eq!(sent[3], QueryKind::Discover);
    assert_eq!(end, Some(Outcome::Granted(grant(9))));
}

#[test]
fn an_offer_that_is_taken_back_is_not_asked_for_forever() {
    let (sent, _, end) = run(&Ask::Discover, &[offer(7), NAK, offer(7), NAK]);
    assert_eq!(sent.len(), 4);
    assert_eq!(end, Some(Outcome::Silent { offered: true }));
}

#[test]
fn an_extension_is_refused_or_given_or_unanswered_but_never_becomes_another_address() {
    let server = Ipv4Addr::new(10, 1, 0, 1);
    for ask in [
        Ask::Renew {
            address: OURS,
            server,
        },
        Ask::Rebind { address: OURS },
    ] {
        assert_eq!(run(&ask, &[NAK]).2, Some(Outcome::Refused));
        let (sent, _, end) = run(&ask, &[LATE, LATE, LATE]);
        assert_eq!(
            (sent.len(), end),
            (3, Some(Outcome::Silent { offered: false }))
        );
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(LATE),
        Just(NAK),
        (1u8..9).prop_map(offer),
        (1u8..9).prop_map(ack),
    ]
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Discover),
        Just(Ask::Confirm { address: OURS }),
        Just(Ask::Renew {
            address: OURS,
            server: OURS
        }),
        Just(Ask::Rebind { address: OURS }),
    ]
}

proptest! {
    /// Whatever servers say: it ends after a bounded number of waits, once; every question is
    /// followed by a wait; and it is granted only what a server acknowledged.
    #[test]
    fn every_exchange_ends(ask in asks(), events in proptest::collection::vec(events(), 0..60)) {
        let (mut exchange, mut effects) = Exchange::start(&ask);
        let (mut ends, mut waits) = (0, 0);
        for event in events.into_iter().chain(std::iter::repeat_n(LATE, 40)) {
            let sends = effects.iter().filter(|e| matches!(e, Effect::Send(_))).count();
            let new_waits = effects.iter().filter(|e| matches!(e, Effect::Wait(_))).count();
            prop_assert_eq!(sends, new_waits);
            waits += new_waits;
            for effect in &effects {
                if let Effect::End(outcome) = effect {
                    ends += 1;
                    let offered = *outcome == Outcome::Silent { offered: true };
                    let may_select = ask == Ask::Discover || ask == Ask::Confirm { address: OURS };
                    prop_assert!(may_select || !offered);
                }
            }
            (exchange, effects) = exchange.step(event);
        }
        prop_assert_eq!(ends, 1);
        prop_assert!(waits <= 3 + 3 * 5 + 2 * 3);
    }
}
