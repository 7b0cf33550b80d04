//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::Client;
use crate::config::size::Size;
use crate::serve::Apis;

/// Where a controller lives when nothing says so.
pub(super) const DEFAULT_DIR: &str = "evc-data";

/// The controller that comes with EVE.
#[derive(Debug, Parser)]
#[command(name = "evc", version)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make keys, certificates and the files for the CONFIG partition of devices
    Init(InitArgs),
    /// Show or renew the controller's certificates
    Pki(PkiArgs),
    /// Run the controller
    Serve(ServeArgs),
    /// Which serials may register
    Onboarding(OnboardingArgs),
    /// Devices
    Device(DeviceArgs),
    /// What devices prove of themselves, and what of it is accepted
    Attest(AttestArgs),
    /// Say what devices should be, in YAML
    Apply(ApplyArgs),
    /// Applications
    App(AppArgs),
    /// What devices report about themselves and their objects
    Info(ReportArgs),
    /// Usage that devices report
    Metrics(ReportArgs),
    /// Logs of devices and applications
    Logs(LogArgs),
    /// Serve images from local files
    Datastore(DatastoreArgs),
}

/// How to reach the controller, and how to answer.
#[derive(Debug, Clone, Args)]
pub(super) struct Access {
    /// Directory of the controller
    #[arg(long, env = "EVC_DIR", default_value = DEFAULT_DIR, global = true)]
    pub(super) dir: PathBuf,
    /// Admin address of a controller elsewhere (host:port)
    #[arg(long, env = "EVC_ADMIN", global = true, requires = "token")]
    pub(super) address: Option<String>,
    /// Its token
    #[arg(long, env = "EVC_TOKEN", hide_env_values = true, global = true)]
    pub(super) token: Option<String>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Access {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        match (&self.address, &self.token) {
            (Some(address), Some(token)) => Ok(Client::new(address, token)),
            _ => Ok(Client::from_dir(&self.dir)?),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Directory of the controller
    #[arg(long, env = "EVC_DIR", default_value = DEFAULT_DIR)]
    pub(super) dir: PathBuf,
    /// Host name or address, with :port unless it is 443, that devices will contact
    #[arg(long)]
    pub(super) name: String,
    /// More names and addresses of the controller and its datastore
    #[arg(long)]
    pub(super) san: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PkiArgs {
    /// Directory of the controller
    #[arg(long, env = "EVC_DIR", default_value = DEFAULT_DIR, global = true)]
    pub(super) dir: PathBuf,
    #[command(subcommand)]
    pub(super) command: PkiCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// What is there and how long it lasts
    Show,
    /// Make new server, signing and exchange certificates and use them at once
    Renew {
        /// More names and addresses of the controller
        #[arg(long)]
        san: Vec<String>,
    },
    /// Let somebody sign images: a certificate for their key, and what is between it and the root, to standard output
    ImageSigner {
        /// Request for it, PEM (`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 ...`)
        csr: PathBuf,
        /// How the signer is called on devices
        #[arg(long)]
        name: String,
    },
    /// Make new signing and exchange certificates, tell the devices, and use them later
    Rotate {
        /// Seconds until they are used: longer than devices take from one request for their configuration to the next
        #[arg(long, default_value_t = 600)]
        overlap: u64,
    },
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Directory of the controller
    #[arg(long, env = "EVC_DIR", default_value = DEFAULT_DIR)]
    pub(super) dir: PathBuf,
    /// Where devices connect
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub(super) listen: SocketAddr,
    /// Where this command connects
    #[arg(long, default_value = "127.0.0.1:8444")]
    pub(super) admin: SocketAddr,
    /// Generations of the device API
    #[arg(long, value_enum, default_value_t = Apis::Both)]
    pub(super) api: Apis,
    /// How much to log
    #[arg(long, default_value = "info")]
    pub(super) log: tracing::Level,
    /// Print the addresses as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct OnboardingArgs {
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: OnboardingCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum OnboardingCommand {
    /// Admit a serial
    Add {
        /// Hardware or soft serial; `*` admits any
        #[arg(long)]
        serial: String,
        /// Onboarding certificate, PEM; the one that `init` made without it
        #[arg(long)]
        cert: Option<PathBuf>,
        /// Name for the device
        #[arg(long)]
        name: Option<String>,
        /// Registered devices wait for `evc device claim`
        #[arg(long)]
        hold: bool,
        /// Make a one-time code that the claim needs, and print it
        #[arg(long)]
        code: bool,
        /// Endorsement key of the TPM that the device must be in: SHA-256 of its public key, hex
        #[arg(long)]
        ek: Option<String>,
    },
    /// What is admitted
    List,
    /// Admit a serial no longer; devices that are in stay in
    Remove {
        /// The serial
        #[arg(long)]
        serial: String,
        /// Onboarding certificate, PEM
        #[arg(long)]
        cert: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct AttestArgs {
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: AttestCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum AttestCommand {
    /// What a device proved, and what changed since it was reviewed
    Show {
        /// Name, UUID or serial
        device: String,
        /// Each measurement too
        #[arg(long)]
        events: bool,
    },
    /// Accept what a device proved last
    Accept {
        /// Name, UUID or serial
        device: String,
        /// A name for the state, such as a version
        #[arg(long, default_value = "")]
        name: String,
        /// For every device of the same manufacturer and product (labels)
        #[arg(long)]
        model: bool,
    },
    /// What is accepted
    Baselines,
    /// Accept a state no longer
    Forget {
        /// Its number
        id: i64,
    },
    /// Bind a device to the TPM whose endorsement key it has shown, or to another
    Bind {
        /// Name, UUID or serial
        device: String,
        /// SHA-256 of the endorsement key's public key, hex
        #[arg(long, conflicts_with = "none")]
        ek: Option<String>,
        /// To none
        #[arg(long)]
        none: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: DeviceCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// All devices
    List,
    /// One device
    Show {
        /// Name, UUID or serial
        device: String,
    },
    /// Enter a device by its certificate, without onboarding
    Add {
        /// Its certificate, PEM
        #[arg(long)]
        cert: PathBuf,
        /// Name for it
        #[arg(long)]
        name: String,
        /// Its serial
        #[arg(long, default_value = "")]
        serial: String,
        /// It waits for `evc device claim`
        #[arg(long)]
        hold: bool,
    },
    /// Make a device's certificate out of its request and enter it, without onboarding
    Sign {
        /// Its certificate request (PKCS#10), PEM
        #[arg(long)]
        csr: PathBuf,
        /// Its serial
        #[arg(long)]
        serial: String,
        /// Name for it
        #[arg(long)]
        name: Option<String>,
    },
    /// Admit a device that waits
    Claim {
        /// Name, UUID or serial
        device: String,
        /// A better name for it
        #[arg(long)]
        name: Option<String>,
        /// The code that came with it; the device may come later
        #[arg(long)]
        code: Option<String>,
    },
    /// Forget a device and all that it sent
    Delete {
        /// Name, UUID or serial
        device: String,
    },
    /// Order a reboot
    Reboot {
        /// Name, UUID or serial
        device: String,
    },
    /// Order it to stop all applications and switch off
    Shutdown {
        /// Name, UUID or serial
        device: String,
    },
    /// Make it attest again before its next configuration
    Attest {
        /// Name, UUID or serial
        device: String,
    },
    /// What it should be
    Config {
        /// Name, UUID or serial
        device: String,
        /// In the words of `apply` instead of the device's
        #[arg(long)]
        spec: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    pub(super) access: Access,
    /// YAML file, `-` for standard input; `!file PATH` in it includes a file as text
    #[arg(short, long)]
    pub(super) file: PathBuf,
    /// Only check
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct AppArgs {
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: AppCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Put an application on a device
    Deploy(Box<DeployArgs>),
    /// Applications and their state
    List {
        /// Of one device only
        #[arg(long)]
        device: Option<String>,
    },
    /// Stop and start it
    Restart(AppRef),
    /// Start it with fresh volumes
    Purge(AppRef),
    /// Don't run it
    Stop(AppRef),
    /// Run it
    Start(AppRef),
    /// Remove it from its device
    Delete(AppRef),
}

#[derive(Debug, Args)]
pub(super) struct AppRef {
    /// Name or UUID
    pub(super) app: String,
    /// Its device
    #[arg(long)]
    pub(super) device: String,
}

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    /// VMManifest, JSON
    #[arg(short, long)]
    pub(super) file: PathBuf,
    /// The device
    #[arg(long)]
    pub(super) device: String,
    /// Another name for the application
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Where an image is, `[IMAGENAME=]URL`
    #[arg(long)]
    pub(super) image_url: Vec<String>,
    /// A local copy of an image, to take hash and size from, `[IMAGENAME=]FILE`
    #[arg(long)]
    pub(super) image_file: Vec<String>,
    /// Name of a datastore that the device knows
    #[arg(long, conflicts_with = "image_url")]
    pub(super) datastore: Option<String>,
    /// File of the image in that datastore, `[IMAGENAME=]FILE`
    #[arg(long, requires = "datastore")]
    pub(super) path: Vec<String>,
    /// SHA-256 of the image, hex, for a manifest with one image
    #[arg(long, conflicts_with = "image_file")]
    pub(super) sha256: Option<String>,
    /// Size of the image, for a manifest with one image
    #[arg(long, conflicts_with = "image_file")]
    pub(super) size: Option<Size>,
    /// Format, when the file's name doesn't show it
    #[arg(long)]
    pub(super) format: Option<String>,
    /// Certificate to trust for the image's address, PEM
    #[arg(long)]
    pub(super) ca: Vec<PathBuf>,
    /// Signature of an image (`openssl dgst -sha256 -sign KEY -out FILE.sig FILE`), `[IMAGENAME=]FILE.sig`
    #[arg(long, requires = "signer")]
    pub(super) signature: Vec<String>,
    /// Certificate of who signed, and those between it and the devices' root, PEM
    #[arg(long, requires = "signature")]
    pub(super) signer: Option<PathBuf>,
    /// Network instance, `[INTERFACE=]NAME`
    #[arg(long)]
    pub(super) network: Vec<String>,
    /// Port of a directly attached interface, `INTERFACE=PORT`
    #[arg(long)]
    pub(super) adapter: Vec<String>,
    /// Cloud-init user data
    #[arg(long)]
    pub(super) user_data: Option<PathBuf>,
    /// Enter it without starting it
    #[arg(long)]
    pub(super) stopped: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) access: Access,
    /// Of one device only
    #[arg(long)]
    pub(super) device: Option<String>,
    /// About one application only (name or UUID; a name needs --device)
    #[arg(long)]
    pub(super) app: Option<String>,
    /// Every report instead of the newest of each object
    #[arg(long)]
    pub(super) all: bool,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(super) limit: u32,
    /// Go on with what comes
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    pub(super) access: Access,
    /// Of one device only
    #[arg(long)]
    pub(super) device: Option<String>,
    /// Of one application only (name or UUID; a name needs --device)
    #[arg(long)]
    pub(super) app: Option<String>,
    /// Of one program only
    #[arg(long)]
    pub(super) source: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(super) limit: u32,
    /// Go on with what comes
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct DatastoreArgs {
    #[command(subcommand)]
    pub(super) command: DatastoreCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum DatastoreCommand {
    /// Serve the files of a folder
    Serve {
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// Where
        #[arg(long)]
        listen: SocketAddr,
        /// With the certificate of the controller
        #[arg(long)]
        tls: bool,
        /// Directory of the controller, for its certificate
        #[arg(long, env = "EVC_DIR", default_value = DEFAULT_DIR)]
        pki: PathBuf,
    },
    /// Copy an image into the folder and note its hash and size
    AddImage {
        /// The image
        file: PathBuf,
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// Another name for it
        #[arg(long)]
        name: Option<String>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}
