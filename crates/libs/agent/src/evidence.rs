//! What a panic leaves behind: `<root>/persist/crash/<service>/<time>.json`, the newest ten; and what it means.
//!
//! A panic within a slow action is that action's failure, one of the loop ends the process by itself. Any other (a
//! watcher's task, the bus's thread) would leave a service that beats and is deaf: it is told to end, so that it is started
//! again whole.

use std::{backtrace::Backtrace, fs, panic, path::PathBuf, sync::Arc};

use serde_json::json;
use tokio::sync::Notify;

/// How many reports are kept.
const KEPT: usize = 10;

/// Threads of blocking work: their panics reach whoever waits for the work.
pub(crate) const WORKER: &str = "work";

tokio::task_local! {
    /// Set within a slow action.
    pub(crate) static ACTION: ();
}

/// Whether nobody hears of a panic here.
fn is_stray() -> bool {
    ACTION.try_with(|()| ()).is_err() && std::thread::current().name() != Some(WORKER)
}

/// Writes evidence for every panic, then goes on with the hook that was there. Notified are panics that nobody else hears
/// of.
pub(crate) fn install(dir: PathBuf, service: &'static str) -> Arc<Notify> {
    let stray = Arc::new(Notify::new());
    let told = stray.clone();
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let at = jiff::Timestamp::now();
        let message = info
            .payload()
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let report = json!({
            "Service": service,
            "At": at.to_string(),
            "Pid": std::process::id(),
            "Thread": std::thread::current().name(),
            "Message": message,
            "Location": info.location().map(ToString::to_string),
            "Backtrace": Backtrace::force_capture().to_string(),
        });
        // Names in the order of time, also those of a clock that was not set yet.
        let name = format!("{:020}.json", at.as_nanosecond().max(0));
        // A panic hook can only try.
        let written = durable::write(&dir.join(name), format!("{report:#}\n").as_bytes());
        tracing::error!(message, location = ?info.location().map(ToString::to_string), evidence = ?dir, ?written, "panic");
        prune(&dir);
        next(info);
        if is_stray() {
            told.notify_one();
        }
    }));
    stray
}

fn prune(dir: &std::path::Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut names: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.is_file())
        .collect();
    names.sort();
    let surplus = names.len().saturating_sub(KEPT);
    for old in names.into_iter().take(surplus) {
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_panic_that_nobody_hears_of_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let stray = install(dir.path().to_owned(), "test");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_name(WORKER)
            .enable_time()
            .build()
            .unwrap();
        let told = || {
            runtime.block_on(async {
                let wait = timeout(Duration::from_millis(50), stray.notified());
                wait.await.is_ok()
            })
        };
        let heard = runtime.block_on(async {
            let action = tokio::spawn(ACTION.scope((), async { panic!("in an action") }));
            let work = tokio::task::spawn_blocking(|| panic!("in its work"));
            action.await.is_err() && work.await.is_err()
        });
        assert!(heard && !told());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let thread = std::thread::spawn(|| panic!("in a thread"));
        assert!(thread.join().is_err() && told());
        let task = runtime.block_on(async { tokio::spawn(async { panic!("in a task") }).await });
        assert!(task.is_err() && told());
    }
}
