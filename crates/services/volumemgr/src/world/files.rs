//! Work on files that may take long, on threads of its own.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agent::Progress;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Bytes between two looks at whether the copy is still wanted.
const STEP: u64 = 16 << 20;

/// Copies a file; blocks are shared where the file system can. A copy that is no longer
/// waited for stops and removes what it has written.
pub(super) async fn copy(from: &Path, to: &Path, progress: &Progress) -> io::Result<()> {
    let cancel = CancelOnDrop::default();
    let cancelled = Arc::clone(&cancel.0);
    let (from, to, progress) = (from.to_owned(), to.to_owned(), progress.clone());
    blocking(move || {
        let result = copy_now(&from, &to, &progress, &cancelled);
        if result.is_err() {
            drop(fs::remove_file(&to));
        }
        result
    })
    .await
}

fn copy_now(from: &Path, to: &Path, progress: &Progress, cancelled: &AtomicBool) -> io::Result<()> {
    let source = File::open(from)?;
    let total = source.metadata()?.len();
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let mut done = 0;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        // Inside the kernel, where it can.
        match io::copy(&mut (&source).take(STEP), &mut target)? {
            0 => return Ok(()),
            n => done += n,
        }
        progress.set(done, total);
    }
}

/// Puts a complete file on the disk and gives it its name. A file that has the name already is never
/// replaced.
pub(super) async fn finish(partial: &Path, target: &Path) -> io::Result<()> {
    let path = partial.to_owned();
    blocking(move || {
        let file = File::open(path)?;
        // The guest's process is in the same group and writes to it.
        file.set_permissions(Permissions::from_mode(0o660))?;
        file.sync_all()
    })
    .await?;
    // Here, not on the other thread: a job that was given up must not make a volume.
    renameat_with(CWD, partial, CWD, target, RenameFlags::NOREPLACE)?;
    let dir = target.parent().unwrap_or(Path::new("/"));
    File::open(dir)?.sync_all()
}

/// Removes files; those that are gone already are fine.
pub(super) async fn remove(dir: PathBuf, names: Vec<String>) -> io::Result<()> {
    blocking(move || {
        for name in names {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        File::open(dir)?.sync_all()
    })
    .await
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
}

/// Tells the thread when the task that waits for it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
