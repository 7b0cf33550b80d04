//! Just enough HTTP to ask a guest from outside, in whatever namespace the calling thread is.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// The body that `GET path` brings within `limit`.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream
        .take(1 << 20)
        .read_to_end(&mut answer)
        .context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    ensure!(
        head.starts_with("HTTP/1.") && head.contains(" 200"),
        "answered {}",
        head.lines().next().unwrap_or("")
    );
    Ok(body.to_owned())
}

/// Whether nobody answers at an address: refused, or silence for `limit`.
pub fn is_closed(address: SocketAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&address, limit).is_err()
}
