//! The TPM: one thread that owns the only context there is, and the jobs that others hand to it.
//!
//! A context is made when a job needs one and dropped when the TPM went away under it (it was reset, its
//! simulator died): then the job is done once more on a new one, if doing it twice is as good as once.
//! Every job flushes what it loaded and every session that it began, so that none of the TPM's few slots
//! is lost, whatever happens in between.
//!
//! A TPM that hangs hangs this thread only: callers wait for a bounded time.

mod error;
mod key;
mod nv;
mod pcr;
mod seal;
mod state;
mod template;
mod tss;

use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

pub use error::ChipError;
pub use key::KeyHandles;
pub use pcr::Quoted;
pub use seal::{Sealed, policy};
pub use state::ChipState;
pub use tss::{Tcti, TctiError, Tss};

/// Longest wait for a job. Keys of a slow TPM take seconds.
const LONGEST: Duration = Duration::from_secs(25);

/// Most jobs that wait: a TPM that hangs must not fill the memory.
const MOST_WAITING: usize = 256;

type Job = Box<dyn FnOnce(&mut Place) + Send>;

/// The thread that owns the TPM. Cheap to clone; it ends with the last clone.
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

/// Where the context is, while there is one.
struct Place {
    tcti: Tcti,
    open: Option<Tss>,
}

impl Chip {
    /// A thread for this TPM. Nothing is opened yet.
    pub fn start(tcti: Tcti) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job>(MOST_WAITING);
        std::thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                let mut place = Place { tcti, open: None };
                while let Ok(job) = waiting.recv() {
                    job(&mut place);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Does a job on the thread of the TPM.
    pub async fn run<T: Send + 'static>(
        &self,
        again: Again,
        job: impl Fn(&mut Tss) -> Result<T, ChipError> + Send + 'static,
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
        job: &dyn Fn(&mut Tss) -> Result<T, ChipError>,
    ) -> Result<T, ChipError> {
        let fresh = self.open.is_none();
        let result = self.once(job);
        match result {
            Err(ChipError::Gone(_)) if !fresh && again == Again::Yes => self.once(job),
            result => result,
        }
    }

    fn once<T>(&mut self, job: &dyn Fn(&mut Tss) -> Result<T, ChipError>) -> Result<T, ChipError> {
        if self.open.is_none() {
            self.open = Some(Tss::open(&self.tcti)?);
        }
        let Some(tss) = &mut self.open else {
            return Err(ChipError::Gone("it is not open".to_owned()));
        };
        let result = job(tss);
        if matches!(result, Err(ChipError::Gone(_))) {
            self.open = None;
        }
        result
    }
}
