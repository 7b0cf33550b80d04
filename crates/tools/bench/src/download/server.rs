//! An HTTP server that is no limit: it sends one block of memory over and over.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::LazyLock,
};

use anyhow::Result;
use lab::Netns;
use model::id::Digest;
use sha2::{Digest as _, Sha256};

/// Where it is.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

const MIB: usize = 1 << 20;

/// Bytes that nothing can make fewer.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = Vec::with_capacity(MIB);
    while block.len() < MIB {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
});

/// The digest of a file of so many MiB.
pub fn digest(size: u64) -> Digest {
    let mut hash = Sha256::new();
    for _ in 0..size {
        hash.update(&*BLOCK);
    }
    Digest(hash.finalize().into())
}

/// A server in a namespace. Its thread ends with the process; the namespace, too.
#[derive(Debug)]
pub struct Server {
    port: u16,
}

impl Server {
    /// Starts it.
    pub fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((ADDRESS, 0)))??;
        let port = listener.local_addr()?.port();
        std::thread::Builder::new()
            .name("bench-server".into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        // A client that goes away ends its own connection only.
                        let _ = answer(stream);
                    });
                }
            })?;
        Ok(Self { port })
    }

    /// Its address and port.
    pub fn host(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
    }

    /// Of a file of so many MiB.
    pub fn url(&self, size: u64) -> String {
        format!("http://{}/{size}", self.host())
    }
}

/// Answers one request: the path is the number of MiB.
fn answer(stream: TcpStream) -> io::Result<()> {
    let mut head = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    head.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let size: u64 = path.trim_matches('/').parse().map_err(io::Error::other)?;
    let mut body = stream;
    write!(
        body,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        size << 20
    )?;
    for _ in 0..size {
        body.write_all(&BLOCK)?;
    }
    Ok(())
}
