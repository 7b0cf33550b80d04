//! Putting an application that a manifest describes onto a device: what the manifest leaves open
//! (where images come from, which networks) is filled in here, and the result is ordinary spec.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::build_storage::format_of;
use super::manifest::{Disk, Needs, Nic};
use super::size::Size;
use super::spec::{
    App, Datastore, DeviceSpec, Format, Image, Interface, NetworkInstance, NetworkInstanceKind,
    Volume, VolumeUse,
};
use super::{Problem, Problems};

/// Name of the network instance that is made when a device has none.
pub const DEFAULT_NETWORK: &str = "default";
/// Its subnet.
const DEFAULT_SUBNET: &str = "10.11.12.0/24";

/// Where an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSource {
    /// Complete address; or give `datastore` and `file`.
    pub url: String,
    /// Name of a datastore that the device knows.
    pub datastore: String,
    /// File in it; the image's name when it is not given.
    pub file: String,
    /// Format; taken from the end of the file's name when it is not given.
    pub format: Option<Format>,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// Size of the file.
    pub size: Size,
    /// Certificates to trust for `url`, PEM.
    pub certificates: Vec<String>,
    /// Signature of the file, base64.
    pub signature: String,
    /// Certificate of the signer and those between it and the devices' root, PEM.
    pub signer: String,
}

/// What the manifest leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Another name for the application.
    pub name: Option<String>,
    /// Where each image is, by `imagename`; the entry `""` is for those not named.
    pub images: BTreeMap<String, ImageSource>,
    /// Network instance of each interface; the entry `""` is for those not named.
    pub networks: BTreeMap<String, String>,
    /// Port of each directly attached interface, when it is not the interface's name.
    pub adapters: BTreeMap<String, String>,
    /// Cloud-init user data.
    pub user_data: String,
    /// Enter it without starting it.
    pub stopped: bool,
}

/// Adds the application to the spec, or replaces the one of the same name. Returns its name.
pub fn deploy(spec: &mut DeviceSpec, needs: &Needs, options: &Options) -> Result<String, Problems> {
    let name = options.name.clone().unwrap_or_else(|| needs.name.clone());
    let mut next = spec.clone();
    remove(&mut next, &name);
    let mut problems = Vec::new();
    let mut volumes = Vec::new();
    for (i, disk) in needs.disks.iter().enumerate() {
        match add_volume(&mut next, &name, i, disk, options) {
            Ok(volume) => volumes.push(VolumeUse::Name(volume)),
            Err(problem) => problems.push(problem),
        }
    }
    let (mut interfaces, mut adapters) = (Vec::new(), Vec::new());
    for (i, nic) in needs.interfaces.iter().enumerate() {
        if nic.direct {
            adapters.push(options.adapters.get(&nic.name).unwrap_or(&nic.name).clone());
        } else {
            match network_for(&mut next, nic, i, options) {
                Ok(network) => interfaces.push(Interface {
                    name: nic.name.clone(),
                    network,
                    address: String::new(),
                    mac: String::new(),
                    acls: nic.acls.clone(),
                }),
                Err(problem) => problems.push(problem),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    next.apps.push(App {
        name: name.clone(),
        activate: !options.stopped,
        cpus: needs.cpus,
        memory: Size(needs.memory),
        mode: needs.mode,
        boot: super::spec::BootMode::Auto,
        vnc: needs.vnc,
        kernel_args: String::new(),
        volumes,
        interfaces,
        adapters,
        user_data: options.user_data.clone(),
        start_delay: 0,
        version: String::new(),
        disable_logs: false,
    });
    *spec = next;
    Ok(name)
}

/// Removes an application with the volumes and images that only it uses. Says whether it was there.
pub fn remove(spec: &mut DeviceSpec, name: &str) -> bool {
    let Some(at) = spec.apps.iter().position(|a| a.name == name) else {
        return false;
    };
    let app = spec.apps.remove(at);
    let own = |object: &str| {
        object
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('-'))
    };
    for used in &app.volumes {
        let volume = used.volume();
        let elsewhere = spec
            .apps
            .iter()
            .any(|a| a.volumes.iter().any(|v| v.volume() == volume));
        if elsewhere || !own(volume) {
            continue;
        }
        let image = spec
            .volumes
            .iter()
            .find(|v| v.name == volume)
            .map(|v| v.image.clone());
        spec.volumes.retain(|v| v.name != volume);
        if let Some(image) = image
            && own(&image)
            && !spec.volumes.iter().any(|v| v.image == image)
        {
            spec.images.retain(|i| i.name != image);
        }
    }
    true
}

fn add_volume(
    spec: &mut DeviceSpec,
    app: &str,
    i: usize,
    disk: &Disk,
    options: &Options,
) -> Result<String, Problem> {
    let name = format!("{app}-{i}");
    let image = match &disk.image {
        Some(image) => add_image(spec, app, i, image, disk, options)?,
        None => String::new(),
    };
    spec.volumes.retain(|v| v.name != name);
    spec.volumes.push(Volume {
        name: name.clone(),
        image,
        size: Size(disk.max_bytes),
        readonly: disk.readonly,
        target: disk.target,
        clear_text: false,
    });
    Ok(name)
}

fn add_image(
    spec: &mut DeviceSpec,
    app: &str,
    i: usize,
    image: &str,
    disk: &Disk,
    options: &Options,
) -> Result<String, Problem> {
    let path = format!("images[{i}]");
    let source = options
        .images
        .get(image)
        .or_else(|| options.images.get(""))
        .ok_or_else(|| {
            Problem::new(
                format!("{path}.imagename"),
                format!("nothing says where {image:?} comes from"),
            )
        })?;
    let (datastore, file) = place(spec, image, source, &path)?;
    if disk.max_bytes > 0 && disk.max_bytes < source.size.0 {
        return Err(Problem::new(
            format!("{path}.maxsize"),
            format!(
                "{} KB is less than the image itself ({} KB); maxsize is in KB",
                disk.max_bytes / 1024,
                source.size.0.div_ceil(1024)
            ),
        ));
    }
    let format = source.format.or_else(|| disk.cdrom.then_some(Format::Iso));
    if format.is_none() && format_of(&file).is_none() {
        return Err(Problem::new(
            format!("{path}.imagename"),
            format!("the format can't be taken from the end of {file:?}; give it"),
        ));
    }
    let entry = Image {
        name: format!("{app}-{image}"),
        datastore,
        file,
        format,
        sha256: source.sha256.clone(),
        size: source.size,
        signature: source.signature.clone(),
        signer: source.signer.clone(),
    };
    let name = entry.name.clone();
    spec.images.retain(|other| other.name != name);
    spec.images.push(entry);
    Ok(name)
}

/// The datastore (made if it isn't there) and the file of an image.
fn place(
    spec: &mut DeviceSpec,
    image: &str,
    source: &ImageSource,
    path: &str,
) -> Result<(String, String), Problem> {
    if source.url.is_empty() {
        let file = if source.file.is_empty() {
            image
        } else {
            &source.file
        };
        return Ok((source.datastore.clone(), file.to_owned()));
    }
    let (scheme, rest) = source.url.split_once("://").ok_or_else(|| {
        Problem::new(
            path,
            format!(
                "{:?} is not an address such as https://host/file",
                source.url
            ),
        )
    })?;
    let (host, file) = rest
        .split_once('/')
        .filter(|(h, f)| !h.is_empty() && !f.is_empty())
        .ok_or_else(|| Problem::new(path, format!("{:?} names no file on a host", source.url)))?;
    let url = format!("{scheme}://{host}");
    if let Some(known) = spec
        .datastores
        .iter_mut()
        .find(|d| d.url == url && d.path.is_empty())
    {
        for pem in &source.certificates {
            if !known.certificates.contains(pem) {
                known.certificates.push(pem.clone());
            }
        }
        return Ok((known.name.clone(), file.to_owned()));
    }
    spec.datastores.push(Datastore {
        name: url.clone(),
        url: url.clone(),
        kind: None,
        path: String::new(),
        user: String::new(),
        password: String::new(),
        region: String::new(),
        certificates: source.certificates.clone(),
    });
    Ok((url, file.to_owned()))
}

fn network_for(
    spec: &mut DeviceSpec,
    nic: &Nic,
    i: usize,
    options: &Options,
) -> Result<String, Problem> {
    if let Some(name) = options
        .networks
        .get(&nic.name)
        .or_else(|| options.networks.get(""))
    {
        return Ok(name.clone());
    }
    let locals: Vec<&NetworkInstance> = spec
        .network_instances
        .iter()
        .filter(|n| n.kind == NetworkInstanceKind::Local)
        .collect();
    match locals.as_slice() {
        [only] => Ok(only.name.clone()),
        [] => {
            spec.network_instances.push(NetworkInstance {
                name: DEFAULT_NETWORK.to_owned(),
                kind: NetworkInstanceKind::Local,
                port: "uplink".to_owned(),
                subnet: DEFAULT_SUBNET.to_owned(),
                gateway: String::new(),
                range: None,
                domain: String::new(),
                dns: Vec::new(),
                hosts: BTreeMap::new(),
                mtu: 0,
                flow_log: false,
            });
            Ok(DEFAULT_NETWORK.to_owned())
        }
        several => {
            if let Some(default) = several.iter().find(|n| n.name == DEFAULT_NETWORK) {
                return Ok(default.name.clone());
            }
            let names: Vec<_> = several.iter().map(|n| n.name.as_str()).collect();
            Err(Problem::new(
                format!("interfaces[{i}]"),
                format!(
                    "which network is {:?} in: {}?",
                    nic.name,
                    names.join(" or ")
                ),
            ))
        }
    }
}
