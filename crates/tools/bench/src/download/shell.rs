//! What a shell does with the same file.

/// A way to fetch and verify with `curl` and `sha256sum`.
#[derive(Debug)]
pub struct Lane {
    /// For the table.
    pub name: &'static str,
    /// For the JSON.
    pub key: &'static str,
    /// What the shell runs; it prints the digest.
    pub script: &'static str,
}

/// From the one that keeps nothing to the one that has two copies on the disk, as a device whose verifier does not trust
/// its downloader needs them.
pub const LANES: [Lane; 4] = [
    Lane {
        name: "curl | sha256sum",
        key: "pipe",
        script: "curl -sf \"$URL\" | sha256sum",
    },
    Lane {
        name: "curl -o file; sha256sum file",
        key: "file_then_hash",
        script: "curl -sf -o one \"$URL\" && sha256sum one",
    },
    Lane {
        name: "curl | tee file | sha256sum; sync file",
        key: "one_copy_on_disk",
        script: "curl -sf \"$URL\" | tee one | sha256sum && sync one",
    },
    Lane {
        name: "curl | tee file file | sha256sum; sync files",
        key: "two_copies_on_disk",
        script: "curl -sf \"$URL\" | tee one two | sha256sum && sync one two",
    },
];
