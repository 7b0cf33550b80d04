//! What devices report, as tables, JSON lines or a stream.

use serde_json::Value;
use uuid::Uuid;

use super::args::{LogArgs, ReportArgs};
use super::output::{json_line, line, short_time, table};
use crate::admin::{Client, LogQuery, LogView, MessageQuery, MessageView};
use crate::config::object_id;
use crate::decide::messages::Kind;

/// Seconds that the controller holds a follower's question.
const WAIT: u64 = 20;
/// Rows of one answer while following.
const PAGE: u32 = 1000;

pub(super) async fn messages(kind: Kind, args: ReportArgs) -> anyhow::Result<()> {
    let client = args.access.client()?;
    let object = match &args.app {
        Some(app) => Some(format!(
            "app/{}",
            app_uuid(&client, args.device.as_deref(), app).await?
        )),
        None => None,
    };
    let names = names(&client).await?;
    let mut query = MessageQuery {
        device: args.device,
        object,
        latest: !args.all,
        limit: args.limit,
        ..MessageQuery::of(kind)
    };
    let rows = client.messages(&query).await?;
    if args.access.json {
        rows.iter().try_for_each(json_line)?;
    } else {
        let cells: Vec<_> = rows.iter().map(|m| cells(m, &names)).collect();
        line(&table(&["RECEIVED", "DEVICE", "OBJECT", "SUMMARY"], &cells))?;
    }
    query.after = Some(rows.last().map_or(0, |m| m.id));
    query.latest = false;
    query.limit = PAGE;
    query.wait = WAIT;
    if !args.follow {
        return Ok(());
    }
    loop {
        for message in client.messages(&query).await? {
            query.after = Some(message.id);
            if args.access.json {
                json_line(&message)?;
            } else {
                line(&cells(&message, &names).join("  "))?;
            }
        }
    }
}

pub(super) async fn logs(args: LogArgs) -> anyhow::Result<()> {
    let client = args.access.client()?;
    let names = names(&client).await?;
    let mut query = LogQuery {
        device: args.device,
        app: args.app,
        source: args.source,
        after: None,
        limit: args.limit,
        wait: 0,
    };
    loop {
        for row in client.logs(&query).await? {
            query.after = Some(row.id);
            if args.access.json {
                json_line(&row)?;
            } else {
                line(&log_line(&row, &names))?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        query.limit = PAGE;
        query.wait = WAIT;
    }
}

async fn app_uuid(client: &Client, device: Option<&str>, app: &str) -> anyhow::Result<Uuid> {
    if let Ok(uuid) = Uuid::parse_str(app) {
        return Ok(uuid);
    }
    let Some(device) = device else {
        anyhow::bail!("--app {app}: give --device too, or the app's UUID");
    };
    Ok(object_id(client.device(device).await?.uuid, "app", app))
}

async fn names(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let devices = client.devices().await?;
    Ok(devices
        .into_iter()
        .map(|d| (d.uuid.to_string(), d.name))
        .collect())
}

fn name<'a>(names: &'a [(String, String)], uuid: &'a str) -> &'a str {
    names
        .iter()
        .find(|(known, _)| known == uuid)
        .map_or(uuid, |(_, name)| name)
}

fn cells(message: &MessageView, names: &[(String, String)]) -> Vec<String> {
    vec![
        short_time(message.received.as_deref()),
        name(names, &message.device).to_owned(),
        message.object.clone(),
        summary(&message.message),
    ]
}

/// The few words of a report that people look for first.
fn summary(message: &Value) -> String {
    let content = message
        .as_object()
        .and_then(|m| {
            m.iter()
                .find(|(key, v)| v.is_object() && key.ends_with("nfo"))
        })
        .map_or(message, |(_, v)| v);
    let mut words = Vec::new();
    for field in [
        "AppName",
        "displayname",
        "displayName",
        "deviceName",
        "HostName",
    ] {
        if let Some(text) = content
            .get(field)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
        {
            words.push(text.to_owned());
            break;
        }
    }
    if let Some(state) = content.get("state").and_then(Value::as_str) {
        words.push(state.to_owned());
    }
    let reasons = content.get("maintenanceModeReasons");
    for reason in reasons.and_then(Value::as_array).into_iter().flatten() {
        let word = reason.as_str().unwrap_or_default();
        words.push(
            word.trim_start_matches("MAINTENANCE_MODE_REASON_")
                .to_owned(),
        );
    }
    if let Some(percent) = content.get("progressPercentage").and_then(Value::as_u64) {
        words.push(format!("{percent}%"));
    }
    for network in content
        .get("network")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let addresses = network
            .get("IPAddrs")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        words.extend(addresses.filter_map(Value::as_str).map(str::to_owned));
    }
    for field in ["appErr", "networkErr", "volumeErr", "err"] {
        let found = content.get(field);
        let list = found.and_then(Value::as_array).cloned();
        let errors = list.unwrap_or_else(|| found.cloned().into_iter().collect());
        let texts = errors
            .iter()
            .filter_map(|e| e.get("description").and_then(Value::as_str));
        words.extend(texts.map(|text| format!("error: {text}")));
    }
    words.join(" ")
}

fn log_line(row: &LogView, names: &[(String, String)]) -> String {
    let time = row.time.as_deref().unwrap_or("-");
    let device = name(names, &row.device);
    let source = row
        .app
        .as_deref()
        .map_or_else(|| row.source.clone(), |app| format!("app {app}"));
    format!(
        "{time} {device} {source} {}: {}",
        row.severity,
        row.content.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summaries_hold_what_people_look_for() {
        let app = json!({"ztype": "ZiApp", "ainfo": {"AppName": "web", "state": "RUNNING",
            "network": [{"IPAddrs": ["10.1.0.2"]}], "appErr": [{"description": "no disk"}]}});
        assert_eq!(summary(&app), "web RUNNING 10.1.0.2 error: no disk");
        assert_eq!(summary(&json!({})), "");
    }
}
