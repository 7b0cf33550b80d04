//! The commands that EVE uses, with typed answers. Anything else goes through [`Qmp::execute`].

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Qmp, QmpError};
use crate::nodes::{disk_device, disk_node, nic_backend, nic_device};
use crate::spec::{Disk, Nic};

/// Answer to `query-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// vCPUs execute.
    pub running: bool,
    /// Why they do or don't.
    #[serde(rename = "status")]
    pub state: RunState,
}

/// States of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Stopped by a debugger.
    Debug,
    /// Migration is ending.
    FinishMigrate,
    /// The guest's kernel said that it panicked.
    GuestPanicked,
    /// Waits for a guest that migrates here.
    Inmigrate,
    /// QEMU can't go on, for instance because hardware acceleration failed.
    InternalError,
    /// An image could not be read or written.
    IoError,
    /// Stopped by command.
    Paused,
    /// Migrated away.
    Postmigrate,
    /// Made but never started.
    Prelaunch,
    /// A snapshot is being loaded.
    RestoreVm,
    /// The guest executes.
    Running,
    /// A snapshot is being saved.
    SaveVm,
    /// The guest powered off.
    Shutdown,
    /// The guest went to sleep.
    Suspended,
    /// The guest's watchdog fired.
    Watchdog,
    /// Replicated by COLO.
    Colo,
    /// A state that newer QEMUs have.
    #[serde(other)]
    Unknown,
}

/// One vCPU of `query-cpus-fast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuThread {
    /// Number of the vCPU, from 0.
    pub cpu_index: u32,
    /// Thread of the host that runs it: for pinning and CPU time.
    pub thread_id: i32,
}

/// Counters of one disk since the guest was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStats {
    /// Node name, the same as the id of the disk; empty for a drive with no medium.
    pub node: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Highest offset that was written, in bytes.
    pub highest_offset: u64,
}

/// Answer to `query-vnc`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VncServer {
    /// A screen is served.
    pub enabled: bool,
    /// Address or path.
    #[serde(default)]
    pub host: Option<String>,
    /// TCP port, in digits.
    #[serde(default)]
    pub service: Option<String>,
    /// Authentication in force: `none`, `vnc` (password) or others.
    #[serde(default)]
    pub auth: Option<String>,
    /// Connected viewers.
    #[serde(default)]
    pub clients: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawBlock {
    node_name: Option<String>,
    stats: RawStats,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct RawStats {
    rd_bytes: u64,
    wr_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
    flush_operations: u64,
    failed_rd_operations: u64,
    failed_wr_operations: u64,
    wr_highest_offset: u64,
}

impl Qmp {
    /// What the guest is doing: the truth, whatever events were seen.
    pub async fn status(&self) -> Result<Status, QmpError> {
        self.execute("query-status", Value::Null).await
    }

    /// Starts or resumes the guest.
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.order("cont", Value::Null).await
    }

    /// Pauses the guest.
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.order("stop", Value::Null).await
    }

    /// Presses the power button. A guest may ignore it: a forced end must follow after a while.
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.order("system_powerdown", Value::Null).await
    }

    /// Ends QEMU at once. A connection that closes instead of an answer is what was asked for.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.order("quit", Value::Null).await {
            Err(QmpError::Closed { command: _ }) => Ok(()),
            other => other,
        }
    }

    /// The threads of the vCPUs.
    pub async fn cpus(&self) -> Result<Vec<CpuThread>, QmpError> {
        self.execute("query-cpus-fast", Value::Null).await
    }

    /// Counters of all disks.
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>, QmpError> {
        let disks: Vec<RawBlock> = self.execute("query-blockstats", Value::Null).await?;
        Ok(disks.into_iter().map(BlockStats::from).collect())
    }

    /// The remote screen.
    pub async fn vnc(&self) -> Result<VncServer, QmpError> {
        self.execute("query-vnc", Value::Null).await
    }

    /// Sets the password of the remote screen; viewers that are connected stay. The protocol uses
    /// the first eight characters.
    pub async fn set_vnc_password(&self, password: &str) -> Result<(), QmpError> {
        let arguments = json!({ "protocol": "vnc", "password": password });
        self.order("set_password", arguments).await
    }

    /// Gives a running guest a virtio disk in an empty slot (see [`crate::args::spare_slot`]). `id`
    /// names the node and the device. If the device is refused the node is taken back.
    pub async fn plug_disk(&self, id: &str, disk: &Disk, slot: &str) -> Result<(), QmpError> {
        self.order("blockdev-add", disk_node(id, disk)).await?;
        let plugged = self.order("device_add", disk_device(id, disk, slot, None));
        if let Err(error) = plugged.await {
            self.release("blockdev-del", "node-name", id).await;
            return Err(error);
        }
        Ok(())
    }

    /// Gives a running guest a network card in an empty slot; `id` names the back end and the
    /// device.
    pub async fn plug_nic(
        &self,
        id: &str,
        nic: &Nic,
        vhost: bool,
        slot: &str,
    ) -> Result<(), QmpError> {
        let backend = format!("{id}-net");
        self.order("netdev_add", nic_backend(&backend, nic, vhost))
            .await?;
        let plugged = self.order("device_add", nic_device(id, nic, &backend, slot));
        if let Err(error) = plugged.await {
            self.release("netdev_del", "id", &backend).await;
            return Err(error);
        }
        Ok(())
    }

    /// Asks the guest to let a device go. It is gone with the event `DEVICE_DELETED`, never if the
    /// guest doesn't care; its node or back end can be removed only then.
    pub async fn unplug(&self, id: &str) -> Result<(), QmpError> {
        self.order("device_del", Self::named("id", id)).await
    }

    /// Closes the image of a disk that was let go.
    pub async fn remove_node(&self, id: &str) -> Result<(), QmpError> {
        self.order("blockdev-del", Self::named("node-name", id))
            .await
    }

    /// Closes the back end of a network card that was let go.
    pub async fn remove_nic_backend(&self, id: &str) -> Result<(), QmpError> {
        let backend = format!("{id}-net");
        self.order("netdev_del", Self::named("id", &backend)).await
    }

    async fn order(&self, command: &str, arguments: Value) -> Result<(), QmpError> {
        self.execute::<Value>(command, arguments).await.map(drop)
    }

    /// Undoes the first half of a failed step; the error to report is that of the second half.
    async fn release(&self, command: &str, key: &str, id: &str) {
        if let Err(error) = self.order(command, Self::named(key, id)).await {
            tracing::warn!(%error, id, "half-plugged device left behind");
        }
    }
}

impl From<RawBlock> for BlockStats {
    fn from(block: RawBlock) -> Self {
        let stats = block.stats;
        Self {
            node: block.node_name.unwrap_or_default(),
            read_bytes: stats.rd_bytes,
            written_bytes: stats.wr_bytes,
            reads: stats.rd_operations,
            writes: stats.wr_operations,
            flushes: stats.flush_operations,
            failed: stats.failed_rd_operations + stats.failed_wr_operations,
            highest_offset: stats.wr_highest_offset,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn states_are_known_or_unknown_but_never_an_error() {
        let known = r#"{"running": false, "singlestep": false, "status": "guest-panicked"}"#;
        let status: Status = serde_json::from_str(known).unwrap();
        assert_eq!(status.state, RunState::GuestPanicked);
        let new = r#"{"running": true, "status": "levitating"}"#;
        let status: Status = serde_json::from_str(new).unwrap();
        assert_eq!(status.state, RunState::Unknown);
    }

    #[test]
    fn counters_that_are_missing_are_zero() {
        let text = r#"{"node-name": "disk0", "qdev": "/x", "stats": {"rd_bytes": 5, "new": {}}}"#;
        let block: RawBlock = serde_json::from_str(text).unwrap();
        let stats = BlockStats::from(block);
        assert_eq!(
            (stats.node.as_str(), stats.read_bytes, stats.writes),
            ("disk0", 5, 0)
        );
    }
}
