//! One run of `qemu-img`: empty environment, bounded output, a time limit.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{ImageError, QemuImg};

/// Bytes of standard output that are kept; more is an error.
const MAX_OUTPUT: usize = 1 << 20;
/// Bytes of the tool's complaints that are kept.
const MAX_WORDS: usize = 4 << 10;

/// A command line in the making.
pub(super) struct Call {
    command: Command,
    program: PathBuf,
    action: &'static str,
    path: PathBuf,
    relative: Option<PathBuf>,
}

/// What a run left behind.
pub(super) struct Output {
    action: &'static str,
    path: PathBuf,
    status: ExitStatus,
    answer: Vec<u8>,
    words: Vec<u8>,
}

impl Call {
    /// `action` and `path` are for error texts.
    pub(super) fn new(tool: &QemuImg, action: &'static str, path: &Path) -> Self {
        let mut command = Command::new(&tool.program);
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self {
            command,
            program: tool.program.clone(),
            action,
            path: path.to_owned(),
            relative: None,
        }
    }

    pub(super) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn paths<'a>(mut self, paths: impl IntoIterator<Item = &'a Path>) -> Self {
        for path in paths {
            if !path.is_absolute() {
                self.relative = Some(path.to_owned());
            }
            self.command.arg(path);
        }
        self
    }

    /// Runs to the end; `heard` gets each piece of standard output.
    pub(super) async fn run(
        mut self,
        limit: Duration,
        heard: impl FnMut(&str) + Send,
    ) -> Result<Output, ImageError> {
        if let Some(path) = self.relative {
            return Err(ImageError::RelativePath(path));
        }
        let started = self.command.spawn();
        let mut child = started.map_err(|source| ImageError::Start {
            program: self.program.clone(),
            source,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let answer = collect(stdout, MAX_OUTPUT + 1, heard);
            let words = collect(stderr, MAX_WORDS, |_| {});
            let (answer, words) = tokio::join!(answer, words);
            child.wait().await.map(|status| (status, answer, words))
        };
        let (status, answer, words) = timeout(limit, work)
            .await
            .map_err(|_| ImageError::TimedOut {
                action: self.action,
                path: self.path.clone(),
                limit,
            })?
            .map_err(|source| ImageError::Start {
                program: self.program,
                source,
            })?;
        Ok(Output {
            action: self.action,
            path: self.path,
            status,
            answer,
            words,
        })
    }
}

/// Reads to the end, so that the tool never blocks, but keeps no more than `keep` bytes.
async fn collect(
    stream: Option<impl AsyncRead + Unpin>,
    keep: usize,
    mut heard: impl FnMut(&str),
) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut chunk = vec![0; 8 << 10];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return kept,
            Ok(n) => {
                heard(&String::from_utf8_lossy(&chunk[..n]));
                let room = keep.saturating_sub(kept.len()).min(n);
                kept.extend_from_slice(&chunk[..room]);
            }
        }
    }
}

impl Output {
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(super) fn require_success(&self) -> Result<(), ImageError> {
        if self.status.success() {
            return Ok(());
        }
        let (action, path) = (self.action, self.path.clone());
        let said = String::from_utf8_lossy(&self.words).trim().to_owned();
        if said.contains("No space left on device") {
            return Err(ImageError::NoSpace { action, path });
        }
        Err(ImageError::Failed {
            action,
            path,
            status: self.status.to_string(),
            said,
        })
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ImageError> {
        let bad = |why: String| ImageError::Answer {
            action: self.action,
            path: self.path.clone(),
            why,
        };
        if self.answer.len() > MAX_OUTPUT {
            return Err(bad(format!("more than {MAX_OUTPUT} bytes")));
        }
        serde_json::from_slice(&self.answer).map_err(|error| bad(error.to_string()))
    }
}
