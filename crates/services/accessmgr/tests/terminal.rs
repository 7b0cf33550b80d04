//! The real getty on a real (pseudo) terminal.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is printed, as it comes.
fn printed(mut out: ChildStdout) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = out.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if send.send(text).is_err() {
                return;
            }
        }
    });
    receive
}

fn until(printed: &Receiver<String>, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match printed.recv_timeout(PATIENCE) {
            Ok(more) => seen.push_str(&more),
            Err(error) => panic!("{text:?} is not in {seen:?}: {error}"),
        }
    }
    seen
}

/// A terminal, as `script` makes it: what it is fed comes out of its keyboard.
fn terminal(dir: &Path) -> (Process, String) {
    let file = dir.join("name");
    let inside = format!("tty > '{}'; exec sleep 600", file.display());
    let script = Command::new("script")
        .args(["-qfc", &inside, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let script = Process(script.unwrap());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let name = fs::read_to_string(&file).unwrap_or_default();
        if name.ends_with('\n') {
            return (script, name.trim().to_owned());
        }
        assert!(Instant::now() < deadline, "there is no terminal");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn trust_a_terminal_gets_a_shell_of_root_that_ends_when_it_is_hung_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut screen, name) = terminal(dir.path());
    let printed = printed(screen.0.stdout.take().unwrap());
    let argv = units::login::getty(name.strip_prefix("/dev/").unwrap());
    let getty = Command::new("setsid")
        .args(&argv)
        .stdin(Stdio::null())
        .spawn();
    let mut getty = Process(getty.unwrap());
    until(&printed, "# ");
    let keyboard = screen.0.stdin.as_mut().unwrap();
    keyboard
        .write_all(b"echo $((40+2)) $(id -u) $(tty)\n")
        .unwrap();
    until(&printed, &format!("42 0 {name}"));
    let pid = Pid::from_raw(getty.0.id().cast_signed());
    kill(pid, Signal::SIGHUP).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while getty.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the shell does not hear SIGHUP");
        std::thread::sleep(Duration::from_millis(10));
    }
}
