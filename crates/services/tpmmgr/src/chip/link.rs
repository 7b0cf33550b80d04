//! The process that has the TPM, and what it can be asked.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use tpm::{Pcr, PcrSelection, PcrValues, SharedPoint, Signature, Zeroizing};

use super::{ChipError, ChipState, KeySet, Quoted, Request, Sealed, receive, send};

/// The kinds of ways to a TPM that the TPM software stack knows.
const WAYS: [&str; 4] = ["device", "swtpm", "mssim", "tabrmd"];

/// How the TPM is reached, as the TPM software stack writes it: `device:/dev/tpmrm0`,
/// `swtpm:host=127.0.0.1,port=2321`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcti(String);

/// Not a way to a TPM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to a TPM; such as device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=2321")]
pub struct TctiError(String);

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, TctiError> {
        let way = text.split_once(':').map_or(text, |(way, _)| way);
        if WAYS.contains(&way) {
            return Ok(Self(text.to_owned()));
        }
        Err(TctiError(text.to_owned()))
    }
}

impl Tcti {
    /// The device node that it needs; none when it is reached otherwise.
    pub fn node(&self) -> Option<PathBuf> {
        match self.0.split_once(':') {
            Some(("device", node)) => Some(node.into()),
            None if self.0 == "device" => Some("/dev/tpm0".into()),
            Some(_) | None => None,
        }
    }
}

/// The process. It ends with this.
#[derive(Debug)]
pub struct Link {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<Patient>,
    /// The owner's password that it was told.
    pub(super) credential: Option<Zeroizing<Vec<u8>>>,
}

/// Its answers, waited for only so long.
#[derive(Debug)]
struct Patient {
    answers: ChildStdout,
    longest: Duration,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = Timespec::try_from(self.longest).ok();
        let mut answer = [PollFd::new(&self.answers, PollFlags::IN)];
        if poll(&mut answer, limit.as_ref())? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {:?}", self.longest),
            ));
        }
        self.answers.read(buffer)
    }
}

impl Link {
    /// Starts it. The TPM is opened with the first request; `longest` is how long each may take.
    pub(crate) fn start(program: &Path, tcti: &Tcti, longest: Duration) -> Result<Self, ChipError> {
        let gone = |error: io::Error| ChipError::Gone(format!("{}: {error}", program.display()));
        let mut process = Command::new(program)
            .arg(&tcti.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(gone)?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(gone(io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self {
            process,
            requests,
            answers: BufReader::new(Patient { answers, longest }),
            credential: None,
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ChipError> {
        let answer: io::Result<Option<Result<T, ChipError>>> =
            send(&mut self.requests, request).and_then(|()| receive(&mut self.answers));
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(ChipError::Gone("the process that has it ended".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(ChipError::Invalid("more than the TPM takes".to_owned()))
            }
            Err(error) => Err(ChipError::Gone(error.to_string())),
        }
    }

    /// Tells it the password of the TPM's owner.
    pub(super) fn authorize(
        &mut self,
        credential: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<(), ChipError> {
        if let Some(password) = &credential {
            let () = self.ask(&Request::Authorize(password.clone()))?;
        }
        self.credential = credential;
        Ok(())
    }

    /// Asks the TPM how it is.
    pub fn state(&mut self) -> Result<ChipState, ChipError> {
        self.ask(&Request::State)
    }

    /// The keys as they are; nothing is made.
    pub fn keys(&mut self) -> Result<KeySet, ChipError> {
        self.ask(&Request::Keys)
    }

    /// The keys, made where they are not there. `expected` is the point of the device's certificate: a TPM
    /// whose device key is another is not touched.
    pub fn prepare(&mut self, expected: Option<&[u8]>) -> Result<KeySet, ChipError> {
        let keys: KeySet = self.ask(&Request::Prepare(expected.map(<[u8]>::to_vec)))?;
        for name in &keys.made {
            tracing::info!(key = name, "made in the TPM");
        }
        Ok(keys)
    }

    /// Signs a SHA-256 digest with the device's key.
    pub fn sign(&mut self, digest: &[u8; 32]) -> Result<Signature, ChipError> {
        let signature: Vec<u8> = self.ask(&Request::Sign(*digest))?;
        let signature = signature.try_into().map_err(|wrong: Vec<u8>| {
            ChipError::Keys(format!("a signature has {} bytes", wrong.len()))
        });
        signature.map(Signature)
    }

    /// Multiplies a point by the ECDH key.
    pub fn ecdh(&mut self, x: [u8; 32], y: [u8; 32]) -> Result<SharedPoint, ChipError> {
        let (x, y): (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) = self.ask(&Request::Ecdh(x, y))?;
        Ok(SharedPoint { x, y })
    }

    /// Quotes PCR 0 to 15.
    pub fn quote(&mut self, nonce: &[u8]) -> Result<Quoted, ChipError> {
        self.ask(&Request::Quote(nonce.to_vec()))
    }

    /// Seals a secret to the values of now, and to the `expected` ones.
    pub fn seal(
        &mut self,
        secret: &Zeroizing<Vec<u8>>,
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Result<Sealed, ChipError> {
        self.ask(&Request::Seal(secret.clone(), pcrs, expected.to_vec()))
    }

    /// The secret, and which set of values opened it.
    pub fn unseal(&mut self, blob: &Sealed) -> Result<(Zeroizing<Vec<u8>>, usize), ChipError> {
        self.ask(&Request::Unseal(blob.clone()))
    }

    /// Reads PCRs.
    pub fn read_pcrs(&mut self, pcrs: PcrSelection) -> Result<PcrValues, ChipError> {
        self.ask(&Request::ReadPcrs(pcrs))
    }

    /// Extends a PCR and gives its new value.
    pub fn extend_pcr(&mut self, pcr: Pcr, digest: [u8; 32]) -> Result<PcrValues, ChipError> {
        self.ask(&Request::ExtendPcr(pcr, digest))
    }

    /// The content of an NV index; none when it is not defined or was never written.
    pub fn read_nv(&mut self, index: u32) -> Result<Option<Vec<u8>>, ChipError> {
        self.ask(&Request::ReadNv(index))
    }

    /// Writes an NV index, which is defined anew when it has another size.
    pub fn write_nv(&mut self, index: u32, data: &[u8]) -> Result<(), ChipError> {
        self.ask(&Request::WriteNv(index, data.to_vec()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It has nothing to finish: what the TPM does, it does without it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that does this instead of having a TPM.
    fn link(dir: &Path, does: &str) -> Result<Link, ChipError> {
        let program = dir.join("program");
        fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let tcti = "device:/dev/tpmrm0".parse().unwrap();
        Link::start(&program, &tcti, Duration::from_millis(50))
    }

    #[test]
    fn a_process_that_hangs_or_babbles_is_a_tpm_that_does_not_answer_and_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        for (does, why) in [
            ("exec sleep 600", "no answer within"),
            ("exit 3", "ended"),
            ("echo nonsense; exec sleep 600", "expected"),
            ("printf half; exit", "unexpected end"),
        ] {
            let mut link = link(dir.path(), does).unwrap();
            let process = PathBuf::from(format!("/proc/{}", link.process.id()));
            let error = link.sign(&[1; 32]).unwrap_err();
            let broken = error.to_string().contains("Broken pipe") && does.contains("exit");
            assert!(matches!(error, ChipError::Gone(_)), "{does}: {error:?}");
            assert!(broken || error.to_string().contains(why), "{does}: {error}");
            drop(link);
            assert!(!process.exists(), "{does}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let tcti = "device:/dev/tpmrm0".parse().unwrap();
        let error = Link::start(Path::new("/nowhere/tpmchip"), &tcti, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("/nowhere/tpmchip"), "{error}");
    }

    #[test]
    fn ways_to_a_tpm_are_of_the_kinds_that_there_are() {
        let node = |way: &str| way.parse::<Tcti>().map(|tcti| tcti.node());
        assert_eq!(node("device:/dev/tpmrm0"), Ok(Some("/dev/tpmrm0".into())));
        assert_eq!(node("device"), Ok(Some("/dev/tpm0".into())));
        assert_eq!(node("swtpm:host=127.0.0.1,port=2321"), Ok(None));
        assert!(node("/dev/tpmrm0").is_err());
        assert!(node("").is_err());
    }
}
