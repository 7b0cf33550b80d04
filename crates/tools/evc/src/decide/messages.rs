//! Info, metrics, flow logs and hardware health: checked, labelled, otherwise kept as they came.

use api::flowlog::FlowMessage;
use api::hardwarehealth::ZHardwareHealth;
use api::info::ZInfoMsg;
use api::info::z_info_msg::InfoContent;
use api::metrics::ZMetricMsg;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use uuid::Uuid;

use super::Refusal;

/// What kind of report a message is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `ZInfoMsg`.
    Info,
    /// `ZMetricMsg`.
    Metrics,
    /// `FlowMessage`.
    FlowLog,
    /// `ZHardwareHealth`.
    HardwareHealth,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Info,
        Self::Metrics,
        Self::FlowLog,
        Self::HardwareHealth,
    ];

    /// The word for it in the store and in the admin API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Metrics => "metrics",
            Self::FlowLog => "flow_log",
            Self::HardwareHealth => "hardware_health",
        }
    }
}

/// A message ready to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What kind.
    pub kind: Kind,
    /// The object it tells about, such as `device` or `app/<uuid>`: the newest message of each
    /// object is its present state.
    pub object: String,
    /// When the device made it, milliseconds since 1970, 0 when it doesn't say.
    pub made_ms: i64,
    /// The message as received.
    pub body: Vec<u8>,
}

/// Checks a message of a device.
pub fn read(kind: Kind, device: Uuid, body: &[u8]) -> Result<Report, Refusal> {
    if body.is_empty() {
        return Err(Refusal::unprocessable("empty message"));
    }
    let (claimed, made, object) = match kind {
        Kind::Info => {
            let message = decode::<ZInfoMsg>(body)?;
            let content = message
                .info_content
                .as_ref()
                .ok_or_else(|| Refusal::unprocessable("info message without content"))?;
            (
                message.dev_id.clone(),
                message.at_time_stamp,
                info_object(content),
            )
        }
        Kind::Metrics => {
            let message = decode::<ZMetricMsg>(body)?;
            (message.dev_id, message.at_time_stamp, "device".to_owned())
        }
        Kind::FlowLog => {
            let message = decode::<FlowMessage>(body)?;
            let app = message.scope.map(|s| s.uuid).unwrap_or_default();
            (message.dev_id, None, format!("app/{app}"))
        }
        Kind::HardwareHealth => {
            let message = decode::<ZHardwareHealth>(body)?;
            (message.dev_id, message.at_time_stamp, "device".to_owned())
        }
    };
    if !claimed.is_empty() && claimed.parse::<Uuid>().ok() != Some(device) {
        return Err(Refusal::unprocessable(format!(
            "devId {claimed:?} is not the sender"
        )));
    }
    let made_ms = made.map_or(0, |t| {
        t.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(t.nanos) / 1_000_000)
    });
    Ok(Report {
        kind,
        object,
        made_ms,
        body: body.to_vec(),
    })
}

/// The kept message as JSON, by the rules of proto3. A device that is newer than this controller may use values of
/// enumerations that it has no names for: such a message is `{"notShown": WHY, "bytes": BASE64}`.
pub fn to_json(kind: Kind, body: &[u8]) -> Result<serde_json::Value, Refusal> {
    fn json<M: Message + Default + serde::Serialize>(
        body: &[u8],
    ) -> Result<serde_json::Value, Refusal> {
        let message = decode::<M>(body)?;
        Ok(serde_json::to_value(message).unwrap_or_else(
            |e| serde_json::json!({"notShown": e.to_string(), "bytes": STANDARD.encode(body)}),
        ))
    }
    match kind {
        Kind::Info => json::<ZInfoMsg>(body),
        Kind::Metrics => json::<ZMetricMsg>(body),
        Kind::FlowLog => json::<FlowMessage>(body),
        Kind::HardwareHealth => json::<ZHardwareHealth>(body),
    }
}

/// Decodes a message or says why not.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Refusal> {
    M::decode(body).map_err(|e| Refusal::unprocessable(format!("not a valid message: {e}")))
}

fn info_object(content: &InfoContent) -> String {
    match content {
        InfoContent::Dinfo(_) => "device".to_owned(),
        InfoContent::Ainfo(app) => format!("app/{}", app.app_id),
        InfoContent::Niinfo(network) => format!("network_instance/{}", network.network_id),
        InfoContent::Vinfo(volume) => format!("volume/{}", volume.uuid),
        InfoContent::Cinfo(tree) => format!("content_tree/{}", tree.uuid),
        InfoContent::Binfo(_) => "blobs".to_owned(),
        InfoContent::Amdinfo(data) => format!("app_metadata/{}", data.uuid),
        InfoContent::Evinfo(_) => "edgeview".to_owned(),
        InfoContent::Hwinfo(_) => "hardware".to_owned(),
        InfoContent::Locinfo(_) => "location".to_owned(),
        InfoContent::PatchInfo(_) => "patch_envelope".to_owned(),
        InfoContent::ClusterNode(_) => "cluster_node".to_owned(),
        InfoContent::NtpSources(_) => "ntp_sources".to_owned(),
        InfoContent::ClusterInfo(_) => "cluster".to_owned(),
        InfoContent::ClusterUpdateInfo(_) => "cluster_update".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use api::info::{ZInfoApp, ZInfoDevice};

    use super::*;

    #[test]
    fn what_has_no_name_here_is_shown_all_the_same() {
        // An information type of the future.
        let body = [8, 26];
        let shown = to_json(Kind::Info, &body).unwrap();
        assert_eq!(shown["bytes"], "CBo=");
        assert!(
            shown["notShown"].as_str().unwrap().contains("26"),
            "{shown}"
        );
    }

    fn info(device: &str, content: Option<InfoContent>) -> Vec<u8> {
        ZInfoMsg {
            dev_id: device.to_owned(),
            at_time_stamp: Some(pbjson_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5_000_000,
            }),
            info_content: content,
            ..ZInfoMsg::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn objects_are_named_and_foreign_device_ids_refused() {
        let device = Uuid::from_u128(5);
        let app = InfoContent::Ainfo(ZInfoApp {
            app_id: "a1".to_owned(),
            ..ZInfoApp::default()
        });
        let report = read(
            Kind::Info,
            device,
            &info(&device.to_string(), Some(app.clone())),
        )
        .unwrap();
        assert_eq!(report.object, "app/a1");
        assert_eq!(report.made_ms, 1_700_000_000_005);
        let own = InfoContent::Dinfo(ZInfoDevice::default());
        assert_eq!(
            read(Kind::Info, device, &info("", Some(own)))
                .unwrap()
                .object,
            "device"
        );
        for bad in [
            info(&Uuid::from_u128(6).to_string(), Some(app)),
            info(&device.to_string(), None),
            vec![],
            vec![0xff, 0xff],
        ] {
            assert_eq!(
                read(Kind::Info, device, &bad).unwrap_err().status.as_u16(),
                422
            );
        }
    }
}
