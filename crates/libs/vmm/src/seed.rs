//! NoCloud seeds: the CD from which cloud-init (and the like) in a guest takes its name, its user
//! data and its network configuration. The label is `cidata`, the files are `meta-data`,
//! `user-data` and, if there are any, `network-config` and `vendor-data`.
//!
//! An image depends on nothing but its content, so an unchanged guest gets an unchanged image. The
//! user data may hold secrets: the file is readable by its owner alone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::iso::{IsoError, iso_image};
use crate::spec::Mac;

/// Words that YAML readers take for a truth value or nothing.
const YAML_WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];

/// What a guest is told at its first start.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Identity of this life of the guest. cloud-init runs its once-only parts again when it
    /// changes, so it must change with each re-creation and otherwise stay.
    pub instance_id: String,
    /// Host name of the guest.
    pub hostname: String,
    /// Script, cloud-config or MIME archive; passed on as it is. Empty for none.
    pub user_data: Vec<u8>,
    /// Network configuration, version 1 or 2; without one the guest asks DHCP on its first card.
    pub network_config: Option<String>,
    /// Like the user data, from who runs the device.
    pub vendor_data: Option<Vec<u8>>,
}

impl std::fmt::Debug for Seed {
    /// Without the user data: it may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed")
            .field("instance_id", &self.instance_id)
            .field("hostname", &self.hostname)
            .field("user_data_bytes", &self.user_data.len())
            .finish_non_exhaustive()
    }
}

/// Why there is no seed.
#[derive(Debug, Error)]
pub enum SeedError {
    /// Would need quoting that small guests don't understand.
    #[error("{what} {value:?} must be 1 to 64 letters, digits, '-', '_', '.' or '#'")]
    Word {
        /// Which word.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// The content doesn't fit on a CD.
    #[error(transparent)]
    Iso(#[from] IsoError),
    /// The file could not be written.
    #[error("writing seed {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Seed {
    /// The bytes of the image; pure.
    pub fn to_image(&self) -> Result<Vec<u8>, SeedError> {
        let meta_data = format!(
            "instance-id: {}\nlocal-hostname: {}\n",
            scalar("instance id", &self.instance_id)?,
            scalar("host name", &self.hostname)?
        );
        let mut files = vec![
            ("meta-data", meta_data.as_bytes()),
            ("user-data", &self.user_data),
        ];
        if let Some(network) = &self.network_config {
            files.push(("network-config", network.as_bytes()));
        }
        if let Some(vendor) = &self.vendor_data {
            files.push(("vendor-data", vendor));
        }
        Ok(iso_image("cidata", &files)?)
    }

    /// Writes the image, mode 0600; a reader sees the old file or the new one, never a part.
    pub fn write(&self, path: &Path) -> Result<(), SeedError> {
        let image = Zeroizing::new(self.to_image()?);
        let at = |source| SeedError::Write {
            path: path.to_owned(),
            source,
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(at)?;
        file.write_all(&image).map_err(at)?;
        file.persist(path).map_err(|error| at(error.error))?;
        Ok(())
    }
}

/// A network configuration (version 2) in which each card, known by its address, asks DHCP. For
/// guests with several cards: left alone they configure the first one only.
pub fn dhcp_on_all(macs: &[Mac]) -> String {
    let mut text = String::from("version: 2\nethernets:\n");
    for (n, mac) in macs.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "  nic{n}:\n    match:\n      macaddress: \"{mac}\"\n    dhcp4: true\n"
        );
        if n > 0 {
            // One default route per guest: that of the first card.
            text.push_str("    dhcp4-overrides:\n      use-routes: false\n");
        }
    }
    text
}

/// A word as YAML: plain where YAML reads it as text, since small guests take the rest of the line
/// as it is, quoted where YAML would see a number, a date or a truth value.
fn scalar(what: &'static str, value: &str) -> Result<String, SeedError> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.#".contains(&c);
    if value.is_empty() || value.len() > 64 || !value.bytes().all(allowed) {
        return Err(SeedError::Word {
            what,
            value: value.to_owned(),
        });
    }
    let lower = value.to_ascii_lowercase();
    let word = YAML_WORDS.contains(&lower.as_str());
    let text = value
        .bytes()
        .any(|c| c.is_ascii_alphabetic() && !b"eExXoO".contains(&c));
    let starts = value.as_bytes()[0].is_ascii_alphanumeric();
    if text && starts && !word {
        Ok(value.to_owned())
    } else {
        Ok(format!("\"{value}\""))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn seed() -> Seed {
        Seed {
            instance_id: "8f3e0c1a-0000-4000-8000-000000000001#1".into(),
            hostname: "web-1".into(),
            user_data: b"#!/bin/sh\necho hello\n".to_vec(),
            network_config: None,
            vendor_data: None,
        }
    }

    #[test]
    fn the_image_is_reproducible() {
        let image = seed().to_image().unwrap();
        assert_eq!(image, seed().to_image().unwrap());
        let text = b"instance-id: 8f3e0c1a-0000-4000-8000-000000000001#1\nlocal-hostname: web-1\n";
        assert!(image.windows(text.len()).any(|part| part == text));
        assert_eq!(image.len() % crate::iso::SECTOR, 0);
    }

    #[test]
    fn words_that_yaml_misreads_are_quoted() {
        for (word, expected) in [
            ("web-1", "web-1"),
            ("0a1b", "0a1b"),
            ("true", "\"true\""),
            ("No", "\"No\""),
            ("1e10", "\"1e10\""),
            ("0x1E", "\"0x1E\""),
            ("2024-01-01", "\"2024-01-01\""),
            ("-x", "\"-x\""),
            ("#x", "\"#x\""),
        ] {
            assert_eq!(scalar("word", word).unwrap(), expected);
        }
    }

    #[test]
    fn a_name_that_ends_the_line_is_refused() {
        let mut bad = seed();
        bad.hostname = "a\nb: c".into();
        assert!(matches!(bad.to_image(), Err(SeedError::Word { .. })));
    }

    #[test]
    fn only_the_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.iso");
        seed().write(&path).unwrap();
        seed().write(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_card_asks_dhcp_and_one_gives_the_route() {
        let text = dhcp_on_all(&[Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!(text.matches("dhcp4: true").count(), 2);
        assert_eq!(text.matches("use-routes: false").count(), 1);
        assert!(text.contains("macaddress: \"02:00:00:00:00:02\""));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", seed()).contains("hello"));
    }
}
