#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

const ASKER: Asker = Asker {
    mac: [2, 0x16, 0x3e, 0, 0, 7],
    xid: 0x0102_0304,
};

/// A server's answer: header, then the options as given.
fn answer(address: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&ASKER.xid.to_be_bytes());
    bytes[16..20].copy_from_slice(&address);
    bytes[28..34].copy_from_slice(&ASKER.mac);
    bytes[236..240].copy_from_slice(&COOKIE);
    bytes.extend_from_slice(options);
    bytes.push(option::END);
    bytes
}

const ACK: &[u8] = &[
    53, 1, 5, 54, 4, 10, 1, 0, 1, 51, 4, 0, 0, 0, 120, 1, 4, 255, 255, 255, 0, 3, 8, 10, 1, 0, 1,
    10, 1, 0, 2, 6, 4, 10, 1, 0, 53, 42, 4, 10, 1, 0, 123, 15, 9, b'l', b'a', b'b', b'.', b't',
    b'e', b's', b't', 0, 26, 2, 5, 0xb4,
];

fn acked(bytes: &[u8]) -> Grant {
    match decode(ASKER, bytes) {
        Some(Reply::Ack(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_acknowledgement_says_everything() {
    let grant = acked(&answer([10, 1, 0, 77], ACK));
    let expected = Grant {
        address: "10.1.0.77/24".parse().unwrap(),
        gateways: vec![ip("10.1.0.1"), ip("10.1.0.2")],
        dns_servers: vec![ip("10.1.0.53")],
        ntp_servers: vec!["10.1.0.123".to_owned()],
        domain_name: "lab.test".to_owned(),
        mtu: Some(1460),
        server: "10.1.0.1".parse().unwrap(),
        lease_seconds: 120,
        renew_seconds: 60,
        rebind_seconds: 105,
    };
    assert_eq!(grant, expected);
}

#[test]
fn answers_to_others_and_impossible_ones_are_nothing() {
    let good = answer([10, 1, 0, 77], ACK);
    for at in [0, 4, 28, 33, 236] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert_eq!(decode(ASKER, &bad), None, "byte {at}");
    }
    assert_eq!(decode(ASKER, &answer([0, 0, 0, 0], ACK)), None);
    assert_eq!(decode(ASKER, &answer([224, 0, 0, 1], ACK)), None);
    // Without a server, without a lease time, with a mask that is none.
    assert_eq!(decode(ASKER, &answer([10, 1, 0, 77], &ACK[..3])), None);
    assert_eq!(decode(ASKER, &answer([10, 1, 0, 77], &ACK[..9])), None);
    let mask = [&ACK[..15], &[1, 4, 255, 0, 255, 0]].concat();
    assert_eq!(decode(ASKER, &answer([10, 1, 0, 77], &mask)), None);
    let nak = answer([0, 0, 0, 0], &[53, 1, 6]);
    assert_eq!(decode(ASKER, &nak), Some(Reply::Nak));
}

#[test]
fn nonsense_of_a_server_reaches_nobody() {
    let with = |options: &[u8]| decode(ASKER, &answer([10, 1, 0, 77], &[ACK, options].concat()));
    // What comes in pieces is put together: these begin with a mask of their own.
    let masked = |address, mask: [u8; 4]| {
        let mask = [&[1, 4], &mask[..]].concat();
        decode(ASKER, &answer(address, &[&ACK[..15], &mask].concat()))
    };
    assert!(masked([10, 1, 0, 77], [255, 255, 255, 254]).is_some());
    assert!(masked([10, 1, 0, 255], [255, 255, 255, 255]).is_some());
    // Everything is not a network, and neither a network nor everybody in it is a host.
    assert_eq!(masked([10, 1, 0, 77], [0, 0, 0, 0]), None);
    assert_eq!(masked([10, 1, 0, 77], [254, 0, 0, 0]), None);
    assert_eq!(masked([10, 1, 0, 0], [255, 255, 255, 0]), None);
    assert_eq!(masked([10, 1, 0, 255], [255, 255, 255, 0]), None);
    for address in [[0, 1, 0, 77], [127, 0, 0, 77], [240, 1, 0, 77]] {
        assert_eq!(decode(ASKER, &answer(address, ACK)), None, "{address:?}");
    }
    // We are not our own gateway, and nobody else's name server lives here.
    let Some(Reply::Ack(grant)) = with(&[3, 8, 10, 1, 0, 77, 127, 0, 0, 1, 6, 4, 127, 0, 0, 1])
    else {
        panic!("the rest of it is good");
    };
    assert_eq!(grant.gateways, [ip("10.1.0.1"), ip("10.1.0.2")]);
    assert_eq!(grant.dns_servers, [ip("10.1.0.53")]);
    // A lease of a second would have us ask for ever, and do nothing else.
    let short = [&ACK[..11], &[0, 0, 0, 1]].concat();
    let grant = acked(&answer([10, 1, 0, 77], &short));
    assert_eq!((grant.lease_seconds, grant.renew_seconds), (10, 5));
}

#[test]
fn options_in_pieces_and_in_lent_fields_are_found() {
    let mut bytes = answer(
        [10, 1, 0, 77],
        &[&ACK[..15], &[52, 1, 3, 6, 2, 10, 1]].concat(),
    );
    bytes[108..116].copy_from_slice(&[6, 2, 0, 53, 255, 1, 1, 1]);
    bytes[44..51].copy_from_slice(&[26, 2, 5, 0, 255, 3, 4]);
    let grant = acked(&bytes);
    assert_eq!(grant.dns_servers, [ip("10.1.0.53")]);
    assert_eq!((grant.mtu, grant.gateways.len()), (Some(1280), 0));
    assert_eq!(grant.address.prefix_len(), 8, "no mask: that of its class");
}

#[test]
fn classless_routes_take_the_place_of_routers() {
    let routes = [121, 14, 32, 10, 1, 0, 1, 0, 0, 0, 0, 0, 10, 1, 0, 1];
    let grant = acked(&answer([10, 1, 0, 77], &[ACK, &routes].concat()));
    assert_eq!(grant.gateways, [ip("10.1.0.1")]);
}

#[test]
fn timers_are_in_order_whatever_the_server_says() {
    assert_eq!(timers(120, None, None), (60, 105));
    assert_eq!(timers(120, Some(2), Some(4)), (2, 4));
    assert_eq!(timers(120, Some(110), Some(90)), (60, 90));
    assert_eq!(timers(120, Some(0), Some(500)), (60, 105));
    assert_eq!(timers(u32::MAX, None, None).0, u32::MAX / 2);
}

#[test]
fn questions_say_what_they_must() {
    let address = Ipv4Addr::new(10, 1, 0, 77);
    let server = Ipv4Addr::new(10, 1, 0, 1);
    let query = |kind| Query {
        kind,
        broadcast_answer: false,
    };
    let sent = |kind| encode(ASKER, &query(kind), 3);
    let contains = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
    let discover = sent(QueryKind::Discover);
    assert_eq!(discover[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 3, 0, 0]);
    assert!(contains(&discover, &[53, 1, 1]) && !contains(&discover, &[50, 4]));
    let select = sent(QueryKind::Select { address, server });
    assert!(contains(&select, &[50, 4, 10, 1, 0, 77]) && contains(&select, &[54, 4, 10, 1, 0, 1]));
    // A known address is asked for without a server, an own one in the header alone.
    let confirm = sent(QueryKind::Confirm { address });
    assert!(contains(&confirm, &[50, 4, 10, 1, 0, 77]) && !contains(&confirm, &[54, 4]));
    let extend = sent(QueryKind::Extend {
        address,
        server: Some(server),
    });
    assert_eq!(extend[12..16], address.octets());
    assert!(!contains(&extend, &[50, 4]) && !contains(&extend, &[54, 4]));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(ASKER, &bytes);
        let _ = decode(ASKER, &answer([10, 0, 0, 9], &bytes));
    }

    #[test]
    fn a_grant_is_always_usable(options in proptest::collection::vec(any::<u8>(), 0..80)) {
        let all = [ACK, &options].concat();
        if let Some(Reply::Ack(grant)) = decode(ASKER, &answer([10, 1, 0, 77], &all)) {
            prop_assert!(grant.lease_seconds > 0);
            prop_assert!(grant.renew_seconds <= grant.rebind_seconds);
            prop_assert!(grant.rebind_seconds <= grant.lease_seconds);
        }
    }
}
