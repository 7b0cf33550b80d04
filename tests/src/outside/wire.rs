//! HTTP/1.1 by hand: as much of it as faults need.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Serves each client by itself, until the task is aborted.
pub(super) fn accept<F>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve(stream);
            // A client that goes away is no concern of a server.
            tokio::spawn(async move { drop(served.await) });
        }
    })
}

/// A request as it came.
pub(super) struct Request {
    /// Request line and headers, without the empty line.
    pub(super) head: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let path = head.split(' ').nth(1)?.to_owned();
        let mut request = Self {
            head,
            path,
            body: bytes.split_off(end + 4),
        };
        let length = request.header("content-length");
        let length: usize = length.map_or(0, |text| text.parse().unwrap());
        while request.body.len() < length {
            if stream.read_buf(&mut request.body).await.ok()? == 0 {
                return None;
            }
        }
        Some(request)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The first byte that is asked for.
    pub(super) fn range(&self) -> Option<usize> {
        let range = self.header("range")?;
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// The head of an answer.
pub(super) fn head(code: u16, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut lines = vec![
        format!("HTTP/1.1 {code} Text"),
        format!("content-length: {length}"),
        "connection: close".to_owned(),
    ];
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}")),
    );
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}
