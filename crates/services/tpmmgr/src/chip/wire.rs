//! What tpmmgr and the process that has the TPM say to each other: lines of JSON over two pipes, one answer for each
//! request, in order. An answer is a `Result` of what the request names, and a `ChipError`.

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tpm::{Pcr, PcrSelection, PcrValues, Zeroizing};

/// Longest line, in bytes. The longest is a sealed secret with all its sets of values.
const LONGEST_LINE: u64 = 64 << 10;

/// Most bytes at an NV index: every TPM has room for so many.
pub const LONGEST_NV: usize = 2048;

/// Most bytes of the owner's password: a digest's, as the TPM has it.
pub const LONGEST_CREDENTIAL: usize = 32;

/// For a line that holds a secret: a buffer that grows leaves parts of it behind.
const ROOM: usize = 4 << 10;

/// What the TPM is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The password of the TPM's owner, where it has one. Before anything else.
    Authorize(Zeroizing<Vec<u8>>),
    /// How it is: [`ChipState`].
    State,
    /// The keys as they are; nothing is made: [`KeySet`].
    Keys,
    /// The keys, made where they are not there: [`KeySet`]. A TPM whose device key has another point than this one is not touched.
    Prepare(Option<Vec<u8>>),
    /// A signature of this SHA-256 digest by the device's key: `r || s`, 64 bytes.
    Sign([u8; 32]),
    /// The product of this point, `x` and `y`, and the ECDH key: `x` and `y`, 32 bytes each.
    Ecdh([u8; 32], [u8; 32]),
    /// A quote of PCR 0 to 15 with this nonce: [`Quoted`].
    Quote(Vec<u8>),
    /// Seals a secret to these PCRs' values of now, and to the expected ones: [`Sealed`].
    Seal(Zeroizing<Vec<u8>>, PcrSelection, Vec<PcrValues>),
    /// The secret, and which set of values opened it.
    Unseal(Sealed),
    /// The values of PCRs.
    ReadPcrs(PcrSelection),
    /// Extends a PCR: its new value.
    ExtendPcr(Pcr, [u8; 32]),
    /// The content of an NV index; none when it is not defined or was never written.
    ReadNv(u32),
    /// Writes an NV index.
    WriteNv(u32, Vec<u8>),
}

/// A key that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Its public point, SEC1 uncompressed.
    pub point: Vec<u8>,
    /// `TPM2_PUBLIC`.
    pub public_area: Vec<u8>,
}

/// The keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// Of the TPM itself.
    pub endorsement: PublicKey,
    /// That signs quotes.
    pub quote: PublicKey,
    /// That controllers encrypt to.
    pub ecdh: PublicKey,
    /// The device's.
    pub device: PublicKey,
    /// Names of those that were made just now.
    pub made: Vec<String>,
}

/// What a TPM says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipState {
    /// Its vendor, such as `IBM SW TPM`.
    pub vendor: String,
    /// Its firmware.
    pub firmware: String,
    /// Its SHA-256 bank is there.
    pub sha256: bool,
    /// It refuses authorizations that could be guessed, for so many seconds.
    pub locked_out: Option<u32>,
}

/// A quote without the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `ECDSA-Sig-Value`.
    pub signature: Vec<u8>,
    /// What was quoted.
    pub pcrs: PcrValues,
}

/// A sealed secret. Without the TPM that made it, and the PCR values, it tells nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The PCRs that count.
    pub pcrs: PcrSelection,
    /// Sets of their values, complete; at least one.
    pub alternatives: Vec<PcrValues>,
    /// `TPM2B_PUBLIC` without its length.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE` without its length.
    pub private: Vec<u8>,
}

/// Writes one request or answer; `InvalidInput` when it is too long.
pub fn send(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *line, what)?;
    line.push(b'\n');
    if line.len() as u64 > LONGEST_LINE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    to.write_all(&line)?;
    to.flush()
}

/// Reads one; none where the other side has ended.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    let read = from.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_longest_that_is_said_fits_in_a_line() {
        let all: PcrSelection = (0..24).map(|n| Pcr::new(n).unwrap()).collect();
        let values: PcrValues = all.iter().map(|pcr| (pcr, [255; 32])).collect();
        let sealed = Sealed {
            pcrs: all,
            alternatives: vec![values; 1 + tpm::MOST_EXPECTED],
            public: vec![255; 512],
            private: vec![255; 512],
        };
        for said in [
            Request::Unseal(sealed),
            Request::WriteNv(1, vec![255; LONGEST_NV]),
        ] {
            let mut line = Vec::new();
            send(&mut line, &said).unwrap();
            let heard: Request = receive(&mut line.as_slice()).unwrap().unwrap();
            assert_eq!(format!("{heard:?}"), format!("{said:?}"));
        }
    }

    #[test]
    fn a_line_without_its_end_is_none() {
        let receive = |mut line: &[u8]| receive::<Request>(&mut line);
        assert!(receive(b"").unwrap().is_none());
        assert!(receive(br#""State""#).is_err());
        assert!(receive(b"\"State\"\n").unwrap().is_some());
        assert!(receive(&vec![b' '; 1 << 20]).is_err());
        assert!(receive(b"\"Format\"\n").is_err());
    }
}
