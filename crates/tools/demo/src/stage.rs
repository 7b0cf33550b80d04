//! The set-up: world, controller, datastore, device.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bus::Bus;
use lab::{
    Device, Netns, Process, World,
    layout::{CONTROLLER, DATASTORE},
};
use model::{node::OnboardingStatus, topics::ONBOARDING_STATUS};
use serde_json::Value;

use crate::http;

const POINTS: &str = "points";
const READY_LIMIT: Duration = Duration::from_secs(20);

/// What is to be set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory with the built binaries.
    pub binaries: PathBuf,
    /// Number of uplinks of the device.
    pub uplinks: usize,
    /// Seconds between the device's requests for its config.
    pub config_interval: u32,
    /// For campaigns: services' heartbeat in seconds. They then also take orders to fail, from [`Stage::points`].
    pub drill: Option<u32>,
    /// The device has a TPM, simulated; else it is installed to do without.
    pub tpm: bool,
}

impl Options {
    /// One uplink, a quick pace, and the binaries beside the running program.
    pub fn of_this_build() -> Result<Self> {
        let binaries =
            lab::device::built_binaries().context("the directory of the running program")?;
        Ok(Self {
            binaries,
            uplinks: 1,
            config_interval: 5,
            drill: None,
            tpm: false,
        })
    }
}

/// A running set-up. Dropped, nothing of it is left.
pub struct Stage {
    // Dropped before the world that it runs in.
    device: Device,
    controller: Process,
    datastore: Process,
    world: Arc<World>,
    binaries: PathBuf,
    evc_dir: PathBuf,
    images: PathBuf,
}

impl Stage {
    /// Builds the world, starts controller and datastore, prepares the device's CONFIG partition. The device is
    /// off until [`Stage::power_on`]; when it registers, it waits to be claimed.
    pub fn build(options: &Options) -> Result<Self> {
        for name in ["supervisor", "evc", "zedagent"] {
            let path = options.binaries.join(name);
            ensure!(path.exists(), "{} is not built", path.display());
        }
        let world = Arc::new(
            World::builder()
                .uplinks(options.uplinks)
                .build()
                .context("build the world")?,
        );
        let evc_dir = world.dir().join("evc");
        let images = world.dir().join("images");
        fs::create_dir_all(&images)?;
        let evc = options.binaries.join("evc");
        let init = Command::new(&evc)
            .args([
                "init",
                "--name",
                "evc.lab.internal",
                "--san",
                "datastore.lab.internal",
            ])
            .args([
                "--san",
                &CONTROLLER.to_string(),
                "--san",
                &DATASTORE.to_string(),
                "--dir",
            ])
            .arg(&evc_dir)
            .output()
            .context("evc init")?;
        ensure!(
            init.status.success(),
            "evc init: {}",
            String::from_utf8_lossy(&init.stderr)
        );
        let controller = start_controller(&world, &evc, &evc_dir)?;
        let datastore = world.spawn_outside(
            "datastore",
            Command::new(&evc)
                .args([
                    "datastore",
                    "serve",
                    "--tls",
                    "--listen",
                    &format!("{DATASTORE}:443"),
                    "--dir",
                ])
                .arg(&images)
                .arg("--pki")
                .arg(&evc_dir),
        )?;
        let points = world.dir().join(POINTS);
        fs::create_dir_all(&points)?;
        let mut arguments = Vec::new();
        if let Some(seconds) = options.drill {
            arguments.extend(["--heartbeat".to_owned(), seconds.to_string()]);
            arguments.extend(["--points".to_owned(), points.display().to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let install = if options.tpm {
            Device::install_with_tpm
        } else {
            Device::install_with
        };
        let device =
            install(&world, &options.binaries, &arguments).context("install the device")?;
        for entry in fs::read_dir(evc_dir.join("device-config"))? {
            let entry = entry?;
            device.configure(
                &entry.file_name().to_string_lossy(),
                fs::read(entry.path())?,
            )?;
        }
        device.configure("soft_serial", format!("{}\n", world.name()))?;
        if !options.tpm {
            device.configure("soft_key", "")?;
        }
        let binaries = options.binaries.clone();
        let stage = Self {
            device,
            controller,
            datastore,
            world,
            binaries,
            evc_dir,
            images,
        };
        stage.wait_for_admin()?;
        stage.admit_all()?;
        Ok(stage)
    }

    /// Whoever has the onboarding certificate may register, and waits to be claimed.
    fn admit_all(&self) -> Result<()> {
        self.evc(&[
            "onboarding",
            "add",
            "--serial",
            "*",
            "--name",
            "edge",
            "--hold",
        ])?;
        Ok(())
    }

    /// Switches the device on.
    pub fn power_on(&self) -> Result<()> {
        Ok(self.device.start()?)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The world around it.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The controller's process.
    pub fn controller(&self) -> &Process {
        &self.controller
    }

    /// The namespace in which controller and datastore are.
    pub fn outside(&self) -> Netns {
        self.world.outside()
    }

    /// Directory with a file per service that is to fail at a named point (crate `agent`, `points.rs`), in a drill.
    pub fn points(&self) -> PathBuf {
        self.world.dir().join(POINTS)
    }

    /// The datastore's process; its output has a line for every request.
    pub fn datastore(&self) -> &Process {
        &self.datastore
    }

    /// The device's bus, as an operator sees it.
    pub fn bus(&self) -> Result<Bus> {
        Ok(Bus::open(self.device.root(), "operator")?)
    }

    /// Runs the `evc` command beside the controller and gives its answer.
    pub fn evc(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binaries.join("evc"));
        command
            .args(arguments)
            .arg("--json")
            .env("EVC_DIR", &self.evc_dir);
        let text = self
            .outside()
            .exec(&mut command)
            .with_context(|| format!("evc {}", arguments.join(" ")))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        // Lists come as one document, streams as one per line.
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&text)
            .into_iter()
            .collect::<Result<_, _>>()
            .with_context(|| format!("evc {} answered {text:?}", arguments.join(" ")))?;
        Ok(match <[Value; 1]>::try_from(documents) {
            Ok([one]) => one,
            Err(several) => Value::Array(several),
        })
    }

    /// Puts an image into the datastore under `name`.
    pub fn add_image(&self, name: &str, file: &Path) -> Result<()> {
        let (images, file) = (
            self.images.display().to_string(),
            file.display().to_string(),
        );
        self.evc(&[
            "datastore",
            "add-image",
            "--dir",
            &images,
            "--name",
            name,
            &file,
        ])?;
        Ok(())
    }

    /// The controller's directory.
    pub fn evc_dir(&self) -> &Path {
        &self.evc_dir
    }

    /// The datastore's directory.
    pub fn images(&self) -> &Path {
        &self.images
    }

    /// Waits until the device has registered and claims it as `edge`, after `prepare` was applied to it.
    pub fn claim(
        &self,
        limit: Duration,
        prepare: impl FnOnce(&Self, &str) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let devices = self.evc(&["device", "list"])?;
            let first = devices
                .as_array()
                .and_then(|list| list.first())
                .and_then(|d| d.get("name"))
                .and_then(Value::as_str);
            if let Some(name) = first {
                prepare(self, name)?;
                self.evc(&["device", "claim", name])?;
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the device did not register in {limit:?}\n{}",
                self.why()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Deploys an application from a VMManifest; its image `file` is served by the datastore.
    pub fn deploy(
        &self,
        manifest: &Path,
        device: &str,
        file: &str,
        extra: &[&str],
    ) -> Result<Value> {
        let url = format!("https://datastore.lab.internal/{file}");
        let local = self.images.join(file).display().to_string();
        let manifest = manifest.display().to_string();
        let mut arguments = vec!["app", "deploy", "-f", &manifest, "--device", device];
        arguments.extend(["--image-url", &url, "--image-file", &local]);
        arguments.extend(extra);
        self.evc(&arguments)
    }

    /// Properties of the device's configuration.
    pub fn set_properties(&self, device: &str, properties: &[(&str, &str)]) -> Result<()> {
        use std::fmt::Write as _;
        let mut yaml = format!("device: {device}\nproperties:\n");
        for (name, value) in properties {
            writeln!(yaml, "  {name}: \"{value}\"")?;
        }
        self.apply(&yaml)
    }

    /// Applies a YAML description.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let file = self.world.dir().join("apply.yaml");
        fs::write(&file, yaml)?;
        self.evc(&["apply", "-f", &file.display().to_string()])?;
        Ok(())
    }

    /// Who the device is, once it knows.
    pub fn onboarding(&self) -> Result<Option<OnboardingStatus>> {
        Ok(self
            .bus()?
            .read(&ONBOARDING_STATUS)?
            .and_then(|rows| rows.get("global").cloned()))
    }

    /// Asks an address from outside, through the port maps of the device.
    pub fn get_from_outside(&self, address: SocketAddr, path: &str) -> Result<String> {
        self.outside()
            .run(|| http::get(address, path, Duration::from_secs(3)))?
    }

    /// Whether an address is closed, seen from outside.
    pub fn is_closed_from_outside(&self, address: SocketAddr) -> Result<bool> {
        Ok(self
            .outside()
            .run(|| http::is_closed(address, Duration::from_secs(2)))?)
    }

    /// The device's address on its first uplink, as seen from outside.
    pub fn device_address(&self) -> IpAddr {
        self.world
            .uplinks()
            .first()
            .map_or(IpAddr::from([0, 0, 0, 0]), |u| {
                u.plan.device_address().into()
            })
    }

    /// What `eve why` says, for the text of an error.
    pub fn why(&self) -> String {
        let mut command = Command::new(self.binaries.join("eve"));
        command.args(["why", "--root"]).arg(self.device.root());
        match command.output() {
            Ok(out) => {
                String::from_utf8_lossy(&out.stdout).into_owned()
                    + &String::from_utf8_lossy(&out.stderr)
            }
            Err(error) => format!("eve why: {error}"),
        }
    }

    /// Waits until `done` says so; its error text is what is missing.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let result = done();
            if matches!(result, Ok(true)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let last = result
                    .err()
                    .map(|e| format!(" ({e:#})"))
                    .unwrap_or_default();
                bail!("{what}: not within {limit:?}{last}\n{}", self.why());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the controller as a power cut would and starts it again.
    pub fn restart_controller(&mut self) -> Result<()> {
        self.controller.kill();
        self.controller = start_controller(&self.world, &self.binaries.join("evc"), &self.evc_dir)?;
        self.wait_for_admin()
    }

    /// Ends the controller and starts one with the same keys that knows no device.
    pub fn forget_everything(&mut self) -> Result<()> {
        self.controller.kill();
        for entry in fs::read_dir(&self.evc_dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The database and what belongs to it.
            if name.starts_with("evc.db") {
                fs::remove_file(&path)?;
            }
        }
        self.controller = start_controller(&self.world, &self.binaries.join("evc"), &self.evc_dir)?;
        self.wait_for_admin()?;
        self.admit_all()
    }

    fn wait_for_admin(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            match self.evc(&["device", "list"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline || self.controller.ended().is_some() => {
                    return Err(error.context(format!(
                        "the controller is not up: {}",
                        self.controller.output()
                    )));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn start_controller(world: &World, evc: &Path, dir: &Path) -> Result<Process> {
    let listen = format!("{CONTROLLER}:443");
    let mut command = Command::new(evc);
    command
        .args([
            "serve",
            "--listen",
            &listen,
            "--admin",
            "127.0.0.1:8444",
            "--dir",
        ])
        .arg(dir);
    Ok(world.spawn_outside("evc", &mut command)?)
}
