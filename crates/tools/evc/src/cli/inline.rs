//! `!file PATH` in a YAML file: the text of another file, relative to the first.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize as _;
use serde_yaml_ng::Value;

/// Replaces all `!file` tags in a YAML text.
pub(super) fn include(text: &str, base: &Path) -> anyhow::Result<String> {
    let mut documents = Vec::new();
    for part in serde_yaml_ng::Deserializer::from_str(text) {
        let mut value = Value::deserialize(part).context("not YAML")?;
        replace(&mut value, base)?;
        documents.push(serde_yaml_ng::to_string(&value)?);
    }
    Ok(documents.join("---\n"))
}

fn replace(value: &mut Value, base: &Path) -> anyhow::Result<()> {
    match value {
        Value::Tagged(tagged) if tagged.tag == "file" => {
            let Some(name) = tagged.value.as_str() else {
                bail!("!file needs a path")
            };
            let path = base.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("!file {}", path.display()))?;
            *value = Value::String(text);
        }
        Value::Tagged(tagged) => bail!("unknown tag {}; there is only !file", tagged.tag),
        Value::Mapping(mapping) => {
            for (_, inner) in mapping.iter_mut() {
                replace(inner, base)?;
            }
        }
        Value::Sequence(items) => {
            for inner in items {
                replace(inner, base)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn files_become_text() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("seed"), "#cloud-config\nx: 1\n").unwrap();
        let text = "device: a\napps:\n- {name: x, user_data: !file seed}\n---\ndevice: b\n";
        let out = include(text, dir.path()).unwrap();
        let first: Value =
            Value::deserialize(serde_yaml_ng::Deserializer::from_str(&out).next().unwrap())
                .unwrap();
        assert_eq!(
            first["apps"][0]["user_data"],
            Value::from("#cloud-config\nx: 1\n")
        );
        assert!(include("a: !file missing", dir.path()).is_err());
        assert!(include("a: !other x", dir.path()).is_err());
    }
}
