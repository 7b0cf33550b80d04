//! Datastores, content trees, volumes.

use api::config::{DsType, EdgeDevConfig, Format, SignatureInfo, VolumeContentOriginType};
use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use jiff::Timestamp;
use model::{
    content::{ContentTreeConfig, DatastoreConfig, DatastoreKind, ImageSignature},
    id::{ContentTreeId, DatastoreId, VolumeId},
    security::Octets,
    volume::{ImageFormat, VolumeConfig, VolumeOrigin},
};

use super::{Check, Problem, Translated, id_of, insert, secret, sound};

pub(super) fn datastores(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    for (position, from) in config.datastores.iter().enumerate() {
        let Some(id) = id_of::<DatastoreId>("datastore", position, &from.id, now, to) else {
            continue;
        };
        let mut check = Check::default();
        let kind = match DsType::try_from(from.d_type) {
            Ok(DsType::DsHttp) => DatastoreKind::Http,
            Ok(DsType::DsHttps) => DatastoreKind::Https,
            Ok(DsType::DsS3) => DatastoreKind::S3,
            Ok(DsType::DsSftp) => DatastoreKind::Sftp,
            Ok(DsType::DsContainerRegistry) => DatastoreKind::ContainerRegistry,
            Ok(DsType::DsAzureBlob) => DatastoreKind::AzureBlob,
            Ok(DsType::DsGoogleStorage) => DatastoreKind::GoogleStorage,
            Ok(DsType::DsUnknown) | Err(_) => {
                check.note(Problem::invalid(format!(
                    "type {} is not known",
                    from.d_type
                )));
                DatastoreKind::Https
            }
        };
        if from.fqdn.trim().is_empty() {
            check.note(Problem::invalid("fqdn is empty"));
        }
        let credentials = check.or_default(
            "cipherData",
            secret::block(
                from.cipher_data.as_ref(),
                secret::LOGIN,
                &to.cipher_contexts,
            ),
        );
        let is_plain = !from.api_key.is_empty() || !from.password.is_empty();
        if is_plain && from.cipher_data.is_none() {
            check.note(secret::plain());
        }
        let row = DatastoreConfig {
            id,
            kind,
            fqdn: from.fqdn.trim().to_owned(),
            dpath: from.dpath.trim().to_owned(),
            region: from.region.clone(),
            certificates_pem: from
                .ds_cert_pem
                .iter()
                .map(|pem| String::from_utf8_lossy(pem).into_owned())
                .collect(),
            credentials,
            fault: check.fault(format!("datastore {id}"), now),
        };
        insert(
            "datastore",
            &mut to.datastores,
            id.to_string(),
            row,
            &mut to.faults,
            now,
        );
    }
}

pub(super) fn content_trees(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    let known = sound(&to.datastores, |d| d.fault.is_some());
    for (position, from) in config.content_info.iter().enumerate() {
        let Some(id) = id_of::<ContentTreeId>("content tree", position, &from.uuid, now, to) else {
            continue;
        };
        let mut check = Check::default();
        // The list supersedes the single id, which older controllers send.
        let texts = if from.ds_ids_list.is_empty() {
            std::slice::from_ref(&from.ds_id)
        } else {
            &from.ds_ids_list
        };
        let datastores: Vec<DatastoreId> = check.or_default(
            "datastore",
            texts.iter().map(|t| t.parse()).collect::<Result<_, _>>(),
        );
        for datastore in &datastores {
            if !known.contains(&datastore.to_string()) {
                check.note(Problem::dangling(format!(
                    "datastore {datastore} is not (correctly) in the config"
                )));
            }
        }
        let format = match Format::try_from(from.iformat) {
            Ok(Format::Raw) => ImageFormat::Raw,
            Ok(Format::Qcow2 | Format::Qcow) => ImageFormat::Qcow2,
            Ok(Format::Iso) => ImageFormat::Iso,
            Ok(Format::Container) => ImageFormat::Container,
            Ok(other) => {
                check.note(Problem::invalid(format!(
                    "image format {} is not supported",
                    other.as_str_name()
                )));
                ImageFormat::Raw
            }
            Err(_) => {
                check.note(Problem::invalid(format!(
                    "image format {} is not known",
                    from.iformat
                )));
                ImageFormat::Raw
            }
        };
        if from.url.trim().is_empty() {
            check.note(Problem::invalid("URL is empty"));
        }
        let row = ContentTreeConfig {
            id,
            display_name: from.display_name.clone(),
            sha256: check.or_default("sha256", from.sha256.parse()),
            datastores,
            relative_url: from.url.trim().to_owned(),
            format,
            max_download_bytes: from.max_size_bytes,
            signature: check
                .or_default("siginfo", from.siginfo.as_ref().map_or(Ok(None), signature)),
            fault: check.fault(format!("content tree {id}"), now),
        };
        insert(
            "content tree",
            &mut to.content_trees,
            id.to_string(),
            row,
            &mut to.faults,
            now,
        );
    }
}

/// Longest text of certificates in bytes.
const LONGEST_PEM: usize = 64 << 10;
/// Longest signature in bytes: one of ECDSA has some 72.
const LONGEST_SIGNATURE: usize = 1 << 10;

/// Who vouches for an image. The certificates are those in the config: nothing is fetched before somebody vouches for it
/// (`docs/decisions/109-image-signatures.md`).
fn signature(from: &SignatureInfo) -> Result<Option<ImageSignature>, Problem> {
    let SignatureInfo {
        intercertsurl,
        signercerturl,
        signature,
    } = from;
    if signature.is_empty() && signercerturl.is_empty() && intercertsurl.is_empty() {
        return Ok(None);
    }
    if signature.is_empty() || signercerturl.is_empty() {
        let text = "it needs both the signature and the signer's certificate";
        return Err(Problem::invalid(text));
    }
    if signature.len() > LONGEST_SIGNATURE {
        let text = format!("a signature of {} bytes", signature.len());
        return Err(Problem::invalid(text));
    }
    Ok(Some(ImageSignature {
        signature: Octets(signature.clone()),
        signer_pem: pem_of("signercerturl", signercerturl)?,
        between_pem: if intercertsurl.is_empty() {
            String::new()
        } else {
            pem_of("intercertsurl", intercertsurl)?
        },
    }))
}

/// The text in a `data:` URL (RFC 2397) in base64.
fn pem_of(field: &str, url: &str) -> Result<String, Problem> {
    let wrong = |why: &str| Problem::invalid(format!("{field}: {why}"));
    let Some((head, data)) = url
        .strip_prefix("data:")
        .and_then(|url| url.split_once(','))
    else {
        return Err(wrong(
            "certificates are taken from the config itself, as a data: URL, and not fetched",
        ));
    };
    if !head.ends_with(";base64") {
        return Err(wrong("its data are not in base64"));
    }
    if data.len() > LONGEST_PEM {
        return Err(wrong(&format!("{} characters are too many", data.len())));
    }
    let bytes = STANDARD.decode(data).map_err(|_| wrong("no base64"))?;
    String::from_utf8(bytes).map_err(|_| wrong("no PEM text"))
}

pub(super) fn volumes(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    let known = sound(&to.content_trees, |c| c.fault.is_some());
    for (position, from) in config.volumes.iter().enumerate() {
        let Some(id) = id_of::<VolumeId>("volume", position, &from.uuid, now, to) else {
            continue;
        };
        let mut check = Check::default();
        let max_size_bytes = check.or_default("maxsizebytes", size(from.maxsizebytes));
        let origin = from
            .origin
            .as_ref()
            .map(|o| (VolumeContentOriginType::try_from(o.r#type), o));
        let origin = match origin {
            Some((Ok(VolumeContentOriginType::VcotBlank), _)) => {
                if max_size_bytes == 0 {
                    check.note(Problem::invalid("a blank volume needs maxsizebytes"));
                }
                VolumeOrigin::Blank
            }
            Some((Ok(VolumeContentOriginType::VcotDownload), origin)) => {
                let tree: ContentTreeId =
                    check.or_default("content tree", origin.download_content_tree_id.parse());
                if !known.contains(&tree.to_string()) {
                    check.note(Problem::dangling(format!(
                        "content tree {tree} is not (correctly) in the config"
                    )));
                }
                VolumeOrigin::Content(tree)
            }
            Some((Ok(VolumeContentOriginType::VcotUnknown) | Err(_), _)) | None => {
                check.note(Problem::invalid(
                    "its origin is neither blank nor a content tree",
                ));
                VolumeOrigin::Blank
            }
        };
        let row = VolumeConfig {
            id,
            generation: check.or_default("generationCount", size(from.generation_count)),
            display_name: from.display_name.clone(),
            origin,
            max_size_bytes,
            read_only: from.readonly,
            clear_text: from.clear_text,
            fault: check.fault(format!("volume {id}"), now),
        };
        insert(
            "volume",
            &mut to.volumes,
            row.key().to_string(),
            row,
            &mut to.faults,
            now,
        );
    }
}

fn size(value: i64) -> Result<u64, Problem> {
    u64::try_from(value).map_err(|_| Problem::invalid(format!("{value} is negative")))
}
