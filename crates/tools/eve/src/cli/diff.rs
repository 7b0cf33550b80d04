//! `eve diff`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Verdict,
    args::{DiffArgs, Global},
    snapshot,
};
use crate::{
    Error, Snapshot,
    difference::{self, Change, ObjectChange},
    output::{self, Output, Paint, printable},
    snapshot::path,
};

pub(super) fn diff(global: &Global, out: Output, args: &DiffArgs) -> Result<Verdict, Error> {
    let DiffArgs {
        old,
        new,
        since,
        save,
    } = args;
    if let Some(file) = save {
        write(file, &snapshot(global)?)?;
        return Ok(Verdict::Good);
    }
    let Some(old) = since.as_ref().or(old.as_ref()) else {
        return Err(Error::Usage(
            "what to compare with: two devices, one, or --since a saved state (see --save)"
                .to_owned(),
        ));
    };
    let old = load(old)?;
    let new = match new {
        Some(new) => load(new)?,
        None => snapshot(global)?,
    };
    let changes = difference::snapshots(&old, &new);
    if out.json {
        output::json(&changes)?;
    } else {
        let lines: String = changes.iter().map(|change| text(out, change)).collect();
        output::print(&lines)?;
    }
    Ok(if changes.is_empty() {
        Verdict::Good
    } else {
        Verdict::NotAsWanted
    })
}

/// A saved state, or the state of the device below a directory.
fn load(path: &Path) -> Result<Snapshot, Error> {
    if path.is_dir() {
        return Snapshot::load(path, Timestamp::now());
    }
    let text = fs::read(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::Json {
        path: path.to_owned(),
        expected: "a state saved by `eve diff --save`".to_owned(),
        reason: error.to_string(),
    })
}

fn write(file: &PathBuf, snapshot: &Snapshot) -> Result<(), Error> {
    if file == Path::new("-") {
        return output::json(snapshot);
    }
    fs::write(file, output::pretty(snapshot)? + "\n").map_err(|source| Error::Io {
        action: "write",
        path: file.clone(),
        source,
    })
}

/// A change: a line for the object, and one for each place where it differs.
pub(super) fn text(out: Output, change: &ObjectChange) -> String {
    let ObjectChange {
        service,
        topic,
        key,
        change,
        differences,
        value: _,
    } = change;
    let name = format!("{}/{key}", path(service, topic));
    let (mark, paint) = match change {
        Change::Added => ('+', Paint::Good),
        Change::Changed => ('~', Paint::Busy),
        Change::Removed => ('-', Paint::Bad),
    };
    let head = out.paint(paint, &printable(&format!("{mark} {name}")));
    let mut text = format!("{head}\n");
    for difference in differences {
        text.push_str("    ");
        text.push_str(&printable(&difference::line(difference)));
        text.push('\n');
    }
    text
}
