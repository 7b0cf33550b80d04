//! `eve why app` on guests.

use eve::Device;
use model::{app::AppPhase, code::Code, domain::DomainPhase, service::ServicePhase};

use crate::device::*;

#[test]
fn the_guest_of_an_app() {
    let failed = |d: &mut Device, code, text| {
        set_app(d, AppPhase::Failed, None);
        set_domain(d, DomainPhase::Failed, Some(fault(code, "domain", text)));
    };
    let cases = vec![
        ("it runs", healthy()),
        (
            "it runs without a lease",
            with(|d| {
                d.apps.rows.get_mut(APP).unwrap().vifs[0].leased = false;
            }),
        ),
        (
            "QEMU refuses",
            with(|d| {
                failed(
                    d,
                    Code::DomainStart,
                    "QEMU ended with code 1: no such machine",
                );
            }),
        ),
        (
            "the memory is used up",
            with(|d| {
                failed(d, Code::MemoryBudget, "it needs 4.0 GiB, 1.0 GiB are left");
            }),
        ),
        (
            "it is being started",
            with(|d| {
                set_app(d, AppPhase::Booting, None);
                set_domain(d, DomainPhase::Booting { since: before(7) }, None);
            }),
        ),
        (
            "its unit is down",
            with(|d| {
                set_app(d, AppPhase::Booting, None);
                set_domain(d, DomainPhase::Booting { since: before(7) }, None);
                down(d, &format!("domainmgr/{APP}"), 20);
            }),
        ),
        (
            "domainmgr hangs",
            with(|d| {
                set_app(d, AppPhase::Booting, None);
                let name = "domainmgr";
                d.services.rows.insert(
                    name.to_owned(),
                    unit(
                        name,
                        ServicePhase::Stopping {
                            pid: 107,
                            deadline: before(-3),
                        },
                    )
                    .1,
                );
            }),
        ),
        (
            "its disk can't be written",
            with(|d| {
                let phase = d.domains.rows[APP].phase.clone();
                set_domain(
                    d,
                    phase,
                    Some(fault(Code::DomainStalled, "domain", "the disk is full")),
                );
            }),
        ),
        (
            "it needs a restart",
            with(|d| {
                let mut fault = fault(Code::AppNeedsRestart, "app", "the config changed resources");
                fault.next = None;
                d.apps.rows.get_mut(APP).unwrap().fault = Some(fault);
            }),
        ),
        (
            "its config is faulty",
            with(|d| {
                let fault = fault(Code::ConfigInvalid, "app", "0 processors");
                d.app_configs.rows.get_mut(APP).unwrap().fault = Some(fault);
                set_app(d, AppPhase::Failed, None);
            }),
        ),
        (
            "its start is delayed",
            with(|d| {
                set_app(d, AppPhase::StartDelayed { until: before(-90) }, None);
            }),
        ),
        (
            "the device halts",
            with(|d| {
                set_app(d, AppPhase::Halted, None);
                d.node.rows.get_mut("nodeagent").unwrap().halt_apps = true;
            }),
        ),
        (
            "it shall not run",
            with(|d| {
                set_app(d, AppPhase::Halted, None);
                d.app_configs.rows.get_mut(APP).unwrap().activate = false;
                d.domain_configs.rows.get_mut(APP).unwrap().activate = false;
            }),
        ),
        (
            "it was removed from the config",
            with(|d| {
                d.app_configs.rows.clear();
                d.apps.rows.get_mut(APP).unwrap().phase = AppPhase::Deleting;
                set_domain(
                    d,
                    DomainPhase::Halting {
                        deadline: before(-40),
                    },
                    None,
                );
            }),
        ),
        (
            "zedmanager has not seen it",
            with(|d| {
                d.apps.rows.clear();
                d.volume_refs.rows.clear();
                down(d, "zedmanager", 4);
            }),
        ),
    ];
    golden("guest", &about_app(&cases));
}
