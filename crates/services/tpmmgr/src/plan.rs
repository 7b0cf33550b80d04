//! When the keys are prepared and looked at, and what is said about them.

use std::time::Duration;

use agent::{Action, Backoff, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    fault::Fault,
    security::{EdgeNodeCert, EdgeNodeCertKind, KeyKeeper, TpmSanityStatus},
    topics::{EDGE_NODE_CERT, TPM_SANITY_STATUS},
};
use sha2::{Digest as _, Sha256};
use tpm::{Certificate, CertificateKind, Keeper, Trouble, TroubleKind};

use crate::{
    installed::{Choice, Installed, choose},
    trouble,
};

/// A healthy TPM is looked at so often,
const LOOK: Duration = Duration::from_secs(3600);
/// one that is in trouble so often,
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// and one that is not there yet so often.
const LOOK_OUT: Duration = Duration::from_secs(5);

/// The service.
pub struct Tpmmgr;

/// What is wanted: nothing but what was said before.
pub struct Desired {
    /// Our own status.
    pub status: Option<TpmSanityStatus>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// What tells who keeps the keys; none while there is no CONFIG partition.
    pub installed: Option<Installed>,
    /// The time is good enough for a certificate.
    pub clock_is_set: bool,
    /// The keys, once they were prepared.
    pub prepared: Option<Prepared>,
    /// The device's certificate in the CONFIG partition is not the prepared one: it was lost or exchanged.
    pub exchanged: bool,
    /// What is wrong, as the last use or look showed.
    pub trouble: Option<Trouble>,
    /// Uptime of the last look.
    pub looked: Duration,
    /// How many looks there were.
    pub looks: u64,
}

/// Keys that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Who keeps them.
    pub keeper: Keeper,
    /// Their certificates.
    pub certificates: Vec<Certificate>,
    /// The TPM's vendor.
    pub vendor: String,
    /// The TPM's firmware.
    pub firmware: String,
}

impl Prepared {
    /// The certificate of this kind.
    pub fn certificate(&self, kind: CertificateKind) -> Option<&Certificate> {
        self.certificates.iter().find(|one| one.kind == kind)
    }
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Find the keys and their certificates, or make them.
    Prepare(Keeper),
    /// Ask the TPM how it is.
    Look {
        /// Each is another one.
        number: u64,
    },
}

impl Action for Step {
    fn subject(&self) -> String {
        "keys".to_owned()
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            first: Duration::from_millis(500),
            max: LOOK_AGAIN,
            permanent: Some(LOOK_AGAIN),
        }
    }
}

/// Every row that tpmmgr publishes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Known once the keys are prepared; until then those of the last boot stay.
    pub certs: Option<Rows<EdgeNodeCert>>,
    /// How it is.
    pub status: TpmSanityStatus,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        out.put(&EDGE_NODE_CERT, self.certs);
        let rows = Rows::from([("global".to_owned(), self.status)]);
        out.put(&TPM_SANITY_STATUS, Some(rows));
    }
}

impl Service for Tpmmgr {
    const NAME: &'static str = "tpmmgr";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Step;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let status = tables.own(&TPM_SANITY_STATUS).get("global").cloned();
        Some(Desired { status })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let actual = turn.actual;
        let choice = actual.installed.map(choose);
        let trouble = trouble_now(actual, choice, turn.now);
        let mut plan = Plan::report(Report {
            certs: actual.prepared.as_ref().map(certs),
            status: status(turn, choice, trouble.as_ref()),
        });
        steps(turn, choice, &mut plan);
        plan
    }
}

fn steps(turn: &Turn<'_, Tpmmgr>, choice: Option<Choice>, plan: &mut Plan<Tpmmgr>) {
    let actual = turn.actual;
    let keeper = match choice {
        Some(Choice::Tpm) => Keeper::Tpm,
        Some(Choice::Software) => Keeper::Software,
        Some(Choice::Missing(_)) | None => {
            plan.wake_in(LOOK_OUT);
            return;
        }
    };
    if actual.prepared.is_none() {
        if actual.clock_is_set {
            plan.actions.push(Step::Prepare(keeper));
        } else {
            plan.wake_in(LOOK_OUT);
        }
        return;
    }
    if actual.exchanged {
        plan.actions.push(Step::Prepare(keeper));
    }
    if keeper == Keeper::Software {
        return;
    }
    // What a look shows to last is looked at again in a while; what only a use showed, at once.
    let period = match &actual.trouble {
        None => LOOK,
        Some(trouble) if trouble::still_signs(trouble.kind) => LOOK_AGAIN,
        Some(_) => Duration::ZERO,
    };
    match (actual.looked + period).checked_sub(turn.uptime) {
        None | Some(Duration::ZERO) => plan.actions.push(Step::Look {
            number: actual.looks,
        }),
        Some(pause) => plan.wake_in(pause),
    }
}

/// What is wrong now.
pub(crate) fn trouble_now(
    actual: &Actual,
    choice: Option<Choice>,
    now: Timestamp,
) -> Option<Trouble> {
    let trouble = |kind, text: &str| Trouble {
        kind,
        text: text.to_owned(),
        since: now,
    };
    match choice {
        None => Some(trouble(
            TroubleKind::Starting,
            "there is no CONFIG partition yet",
        )),
        Some(Choice::Missing(missing)) => Some(trouble(TroubleKind::Missing, missing.text())),
        Some(Choice::Tpm | Choice::Software) => match (&actual.trouble, &actual.prepared) {
            (Some(known), _) => Some(known.clone()),
            (None, Some(_)) => None,
            (None, None) if !actual.clock_is_set => Some(trouble(
                TroubleKind::Starting,
                "the clock is not set, and certificates need a time",
            )),
            (None, None) => Some(trouble(
                TroubleKind::Starting,
                "the keys are being prepared",
            )),
        },
    }
}

fn status(
    turn: &Turn<'_, Tpmmgr>,
    choice: Option<Choice>,
    trouble: Option<&Trouble>,
) -> TpmSanityStatus {
    let actual = turn.actual;
    let keeper = match choice {
        None => KeyKeeper::Unknown,
        Some(Choice::Software) => KeyKeeper::Software,
        Some(Choice::Tpm | Choice::Missing(_)) => KeyKeeper::Tpm,
    };
    let old = turn.desired.status.as_ref().and_then(|s| s.fault.as_ref());
    // To be preparing them is no fault; that it fails is, and the runtime knows how often.
    let fault = trouble
        .filter(|trouble| trouble.kind != TroubleKind::Starting)
        .map(|trouble| {
            let code = trouble::code(trouble.kind);
            Fault::new(code, "TPM", trouble.text.clone(), trouble.since)
                .transient(true)
                .continuing(old)
        });
    let failed = turn.jobs.fault("keys").cloned();
    let (vendor, firmware) = actual
        .prepared
        .as_ref()
        .map(|keys| (keys.vendor.clone(), keys.firmware.clone()))
        .unwrap_or_default();
    TpmSanityStatus {
        keeper,
        unused_tpm: keeper == KeyKeeper::Software && actual.installed.is_some_and(|i| i.has_tpm),
        vendor,
        firmware,
        maintenance: trouble.and_then(|trouble| trouble::maintenance(trouble.kind)),
        fault: failed.or(fault),
    }
}

/// The certificates of the further keys, as rows.
fn certs(prepared: &Prepared) -> Rows<EdgeNodeCert> {
    let row = |certificate: &Certificate| {
        let kind = match certificate.kind {
            CertificateKind::Ecdh => EdgeNodeCertKind::Ecdh,
            CertificateKind::Quote => EdgeNodeCertKind::Quote,
            CertificateKind::Endorsement => EdgeNodeCertKind::Endorsement,
            CertificateKind::Device | CertificateKind::Onboarding => return None,
        };
        let hash = hex::encode(&Sha256::digest(&certificate.pem)[..16]);
        let row = EdgeNodeCert {
            kind,
            pem: String::from_utf8_lossy(&certificate.pem).into_owned(),
            hash: hash.clone(),
            is_tpm: prepared.keeper == Keeper::Tpm,
            public_area: hex::encode(&certificate.public_area),
        };
        Some((hash, row))
    };
    prepared.certificates.iter().filter_map(row).collect()
}
