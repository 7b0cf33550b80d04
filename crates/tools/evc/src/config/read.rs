//! Reading what operators write, with errors that say where and what instead.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::spec::DeviceSpec;
use super::{Problem, Problems};

/// One YAML document: a device and what it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Name, UUID or serial of the device.
    pub device: String,
    /// What it should be.
    pub spec: DeviceSpec,
}

/// Reads all documents of a YAML text (separated by `---`).
pub fn yaml(text: &str) -> Result<Vec<Document>, Problems> {
    let mut documents = Vec::new();
    for part in serde_yaml_ng::Deserializer::from_str(text) {
        let value = serde_yaml_ng::Value::deserialize(part)
            .map_err(|e| Problems::one("", format!("not YAML: {e}")))?;
        if value.is_null() {
            continue;
        }
        documents.push(document(value)?);
    }
    if documents.is_empty() {
        return Err(Problems::one("", "there is no document"));
    }
    Ok(documents)
}

fn document(mut value: serde_yaml_ng::Value) -> Result<Document, Problems> {
    let Some(mapping) = value.as_mapping_mut() else {
        return Err(Problems::one(
            "",
            "a document is a mapping that begins with `device:`",
        ));
    };
    let device = match mapping.remove("device") {
        Some(serde_yaml_ng::Value::String(name)) if !name.is_empty() => name,
        Some(_) => return Err(Problems::one("device", "must be a name, UUID or serial")),
        None => {
            return Err(Problems::one(
                "device",
                "is missing: which device is this for?",
            ));
        }
    };
    let spec = typed(value)?;
    Ok(Document { device, spec })
}

/// Turns any tree of values into a type, with paths and suggestions in its errors.
pub fn typed<'de, T: DeserializeOwned>(
    value: impl serde::Deserializer<'de>,
) -> Result<T, Problems> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Problems(vec![Problem::new(
            path,
            explain(&error.into_inner().to_string()),
        )])
    })
}

/// Reads a JSON text into a type, with paths and suggestions in its errors.
pub fn json<T: DeserializeOwned>(text: &str) -> Result<T, Problems> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| Problems::one("", format!("not JSON: {e}")))?;
    typed(value)
}

/// Adds "did you mean" to serde's messages about unknown fields and words.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match (unknown, quoted.next()) {
        (true, Some(found)) => {
            let known: Vec<&str> = quoted.collect();
            match closest(found, known.iter().copied()) {
                Some(meant) => format!("{message}; did you mean `{meant}`?"),
                None => message.to_owned(),
            }
        }
        _ => message.to_owned(),
    }
}

/// The known word nearest to `found`, if any is near enough to be meant.
pub fn closest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = |word: &str| 1 + word.len().max(found.len()) / 4;
    known
        .into_iter()
        // A text of megabytes is near to no word, and finding that out by steps would take for ever.
        .filter(|word| found.len() <= 4 * word.len() + 16)
        .map(|word| (distance(&found.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(steps, word)| *steps <= most(word))
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, word)| word)
}

/// How many letters must be changed, added, removed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // rows[i][j]: between the first i letters of a and the first j of b.
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> String {
        yaml(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_instead() {
        assert_eq!(
            problem("device: a\napps:\n- name: x\n  memroy: 1GiB\n")
                .split(", expected")
                .next(),
            Some("apps[0].memroy: unknown field `memroy`")
        );
        assert!(
            problem("device: a\napps:\n- name: x\n  memroy: 1GiB\n")
                .ends_with("did you mean `memory`?")
        );
        assert!(
            problem("device: a\nports:\n- {name: e, usage: managment}\n")
                .ends_with("did you mean `management`?")
        );
        let size = problem("device: a\napps:\n- {name: x, memory: 5 gb}\n");
        assert!(
            size.starts_with("apps[0].memory: \"gb\" is not a unit of size"),
            "{size}"
        );
        assert_eq!(
            problem("apps: []"),
            "device: is missing: which device is this for?"
        );
        assert_eq!(
            problem("{}"),
            "device: is missing: which device is this for?"
        );
        assert!(problem("- a").contains("mapping"));
        assert!(problem("a: [").starts_with("not YAML"));
        assert_eq!(problem(""), "there is no document");
    }

    #[test]
    fn several_documents() {
        let documents = yaml("device: a\n---\ndevice: b\nmaintenance_mode: true\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert!(documents[1].spec.maintenance_mode);
    }

    #[test]
    fn words_far_away_are_not_suggested() {
        assert_eq!(closest("eth0", ["wlan0", "uplink"]), None);
        assert_eq!(closest("Disc", ["Disk", "Kernel"]), Some("Disk"));
        assert_eq!(closest("nta", ["lan", "nat"]), Some("nat"));
        assert_eq!(closest("", ["lan", "nat"]), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(device: a\n)?[a-z:\\-\\[\\]{}\n 0-9]{0,60}") {
            let _ = yaml(&text);
        }
    }
}
