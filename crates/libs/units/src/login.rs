//! The programs by which a person gets into the device, to the last argument.
//!
//! A login is root, so nobody may choose what runs as one: the supervisor starts for the doorkeeper
//! ([`ids::DOORKEEPER`]) exactly the units that [`spec`] makes, and no others. What is left to the
//! doorkeeper is when, and what is in the list of keys.
//!
//! sshd reads no configuration but these arguments. Its keys are in a directory that only the doorkeeper's user
//! (and root) can write, so its own check of owners (`StrictModes`), which knows root only, is off;
//! `docs/decisions/110-no-way-in.md`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{
    Capability, Limits, NameError, RestartPolicy, Stop, StopSignal, UnitName, UnitSpec, ids,
};

/// The port of logins over the network.
pub const SSH_PORT: u16 = 22;
/// The program that listens there.
pub const SSHD: &str = "/usr/sbin/sshd";
/// The program that opens a terminal.
pub const GETTY: &str = "/sbin/agetty";
/// Where sshd wants an empty directory of root's; it is built with this path.
pub const SSHD_EMPTY: &str = "/run/sshd";
/// The flag in CONFIG that forbids logins over the network, whatever the controller says, below the root.
pub const DISABLED_FLAG: &str = "config/remote_access_disabled";
/// The list of keys that may log in, below the root; gone with the boot.
pub const KEYS: &str = "run/access/authorized_keys";
/// The device's own key for logins, below the root.
pub const HOST_KEY: &str = "persist/accessmgr/ssh_host_ed25519_key";

/// What all processes of a login may use: an editor or a capture, not the guests' memory.
const MEMORY: u64 = 512 << 20;

/// Settings of sshd. The one user is root, the one way a key.
const SETTINGS: &[&str] = &[
    "AuthenticationMethods=publickey",
    "PubkeyAuthentication=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "HostbasedAuthentication=no",
    "GSSAPIAuthentication=no",
    "UsePAM=no",
    "PermitEmptyPasswords=no",
    "PermitRootLogin=prohibit-password",
    "AllowUsers=root",
    "StrictModes=no",
    "AuthorizedKeysCommand=none",
    "AuthorizedPrincipalsFile=none",
    "TrustedUserCAKeys=none",
    "RequiredRSASize=2048",
    "MaxAuthTries=3",
    "MaxSessions=4",
    "MaxStartups=4:50:16",
    "LoginGraceTime=20",
    "DisableForwarding=yes",
    "AllowTcpForwarding=no",
    "AllowStreamLocalForwarding=no",
    "AllowAgentForwarding=no",
    "X11Forwarding=no",
    "GatewayPorts=no",
    "PermitTunnel=no",
    "PermitUserRC=no",
    "PermitUserEnvironment=no",
    "ClientAliveInterval=30",
    "ClientAliveCountMax=3",
    "UseDNS=no",
    "PrintMotd=no",
    "PidFile=none",
    "LogLevel=VERBOSE",
];

/// A way to log in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Login {
    /// Over the network, at a port.
    Ssh(u16),
    /// A shell on a terminal.
    Shell(Terminal),
}

/// A terminal of the machine, by its name in `/dev`: `ttyS0`, `tty1`, `hvc0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terminal(String);

impl Terminal {
    /// The terminal of this name, if it can be one that hardware has. A pseudo terminal (`pts/0`) is none: its other
    /// end is in some process's hands.
    pub fn new(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("tty").or(name.strip_prefix("hvc"))?;
        let number = rest.trim_start_matches(|c: char| c.is_ascii_uppercase());
        let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        (is_number && name.len() <= 12).then(|| Self(name.to_owned()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is on the screen.
    pub fn is_virtual(&self) -> bool {
        let number = self.0.strip_prefix("tty");
        number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    }
}

impl Login {
    /// The name of its unit.
    pub fn unit(&self) -> Result<UnitName, NameError> {
        match self {
            Self::Ssh(_) => UnitName::transient(ids::DOORKEEPER, "ssh"),
            Self::Shell(Terminal(name)) => UnitName::transient(ids::DOORKEEPER, name),
        }
    }

    /// The login whose unit has this name.
    pub fn of(name: &UnitName) -> Option<Self> {
        if name.owner() != ids::DOORKEEPER {
            return None;
        }
        match name.instance()? {
            "ssh" => Some(Self::Ssh(SSH_PORT)),
            terminal => Terminal::new(terminal).map(Self::Shell),
        }
    }

    fn argv(&self, root: &Path) -> Vec<String> {
        match self {
            Self::Ssh(port) => sshd(root, *port),
            Self::Shell(Terminal(name)) => getty(name),
        }
    }
}

fn sshd(root: &Path, port: u16) -> Vec<String> {
    let below = |path: &str| root.join(path).to_string_lossy().into_owned();
    let keys = below(KEYS).replace('%', "%%");
    let mut argv: Vec<String> = [SSHD, "-D", "-e", "-f", "none", "-h"]
        .map(str::to_owned)
        .into();
    argv.push(below(HOST_KEY));
    argv.extend(["-p".to_owned(), port.to_string()]);
    argv.extend(["-o".to_owned(), format!("AuthorizedKeysFile=\"{keys}\"")]);
    for setting in SETTINGS {
        argv.extend(["-o".to_owned(), (*setting).to_owned()]);
    }
    argv
}

/// The command line that runs a shell on a terminal, without asking who is there: what a console's cable is for.
pub fn getty(terminal: &str) -> Vec<String> {
    [
        GETTY,
        "--noissue",
        "--noclear",
        "--skip-login",
        "--login-program",
        "/bin/sh",
        "--keep-baud",
        "115200,57600,38400,9600",
        terminal,
        "vt220",
    ]
    .map(str::to_owned)
    .into()
}

/// The unit of a login on the device below `root`.
pub fn spec(root: &Path, login: &Login) -> Result<UnitSpec, NameError> {
    let mut spec = UnitSpec::new(login.unit()?, "", 0);
    spec.argv = login.argv(root);
    spec.sandbox.gid = 0;
    spec.sandbox.capabilities = Capability::ALL.iter().copied().collect();
    // A person looks everywhere.
    spec.sandbox.paths = None;
    spec.env = [("HOME", "/root"), ("SHELL", "/bin/sh"), ("USER", "root")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    spec.limits = Limits {
        memory_bytes: Some(MEMORY),
        cpu_percent: None,
    };
    spec.restart = RestartPolicy::Always;
    spec.stop = Stop {
        // A shell does not hear of SIGTERM.
        signal: match login {
            Login::Ssh(_) => StopSignal::Term,
            Login::Shell(_) => StopSignal::Hup,
        },
        timeout: Duration::from_secs(2),
    };
    Ok(spec)
}

/// Whether a unit is a login, exactly as [`spec`] makes it.
pub fn is_login(root: &Path, asked: &UnitSpec) -> bool {
    let login = Login::of(&asked.name);
    let made = login.and_then(|login| spec(root, &login).ok());
    made.as_ref() == Some(asked)
}

/// Whether CONFIG of the device below `root` forbids logins over the network, or can't be asked: what can't be read may
/// forbid it.
pub fn remote_access_disabled(root: &Path) -> bool {
    match fs::symlink_metadata(root.join(DISABLED_FLAG)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => !root.join("config").is_dir(),
        Ok(_) | Err(_) => true,
    }
}

/// Where the list of keys is on the device below `root`.
pub fn keys_file(root: &Path) -> PathBuf {
    root.join(KEYS)
}

/// Where the device's own key for logins is.
pub fn host_key_file(root: &Path) -> PathBuf {
    root.join(HOST_KEY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROOT: &str = "/r";

    #[test]
    fn terminals_are_the_machines() {
        for name in ["ttyS0", "ttyAMA0", "tty1", "hvc0", "ttyUSB12"] {
            let terminal = Terminal::new(name).unwrap();
            assert_eq!(terminal.is_virtual(), name == "tty1");
        }
        for name in [
            "",
            "tty",
            "pts/0",
            "ttyS",
            "../tty1",
            "tty1 ",
            "ttyS0\n",
            "console",
            "tty1/..",
            "ptmx",
            "ttyS000000000",
        ] {
            assert_eq!(Terminal::new(name), None, "{name}");
        }
    }

    #[test]
    fn a_login_is_what_is_written_here_and_nothing_else() {
        let root = Path::new(ROOT);
        let logins = [
            Login::Ssh(SSH_PORT),
            Login::Shell(Terminal::new("ttyS0").unwrap()),
        ];
        for login in logins {
            let good = spec(root, &login).unwrap();
            good.check().unwrap();
            assert_eq!(Login::of(&good.name), Some(login.clone()));
            assert!(is_login(root, &good));
            assert!(!is_login(Path::new("/other"), &good) || !matches!(login, Login::Ssh(_)));
            let changes: [fn(&mut UnitSpec); 7] = [
                |spec| spec.argv.push("x".to_owned()),
                |spec| spec.argv[0] = "/bin/sh".to_owned(),
                |spec| {
                    spec.env.insert("LD_PRELOAD".to_owned(), "/x".to_owned());
                },
                |spec| spec.cwd = "/tmp".into(),
                |spec| spec.name = "accessmgr/tty7".parse().unwrap(),
                |spec| spec.outlives_supervisor = true,
                |spec| {
                    spec.labels.insert("a".to_owned(), "b".to_owned());
                },
            ];
            for (index, change) in changes.into_iter().enumerate() {
                let mut changed = good.clone();
                change(&mut changed);
                assert!(!is_login(root, &changed), "{index}");
            }
        }
        let other_port = spec(root, &Login::Ssh(2222)).unwrap();
        assert!(!is_login(root, &other_port));
    }

    #[test]
    fn what_can_not_be_read_may_forbid_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(remote_access_disabled(root), "there is no CONFIG");
        fs::create_dir(root.join("config")).unwrap();
        assert!(!remote_access_disabled(root));
        std::os::unix::fs::symlink("nowhere", root.join(DISABLED_FLAG)).unwrap();
        assert!(remote_access_disabled(root), "a name is enough");
        fs::remove_file(root.join(DISABLED_FLAG)).unwrap();
        fs::write(root.join(DISABLED_FLAG), "").unwrap();
        assert!(remote_access_disabled(root));
    }

    #[test]
    fn paths_reach_sshd_as_one_word() {
        let spec = spec(Path::new("/a b%c"), &Login::Ssh(22)).unwrap();
        let keys = "AuthorizedKeysFile=\"/a b%%c/run/access/authorized_keys\"";
        assert!(spec.argv.iter().any(|word| word == keys));
    }
}
