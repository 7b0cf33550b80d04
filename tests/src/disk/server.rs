//! The process that is the disk: one file of fixed size in a FUSE file system, whose every write and flush is recorded.
//!
//! A process of its own, so that whoever waits for the disk can be killed: the disk goes on answering until the end of its
//! standard input says that nobody is left.

use std::{
    fs::File,
    io::{self, BufRead, BufWriter, Read, Write},
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
};

use nix::mount::{MsFlags, mount};

use super::{
    record::{Entry, place},
    wire::{Answer, EIO, ENOENT, ENOSYS, EOPNOTSUPP, FILE, HEADER, MAX_WRITE, Question, Request},
};

/// The name of the one file.
pub(super) const NAME: &str = "disk.img";

const FAIL_WRITES: u8 = 1;
const FAIL_READS: u8 = 2;

/// What the two threads share.
#[derive(Default)]
struct Shared {
    /// Entries recorded.
    entries: AtomicU64,
    /// What fails.
    fails: AtomicU8,
}

/// Mounts the file system on `dir`, with a disk of `size` bytes, and serves it until standard input ends. Each line there
/// is an order; the answer is the number of entries recorded before it.
pub fn serve(dir: &Path, size: u64, log: &Path) -> io::Result<()> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    mount(
        Some("recorded"),
        dir,
        Some("fuse"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(&*options),
    )?;
    let shared = Arc::new(Shared::default());
    let disk = Disk {
        content: vec![0; usize::try_from(size).map_err(io::Error::other)?],
        log: BufWriter::new(File::create(log)?),
        shared: Arc::clone(&shared),
    };
    thread::spawn(move || {
        if let Err(error) = disk.answer_all(&device) {
            eprintln!("the disk ends: {error}");
        }
    });
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "well" => shared.fails.store(0, Ordering::SeqCst),
            "fail writes" => shared.fails.store(FAIL_WRITES, Ordering::SeqCst),
            "fail all" => shared
                .fails
                .store(FAIL_WRITES | FAIL_READS, Ordering::SeqCst),
            _ => {}
        }
        println!("{}", shared.entries.load(Ordering::SeqCst));
    }
    Ok(())
}

struct Disk {
    content: Vec<u8>,
    log: BufWriter<File>,
    shared: Arc<Shared>,
}

impl Disk {
    fn answer_all(mut self, mut device: &File) -> io::Result<()> {
        let mut buffer = vec![0; HEADER + 4096 + MAX_WRITE as usize];
        loop {
            let length = match device.read(&mut buffer) {
                Ok(length) => length,
                // A request was taken back, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::NotFound
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(request) = Request::parse(&buffer[..length]) else {
                continue;
            };
            if request.question == Question::End {
                return Ok(());
            }
            let Some(answer) = self.answer(&request)? else {
                continue;
            };
            match device.write(&answer) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> io::Result<Option<Vec<u8>>> {
        let answer = Answer::new(request.number);
        let size = self.content.len() as u64;
        let fails = self.shared.fails.load(Ordering::SeqCst);
        let refuse = |errno| Ok(Some(Answer::error(request.number, errno)));
        let answer = match request.question {
            Question::Init => answer.init(),
            Question::Lookup(name) if name == NAME.as_bytes() => answer.entry(size),
            Question::Lookup(_) => return refuse(ENOENT),
            Question::Attributes => answer.attributes(request.node, size),
            Question::Open => answer.opened(),
            Question::Read { .. } if fails & FAIL_READS != 0 => return refuse(EIO),
            Question::Write { .. } | Question::Sync if fails & FAIL_WRITES != 0 => {
                return refuse(EIO);
            }
            Question::Read { offset, size } => {
                let begin = self.content.len().min(place(offset));
                let end = self.content.len().min(begin + size as usize);
                answer.bytes(&self.content[begin..end])
            }
            Question::Write { offset, data } => {
                let begin = place(offset);
                let Some(place) = self
                    .content
                    .get_mut(begin..begin.saturating_add(data.len()))
                else {
                    return refuse(EIO);
                };
                place.copy_from_slice(data);
                self.record(&Entry::Write {
                    offset,
                    data: data.to_vec(),
                })?;
                answer.written(u32::try_from(data.len()).unwrap_or(0))
            }
            Question::Sync => {
                self.record(&Entry::Flush)?;
                answer
            }
            Question::Space => answer.space(size),
            Question::Nod => answer,
            Question::Allocate => return refuse(EOPNOTSUPP),
            Question::Silent | Question::End => return Ok(None),
            Question::Unknown => return refuse(ENOSYS),
        };
        debug_assert!(request.node <= FILE);
        Ok(Some(answer.finish()))
    }

    /// In the file before the kernel gets its answer: whoever learns that a flush is done finds it recorded.
    fn record(&mut self, entry: &Entry) -> io::Result<()> {
        entry.write(&mut self.log)?;
        self.log.flush()?;
        self.shared.entries.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
