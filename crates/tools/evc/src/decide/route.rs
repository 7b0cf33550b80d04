//! From method and path to what the device wants.

use http::{Method, StatusCode};
use uuid::Uuid;

use super::Refusal;

/// Generation of the device API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// Mutual TLS, bare protobuf.
    V1,
    /// Signed envelopes.
    V2,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The controller's certificates.
    Certs,
    /// Is anybody there.
    Ping,
    /// First contact.
    Register,
    /// Which UUID am I.
    Uuid,
    /// The configuration.
    Config,
    /// One step of attestation.
    Attest,
    /// State of the device or of an object on it.
    Info,
    /// Usage counters.
    Metrics,
    /// Connections seen by the packet filter.
    FlowLog,
    /// Hardware health.
    HardwareHealth,
    /// Compressed logs of the device.
    NewLogs,
    /// Compressed logs of one application.
    AppNewLogs(Uuid),
    /// Logs of the device, the old form.
    Logs,
    /// Logs of one application, the old form.
    AppLogs(Uuid),
}

/// A parsed request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Which generation.
    pub api: Api,
    /// What for.
    pub action: Action,
    /// The UUID in the path (v2 only).
    pub device: Option<Uuid>,
}

/// Parses a request line. Paths are matched as written; only v1 has two spellings.
pub fn route(method: &Method, path: &str) -> Result<Route, Refusal> {
    let nothing = || Refusal::not_found(format!("no such path: {path}"));
    let route = if let Some(rest) = path.strip_prefix("/api/v2/edgedevice/") {
        v2(rest).ok_or_else(nothing)?
    } else if let Some(rest) = path
        .strip_prefix("/api/v1/edgedevice/")
        .or_else(|| path.strip_prefix("/api/v1/edgeDevice/"))
    {
        Route {
            api: Api::V1,
            action: v1(rest).ok_or_else(nothing)?,
            device: None,
        }
    } else {
        return Err(nothing());
    };
    let get = matches!(route.action, Action::Certs | Action::Ping)
        || (route.api == Api::V1 && matches!(route.action, Action::Config | Action::Uuid));
    let post = !matches!(route.action, Action::Certs | Action::Ping);
    if (get && method == Method::GET) || (post && method == Method::POST) {
        Ok(route)
    } else {
        Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: format!("{method} is not a method of {path}"),
        })
    }
}

fn v2(rest: &str) -> Option<Route> {
    let route = |action, device| {
        Some(Route {
            api: Api::V2,
            action,
            device,
        })
    };
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        ["certs"] => route(Action::Certs, None),
        ["ping"] => route(Action::Ping, None),
        ["register"] => route(Action::Register, None),
        ["uuid"] => route(Action::Uuid, None),
        ["id", device, rest @ ..] => {
            let action = match rest {
                ["config"] => Action::Config,
                ["attest"] => Action::Attest,
                ["apps", "instanceid", app, "newlogs"] => Action::AppNewLogs(id(app)?),
                ["apps", "instanceid", app, "logs"] => Action::AppLogs(id(app)?),
                [one] => report(one)?,
                _ => return None,
            };
            route(action, Some(id(device)?))
        }
        _ => None,
    }
}

fn v1(rest: &str) -> Option<Action> {
    let parts: Vec<&str> = rest.split('/').collect();
    Some(match parts.as_slice() {
        ["ping"] => Action::Ping,
        ["register"] => Action::Register,
        ["uuid"] => Action::Uuid,
        ["config"] => Action::Config,
        ["apps", "instances", "id", app, "logs"] => Action::AppLogs(id(app)?),
        ["apps", "instanceid", "id", app, "newlogs"] => Action::AppNewLogs(id(app)?),
        [one] => report(one)?,
        _ => return None,
    })
}

fn report(word: &str) -> Option<Action> {
    Some(match word {
        "info" => Action::Info,
        "metrics" => Action::Metrics,
        "flowlog" => Action::FlowLog,
        "hardwarehealth" => Action::HardwareHealth,
        "newlogs" => Action::NewLogs,
        "logs" => Action::Logs,
        _ => return None,
    })
}

/// Only the hyphenated form is a UUID of the API.
fn id(text: &str) -> Option<Uuid> {
    if text.len() == 36 {
        Uuid::parse_str(text).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    const U: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    fn post(path: &str) -> Result<(Api, Action), u16> {
        route(&Method::POST, path)
            .map(|r| (r.api, r.action))
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn every_path_of_the_protocol() {
        let v2 = |rest: &str| post(&format!("/api/v2/edgedevice/{rest}"));
        let v1 = |rest: &str| post(&format!("/api/v1/edgeDevice/{rest}"));
        let app = Uuid::parse_str(U).unwrap();
        assert_eq!(v2("register"), Ok((Api::V2, Action::Register)));
        assert_eq!(v2(&format!("id/{U}/config")), Ok((Api::V2, Action::Config)));
        assert_eq!(
            v2(&format!("id/{U}/apps/instanceid/{U}/newlogs")),
            Ok((Api::V2, Action::AppNewLogs(app)))
        );
        assert_eq!(v1("config"), Ok((Api::V1, Action::Config)));
        assert_eq!(post("/api/v1/edgedevice/info"), Ok((Api::V1, Action::Info)));
        assert_eq!(
            v1(&format!("apps/instanceid/id/{U}/newlogs")),
            Ok((Api::V1, Action::AppNewLogs(app)))
        );
        assert_eq!(
            v1(&format!("apps/instances/id/{U}/logs")),
            Ok((Api::V1, Action::AppLogs(app)))
        );
    }

    #[test]
    fn what_is_not_there_is_404_and_wrong_methods_are_405() {
        for path in [
            "/api/v2/edgeDevice/register",
            "/api/v2/edgedevice/config",
            "/api/v2/edgedevice/id/not-a-uuid/config",
            "/api/v2/edgedevice/id/6ba7b8109dad11d180b400c04fd430c8/config",
            "/api/v1/edgedevice/certs",
            "/api/v1/edgedevice/attest",
            "/api/v2/edgedevice/register/",
            "/",
        ] {
            assert_eq!(post(path), Err(404), "{path}");
        }
        assert_eq!(post("/api/v2/edgedevice/certs"), Err(405));
        assert_eq!(post("/api/v2/edgedevice/ping"), Err(405));
        let get = |path: &str| route(&Method::GET, path).map(|r| r.action);
        assert_eq!(get("/api/v2/edgedevice/ping"), Ok(Action::Ping));
        assert_eq!(get("/api/v1/edgedevice/config"), Ok(Action::Config));
        assert_eq!(
            get("/api/v2/edgedevice/uuid").unwrap_err().status.as_u16(),
            405
        );
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/api/v[12]/edge[dD]evice)?[ -~]{0,80}") {
            let _ = route(&Method::POST, &path);
        }
    }
}
