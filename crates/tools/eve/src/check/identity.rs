//! Clock, keys and certificates.

use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    node::AttestPhase,
    security::{ControllerCertKind, ENDS_SOON, KeyKeeper, TpmSanityStatus},
};

use super::{
    Fact, Judge, Verdict,
    facts::{Identity, Validity},
    fail, ok, skipped, warn,
};
use crate::{why::attest_phase, words};

/// No device was built before: 2025-01-01.
const OLDEST: i64 = 1_735_689_600;
/// Objects written this far ahead of the clock show that it went back.
const SLACK: SignedDuration = SignedDuration::from_mins(2);

/// Whether a certificate is valid now, and how long still.
fn validity(valid: Validity, now: Timestamp, what: &str, remedy: &str) -> Verdict {
    let Validity {
        not_before,
        not_after,
    } = valid;
    if now < not_before {
        let text = format!("{what} is valid from {} only", words::time(not_before));
        return fail(
            text,
            "Set the clock right; if it is, the certificate was made for later.",
        );
    }
    let left = not_after.duration_since(now);
    if left.is_negative() {
        let text = format!(
            "{what} has expired {} ago, at {}",
            words::ago(not_after, now),
            words::time(not_after)
        );
        return fail(text, remedy);
    }
    let days = left.as_hours() / 24;
    let left_text = if days > 10 {
        format!("{days} d")
    } else {
        words::duration(left)
    };
    let text = format!("until {}, {left_text} left", words::time(not_after));
    if left < ENDS_SOON {
        warn(format!("{what} is valid {text}"), remedy)
    } else {
        ok(text)
    }
}

/// The first of several certificates to end.
fn earliest(all: &[Validity]) -> Option<Validity> {
    all.iter().copied().min_by_key(|valid| valid.not_after)
}

impl Judge<'_> {
    pub(super) fn identity(&mut self) {
        self.clock();
        self.partition();
        self.roots();
        self.own();
        self.controllers();
        self.tpm();
        self.attestation();
    }

    fn clock(&mut self) {
        let now = self.device.at;
        let written: Vec<Timestamp> = self.device.newest().into_iter().collect();
        let verdict = if now.as_second() < OLDEST {
            fail(
                format!("it says {}, before any device was built", words::time(now)),
                "Set it, or let a port reach an NTP server; until then certificates do not hold.",
            )
        } else if let Some(later) = written.iter().find(|at| at.duration_since(now) > SLACK) {
            let ahead = words::duration(later.duration_since(now));
            warn(
                format!(
                    "it says {}; objects were written {ahead} later than that",
                    words::time(now)
                ),
                "It was set back. Check it; retries that were planned come later than they should.",
            )
        } else {
            ok(words::time(now))
        };
        self.add("clock.sane", verdict);
        let servers: Vec<String> = self
            .device
            .ports()
            .into_iter()
            .flat_map(|network| &network.ports)
            .flat_map(|port| port.ntp_servers.clone())
            .collect();
        let named = if servers.is_empty() {
            "no port names an NTP server".to_owned()
        } else {
            format!("the ports name {}", servers.join(", "))
        };
        let reason = format!("no service of this version keeps the clock; {named}");
        self.add("clock.ntp", skipped(reason));
    }

    fn partition(&mut self) {
        let verdict = match &self.facts.config.server {
            Fact::Known(server) => ok(server.clone()),
            Fact::Failed(why) => fail(
                why.clone(),
                "Write host or host:port of the controller into /config/server.",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("config.server", verdict);
        let verdict = match &self.facts.config.partition {
            Fact::Known(()) => ok("server, root certificate and keys can be used"),
            Fact::Failed(why) => fail(why.clone(), "Repair the CONFIG partition."),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("config.partition", verdict);
    }

    fn roots(&mut self) {
        let now = self.device.at;
        let remedy = "Put the controller's present root into /config/root-certificate.pem.";
        let verdict = match &self.facts.config.root {
            Fact::Known(all) => match earliest(all) {
                Some(first) => validity(first, now, "the root certificate", remedy),
                None => fail("the file holds no certificate", remedy),
            },
            Fact::Failed(why) => fail(why.clone(), remedy),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("cert.root", verdict);
        let remedy = "Renew /config/v2tlsbaseroot-certificates.pem, or remove it.";
        let verdict = match &self.facts.config.tls_roots {
            Fact::Known(all) => match earliest(all) {
                Some(first) => validity(first, now, "a root for TLS", remedy),
                None => warn("the file holds no certificate", remedy),
            },
            Fact::Failed(why) => warn(why.clone(), remedy),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("cert.tls-roots", verdict);
    }

    fn own(&mut self) {
        let onboarded = self
            .device
            .onboarding
            .get("global")
            .is_some_and(|row| row.device.is_some());
        let verdict = match &self.facts.config.onboarding {
            Fact::Known(identity) => {
                let remedy = "Install with a fresh onboarding certificate.";
                match self.holder(identity, "the onboarding certificate", remedy) {
                    // It did its work.
                    Verdict::Fail(text, remedy) if onboarded => warn(
                        format!("{text}; the device is onboarded and needs it no more"),
                        remedy,
                    ),
                    other => other,
                }
            }
            Fact::Failed(why) if onboarded => warn(
                format!("{why}; the device is onboarded and needs it no more"),
                "Install with an onboarding certificate and its key before it onboards anew.",
            ),
            Fact::Failed(why) => fail(
                why.clone(),
                "Install with an onboarding certificate and its key, or claim the device certificate at the controller.",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("cert.onboarding", verdict);
        let remedy = "Install the device anew to get a new identity; the controller must claim it.";
        let verdict = match &self.facts.config.device {
            Fact::Known(identity) => self.holder(identity, "the device certificate", remedy),
            Fact::Failed(why) => fail(
                why.clone(),
                "tpmmgr makes it: see its log (`eve logs tpmmgr`), and `eve check tpm`.",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("cert.device", verdict);
        let keys = &self.facts.config.keys;
        let open: Vec<String> = keys
            .iter()
            .filter(|key| {
                key.mode & 0o027 != 0 || (key.mode & 0o040 != 0 && key.gid != units::ids::KEYS_GID)
            })
            .map(|key| {
                format!(
                    "{} has mode {:04o} and group {}",
                    key.name,
                    key.mode & 0o7777,
                    key.gid
                )
            })
            .collect();
        let verdict = if keys.is_empty() {
            skipped("there is no private key in CONFIG")
        } else if open.is_empty() {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            ok(format!(
                "{}: group {} only",
                names.join(", "),
                units::ids::KEYS_GID
            ))
        } else {
            fail(
                open.join("; "),
                "Set mode 0640 and the keys' group; if others had access, get a new identity.",
            )
        };
        self.add("key.private", verdict);
    }

    fn holder(&self, identity: &Identity, what: &str, remedy: &str) -> Verdict {
        let valid = validity(identity.validity, self.device.at, what, remedy);
        match (&identity.key, valid) {
            (Fact::Failed(why), Verdict::Ok(_) | Verdict::Warn(..)) => fail(why.clone(), remedy),
            (Fact::Skipped(why), Verdict::Ok(text)) => {
                ok(format!("{text}; key not compared: {why}"))
            }
            (Fact::Known(()) | Fact::Skipped(_) | Fact::Failed(_), valid) => valid,
        }
    }

    fn controllers(&mut self) {
        let d = self.device;
        let of = |kind: ControllerCertKind| {
            let rows = d.controller_certs.rows.values();
            rows.filter(|cert| cert.kind == kind)
                .map(|cert| cert.not_after)
                .min()
        };
        let kinds = [
            (
                "cert.signing",
                ControllerCertKind::Signing,
                "the signing certificate",
            ),
            (
                "cert.ecdh",
                ControllerCertKind::EcdhExchange,
                "the key exchange certificate",
            ),
        ];
        for (id, kind, what) in kinds {
            let verdict = match of(kind) {
                Some(not_after) => {
                    let valid = Validity {
                        not_before: Timestamp::MIN,
                        not_after,
                    };
                    validity(
                        valid,
                        d.at,
                        what,
                        "Rotate it at the controller; the device fetches the new one by itself.",
                    )
                }
                None if d.controller_certs.rows.is_empty() => {
                    skipped("the controller's certificates were not fetched yet")
                }
                None => fail(
                    format!("the controller has not delivered {what}"),
                    "Correct the certificates at the controller.",
                ),
            };
            self.add(id, verdict);
        }
        let verdict = match &self.facts.config.chain {
            Fact::Known(()) => ok("signing and key exchange certificates lead to the root"),
            Fact::Failed(why) => fail(
                why.clone(),
                "Correct the certificates at the controller, or the root in CONFIG; check the clock.",
            ),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("cert.chain", verdict);
    }

    fn attestation(&mut self) {
        let onboarding = self.device.onboarding.get("global");
        let status = self.device.zedagent.get("zedagent");
        let verdict = match status {
            _ if onboarding.is_some_and(|row| row.api_v1) => {
                skipped("the controller speaks version 1, which has no attestation")
            }
            None => skipped("zedagent says nothing of it"),
            Some(status) => {
                let fault = status.fault.as_ref();
                let refused =
                    fault.filter(|f| matches!(f.code, Code::AttestRefused | Code::AttestQuote));
                match refused {
                    Some(fault) => {
                        let mut told = vec![fault.text.clone()];
                        told.extend(fault.causes.iter().cloned());
                        fail(told.join("; "), fault.code.remedy())
                    }
                    None if status.attest == AttestPhase::Complete => self.trusted(),
                    None => skipped(format!("it {}", attest_phase(&status.attest))),
                }
            }
        };
        self.add("attestation", verdict);
    }

    /// The controller let the device in: by what.
    fn trusted(&self) -> Verdict {
        let keeper = self.device.tpm.get("global").map(|status| status.keeper);
        match keeper {
            Some(KeyKeeper::Tpm) => ok("the controller accepted the TPM's quote"),
            Some(KeyKeeper::Software) => warn(
                "the controller lets the device in without a proof: it has no TPM",
                "Nothing tells it what software the device runs. Use hardware with a TPM where that matters.",
            ),
            Some(KeyKeeper::Unknown) | None => ok("the controller let the device in"),
        }
    }

    fn tpm(&mut self) {
        let software = self
            .facts
            .config
            .keys
            .iter()
            .any(|key| key.name == "device.key.pem");
        let in_file =
            "the device key is a FILE: whoever copies /config/device.key.pem is this device";
        if let Some(status) = self.device.tpm.get("global") {
            let verdict = keeper(status, in_file);
            self.add("tpm.key", verdict);
            return;
        }
        let verdict = match (&self.facts.tpm, software) {
            (Fact::Known(tpm), false) => ok(tpm.clone()),
            (Fact::Known(tpm), true) => warn(
                format!("{in_file}; there is a TPM ({tpm}) that this version does not use"),
                "Guard the disk as you would guard the key.",
            ),
            (Fact::Failed(why), true) => warn(
                format!("{in_file}; {why}"),
                "Guard the disk as you would guard the key, or use hardware with a TPM.",
            ),
            (Fact::Failed(why), false) => warn(
                format!("{why}, and there is no device key yet: it will be a file"),
                "Use hardware with a TPM.",
            ),
            (Fact::Skipped(why), _) => skipped(why.clone()),
        };
        self.add("tpm.key", verdict);
    }
}

/// What tpmmgr says of the keys.
fn keeper(status: &TpmSanityStatus, in_file: &str) -> Verdict {
    const GUARD: &str = "Guard the disk as you would guard the key, or use hardware with a TPM.";
    if let Some(fault) = &status.fault {
        return fail(fault.text.clone(), fault.code.remedy());
    }
    match status.keeper {
        KeyKeeper::Tpm => ok(format!("{} {}", status.vendor, status.firmware)),
        KeyKeeper::Software if status.unused_tpm => warn(
            format!("{in_file}; there is a TPM that is not used: the device was installed without"),
            "Guard the disk as you would guard the key, or install the device anew with its TPM.",
        ),
        KeyKeeper::Software => warn(in_file.to_owned(), GUARD),
        KeyKeeper::Unknown => skipped("tpmmgr does not know yet"),
    }
}
