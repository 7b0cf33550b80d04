//! A simulated TPM: the program swtpm, reached over loopback.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A TPM with its own persistent state. It dies with this.
pub(crate) struct Swtpm {
    state: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Swtpm {
    /// A new one, as a maker ships it.
    pub(crate) fn new() -> Self {
        Self::with_banks(None)
    }

    /// The same with only these banks of PCRs.
    pub(crate) fn with_banks(banks: Option<&str>) -> Self {
        let state = tempfile::tempdir().unwrap();
        if let Some(banks) = banks {
            let made = Command::new("swtpm_setup")
                .args(["--tpm2", "--pcr-banks", banks, "--tpmstate"])
                .arg(state.path())
                .stdout(Stdio::null())
                .status()
                .expect("swtpm-tools is installed by `make deps`");
            assert!(made.success());
        }
        let mut tpm = Self {
            state,
            port: free_pair(),
            process: None,
        };
        tpm.start();
        tpm
    }

    /// Switches it on.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none());
        let channel = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &channel(self.port)])
            .args(["--ctrl", &channel(self.port + 1)])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.state.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm is installed by `make deps`");
        self.process = Some(process);
        // Its listening socket shows in the kernel's table; to connect would be to use it.
        let listening = format!(":{:04X} 00000000:0000 0A", self.port + 1);
        let begun = Instant::now();
        while !std::fs::read_to_string("/proc/net/tcp")
            .unwrap()
            .contains(&listening)
        {
            assert!(begun.elapsed() < Duration::from_secs(20), "it listens");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Cuts its power.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Suspends it, or lets it go on.
    pub(crate) fn suspend(&self, suspended: bool) {
        let signal = if suspended { "-STOP" } else { "-CONT" };
        let pid = self.process.as_ref().unwrap().id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(done.success());
    }

    /// The way to it.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Runs one of the tools of tpm2-tools on it.
    pub(crate) fn tool(&self, name: &str, args: &[&str]) -> (bool, String) {
        let output = Command::new(name)
            .args(args)
            .args(["-T", &self.tcti()])
            .output()
            .expect("tpm2-tools is installed by `make deps`");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two ports in a row that nobody listens on.
fn free_pair() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports in a row");
}
