//! Datastores, content trees and volumes.

use std::collections::BTreeMap;
use std::ops::Not as _;

use api::config::{
    ContentTree, DatastoreConfig, DsType, Format as WireFormat, SignatureInfo,
    Target as WireTarget, Volume, VolumeContentOrigin, VolumeContentOriginType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::build::{Check, object_id};
use super::spec::{DatastoreKind, DeviceSpec, Format, Image, Target};
use crate::store::apps::AppOrders;

/// Text in base64, empty for empty.
pub(super) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

pub(super) fn datastores(spec: &DeviceSpec, check: &mut Check<'_>) -> Vec<DatastoreConfig> {
    let mut out = Vec::new();
    for (i, store) in spec.datastores.iter().enumerate() {
        let url = store.url.trim_end_matches('/');
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let kind = store.kind.or(match scheme {
            Some("http") => Some(DatastoreKind::Http),
            Some("https") => Some(DatastoreKind::Https),
            Some("sftp") => Some(DatastoreKind::Sftp),
            Some("docker" | "oci") => Some(DatastoreKind::Oci),
            Some("s3") => Some(DatastoreKind::S3),
            _ => None,
        });
        let path = format!("datastores[{i}]");
        let Some(kind) = kind else {
            check.problem(
                format!("{path}.url"),
                format!(
                    "{:?} does not begin with https:// or the like; give `kind`",
                    store.url
                ),
            );
            continue;
        };
        for (j, pem) in store.certificates.iter().enumerate() {
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                check.problem(
                    format!("{path}.certificates[{j}]"),
                    "is not a PEM certificate",
                );
            }
        }
        let d_type = match kind {
            DatastoreKind::Http => DsType::DsHttp,
            DatastoreKind::Https => DsType::DsHttps,
            DatastoreKind::S3 => DsType::DsS3,
            DatastoreKind::Sftp => DsType::DsSftp,
            DatastoreKind::Oci => DsType::DsContainerRegistry,
            DatastoreKind::Azure => DsType::DsAzureBlob,
            DatastoreKind::Gcs => DsType::DsGoogleStorage,
        };
        out.push(DatastoreConfig {
            d_type: d_type.into(),
            fqdn: url.to_owned(),
            api_key: store.user.clone(),
            password: store.password.clone(),
            dpath: store.path.trim_matches('/').to_owned(),
            region: store.region.clone(),
            ds_cert_pem: store
                .certificates
                .iter()
                .map(|c| c.clone().into_bytes())
                .collect(),
            id: object_id(check.device, "datastore", &store.name).to_string(),
            ..DatastoreConfig::default()
        });
    }
    out
}

/// The format that a file's name shows.
pub(super) fn format_of(file: &str) -> Option<Format> {
    let end = file
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase())?;
    Some(match end.as_str() {
        "raw" | "img" | "bin" => Format::Raw,
        "qcow" => Format::Qcow,
        "qcow2" => Format::Qcow2,
        "vhd" => Format::Vhd,
        "vhdx" => Format::Vhdx,
        "vmdk" => Format::Vmdk,
        "ova" => Format::Ova,
        "iso" => Format::Iso,
        _ => return None,
    })
}

pub(super) fn content_trees(spec: &DeviceSpec, check: &mut Check<'_>) -> Vec<ContentTree> {
    let mut out = Vec::new();
    for (i, image) in spec.images.iter().enumerate() {
        let path = format!("images[{i}]");
        out.extend(content_tree(spec, image, &path, check));
    }
    out
}

fn content_tree(
    spec: &DeviceSpec,
    image: &Image,
    path: &str,
    check: &mut Check<'_>,
) -> Option<ContentTree> {
    let ds_id = check.reference("datastore", &image.datastore, &format!("{path}.datastore"));
    let registry = spec
        .datastores
        .iter()
        .any(|d| d.name == image.datastore && d.kind == Some(DatastoreKind::Oci));
    let format = image
        .format
        .or_else(|| format_of(&image.file))
        .or_else(|| registry.then_some(Format::Container));
    let Some(format) = format else {
        check.problem(
            format!("{path}.format"),
            format!("can't be taken from the end of {:?}; give it", image.file),
        );
        return None;
    };
    let sha = image.sha256.to_ascii_lowercase();
    let hash_ok = sha.len() == 64 && sha.bytes().all(|b| b.is_ascii_hexdigit());
    if sha.is_empty() && format != Format::Container {
        check.problem(
            format!("{path}.sha256"),
            "is needed: a device verifies what it downloads",
        );
    } else if !sha.is_empty() && !hash_ok {
        check.problem(
            format!("{path}.sha256"),
            format!("{sha:?} is not 64 hex digits"),
        );
    }
    if image.size.0 == 0 && format != Format::Container {
        check.problem(
            format!("{path}.size"),
            "is needed: a device reserves the room for it",
        );
    }
    let iformat = match format {
        Format::Raw => WireFormat::Raw,
        Format::Qcow => WireFormat::Qcow,
        Format::Qcow2 => WireFormat::Qcow2,
        Format::Vhd => WireFormat::Vhd,
        Format::Vmdk => WireFormat::Vmdk,
        Format::Ova => WireFormat::Ova,
        Format::Vhdx => WireFormat::Vhdx,
        Format::Container => WireFormat::Container,
        Format::Iso => WireFormat::Iso,
    };
    let siginfo = siginfo(image, path, check);
    Some(ContentTree {
        siginfo,
        uuid: object_id(check.device, "image", &image.name).to_string(),
        ds_id: ds_id.clone(),
        ds_ids_list: vec![ds_id],
        url: image.file.trim_start_matches('/').to_owned(),
        iformat: iformat.into(),
        sha256: sha,
        max_size_bytes: image.size.0,
        display_name: image.name.clone(),
        ..ContentTree::default()
    })
}

/// Who vouches for an image. The certificates go with the config, so that devices fetch nothing before somebody does.
fn siginfo(image: &Image, path: &str, check: &mut Check<'_>) -> Option<SignatureInfo> {
    let Image {
        signature, signer, ..
    } = image;
    if signature.is_empty() && signer.is_empty() {
        return None;
    }
    if signature.is_empty() || signer.is_empty() {
        let missing = if signer.is_empty() {
            "signer"
        } else {
            "signature"
        };
        let text = "is needed: a signature counts only with its signer's certificate";
        check.problem(format!("{path}.{missing}"), text);
        return None;
    }
    let Ok(bytes) = STANDARD.decode(signature.trim()) else {
        check.problem(format!("{path}.signature"), "is not base64");
        return None;
    };
    // Without what people write around them.
    let pems: Vec<&str> = signer
        .split_inclusive("-----END CERTIFICATE-----")
        .filter_map(|part| Some(&part[part.find("-----BEGIN CERTIFICATE-----")?..]))
        .collect();
    if let Some(bad) = pems.iter().position(|pem| {
        x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .is_ok_and(|(_, pem)| pem.parse_x509().is_ok())
            .not()
    }) {
        let text = format!("certificate {} can't be read", bad + 1);
        check.problem(format!("{path}.signer"), text);
        return None;
    }
    let Some((leaf, between)) = pems.split_first() else {
        check.problem(format!("{path}.signer"), "is not a PEM certificate");
        return None;
    };
    let url = |text: &str| {
        format!(
            "data:application/x-pem-file;base64,{}",
            STANDARD.encode(text)
        )
    };
    Some(SignatureInfo {
        signature: bytes,
        signercerturl: url(leaf),
        intercertsurl: if between.is_empty() {
            String::new()
        } else {
            url(&between.join("\n"))
        },
    })
}

/// The generation of each volume: a purge of the application that uses it makes a new one.
pub(super) fn generations(
    spec: &DeviceSpec,
    orders: &BTreeMap<String, AppOrders>,
) -> BTreeMap<String, i64> {
    let mut generations = BTreeMap::new();
    for app in &spec.apps {
        let purges = orders.get(&app.name).map_or(0, |o| i64::from(o.purges));
        for volume in &app.volumes {
            *generations.entry(volume.volume().to_owned()).or_insert(0) += purges;
        }
    }
    generations
}

pub(super) fn volumes(
    spec: &DeviceSpec,
    generations: &BTreeMap<String, i64>,
    check: &mut Check<'_>,
) -> Vec<Volume> {
    let mut out = Vec::new();
    for (i, volume) in spec.volumes.iter().enumerate() {
        let path = format!("volumes[{i}]");
        let origin = if volume.image.is_empty() {
            if volume.size.0 == 0 {
                check.problem(format!("{path}.size"), "is needed by a blank volume");
            }
            VolumeContentOrigin {
                r#type: VolumeContentOriginType::VcotBlank.into(),
                ..VolumeContentOrigin::default()
            }
        } else {
            VolumeContentOrigin {
                r#type: VolumeContentOriginType::VcotDownload.into(),
                download_content_tree_id: check.reference(
                    "image",
                    &volume.image,
                    &format!("{path}.image"),
                ),
            }
        };
        let target = match volume.target {
            Target::Disk => WireTarget::Disk,
            Target::Kernel => WireTarget::Kernel,
            Target::Initrd => WireTarget::Initrd,
            Target::RamDisk => WireTarget::RamDisk,
        };
        let Ok(maxsizebytes) = i64::try_from(volume.size.0) else {
            check.problem(format!("{path}.size"), "is too large");
            continue;
        };
        out.push(Volume {
            uuid: object_id(check.device, "volume", &volume.name).to_string(),
            origin: Some(origin),
            generation_count: generations.get(&volume.name).copied().unwrap_or(0),
            maxsizebytes,
            readonly: volume.readonly,
            display_name: volume.name.clone(),
            clear_text: volume.clear_text,
            target: target.into(),
            ..Volume::default()
        });
    }
    out
}
