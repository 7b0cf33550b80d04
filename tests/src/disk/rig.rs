//! A file system on a recorded disk, and copies of it as power cuts leave it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use super::{record::Record, server::NAME};

/// Bytes of the disk: small, for each cut is a copy of it.
pub const SIZE: usize = 32 << 20;

/// What the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Everything.
    Well,
    /// It can be read; each write and flush is an I/O error.
    NoWrites,
    /// Everything is an I/O error.
    Dead,
}

/// A recorded disk with a mounted file system.
pub struct Rig {
    dir: TempDir,
    disk: Mutex<Option<Disk>>,
}

struct Disk {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// From here on this thread and what it starts mount in a namespace of their own: whatever happens, nothing stays
/// mounted when they have ended.
pub fn seclude() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
}

/// Mounts an image with `options`; the loop device goes with the mount.
pub fn mount_image(image: &Path, on: &Path, options: &str) -> Result<Mounted, String> {
    fs::create_dir_all(on).map_err(|error| error.to_string())?;
    let options = format!("loop,noatime{options}");
    let mut command = Command::new("mount");
    run(command
        .args(["-t", "ext4", "-o", &options])
        .args([image, on]))?;
    Ok(Mounted(on.to_owned()))
}

/// A mounted image, until it is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy with what a failed test left open: detached, it goes with the last of that.
        let _ =
            umount2(&self.0, MntFlags::empty()).or_else(|_| umount2(&self.0, MntFlags::MNT_DETACH));
    }
}

impl Rig {
    /// A fresh file system, mounted at [`persist`](Self::persist) of a device's root. `disk` is the program
    /// `recorded-disk`.
    pub fn new(disk: &Path) -> Self {
        seclude();
        let dir = if Path::new("/dev/shm").is_dir() {
            tempfile::tempdir_in("/dev/shm")
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        for name in ["fuse", "root/persist"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let mut process = Command::new(disk)
            .arg(dir.path().join("fuse"))
            .arg(SIZE.to_string())
            .arg(dir.path().join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let disk = Disk {
            orders: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        };
        let rig = Self {
            dir,
            disk: Mutex::new(Some(disk)),
        };
        rig.mark();
        let features = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        let image = rig.image();
        run(Command::new("mkfs.ext4")
            .args([
                "-q", "-F", "-b", "4096", "-J", "size=4", "-N", "4096", "-m", "0",
            ])
            .args(["-E", features])
            .arg(image))
        .unwrap();
        rig.mount().unwrap();
        rig
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("fuse").join(NAME)
    }

    /// Mounts the file system.
    pub fn mount(&self) -> Result<(), String> {
        let mounted = mount_image(&self.image(), &self.persist(), "")?;
        std::mem::forget(mounted);
        Ok(())
    }

    /// Takes the file system away, whoever uses it.
    pub fn unmount(&self) {
        let persist = self.persist();
        let _ = umount2(&persist, MntFlags::empty())
            .or_else(|_| umount2(&persist, MntFlags::MNT_DETACH));
    }

    /// Takes all the room that there is, to the last block.
    pub fn fill(&self) {
        let balloon = File::options()
            .append(true)
            .create(true)
            .open(self.balloon())
            .unwrap();
        // Written at once, or what is written to memory would claim more than there is at the end.
        for size in [1 << 20, 1 << 12] {
            let bytes = vec![1; size];
            while (&balloon).write_all(&bytes).is_ok() && balloon.sync_data().is_ok() {}
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.balloon()).unwrap();
        File::open(self.persist()).unwrap().sync_all().unwrap();
    }

    fn balloon(&self) -> PathBuf {
        self.persist().join("balloon")
    }

    /// Makes it read-only or writable again.
    pub fn remount(&self, how: &str) -> Result<(), String> {
        let mut command = Command::new("mount");
        run(command
            .args(["-o", &format!("remount,{how}")])
            .arg(self.persist()))
    }

    /// Root of the device.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Its `/persist`.
    pub fn persist(&self) -> PathBuf {
        self.root().join("persist")
    }

    /// A place beside the disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many entries are recorded by now.
    pub fn mark(&self) -> u64 {
        self.order("mark")
    }

    /// From now on the disk is like this.
    pub fn set(&self, health: Health) {
        self.order(match health {
            Health::Well => "well",
            Health::NoWrites => "fail writes",
            Health::Dead => "fail all",
        });
    }

    fn order(&self, order: &str) -> u64 {
        let mut disk = self.disk.lock().unwrap();
        let disk = disk.as_mut().expect("the disk");
        writeln!(disk.orders, "{order}").unwrap();
        let mut answer = String::new();
        disk.answers.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap()
    }

    /// Everything that was done to the disk by now.
    pub fn record(&self) -> Record {
        Record::read(&self.dir.path().join("log"), self.mark()).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What waits for the disk gets errors now, so that nothing hangs.
        self.unmount();
        if let Some(Disk {
            mut process,
            orders,
            ..
        }) = self.disk.lock().ok().and_then(|mut disk| disk.take())
        {
            drop(orders);
            let _ = process.wait();
        }
        let _ = umount2(&self.dir.path().join("fuse"), MntFlags::MNT_DETACH);
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {said}"))
}
