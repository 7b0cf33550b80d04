//! The process that has the TPM: the only one that is linked with the TPM software stack, a library in C that parses what
//! a chip says. tpmmgr starts it, asks it over two pipes and ends it; it runs in tpmmgr's sandbox.
//!
//! `tpmchip device:/dev/tpmrm0` reads requests from its standard input and writes answers to its standard output. It opens the
//! TPM with the first one, keeps nothing on the disk, knows no caller and decides nothing.
//!
//! Every request flushes what it loaded and every session that it began, so that none of the TPM's few slots is lost,
//! whatever happens in between.
#![forbid(unsafe_code)]

mod error;
mod key;
mod nv;
mod pcr;
mod seal;
mod state;
mod template;
mod tss;

use std::io::{self, Write};
use std::process::ExitCode;

use rustix::process::{Signal, set_parent_process_death_signal};
use tpmmgr::chip::{ChipError, Request, receive, send};

use tss::Tss;

fn main() -> ExitCode {
    let Some(way) = std::env::args().nth(1) else {
        eprintln!("tpmchip: which TPM? Such as: tpmchip device:/dev/tpmrm0");
        return ExitCode::FAILURE;
    };
    match serve(&way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tpmchip: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers until nobody asks any more.
fn serve(way: &str) -> io::Result<()> {
    // A TPM that hangs would keep it from seeing that tpmmgr has gone.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (mut requests, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut open = None;
    while let Some(request) = receive(&mut requests)? {
        answer(&mut open, way, request, &mut answers)?;
    }
    Ok(())
}

fn answer(
    open: &mut Option<Tss>,
    way: &str,
    request: Request,
    to: &mut impl Write,
) -> io::Result<()> {
    let tss = match open {
        Some(tss) => tss,
        None => match Tss::open(way) {
            Ok(tss) => open.insert(tss),
            Err(error) => return send(to, &Err::<(), ChipError>(error)),
        },
    };
    match request {
        Request::Authorize(password) => send(to, &tss.authorize(&password)),
        Request::State => send(to, &tss.state()),
        Request::Keys => send(to, &tss.keys().map(|keys| keys.known(&[]))),
        Request::Prepare(expected) => {
            let keys = tss.prepare(expected.as_deref());
            send(to, &keys.map(|keys| keys.known(&tss.made)))
        }
        Request::Sign(digest) => send(to, &tss.sign(&digest).map(|made| made.0.to_vec())),
        Request::Ecdh(x, y) => send(to, &tss.ecdh(x, y).map(|point| (point.x, point.y))),
        Request::Quote(nonce) => send(to, &tss.quote(&nonce)),
        Request::Seal(secret, pcrs, expected) => send(to, &tss.seal(&secret, pcrs, &expected)),
        Request::Unseal(sealed) => send(to, &tss.unseal(&sealed)),
        Request::ReadPcrs(pcrs) => send(to, &tss.read_pcrs(pcrs)),
        Request::ExtendPcr(pcr, digest) => send(to, &tss.extend_pcr(pcr, digest)),
        Request::ReadNv(index) => send(to, &tss.read_nv(index)),
        Request::WriteNv(index, data) => send(to, &tss.write_nv(index, &data)),
    }
}
