//! Logs on their way to the controller.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// How collecting and uploading logs goes. Counters begin with newlogd's start.
/// Topic `newlogd/NewlogMetrics`, key `global`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NewlogMetrics {
    /// The controller was not available three times in a row, and not yet available three times in a row again.
    pub failed_to_send: bool,
    /// Since when.
    pub fail_sent_start_time: Option<Timestamp>,
    /// Bytes that the controller took.
    pub total_bytes_upload: u64,
    /// Answers 400 to 499, 429 among them.
    #[serde(rename = "Num4xxResponses")]
    pub num_4xx_responses: u32,
    /// Answers 429.
    pub num_too_many_request: u32,
    /// The last of them.
    pub last_too_many_req_time: Option<Timestamp>,
    /// Seconds between two uploads now.
    pub curr_upload_intv_sec: u32,
    /// Seconds after which lines become a file though there are few.
    pub logfile_timeout_sec: u32,
    /// Bytes of the largest file.
    pub max_gzip_size: u32,
    /// Mean bytes of files.
    pub avg_gzip_size: u32,
    /// How long uploads take.
    pub latency: UploadLatency,
    /// What the controller says of itself.
    pub server_stats: ServerStats,
    /// The device's own logs.
    pub dev_metrics: LogfileMetrics,
    /// Logs of all applications together.
    pub app_metrics: LogfileMetrics,
    /// Files removed because the quota was used up.
    #[serde(rename = "NumGZipFileRemoved")]
    pub num_gzip_file_removed: u32,
    /// Bytes of all files on the disk.
    pub total_size_logs: u64,
    /// Bytes that they may have.
    pub quota_bytes: u64,
    /// When the oldest file of the device's logs that is still there was made.
    pub oldest_saved_device_log: Option<Timestamp>,
    /// Lines in removed files that the controller had not taken.
    pub lines_dropped: u64,
    /// Lines that were not kept because their source printed too many.
    pub lines_limited: BTreeMap<String, u64>,
    /// Bytes that a source overwrote before they were read.
    pub bytes_missed: BTreeMap<String, u64>,
    /// The sources of most bytes, in bytes.
    #[serde(rename = "DevTop10InputBytes")]
    pub top_sources: BTreeMap<String, u64>,
    /// What keeps logs from being kept or sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// How long uploads took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UploadLatency {
    /// The shortest.
    pub min_upload_msec: u32,
    /// The longest.
    pub max_upload_msec: u32,
    /// The mean.
    pub avg_upload_msec: u32,
    /// The last.
    pub curr_upload_msec: u32,
}

/// What the controller says of its own load, in answers to uploads.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServerStats {
    /// Processor load in percent.
    #[serde(rename = "CurrCPULoadPCT")]
    pub curr_cpu_load_pct: f32,
    /// Its mean.
    #[serde(rename = "AvgCPULoadPCT")]
    pub avg_cpu_load_pct: f32,
    /// Milliseconds from an upload to its processing.
    pub curr_process_msec: u32,
    /// Their mean.
    pub avg_process_msec: u32,
}

/// Files of the device's logs or of applications' logs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogfileMetrics {
    /// Files that the controller took.
    #[serde(rename = "NumGZipFilesSent")]
    pub num_gzip_files_sent: u64,
    /// Bytes of files written.
    #[serde(rename = "NumGZipBytesWrite")]
    pub num_gzip_bytes_write: u64,
    /// Bytes of lines in them.
    pub num_bytes_write: u64,
    /// Files that wait.
    pub num_gzip_file_in_dir: u32,
    /// Lines in files written.
    pub num_input_event: u64,
    /// Uploads that failed.
    #[serde(rename = "NumGZipFileRetry")]
    pub num_gzip_file_retry: u64,
    /// Files that the controller refused for good.
    #[serde(rename = "NumGZipFileKeptLocal")]
    pub num_gzip_file_kept_local: u32,
    /// When the file that was sent last had been made.
    pub recent_upload_timestamp: Option<Timestamp>,
    /// When it was sent.
    #[serde(rename = "LastGZipFileSendTime")]
    pub last_gzip_file_send_time: Option<Timestamp>,
}
