//! What the stories have in common: a device with one application that answers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bus::Rows;
use demo::{Options, Stage, View};
use lab::guest::{Image, Kind};
use model::{
    app::{AppInstanceStatus, AppPhase},
    service::{ServicePhase, ServiceStatus},
};

/// Emulated guests on a busy machine take their time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Port of the device that the demo's manifest maps to the guest.
pub(crate) const MAPPED: u16 = 8080;

pub(crate) fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/tools/demo/manifest.json")
}

/// With user data, the guest gets a seed and says on its page who it is.
pub(crate) fn user_data() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/tools/demo/user-data")
        .display()
        .to_string()
}

pub(crate) fn image(kind: Kind) -> Image {
    lab::guest::image(kind, &lab::guest::default_cache()).expect("the guest image")
}

/// A device that is on, claimed, and asks for its config every 5 s.
pub(crate) fn onboarded(uplinks: usize) -> Stage {
    onboarded_with(&Options {
        uplinks,
        ..Options::of_this_build().unwrap()
    })
}

/// The same, with more to choose.
pub(crate) fn onboarded_with(options: &Options) -> Stage {
    begin(Stage::build(options).unwrap())
}

/// The same with a `/persist` that is mounted from an image of a file system. It is unmounted first in the end.
pub(crate) fn onboarded_on(uplinks: usize, image: &Path) -> (Stage, scenarios::disk::Mounted) {
    let options = Options {
        uplinks,
        ..Options::of_this_build().unwrap()
    };
    onboarded_on_with(&options, image)
}

/// The same, with more to choose.
pub(crate) fn onboarded_on_with(
    options: &Options,
    image: &Path,
) -> (Stage, scenarios::disk::Mounted) {
    let stage = Stage::build(options).unwrap();
    let place = stage.device().root().join("persist");
    let mounted = scenarios::disk::mount_image(image, &place, "").unwrap();
    (begin(stage), mounted)
}

fn begin(stage: Stage) -> Stage {
    stage
        .add_image("tiny.qcow2", &image(Kind::Tiny).path)
        .unwrap();
    stage.power_on().unwrap();
    stage
        .claim(Duration::from_secs(40), |stage, name| {
            stage.set_properties(
                name,
                &[("timer.config.interval", "5"), ("timer.boot.retry", "10")],
            )
        })
        .unwrap();
    stage
        .wait("the device has its config", PATIENCE, || {
            Ok(View::read(&stage.bus()?)?.has_config())
        })
        .unwrap();
    stage
}

/// The same with the demo's application, which answers.
pub(crate) fn with_app() -> Stage {
    let stage = onboarded(1);
    deploy_app(&stage);
    stage
}

/// Deploys the demo's application and waits for its answer.
pub(crate) fn deploy_app(stage: &Stage) {
    stage
        .deploy(
            &manifest(),
            "edge",
            "tiny.qcow2",
            &["--user-data", &user_data()],
        )
        .unwrap();
    answers(stage).unwrap();
}

pub(crate) fn guest(stage: &Stage) -> SocketAddr {
    SocketAddr::new(stage.device_address(), MAPPED)
}

pub(crate) fn page(stage: &Stage) -> Result<String> {
    stage.get_from_outside(guest(stage), "/")
}

pub(crate) fn answers(stage: &Stage) -> Result<()> {
    stage.wait("the application answers", PATIENCE, || {
        page(stage).map(|_| true)
    })
}

/// A value of the guest's page, such as `boot-id`.
pub(crate) fn field(page: &str, name: &str) -> Result<String> {
    let line = page
        .lines()
        .find_map(|l| l.strip_prefix(&format!("{name}: ")));
    line.map(str::to_owned)
        .with_context(|| format!("no {name} in {page}"))
}

pub(crate) fn view(stage: &Stage) -> View {
    View::read(&stage.bus().unwrap()).unwrap()
}

pub(crate) fn app(stage: &Stage) -> Result<AppInstanceStatus> {
    let apps: Rows<AppInstanceStatus> = view(stage).apps;
    ensure!(apps.len() == 1, "{} applications", apps.len());
    apps.into_values().next().context("no application")
}

pub(crate) fn is_running(stage: &Stage) -> Result<bool> {
    Ok(matches!(app(stage)?.phase, AppPhase::Running { .. }))
}

pub(crate) fn pid(services: &Rows<ServiceStatus>, name: &str) -> Option<u32> {
    match services.get(name)?.phase {
        ServicePhase::Running { pid, .. } => Some(pid),
        ServicePhase::Waiting { .. }
        | ServicePhase::Starting { .. }
        | ServicePhase::Backoff { .. }
        | ServicePhase::Stopping { .. }
        | ServicePhase::Stopped => None,
    }
}

/// What of the kernel's is ours in the device's namespace.
pub(crate) fn kernel_objects(stage: &Stage) -> String {
    let device = stage.world().device();
    let run = |program: &str, arguments: &[&str]| {
        device
            .exec(std::process::Command::new(program).args(arguments))
            .unwrap_or_else(|e| e.to_string())
    };
    let links = run("ip", &["-brief", "link"]);
    let links: Vec<&str> = links
        .lines()
        .filter(|l| l.starts_with("bn") || l.starts_with("nbu"))
        .collect();
    format!("{}\n{}", links.join("\n"), run("nft", &["list", "tables"]))
}
