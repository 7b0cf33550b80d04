//! What listens, and why: every socket against the one table of them (`listeners::table`).

use std::collections::BTreeMap;

use listeners::table::{self, At, Row};
use model::code::Code;

use super::{Fact, Judge, Verdict, facts::Socket, fail, ok, skipped};
use crate::words;

/// So many places of one row are shown.
const SHOWN: usize = 4;

impl Judge<'_> {
    pub(super) fn sockets(&mut self) {
        let sockets = match &self.facts.sockets {
            Fact::Known(sockets) => sockets.clone(),
            Fact::Failed(why) | Fact::Skipped(why) => {
                self.add("sockets", skipped(why.clone()));
                return;
            }
        };
        if sockets.is_empty() {
            self.add("sockets", ok("nothing listens"));
        }
        let (known, strangers) = sorted(&sockets, &self.facts.root.to_string_lossy());
        for (unit, row, places) in known {
            let shown = shown(row, &places);
            let text = format!("{shown}: {}; reached by {}", row.why, row.reached_by);
            self.about("sockets", words::short(&unit), ok(text));
        }
        for socket in strangers {
            self.about("sockets", who(socket), stranger(socket));
        }
    }
}

/// The places; of many in one directory the directory.
fn shown(row: &Row, places: &[String]) -> String {
    match row.at {
        At::Path(pattern) if places.len() > 1 && pattern.ends_with('*') => {
            format!("unix /{pattern} ({})", places.len())
        }
        _ if places.len() > SHOWN => {
            let more = places.len() - SHOWN;
            format!("{} and {more} more", places[..SHOWN].join(", "))
        }
        _ => places.join(", "),
    }
}

/// Sockets of one unit that one row explains, with their places; and those that none does.
type Sorted<'a> = (Vec<(String, &'static Row, Vec<String>)>, Vec<&'a Socket>);

fn sorted<'a>(sockets: &'a [Socket], root: &str) -> Sorted<'a> {
    let mut known: BTreeMap<(String, usize), Vec<String>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for socket in sockets {
        let unit = unit_of(socket, root);
        let row = table::explain(unit, &socket.socket, root);
        let index = row.and_then(|row| table::TABLE.iter().position(|other| other == row));
        match index {
            Some(index) => {
                let places = known.entry((unit.to_owned(), index)).or_default();
                places.push(place(socket, root));
            }
            None => strangers.push(socket),
        }
    }
    let known = known.into_iter().map(|((unit, index), mut places)| {
        places.sort();
        (unit, &table::TABLE[index], places)
    });
    (known.collect(), strangers)
}

/// Its unit; in a lab also what stands for the chip, which is none.
fn unit_of<'a>(socket: &'a Socket, root: &str) -> &'a str {
    match (&socket.unit, socket.program.as_deref()) {
        (Some(unit), _) => unit,
        (None, Some("swtpm")) if root != "/" => table::LAB_TPM,
        (None, _) => "",
    }
}

/// Paths as on the device, not where a lab keeps it.
fn place(socket: &Socket, root: &str) -> String {
    let place = socket.socket.place.to_string();
    let below = place.strip_prefix(root.trim_end_matches('/'));
    let shown = below.filter(|path| path.starts_with('/')).unwrap_or(&place);
    format!("{} {shown}", socket.socket.protocol)
}

fn who(socket: &Socket) -> String {
    let name = socket.unit.as_deref().map(words::short);
    name.or_else(|| socket.program.clone())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn stranger(socket: &Socket) -> Verdict {
    let pid = socket.pid.map_or_else(
        || "a process that can't be seen".to_owned(),
        |pid| format!("process {pid}"),
    );
    let code = Code::AccessListener;
    let text = format!(
        "[{code}] {pid} listens on {} {}, and no row of the table explains it",
        socket.socket.protocol, socket.socket.place
    );
    fail(text, code.remedy())
}
