//! The two files by which tools on the same machine find the controller: its admin address and
//! the token, which only the owner of the directory can read.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::secret;

/// Name of the token file.
pub const TOKEN: &str = "admin.token";
/// Name of the address file.
pub const ADDRESS: &str = "admin.address";

/// Why one of the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read the token.
    #[error("{path}: mode {mode:o} lets others read the token; make it 600")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no token in it.
    #[error("{0}: holds no token")]
    Empty(PathBuf),
}

/// The token below `dir`; made if there is none.
pub fn token(dir: &Path) -> Result<String, AccessFileError> {
    let path = dir.join(TOKEN);
    let io = |source| AccessFileError::Io {
        path: path.clone(),
        source,
    };
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
    {
        Ok(mut file) => {
            let token = secret::token();
            writeln!(file, "{token}")
                .and_then(|()| file.sync_all())
                .map_err(io)?;
            Ok(token)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => read_token(dir),
        Err(error) => Err(io(error)),
    }
}

/// The token that a controller made below `dir`.
pub fn read_token(dir: &Path) -> Result<String, AccessFileError> {
    let path = dir.join(TOKEN);
    let io = |source| AccessFileError::Io {
        path: path.clone(),
        source,
    };
    let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AccessFileError::Open { path, mode });
    }
    let token = fs::read_to_string(&path).map_err(io)?.trim().to_owned();
    if token.is_empty() {
        Err(AccessFileError::Empty(path))
    } else {
        Ok(token)
    }
}

/// Tells tools where the admin API is.
pub fn write_address(dir: &Path, address: SocketAddr) -> Result<(), AccessFileError> {
    let path = dir.join(ADDRESS);
    let temporary = dir.join("admin.address.new");
    fs::write(&temporary, format!("{address}\n"))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| AccessFileError::Io { path, source })
}

/// Where the admin API is.
pub fn read_address(dir: &Path) -> Result<String, AccessFileError> {
    let path = dir.join(ADDRESS);
    let text = fs::read_to_string(&path).map_err(|source| AccessFileError::Io { path, source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = token(dir.path()).unwrap();
        assert_eq!(token(dir.path()).unwrap(), first);
        let path = dir.path().join(TOKEN);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            token(dir.path()),
            Err(AccessFileError::Open { .. })
        ));
    }
}
