//! Carries an exchange with DHCP servers out: sockets and waits around the machine.

use std::{io, net::Ipv4Addr, time::Duration};

use rand::Rng as _;
use tokio::time::{Instant, sleep_until};

use super::socket::{FrameSocket, to_server};
use crate::dhcp::{
    Ask, Query, QueryKind,
    exchange::{Effect, Event, Exchange, Outcome},
    frame,
    message::{Asker, decode, encode},
};

/// Asks the servers of a port's link; ends in seconds, whatever they say.
pub(super) async fn exchange(
    if_name: &str,
    index: u32,
    mac: [u8; 6],
    ask: &Ask,
) -> io::Result<Outcome> {
    let frames = FrameSocket::open(if_name, index)?;
    let began = Instant::now();
    let asker = Asker {
        mac,
        xid: rand::rng().random(),
    };
    let (mut exchange, mut effects) = Exchange::start(ask);
    // Open as long as an answer may come to it; but for that it is of no use.
    let mut _server = None;
    let mut until = Instant::now();
    loop {
        for effect in effects {
            match effect {
                Effect::Send(query) => {
                    let seconds = u16::try_from(began.elapsed().as_secs()).unwrap_or(u16::MAX);
                    let message = encode(asker, &query, seconds);
                    _server = None;
                    _server = send(&frames, if_name, mac, &query, &message).await?;
                }
                Effect::Wait(wait) => until = Instant::now() + varied(wait),
                Effect::End(outcome) => return Ok(outcome),
            }
        }
        let event = loop {
            tokio::select! {
                frame = frames.receive() => {
                    let frame = frame?;
                    let reply = frame::payload(&frame).and_then(|bytes| decode(asker, bytes));
                    if let Some(reply) = reply {
                        break Event::Reply(reply);
                    }
                }
                () = sleep_until(until) => break Event::Timeout,
            }
        };
        // An answer that changes nothing has no effects: the wait goes on.
        (exchange, effects) = exchange.step(event);
    }
}

/// So that the devices of a site that got power at once do not ask at once.
fn varied(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.9..1.1))
}

async fn send(
    frames: &FrameSocket,
    if_name: &str,
    mac: [u8; 6],
    query: &Query,
    message: &[u8],
) -> io::Result<Option<tokio::net::UdpSocket>> {
    let source = match query.kind {
        QueryKind::Extend {
            address,
            server: Some(server),
        } => {
            let socket = to_server(if_name, address, server).await?;
            // The server may be out of reach for now: that is silence, not an error of ours.
            if let Err(error) = socket.send(message).await {
                tracing::debug!(if_name, %server, %error, "cannot send to the DHCP server");
            }
            return Ok(Some(socket));
        }
        QueryKind::Extend {
            address,
            server: None,
        } => address,
        QueryKind::Discover | QueryKind::Select { .. } | QueryKind::Confirm { .. } => {
            Ipv4Addr::UNSPECIFIED
        }
    };
    frames
        .send(&frame::to_everybody(mac, source, message))
        .await?;
    Ok(None)
}
