//! Puts the program where a device looks for its programs.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};

use crate::PROGRAMS;

/// The name of the file that the others are links to.
pub const NAME: &str = "zedbox";

/// Installs `program` in `dir`: a file of its own (a link to `program` where the file system allows), and a hard link
/// to it for each name. What is there is replaced by a rename, so that a running device always finds every program.
pub fn install(program: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let own = dir.join(NAME);
    put(&own, |new| {
        fs::hard_link(program, new).or_else(|_| fs::copy(program, new).map(drop))
    })?;
    for other in PROGRAMS {
        put(&dir.join(other.name), |new| fs::hard_link(&own, new))?;
    }
    Ok(())
}

fn put(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let new = path.with_extension("new");
    let done = match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => make(&new).and_then(|()| fs::rename(&new, path)),
    };
    // A rename between two links to one file leaves both.
    let tidy = match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    done.and(tidy)
        .with_context(|| format!("put {}", path.display()))
}
