//! A small CD image in memory: files in one directory, nothing else. Pure and reproducible, the
//! same files give the same bytes.
//!
//! The image holds two directories of the same files: the primary one (ISO 9660, names in upper
//! case, for readers that know no more) and a Joliet one (names as they are, which Linux and Windows
//! prefer). Unlike strict ISO 9660 the primary names and the label may hold `-` and lower case, as
//! the images of the usual tools do, because guests look for such a label.
//!
//! ```text
//! sector 0..15 empty | 16 primary | 17 Joliet | 18 end | 19..22 path tables | 23, 24 directories | files
//! ```

use thiserror::Error;

/// Bytes of a sector.
pub const SECTOR: usize = 2048;
const PRIMARY: usize = 16;
const JOLIET: usize = 17;
const END: usize = 18;
const PATHS: usize = 19;
const DIRECTORY: usize = 23;
const JOLIET_DIRECTORY: usize = 24;
const FILES: usize = 25;
/// 1980-01-01 00:00 UTC: no clock is read, so that the bytes depend on the content alone.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
/// Length of a path table that holds the root directory alone.
const PATH_TABLE_LENGTH: u32 = 10;

/// Content that can't be put on a CD.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IsoError {
    /// The label is shown in 16 characters at most.
    #[error("label {0:?} must be 1 to 16 letters, digits, '-' or '_'")]
    Label(String),
    /// A name that readers would cut or misread.
    #[error("file name {0:?} must be 1 to 27 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// Two files of one name, upper and lower case being the same.
    #[error("file name {0:?} is used twice")]
    SharedName(String),
    /// The directory is one sector.
    #[error("{0} files are too many for one directory sector")]
    TooManyFiles(usize),
    /// Sizes are 32 bits.
    #[error("the files have more than 4 GiB")]
    TooLarge,
}

struct Entry<'a> {
    name: &'a str,
    sector: u32,
    content: &'a [u8],
}

/// The image of a CD with this label and these files (name and content).
pub fn iso_image(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>, IsoError> {
    if label.is_empty() || label.len() > 16 || !label.bytes().all(|c| allowed(c) && c != b'.') {
        return Err(IsoError::Label(label.to_owned()));
    }
    let entries = placed(files)?;
    let sectors = entries.last().map_or(FILES, |last| {
        last.sector as usize + last.content.len().div_ceil(SECTOR)
    });
    let size = u32::try_from(sectors).map_err(|_| IsoError::TooLarge)?;
    let mut image = vec![0; sectors * SECTOR];
    let mut put = |sector: usize, bytes: &[u8]| {
        image[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
    };
    put(PRIMARY, &descriptor(label, size, false));
    put(JOLIET, &descriptor(label, size, true));
    put(END, b"\xffCD001\x01");
    for (n, directory) in [DIRECTORY, JOLIET_DIRECTORY].into_iter().enumerate() {
        put(
            PATHS + 2 * n,
            &path_table(number(directory).to_le_bytes(), [1, 0]),
        );
        put(
            PATHS + 2 * n + 1,
            &path_table(number(directory).to_be_bytes(), [0, 1]),
        );
        put(directory, &directory_sector(&entries, directory)?);
    }
    for entry in &entries {
        put(entry.sector as usize, entry.content);
    }
    Ok(image)
}

/// The files in the order of their names, each at its place.
fn placed<'a>(files: &[(&'a str, &'a [u8])]) -> Result<Vec<Entry<'a>>, IsoError> {
    let mut files = files.to_vec();
    files.sort_by_key(|(name, _)| name.to_ascii_uppercase());
    for pair in files.windows(2) {
        if pair[0].0.eq_ignore_ascii_case(pair[1].0) {
            return Err(IsoError::SharedName(pair[1].0.to_owned()));
        }
    }
    let mut sector = number(FILES);
    let mut entries = Vec::new();
    for (name, content) in files {
        if name.is_empty() || name.len() > 27 || !name.bytes().all(allowed) {
            return Err(IsoError::Name(name.to_owned()));
        }
        u32::try_from(content.len()).map_err(|_| IsoError::TooLarge)?;
        entries.push(Entry {
            name,
            sector,
            content,
        });
        let length = content.len().div_ceil(SECTOR);
        let length = u32::try_from(length).map_err(|_| IsoError::TooLarge)?;
        sector = sector.checked_add(length).ok_or(IsoError::TooLarge)?;
    }
    Ok(entries)
}

fn allowed(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-_.".contains(&c)
}

/// A sector number or length that is known to fit: constants, and contents that [`placed`] checked.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A number in both byte orders, as most fields of the format want it.
fn both(n: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// The descriptor of the volume and of one of its two directories.
fn descriptor(label: &str, size: u32, joliet: bool) -> Vec<u8> {
    let (kind, paths, directory) = if joliet {
        (2, PATHS + 2, JOLIET_DIRECTORY)
    } else {
        (1, PATHS, DIRECTORY)
    };
    let mut d = vec![0; SECTOR];
    let text = |value: &str, length: usize| -> Vec<u8> {
        let padded = value.bytes().chain(std::iter::repeat(b' '));
        if joliet {
            padded.flat_map(|c| [0, c]).take(length).collect()
        } else {
            padded.take(length).collect()
        }
    };
    d[0] = kind;
    d[1..6].copy_from_slice(b"CD001");
    d[6] = 1;
    d[8..40].copy_from_slice(&text("LINUX", 32));
    d[40..72].copy_from_slice(&text(label, 32));
    d[80..88].copy_from_slice(&both(size));
    if joliet {
        // The character set: UCS-2, level 3.
        d[88..91].copy_from_slice(b"%/E");
    }
    // One volume, the first of its set, with sectors of 2048 bytes.
    d[120..124].copy_from_slice(&[1, 0, 0, 1]);
    d[124..128].copy_from_slice(&[1, 0, 0, 1]);
    d[128..132].copy_from_slice(&[0, 8, 8, 0]);
    d[132..140].copy_from_slice(&both(PATH_TABLE_LENGTH));
    d[140..144].copy_from_slice(&number(paths).to_le_bytes());
    d[148..152].copy_from_slice(&number(paths + 1).to_be_bytes());
    d[156..190].copy_from_slice(&record(&[0], number(directory), number(SECTOR), true));
    for (from, length) in [(190, 128), (318, 128), (446, 128), (574, 128)] {
        d[from..from + length].copy_from_slice(&text("", length));
    }
    for from in [702, 739, 776] {
        d[from..from + 37].copy_from_slice(&text("", 37));
    }
    // Four dates, all "not specified".
    for from in [813, 830, 847, 864] {
        d[from..from + 16].fill(b'0');
    }
    d[881] = 1;
    d
}

/// The table of directories, of which there is one, in one byte order.
fn path_table(directory: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend_from_slice(&directory);
    table.extend_from_slice(&parent);
    table.extend_from_slice(&[0, 0]);
    table
}

fn directory_sector(entries: &[Entry<'_>], directory: usize) -> Result<Vec<u8>, IsoError> {
    let joliet = directory == JOLIET_DIRECTORY;
    let itself = |name| record(&[name], number(directory), number(SECTOR), true);
    let mut sector = itself(0);
    sector.extend_from_slice(&itself(1));
    for entry in entries {
        let name: Vec<u8> = if joliet {
            let name = format!("{};1", entry.name);
            name.bytes().flat_map(|c| [0, c]).collect()
        } else if entry.name.contains('.') {
            format!("{};1", entry.name)
                .to_ascii_uppercase()
                .into_bytes()
        } else {
            format!("{}.;1", entry.name)
                .to_ascii_uppercase()
                .into_bytes()
        };
        let length = number(entry.content.len());
        sector.extend_from_slice(&record(&name, entry.sector, length, false));
    }
    if sector.len() > SECTOR {
        return Err(IsoError::TooManyFiles(entries.len()));
    }
    Ok(sector)
}

/// One entry of a directory.
fn record(name: &[u8], sector: u32, length: u32, directory: bool) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend_from_slice(&both(sector));
    record.extend_from_slice(&both(length));
    record.extend_from_slice(&DATE);
    record.extend_from_slice(&[u8::from(directory) << 1, 0, 0, 1, 0, 0, 1]);
    // Names have at most 27 + 3 characters of two bytes, so one byte counts them.
    record.push(name.len().try_into().unwrap_or(u8::MAX));
    record.extend_from_slice(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = record.len().try_into().unwrap_or(u8::MAX);
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_content_is_refused() {
        let label = iso_image("", &[]).unwrap_err();
        assert_eq!(label, IsoError::Label(String::new()));
        let name = iso_image("x", &[("a/b", b"")]).unwrap_err();
        assert_eq!(name, IsoError::Name("a/b".into()));
        let twice = iso_image("x", &[("a", b""), ("A", b"")]).unwrap_err();
        assert_eq!(twice, IsoError::SharedName("A".into()));
        let names: Vec<String> = (0..60).map(|n| format!("file-{n}")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
        let many = iso_image("x", &files).unwrap_err();
        assert_eq!(many, IsoError::TooManyFiles(60));
    }

    /// A second reading of the format: follows the root record of a descriptor.
    fn read_back(image: &[u8], descriptor: usize, name: &[u8]) -> Option<Vec<u8>> {
        let le = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let root = descriptor * SECTOR + 156;
        let mut at = le(root + 2) * SECTOR;
        while image[at] != 0 {
            let named = &image[at + 33..][..usize::from(image[at + 32])];
            if named == name {
                return Some(image[le(at + 2) * SECTOR..][..le(at + 10)].to_vec());
            }
            at += usize::from(image[at]);
        }
        None
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            files in prop::collection::btree_map("[a-z][a-z0-9-]{0,12}", any::<Vec<u8>>(), 0..6),
        ) {
            let list: Vec<_> = files.iter().map(|(n, c)| (n.as_str(), c.as_slice())).collect();
            let image = iso_image("cidata", &list).unwrap();
            let reversed: Vec<_> = list.iter().rev().copied().collect();
            prop_assert_eq!(&iso_image("cidata", &reversed).unwrap(), &image);
            for (name, content) in list {
                let upper = format!("{}.;1", name.to_uppercase());
                let primary = read_back(&image, PRIMARY, upper.as_bytes());
                prop_assert_eq!(primary.as_deref(), Some(content));
                let wide: Vec<u8> = format!("{name};1").bytes().flat_map(|c| [0, c]).collect();
                let joliet = read_back(&image, JOLIET, &wide);
                prop_assert_eq!(joliet.as_deref(), Some(content));
            }
        }
    }
}
