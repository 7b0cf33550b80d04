//! Who keeps the keys: this process, tpmmgr with a file, tpmmgr with a simulated TPM.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use controller::{Keeper, KeyFiles, Keys, Signer};
use tempfile::TempDir;

use crate::device::shipped::Shipped;

/// Keys of a TPM take their time.
const LIMIT: Duration = Duration::from_secs(60);
const SOFTWARE: &str = "file, by tpmmgr";

/// A key that signs.
pub struct Subject {
    /// For the table.
    pub name: &'static str,
    /// It.
    pub signer: Arc<dyn Signer>,
}

/// Processes that end with this.
pub struct Keepers {
    homes: Vec<(&'static str, TempDir)>,
    processes: Vec<Kept>,
    /// As a device has them.
    _programs: Shipped,
}

struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Keepers {
    /// Starts them. The TPM is left out, with a word about it, where swtpm is not installed.
    pub fn start() -> Result<Self> {
        let built =
            lab::device::built_binaries().context("the directory of the running program")?;
        let programs = Shipped::of(&built, &built)?;
        let tpmmgr = programs.dir().join("tpmmgr");
        let mut keepers = Self {
            homes: Vec::new(),
            processes: Vec::new(),
            _programs: programs,
        };
        let home = home()?;
        fs::write(home.path().join("config/soft_key"), "")?;
        let process = Command::new(&tpmmgr)
            .arg("--root")
            .arg(home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("tpmmgr")?;
        keepers.processes.push(Kept(process));
        keepers.homes.push((SOFTWARE, home));
        if !lab::tpm::is_installed() {
            eprintln!("bench tls: swtpm is not installed: no key in a TPM is measured");
            return Ok(keepers);
        }
        let home = home_with_tpm(&mut keepers, &tpmmgr)?;
        keepers.homes.push(("TPM, by tpmmgr", home));
        Ok(keepers)
    }

    /// The keys; the floor first.
    pub fn subjects(&self) -> Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        for (name, home) in &self.homes {
            let keeper = Keeper::of(home.path());
            let begun = Instant::now();
            let signer = loop {
                match keeper.device() {
                    Ok(signer) => break signer,
                    Err(error) if begun.elapsed() > LIMIT => {
                        return Err(error).with_context(|| (*name).to_owned());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            };
            if *name == SOFTWARE {
                // The same key without a keeper.
                let files = KeyFiles::of(&home.path().join("config"));
                let signer = files.device().context("the key's file")?;
                subjects.push(Subject {
                    name: "in this process",
                    signer,
                });
            }
            subjects.push(Subject { name, signer });
        }
        Ok(subjects)
    }
}

/// What the supervisor makes for tpmmgr.
fn home() -> Result<TempDir> {
    let home = tempfile::tempdir()?;
    for dir in ["config", "persist/certs", "persist/tpmmgr", "run"] {
        let dir = home.path().join(dir);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    Ok(home)
}

fn home_with_tpm(keepers: &mut Keepers, tpmmgr: &Path) -> Result<TempDir> {
    let home = home()?;
    let inside: PathBuf = home.path().join("tpm");
    fs::create_dir(&inside)?;
    let port = free_pair()?;
    let channel = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let chip = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--server", &channel(port)])
        .args(["--ctrl", &channel(port + 1)])
        .arg("--tpmstate")
        .arg(format!("dir={}", inside.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("swtpm")?;
    keepers.processes.push(Kept(chip));
    let process = Command::new(tpmmgr)
        .arg("--root")
        .arg(home.path())
        .env("TPMMGR_TCTI", format!("swtpm:host=127.0.0.1,port={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("tpmmgr")?;
    keepers.processes.push(Kept(process));
    Ok(home)
}

/// Two ports in a row that nobody listens on.
fn free_pair() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no two free ports in a row")
}
