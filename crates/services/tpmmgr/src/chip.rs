//! The TPM, as the rest of tpmmgr asks it. It is in a process of its own, `tpmchip`, which alone is linked with the TPM
//! software stack and does one request after the other.
//!
//! One thread here has that process and the jobs for it. The process is started when a job needs one and ended when the
//! TPM went away under it (it was reset, its simulator died): then the job is done once more with a new one, if doing it
//! twice is as good as once. One that hangs is killed and costs its callers a bounded time, but no later one anything.

mod error;
mod link;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tpm::Zeroizing;

pub use error::ChipError;
pub use link::{Link, Tcti, TctiError};
pub use wire::{
    ChipState, KeySet, LONGEST_CREDENTIAL, LONGEST_NV, PublicKey, Quoted, Request, Sealed, receive,
    send,
};

/// The program that has the TPM, beside tpmmgr's.
pub const PROGRAM: &str = "tpmchip";

/// Longest wait for the answer to one request. Keys of a slow TPM take seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(20);

/// Longest wait for a job and those before it.
const LONGEST: Duration = Duration::from_secs(25);

/// Most jobs that wait: a TPM that hangs must not fill the memory.
const MOST_WAITING: usize = 256;

type Credential = Zeroizing<Vec<u8>>;

type Job = Box<dyn FnOnce(&mut Place) + Send>;

/// The thread that has the process. Cheap to clone; it ends with the last clone.
#[derive(Clone, Debug)]
pub struct Chip {
    jobs: mpsc::SyncSender<Job>,
}

/// Whether a job may be done again when the TPM went away in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Twice is as good as once.
    Yes,
    /// Extending a PCR twice is not extending it once.
    No,
}

/// Where the process is, while there is one.
struct Place {
    program: PathBuf,
    tcti: Tcti,
    /// The file with the password of the TPM's owner; on most devices there is none.
    credential: PathBuf,
    open: Option<Link>,
}

impl Chip {
    /// A thread for this TPM, which `program` has. Nothing is started yet. `credential` is a file with the password of the
    /// TPM's owner, where it has one.
    pub fn start(program: PathBuf, tcti: Tcti, credential: PathBuf) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job>(MOST_WAITING);
        std::thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                let mut place = Place {
                    program,
                    tcti,
                    credential,
                    open: None,
                };
                while let Ok(job) = waiting.recv() {
                    job(&mut place);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Does a job on the thread that has the process.
    pub async fn run<T: Send + 'static>(
        &self,
        again: Again,
        job: impl Fn(&mut Link) -> Result<T, ChipError> + Send + 'static,
    ) -> Result<T, ChipError> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |place| {
            // Who asked has given up: what hung so long must not be hung by a queue on top.
            if !sender.is_closed() {
                let _ = sender.send(place.run(again, &job));
            }
        });
        self.jobs
            .try_send(job)
            .map_err(|_| ChipError::Gone("too many requests wait for the TPM".to_owned()))?;
        let gone = |text: String| Err(ChipError::Gone(text));
        match tokio::time::timeout(LONGEST, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => gone("its thread ended".to_owned()),
            Err(_) => gone(format!("no answer within {LONGEST:?}")),
        }
    }
}

impl Place {
    fn run<T>(
        &mut self,
        again: Again,
        job: &dyn Fn(&mut Link) -> Result<T, ChipError>,
    ) -> Result<T, ChipError> {
        let fresh = self.open.is_none();
        let begun = Instant::now();
        let result = self.once(job);
        // Whoever waited for a TPM that hangs has no time for another go.
        let soon = begun.elapsed() < LONGEST / 5;
        match result {
            Err(ChipError::Gone(_)) if !fresh && again == Again::Yes && soon => self.once(job),
            result => result,
        }
    }

    fn once<T>(&mut self, job: &dyn Fn(&mut Link) -> Result<T, ChipError>) -> Result<T, ChipError> {
        let credential = credential(&self.credential)?;
        if self
            .open
            .as_ref()
            .is_none_or(|link| link.credential != credential)
        {
            let mut link = Link::start(&self.program, &self.tcti, LONGEST_ANSWER)?;
            link.authorize(credential)?;
            self.open = Some(link);
        }
        let Some(link) = &mut self.open else {
            return Err(ChipError::Gone("it is not there".to_owned()));
        };
        let result = job(link);
        if matches!(result, Err(ChipError::Gone(_))) {
            self.open = None;
        }
        result
    }
}

/// The owner's password: what the file holds but for white space around it.
fn credential(file: &Path) -> Result<Option<Credential>, ChipError> {
    let wrong = |why: String| ChipError::Keys(format!("{}: {why}", file.display()));
    let bytes = match std::fs::read(file) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let password = bytes.trim_ascii();
    if password.len() > LONGEST_CREDENTIAL {
        return Err(wrong(format!("more than {LONGEST_CREDENTIAL} bytes")));
    }
    Ok(Some(Zeroizing::new(password.to_vec())))
}
