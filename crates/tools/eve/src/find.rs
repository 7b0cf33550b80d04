//! Finds an object by what a person types: its key, its name, or the beginning of either.

use crate::{Error, words};

/// Something that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate<T> {
    /// What it is.
    pub what: T,
    /// Its key.
    pub key: String,
    /// Its name for people, or empty.
    pub name: String,
}

/// The candidate that `asked` means. A whole key or name comes before a beginning; several of the same
/// rank are ambiguous. `kind` is for the error.
pub fn find<'a, T: Ord>(
    kind: &str,
    candidates: &'a [Candidate<T>],
    asked: &str,
) -> Result<&'a Candidate<T>, Error> {
    let ranks: [fn(&Candidate<T>, &str) -> bool; 3] = [
        |c, asked| c.key == asked,
        |c, asked| c.name == asked,
        |c, asked| !asked.is_empty() && (c.key.starts_with(asked) || c.name.starts_with(asked)),
    ];
    for fits in ranks {
        let mut found: Vec<_> = candidates.iter().filter(|c| fits(c, asked)).collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => {
                return Err(Error::Ambiguous {
                    name: asked.to_owned(),
                    candidates: list(several),
                });
            }
        }
    }
    let all: Vec<_> = candidates.iter().collect();
    let hint = match all.len() {
        0 => "; there is none".to_owned(),
        1..=12 => format!("; there is {}", list(&all)),
        more => format!("; there are {more}"),
    };
    Err(Error::NotFound {
        kind: kind.to_owned(),
        name: asked.to_owned(),
        hint,
    })
}

fn list<T>(candidates: &[&Candidate<T>]) -> String {
    let shown = candidates.iter().take(12).map(|c| {
        if c.name.is_empty() || c.name == c.key {
            c.key.clone()
        } else {
            format!("{} ({})", c.name, words::short(&c.key))
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn candidates() -> Vec<Candidate<()>> {
        [("6ba7-1", "web"), ("6ba7-2", "web-2"), ("7c00", "")]
            .map(|(key, name)| Candidate {
                what: (),
                key: key.to_owned(),
                name: name.to_owned(),
            })
            .into()
    }

    #[test]
    fn whole_before_beginning_and_never_a_guess() {
        let all = candidates();
        let key = |asked| find("app", &all, asked).map(|c| c.key.as_str());
        assert_eq!(key("6ba7-1").unwrap(), "6ba7-1");
        assert_eq!(key("web").unwrap(), "6ba7-1");
        assert_eq!(key("web-").unwrap(), "6ba7-2");
        assert_eq!(key("7").unwrap(), "7c00");
        assert!(matches!(key("6ba7"), Err(Error::Ambiguous { .. })));
        let missing = key("x").unwrap_err().to_string();
        assert_eq!(
            missing,
            "there is no app \"x\"; there is web (6ba7-1), web-2 (6ba7-2), 7c00"
        );
    }
}
