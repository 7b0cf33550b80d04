//! `eve why` on onboarding, config and reports.

use eve::{Device, why::Asked};
use model::{
    code::Code,
    node::{AttestPhase, ConfigSource, OnboardPhase},
};

use crate::device::*;

#[test]
fn the_way_to_the_controller() {
    let early = |phase: OnboardPhase, problem: Option<(Code, &str)>| {
        let mut d = bare();
        let full = healthy();
        d.services = full.services;
        d.network = full.network;
        d.port_configs = full.port_configs;
        d.onboarding = full.onboarding;
        let status = d.onboarding.rows.get_mut("global").unwrap();
        status.phase = phase;
        status.device = None;
        status.fault = problem.map(|(code, text)| fault(code, "onboarding", text));
        d
    };
    let onboarding = |d: &Device| why(d, Asked::Onboarding, "onboarding");
    let config = |d: &Device| why(d, Asked::Config, "config");
    let mut unplugged = early(OnboardPhase::AwaitNetwork, None);
    no_lease(&mut unplugged);
    eth0(&mut unplugged).link_up = false;
    let mut silent = early(
        OnboardPhase::FetchCerts,
        Some((Code::ControllerUnreachable, "no answer over any port")),
    );
    let reachable = silent.clone();
    no_lease(&mut silent);
    let cases = vec![
        (
            "onboarding: the clock was never set",
            onboarding(&early(
                OnboardPhase::Identity,
                Some((
                    Code::OnboardIdentity,
                    "the clock says 1970-01-01T00:00:09Z: waiting for the time",
                )),
            )),
        ),
        ("onboarding: the cable is out", onboarding(&unplugged)),
        ("onboarding: no port", {
            let mut d = early(OnboardPhase::AwaitNetwork, None);
            d.network.rows.get_mut("global").unwrap().ports.clear();
            onboarding(&d)
        }),
        (
            "onboarding: the controller is not reached, the port has no lease",
            onboarding(&silent),
        ),
        (
            "onboarding: DNS leads nowhere",
            onboarding(&early(
                OnboardPhase::FetchCerts,
                Some((
                    Code::PortDns,
                    "certs failed: https://evc.example/certs over port mgmt: dns: evc.example: no answer",
                )),
            )),
        ),
        (
            "onboarding: the controller's certificate has expired",
            onboarding(&early(
                OnboardPhase::FetchCerts,
                Some((Code::ControllerTls, "tls: the certificate has expired")),
            )),
        ),
        (
            "onboarding: the controller's signing certificate has expired",
            onboarding(&early(
                OnboardPhase::FetchCerts,
                Some((Code::ControllerCert, "the signing certificate has expired")),
            )),
        ),
        (
            "onboarding: the proxy refuses",
            onboarding(&early(
                OnboardPhase::Register,
                Some((
                    Code::ControllerUnreachable,
                    "register failed: through proxy proxy.example:3128: proxy: it wants a login",
                )),
            )),
        ),
        (
            "onboarding: not claimed yet",
            onboarding(&early(
                OnboardPhase::Register,
                Some((
                    Code::ControllerRefused,
                    "uuid failed: code 403: the device is registered but not claimed yet",
                )),
            )),
        ),
        (
            "onboarding: the controller is not reached, the ports are fine",
            onboarding(&reachable),
        ),
        (
            "onboarding: the controller does not know the device",
            onboarding(&early(
                OnboardPhase::Register,
                Some((Code::ControllerRefused, "POST /register: 403 Forbidden")),
            )),
        ),
        (
            "onboarding: no UUID yet",
            onboarding(&early(OnboardPhase::GetUuid, None)),
        ),
        ("onboarding: done", onboarding(&healthy())),
        ("config: not onboarded", config(&silent)),
        (
            "config: in attestation",
            config(&with(|d| {
                let row = d.zedagent.rows.get_mut("zedagent").unwrap();
                row.config_source = ConfigSource::None;
                row.attest = AttestPhase::NonceWait;
            })),
        ),
        (
            "config: attestation refused",
            config(&with(|d| {
                let row = d.zedagent.rows.get_mut("zedagent").unwrap();
                row.attest = AttestPhase::RestartWait;
                row.fault = Some(fault(Code::AttestRefused, "attestation", "403 Forbidden"));
            })),
        ),
        (
            "config: signed by somebody else",
            config(&with(|d| {
                let row = d.zedagent.rows.get_mut("zedagent").unwrap();
                row.fault = Some(fault(
                    Code::ConfigSignature,
                    "config",
                    "unknown signer 00ff",
                ));
            })),
        ),
        (
            "config: the saved one",
            config(&with(|d| {
                let row = d.zedagent.rows.get_mut("zedagent").unwrap();
                row.config_source = ConfigSource::Saved;
            })),
        ),
        (
            "config: a property was refused",
            config(&with(|d| {
                let items = d.config_items.rows.get_mut("global").unwrap();
                items.errors.insert(
                    "timer.config.intervall".to_owned(),
                    "unknown property; did you mean timer.config.interval?".to_owned(),
                );
                items
                    .errors
                    .insert("vmm.x".to_owned(), "unknown property".to_owned());
            })),
        ),
        (
            "report: refused",
            why(
                &with(|d| {
                    let record = d.journal.rows.get_mut("device").unwrap();
                    record.fault = Some(fault(
                        Code::ReportRefused,
                        "report device",
                        "413 Payload Too Large",
                    ));
                }),
                Asked::Report,
                "device",
            ),
        ),
        (
            "report: the controller is not reached",
            why(
                &with(|d| {
                    let record = d.journal.rows.get_mut(&format!("app.{APP}")).unwrap();
                    record.fault = Some(fault(
                        Code::ControllerUnreachable,
                        "report app",
                        "no answer",
                    ));
                    eth0(d).fault = Some(fault(
                        Code::PortDns,
                        "port eth0",
                        "no answer from 192.168.1.1",
                    ));
                }),
                Asked::Report,
                "app.",
            ),
        ),
        (
            "service: waits for zedagent's first config",
            why(
                &{
                    let mut d = silent.clone();
                    d.zedagent = healthy().zedagent;
                    d.zedagent.rows.get_mut("zedagent").unwrap().config_source = ConfigSource::None;
                    d.apps = healthy().apps;
                    d.apps.rows.clear();
                    d.apps.ready = false;
                    d
                },
                Asked::Service,
                "zedmanager",
            ),
        ),
    ];
    golden("controller", &cases);
}
