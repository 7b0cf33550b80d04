//! What is printed: tables for people, JSON for machines, colours only on a terminal.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::Error;

/// How a cell is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paint {
    /// As it is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Something is on its way.
    Busy,
    /// Something is wrong.
    Bad,
    /// Of less interest.
    Dim,
    /// A heading.
    Strong,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Busy => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
            Self::Strong => Some("1"),
        }
    }
}

/// Where and how a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// With colours.
    pub colour: bool,
}

impl Output {
    /// On this process's standard output: colours on a terminal, unless `NO_COLOR` is set to anything.
    pub fn of_process(json: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !json && !refused && io::stdout().is_terminal(),
        }
    }

    /// A text in its colour.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        match paint.code() {
            Some(code) if self.colour && !text.is_empty() => {
                format!("\u{1b}[{code}m{text}\u{1b}[0m")
            }
            Some(_) | None => text.to_owned(),
        }
    }

    /// Rows below a heading with aligned columns, two blanks between them, one line each.
    pub fn table(self, header: &[&str], rows: &[Vec<Cell>]) -> String {
        let head: Vec<Cell> = header
            .iter()
            .map(|text| Cell::new(*text).paint(Paint::Strong))
            .collect();
        let all: Vec<&Vec<Cell>> = std::iter::once(&head)
            .filter(|head| !head.is_empty())
            .chain(rows)
            .collect();
        let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = all.iter().filter_map(|row| row.get(column));
                cells.map(Cell::width).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in all {
            let last = row.iter().rposition(|cell| !cell.text.is_empty());
            for (column, cell) in row.iter().enumerate() {
                if Some(column) > last {
                    break;
                }
                text.push_str(&self.paint(cell.paint, &cell.text));
                if Some(column) < last {
                    let blanks = widths[column] - cell.width() + 2;
                    text.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// A field; control characters do not reach the terminal.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self {
            text: printable(text.as_ref()),
            paint: Paint::Plain,
        }
    }

    /// The same in a colour.
    #[must_use]
    pub fn paint(mut self, paint: Paint) -> Self {
        self.paint = paint;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// The text on one line: what others wrote may hold escape sequences.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Prints text that ends its own lines.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Error> {
    print(&format!("{}\n", pretty(value)?))
}

/// Prints a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(|error| Error::Output(error.into()))?;
    print(&format!("{text}\n"))
}

/// A value as indented JSON without a line end.
pub fn pretty(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output {
        json: false,
        colour: false,
    };

    #[test]
    fn columns_are_aligned_and_colours_take_no_room() {
        let rows = [
            vec![Cell::from("a"), Cell::from("b").paint(Paint::Bad)],
            vec![Cell::from("long"), Cell::from("")],
        ];
        assert_eq!(PLAIN.table(&["N", "X"], &rows), "N     X\na     b\nlong\n");
        let coloured = Output {
            colour: true,
            ..PLAIN
        };
        assert_eq!(
            coloured.table(&[], &rows),
            "a     \u{1b}[31mb\u{1b}[0m\nlong\n"
        );
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(Cell::new("a\u{1b}[2Jb\n").text, "a [2Jb ");
    }
}
