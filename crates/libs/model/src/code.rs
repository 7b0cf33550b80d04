//! Stable error codes. `docs/errors.md` is generated from this table; a code is never reused.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident = $text:literal, $meaning:literal, $causes:literal, $remedy:literal;)+) => {
        /// A stable error code, in text `area.what`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $variant,)+
            /// A code of another version, kept readable across an update or a fallback.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Code {
            /// Every code that this version can report.
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)+ Code::Unknown => "unknown" }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)+ Code::Unknown => "A code of another version." }
            }

            /// What usually causes it.
            pub const fn causes(self) -> &'static str {
                match self { $(Code::$variant => $causes,)+ Code::Unknown => "" }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)+ Code::Unknown => "" }
            }
        }
    };
}

codes! {
    AgentNoEffect = "agent.no-effect", "An action reported success but the world did not change.",
        "Something outside the device's control undoes it, or the state cannot be observed.", "Look at the service's log for the action; report it with a support bundle.";
    AgentPanic = "agent.panic", "A task of a service ended by a panic.",
        "A bug.", "The service goes on; report the evidence file below /persist/crash.";
    AgentObserve = "agent.observe", "A service could not read the state of the world.",
        "Missing permission, a kernel or a helper that does not answer.", "See the causes in the message.";
    BusWrite = "bus.write", "An object could not be published.",
        "The file system is full or read-only.", "Free space; the service retries by itself.";
    ConfigParse = "config.parse", "The controller's config does not decode.",
        "A controller of another version, a damaged transfer.", "Correct the config at the controller; the last good one stays in force.";
    ConfigSignature = "config.signature", "The config is not signed by the controller's certificate.",
        "A man in the middle, a rotated certificate.", "Check the controller's signing certificate; the last good config stays in force.";
    ConfigForeign = "config.foreign", "The config is meant for another device.",
        "The controller mixed up two devices.", "Correct the device's id at the controller; the last good config stays in force.";
    ConfigReference = "config.reference", "An object of the config refers to another that is not there.",
        "A typo in an id, an object deleted too early.", "Add the missing object or remove the reference.";
    ConfigInvalid = "config.invalid", "A value of the config is not acceptable.",
        "A value out of range, an unknown enum, an empty name.", "Correct the value that the message names.";
    ConfigItem = "config.item", "A configuration property is unknown or out of range.",
        "A typo, a value outside the documented range.", "See docs/properties.md for the name and range; the last good value stays.";
    ControllerUnreachable = "controller.unreachable", "The controller did not answer over any port.",
        "No network, DNS, firewall, proxy, controller down.", "Check the ports' states; retried for ever.";
    ControllerRefused = "controller.refused", "The controller answered with a refusal.",
        "Device unknown or not claimed, wrong certificate, wrong state.", "Check the device at the controller.";
    ControllerTls = "controller.tls", "The controller's TLS certificate is not acceptable.",
        "Expired or unknown CA, wrong clock, a TLS-intercepting proxy.", "Check the clock and /config/root-certificate.pem; add the proxy's CA to the port.";
    ControllerCert = "controller.cert", "The controller's signing certificates are not acceptable.",
        "Chain does not end in /config/root-certificate.pem, expired.", "Correct the certificates at the controller.";
    OnboardIdentity = "onboard.identity", "The device's identity could not be made or read.",
        "CONFIG partition missing or read-only, damaged key file.", "Repair the CONFIG partition.";
    OnboardConfig = "onboard.config", "The CONFIG partition lacks something that onboarding needs.",
        "No server file, no root certificate.", "Install with a complete /config.";
    AppNeedsRestart = "app.needs-restart", "The config asks for other hardware than the running guest has.",
        "Resources, volumes, interfaces or user data were changed.", "Restart the application at the controller.";
    AttestRefused = "attest.refused", "The controller refused the attestation.",
        "Changed measurements, unknown certificate.", "Check the device's attestation state at the controller.";
    DatastoreUnsupported = "datastore.unsupported", "The datastore's type is not supported.",
        "A type that this version does not know.", "Use HTTP or HTTPS.";
    DownloadNetwork = "download.network", "The datastore could not be reached over any port.",
        "No network, DNS, firewall, server down, port cost above the limit.", "Check the ports and the datastore; retried by itself.";
    DownloadRefused = "download.refused", "The datastore refused the request.",
        "Wrong path or credentials.", "Correct the content tree's URL or the datastore's credentials.";
    DownloadShort = "download.short", "The datastore delivered less than it promised.",
        "A dropped connection, a truncated file.", "Resumed by itself; check the file at the datastore when it repeats.";
    DownloadTooBig = "download.too-big", "The image is larger than the config allows.",
        "Wrong maximum size or wrong file.", "Correct the size at the controller.";
    DownloadStalled = "download.stalled", "No bytes arrived for too long.",
        "A bad link, an overloaded server.", "Resumed by itself; timer.download.stalled sets the limit.";
    DownloadWrite = "download.write", "The downloaded bytes could not be written.",
        "A disk error, a read-only file system.", "Check the disk.";
    VerifyDigest = "verify.digest", "The image's SHA-256 is not the one in the config.",
        "A damaged or exchanged file, a wrong digest in the config.", "Correct the digest or the file; it is fetched again after a while.";
    VerifyRead = "verify.read", "The downloaded file could not be read.",
        "A disk error.", "Check the disk.";
    VerifyWrite = "verify.write", "The verified copy of an image could not be written.",
        "A disk error, a read-only file system.", "Check the disk.";
    VolumeCreate = "volume.create", "The volume could not be created.",
        "A damaged image, a disk error.", "See the causes.";
    VolumeSpace = "volume.space", "There is not enough disk space for the volume.",
        "Too many or too large volumes.", "Delete unused volumes or raise storage.dom0.disk limits.";
    VolumeContent = "volume.content", "The volume's content could not be prepared.",
        "See the content tree's own error.", "See the content tree.";
    DomainStart = "domain.start", "The guest could not be started.",
        "QEMU refused its arguments, a missing device or file, not enough memory.", "See the causes; retried after timer.boot.retry.";
    DomainCrashed = "domain.crashed", "The guest ended by itself.",
        "The guest powered off or crashed, QEMU was killed, out of memory.", "Restarted by itself after timer.boot.retry.";
    DomainStalled = "domain.stalled", "The guest stands still because one of its disks can't be written.",
        "The device's disk is full or fails.", "Free space; the guest goes on by itself.";
    DomainStop = "domain.stop", "The guest could not be stopped.",
        "A process stuck in the kernel.", "A reboot may be needed.";
    DomainQmp = "domain.qmp", "QEMU does not answer on its control socket.",
        "An overloaded host, a hung QEMU.", "Retried by itself.";
    MemoryBudget = "domain.memory", "There is not enough memory for the guest.",
        "Too many or too large guests.", "Stop other guests or give this one less memory.";
    NetworkBridge = "network.bridge", "A network instance's bridge could not be made.",
        "A missing kernel feature, a foreign object of the same name.", "See the causes.";
    NetworkDhcpDns = "network.dnsmasq", "The DHCP and DNS server of a network instance does not run.",
        "A port conflict, a missing binary.", "See its log; restarted by itself.";
    NetworkRules = "network.rules", "The packet filter could not be loaded.",
        "A missing kernel feature, an invalid rule.", "See the causes; the former rules stay in force.";
    NetworkSubnet = "network.subnet", "Two network instances or a port use overlapping addresses.",
        "The same subnet configured twice.", "Give each its own subnet.";
    NetworkPortMap = "network.port-map", "Two port maps want the same external port.",
        "Two apps with the same external port.", "Change one of them.";
    NetworkMissing = "network.missing", "The application's network instance is not there.",
        "It is not configured or not yet up.", "Add it to the config.";
    PortMissing = "port.missing", "The configured port does not exist on this device.",
        "A wrong interface name, a missing driver.", "Correct the port's name.";
    PortDhcp = "port.dhcp", "No DHCP server answered on the port.",
        "A cable, a missing server.", "Check the network; retried by itself.";
    PortAddress = "port.address", "The port's address or route could not be set.",
        "A duplicate address, an invalid gateway.", "See the causes.";
    PortDns = "port.dns", "No DNS server of the port answers.",
        "A firewall, a wrong server.", "Check the DNS servers.";
    UnitCrashed = "unit.crashed", "A service or one of its helpers ended unexpectedly.",
        "A bug, out of memory, a missing file.", "Restarted by itself; evidence is below /persist/crash.";
    UnitHung = "unit.hung", "A service did not show a sign of life in time.",
        "A deadlock, an overloaded machine.", "Killed and restarted; evidence is below /persist/crash.";
    UnitStart = "unit.start", "A service or one of its helpers could not be started.",
        "A missing binary, a missing permission.", "See the causes; retried with increasing delays.";
    SupervisorUnreachable = "supervisor.unreachable", "The supervisor does not answer.",
        "It is being restarted.", "Retried by itself.";
    LogStore = "log.store", "Log files can't be written or read.",
        "The disk is full, fails, or is read-only.", "Free space; lines stay where they were printed, and are taken from there by itself.";
    ReportRefused = "report.refused", "The controller refused a report for good.",
        "The controller does not accept this message.", "The message is kept in quarantine; see the delivery journal.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_documented_and_stable_in_json() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(
                !code.meaning().is_empty()
                    && !code.causes().is_empty()
                    && !code.remedy().is_empty(),
                "{code}"
            );
            assert_eq!(
                serde_json::to_string(code).unwrap(),
                format!("{:?}", code.as_str())
            );
        }
    }

    #[test]
    fn a_code_of_the_future_is_readable() {
        assert_eq!(
            serde_json::from_str::<Code>("\"quantum.decohered\"").unwrap(),
            Code::Unknown
        );
    }
}
