//! Questions and answers as Ethernet frames: a port that has no address yet cannot use the
//! kernel's IP.

use std::net::Ipv4Addr;

/// UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
const IPV4: [u8; 2] = [0x08, 0x00];
const UDP_PROTOCOL: u8 = 17;

/// A frame from `mac` to everybody on the link. `source` is unspecified as long as there is no
/// address.
pub fn to_everybody(mac: [u8; 6], source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = vec![0; ETHERNET + IP + UDP];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&IPV4);
    let ip = &mut frame[ETHERNET..ETHERNET + IP];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length(IP + UDP + payload.len()));
    ip[8..10].copy_from_slice(&[64, UDP_PROTOCOL]);
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].fill(0xff);
    let sum = checksum(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [
        &source.octets()[..],
        &[0xff; 4],
        &[0, UDP_PROTOCOL],
        &length(UDP + payload.len()),
    ]
    .concat();
    let udp = &mut frame[ETHERNET + IP..];
    udp[..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&length(UDP + payload.len()));
    // Zero would mean that there is no checksum.
    let sum = match checksum(&[&pseudo, udp, payload]) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The Internet checksum. Every part but the last has an even number of bytes.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// What a frame carries, if it is a whole UDP packet to a client.
///
/// Checksums are not looked at: of a packet that never was on a wire they are not made yet.
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let header = packet.get(..IP)?;
    let header_length = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let fits = ethernet[12..14] == IPV4
        && header[0] >> 4 == 4
        && header_length >= IP
        && header[9] == UDP_PROTOCOL
        && fragment == 0;
    if !fits {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let datagram = packet.get(header_length..total)?;
    let (udp, _) = datagram.split_at_checked(UDP)?;
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    let to = u16::from_be_bytes([udp[2], udp[3]]);
    (to == CLIENT_PORT)
        .then(|| datagram.get(UDP..length))
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = payload(&bytes);
        }

        #[test]
        fn frames_carry_their_payload(data in proptest::collection::vec(any::<u8>(), 0..400), source: u32) {
            let mut frame = to_everybody([2; 6], Ipv4Addr::from(source), &data);
            prop_assert_eq!(payload(&frame), None, "it is for servers");
            frame[36..38].copy_from_slice(&CLIENT_PORT.to_be_bytes());
            prop_assert_eq!(payload(&frame).unwrap(), &data[..]);
            // The sum over a header with its checksum is zero.
            prop_assert_eq!(checksum(&[&frame[14..34]]), 0);
            // Bytes behind the packet are padding of the frame.
            frame.extend([0; 9]);
            prop_assert_eq!(payload(&frame).unwrap(), &data[..]);
            frame.truncate(frame.len() - 10);
            prop_assert_eq!(payload(&frame), None);
        }
    }
}
