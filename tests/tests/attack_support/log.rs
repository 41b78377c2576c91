//! The destination's own log: every packet that its machine gets, and every word its servers hear.

#![allow(unsafe_code, reason = "a packet socket has no safe wrapper in the standard library")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What one attempt may leave, at most: nothing here sends that much.
const HEARD_MAX: usize = 10_000;

/// A log that grows by itself until the test program ends.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    bytes: Vec<Vec<u8>>,
    /// Beginnings of connections that earlier attempts made: what comes again late is not the next one's.
    earlier: HashSet<Vec<u8>>,
}

impl Log {
    /// Logs the packets of the calling thread's namespace. They are there once this returns.
    pub fn of_packets() -> Self {
        let log = Self::default();
        let socket = packet_socket();
        let kept = log.clone();
        thread::spawn(move || {
            let mut packet = [0u8; 4096];
            loop {
                // SAFETY: a live descriptor and a live buffer with its own length.
                let length =
                    unsafe { libc::recv(socket.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
                match usize::try_from(length) {
                    Ok(length) => kept.add(&packet[..length]),
                    Err(_) => return,
                }
            }
        });
        log
    }

    /// A server in the calling thread's namespace that logs what it hears and answers "real".
    pub fn serve(&self, at: SocketAddr) {
        let (listener, log) = (TcpListener::bind(at).unwrap(), self.clone());
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let log = log.clone();
                thread::spawn(move || {
                    let _ = connection.set_read_timeout(Some(Duration::from_secs(20)));
                    let mut heard = [0; 512];
                    if let Ok(length @ 1..) = connection.read(&mut heard) {
                        log.add(&heard[..length]);
                        let _ = connection.write_all(b"real\n");
                    }
                });
            }
        });
    }

    fn add(&self, bytes: &[u8]) {
        let mut heard = self.0.lock().unwrap();
        if heard.bytes.len() < HEARD_MAX {
            heard.bytes.push(bytes.to_vec());
        }
    }

    pub fn clear(&self) {
        let mut heard = self.0.lock().unwrap();
        let begun: Vec<_> = heard.bytes.drain(..).filter_map(|packet| syn_of(&packet)).collect();
        heard.earlier.extend(begun);
    }

    /// Whether something with this token came, or the beginning of a connection to this machine's port.
    pub fn reached(&self, token: &str, addresses: &[IpAddr], port: u16) -> bool {
        let heard = self.0.lock().unwrap();
        let has = |bytes: &[u8]| bytes.windows(token.len()).any(|part| part == token.as_bytes());
        let is_earlier = |bytes: &[u8]| syn_of(bytes).is_some_and(|syn| heard.earlier.contains(&syn));
        heard
            .bytes
            .iter()
            .any(|bytes| has(bytes) || begins_connection(bytes, addresses, port) && !is_earlier(bytes))
    }
}

/// What tells one TCP connection's beginning from every other one's, and not from its own retransmissions: addresses, ports
/// and the first sequence number (RFC 9293 section 3.4.1).
fn syn_of(packet: &[u8]) -> Option<Vec<u8>> {
    let (addresses, transport) = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&6) => (12..20, usize::from(packet[0] & 15) * 4),
        6 if packet.get(6) == Some(&6) => (8..40, 40),
        _ => return None,
    };
    let flags = packet.get(transport + 13)?;
    (flags & 0x12 == 2)
        .then(|| Some([packet.get(addresses)?, packet.get(transport..transport + 8)?].concat()))
        .flatten()
}

/// A SYN for the port, or anything of SCTP or DCCP, which have no other packets.
fn begins_connection(packet: &[u8], addresses: &[IpAddr], port: u16) -> bool {
    let (to, protocol, transport) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 40 => {
            let to = <[u8; 4]>::try_from(&packet[16..20]).unwrap();
            (IpAddr::from(to), packet[9], usize::from(packet[0] & 15) * 4)
        }
        Some(6) if packet.len() >= 60 => {
            (IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()), packet[6], 40)
        }
        _ => return false,
    };
    let is_syn = || {
        let ports = packet.get(transport + 2..transport + 4);
        let flags = packet.get(transport + 13).copied().unwrap_or(0);
        ports == Some(&port.to_be_bytes()[..]) && flags & 0x12 == 2
    };
    addresses.contains(&to) && (protocol == 6 && is_syn() || matches!(protocol, 33 | 132))
}

fn packet_socket() -> OwnedFd {
    let all = i32::from(3u16.to_be());
    // SAFETY: plain system call; the descriptor is ours alone.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, all);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}
