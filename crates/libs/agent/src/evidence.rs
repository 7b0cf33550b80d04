//! What a panic leaves behind: `<root>/persist/crash/<service>/<time>.json`, the newest ten.

use std::{backtrace::Backtrace, fs, panic, path::PathBuf};

use serde_json::json;

/// How many reports are kept.
const KEPT: usize = 10;

/// Writes evidence for every panic, then goes on with the hook that was there.
pub(crate) fn install(dir: PathBuf, service: &'static str) {
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
        let written = fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join(name), format!("{report:#}\n")));
        tracing::error!(message, location = ?info.location().map(ToString::to_string), evidence = ?dir, ?written, "panic");
        prune(&dir);
        next(info);
    }));
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
