//! The attribute that says where a file begins, and whether it is being cut.

use std::{fs::File, io, path::Path};

use rustix::{
    fs::{XattrFlags, fgetxattr, fsetxattr, getxattr},
    io::Errno,
};

const NAME: &str = "user.eve.log";

/// Where a file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Position of its first byte.
    pub(crate) base: u64,
    /// A cut of so many bytes has begun and its end has not been noted.
    pub(crate) cutting: Option<u64>,
}

impl Mark {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (base, cutting) = match text.split_once('+') {
            Some((base, head)) => (base, Some(head.parse().ok()?)),
            None => (text, None),
        };
        let mark = Self {
            base: base.parse().ok()?,
            cutting,
        };
        // Nobody has ever written so much: the attribute is damaged, and could not be counted on from.
        let is_possible = |bytes: u64| bytes < u64::MAX / 4;
        (is_possible(mark.base) && is_possible(mark.cutting.unwrap_or(0))).then_some(mark)
    }

    fn text(self) -> String {
        match self.cutting {
            Some(head) => format!("{}+{head}", self.base),
            None => self.base.to_string(),
        }
    }

    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let mut buffer = [0; 64];
        interpret(fgetxattr(file, NAME, &mut buffer[..]).map(|length| &buffer[..length.min(64)]))
    }

    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        let mut buffer = [0; 64];
        interpret(getxattr(path, NAME, &mut buffer[..]).map(|length| &buffer[..length.min(64)]))
    }

    pub(crate) fn put(self, file: &File) -> io::Result<()> {
        match fsetxattr(file, NAME, self.text().as_bytes(), XattrFlags::empty()) {
            // Then every base is 0; see the crate's documentation.
            Err(Errno::NOTSUP | Errno::NOSYS) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }
}

fn interpret(found: Result<&[u8], Errno>) -> io::Result<Mark> {
    match found {
        Ok(text) => Ok(Mark::parse(text).unwrap_or_default()),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::RANGE) => Ok(Mark::default()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_put_is_found_and_anything_else_is_a_beginning() {
        for mark in [
            Mark::default(),
            Mark {
                base: u64::MAX / 4 - 1,
                cutting: Some(65_536),
            },
        ] {
            assert_eq!(Mark::parse(mark.text().as_bytes()), Some(mark));
        }
        for bad in ["", "x", "1+", "-1", "1+2+3", "18446744073709551615"] {
            assert_eq!(interpret(Ok(bad.as_bytes())).unwrap(), Mark::default());
        }
    }
}
