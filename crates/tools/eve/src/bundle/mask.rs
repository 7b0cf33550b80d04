//! Takes secrets out of what goes into a bundle. Pure.
//!
//! Three nets, one below the other: fields whose names say that they are secret; values that were learnt to be
//! secret, wherever they turn up again; and shapes of secrets in free text (private keys, logins in URLs,
//! `password=...`, bearer tokens).

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::Value;

/// What stands where a secret was.
pub const MASK: &str = "***";

/// A field or a word that contains one of these holds a secret.
const WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "userdata",
    "user_data",
    "user-data",
    "privatekey",
    "private_key",
    "private-key",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "cipherdata",
    "authorization",
    "cookie",
    "psk",
];

/// Shorter values are not looked for: they would be found everywhere.
const SHORTEST: usize = 6;
/// Lines of learnt texts are looked for from this length on.
const LINE: usize = 12;

/// Knows secrets, and takes them out.
#[derive(Debug, Default)]
pub struct Masker {
    known: BTreeSet<String>,
    /// How many places were masked.
    pub masked: u64,
}

/// Whether a field of this name holds a secret.
fn is_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    WORDS
        .iter()
        .any(|word| plain.contains(&word.replace(['_', '-'], "")))
}

impl Masker {
    /// Remembers a secret: the text, its longer lines, what follows secret words in it, and all of that as it
    /// looks in JSON and in base64.
    pub fn learn(&mut self, secret: &str) {
        let mut add = |text: &str| {
            let text = text.trim();
            if text.len() < SHORTEST {
                return;
            }
            let json = Value::String(text.to_owned()).to_string();
            self.known.insert(json.trim_matches('"').to_owned());
            self.known.insert(STANDARD_NO_PAD.encode(text));
            self.known.insert(text.to_owned());
        };
        add(secret);
        for line in secret.lines() {
            // An item of a list in YAML turns up without its dash.
            let line = line.trim().trim_start_matches("- ");
            if line.len() >= LINE {
                add(line);
            }
        }
        for (from, until) in values(secret) {
            add(&secret[from..until]);
        }
    }

    /// Remembers what secret fields of an object hold.
    pub fn learn_object(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if is_secret(name) {
                        self.learn_all(value);
                    } else {
                        self.learn_object(value);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn_object(item)),
            Value::String(text) => {
                // Logins of proxies are inside of addresses.
                for (from, until) in logins(text) {
                    let login = text[from..until].to_owned();
                    self.learn(&login);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn learn_all(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.learn(text),
            Value::Array(items) => items.iter().for_each(|item| self.learn_all(item)),
            Value::Object(fields) => fields.values().for_each(|item| self.learn_all(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Takes secrets out of an object. Its shape stays.
    pub fn object(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if is_secret(name) {
                        self.blank(value);
                    } else {
                        self.object(value);
                    }
                }
            }
            Value::Array(items) => {
                let mut secret = false;
                for item in items {
                    // Arguments of a command: `--password`, `x`.
                    let option = item.as_str().is_some_and(|text| {
                        text.starts_with('-') && !text.contains('=') && is_secret(text)
                    });
                    if secret && !option {
                        self.blank(item);
                    } else {
                        self.object(item);
                    }
                    secret = option;
                }
            }
            Value::String(text) => *text = self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Takes every text of an object out.
    pub fn blank(&mut self, value: &mut Value) {
        match value {
            Value::String(text) if !text.is_empty() => {
                MASK.clone_into(text);
                self.masked += 1;
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::Array(items) => items.iter_mut().for_each(|item| self.blank(item)),
            Value::Object(fields) => fields.values_mut().for_each(|item| self.blank(item)),
        }
    }

    /// Takes secrets out of lines, each of which may be JSON.
    pub fn lines(&mut self, text: &str) -> String {
        // Private keys span lines.
        let text = self.text(text);
        let mut masked = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            match serde_json::from_str::<Value>(line) {
                Ok(mut value @ Value::Object(_)) => {
                    self.object(&mut value);
                    masked.push_str(&value.to_string());
                    masked.push('\n');
                }
                Ok(_) | Err(_) => masked.push_str(line),
            }
        }
        masked
    }

    /// Takes secrets out of a text.
    pub fn text(&mut self, text: &str) -> String {
        let mut spans = private_keys(text);
        spans.extend(logins(text));
        spans.extend(bearers(text));
        spans.extend(values(text));
        // The longest first, so that a secret within another does not leave its rest.
        for secret in &self.known {
            spans.extend(
                text.match_indices(secret.as_str())
                    .map(|(at, found)| (at, at + found.len())),
            );
        }
        if spans.is_empty() {
            return text.to_owned();
        }
        spans.sort_unstable();
        let mut masked = String::with_capacity(text.len());
        let mut copied = 0;
        for (from, until) in spans {
            if until <= copied || text.get(from..until) == Some(MASK) {
                continue;
            }
            if from >= copied {
                masked.push_str(&text[copied..from]);
                masked.push_str(MASK);
                self.masked += 1;
            }
            copied = until;
        }
        masked.push_str(&text[copied..]);
        masked
    }
}

/// Part of a text, in bytes.
type Part = (usize, usize);

fn private_keys(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("-----BEGIN ") {
        let from = at + found;
        let label_end = text[from + 11..].find("-----").map(|end| from + 11 + end);
        let Some(label_end) = label_end else { break };
        let label = &text[from + 11..label_end];
        at = label_end + 5;
        if label.contains("PRIVATE KEY") {
            let end = format!("-----END {label}-----");
            let until = text[at..]
                .find(&end)
                .map_or(text.len(), |end_at| at + end_at + end.len());
            parts.push((from, until));
            at = until;
        }
    }
    parts
}

/// Passwords of `user:password@host`.
fn logins(text: &str) -> Vec<Part> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '@' | '<' | '>' | ',');
    let mut parts = Vec::new();
    for (at, _) in text.match_indices('@') {
        if !text[at + 1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') {
            continue;
        }
        let begin = text[..at].rfind(ends).map_or(0, |found| {
            found + text[found..].chars().next().map_or(1, char::len_utf8)
        });
        if let Some(colon) = text[begin..at].find(':')
            && colon > 0
            && begin + colon + 1 < at
        {
            parts.push((begin + colon + 1, at));
        }
    }
    parts
}

/// What follows `Bearer ` and `Basic `, and tokens that look like JWT.
fn bearers(text: &str) -> Vec<Part> {
    let word_end = |from: usize| {
        let stops = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '\\' | ';');
        text[from..]
            .find(stops)
            .map_or(text.len(), |end| from + end)
    };
    let mut parts = Vec::new();
    for scheme in ["Bearer ", "bearer ", "Basic ", "basic "] {
        for (at, _) in text.match_indices(scheme) {
            let from = at + scheme.len();
            let until = word_end(from);
            if until - from >= 8 {
                parts.push((from, until));
            }
        }
    }
    for (at, _) in text.match_indices("eyJ") {
        let until = word_end(at);
        if text[at..until].matches('.').count() == 2 {
            parts.push((at, until));
        }
    }
    parts
}

/// What follows a secret word and a separator: `password=x`, `"Token": "x"`, `--secret x`.
fn values(text: &str) -> Vec<Part> {
    let lower = text.to_ascii_lowercase();
    let mut parts = Vec::new();
    for word in WORDS {
        for (at, _) in lower.match_indices(word) {
            parts.extend(value_after(text, at, at + word.len()));
        }
    }
    parts
}

fn value_after(text: &str, begin: usize, end: usize) -> Option<Part> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let skip = |at: usize, of: &dyn Fn(char) -> bool| {
        text[at..]
            .find(|c: char| !of(c))
            .map_or(text.len(), |n| at + n)
    };
    let name_begin = text[..begin].rfind(|c: char| !is_name(c)).map_or(0, |at| {
        at + text[at..].chars().next().map_or(1, char::len_utf8)
    });
    let is_option = text[name_begin..].starts_with("--");
    let mut at = skip(end, &is_name);
    at = skip(at, &|c| c == '\\' || c == '"' || c == '\'');
    let before = at;
    at = skip(at, &|c| c == ' ' || c == '\t');
    let separated = text[at..].starts_with([':', '=']);
    if separated {
        at = skip(at, &|c| matches!(c, ':' | '=' | '>'));
        at = skip(at, &|c| c == ' ' || c == '\t');
    } else {
        // `--secret x`, and words like: bad user data "x".
        let quoted = text[at..].trim_start_matches('\\').starts_with(['"', '\'']);
        if at == before || !(is_option || quoted) {
            return None;
        }
    }
    let rest = &text[at..];
    let opening = rest.trim_start_matches('\\');
    let escapes = rest.len() - opening.len();
    let (from, until) = match opening.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let from = at + escapes + 1;
            (from, closing(text, from, quote, escapes))
        }
        // A structure is masked field by field.
        Some('{' | '[') | None => return None,
        Some(_) => {
            let stops = |c: char| {
                c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | '}' | ']' | '"' | '\'')
            };
            (at, text[at..].find(stops).map_or(text.len(), |n| at + n))
        }
    };
    (until > from).then_some((from, until))
}

/// Where a quoted value ends: at the next quote with as many backslashes before it as the first one had.
fn closing(text: &str, from: usize, quote: char, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in text[from..].char_indices() {
        if c == '\\' {
            backslashes += 1;
        } else {
            if c == quote && backslashes == escapes {
                return from + at - backslashes;
            }
            backslashes = 0;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn masked(text: &str) -> String {
        Masker::default().text(text)
    }

    #[test]
    fn shapes_of_secrets_are_found_in_text() {
        for (text, expected) in [
            ("password=abc next", "password=*** next"),
            ("Password: abc", "Password: ***"),
            (
                r#"{"VncPassword":"a\"b","x":1}"#,
                r#"{"VncPassword":"***","x":1}"#,
            ),
            (
                r#"said "{\"Token\": \"abc\"}" and"#,
                r#"said "{\"Token\": \"***\"}" and"#,
            ),
            (r#""UserData":"cut off here"#, r#""UserData":"***"#),
            ("run --secret abc --more", "run --secret *** --more"),
            ("https://u:abc@host/x", "https://u:***@host/x"),
            ("u:abc@proxy:3128", "u:***@proxy:3128"),
            ("Authorization: Bearer abcdefgh1", "Authorization: *** ***"),
            ("x eyJa.eyJb.c y", "x *** y"),
            ("the token has expired", "the token has expired"),
            (r#"bad UserData "a b" here"#, r#"bad UserData "***" here"#),
            ("10:20 a@b", "10:20 a@b"),
            (
                "k: -----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nz",
                "k: ***\nz",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nabc",
                "-----BEGIN CERTIFICATE-----\nabc",
            ),
            ("-----BEGIN PRIVATE KEY-----\nabc", "***"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn what_is_known_is_found_everywhere() {
        let mut masker = Masker::default();
        masker.learn_object(&json!({
            "Resources": {"VncPassword": "hunter22"},
            "UserData": "#cloud-config\npassword: grape\nruncmd: [echo one two three]\n",
            "Proxy": {"Https": "user:orange1@proxy"},
        }));
        assert_eq!(
            masker.text("a hunter22 b orange1 c runcmd: [echo one two three] d"),
            "a *** b *** c *** d"
        );
        let encoded = STANDARD_NO_PAD.encode("hunter22");
        assert_eq!(masker.text(&encoded), MASK);
    }

    #[test]
    fn objects_keep_their_shape() {
        let mut masker = Masker::default();
        let mut value = json!({
            "VncPassword": "x", "UserData": "", "Tokens": ["a", {"B": "c", "N": 5}],
            "Text": "see http://a:bcd@e", "Vcpus": 1, "Argv": ["x", "--password", "y", "z"],
        });
        masker.object(&mut value);
        let expected = json!({
            "VncPassword": "***", "UserData": "", "Tokens": ["***", {"B": "***", "N": 5}],
            "Text": "see http://a:***@e", "Vcpus": 1, "Argv": ["x", "--password", "***", "z"],
        });
        assert_eq!(value, expected);
        assert_eq!(masker.masked, 5);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_and_no_known_secret_is_left(text in any::<String>(), secret in "[a-z0-9]{8,20}", at in any::<prop::sample::Index>()) {
            let mut masker = Masker::default();
            masker.learn(&secret);
            let mut text = text;
            let places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            let place = if places.is_empty() { 0 } else { places[at.index(places.len())] };
            text.insert_str(place, &secret);
            prop_assert!(!masker.lines(&text).contains(&secret));
        }
    }
}
