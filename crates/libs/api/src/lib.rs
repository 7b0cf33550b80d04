//! The messages between a device and its controller, generated from `proto/`; nothing else.
//!
//! One module per protobuf package, named by the package's last part:
//! `org.lfedge.eve.config` is [`config`], so its `EdgeDevConfig` is [`config::EdgeDevConfig`].
//! Names and numbers are those of the EVE API, since devices and controllers of others speak it
//! too; what a message means stands beside it in `proto/`. Rust spelling differs a little where
//! the schema's is unusual: `UUIDandVersion` is [`config::UuiDandVersion`], `ipspec` is
//! [`common::Ipspec`], field `protectedPayload` is `protected_payload`.
//!
//! Every message is a [`prost::Message`] and also serialises as canonical proto3 JSON through
//! serde; fields that this build does not know are ignored in both forms. They are not kept
//! either, so signatures have to be checked over the bytes as received, never over a message
//! encoded again.
//! Well-known types come from [`pbjson_types`].
//!
//! Translating messages into objects of the device is the work of their users (`zedagent` for
//! configuration, `reporter` for information and metrics), sending them that of `controller`.
#![forbid(unsafe_code)]

/// The schemas of all packages below, as an encoded `google.protobuf.FileDescriptorSet`.
///
/// For tools that work on messages by reflection and for checking numbers and names against the
/// facts of the protocol.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/eve.fds"));

/// Declares one module with the generated code of a protobuf package.
macro_rules! package {
    ($(#[$doc:meta])* $module:ident) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            rustdoc::all,
            clippy::all,
            clippy::pedantic,
            reason = "generated code"
        )]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/org.lfedge.eve.", stringify!($module), ".rs"));
            include!(concat!(env!("OUT_DIR"), "/org.lfedge.eve.", stringify!($module), ".serde.rs"));
        }
    };
}

package!(
    /// Proving a device's identity and software state: certificates, nonce, quote, escrowed keys.
    attest
);
package!(
    /// The signed envelope around every message of API version 2.
    auth
);
package!(
    /// Certificates that the controller hands to devices.
    certs
);
package!(
    /// Vocabulary shared by several packages: encryption blocks, network and adapter kinds.
    common
);
package!(
    /// What the controller wants of a device.
    config
);
package!(
    /// Connections seen by the packet filter, per application network.
    flowlog
);
package!(
    /// Health of the hardware: memory errors and the like.
    hardwarehealth
);
package!(
    /// What the device reports of itself and of each object on it.
    info
);
package!(
    /// Log entries and the bundles in which they travel.
    logs
);
package!(
    /// Usage counters and gauges of the device and of each object on it.
    metrics
);
package!(
    /// What a runtime inside an application reports about the workloads it holds.
    nestedappinstancemetrics
);
package!(
    /// The protocol between a device and a profile server in its local network.
    profile
);
package!(
    /// Requests that the controller forwards for a device.
    proxy
);
package!(
    /// First contact of a device that the controller does not know yet.
    register
);
package!(
    /// The device asking for the UUID that the controller gave it.
    uuid
);
