//! Tables for people, JSON for machines.

use std::io::Write as _;

use serde::Serialize;

/// Writes to standard output; a closed pipe ends the command quietly.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// One value as indented JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// One value as one line of JSON.
pub(super) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Rows with aligned columns, two blanks between them.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(i, h)| width(i).max(h.chars().count()))
        .collect();
    let head: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let mut lines = Vec::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        lines.push(cells.join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}

/// A value that may be missing.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.filter(|v| !v.is_empty()).unwrap_or("-").to_owned()
}

/// A time without the fraction of a second.
pub(super) fn short_time(value: Option<&str>) -> String {
    let text = or_dash(value);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".to_owned(), "b".to_owned()],
            vec!["long".to_owned(), "c".to_owned()],
        ];
        assert_eq!(table(&["NAME", "X"], &rows), "NAME  X\na     b\nlong  c");
        assert_eq!(
            short_time(Some("2026-01-01T00:00:00.123Z")),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(short_time(None), "-");
    }
}
