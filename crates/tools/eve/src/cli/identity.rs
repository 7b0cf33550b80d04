//! `eve identity`: a certificate for the device's key by an authority that its controller trusts, in place of the one that it
//! made itself.

use std::{fs, time::Duration};

use tpm::{
    Blocking, CertificateKind, Key, Signature, TpmError,
    identity::{CertKey, certified_point, request_for, store_certificate},
};

use super::{
    Verdict,
    args::{Global, IdentityCommand},
    snapshot,
};
use crate::{Device, Error};

/// Signatures of a TPM take their time, and it may be preparing its keys.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) fn identity(global: &Global, command: &IdentityCommand) -> Result<Verdict, Error> {
    match command {
        IdentityCommand::Request => request(global),
        IdentityCommand::Install { file, force } => install(global, file, *force),
    }
}

/// The device's key, wherever it is kept.
struct DeviceKey {
    keeper: Blocking,
    point: Vec<u8>,
}

impl DeviceKey {
    fn of(global: &Global) -> Result<Self, Error> {
        let keeper = Blocking::connect(&global.root, LONGEST)?;
        let description = keeper.describe()?;
        let Some(certificate) = description.certificate(CertificateKind::Device) else {
            let hint = description.trouble.map(|trouble| format!(": {trouble}"));
            return Err(Error::NotFound {
                kind: "key of".to_owned(),
                name: "the device".to_owned(),
                hint: hint.unwrap_or_default(),
            });
        };
        let point = certified_point(&certificate.pem).map_err(|error| Error::Certificate {
            path: global.root.join("config/device.cert.pem"),
            reason: error.to_string(),
        })?;
        Ok(Self { keeper, point })
    }
}

impl CertKey for DeviceKey {
    fn public_point(&self) -> &[u8] {
        &self.point
    }

    fn sign_digest(&self, digest: [u8; 32]) -> Result<Signature, TpmError> {
        self.keeper.sign(Key::Device, digest)
    }
}

fn request(global: &Global) -> Result<Verdict, Error> {
    let key = DeviceKey::of(global)?;
    let pem = request_for(&key).map_err(|error| {
        Error::Keeper(TpmError::Failed {
            reason: error.to_string(),
        })
    })?;
    crate::output::print(&pem)?;
    Ok(Verdict::Good)
}

fn install(global: &Global, file: &std::path::Path, force: bool) -> Result<Verdict, Error> {
    let pem = fs::read(file).map_err(|source| Error::Io {
        action: "read",
        path: file.to_owned(),
        source,
    })?;
    let wrong = |reason: String| Error::Certificate {
        path: file.to_owned(),
        reason,
    };
    let point = certified_point(&pem).map_err(|error| wrong(error.to_string()))?;
    let known = Device::of(&snapshot(global)?);
    let mut statuses = known.onboarding.rows.values();
    let onboarded = statuses.find_map(|status| status.device);
    if let Some(device) = onboarded.filter(|_| !force) {
        return Err(Error::Refused {
            reason: format!(
                "the controller knows device {device} by the certificate that it has (--force exchanges it all the same)"
            ),
        });
    }
    if point != DeviceKey::of(global)?.point {
        return Err(wrong(
            "it certifies another key than this device's".to_owned(),
        ));
    }
    let config = global.root.join("config");
    store_certificate(&config, &pem).map_err(|error| Error::Io {
        action: "write",
        path: config,
        source: std::io::Error::other(error),
    })?;
    crate::output::print(
        "installed: tpmmgr takes it at once, and the controller is told with the next try (`eve why onboarding`)\n",
    )?;
    Ok(Verdict::Good)
}
