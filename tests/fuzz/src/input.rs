//! Inputs that stand for several things.

/// Ends one thing of several in an input: the record separator of ASCII.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// The first `N` parts of an input; those that it does not have are empty. The last one is the rest.
pub(crate) fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut found = bytes.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| found.next().unwrap_or_default())
}

/// An input of several parts.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&SEPARATOR)
}
