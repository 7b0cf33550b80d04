//! The walk over the ways to a datastore.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use model::id::Digest;
use tokio::time::{Instant, timeout};
use tracing::debug;
use uplink::Attempt;

use crate::error::{AttemptError, FetchError, Problem};
use crate::partial::{Origin, Paths};
use crate::source::{Opened, Resume, Source, Validator};
use crate::writer::{Gone, Writer};

/// Time between two reports of progress.
const REPORT: Duration = Duration::from_millis(250);
/// Tries to get the part when a cancelled predecessor still writes its last chunks to it.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What is allowed and what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes that the file may have.
    pub max_bytes: Option<u64>,
    /// Bytes that the file must have.
    pub exact_bytes: Option<u64>,
    /// Digest that the file must have.
    pub digest: Option<Digest>,
    /// Longest time with no byte (`timer.download.stalled`).
    pub stall: Duration,
}

impl Default for Limits {
    /// No limit but 10 minutes with no byte.
    fn default() -> Self {
        Self {
            max_bytes: None,
            exact_bytes: None,
            digest: None,
            stall: Duration::from_mins(10),
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Port that it comes over.
    pub port: &'a str,
    /// Bytes on their way to the disk, those of earlier tries included.
    pub done: u64,
    /// Bytes in all, if known.
    pub total: Option<u64>,
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub size: u64,
    /// SHA-256 of all its bytes.
    pub digest: Digest,
    /// Port that the last byte came over.
    pub port: String,
    /// Bytes that came in this call.
    pub received: u64,
    /// Ways that had failed before.
    pub failed: Vec<AttemptError>,
}

/// Fetches `source` to `target` over the first way that works.
///
/// Until it is complete it is `<target>.part`; `target` appears by rename, with everything
/// on the disk. Dropping the future cancels; the next call goes on where this one stopped.
pub async fn download(
    source: &dyn Source,
    attempts: &[Attempt],
    target: &Path,
    limits: &Limits,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Downloaded, FetchError> {
    if attempts.is_empty() {
        return Err(FetchError::NoAttempt {
            url: source.url().to_owned(),
        });
    }
    let paths = Paths::of(target);
    let wanted = Origin {
        url: source.url().to_owned(),
        validator: None,
        total: None,
        digest: limits.digest,
    };
    let (writer, kept) = start(&paths, &wanted).await?;
    let mut walk = Walk {
        source,
        limits,
        wanted,
        writer,
        offset: kept.offset,
        validator: kept.validator,
        received: 0,
        mixed: kept.offset > 0,
        progress,
    };
    let ended = walk.over(attempts).await;
    match ended {
        Ok(done) => {
            walk.writer.commit().await?;
            Ok(done)
        }
        Err(Stop::Disk) => Err(walk.writer.failure().await),
        Err(Stop::Final(error)) => {
            walk.writer.end().await?;
            // Its bytes are of no use for another try.
            paths.discard()?;
            Err(error)
        }
        Err(Stop::NoWayLeft(errors)) => {
            walk.writer.end().await?;
            Err(FetchError::Attempts {
                url: source.url().to_owned(),
                errors,
                kept: paths.kept(),
            })
        }
    }
}

async fn start(
    paths: &Paths,
    wanted: &Origin,
) -> Result<(Writer, crate::writer::Kept), FetchError> {
    let mut tries = 0;
    loop {
        match Writer::start(paths.clone(), wanted.clone()).await {
            Err(FetchError::Busy { .. }) if tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Why the walk ended without a file.
enum Stop {
    /// The writer is gone.
    Disk,
    /// No other way can help.
    Final(FetchError),
    /// All ways failed.
    NoWayLeft(Vec<AttemptError>),
}

/// Why one way ended without a file.
enum WayEnd {
    Problem(Problem),
    Disk,
    Final(FetchError),
    /// The whole is not what it must be, but part of it is from an earlier try.
    StartAgain,
}

impl From<Gone> for WayEnd {
    fn from(_: Gone) -> Self {
        Self::Disk
    }
}

struct Walk<'a> {
    source: &'a dyn Source,
    limits: &'a Limits,
    wanted: Origin,
    writer: Writer,
    /// Bytes that the writer has or will have.
    offset: u64,
    validator: Option<Validator>,
    received: u64,
    /// Bytes of more than one answer are in the part.
    mixed: bool,
    progress: &'a mut (dyn FnMut(Progress<'_>) + Send),
}

impl Walk<'_> {
    async fn over(&mut self, attempts: &[Attempt]) -> Result<Downloaded, Stop> {
        let mut failed = Vec::new();
        for attempt in attempts {
            let before = self.received;
            let problem = loop {
                match self.way(attempt).await {
                    Ok((size, digest)) => {
                        let (port, received) = (attempt.port.clone(), self.received);
                        return Ok(Downloaded {
                            size,
                            digest,
                            port,
                            received,
                            failed,
                        });
                    }
                    // At most once in a row: then nothing is mixed.
                    Err(WayEnd::StartAgain) => {
                        debug!(
                            url = self.source.url(),
                            "resumed file is wrong, fetching all of it"
                        );
                        (self.offset, self.validator, self.mixed) = (0, None, false);
                    }
                    Err(WayEnd::Problem(problem)) => break problem,
                    Err(WayEnd::Disk) => return Err(Stop::Disk),
                    Err(WayEnd::Final(error)) => return Err(Stop::Final(error)),
                }
            };
            let error = AttemptError {
                port: attempt.port.clone(),
                source_address: attempt.source,
                received: self.received - before,
                problem,
            };
            debug!(url = self.source.url(), %error, "way failed");
            failed.push(error);
        }
        Err(Stop::NoWayLeft(failed))
    }

    /// The rest of the file over one way.
    async fn way(&mut self, attempt: &Attempt) -> Result<(u64, Digest), WayEnd> {
        let stall = self.limits.stall;
        let stalled = |_| WayEnd::Problem(Problem::Stalled(stall));
        let resume = (self.offset > 0).then(|| Resume {
            offset: self.offset,
            validator: self.validator.clone(),
        });
        let opened = timeout(stall, self.source.open(attempt, resume.as_ref()))
            .await
            .map_err(stalled)?
            .map_err(WayEnd::Problem)?;
        let total = opened.total;
        let mut body = self.begin(opened).await?;
        let mut reported: Option<Instant> = None;
        loop {
            if reported.is_none_or(|last| last.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                self.report(attempt, total);
            }
            let Some(chunk) = timeout(stall, body.next()).await.map_err(stalled)? else {
                break;
            };
            let chunk = chunk.map_err(WayEnd::Problem)?;
            let length = chunk.len() as u64;
            self.check_size(self.offset + length, total.is_none())?;
            self.writer.chunk(chunk).await?;
            self.offset += length;
            self.received += length;
        }
        self.report(attempt, total);
        // Without an announced size a lost connection may look like the end.
        let due = total.or(self.limits.exact_bytes);
        if let Some(total) = due.filter(|total| self.offset < *total) {
            return Err(WayEnd::Problem(Problem::ShortBody {
                got: self.offset,
                total,
            }));
        }
        self.complete().await
    }

    /// Tells the writer what comes now.
    async fn begin(
        &mut self,
        opened: Opened,
    ) -> Result<futures::stream::BoxStream<'static, Result<bytes::Bytes, Problem>>, WayEnd> {
        let Opened {
            start,
            total,
            validator,
            body,
        } = opened;
        if let Some(total) = total {
            self.check_size(total, false)?;
            if let Some(expected) = self
                .limits
                .exact_bytes
                .filter(|expected| total != *expected)
            {
                let url = self.source.url().to_owned();
                let size = total;
                return Err(WayEnd::Final(FetchError::WrongLength {
                    url,
                    size,
                    expected,
                }));
            }
        }
        let origin = Origin {
            validator: validator.clone(),
            total,
            ..self.wanted.clone()
        };
        if start == 0 {
            self.writer.restart(origin).await?;
            self.mixed = false;
        } else if start == self.offset {
            self.writer.go_on(origin).await?;
            self.mixed = true;
        } else {
            let why = format!("the datastore sent those from {start}");
            return Err(WayEnd::Problem(Problem::Range {
                asked: self.offset,
                why,
            }));
        }
        (self.offset, self.validator) = (start, validator);
        Ok(body)
    }

    fn check_size(&self, size: u64, at_least: bool) -> Result<(), WayEnd> {
        let url = || self.source.url().to_owned();
        if let Some(limit) = self.limits.max_bytes.filter(|limit| size > *limit) {
            return Err(WayEnd::Final(FetchError::TooLarge {
                url: url(),
                size,
                at_least,
                limit,
            }));
        }
        match self.limits.exact_bytes {
            Some(expected) if size > expected => Err(WayEnd::Final(FetchError::WrongLength {
                url: url(),
                size,
                expected,
            })),
            _ => Ok(()),
        }
    }

    /// All bytes are there: are they the right ones?
    async fn complete(&mut self) -> Result<(u64, Digest), WayEnd> {
        let (size, digest) = self.writer.finish().await?;
        let url = || self.source.url().to_owned();
        let wrong = match (self.limits.exact_bytes, self.limits.digest) {
            (Some(expected), _) if size != expected => Some(FetchError::WrongLength {
                url: url(),
                size,
                expected,
            }),
            (_, Some(expected)) if digest != expected => Some(FetchError::WrongDigest {
                url: url(),
                found: digest,
                expected,
            }),
            _ => None,
        };
        match wrong {
            None => Ok((size, digest)),
            Some(_) if self.mixed => Err(WayEnd::StartAgain),
            Some(error) => Err(WayEnd::Final(error)),
        }
    }

    fn report(&mut self, attempt: &Attempt, total: Option<u64>) {
        (self.progress)(Progress {
            port: &attempt.port,
            done: self.offset,
            total,
        });
    }
}
