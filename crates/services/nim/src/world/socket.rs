//! A socket for frames to and from DHCP servers, for ports without an address.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv,
        setsockopt, socket, sockopt::BindToDevice,
    },
};
use socket2::{SockFilter, SockRef};
use tokio::net::UdpSocket;

use crate::dhcp::frame::{CLIENT_PORT, SERVER_PORT};

/// Longest frame that is received.
const LONGEST: usize = 2048;

/// Frames of one interface, of which only UDP packets to DHCP clients are received.
pub(super) struct FrameSocket {
    /// To tokio a datagram socket is a datagram socket: it is only sent to and received from.
    socket: UdpSocket,
}

impl FrameSocket {
    /// Opens it on the interface with this name and number.
    pub(super) fn open(if_name: &str, index: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthIp,
        )?;
        SockRef::from(&fd).attach_filter(&filter())?;
        bind(fd.as_raw_fd(), &link_address(if_name, index)?)?;
        // Until then it was open for every interface.
        let mut buffer = [0; LONGEST];
        while recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(fd))?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub(super) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).await.map(|_| ())
    }

    /// The next frame.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LONGEST];
        let length = self.socket.recv(&mut buffer).await?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The address of an interface as `bind` wants it. The kernel gives it ready-made, so that none
/// has to be composed in memory by hand.
fn link_address(if_name: &str, index: u32) -> io::Result<LinkAddr> {
    let all = getifaddrs()?;
    let found = all
        .filter(|entry| entry.interface_name == if_name)
        .filter_map(|entry| entry.address?.as_link_addr().copied())
        .find(|address| u32::try_from(address.ifindex()) == Ok(index));
    found.ok_or_else(|| Errno::ENODEV.into())
}

/// Passes IPv4 packets of UDP to port 68 that are no later fragments. The numbers are those of
/// classic BPF: load, compare, jump over so many if true or false, return so many bytes.
fn filter() -> [SockFilter; 9] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_AFTER_HEADER: u16 = 0x48;
    const HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(EQUAL, 0, 6, 17),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(ANY_BIT, 4, 0, 0x1fff),
        SockFilter::new(HEADER_LENGTH, 0, 0, 14),
        SockFilter::new(LOAD_HALF_AFTER_HEADER, 0, 0, 16),
        SockFilter::new(EQUAL, 0, 1, u32::from(CLIENT_PORT)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// A UDP socket from our address to a server.
///
/// Without it the kernel would tell the server that nobody listens, while the answer is read from
/// the frame socket.
pub(super) async fn to_server(
    if_name: &str,
    address: Ipv4Addr,
    server: Ipv4Addr,
) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, CLIENT_PORT)).await?;
    setsockopt(&socket, BindToDevice, &if_name.into())?;
    socket.connect((server, SERVER_PORT)).await?;
    Ok(socket)
}
