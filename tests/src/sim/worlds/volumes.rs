//! volumemgr's directory.

use agent::{Action, Clock, Failure, Progress, World};
use model::{code::Code, content::VerifyPhase, id::Digest};
use volumemgr::{Actual, Desired, Do, Image, Recipe, Space, Volumemgr};

use crate::sim::machine::{Machine, State, VolumeFile, verified_path, volume_path};
use crate::sim::wish::MIB;

/// What a guest sees of every image.
const VIRTUAL_BYTES: u64 = 16 * MIB;

/// `/persist/vault/volumemgr/volumes`
pub(crate) struct Volumes(Machine);

impl Volumes {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self(machine.clone())
    }

    async fn create(&self, recipe: Recipe, progress: Progress) -> Result<(), Failure> {
        let Recipe {
            key,
            format: _,
            image,
            size_bytes,
        } = recipe.clone();
        let object = Do::Create(recipe).subject();
        let of = self.0.with(|s| source(s, image.as_deref()))?;
        let name = self.0.with(|s| {
            if s.disk.free() < size_bytes / 2 {
                return Err(Failure::new(Code::VolumeCreate, object.clone(), "full").transient());
            }
            let name = s.disk.temporary(&key.to_string());
            s.disk.partials.insert(name.clone(), (key, size_bytes / 2));
            Ok(name)
        })?;
        progress.set(50, 100);
        self.0.takes(800).await;
        self.0.with(|s| {
            if s.disk.partials.remove(&name).is_none() {
                return Err(
                    Failure::new(Code::VolumeCreate, object, "the file is gone").transient()
                );
            }
            if s.disk.volumes.contains_key(&key) {
                s.violate(format!("volume {key} is made again over the old one"));
            }
            let file = VolumeFile {
                virtual_bytes: size_bytes,
                made: s.clock.now(),
                used: None,
                of,
                may_go: s.truth.may_go(key),
            };
            s.disk.volumes.insert(key, file);
            Ok(())
        })
    }

    fn remove(s: &mut State, key: model::id::VolumeKey) {
        if s.guests
            .qemus
            .iter()
            .any(|(_, qemu)| qemu.is_alive() && qemu.disks.contains(&key))
        {
            s.violate(format!("volume {key} is removed under a living guest"));
        }
        if let Some(file) = s.disk.volumes.remove(&key)
            && !file.may_go
        {
            s.violate(format!(
                "volume {key} is removed though the config wants it"
            ));
        }
    }
}

/// The image that a volume is made of, which is verified.
fn source(s: &State, image: Option<&std::path::Path>) -> Result<Option<Digest>, Failure> {
    let Some(image) = image else { return Ok(None) };
    let found = s
        .disk
        .verified
        .keys()
        .find(|d| verified_path(**d) == *image);
    match found {
        Some(digest) => Ok(Some(*digest)),
        None => Err(Failure::new(Code::VolumeCreate, "image", "it is not there").transient()),
    }
}

impl World<Volumemgr> for Volumes {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        Ok(self.0.with(|s| {
            s.looks_into_vault("volumemgr");
            let volumes = s.disk.volumes.iter().map(|(key, file)| {
                let file = volumemgr::VolumeFile {
                    path: volume_path(*key),
                    format: model::volume::ImageFormat::Qcow2,
                    virtual_bytes: file.virtual_bytes,
                    used_bytes: file.virtual_bytes / 2,
                };
                (*key, file)
            });
            let images = desired.verified.iter().flat_map(|rows| rows.values());
            let images = images
                .filter(|row| matches!(row.phase, VerifyPhase::Verified { .. }))
                .filter_map(|row| Some((row.sha256, *s.disk.verified.get(&row.sha256)?)));
            Actual {
                volumes: volumes.collect(),
                partials: s
                    .disk
                    .partials
                    .iter()
                    .map(|(name, (key, _))| (*key, name.clone()))
                    .collect(),
                images: images
                    .map(|(digest, file_bytes)| {
                        let qcow2 = Ok(VIRTUAL_BYTES);
                        (digest, Image { file_bytes, qcow2 })
                    })
                    .collect(),
                space: Space {
                    total_bytes: s.disk.total,
                    free_bytes: s.disk.free(),
                },
                signed_only: false,
            }
        }))
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        match action {
            Do::Create(recipe) => self.create(recipe, progress).await?,
            Do::Remove(key) => {
                self.0.takes(100).await;
                self.0.with(|s| Self::remove(s, key));
            }
            Do::RemovePartial(name) => self.0.with(|s| {
                s.disk.partials.remove(&name);
            }),
        }
        Ok(())
    }
}
