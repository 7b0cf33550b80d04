//! Chooses what goes into a bundle, masks it, writes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    CHECK, DIRECTORY, MANIFEST, Manifest, TIMELINE, capture,
    mask::{MASK, Masker},
};
use crate::{Device, Error, Snapshot, check::collect::enter_namespace, process, snapshot};

/// Bytes of one log, from its end; older parts count on their own.
const LOG: u64 = 1 << 20;
/// Bytes of one file of evidence.
const EVIDENCE: u64 = 256 << 10;
/// Bytes of all files, before compression.
const ALL: u64 = 256 << 20;

const README: &str = "\
A support bundle of an EVE device.

  eve --bundle FILE why          what is not as wanted, and why
  eve --bundle FILE status       the device on one screen
  eve --bundle FILE check        the checks as they were answered on the device
  eve --bundle FILE timeline     from boot to ready
  eve --bundle FILE logs         what services printed
  eve --bundle FILE get          the bus

Unpacked, the directory is a device's root: eve --root eve-support --at newest why.

Taken out: private keys; user data, passwords, tokens, logins in addresses (*** stands where they were);
the saved config, images and volumes; consoles of applications unless they were asked for. Names, addresses,
certificates and what applications let their helpers print are in it: treat it as confidential.
";

/// What to collect.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device.
    pub root: PathBuf,
    /// The archive.
    pub file: PathBuf,
    /// Also what applications printed on their consoles.
    pub consoles: bool,
}

/// Answers of other commands, made by the caller.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// JSON of the checks.
    pub check: String,
    /// JSON of the timeline.
    pub timeline: String,
    /// Texts by file name.
    pub texts: Vec<(&'static str, String)>,
}

/// Writes a bundle. The archive appears under its name only when it is complete, readable to its owner only.
pub fn write(options: &Options, snapshot: &Snapshot, answers: &Answers) -> Result<Manifest, Error> {
    let device = Device::of(snapshot);
    let mut masker = Masker::default();
    learn(&options.root, snapshot, &mut masker);
    let mut partial = options.file.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed("create", &partial))?;
    let mut archive = Archive {
        tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        masker,
        manifest: Manifest {
            format: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: snapshot.at,
            root: options.root.display().to_string(),
            device: device
                .onboarding
                .get("global")
                .and_then(|row| row.device)
                .map(|id| id.to_string())
                .unwrap_or_default(),
            files: 0,
            bytes: 0,
            masked: 0,
            left_out: Vec::new(),
        },
    };
    let written = archive.fill(options, snapshot, answers);
    let finished = written.and_then(|()| archive.finish());
    match finished {
        Ok(manifest) => {
            fs::rename(&partial, &options.file).map_err(failed("rename", &partial))?;
            Ok(manifest)
        }
        Err(error) => {
            let _ = fs::remove_file(&partial);
            Err(failed("write", &options.file)(error))
        }
    }
}

/// Reads every secret that can be found, to know it where it turns up.
fn learn(root: &Path, snapshot: &Snapshot, masker: &mut Masker) {
    for table in snapshot.topics.values() {
        table.rows.values().for_each(|row| masker.learn_object(row));
    }
    let units = fs::read_dir(root.join("run/supervisor/units"));
    for unit in units.into_iter().flatten().flatten() {
        if let Ok(bytes) = fs::read(unit.path())
            && let Ok(value) = serde_json::from_slice::<Value>(&bytes)
        {
            masker.learn_object(&value);
        }
    }
    let config = fs::read_dir(root.join("config"))
        .into_iter()
        .flatten()
        .flatten();
    let keys = config
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".key.pem"));
    for secret in keys.chain([root.join("run/zedagent/integrity_token")]) {
        if let Ok(text) = fs::read_to_string(secret) {
            let lines = text.lines().filter(|line| !line.starts_with("-----"));
            lines.for_each(|line| masker.learn(line));
        }
    }
}

struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    masker: Masker,
    manifest: Manifest,
}

impl Archive {
    fn fill(
        &mut self,
        options: &Options,
        snapshot: &Snapshot,
        answers: &Answers,
    ) -> io::Result<()> {
        let root = &options.root;
        self.bytes("README.txt", README.as_bytes(), None)?;
        for (name, text) in &answers.texts {
            self.text(name, text, None)?;
        }
        self.text(CHECK, &answers.check, None)?;
        self.text(TIMELINE, &answers.timeline, None)?;
        self.bus(root, snapshot)?;
        self.records(root)?;
        self.config(root)?;
        self.logs(root, options.consoles)?;
        self.evidence(root)?;
        self.kernel(root)
    }

    fn finish(mut self) -> io::Result<Manifest> {
        self.manifest.masked = self.masker.masked;
        let text = serde_json::to_string_pretty(&self.manifest).map_err(io::Error::other)?;
        self.bytes(MANIFEST, text.as_bytes(), None)?;
        let Self { tar, manifest, .. } = self;
        let mut file = tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()?;
        Ok(manifest)
    }

    /// Every object that is JSON, masked field by field; the rest as text.
    fn bus(&mut self, root: &Path, snapshot: &Snapshot) -> io::Result<()> {
        for table in snapshot.topics.values() {
            let dir = snapshot::directory(root, &table.info);
            for below in ["", ".quarantine", ".keys"] {
                let entries = fs::read_dir(dir.join(below))
                    .into_iter()
                    .flatten()
                    .flatten();
                for path in sorted(entries.map(|entry| entry.path())) {
                    let is_object = path.extension().is_some_and(|end| end == "json");
                    let name = path.file_name().unwrap_or_default();
                    let belongs =
                        is_object || name == "ready" || name == ".generation" || below == ".keys";
                    if belongs && path.is_file() {
                        self.object(root, &path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let Some(bytes) = self.read(path, EVIDENCE * 16)? else {
            return Ok(());
        };
        let name = relative(root, path);
        if let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) {
            self.masker.object(&mut value);
            let text = serde_json::to_vec(&value).map_err(io::Error::other)?;
            return self.bytes(&name, &text, written(path));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.text(&name, &text, written(path))
    }

    /// The supervisor's records: an environment may hold anything.
    fn records(&mut self, root: &Path) -> io::Result<()> {
        let entries = fs::read_dir(root.join("run/supervisor/units"));
        for path in sorted(
            entries
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        ) {
            let Some(bytes) = self.read(&path, EVIDENCE)? else {
                continue;
            };
            let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else {
                continue;
            };
            if let Some(environment) = value.pointer_mut("/unit/spec/env") {
                self.masker.blank(environment);
            }
            self.masker.object(&mut value);
            let text = serde_json::to_vec(&value).map_err(io::Error::other)?;
            self.bytes(&relative(root, &path), &text, written(&path))?;
        }
        Ok(())
    }

    /// Certificates and plain facts. No key.
    fn config(&mut self, root: &Path) -> io::Result<()> {
        let names = [
            "server",
            "soft_serial",
            "hosts",
            "root-certificate.pem",
            "v2tlsbaseroot-certificates.pem",
            "onboard.cert.pem",
            "device.cert.pem",
        ];
        for name in names {
            let path = root.join("config").join(name);
            if let Some(bytes) = self.read(&path, EVIDENCE)? {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                self.text(&relative(root, &path), &text, written(&path))?;
            }
        }
        // Public, and needed to verify them again.
        let certs = root.join("persist/checkpoint/controllercerts");
        if let Some(bytes) = self.read(&certs, EVIDENCE)? {
            self.bytes(&relative(root, &certs), &bytes, written(&certs))?;
        }
        let config = root.join("persist/checkpoint/lastconfig");
        if config.exists() {
            self.left_out(
                &relative(root, &config),
                "it holds the applications' user data",
            );
        }
        Ok(())
    }

    fn logs(&mut self, root: &Path, consoles: bool) -> io::Result<()> {
        let dir = root.join("persist/log");
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        for path in sorted(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_file()),
        ) {
            self.end_of(root, &path, LOG)?;
        }
        let guests = dir.join("guests");
        let entries = fs::read_dir(&guests).into_iter().flatten().flatten();
        let all = sorted(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_file()),
        );
        if !consoles && !all.is_empty() {
            self.left_out(
                &relative(root, &guests),
                "consoles of applications were not asked for",
            );
            return Ok(());
        }
        for path in all {
            self.end_of(root, &path, LOG)?;
        }
        Ok(())
    }

    fn evidence(&mut self, root: &Path) -> io::Result<()> {
        for unit in children(&root.join("persist/crash")) {
            for case in children(&unit) {
                if case.is_file() {
                    self.object(root, &case)?;
                    continue;
                }
                for path in children(&case) {
                    self.end_of(root, &path, EVIDENCE)?;
                }
            }
        }
        Ok(())
    }

    /// What the kernel says now, if the device runs here.
    fn kernel(&mut self, root: &Path) -> io::Result<()> {
        let Some(anchor) = process::anchor(&process::below(root)) else {
            self.left_out(
                "network/ and system/",
                "no service of this device runs here",
            );
            return Ok(());
        };
        // Programs inherit the namespace of the thread that starts them.
        let captured = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                if let Err(error) = enter_namespace(anchor) {
                    return vec![(
                        "network/error.txt",
                        format!("the device's network namespace can't be entered: {error}\n"),
                    )];
                }
                let files = capture::FILES.iter().map(|(name, path)| {
                    let text = fs::read_to_string(path)
                        .unwrap_or_else(|error| format!("{path}: {error}\n"));
                    (*name, text)
                });
                let commands = capture::COMMANDS.iter().map(|(name, argv)| {
                    (
                        *name,
                        capture::run(argv).unwrap_or_else(|why| format!("{why}\n")),
                    )
                });
                files.chain(commands).collect()
            });
            inside.join().unwrap_or_default()
        });
        for (name, text) in captured {
            self.text(name, &text, None)?;
        }
        Ok(())
    }

    /// The end of a file as masked text, from the beginning of a line.
    fn end_of(&mut self, root: &Path, path: &Path, limit: u64) -> io::Result<()> {
        let Ok(mut file) = File::open(path) else {
            self.left_out(&relative(root, path), "it can't be read");
            return Ok(());
        };
        let size = file.metadata()?.len();
        let from = size.saturating_sub(limit);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if from > 0 {
            let begin = text.find('\n').map_or(text.len(), |end| end + 1);
            text.drain(..begin);
            self.left_out(&relative(root, path), &format!("its first {from} bytes"));
        }
        let text = self.masker.lines(&text);
        self.bytes(&relative(root, path), text.as_bytes(), written(path))
    }

    /// A small file; `None` (and noted, unless it is not there) when it can't be had.
    fn read(&mut self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.left_out(&path.display().to_string(), &error.to_string());
                return Ok(None);
            }
        };
        if file.metadata()?.len() > limit {
            self.left_out(&path.display().to_string(), "it is too large");
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn left_out(&mut self, what: &str, why: &str) {
        self.manifest.left_out.push(format!("{what}: {why}"));
    }

    fn text(&mut self, name: &str, text: &str, at: Option<u64>) -> io::Result<()> {
        let text = self.masker.lines(text);
        self.bytes(name, text.as_bytes(), at)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], at: Option<u64>) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.manifest.bytes.saturating_add(length) > ALL && name != MANIFEST {
            self.left_out(name, "the bundle is large enough");
            return Ok(());
        }
        // Names can be as secret as contents.
        let name = self.masker.text(name);
        if name.contains(MASK) {
            self.left_out("a file", "its name held a secret");
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o640);
        let now = u64::try_from(self.manifest.at.as_second()).unwrap_or(0);
        header.set_mtime(at.unwrap_or(now));
        self.manifest.files += 1;
        self.manifest.bytes += length;
        self.tar
            .append_data(&mut header, format!("{DIRECTORY}/{name}"), bytes)
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    sorted(entries.map(|entry| entry.path()))
}

fn sorted(paths: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn written(path: &Path) -> Option<u64> {
    let modified = fs::metadata(path).and_then(|found| found.modified()).ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The name of a bundle that was not given one.
pub(crate) fn default_name(device: &Device) -> String {
    let id = device.onboarding.get("global").and_then(|row| row.device);
    let id = id.map_or("device".to_owned(), |id| id.to_string()[..8].to_owned());
    let at: Timestamp = device.at;
    format!("eve-support-{id}-{}.tar.gz", at.strftime("%Y%m%dT%H%M%SZ"))
}
