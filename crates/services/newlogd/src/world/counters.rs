//! Counting what happens to files.

use std::time::Duration;

use jiff::Timestamp;
use model::{fault::Fault, log::LogfileMetrics};
use tracing::warn;

use super::evc::Reply;
use crate::{
    Counters,
    name::{FileName, Stream},
    plan::pacing::{Answer, Verdict},
};

impl Counters {
    /// Those of a stream's files.
    pub(super) fn of(&mut self, stream: Stream) -> &mut LogfileMetrics {
        match stream {
            Stream::Device => &mut self.device,
            Stream::App(_) => &mut self.apps,
        }
    }

    /// Takes note of an upload.
    pub(super) fn answered(
        &mut self,
        name: FileName,
        reply: &Reply,
        verdict: Verdict,
        bytes: u64,
        took: Duration,
        at: Timestamp,
    ) {
        let Reply {
            answer,
            is_4xx,
            failure,
            server,
        } = reply;
        if *is_4xx {
            self.refusals += 1;
        }
        if *answer == Answer::TooMany {
            self.too_many = (self.too_many.0 + 1, Some(at));
        }
        let fault = failure.clone().map(|failure| {
            let transient = failure.transient;
            let mut fault = failure.into_fault(at).transient(transient);
            fault = fault.continuing(self.fault.as_ref());
            fault
        });
        if let Some(fault) = fault.as_ref().filter(|f| self.is_news(f)) {
            warn!(code = %fault.code, file = %name, "{}", fault.text);
        }
        self.fault = fault;
        let sent = self.device.num_gzip_files_sent + self.apps.num_gzip_files_sent;
        let metrics = self.of(name.stream);
        match verdict {
            Verdict::Delivered => {
                metrics.num_gzip_files_sent += 1;
                metrics.last_gzip_file_send_time = Some(at);
                metrics.recent_upload_timestamp = i64::try_from(name.ms)
                    .ok()
                    .and_then(|ms| Timestamp::from_millisecond(ms).ok());
                self.sent_bytes += bytes;
                self.took(took, sent);
            }
            Verdict::Again => metrics.num_gzip_file_retry += 1,
            Verdict::GivenUp => {
                metrics.num_gzip_file_kept_local += 1;
                warn!(file = %name, "refused for good, kept in failedUpload");
            }
        }
        if let Some(server) = server {
            let mean = |mean: f64, new: f64| (mean * to_f64(sent) + new) / (to_f64(sent) + 1.0);
            let stats = &mut self.server;
            stats.curr_cpu_load_pct = server.cpu_percentage;
            stats.curr_process_msec = server.log_process_delay_msec;
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a mean of numbers of that size"
            )]
            let load = mean(
                f64::from(stats.avg_cpu_load_pct),
                f64::from(server.cpu_percentage),
            ) as f32;
            stats.avg_cpu_load_pct = load;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a mean of numbers of that size"
            )]
            let delay = mean(
                f64::from(stats.avg_process_msec),
                f64::from(server.log_process_delay_msec),
            ) as u32;
            stats.avg_process_msec = delay;
        }
    }

    /// Each trouble is told once, or the log would be about the log.
    fn is_news(&self, fault: &Fault) -> bool {
        self.fault.as_ref().is_none_or(|old| old.code != fault.code)
    }

    fn took(&mut self, took: Duration, before: u64) {
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let latency = &mut self.latency;
        latency.min_upload_msec = if before == 0 {
            ms
        } else {
            latency.min_upload_msec.min(ms)
        };
        latency.max_upload_msec = latency.max_upload_msec.max(ms);
        let all = u64::from(latency.avg_upload_msec) * before + u64::from(ms);
        latency.avg_upload_msec = u32::try_from(all / (before + 1)).unwrap_or(u32::MAX);
        latency.curr_upload_msec = ms;
    }
}

#[allow(clippy::cast_precision_loss, reason = "a weight in a mean")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
