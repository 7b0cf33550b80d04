//! Dependencies point one way: tools -> services -> {agent, domain libraries} -> model -> bus -> durable.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Higher may depend on lower; equal only among domain libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Base,
    Bus,
    Model,
    Library,
    Agent,
    Service,
    Tool,
    Scenario,
}

fn layer(package: &Package) -> Layer {
    let path = &package.manifest_path;
    match package.name.as_str() {
        // Files and nothing else: what the bus, too, is made of.
        "durable" => Layer::Base,
        "bus" => Layer::Bus,
        "model" => Layer::Model,
        "agent" => Layer::Agent,
        _ if path.contains("/crates/libs/") => Layer::Library,
        _ if path.contains("/crates/services/") => Layer::Service,
        _ if path.contains("/crates/tools/") => Layer::Tool,
        _ => Layer::Scenario,
    }
}

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    ensure!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&out.stdout)?;
    let layers: BTreeMap<&str, Layer> = metadata
        .packages
        .iter()
        .map(|p| (p.name.as_str(), layer(p)))
        .collect();
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let own = layer(package);
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
            let Some(&theirs) = layers.get(dependency.name.as_str()) else {
                continue;
            };
            let for_tests = dependency.kind.as_deref() == Some("dev");
            let allowed = match (own, theirs) {
                (Layer::Library, Layer::Library) | (Layer::Tool, Layer::Tool) => true,
                // What a library's tests need does not reach its users.
                (Layer::Library, Layer::Agent) => for_tests,
                (own, theirs) => theirs < own,
            };
            if !allowed {
                breaches.push(format!(
                    "{} ({own:?}) depends on {} ({theirs:?})",
                    package.name, dependency.name
                ));
            }
        }
    }
    Ok(breaches)
}
