//! Ways for a person into the device: which are open, why, and who uses them. And what a key must look like.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// The property with the keys that may log in over the network.
pub const SSH: &str = "debug.enable.ssh";
/// The property of the serial console.
pub const CONSOLE: &str = "debug.enable.console";
/// The property of USB keyboards and disks.
pub const USB: &str = "debug.enable.usb";
/// The property of the screen.
pub const VGA: &str = "debug.enable.vga";

/// Most keys that may be authorized at a time.
pub const MOST_KEYS: usize = 32;
/// Longest line of a key: RSA of 16384 bits, with a comment.
const LONGEST_LINE: usize = 4096;
const LONGEST_COMMENT: usize = 200;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=16_384;

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Way {
    /// Over the network, by key.
    Ssh,
    /// A shell on the serial console.
    Console,
    /// USB keyboards and disks.
    Usb,
    /// A shell on the screen.
    Vga,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ssh, Self::Console, Self::Usb, Self::Vga];

    /// The key of its row.
    pub fn key(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Console => "console",
            Self::Usb => "usb",
            Self::Vga => "vga",
        }
    }

    /// The property that opens it.
    pub fn property(self) -> &'static str {
        match self {
            Self::Ssh => SSH,
            Self::Console => CONSOLE,
            Self::Usb => USB,
            Self::Vga => VGA,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.key())
    }
}

/// Whether a way is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessPhase {
    /// Nobody gets in.
    Closed,
    /// It is to be open, and is not yet.
    Opening,
    /// Who is allowed gets in.
    Open,
    /// It is to be closed, and is not yet.
    Closing,
}

/// What wants a way to be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessReason {
    /// Nothing.
    Nothing,
    /// The property of the config.
    Property,
    /// `/config/authorized_keys`: there was no config yet.
    FirstBoot,
    /// `/config/remote_access_disabled` forbids it, for ever.
    Disabled,
}

/// A key that may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyInForce {
    /// `SHA256:...`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// `ssh-ed25519` and the like.
    pub kind: String,
    /// What its owner wrote behind it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Somebody who is connected over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Session {
    /// Address and port of the other side.
    pub from: String,
    /// Fingerprint of the key that opened it; none while it is being opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was first seen.
    pub since: Timestamp,
}

/// State of a way in. Topic `accessmgr/AccessStatus`, key: [`Way::key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccessStatus {
    /// Which.
    pub way: Way,
    /// Whether it is open.
    pub phase: AccessPhase,
    /// What wants it so.
    pub reason: AccessReason,
    /// Since when the phase is what it is.
    pub since: Timestamp,
    /// Where: the TCP port, the terminals, the interfaces that are kept out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    /// Keys that may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyInForce>,
    /// Who is connected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<Session>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// An OpenSSH public key without options.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthorizedKey {
    kind: &'static str,
    blob: Vec<u8>,
    comment: String,
}

/// Why a text is not a list of authorized keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct KeysError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: KeyProblem,
}

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// Too long.
    #[error("it is longer than {LONGEST_LINE} bytes")]
    TooLong,
    /// Something before the type.
    #[error(
        "it does not begin with the type of a key that is accepted; options such as command= and from= are not"
    )]
    Kind,
    /// No key behind the type.
    #[error("there is no key behind its type")]
    Missing,
    /// Damaged.
    #[error("what is behind its type is not base64")]
    Base64,
    /// Not a key of this type.
    #[error("what is behind its type is not a key of that type")]
    Shape,
    /// RSA of another size.
    #[error("an RSA key must have 2048 to 16384 bits")]
    RsaSize,
    /// Control characters, or too much.
    #[error(
        "its comment is longer than {LONGEST_COMMENT} characters or has some that can't be printed"
    )]
    Comment,
    /// Too many keys.
    #[error("there are more than {MOST_KEYS} keys")]
    TooMany,
}

/// The types that are accepted. DSA is not, nor certificates: who signs those is not the controller.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

impl AuthorizedKey {
    /// The type, as OpenSSH names it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The key in the form that fingerprints are made of.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// What its owner wrote behind it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    fn parse(line: &str) -> Result<Self, KeyProblem> {
        if line.len() > LONGEST_LINE {
            return Err(KeyProblem::TooLong);
        }
        let (kind, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let known = KINDS.into_iter().find(|known| *known == kind);
        let kind = known.ok_or(KeyProblem::Kind)?;
        let rest = rest.trim_start();
        let (text, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        if text.is_empty() {
            return Err(KeyProblem::Missing);
        }
        let blob = BASE64_STANDARD.decode(text);
        let blob = blob.map_err(|_| KeyProblem::Base64)?;
        check(kind, &blob)?;
        let comment = comment.trim();
        if comment.chars().count() > LONGEST_COMMENT || comment.chars().any(char::is_control) {
            return Err(KeyProblem::Comment);
        }
        Ok(Self {
            kind,
            blob,
            comment: comment.to_owned(),
        })
    }
}

impl fmt::Display for AuthorizedKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind, BASE64_STANDARD.encode(&self.blob))?;
        if self.comment.is_empty() {
            return Ok(());
        }
        write!(out, " {}", self.comment)
    }
}

/// Reads keys, one a line; blank lines and those that begin with `#` are left out. One bad line refuses all of it: who
/// may log in is never half of what somebody wrote.
pub fn parse_keys(text: &str) -> Result<Vec<AuthorizedKey>, KeysError> {
    let mut keys: Vec<AuthorizedKey> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = |problem| KeysError {
            line: index + 1,
            problem,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = AuthorizedKey::parse(line).map_err(at)?;
        if keys.iter().any(|known| known.blob == key.blob) {
            continue;
        }
        if keys.len() == MOST_KEYS {
            return Err(at(KeyProblem::TooMany));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Keys as a text that [`parse_keys`] reads back.
pub fn keys_text(keys: &[AuthorizedKey]) -> String {
    let lines: Vec<String> = keys.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Whether the bytes are a key of the kind: its parts are there, have the sizes that they must have, and nothing is left.
fn check(kind: &str, blob: &[u8]) -> Result<(), KeyProblem> {
    let mut parts = Parts(blob);
    if parts.next()? != kind.as_bytes() {
        return Err(KeyProblem::Shape);
    }
    let plain = kind.strip_prefix("sk-").map_or(kind, |plain| {
        plain.strip_suffix("@openssh.com").unwrap_or(plain)
    });
    match plain {
        "ssh-ed25519" => parts.of_len(32)?,
        "ecdsa-sha2-nistp256" => parts.point("nistp256", 65)?,
        "ecdsa-sha2-nistp384" => parts.point("nistp384", 97)?,
        "ecdsa-sha2-nistp521" => parts.point("nistp521", 133)?,
        "ssh-rsa" => {
            let (exponent, modulus) = (parts.number()?, parts.number()?);
            if !RSA_BITS.contains(&bits(modulus)) {
                return Err(KeyProblem::RsaSize);
            }
            if bits(exponent) < 2 || bits(exponent) > 64 {
                return Err(KeyProblem::Shape);
            }
        }
        _ => return Err(KeyProblem::Kind),
    }
    if kind != plain {
        // The application that a security key asks its owner about.
        let application = parts.next()?;
        if !application.starts_with(b"ssh:") || !application.is_ascii() {
            return Err(KeyProblem::Shape);
        }
    }
    if parts.0.is_empty() {
        Ok(())
    } else {
        Err(KeyProblem::Shape)
    }
}

fn bits(number: &[u8]) -> usize {
    number
        .first()
        .map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// Byte strings behind their lengths, as SSH writes them.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Result<&'a [u8], KeyProblem> {
        let (len, rest) = self.0.split_first_chunk().ok_or(KeyProblem::Shape)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| KeyProblem::Shape)?;
        let (part, rest) = rest.split_at_checked(len).ok_or(KeyProblem::Shape)?;
        self.0 = rest;
        Ok(part)
    }

    fn of_len(&mut self, len: usize) -> Result<(), KeyProblem> {
        if self.next()?.len() == len {
            Ok(())
        } else {
            Err(KeyProblem::Shape)
        }
    }

    fn point(&mut self, curve: &str, len: usize) -> Result<(), KeyProblem> {
        let (name, point) = (self.next()?, self.next()?);
        if name == curve.as_bytes() && point.len() == len && point.first() == Some(&4) {
            Ok(())
        } else {
            Err(KeyProblem::Shape)
        }
    }

    /// A positive number without needless zeros in front.
    fn number(&mut self) -> Result<&'a [u8], KeyProblem> {
        match self.next()? {
            [0, number @ ..] if number.first().is_some_and(|first| *first >= 0x80) => Ok(number),
            number
                if number
                    .first()
                    .is_some_and(|first| (1..0x80).contains(first)) =>
            {
                Ok(number)
            }
            _ => Err(KeyProblem::Shape),
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
