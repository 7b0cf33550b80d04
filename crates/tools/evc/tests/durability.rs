//! What was acknowledged survives `kill -9`, again and again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::info::{ZInfoApp, ZInfoMsg, z_info_msg::InfoContent};
use evc::admin::{Client, MessageQuery, NewAdmission};
use evc::decide::messages::Kind;
use http::Method;
use prost::Message as _;
use support::{Device, PROTO, batch, connect, init, request, root_pem, tls};

const KILLS: usize = 12;
const POSTERS: usize = 4;

struct Server {
    child: Child,
    devices: SocketAddr,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_evc"))
            .args(["serve", "--json", "--log", "error"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
        let devices = addresses["devices"].as_str().unwrap().parse().unwrap();
        Self { child, devices }
    }
}

impl Drop for Server {
    /// SIGKILL, in every case.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let mut server = Server::start(dir.path());
    let mut device = Device::new("S1");
    let admin = Client::from_dir(dir.path()).unwrap();
    let serial = NewAdmission {
        cert: None,
        serial: "S1".to_owned(),
        name: None,
        hold: false,
        ..NewAdmission::default()
    };
    admin.admit(&serial).await.unwrap();
    let config = tls(&root_pem(dir.path()), None, rustls::DEFAULT_VERSIONS);
    let mut connection = connect(server.devices, config.clone()).await.unwrap();
    let body = device.register(&batch(dir.path())).encode_to_vec();
    let path = "/api/v2/edgedevice/register";
    let reply = request(&mut connection, Method::POST, path, body, PROTO)
        .await
        .unwrap();
    assert_eq!(reply.status, 201);
    device.uuid = admin.device("S1").await.unwrap().uuid;
    let device = Arc::new(device);
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));

    for round in 0..KILLS {
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| {
                let (device, acknowledged) = (device.clone(), acknowledged.clone());
                let (config, address) = (config.clone(), server.devices);
                tokio::spawn(async move {
                    let Ok(mut connection) = connect(address, config).await else {
                        return;
                    };
                    for n in 0.. {
                        let name = format!("{round}-{poster}-{n}");
                        let body = device.seal(&info(&name)).encode_to_vec();
                        let path = format!("/api/v2/edgedevice/{}", device.path("info"));
                        let sent = request(&mut connection, Method::POST, &path, body, PROTO);
                        match sent.await {
                            Ok(reply) => {
                                assert_eq!(reply.status, 201);
                                acknowledged.lock().unwrap().insert(name);
                            }
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        // Kill it at another point each time.
        tokio::time::sleep(Duration::from_millis(60 + 37 * round as u64)).await;
        drop(server);
        for poster in posters {
            poster.await.unwrap();
        }
        server = Server::start(dir.path());
        let kept = kept(dir.path()).await;
        let acknowledged = acknowledged.lock().unwrap().clone();
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
    }
    let count = acknowledged.lock().unwrap().len();
    assert!(count > KILLS * POSTERS, "only {count} were acknowledged");
    println!("{count} acknowledged through {KILLS} kills");
}

fn info(name: &str) -> ZInfoMsg {
    let app = ZInfoApp {
        app_id: name.to_owned(),
        ..ZInfoApp::default()
    };
    ZInfoMsg {
        info_content: Some(InfoContent::Ainfo(app)),
        ..ZInfoMsg::default()
    }
}

async fn kept(dir: &Path) -> BTreeSet<String> {
    let client = Client::from_dir(dir).unwrap();
    let mut query = MessageQuery {
        limit: 10_000,
        after: Some(0),
        ..MessageQuery::of(Kind::Info)
    };
    let mut names = BTreeSet::new();
    loop {
        let page = client.messages(&query).await.unwrap();
        let Some(last) = page.last() else {
            return names;
        };
        query.after = Some(last.id);
        names.extend(
            page.iter()
                .map(|m| m.object.trim_start_matches("app/").to_owned()),
        );
    }
}
