//! The datastore as a downloader uses it: whole, in parts, again, and over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use evc::{pki, serve};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use support::{Connection, connect, init, root_pem, tls};
use tokio::net::TcpListener;
use tokio::sync::watch;

struct Store {
    connection: Connection,
    stop: watch::Sender<bool>,
}

impl Store {
    async fn new(dir: &Path, files: &Path) -> Self {
        let (chain, key) = pki::load_tls(dir).unwrap();
        let config = serve::server_config(&chain, &key, false).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = serve::datastore::router(files.to_owned());
        tokio::spawn(serve::serve(listener, Some(config), router, stopped));
        let client = tls(&root_pem(dir), None, rustls::DEFAULT_VERSIONS);
        Self {
            connection: connect(address, client).await.unwrap(),
            stop,
        }
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Bytes) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let response = self.connection.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (
            parts.status.as_u16(),
            parts.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Bytes) {
        self.ask(Method::GET, path, headers).await
    }
}

#[tokio::test]
async fn a_download_in_parts_gives_the_file() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(files.join("disk.qcow2"), &content).unwrap();
    let mut store = Store::new(dir.path(), &files).await;

    let (status, headers, body) = store.get("/disk.qcow2", &[]).await;
    assert_eq!((status, body.as_ref()), (200, content.as_slice()));
    assert_eq!(headers["accept-ranges"], "bytes");
    assert_eq!(headers["content-length"], "300000");
    let tag = headers["etag"].to_str().unwrap().to_owned();

    let (status, headers, head) = store
        .get(
            "/disk.qcow2",
            &[("range", "bytes=0-99999"), ("if-range", &tag)],
        )
        .await;
    assert_eq!(status, 206);
    assert_eq!(headers["content-range"], "bytes 0-99999/300000");
    let (status, _, tail) = store
        .get(
            "/disk.qcow2",
            &[("range", "bytes=100000-"), ("if-range", &tag)],
        )
        .await;
    assert_eq!(status, 206);
    assert_eq!([head, tail].concat(), content);

    let (status, headers, _) = store
        .get("/disk.qcow2", &[("range", "bytes=300000-")])
        .await;
    assert_eq!(
        (status, &headers["content-range"]),
        (416, &"bytes */300000".parse().unwrap())
    );
    let (status, _, body) = store.get("/disk.qcow2", &[("if-none-match", &tag)]).await;
    assert_eq!((status, body.len()), (304, 0));
    let (status, headers, body) = store.ask(Method::HEAD, "/disk.qcow2", &[]).await;
    assert_eq!((status, body.len()), (200, 0));
    assert_eq!(headers["content-length"], "300000");

    // Another version: the rest of the old one must not be glued to it.
    std::fs::write(files.join("new"), &content[1..]).unwrap();
    std::fs::rename(files.join("new"), files.join("disk.qcow2")).unwrap();
    let range = [("range", "bytes=100000-"), ("if-range", tag.as_str())];
    let (status, _, body) = store.get("/disk.qcow2", &range).await;
    assert_eq!((status, body.len()), (200, 299_999));
    let (status, _, _) = store.get("/disk.qcow2", &[("if-match", &tag)]).await;
    assert_eq!(status, 412);

    for path in ["/missing", "/", "/%2e%2e/pki/root.key.pem", "/../evc.db"] {
        assert_eq!(store.get(path, &[]).await.0, 404, "{path}");
    }
    assert_eq!(store.ask(Method::PUT, "/disk.qcow2", &[]).await.0, 405);
    store.stop.send_replace(true);
}
