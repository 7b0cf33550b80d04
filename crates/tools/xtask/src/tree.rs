//! The source tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The workspace's root.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest
        .ancestors()
        .nth(3)
        .context("xtask lies in crates/tools/xtask")?;
    ensure!(
        root.join("Cargo.lock").exists(),
        "{} is not the workspace",
        root.display()
    );
    Ok(root.to_owned())
}

/// Files that git knows or would add, as paths below the root.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    ensure!(
        out.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8(out.stdout).context("a file name that is not UTF-8")?;
    Ok(text
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|p| root.join(p).is_file())
        .collect())
}

/// Rust sources below `dir` (relative to the root), with their texts.
pub(crate) fn sources(root: &Path, dir: &str) -> Result<Vec<(PathBuf, String)>> {
    let of = files(root)?
        .into_iter()
        .filter(|p| p.starts_with(dir) && p.extension().is_some_and(|e| e == "rs"));
    of.map(|path| Ok((path.clone(), fs::read_to_string(root.join(&path))?)))
        .collect()
}
