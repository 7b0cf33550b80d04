//! What guests print on their serial port: `/persist/log/guests/<app>.console`, bounded.
//!
//! QEMU appends to the file itself, so nothing is lost while this service is away, and it never
//! looks at the file's size. So the file is cut in place: once it has [`MAX`] bytes its head goes to
//! `<app>.console.1`; QEMU goes on writing at the end, and newlogd reads on (crate `logfile`). So a guest has at
//! most twice [`MAX`] on the disk, plus what it prints until the next look: 1 s when it prints much, 10 s when it
//! has been quiet, or the time that this service is away.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::files::tail;
use crate::{launch::CONSOLE_SUFFIX, plan::evidence};

/// Size at which a console's log is cut.
pub const MAX: u64 = 1024 * 1024;
/// Pause between two looks while something is printed.
const BUSY: Duration = Duration::from_secs(1);
/// Pause between two looks otherwise.
const QUIET: Duration = Duration::from_secs(10);

/// Begins the line that is written at each start of a guest.
pub(super) const BEGIN: &str = "--- started ";

/// Keeps all logs in `dir` within bounds, without end.
pub(super) async fn keep(dir: PathBuf) {
    let mut before = 0;
    loop {
        let size = tidy(&dir);
        sleep(if size == before { QUIET } else { BUSY }).await;
        before = size;
    }
}

/// Cuts what is too large. An error with one keeps no other back. Gives the size of all together.
pub fn tidy(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let mut all = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        let is_console = path
            .to_str()
            .is_some_and(|path| path.ends_with(CONSOLE_SUFFIX));
        let size = entry.metadata().map_or(0, |metadata| metadata.len());
        if !is_console {
            continue;
        }
        all += size;
        if let Err(error) = logfile::bound(&path, MAX, 1) {
            tracing::warn!(log = %path.display(), %error, "console log can't be cut");
        }
    }
    all
}

/// The part that was cut off last.
pub(super) fn older(log: &Path) -> PathBuf {
    logfile::part_path(log, 1)
}

/// The last lines since the guest was started; empty if they can't be read.
pub(super) fn last_words(log: &Path) -> Vec<String> {
    let tail = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let this_start = text.rfind(BEGIN).map_or(&*text, |at| {
        let rest = &text[at..];
        rest.split_once('\n').map_or("", |(_, printed)| printed)
    });
    evidence::last_lines(this_start.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn a_writer_that_keeps_the_file_open_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.console");
        let mut guest = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let chunk = vec![b'x'; 100_000];
        for _ in 0..50 {
            guest.write_all(&chunk).unwrap();
            tidy(dir.path());
        }
        guest.write_all(b"\nlast\n").unwrap();
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&log) <= MAX + 100_000, "no holes, no growth");
        assert!(size(&older(&log)) <= MAX + 100_000);
        assert!(last_words(&log).contains(&"last".to_owned()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
