//! A datastore of local files.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{DatastoreArgs, DatastoreCommand};
use super::output::{json, line};
use crate::pki;
use crate::serve;

/// What is noted beside an image, in `<image>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    file: String,
    sha256: String,
    size: u64,
}

pub(super) async fn datastore(args: DatastoreArgs) -> anyhow::Result<()> {
    match args.command {
        DatastoreCommand::Serve {
            dir,
            listen,
            tls,
            pki,
        } => {
            let tls = if tls { Some(pki) } else { None };
            run(&dir, listen, tls.as_deref()).await
        }
        DatastoreCommand::AddImage {
            file,
            dir,
            name,
            json: as_json,
        } => {
            let note = add(&file, &dir, name)?;
            if as_json {
                json(&note)
            } else {
                line(&format!(
                    "file: {}\nsha256: {}\nsize: {}",
                    note.file, note.sha256, note.size
                ))
            }
        }
    }
}

async fn run(dir: &Path, listen: SocketAddr, pki: Option<&Path>) -> anyhow::Result<()> {
    let folder = dir
        .canonicalize()
        .with_context(|| dir.display().to_string())?;
    let tls = match pki {
        Some(pki) => {
            let (chain, key) = pki::load_tls(pki)?;
            Some(serve::server_config(&chain, &key, false)?)
        }
        None => None,
    };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    line(&format!("datastore  {scheme}://{}", listener.local_addr()?))?;
    let (stopper, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let server = tokio::spawn(serve::serve(
        listener,
        tls,
        serve::datastore::router(folder),
        stop,
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    stopper.send_replace(true);
    server.await?;
    Ok(())
}

/// SHA-256 (hex) and size of a file.
pub(super) fn digest(path: &Path) -> anyhow::Result<(String, u64)> {
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
    loop {
        let got = file
            .read(&mut buffer)
            .with_context(|| path.display().to_string())?;
        if got == 0 {
            return Ok((hex::encode(hash.finalize()), size));
        }
        size += got as u64;
        hash.update(buffer.get(..got).unwrap_or_default());
    }
}

fn add(file: &Path, dir: &Path, name: Option<String>) -> anyhow::Result<Note> {
    let own = file.file_name().and_then(|n| n.to_str()).map(str::to_owned);
    let Some(name) = name.or(own) else {
        bail!("{}: has no name", file.display())
    };
    if name.contains('/') || name.starts_with('.') {
        bail!("{name:?} is not a plain file name");
    }
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let target = dir.join(&name);
    let already = target.exists() && target.canonicalize()? == file.canonicalize()?;
    if !already {
        // A download that is under way goes on with the old file.
        let temporary = dir.join(format!(".{name}.new"));
        fs::copy(file, &temporary).with_context(|| target.display().to_string())?;
        fs::rename(&temporary, &target).with_context(|| target.display().to_string())?;
    }
    let (sha256, size) = digest(&target)?;
    let note = Note {
        file: name.clone(),
        sha256,
        size,
    };
    fs::write(
        dir.join(format!("{name}.json")),
        serde_json::to_vec_pretty(&note)?,
    )?;
    Ok(note)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_image_is_copied_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let (file, store) = (dir.path().join("a.raw"), dir.path().join("store"));
        fs::write(&file, "abc").unwrap();
        let note = add(&file, &store, None).unwrap();
        assert_eq!(note.size, 3);
        assert!(note.sha256.starts_with("ba7816bf"));
        assert_eq!(add(&store.join("a.raw"), &store, None).unwrap(), note);
        assert!(add(&file, &store, Some("../x".to_owned())).is_err());
    }
}
