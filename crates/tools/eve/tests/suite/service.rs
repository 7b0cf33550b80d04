//! `eve why` on ports and services, on everything, and on what can't be read.

use eve::{Device, snapshot::Supervisor, why::Asked};
use model::{
    app::AppPhase, code::Code, domain::DomainPhase, port::PortAddressing, service::ServicePhase,
};

use crate::device::*;

#[test]
fn ports_and_services() {
    let port = |d: &Device| why(d, Asked::Port, "mgmt");
    let service = |d: &Device, name: &str| why(d, Asked::Service, name);
    let cases = vec![
        ("port: fine", port(&healthy())),
        (
            "port: missing",
            port(&with(|d| {
                no_lease(d);
                eth0(d).fault = Some(fault(Code::PortMissing, "port eth0", "no interface eth0"));
            })),
        ),
        (
            "port: nim is down",
            port(&with(|d| {
                no_lease(d);
                down(d, "nim", 4);
            })),
        ),
        (
            "port: static, not set yet",
            port(&with(|d| {
                no_lease(d);
                eth0(d).addressing = PortAddressing::Static {
                    address: "10.0.0.5/24".parse().unwrap(),
                    gateway: None,
                };
            })),
        ),
        (
            "port: configured, not taken up",
            port(&with(|d| {
                d.network.rows.get_mut("global").unwrap().ports.clear();
            })),
        ),
        (
            "service: runs, restarted before",
            service(
                &with(|d| {
                    let row = d.services.rows.get_mut("nim").unwrap();
                    row.restarts = 2;
                    row.last_exit = "killed by signal 9".to_owned();
                }),
                "nim",
            ),
        ),
        (
            "service: backing off",
            service(&with(|d| down(d, "nim", 4)), "nim"),
        ),
        (
            "service: backing off, and nobody starts it",
            service(
                &with(|d| {
                    down(d, "nim", 4);
                    d.supervisor = Supervisor::Silent;
                }),
                "nim",
            ),
        ),
        (
            "service: runs, and ends again and again",
            service(
                &with(|d| {
                    down(d, "nim", 4);
                    let status = d.services.rows.get_mut("nim").unwrap();
                    status.phase = ServicePhase::Running {
                        pid: 9,
                        since: before(8),
                    };
                    status.fault = None;
                }),
                "nim",
            ),
        ),
        (
            "service: a system call that no unit may make",
            service(
                &with(|d| {
                    ended(
                        d,
                        "nim",
                        Code::UnitForbidden,
                        &units::ExitKind::Signal(units::SIGSYS),
                    );
                }),
                "nim",
            ),
        ),
        (
            "service: at its memory limit",
            service(
                &with(|d| ended(d, "nim", Code::UnitMemory, &units::ExitKind::OutOfMemory)),
                "nim",
            ),
        ),
        (
            "service: hangs again and again",
            service(
                &with(|d| {
                    let silence = units::ExitKind::Hung(std::time::Duration::from_secs(61));
                    ended(d, "nim", Code::UnitHung, &silence);
                }),
                "nim",
            ),
        ),
        (
            "service: starting",
            service(
                &with(|d| {
                    let phase = ServicePhase::Starting {
                        pid: 9,
                        since: before(2),
                    };
                    d.services
                        .rows
                        .insert("nim".to_owned(), unit("nim", phase).1);
                }),
                "nim",
            ),
        ),
        (
            "service: waits for another that is down",
            service(
                &with(|d| {
                    down(d, "nim", 4);
                    let phase = ServicePhase::Waiting {
                        after: vec!["nim".to_owned()],
                    };
                    d.services
                        .rows
                        .insert("zedagent".to_owned(), unit("zedagent", phase).1);
                }),
                "zedagent",
            ),
        ),
        (
            "service: stopped",
            service(
                &with(|d| {
                    d.services
                        .rows
                        .insert("nim".to_owned(), unit("nim", ServicePhase::Stopped).1);
                }),
                "nim",
            ),
        ),
        (
            "service: runs, its topic is not complete",
            service(&with(|d| d.network.ready = false), "nim"),
        ),
    ];
    golden("service", &cases);
}

#[test]
fn everything() {
    let cases = vec![
        ("all is well", whole(&healthy())),
        (
            "one cause, many effects",
            whole(&with(|d| {
                set_download(
                    d,
                    HALF,
                    Some(fault(
                        Code::DownloadNetwork,
                        "blob",
                        "no usable address on mgmt",
                    )),
                );
                no_lease(d);
                let unreachable = fault(
                    Code::ControllerUnreachable,
                    "config",
                    "no answer over any port",
                );
                d.zedagent.rows.get_mut("zedagent").unwrap().fault = Some(unreachable.clone());
                d.journal.rows.get_mut("device").unwrap().fault = Some(unreachable);
            })),
        ),
        (
            "several causes",
            whole(&with(|d| {
                let fault = fault(Code::DomainStart, "domain", "QEMU ended with code 1");
                set_app(d, AppPhase::Failed, Some(fault.clone()));
                set_domain(d, DomainPhase::Failed, Some(fault));
                down(d, "reporter", 4);
            })),
        ),
        ("nothing was ever published", whole(&bare())),
    ];
    golden("whole", &cases);
}

#[test]
fn what_cannot_be_read_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut d = healthy();
    set_app(&mut d, AppPhase::Failed, None);
    write(&d, root.path());
    let apps = root.path().join("run/zedagent/AppInstanceConfig");
    std::fs::write(apps.join(format!("{APP}.json")), "{\"Id\": 5}").unwrap();
    let trees = root
        .path()
        .join("run/zedagent/ContentTreeConfig/.quarantine");
    std::fs::create_dir_all(&trees).unwrap();
    std::fs::write(trees.join(format!("{TREE}.json")), "{").unwrap();
    let now = read(root.path(), Supervisor::Answers);
    let text = |answer| eve::why::answer_text(PLAIN, &answer, now.at);
    let mut gone = now.clone();
    gone.apps.rows.clear();
    let cases = vec![
        (
            "its config can't be read",
            text(eve::why::why(&gone, Some(Asked::App), APP).unwrap()),
        ),
        (
            "everything",
            eve::why::troubles_text(PLAIN, &eve::why::troubles(&now, None), now.at),
        ),
    ];
    golden("unreadable", &cases);
}
