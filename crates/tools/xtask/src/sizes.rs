//! Files stay readable: at most 600 lines, and no drawer for everything.

use std::path::Path;

use anyhow::Result;

use crate::tree;

const LIMIT: usize = 600;
const DRAWERS: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "types", "misc",
];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for (path, text) in tree::sources(root, "")? {
        let lines = text.lines().count();
        if lines > LIMIT {
            breaches.push(format!(
                "{}: {lines} lines, the limit is {LIMIT}",
                path.display()
            ));
        }
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let stem = if stem == "mod" {
            path.parent()
                .and_then(|p| p.file_name())
                .and_then(|s| s.to_str())
                .unwrap_or_default()
        } else {
            stem
        };
        if DRAWERS.contains(&stem) {
            breaches.push(format!(
                "{}: a module called {stem} says nothing about what is in it",
                path.display()
            ));
        }
    }
    Ok(breaches)
}
