//! Commands that work on the controller's own files.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{InitArgs, PkiArgs, PkiCommand, ServeArgs};
use super::output::{json_line, line, table};
use crate::pki::{self, InitOptions};
use crate::serve::{self, Options};

pub(super) fn init(args: &InitArgs) -> anyhow::Result<()> {
    let options = InitOptions {
        name: args.name.clone(),
        sans: args.san.clone(),
    };
    let made = pki::init(&args.dir, &options)?;
    crate::admin::files::token(&args.dir)?;
    line(&format!(
        "controller   {}\nTLS names    {}\nfor devices  {} (copy to their CONFIG partition)\n\
         next         evc serve --dir {}",
        args.dir.display(),
        made.sans.join(", "),
        made.device.display(),
        args.dir.display()
    ))
}

pub(super) fn pki(args: &PkiArgs) -> anyhow::Result<()> {
    match &args.command {
        PkiCommand::Show => show(args),
        PkiCommand::Renew { san } => {
            let names = pki::renew(&args.dir, san)?;
            line(&format!(
                "renewed for {}; a running controller uses them within seconds",
                names.join(", ")
            ))
        }
        PkiCommand::ImageSigner { csr, name } => {
            let csr = fs::read_to_string(csr).with_context(|| csr.display().to_string())?;
            line(pki::sign_image_signer(&args.dir, &csr, name)?.trim_end())
        }
        PkiCommand::Rotate { overlap } => {
            let from = pki::rotate(&args.dir, Duration::from_secs(*overlap))?;
            let from = jiff::Timestamp::from_second(from).unwrap_or_default();
            line(&format!(
                "devices are told of new signing and exchange certificates; they are used from {from} on"
            ))
        }
    }
}

fn show(args: &PkiArgs) -> anyhow::Result<()> {
    let folder = args.dir.join(pki::FOLDER);
    let names = [
        "root-certificate.pem",
        "intermediate.cert.pem",
        "server.cert.pem",
        "signing.cert.pem",
        "signing.former.cert.pem",
        "ecdh.cert.pem",
        "ecdh.former.cert.pem",
    ];
    let mut rows = Vec::new();
    for name in names {
        let path = folder.join(name);
        // Of a controller that never rotated.
        if name.contains(".former.") && !path.exists() {
            continue;
        }
        let pem = fs::read(&path).with_context(|| path.display().to_string())?;
        let (_, block) =
            x509_parser::pem::parse_x509_pem(&pem).with_context(|| path.display().to_string())?;
        let cert = block
            .parse_x509()
            .with_context(|| path.display().to_string())?;
        rows.push(vec![
            name.to_owned(),
            cert.subject().to_string(),
            cert.validity().not_after.to_string(),
        ]);
    }
    line(&table(&["FILE", "SUBJECT", "VALID UNTIL"], &rows))
}

pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let (stopper, stop) = watch::channel(false);
    let options = Options {
        dir: args.dir,
        listen: args.listen,
        admin: args.admin,
        apis: args.api,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let running = serve::start(&options, stop).await?;
    let (devices, admin) = (running.listen.to_string(), running.admin.to_string());
    if args.json {
        json_line(&serde_json::json!({ "devices": devices, "admin": admin }))?;
    } else {
        line(&format!(
            "devices  https://{devices}\nadmin    http://{admin}"
        ))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping");
    stopper.send_replace(true);
    running.finished().await;
    Ok(())
}
