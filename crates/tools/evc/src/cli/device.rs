//! Onboarding, devices and their configuration.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

use super::args::{ApplyArgs, DeviceArgs, DeviceCommand, OnboardingArgs, OnboardingCommand};
use super::inline;
use super::output::{json, line, or_dash, short_time, table};
use crate::admin::{
    Apply, Claim, ClaimWithCode, Client, DeviceOrder, DeviceView, NewAdmission, NewDevice, Ordered,
    Sign,
};

pub(super) async fn onboarding(args: OnboardingArgs) -> anyhow::Result<()> {
    let client = args.access.client()?;
    match args.command {
        OnboardingCommand::Add {
            serial,
            cert,
            name,
            hold,
            code,
            ek,
        } => {
            let cert = cert.as_deref().map(read).transpose()?;
            let new = NewAdmission {
                cert,
                serial,
                name,
                hold,
                code,
                ek,
            };
            let admitted = client.admit(&new).await?;
            match admitted.code {
                None => said(
                    args.access.json,
                    &format!("serial {} is admitted", new.serial),
                ),
                Some(_) if args.access.json => json(&admitted),
                Some(code) => line(&format!(
                    "serial {} is admitted; whoever claims its device needs this code, which is not shown again: {code}",
                    new.serial
                )),
            }
        }
        OnboardingCommand::Remove { serial, cert } => {
            let cert = cert.as_deref().map(read).transpose()?;
            let old = NewAdmission {
                cert,
                serial,
                ..NewAdmission::default()
            };
            client.dismiss(&old).await?;
            said(
                args.access.json,
                &format!("serial {} is not admitted any more", old.serial),
            )
        }
        OnboardingCommand::List => {
            let rows = client.admissions().await?;
            if args.access.json {
                return json(&rows);
            }
            let rows: Vec<_> = rows
                .into_iter()
                .map(|a| {
                    vec![
                        a.serial,
                        or_dash(a.name.as_deref()),
                        if a.hold { "hold" } else { "admit" }.to_owned(),
                        a.devices.to_string(),
                        a.cert.chars().take(16).collect(),
                    ]
                })
                .collect();
            line(&table(
                &["SERIAL", "NAME", "THEN", "DEVICES", "CERTIFICATE"],
                &rows,
            ))
        }
    }
}

pub(super) async fn device(args: DeviceArgs) -> anyhow::Result<()> {
    let (client, as_json) = (args.access.client()?, args.access.json);
    match args.command {
        DeviceCommand::List => {
            let devices = client.devices().await?;
            if as_json {
                json(&devices)
            } else {
                line(&list(&devices))
            }
        }
        DeviceCommand::Show { device } => shown(as_json, &client.device(&device).await?),
        DeviceCommand::Add {
            cert,
            name,
            serial,
            hold,
        } => {
            let new = NewDevice {
                cert: read(&cert)?,
                name,
                serial,
                hold,
            };
            shown(as_json, &client.add_device(&new).await?)
        }
        DeviceCommand::Sign { csr, serial, name } => {
            let csr = read(&csr)?;
            let signed = client.sign(&Sign { csr, serial, name }).await?;
            if as_json {
                json(&signed)
            } else {
                line(signed.certificate.trim_end())
            }
        }
        DeviceCommand::Claim { device, name, code } => {
            let Some(code) = code else {
                return shown(as_json, &client.claim(&device, &Claim { name }).await?);
            };
            let serial = device;
            let claim = ClaimWithCode { serial, code, name };
            let claimed = client.claim_with_code(&claim).await?;
            match &claimed.device {
                Some(device) => shown(as_json, device),
                None if as_json => json(&claimed),
                None => line("claimed; the device will come in when it registers"),
            }
        }
        DeviceCommand::Delete { device } => {
            client.delete_device(&device).await?;
            said(as_json, &format!("{device} is forgotten"))
        }
        DeviceCommand::Reboot { device } => {
            order(&client, as_json, &device, DeviceOrder::Reboot).await
        }
        DeviceCommand::Shutdown { device } => {
            order(&client, as_json, &device, DeviceOrder::Shutdown).await
        }
        DeviceCommand::Attest { device } => {
            order(&client, as_json, &device, DeviceOrder::Attest).await
        }
        DeviceCommand::Config { device, spec } => {
            let config = client.config(&device).await?;
            match (as_json, spec) {
                (true, false) => json(&config),
                (true, true) => json(&config.spec),
                (false, true) => line(serde_yaml_ng::to_string(&config.spec)?.trim_end()),
                (false, false) => {
                    line(&format!("version {}  hash {}", config.version, config.hash))?;
                    json(&config.config)
                }
            }
        }
    }
}

async fn order(
    client: &Client,
    as_json: bool,
    device: &str,
    order: DeviceOrder,
) -> anyhow::Result<()> {
    let ordered = client.order(device, order).await?;
    if as_json {
        json(&ordered)
    } else {
        line(&ordered_text(device, ordered))
    }
}

/// One line about an order.
pub(super) fn ordered_text(whom: &str, ordered: Ordered) -> String {
    match ordered.counter {
        Some(counter) => {
            format!(
                "{whom}: order {counter}, in version {} of the configuration",
                ordered.version
            )
        }
        None => format!("{whom}: version {} of the configuration", ordered.version),
    }
}

pub(super) async fn apply(args: ApplyArgs) -> anyhow::Result<()> {
    let client = args.access.client()?;
    let text = read(&args.file)?;
    let base = args.file.parent().unwrap_or(Path::new("."));
    let yaml = inline::include(&text, base).with_context(|| args.file.display().to_string())?;
    let applied = client
        .apply(&Apply {
            yaml,
            dry_run: args.dry_run,
        })
        .await
        .with_context(|| args.file.display().to_string())?;
    if args.access.json {
        return json(&applied);
    }
    for one in applied {
        let what = if one.changed { "changed" } else { "unchanged" };
        let how = if args.dry_run { " (only checked)" } else { "" };
        line(&format!(
            "{}: {what}, version {}{how}",
            one.device, one.version
        ))?;
    }
    Ok(())
}

/// The text of a file or of standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// One sentence, or that it worked.
pub(super) fn said(as_json: bool, text: &str) -> anyhow::Result<()> {
    if as_json {
        json(&serde_json::json!({ "ok": true }))
    } else {
        line(text)
    }
}

fn state(device: &DeviceView) -> &'static str {
    if !device.claimed {
        "unclaimed"
    } else if device.seen.is_none() {
        "registered"
    } else if device.sent_version == device.version {
        "current"
    } else {
        "behind"
    }
}

fn list(devices: &[DeviceView]) -> String {
    let rows: Vec<_> = devices
        .iter()
        .map(|d| {
            vec![
                d.name.clone(),
                d.uuid.to_string(),
                or_dash(Some(&d.serial)),
                state(d).to_owned(),
                format!("{}/{}", d.sent_version, d.version),
                d.apps.len().to_string(),
                short_time(d.seen.as_deref()),
            ]
        })
        .collect();
    table(
        &["NAME", "UUID", "SERIAL", "STATE", "CONFIG", "APPS", "SEEN"],
        &rows,
    )
}

fn shown(as_json: bool, device: &DeviceView) -> anyhow::Result<()> {
    if as_json {
        return json(device);
    }
    let rows = [
        ("name", device.name.clone()),
        ("uuid", device.uuid.to_string()),
        ("serial", or_dash(Some(&device.serial))),
        ("soft serial", or_dash(Some(&device.soft_serial))),
        ("certificate", device.cert.clone()),
        ("state", state(device).to_owned()),
        (
            "seen",
            format!("{} {}", short_time(device.seen.as_deref()), device.api),
        ),
        (
            "config",
            format!("version {}, sent {}", device.version, device.sent_version),
        ),
        ("attested", short_time(device.attested.as_deref())),
        ("attestation", or_dash(Some(&device.attestation))),
        ("secrets", or_dash(Some(&device.secrets))),
        ("apps", or_dash(Some(&device.apps.join(", ")))),
        ("reboots", device.orders.reboots.to_string()),
        ("shutdowns", device.orders.shutdowns.to_string()),
    ];
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:12} {value}").trim_end().to_owned())
        .collect();
    line(&lines.join("\n"))
}
