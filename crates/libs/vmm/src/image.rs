//! Disk images, by `qemu-img`: what they are, making, overlaying, converting, growing, checking.
//!
//! For `volumemgr`. Formats are always said, never guessed. The header of every qcow2 image is read
//! by [`crate::qcow2`] before the tool may open it, so that no image leads it to other files. The
//! tool runs without a shell, with an empty environment, bounded output and a time limit, and ends
//! when the future is dropped. Paths are absolute, because a relative one with a colon is an
//! address to the tool.
//!
//! Nothing is overwritten: a target that exists is an error. A failed target is removed; a
//! cancelled one stays, so callers write under a temporary name.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::qcow2::{HEADER_LENGTH, Header, HeaderError};
use crate::spec::{BaseImage, ImageFormat};

mod tool;

/// Limit for everything but conversions.
const QUICK: Duration = Duration::from_mins(1);
/// Limit for conversions, which write whole disks.
const SLOW: Duration = Duration::from_hours(6);

/// The tool.
#[derive(Debug, Clone)]
pub struct QemuImg {
    program: PathBuf,
}

impl Default for QemuImg {
    /// `qemu-img` from the search path.
    fn default() -> Self {
        Self::at("qemu-img")
    }
}

/// What is known about an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Bytes that the file takes on the host's disk.
    #[serde(default)]
    pub actual_size: u64,
    /// The image under this one, as its header names it.
    #[serde(rename = "backing-filename")]
    pub base: Option<PathBuf>,
    /// Writing was interrupted.
    #[serde(default, rename = "dirty-flag")]
    pub dirty: bool,
}

/// What a check found; all zero is a sound image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CheckReport {
    /// Contradictions: the content can't be trusted.
    pub corruptions: u64,
    /// Space that is taken but not used: harmless.
    pub leaks: u64,
    /// Parts that could not be checked.
    pub check_errors: u64,
}

impl CheckReport {
    /// Whether guests may use the image.
    pub const fn is_usable(&self) -> bool {
        self.corruptions == 0 && self.check_errors == 0
    }
}

/// Why something could not be done with an image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A relative path would be taken for an address.
    #[error("image path {0:?} is not absolute")]
    RelativePath(PathBuf),
    /// Nothing is overwritten.
    #[error("{0:?} exists already")]
    Exists(PathBuf),
    /// The file could not be read.
    #[error("reading image {path:?}: {source}")]
    Read {
        /// The image.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The header is not accepted.
    #[error("image {path:?}: {source}")]
    Header {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// Shrinking would cut off data.
    #[error("image {path:?} has {have} bytes, it can't shrink to {want}")]
    Shrink {
        /// The image.
        path: PathBuf,
        /// Size of the disk in bytes.
        have: u64,
        /// Wanted size in bytes.
        want: u64,
    },
    /// The tool doesn't start.
    #[error("starting {program:?}: {source}")]
    Start {
        /// The tool.
        program: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The tool took too long and was ended.
    #[error("{action} of {path:?} took longer than {limit:?}")]
    TimedOut {
        /// What was done.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The host's disk is full.
    #[error("{action} of {path:?}: no space left on the disk")]
    NoSpace {
        /// What was done.
        action: &'static str,
        /// The image.
        path: PathBuf,
    },
    /// The tool failed.
    #[error("{action} of {path:?} failed ({status}): {said}")]
    Failed {
        /// What was done.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// How the tool ended.
        status: String,
        /// The tool's words, cut.
        said: String,
    },
    /// The tool's answer is not understood.
    #[error("{action} of {path:?}: answer not understood: {why}")]
    Answer {
        /// What was done.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// What doesn't fit.
        why: String,
    },
}

impl ImageError {
    /// Whether the same may work later without a change of its input.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Start { .. } | Self::TimedOut { .. } | Self::NoSpace { .. } => true,
            Self::RelativePath(_)
            | Self::Exists(_)
            | Self::Read { .. }
            | Self::Header { .. }
            | Self::Shrink { .. }
            | Self::Failed { .. }
            | Self::Answer { .. } => false,
        }
    }
}

impl QemuImg {
    /// The tool at another path.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    /// What a complete image of its own is; refuses images that refer to other files, are encrypted
    /// or corrupt. The first thing to do with a downloaded image.
    pub async fn admit(&self, path: &Path, format: ImageFormat) -> Result<ImageInfo, ImageError> {
        require_complete(path, format)?;
        self.info(path, format).await
    }

    /// What an image is, also while a guest uses it.
    pub async fn info(&self, path: &Path, format: ImageFormat) -> Result<ImageInfo, ImageError> {
        const ACTION: &str = "info";
        require_own_data(path, format)?;
        let out = tool::Call::new(self, ACTION, path)
            .args(["info", "-U", "--output=json", "-f", format.name()])
            .paths([path])
            .run(QUICK, |_| {})
            .await?;
        out.require_success()?;
        out.json()
    }

    /// Makes an empty image of `size` bytes.
    pub async fn create(
        &self,
        path: &Path,
        format: ImageFormat,
        size: u64,
    ) -> Result<(), ImageError> {
        require_absent(path)?;
        let call = tool::Call::new(self, "create", path)
            .args(["create", "-q", "-f", format.name()])
            .paths([path])
            .args([size.to_string().as_str()]);
        removing_on_failure(path, call.run(QUICK, |_| {})).await
    }

    /// Makes a qcow2 image over `base`, which must never change again. `size` is that of the
    /// guest's disk in bytes, at least that of the base; `None` for the same. Give the base to
    /// [`crate::spec::Disk::base`] too: nobody reads it from the image.
    pub async fn create_overlay(
        &self,
        path: &Path,
        base: &BaseImage,
        size: Option<u64>,
    ) -> Result<(), ImageError> {
        require_absent(path)?;
        let info = self.admit(&base.path, base.format).await?;
        if let Some(want) = size.filter(|want| *want < info.virtual_size) {
            return Err(ImageError::Shrink {
                path: base.path.clone(),
                have: info.virtual_size,
                want,
            });
        }
        let size = size.unwrap_or(info.virtual_size).to_string();
        let call = tool::Call::new(self, "overlay", path)
            .args([
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                base.format.name(),
                "-b",
            ])
            .paths([&base.path, path])
            .args([size.as_str()]);
        removing_on_failure(path, call.run(QUICK, |_| {})).await
    }

    /// Copies a complete image into another one; `progress` gets fractions from 0 to 1. The target
    /// is on the disk when this returns.
    pub async fn convert(
        &self,
        from: &Path,
        from_format: ImageFormat,
        to: &Path,
        to_format: ImageFormat,
        mut progress: impl FnMut(f32) + Send,
    ) -> Result<(), ImageError> {
        require_complete(from, from_format)?;
        require_absent(to)?;
        let call = tool::Call::new(self, "conversion", from)
            .args(["convert", "-p", "-t", "writeback", "-f", from_format.name()])
            .args(["-O", to_format.name()])
            .paths([from, to]);
        let heard = |text: &str| {
            if let Some(fraction) = parse_progress(text) {
                progress(fraction);
            }
        };
        removing_on_failure(to, call.run(SLOW, heard)).await
    }

    /// Grows an image that no guest uses to `size` bytes; nothing happens if it has them.
    pub async fn resize(
        &self,
        path: &Path,
        format: ImageFormat,
        size: u64,
    ) -> Result<(), ImageError> {
        let have = self.info(path, format).await?.virtual_size;
        if have == size {
            return Ok(());
        }
        if have > size {
            return Err(ImageError::Shrink {
                path: path.to_owned(),
                have,
                want: size,
            });
        }
        let call = tool::Call::new(self, "resize", path)
            .args(["resize", "-q", "-f", format.name()])
            .paths([path])
            .args([size.to_string().as_str()]);
        call.run(QUICK, |_| {}).await?.require_success()
    }

    /// Looks for contradictions in an image that no guest uses. A raw image can have none.
    pub async fn check(&self, path: &Path, format: ImageFormat) -> Result<CheckReport, ImageError> {
        require_own_data(path, format)?;
        match format {
            ImageFormat::Raw => Ok(CheckReport::default()),
            ImageFormat::Qcow2 => {
                let out = tool::Call::new(self, "check", path)
                    .args(["check", "--output=json", "-f", format.name()])
                    .paths([path])
                    .run(SLOW, |_| {})
                    .await?;
                // 2: corruptions, 3: leaks; the answer says how many.
                if !matches!(out.code(), Some(2 | 3)) {
                    out.require_success()?;
                }
                out.json()
            }
        }
    }
}

/// Runs what makes a new file; what a failure leaves of it is removed.
async fn removing_on_failure(
    path: &Path,
    work: impl Future<Output = Result<tool::Output, ImageError>>,
) -> Result<(), ImageError> {
    let result = work.await.and_then(|out| out.require_success());
    if result.is_err() {
        drop(std::fs::remove_file(path));
    }
    result
}

fn require_absent(path: &Path) -> Result<(), ImageError> {
    if path.symlink_metadata().is_ok() {
        return Err(ImageError::Exists(path.to_owned()));
    }
    Ok(())
}

fn require_complete(path: &Path, format: ImageFormat) -> Result<(), ImageError> {
    require_header(path, format, Header::require_complete)
}

fn require_own_data(path: &Path, format: ImageFormat) -> Result<(), ImageError> {
    require_header(path, format, Header::require_own_data)
}

fn require_header(
    path: &Path,
    format: ImageFormat,
    rule: fn(&Header) -> Result<(), HeaderError>,
) -> Result<(), ImageError> {
    let read = |source| ImageError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    match format {
        ImageFormat::Raw => Ok(()),
        ImageFormat::Qcow2 => {
            let mut head = Vec::new();
            file.take(HEADER_LENGTH as u64)
                .read_to_end(&mut head)
                .map_err(read)?;
            let header = Header::parse(&head).and_then(|header| rule(&header));
            header.map_err(|source| ImageError::Header {
                path: path.to_owned(),
                source,
            })
        }
    }
}

/// The last figure of the tool's progress line, `    (12.34/100%)`, as a fraction.
fn parse_progress(text: &str) -> Option<f32> {
    let (before, _) = text.rsplit_once("/100%)")?;
    let (_, figure) = before.rsplit_once('(')?;
    let percent: f32 = figure.trim().parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn progress_is_a_fraction() {
        let near = |text: &str, wanted: f32| {
            let got = parse_progress(text).unwrap();
            assert!((got - wanted).abs() < 1e-6, "{text:?} is {got}");
        };
        near("    (0.00/100%)\r", 0.0);
        near("    (12.50/100%)\r    (25.00/100%)\r", 0.25);
        near("    (100.00/100%)\r\n", 1.0);
        assert_eq!(parse_progress("(nan/100%)"), None);
        assert_eq!(parse_progress("    (12.5"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_fraction_or_none(text in "[(0-9./%) einfa-]{0,40}") {
            if let Some(fraction) = parse_progress(&text) {
                prop_assert!((0.0..=1.0).contains(&fraction));
            }
        }
    }
}
