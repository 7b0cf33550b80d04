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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// With colours.
    pub colour: bool,
    /// Columns of the terminal. None elsewhere: what is read by programs has one line per row.
    pub width: Option<usize>,
}

/// A last column that is narrower than this is not worth wrapping.
const NARROW: usize = 24;

impl Output {
    /// On this process's standard output: colours on a terminal, unless `NO_COLOR` is set to anything.
    pub fn of_process(json: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = !json && io::stdout().is_terminal();
        let width = terminal
            .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self {
            json,
            colour: terminal && !refused,
            width,
        }
    }

    /// The same behind so many blanks.
    #[must_use]
    pub fn indented(self, blanks: usize) -> Self {
        Self {
            width: self.width.map(|width| width.saturating_sub(blanks)),
            ..self
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

    /// Rows below a heading with aligned columns, two blanks between them, one line each; on a terminal that is
    /// too narrow for that the last column goes on below itself, or every row becomes a block of lines.
    pub fn table(self, header: &[&str], rows: &[Vec<Cell>]) -> String {
        let head: Vec<Cell> = header
            .iter()
            .map(|text| Cell::new(*text).paint(Paint::Strong))
            .collect();
        let all: Vec<&Vec<Cell>> = std::iter::once(&head)
            .filter(|head| !head.is_empty())
            .chain(rows)
            .collect();
        let widths = widths(&all);
        let before: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        if let Some(width) = self.width
            && !header.is_empty()
            && before + widths.last().copied().unwrap_or(0) > width
            && before + NARROW > width
        {
            return self.blocks(header, rows);
        }
        all.iter().map(|row| self.line(&widths, row)).collect()
    }

    /// The rows of a table without a heading, each with its line ends: what belongs between them may be put there.
    pub fn rows(self, rows: &[Vec<Cell>]) -> Vec<String> {
        let all: Vec<&Vec<Cell>> = rows.iter().collect();
        let widths = widths(&all);
        all.iter().map(|row| self.line(&widths, row)).collect()
    }

    fn line(self, widths: &[usize], row: &[Cell]) -> String {
        let mut text = String::new();
        let mut column_at = 0;
        let last = row.iter().rposition(|cell| !cell.text.is_empty());
        for (column, cell) in row.iter().enumerate() {
            if Some(column) > last {
                break;
            }
            if Some(column) == last {
                text.push_str(&self.wrapped(cell.paint, &cell.text, column_at));
            } else {
                text.push_str(&self.paint(cell.paint, &cell.text));
                let blanks = widths[column] - cell.width() + 2;
                text.extend(std::iter::repeat_n(' ', blanks));
                column_at += widths[column] + 2;
            }
        }
        text.push('\n');
        text
    }

    /// A text that begins at a column, in lines that end before the terminal does and begin below the first one.
    pub fn wrapped(self, paint: Paint, text: &str, column: usize) -> String {
        let room = self.width.unwrap_or(usize::MAX).saturating_sub(column);
        if room < NARROW {
            return self.paint(paint, text);
        }
        let lines: Vec<String> = wrap(text, room)
            .iter()
            .map(|line| self.paint(paint, line))
            .collect();
        lines.join(&format!("\n{}", " ".repeat(column)))
    }

    /// Every row as a block: its first cell, and below it a line for each of the others.
    fn blocks(self, header: &[&str], rows: &[Vec<Cell>]) -> String {
        let mut text = String::new();
        for row in rows {
            let Some((first, others)) = row.split_first() else {
                continue;
            };
            text.push_str(&self.paint(first.paint, &first.text));
            text.push('\n');
            let lines: Vec<Vec<Cell>> = others
                .iter()
                .enumerate()
                .filter(|(_, cell)| !cell.text.is_empty())
                .map(|(index, cell)| {
                    let label = header.get(index + 1).copied().unwrap_or_default();
                    let label = Cell::new(label.to_lowercase()).paint(Paint::Dim);
                    vec![label, cell.clone()]
                })
                .collect();
            for line in self.indented(2).rows(&lines) {
                text.extend(line.lines().flat_map(|line| ["  ", line, "\n"]));
            }
        }
        text
    }
}

fn widths(rows: &[&Vec<Cell>]) -> Vec<usize> {
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(Cell::width).max().unwrap_or(0)
        })
        .collect()
}

/// A text in lines of at most `room` characters, broken between words; longer words stay whole.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    if length(text) <= room {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if length(line) + 1 + length(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
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
        width: None,
    };

    fn narrow(columns: usize) -> Output {
        Output {
            width: Some(columns),
            ..PLAIN
        }
    }

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
    fn what_is_too_wide_goes_on_below_itself() {
        let rows = [vec![
            Cell::from("why"),
            Cell::from("the server does not answer, and nobody knows the reason"),
        ]];
        assert_eq!(
            narrow(40).table(&[], &rows),
            "why  the server does not answer, and\n     nobody knows the reason\n"
        );
        // A word is never cut, and a column of a few characters is of no use.
        assert_eq!(narrow(10).table(&[], &rows), PLAIN.table(&[], &rows));
    }

    #[test]
    fn rows_that_are_far_too_wide_become_blocks() {
        let rows = [vec![
            Cell::from("nim"),
            Cell::from("a column of some width"),
            Cell::from(""),
            Cell::from("r /config"),
        ]];
        let header = ["UNIT", "RIGHTS", "MORE", "PATHS"];
        assert_eq!(
            narrow(36).table(&header, &rows),
            "nim\n  rights  a column of some width\n  paths   r /config\n"
        );
        assert!(
            narrow(120)
                .table(&header, &rows)
                .starts_with("UNIT  RIGHTS")
        );
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(Cell::new("a\u{1b}[2Jb\n").text, "a [2Jb ");
    }
}
