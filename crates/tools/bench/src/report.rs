//! Tables for people and JSON for everything else.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A table with a title, printed with its columns aligned.
#[derive(Debug, Clone, Default)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table and the names of its columns.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            rows: vec![columns.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        writeln!(f, "{}", self.title)?;
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, figures to the right.
                if column == 0 {
                    write!(line, "  {cell:<width$}")?;
                } else {
                    write!(line, "  {cell:>width$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A figure with as many digits as mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        big if big >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A figure for the JSON: three decimals are more than any measurement here can tell.
pub fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// Writes a result, making the directory above it.
pub fn write(path: &Path, result: &Value) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, format!("{result:#}\n")).with_context(|| format!("write {}", path.display()))
}

/// The machine, as far as it explains figures.
pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let loads = read("/proc/loadavg");
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model.unwrap_or_default().trim_start_matches([' ', '\t', ':']),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": loads.split_whitespace().next().and_then(|load| load.parse::<f64>().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("title", &["name", "p50"]);
        table.row(["one".to_owned(), figure(9.876)]);
        table.row(["another".to_owned(), figure(12345.6)]);
        let expected = "title\n  name       p50\n  one       9.88\n  another  12346\n";
        assert_eq!(table.to_string(), expected);
    }
}
