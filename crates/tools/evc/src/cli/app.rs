//! Applications.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::args::{AppArgs, AppCommand, AppRef, DeployArgs};
use super::datastore::digest;
use super::device::{ordered_text, read, said};
use super::output::{json, line, or_dash, short_time, table};
use crate::admin::{AppOrder, AppView, Client, Deploy};
use crate::config::deploy::{ImageSource, Options};
use crate::config::size::Size;
use crate::config::spec::Format;

pub(super) async fn app(args: AppArgs) -> anyhow::Result<()> {
    let (client, as_json) = (args.access.client()?, args.access.json);
    match args.command {
        AppCommand::Deploy(args) => deploy(&client, as_json, &args).await,
        AppCommand::List { device } => list(&client, as_json, device).await,
        AppCommand::Restart(app) => order(&client, as_json, &app, AppOrder::Restart).await,
        AppCommand::Purge(app) => order(&client, as_json, &app, AppOrder::Purge).await,
        AppCommand::Stop(app) => order(&client, as_json, &app, AppOrder::Stop).await,
        AppCommand::Start(app) => order(&client, as_json, &app, AppOrder::Start).await,
        AppCommand::Delete(app) => {
            client.delete_app(&app.device, &app.app).await?;
            said(
                as_json,
                &format!("{} is removed from {}", app.app, app.device),
            )
        }
    }
}

async fn order(
    client: &Client,
    as_json: bool,
    app: &AppRef,
    order: AppOrder,
) -> anyhow::Result<()> {
    let ordered = client.app_order(&app.device, &app.app, order).await?;
    if as_json {
        json(&ordered)
    } else {
        line(&ordered_text(&app.app, ordered))
    }
}

async fn list(client: &Client, as_json: bool, device: Option<String>) -> anyhow::Result<()> {
    let devices = match device {
        Some(device) => vec![device],
        None => client
            .devices()
            .await?
            .into_iter()
            .map(|d| d.uuid.to_string())
            .collect(),
    };
    let mut apps = Vec::new();
    for device in devices {
        apps.extend(client.apps(&device).await?);
    }
    if as_json {
        return json(&apps);
    }
    let rows: Vec<_> = apps.iter().map(row).collect();
    line(&table(
        &[
            "APP",
            "DEVICE",
            "WANTED",
            "STATE",
            "CPUS",
            "MEMORY",
            "ADDRESSES",
            "REPORTED",
            "ERROR",
        ],
        &rows,
    ))
}

fn row(app: &AppView) -> Vec<String> {
    vec![
        app.name.clone(),
        app.device.clone(),
        if app.activate { "run" } else { "stop" }.to_owned(),
        or_dash(app.state.as_deref()),
        app.cpus.to_string(),
        Size(app.memory).to_string(),
        or_dash(Some(&app.addresses.join(","))),
        short_time(app.reported.as_deref()),
        or_dash(app.errors.first().map(String::as_str)),
    ]
}

async fn deploy(client: &Client, as_json: bool, args: &DeployArgs) -> anyhow::Result<()> {
    let manifest = serde_json::from_str(&read(&args.file)?)
        .with_context(|| format!("{}: not JSON", args.file.display()))?;
    let options = options(args)?;
    let deployed = client
        .deploy(&args.device, &Deploy { manifest, options })
        .await
        .with_context(|| args.file.display().to_string())?;
    for note in &deployed.notes {
        eprintln!("evc: note: {note}");
    }
    if as_json {
        return json(&deployed);
    }
    line(&format!(
        "{} ({}): version {} of the configuration of {}",
        deployed.app, deployed.uuid, deployed.version, args.device
    ))
}

fn options(args: &DeployArgs) -> anyhow::Result<Options> {
    let user_data = args
        .user_data
        .as_deref()
        .map(read)
        .transpose()?
        .unwrap_or_default();
    Ok(Options {
        name: args.name.clone(),
        images: images(args)?,
        networks: pairs(&args.network),
        adapters: pairs(&args.adapter),
        user_data,
        stopped: args.stopped,
    })
}

/// `KEY=VALUE`, or `VALUE` for the key `""`.
fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    texts.iter().map(|text| pair(text)).collect()
}

fn pair(text: &str) -> (String, String) {
    // A URL or path may hold `=` further on.
    match text.split_once('=') {
        Some((key, value)) if !key.contains(['/', ':', '?']) => (key.to_owned(), value.to_owned()),
        _ => (String::new(), text.to_owned()),
    }
}

fn images(args: &DeployArgs) -> anyhow::Result<BTreeMap<String, ImageSource>> {
    let urls = pairs(&args.image_url);
    let (paths, local) = (pairs(&args.path), pairs(&args.image_file));
    let signatures = pairs(&args.signature);
    let mut keys: Vec<&String> = urls
        .keys()
        .chain(paths.keys())
        .chain(local.keys())
        .chain(signatures.keys())
        .collect();
    let unnamed = String::new();
    if keys.is_empty() {
        keys.push(&unnamed);
    }
    keys.sort();
    keys.dedup();
    let certificates = args
        .ca
        .iter()
        .map(|p| read(p))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let signer = args.signer.as_deref().map(read).transpose()?;
    let format = args.format.as_deref().map(format).transpose()?;
    let mut images = BTreeMap::new();
    for key in keys {
        let url = urls.get(key).cloned().unwrap_or_default();
        let datastore = args.datastore.clone().unwrap_or_default();
        if url.is_empty() && datastore.is_empty() {
            bail!("where does the image come from? give --image-url or --datastore");
        }
        let (sha256, size) = match local.get(key) {
            Some(file) => digest(Path::new(file))?,
            None => (
                args.sha256.clone().unwrap_or_default(),
                args.size.map_or(0, |s| s.0),
            ),
        };
        let (signature, signer) = match (signatures.get(key), &signer) {
            (Some(file), Some(signer)) => {
                let bytes = fs::read(file).with_context(|| file.clone())?;
                (STANDARD.encode(bytes), signer.clone())
            }
            (None, _) | (_, None) => <(String, String)>::default(),
        };
        images.insert(
            key.clone(),
            ImageSource {
                url,
                datastore,
                file: paths.get(key).cloned().unwrap_or_default(),
                format,
                sha256,
                size: Size(size),
                certificates: certificates.clone(),
                signature,
                signer,
            },
        );
    }
    Ok(images)
}

fn format(word: &str) -> anyhow::Result<Format> {
    serde_json::from_value(serde_json::Value::String(word.to_lowercase()))
        .with_context(|| format!("--format {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_values_with_an_equals_sign() {
        let split = |text| pair(text);
        assert_eq!(
            split("disk=https://h/f"),
            ("disk".to_owned(), "https://h/f".to_owned())
        );
        assert_eq!(
            split("https://h/f?a=b"),
            (String::new(), "https://h/f?a=b".to_owned())
        );
        assert_eq!(split("nat"), (String::new(), "nat".to_owned()));
    }
}
