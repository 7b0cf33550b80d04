//! From what went wrong with a fetch to a code and a text.

use std::io::ErrorKind;

use agent::Failure;
use cipher::OpenError;
use fetch::{AttemptError, FetchError, Problem, SourceError};
use model::{code::Code, id::DatastoreId};
use uplink::Phase;

/// The failure of one datastore's fetch.
pub fn of_fetch(object: &str, error: &FetchError) -> Failure {
    let code = match error {
        FetchError::Attempts { errors, .. } => of_attempts(errors),
        FetchError::NoAttempt { .. } | FetchError::Busy { .. } => Code::DownloadNetwork,
        FetchError::TooLarge { .. } => Code::DownloadTooBig,
        FetchError::WrongLength { .. } => Code::DownloadShort,
        FetchError::WrongDigest { .. } => Code::VerifyDigest,
        FetchError::Local { source, .. } => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::VolumeSpace,
            _ => Code::DownloadWrite,
        },
    };
    Failure::of(code, object, error)
        .transient_if(error.is_transient())
        .waiting(error.retry_after())
}

/// The failure of a datastore that can't be asked at all.
pub fn of_source(object: &str, error: &SourceError) -> Failure {
    let code = match error {
        SourceError::Unsupported { .. } => Code::DatastoreUnsupported,
        SourceError::Url { .. } | SourceError::InsecureLogin { .. } | SourceError::Tls { .. } => {
            Code::ConfigInvalid
        }
    };
    Failure::of(code, object, error)
}

/// The failure of a login that can't be decrypted.
pub fn of_login(object: &str, datastore: DatastoreId, error: &OpenError) -> Failure {
    let mut failure = Failure::of(error.code(), object, error).transient_if(error.is_transient());
    failure.text = format!("login of datastore {datastore}: {}", failure.text);
    failure
}

/// One failure for all datastores: the most telling one, the others among its causes.
pub fn of_all(failures: Vec<Failure>) -> Option<Failure> {
    let transient = failures.iter().any(|failure| failure.transient);
    // Only when all of them want to be left alone; none is the least.
    let wait = failures.iter().map(|failure| failure.wait).min().flatten();
    let mut rest = failures;
    let best = rest
        .iter()
        .enumerate()
        .max_by_key(|(at, f)| (weight(f.code), usize::MAX - at))
        .map(|(at, _)| at)?;
    let mut failure = rest.remove(best);
    // A wrong digest ends the attempt, whatever the others say.
    failure.transient = transient && failure.code != Code::VerifyDigest;
    failure.wait = wait;
    failure
        .causes
        .extend(rest.into_iter().map(|other| other.to_string()));
    Some(failure)
}

/// What was found out about the file itself tells more than that nobody could be reached.
fn weight(code: Code) -> u8 {
    match code {
        Code::VolumeSpace | Code::DownloadWrite => 6,
        Code::VerifyDigest => 5,
        Code::DownloadTooBig | Code::DownloadShort | Code::DownloadStalled => 4,
        Code::DownloadRefused
        | Code::CipherContext
        | Code::CipherBlock
        | Code::CipherKey
        | Code::CipherPlain => 3,
        Code::DownloadNetwork => 2,
        // Only when no way came any further.
        Code::PortDns => 1,
        _ => 0,
    }
}

fn of_attempts(errors: &[AttemptError]) -> Code {
    let codes = errors.iter().map(|error| match error.problem {
        Problem::Code { .. } | Problem::Encoded(_) => Code::DownloadRefused,
        Problem::Stalled(_) => Code::DownloadStalled,
        Problem::ShortBody { .. } | Problem::Range { .. } => Code::DownloadShort,
        Problem::Transport(ref failure) if failure.phase == Phase::Dns => Code::PortDns,
        Problem::Client(_) | Problem::Transport(_) => Code::DownloadNetwork,
    });
    codes
        .max_by_key(|code| weight(*code))
        .unwrap_or(Code::DownloadNetwork)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_known_about_the_file_counts_more_than_an_unreachable_datastore() {
        let failure = |code, transient| {
            Failure::new(code, "blob x", format!("{code}")).transient_if(transient)
        };
        let all = of_all(vec![
            failure(Code::DatastoreUnsupported, false),
            failure(Code::DownloadNetwork, true),
            failure(Code::DownloadRefused, false),
        ])
        .unwrap();
        assert_eq!(
            (all.code, all.transient, all.causes.len()),
            (Code::DownloadRefused, true, 2)
        );
        let wrong = of_all(vec![
            failure(Code::DownloadNetwork, true),
            failure(Code::VerifyDigest, false),
        ])
        .unwrap();
        assert_eq!((wrong.code, wrong.transient), (Code::VerifyDigest, false));
        assert_eq!(of_all(vec![]), None);
        let busy = |seconds| {
            failure(Code::DownloadRefused, true)
                .waiting(Some(std::time::Duration::from_secs(seconds)))
        };
        let wait = |failures| of_all(failures).unwrap().wait.map(|wait| wait.as_secs());
        assert_eq!(wait(vec![busy(9), busy(5)]), Some(5));
        assert_eq!(
            wait(vec![busy(9), failure(Code::DownloadNetwork, true)]),
            None
        );
    }

    #[test]
    fn dns_is_blamed_when_every_way_ends_there() {
        let attempt = |phase| AttemptError {
            port: "eth0".to_owned(),
            source_address: [10, 0, 0, 1].into(),
            received: 0,
            problem: Problem::Transport(uplink::Failure {
                phase,
                reason: uplink::Reason::TimedOut,
                detail: "no answer".to_owned(),
            }),
        };
        let (dns, connect) = (attempt(Phase::Dns), attempt(Phase::Connect));
        assert_eq!(of_attempts(&[dns.clone(), dns.clone()]), Code::PortDns);
        assert_eq!(
            of_attempts(&[dns.clone(), connect.clone()]),
            Code::DownloadNetwork
        );
        assert_eq!(of_attempts(&[connect, dns]), Code::DownloadNetwork);
    }
}
