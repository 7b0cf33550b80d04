//! The volumes' files, the heads of verified images, the file system.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use agent::{Action as _, Boot, Failure, Progress, World};
use model::{
    code::Code,
    content::VerifyPhase,
    id::{Digest, VolumeKey},
    volume::ImageFormat,
};
use tokio::sync::Semaphore;
use vmm::{
    image::{ImageError, QemuImg},
    qcow2::{HEADER_LENGTH, Header, HeaderError},
    spec::ImageFormat as DiskFormat,
};

use crate::{
    Actual, Desired, Do, Image, Recipe, Space, VolumeFile, Volumemgr, plan::voucher::SIGNED_ONLY,
    subject,
};

/// Volumes made at once: more would only make the disk seek.
const AT_ONCE: usize = 2;
const PARTIAL: &str = ".partial";

/// The directory of volumes and the tool that makes images.
#[derive(Debug)]
pub struct Disk {
    persist: PathBuf,
    /// While this file is there only signed images are used.
    signed_only: PathBuf,
    volumes: PathBuf,
    qemu_img: QemuImg,
    slots: Semaphore,
    counter: AtomicU64,
}

impl Disk {
    /// Opens the directory of a device.
    #[allow(
        clippy::unused_async,
        reason = "the runtime opens worlds asynchronously"
    )]
    pub async fn open(boot: Boot) -> Result<Self, Failure> {
        let disk = Self {
            signed_only: boot.path("/config").join(SIGNED_ONLY),
            ..Self::at(absolute(&boot.path("/persist")))
        };
        if !boot.dry_run {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o751)
                .create(&disk.volumes);
            made.map_err(|e| disk.failure(&e))?;
        }
        Ok(disk)
    }

    /// Volumes lie in `vault/volumemgr/volumes` below `persist`, which must exist by the time that one is made.
    pub fn at(persist: PathBuf) -> Self {
        Self {
            volumes: persist.join("vault/volumemgr/volumes"),
            persist,
            signed_only: PathBuf::new(),
            qemu_img: QemuImg::default(),
            slots: Semaphore::new(AT_ONCE),
            counter: AtomicU64::new(0),
        }
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::of(
            Code::AgentObserve,
            format!("directory {}", self.volumes.display()),
            error,
        )
        .transient()
    }

    /// Makes a volume under a temporary name; it gets its own when it is complete and on the disk.
    async fn create(&self, recipe: &Recipe, progress: &Progress) -> Result<(), CreateError> {
        let Recipe { key, format, .. } = recipe;
        let name = format!("{key}.{}", extension(*format));
        progress.note("queued");
        let Ok(_slot) = self.slots.acquire().await else {
            return Ok(());
        };
        progress.note("");
        let nonce = self.counter.fetch_add(1, Ordering::Relaxed);
        let partial = self
            .volumes
            .join(format!("{name}.{}-{nonce}{PARTIAL}", std::process::id()));
        let made = self.fill(recipe, &partial, progress).await;
        let made = match made {
            Ok(()) => files::finish(&partial, &self.volumes.join(name))
                .await
                .map_err(CreateError::Write),
            failed => failed,
        };
        if made.is_err() {
            // What is left is garbage, and found as such at the latest after a restart.
            drop(fs::remove_file(&partial));
        }
        made
    }

    async fn fill(
        &self,
        recipe: &Recipe,
        partial: &Path,
        progress: &Progress,
    ) -> Result<(), CreateError> {
        let Recipe {
            key: _,
            format,
            image,
            size_bytes,
        } = recipe;
        let format = match format {
            ImageFormat::Raw => Some(DiskFormat::Raw),
            ImageFormat::Qcow2 => Some(DiskFormat::Qcow2),
            ImageFormat::Iso | ImageFormat::Container => None,
        };
        match (image, format) {
            (None, format) => {
                let format = format.unwrap_or(DiskFormat::Raw);
                self.qemu_img.create(partial, format, *size_bytes).await?;
            }
            // A disc is not resized.
            (Some(image), None) => files::copy(image, partial, progress)
                .await
                .map_err(CreateError::Write)?,
            // The tool leaves holes where the image has zeros.
            (Some(image), Some(DiskFormat::Raw)) => {
                let told = |fraction: f32| progress.set(percent(fraction), 100);
                self.qemu_img
                    .convert(image, DiskFormat::Raw, partial, DiskFormat::Raw, told)
                    .await?;
                self.qemu_img
                    .resize(partial, DiskFormat::Raw, *size_bytes)
                    .await?;
            }
            // Compressed clusters stay compressed, and where the file system can, blocks are shared.
            (Some(image), Some(DiskFormat::Qcow2)) => {
                self.qemu_img.admit(image, DiskFormat::Qcow2).await?;
                files::copy(image, partial, progress)
                    .await
                    .map_err(CreateError::Write)?;
                self.qemu_img
                    .resize(partial, DiskFormat::Qcow2, *size_bytes)
                    .await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.volumes)? {
            names.extend(
                entry?
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| wanted(name)),
            );
        }
        files::remove(self.volumes.clone(), names).await
    }

    fn read_volumes(&self, actual: &mut Actual) -> io::Result<()> {
        let entries = match fs::read_dir(&self.volumes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match Name::parse(&name) {
                Some(Name::Volume(key, format)) => {
                    // It may be gone since the directory was read.
                    let Ok(metadata) = entry.metadata() else {
                        continue;
                    };
                    let path = entry.path();
                    let virtual_bytes = match format {
                        ImageFormat::Qcow2 => header(&path).map_or(0, |h| h.virtual_size),
                        ImageFormat::Raw | ImageFormat::Iso | ImageFormat::Container => {
                            metadata.len()
                        }
                    };
                    let used_bytes = metadata.blocks() * 512;
                    actual.volumes.insert(
                        key,
                        VolumeFile {
                            path,
                            format,
                            virtual_bytes,
                            used_bytes,
                        },
                    );
                }
                Some(Name::Partial(key)) => {
                    actual.partials.insert((key, name));
                }
                None => {}
            }
        }
        Ok(())
    }
}

impl World<Volumemgr> for Disk {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let mut actual = Actual {
            volumes: BTreeMap::new(),
            partials: BTreeSet::new(),
            images: images(desired),
            space: space(&self.persist).map_err(|e| self.failure(&e))?,
            signed_only: self.signed_only.exists(),
        };
        self.read_volumes(&mut actual)
            .map_err(|e| self.failure(&e))?;
        Ok(actual)
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        let object = action.subject();
        match action {
            Do::Create(recipe) => self
                .create(&recipe, &progress)
                .await
                .map_err(|e| e.into_failure(subject(recipe.key))),
            Do::Remove(key) => self
                .remove(|name| matches!(Name::parse(name), Some(Name::Volume(k, _)) if k == key))
                .await
                .map_err(|e| Failure::of(Code::AgentObserve, object, &e).transient()),
            Do::RemovePartial(partial) => self
                .remove(|name| name == partial)
                .await
                .map_err(|e| Failure::of(Code::AgentObserve, object, &e).transient()),
        }
    }
}

/// Why a volume could not be made.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("the image tool failed")]
    Tool(#[from] ImageError),
    #[error("the volume's file can't be written")]
    Write(#[source] io::Error),
}

impl CreateError {
    fn into_failure(self, object: String) -> Failure {
        let (full, transient) = match &self {
            Self::Tool(error) => (
                matches!(error, ImageError::NoSpace { .. }),
                error.is_transient(),
            ),
            Self::Write(error) => (error.kind() == io::ErrorKind::StorageFull, true),
        };
        let code = if full {
            Code::VolumeSpace
        } else {
            Code::VolumeCreate
        };
        Failure::of(code, object, &self).transient_if(transient)
    }
}

/// Names of our own form.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Volume(VolumeKey, ImageFormat),
    Partial(VolumeKey),
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let (stem, rest) = name.split_once('.')?;
        let key: VolumeKey = stem.parse().ok()?;
        // Other spellings of the same key are not ours.
        if key.to_string() != stem {
            return None;
        }
        let format = match rest.split('.').next()? {
            "raw" => ImageFormat::Raw,
            "qcow2" => ImageFormat::Qcow2,
            "iso" => ImageFormat::Iso,
            _ => return None,
        };
        match rest.split_once('.') {
            None => Some(Self::Volume(key, format)),
            Some((_, tail)) => tail.ends_with("partial").then_some(Self::Partial(key)),
        }
    }
}

fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw | ImageFormat::Container => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Iso => "iso",
    }
}

fn images(desired: &Desired) -> BTreeMap<Digest, Image> {
    let rows = desired.verified.iter().flat_map(|rows| rows.values());
    rows.filter_map(|row| match &row.phase {
        VerifyPhase::Verified { path, .. } => {
            let file_bytes = fs::metadata(path).ok()?.len();
            let qcow2 = header(path).and_then(|h| h.require_complete().map(|()| h.virtual_size));
            Some((
                row.sha256,
                Image {
                    file_bytes,
                    qcow2: qcow2.map_err(|e| e.to_string()),
                },
            ))
        }
        VerifyPhase::Verifying { .. } | VerifyPhase::Mismatch { .. } => None,
    })
    .collect()
}

/// Also for a file that can't be read: then it is no image.
fn header(path: &Path) -> Result<Header, HeaderError> {
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        // What could be read tells enough.
        let _ = file.take(HEADER_LENGTH as u64).read_to_end(&mut head);
    }
    Header::parse(&head)
}

fn space(path: &Path) -> io::Result<Space> {
    let vfs = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(vfs.f_frsize);
    Ok(Space {
        total_bytes: bytes(vfs.f_blocks),
        free_bytes: bytes(vfs.f_bavail),
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0 to 100"
)]
fn percent(fraction: f32) -> u64 {
    (fraction.clamp(0.0, 1.0) * 100.0) as u64
}

/// The image tool takes only absolute paths. A directory that can't be resolved stays as it is
/// and fails later with a better message.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_form_are_ours() {
        let id = "5d0767ee-0547-4569-b530-387e526f8cb9";
        let key: Option<VolumeKey> = format!("{id}#3").parse().ok();
        let ours = |name: &str| Name::parse(&format!("{id}#3.{name}"));
        assert_eq!(
            ours("qcow2"),
            key.map(|k| Name::Volume(k, ImageFormat::Qcow2))
        );
        assert_eq!(ours("iso"), key.map(|k| Name::Volume(k, ImageFormat::Iso)));
        assert_eq!(ours("raw.12-0.partial"), key.map(Name::Partial));
        assert_eq!(ours("vmdk"), None);
        assert_eq!(ours("raw.bak"), None);
        for foreign in [
            "x.raw",
            "5D0767EE-0547-4569-B530-387E526F8CB9#3.raw",
            "lost+found",
            "",
        ] {
            assert_eq!(Name::parse(foreign), None, "{foreign}");
        }
        assert_eq!(Name::parse(&format!("{id}#03.raw")), None);
        assert_eq!(Name::parse(&format!("{id}.raw")), None);
    }
}
