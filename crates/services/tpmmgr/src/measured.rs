//! What the CONFIG partition holds, measured into PCR 14 at every boot, before any secret is unsealed.
//!
//! CONFIG says whom the device obeys and who gets in, and lies on the disk as it is. Whoever changes it there changes PCR 14:
//! the vault stays locked, and the controller is told which file it was.
//!
//! ```text
//!  CONFIG --first start of a boot--> list of events, kept in /run --> PCR 14, one event after the other
//!                                                          \------> end of the event log of every quote
//! ```
//!
//! The list is written down first, so a service that is killed in between goes on where it was: the value of the PCR tells how
//! many of the events it holds ([`left`]). What an operator changes while the device runs counts from the next boot on.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tpm::{DigestOfPcr, extended};

/// The PCR that is CONFIG's.
pub const PCR: u32 = 14;

/// Most files of a CONFIG partition.
const MOST_FILES: usize = 512;
/// Bytes of the largest: the partition has 5 MB.
const LARGEST: u64 = 8 << 20;
/// Most directories above a file.
const DEEPEST: usize = 4;
/// `EV_IPL` (TCG PC Client Platform Firmware Profile, table 27), as bootloaders tell what they read.
const KIND: u32 = 0xd;
const ALG_SHA256: u16 = 0x000b;

/// One file, measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its path below the partition.
    pub file: String,
    /// SHA-256 of its path, a zero byte and its content: a file that is moved to another name is another one.
    pub digest: [u8; 32],
}

/// Measures the partition, in the order of paths.
pub fn measure(config: &Path) -> io::Result<Vec<Event>> {
    let mut files = Vec::new();
    collect(config, "", DEEPEST, &mut files)?;
    files.sort();
    let event = |file: String| {
        let mut hash = Sha256::new();
        hash.update(file.as_bytes());
        hash.update([0]);
        hash.update(read(&config.join(&file))?);
        let digest = hash.finalize().into();
        Ok(Event { file, digest })
    };
    files.into_iter().map(event).collect()
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(file)?
        .take(LARGEST + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("{} is too large", file.display())));
    }
    Ok(content)
}

fn collect(dir: &Path, below: &str, deepest: usize, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(io::Error::other("a name that is no text"));
        };
        let (kind, file) = (entry.file_type()?, format!("{below}{name}"));
        if kind.is_dir() {
            if deepest == 0 {
                return Err(io::Error::other("directories too deep"));
            }
            collect(&entry.path(), &format!("{file}/"), deepest - 1, files)?;
        } else if kind.is_file() && counts(&file) {
            if files.len() == MOST_FILES {
                return Err(io::Error::other(format!("more than {MOST_FILES} files")));
            }
            files.push(file);
        }
    }
    Ok(())
}

/// All but what the device makes itself, and secrets: of a weak one the digest would be enough to guess it by.
fn counts(file: &str) -> bool {
    let is_own = [tpm::identity::CERT_FILE, "tpm_credential"].contains(&file);
    let ends_with = |end: &str| file.to_ascii_lowercase().ends_with(end);
    !is_own && !ends_with(".key.pem") && !ends_with(".tmp")
}

/// Those of the events that the PCR does not hold yet; none where it holds something else, so that no event is the next.
pub fn left(now: DigestOfPcr, events: &[Event]) -> Option<&[Event]> {
    let mut value = [0; 32];
    for (held, event) in events.iter().enumerate() {
        if value == now {
            return Some(&events[held..]);
        }
        value = extended(value, event.digest);
    }
    (value == now).then_some(&[])
}

/// The events at the end of a firmware's log, which may be empty ("TCG PC Client Platform Firmware Profile", section 10, crypto
/// agile format).
pub fn append(mut log: Vec<u8>, events: &[Event]) -> Vec<u8> {
    if events.is_empty() {
        return log;
    }
    if log.is_empty() {
        log = head();
    }
    for event in events {
        for number in [PCR, KIND, 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend(ALG_SHA256.to_le_bytes());
        log.extend(event.digest);
        let text = format!("CONFIG {}", event.file);
        log.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        log.extend(text.as_bytes());
    }
    log
}

/// The begin of a log of SHA-256 digests alone: the specification event, in the old format.
fn head() -> Vec<u8> {
    const EV_NO_ACTION: u32 = 3;
    let mut specification = b"Spec ID Event03\0".to_vec();
    // Platform class, version 2.0 errata 2, words of 64 bits.
    specification.extend([0, 0, 0, 0, 0, 2, 2, 2]);
    specification.extend(1_u32.to_le_bytes());
    specification.extend(ALG_SHA256.to_le_bytes());
    specification.extend(32_u16.to_le_bytes());
    // No words of the vendor.
    specification.push(0);
    let mut head = [0_u32.to_le_bytes(), EV_NO_ACTION.to_le_bytes()].concat();
    head.extend([0; 20]);
    head.extend(
        u32::try_from(specification.len())
            .unwrap_or(0)
            .to_le_bytes(),
    );
    head.extend(specification);
    head
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    type Change<'a> = &'a dyn Fn(&mut Vec<(&str, &str)>);

    fn config(files: &[(&str, &str)]) -> Vec<Event> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        measure(dir.path()).unwrap()
    }

    fn value(events: &[Event]) -> DigestOfPcr {
        let extend = |value, event: &Event| extended(value, event.digest);
        events.iter().fold([0; 32], extend)
    }

    #[test]
    fn every_change_of_what_counts_shows() {
        let files = [
            ("server", "evc.example"),
            ("root-certificate.pem", "A"),
            ("DevicePortConfig/override.json", "{}"),
        ];
        let before = config(&files);
        let names: Vec<_> = before.iter().map(|event| &*event.file).collect();
        let sorted = [
            "DevicePortConfig/override.json",
            "root-certificate.pem",
            "server",
        ];
        assert_eq!(names, sorted);
        assert_eq!(config(&files), before);
        let changed = |change: Change<'_>| {
            let mut files = files.to_vec();
            change(&mut files);
            value(&config(&files))
        };
        let all = [
            value(&before),
            changed(&|files| files[0].1 = "evc.elsewhere"),
            changed(&|files| files.push(("authorized_keys", ""))),
            changed(&|files| files.push(("remote_access_disabled", ""))),
            changed(&|files| files.truncate(2)),
            changed(&|files| files[0].0 = "servers"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one), "{n}");
        }
        // What the device writes itself, and what nobody may guess by a digest.
        for own in [
            "device.cert.pem",
            "onboard.key.pem",
            "tpm_credential",
            "x.TMP",
        ] {
            assert_eq!(changed(&|files| files.push((own, "x"))), all[0], "{own}");
        }
    }

    #[test]
    fn a_log_is_begun_or_gone_on_with() {
        let events = config(&[("server", "x")]);
        assert_eq!(append(Vec::new(), &[]), Vec::<u8>::new());
        let own = append(Vec::new(), &events);
        assert!(own.ends_with(b"CONFIG server"));
        let both = append(own.clone(), &events);
        assert_eq!(both.len(), 2 * own.len() - head().len());
    }

    proptest! {
        #[test]
        fn whatever_was_extended_before_a_kill_the_rest_leads_to_the_same_value(
            digests in prop::collection::vec(any::<[u8; 32]>(), 0..8),
            held in 0_usize..9,
        ) {
            let event = |(n, digest): (usize, &[u8; 32])| Event { file: n.to_string(), digest: *digest };
            let events: Vec<_> = digests.iter().enumerate().map(event).collect();
            let held = held.min(events.len());
            let rest = left(value(&events[..held]), &events);
            prop_assert_eq!(rest, Some(&events[held..]));
            prop_assert_eq!(left([255; 32], &events), None);
        }
    }
}
