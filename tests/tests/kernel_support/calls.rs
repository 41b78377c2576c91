//! Ways to call somebody, the odd ones included. Each says what came of it; none decides whether that is good.
#![allow(
    unsafe_code,
    reason = "the odd socket calls have no safe wrapper, and being odd is what they are for"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test program uses another part")]

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Longer than anything here takes, shorter than anyone waits.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn stream_socket(to: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap()
}

/// Connects and reads to the end. An empty answer is an answer.
pub fn ask(to: SocketAddr) -> io::Result<String> {
    read_all(TcpStream::connect_timeout(&to, PATIENCE)?)
}

pub fn read_all(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// Sends bytes and waits a moment for as many back.
pub fn echo(mut stream: &TcpStream, bytes: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    stream.set_read_timeout(Some(Duration::from_millis(700))).ok()?;
    stream.write_all(bytes).ok()?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).ok()?;
    Some(back)
}

pub fn connect_and_read(socket: Socket, to: SocketAddr) -> io::Result<String> {
    connect_with(socket, to)
}

/// Sends a fresh, unconnected TCP socket over a unix socket.
pub fn give_socket(over: &UnixStream) {
    give(over, &Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
}

/// Sends what is open here over a unix socket.
pub fn give(over: &UnixStream, what: &impl AsFd) {
    let fds = [what.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(over, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

/// Takes the socket of [`give_socket`].
pub fn receive_socket(over: &UnixStream) -> Socket {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(over, &mut [IoSliceMut::new(&mut [0; 1])], &mut control, RecvFlags::empty()).unwrap();
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    Socket::from(fd)
}

/// `how address` as one line: what was answered, or why not.
pub fn outcome(how: &str, address: &str) -> String {
    match attempt(how, address.parse().unwrap()) {
        Ok(answer) => answer,
        Err(error) => format!("refused: {error}"),
    }
}

/// One call, by name.
pub fn attempt(how: &str, to: SocketAddr) -> io::Result<String> {
    match how {
        "tcp" => ask(to),
        "mptcp" => connect_with(socket(to, libc::SOCK_STREAM, 262)?, to),
        "mark" => {
            let socket = stream_socket(to);
            socket.set_mark(0x7467)?;
            connect_with(socket, to)
        }
        "device" => {
            let socket = stream_socket(to);
            socket.bind_device(Some(b"tgin"))?;
            connect_with(socket, to)
        }
        "bind-first" => {
            let socket = stream_socket(to);
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            socket.bind(&SocketAddr::new(any, 0).into())?;
            connect_with(socket, to)
        }
        "fast-open" => fast_open(to),
        "unspec-reconnect" => unspec_reconnect(to),
        "udp" => {
            let socket = UdpSocket::bind(any(to))?;
            socket.send_to(b"out", to).map(|_| "sent".to_owned())
        }
        // Waits for an answer, too.
        "udp-ask" => ask_datagram(UdpSocket::bind(any(to))?.into(), to),
        "udplite-ask" => ask_datagram(socket(to, libc::SOCK_DGRAM, 136)?, to),
        "udp-routed" => {
            let socket = UdpSocket::bind(any(to))?;
            route_by_way_of_itself(&socket, to);
            socket.send_to(b"out", to).map(|_| "sent".to_owned())
        }
        "udp-connected" => {
            let socket = UdpSocket::bind(any(to))?;
            socket.connect(to)?;
            socket.send(b"out").map(|_| "sent".to_owned())
        }
        "udp-mapped" => {
            let socket = UdpSocket::bind("[::]:0")?;
            socket.send_to(b"out", mapped(to)).map(|_| "sent".to_owned())
        }
        "udplite" => send_to(socket(to, libc::SOCK_DGRAM, 136)?, to, b"out"),
        "udplite-connected" => {
            let socket = socket(to, libc::SOCK_DGRAM, 136)?;
            socket.connect(&to.into())?;
            socket.send(b"out").map(|_| "sent".to_owned())
        }
        "icmp" => send_to(
            socket(to, libc::SOCK_RAW, 1)?,
            SocketAddr::new(to.ip(), 0),
            &[8, 0, 0xf7, 0xff, 0, 0, 0, 0],
        ),
        "ping" => {
            send_to(socket(to, libc::SOCK_DGRAM, 1)?, SocketAddr::new(to.ip(), 0), &[8, 0, 0, 0, 0, 0, 0, 0])
        }
        other => odd_attempt(other, to),
    }
}

/// By hand, or without a call that a hook is named after.
fn odd_attempt(how: &str, to: SocketAddr) -> io::Result<String> {
    match how {
        "raw-tcp" => raw_tcp(to),
        "raw-hdrincl" => raw_header(to),
        "frame" | "frame-vlan" | "frame-vlan-twice" | "frame-posing" | "frame-extended" | "frame-udp"
        | "frame-mpls" => frame(how, "tgin", to),
        "repair" => repair(to),
        "uring" => ring::connect(to, false),
        "uring-polled" => ring::connect(to, true),
        "raw-extended" => {
            let raw = socket(to, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
            send_to(raw, SocketAddr::new(to.ip(), 0), &packet("frame-extended", to))
        }
        "raw-sctp" => raw_ports(to, 132),
        "raw-dccp" => raw_ports(to, 33),
        "raw-udplite" => raw_ports(to, 136),
        "sctp" => connect_with(socket(to, libc::SOCK_STREAM, 132)?, to),
        other => panic!("unknown call {other}"),
    }
}

fn ask_datagram(socket: Socket, to: SocketAddr) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    // Connected, so that "port unreachable" comes back as an error.
    socket.connect(&to.into())?;
    socket.send(b"out")?;
    let mut answer = [0; 16];
    let length = (&socket).read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Answers datagrams with "real" until the test process ends. `peer`: the only one it hears, by a connected socket.
pub fn answer_datagrams(at: SocketAddr, protocol: i32, peer: Option<SocketAddr>) {
    let server = socket(at, libc::SOCK_DGRAM, protocol).unwrap();
    server.set_reuse_address(true).unwrap();
    server.bind(&at.into()).unwrap();
    if let Some(peer) = peer {
        server.connect(&peer.into()).unwrap();
    }
    thread::spawn(move || {
        let mut asked = [MaybeUninit::uninit(); 16];
        while let Ok((_, from)) = server.recv_from(&mut asked) {
            let _ = match peer {
                None => server.send_to(b"real", &from),
                Some(_) => server.send(b"real"),
            };
        }
    });
}

fn any(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() }
}

pub fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

fn socket(to: SocketAddr, kind: i32, protocol: i32) -> io::Result<Socket> {
    Socket::new_raw(Domain::for_address(to), Type::from(kind), Some(Protocol::from(protocol)))
}

fn connect_with(socket: Socket, to: SocketAddr) -> io::Result<String> {
    socket.connect_timeout(&to.into(), PATIENCE)?;
    read_all(socket.into())
}

fn send_to(socket: Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    socket.send_to(bytes, &to.into()).map(|_| "sent".to_owned())
}

/// `sendto(MSG_FASTOPEN)`: the connect is inside the send.
fn fast_open(to: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(to);
    let address: SockAddr = to.into();
    // SAFETY: a live socket, three live bytes, and an address with its own length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            b"out".as_ptr().cast(),
            3,
            libc::MSG_FASTOPEN,
            address.as_ptr().cast(),
            address.len(),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    read_all(socket.into())
}

/// Disconnects by AF_UNSPEC.
pub fn disconnect(socket: &Socket) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: a live socket and a live address of its own size.
    let done =
        unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Connects, disconnects, connects again with the same socket.
fn unspec_reconnect(to: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(to);
    socket.connect_timeout(&to.into(), PATIENCE)?;
    disconnect(&socket)?;
    socket.set_nonblocking(false)?;
    connect_with(socket, to)
}

/// A socket for a connect that nobody waits for. `how`: plain; `deaf`, which hears no answer; `device`, bound to the way
/// out; or the address of the first hop of a source route.
pub fn odd_socket(how: &str, to: SocketAddr) -> Socket {
    let socket = stream_socket(to);
    socket.set_nonblocking(true).unwrap();
    match how {
        "plain" => {}
        // A filter that lets nothing through: BPF_RET of the constant 0.
        "deaf" => socket.attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).unwrap(),
        "device" => socket.bind_device(Some(b"tgin")).unwrap(),
        hop => source_route(&socket, hop.parse().unwrap()),
    }
    socket
}

/// Whether a connect was begun, and not refused at once.
pub fn begins(socket: &Socket, to: SocketAddr) -> bool {
    match socket.connect(&to.into()) {
        Err(error) => error.raw_os_error() == Some(libc::EINPROGRESS),
        Ok(()) => true,
    }
}

/// A listener that accepts nobody: one connection waits, and the SYNs of all others are dropped.
pub fn listen_deaf(at: SocketAddr) -> Socket {
    let socket = stream_socket(at);
    socket.bind(&at.into()).unwrap();
    socket.listen(0).unwrap();
    socket
}

/// Has this socket's packets go by way of this host first (IPv4 loose source route). Newer kernels want CAP_NET_RAW for it.
pub fn source_route(socket: &Socket, hop: std::net::Ipv4Addr) {
    let mut option = vec![131, 7, 4];
    option.extend(hop.octets());
    option.push(1);
    // SAFETY: a live socket, and live bytes with their own length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            option.as_ptr().cast(),
            option.len() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Has this socket's packets carry a segment routing header: this very address first, then the destination.
fn route_by_way_of_itself(socket: &UdpSocket, hop: SocketAddr) {
    let SocketAddr::V6(hop) = hop else { panic!("a routing header is IPv6") };
    // Type 4, one segment left of two; the first one in the list is the last one visited, filled in by the kernel.
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(hop.ip().octets());
    // SAFETY: a live socket, and live bytes with their own length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RTHDR,
            header.as_ptr().cast(),
            header.len() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// A SYN by hand, the kernel writes the IP header.
fn raw_tcp(to: SocketAddr) -> io::Result<String> {
    send_to(socket(to, libc::SOCK_RAW, 6)?, SocketAddr::new(to.ip(), 0), &syn(to.port()))
}

/// A SYN by hand with its IP header.
fn raw_header(to: SocketAddr) -> io::Result<String> {
    let SocketAddr::V4(v4) = to else { return raw_tcp(to) };
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 0, 0, 0, 0];
    packet.extend(v4.ip().octets());
    packet.extend(syn(v4.port()));
    send_to(socket(to, libc::SOCK_RAW, libc::IPPROTO_RAW)?, SocketAddr::new(to.ip(), 0), &packet)
}

/// A connection that nobody agreed to: in repair mode a connect needs no handshake. The first bytes follow it.
fn repair(to: SocketAddr) -> io::Result<String> {
    const TCP_REPAIR: i32 = 19;
    let socket = stream_socket(to);
    let set = |value: i32| {
        // SAFETY: a live socket and a live integer with its size.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                TCP_REPAIR,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(1)?;
    socket.connect(&to.into())?;
    set(0)?;
    socket.send(b"out").map(|_| "sent".to_owned())
}

/// The head of a packet of this protocol by hand: two ports, and what looks like the rest.
fn raw_ports(to: SocketAddr, protocol: i32) -> io::Result<String> {
    let mut head = vec![0x9c, 0x40];
    head.extend(to.port().to_be_bytes());
    head.extend([0; 20]);
    send_to(socket(to, libc::SOCK_RAW, protocol)?, SocketAddr::new(to.ip(), 0), &head)
}

/// A frame by hand to everybody on this interface, with a packet inside. Odd ones: VLAN tags; an ARP frame by what the
/// kernel is told, not by its bytes; ports behind an IPv6 extension header (IPv4: a no-operation option); MPLS.
pub fn frame(how: &str, interface: &str, to: SocketAddr) -> io::Result<String> {
    let (kind, posing) = if to.is_ipv4() { (0x0800u16, 0x0806u16) } else { (0x86dd, 0x0806) };
    let tags: &[u16] = match how {
        "frame-vlan" => &[0x8100, 1],
        "frame-vlan-twice" => &[0x88a8, 1, 0x8100, 1],
        "frame-mpls" => &[0x8847, 0x0001, 0x01ff],
        _ => &[],
    };
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 9]);
    bytes.extend(tags.iter().flat_map(|tag| tag.to_be_bytes()));
    if how != "frame-mpls" {
        bytes.extend(kind.to_be_bytes());
    }
    bytes.extend(packet(how, to));
    let told = if how == "frame-posing" { posing } else { kind };
    send_frame(interface, told, &bytes).map(|()| "sent".to_owned())
}

fn packet(how: &str, to: SocketAddr) -> Vec<u8> {
    let (protocol, inner) = match how {
        "frame-udp" => {
            let mut udp = vec![0x9c, 0x40];
            udp.extend(to.port().to_be_bytes());
            udp.extend([0, 8, 0, 0]);
            (17, udp)
        }
        _ => (6, syn(to.port())),
    };
    let extended = how == "frame-extended";
    match to.ip() {
        IpAddr::V4(v4) => {
            let length = 20 + inner.len() as u16 + if extended { 4 } else { 0 };
            let mut packet = vec![if extended { 0x46 } else { 0x45 }, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([0, 1, 0, 0, 64, protocol, 0, 0, 198, 18, 0, 9]);
            packet.extend(v4.octets());
            packet.extend(extended.then_some([1u8, 1, 1, 0]).into_iter().flatten());
            packet.extend(inner);
            packet
        }
        IpAddr::V6(v6) => {
            let length = inner.len() as u16 + if extended { 8 } else { 0 };
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([if extended { 60 } else { protocol }, 64]);
            packet.extend([0xfd, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            packet.extend(v6.octets());
            packet.extend(extended.then_some([protocol, 0, 1, 4, 0, 0, 0, 0]).into_iter().flatten());
            packet.extend(inner);
            packet
        }
    }
}

fn send_frame(interface: &str, kind: u16, bytes: &[u8]) -> io::Result<()> {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: plain system calls with live arguments of their own sizes; the descriptor is ours alone.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut at: libc::sockaddr_ll = std::mem::zeroed();
        at.sll_family = libc::AF_PACKET as u16;
        at.sll_protocol = kind.to_be();
        at.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        at.sll_halen = 6;
        let sent = libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const at).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        );
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn syn(port: u16) -> Vec<u8> {
    let mut head = vec![0x9c, 0x40];
    head.extend(port.to_be_bytes());
    head.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    head
}

/// Connects from several threads, half to each address, and counts the answers of the gate that name the right
/// destination and this process; other answers; and refusals with connections that were cut.
pub fn flood(
    threads: usize,
    times: usize,
    addresses: Vec<SocketAddr>,
    enough: &'static AtomicBool,
) -> String {
    let addresses = Arc::new(addresses);
    let counts: Vec<[usize; 3]> = (0..threads)
        .map(|_| {
            let addresses = Arc::clone(&addresses);
            thread::spawn(move || {
                let mut count = [0; 3];
                for time in (0..times).take_while(|_| !enough.load(Ordering::Relaxed)) {
                    let to = addresses[time % addresses.len()];
                    let expected = format!(
                        "out {} {} ",
                        SocketAddr::new(to.ip().to_canonical(), to.port()),
                        std::process::id()
                    );
                    count[match flood_one(to) {
                        Ok(answer) if answer.starts_with(&expected) => 0,
                        // A gate killed between accept and answer.
                        Ok(answer) if answer.is_empty() => 2,
                        Ok(_) => 1,
                        Err(_) => 2,
                    }] += 1;
                }
                count
            })
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    let sum = |index: usize| counts.iter().map(|count| count[index]).sum::<usize>();
    format!("right {} wrong {} refused {}", sum(0), sum(1), sum(2))
}

fn flood_one(to: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let peer = stream.peer_addr()?;
    let answer = read_all(stream)?;
    if peer == to { Ok(answer) } else { Ok(format!("the peer is shown as {peer}")) }
}

/// Another real, effective and saved user id, for good.
pub fn become_user(uid: u32) {
    // SAFETY: plain system call on this process.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0);
}

/// Connects by io_uring, without a connect(2).
mod ring {
    use super::{Duration, OwnedFd, SockAddr, SocketAddr, io, read_all, stream_socket, thread};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::sync::atomic::{AtomicU32, Ordering};

    const CONNECT: u8 = 16;
    const POLLED: u32 = 2;
    const ENTER_GET: u32 = 1;
    const WAKE: u32 = 2;
    const SUBMISSIONS: i64 = 0;
    const ENTRIES: i64 = 0x1000_0000;

    /// `polled`: a kernel thread takes what is submitted.
    pub(super) fn connect(to: SocketAddr, polled: bool) -> io::Result<String> {
        let socket = stream_socket(to);
        let address: SockAddr = to.into();
        // The parameters: 120 bytes, of which we set the flags and the thread's patience, and read offsets.
        let mut about = [0u32; 30];
        (about[2], about[4]) = if polled { (POLLED, 200) } else { (0, 0) };
        // SAFETY: system calls with live arguments; the mapped pages are the ring's own, as large as it says, and stay
        // mapped until the process ends, as does the entry that the kernel reads.
        let result = unsafe {
            let fd = libc::syscall(libc::SYS_io_uring_setup, 4, about.as_mut_ptr());
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = OwnedFd::from_raw_fd(fd as i32);
            let map = |length: usize, offset: i64| {
                let (rights, how) =
                    (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
                let at = libc::mmap(std::ptr::null_mut(), length, rights, how, fd.as_raw_fd(), offset);
                assert_ne!(at, libc::MAP_FAILED);
                at.cast::<u8>()
            };
            // One mapping holds both rings (5.4). Offsets of the submission ring begin at word 10, of the completions at 20.
            let length = (about[16] + about[0] * 4).max(about[25] + about[1] * 16);
            let rings = map(length as usize, SUBMISSIONS);
            let entry = map(4 * 64, ENTRIES);
            let word = |offset: u32| &*rings.add(offset as usize).cast::<AtomicU32>();
            entry.write(CONNECT);
            entry.add(4).cast::<i32>().write(socket.as_raw_fd());
            entry.add(8).cast::<u64>().write(u64::from(address.len()));
            entry.add(16).cast::<u64>().write(address.as_ptr() as u64);
            word(about[16]).store(0, Ordering::Release);
            word(about[11]).store(1, Ordering::Release);
            let (submit, flags) = if polled { (1, ENTER_GET | WAKE) } else { (1, ENTER_GET) };
            let none = std::ptr::null::<u8>();
            if libc::syscall(libc::SYS_io_uring_enter, fd.as_raw_fd(), submit, 1, flags, none, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            let came = (0..300).any(|_| {
                let came = word(about[21]).load(Ordering::Acquire) != 0;
                if !came {
                    thread::sleep(Duration::from_millis(10));
                }
                came
            });
            assert!(came, "no completion");
            rings.add(about[25] as usize + 8).cast::<i32>().read()
        };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        read_all(socket.into())
    }
}

/// The same, and keeps the right to raw and packet sockets.
pub fn become_user_with_net_raw(uid: u32) {
    const NET_RAW: u32 = 1 << 13;
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: plain system calls on this process; capset reads a header and two sets of its own.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
        let (head, sets) = ([VERSION_3, 0], [NET_RAW, NET_RAW, 0, 0, 0, 0]);
        assert_eq!(libc::syscall(libc::SYS_capset, head.as_ptr(), sets.as_ptr()), 0);
    }
}

/// Stays root, and keeps the rights over files alone.
pub fn keep_few_rights() {
    /// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER.
    const FILES: u32 = 0b1011;
    const VERSION_3: u32 = 0x2008_0522;
    let (head, sets) = ([VERSION_3, 0], [FILES, FILES, 0, 0, 0, 0]);
    // SAFETY: reads a header and two sets of its own.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), sets.as_ptr()) }, 0);
}

/// Counts the packets that arrive at an interface of this namespace for one address.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn open() -> Self {
        // SAFETY: plain system call; the descriptor is ours alone.
        let fd = unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_NONBLOCK,
                i32::from(0x0003u16.to_be()),
            );
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        Self(fd)
    }

    /// Has this done again until a packet for this address comes, and lets those that follow it pass: a new link loses some.
    pub fn await_one(&self, to: SocketAddr, mut act: impl FnMut()) {
        let came = (0..30).any(|_| {
            act();
            self.count(to) != 0
        });
        assert!(came, "no packet came for {to}");
        while self.count(to) != 0 {}
    }

    /// Packets since the last call that were for this address, and port where they have one (0: any).
    pub fn count(&self, to: SocketAddr) -> usize {
        thread::sleep(Duration::from_millis(100));
        let mut seen = 0;
        let mut packet = [0u8; 2048];
        loop {
            // SAFETY: a live descriptor and a live buffer with its own length.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
            if length <= 0 {
                return seen;
            }
            seen += usize::from(is_for(&packet[..length as usize], to));
        }
    }
}

fn is_for(packet: &[u8], to: SocketAddr) -> bool {
    let (destination, protocol, ports) = match packet[0] >> 4 {
        4 if packet.len() >= 20 => (
            IpAddr::from([packet[16], packet[17], packet[18], packet[19]]),
            packet[9],
            usize::from(packet[0] & 15) * 4,
        ),
        6 if packet.len() >= 40 => {
            (IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()), packet[6], 40)
        }
        _ => return false,
    };
    if destination != to.ip() || protocol == 58 {
        return false;
    }
    let port = packet.get(ports + 2..ports + 4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    to.port() == 0 || !matches!(protocol, 6 | 17 | 33 | 132 | 136) || port == to.port()
}

/// `SO_ORIGINAL_DST`, as a program that knows netfilter would ask.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    socket2::SockRef::from(stream).original_dst_v4().ok()?.as_socket()
}

/// Whether something can be read right now.
pub fn is_readable(what: &impl AsFd) -> bool {
    let mut wait = [rustix::event::PollFd::new(what, rustix::event::PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut wait, Some(&none)).unwrap() > 0
}

/// What bpf(2) answers: a new descriptor, for commands that open something.
fn bpf(command: libc::c_int, attributes: &mut [u64; 8]) -> io::Result<i32> {
    // SAFETY: 64 live bytes; pointers inside are of live values of the callers.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

fn bpf_open(command: libc::c_int, attributes: &mut [u64; 8]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the descriptor was opened just now and is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes the only value of a pinned array map, past everything that guards it.
pub fn overwrite_pinned(path: &std::path::Path, value: &[u8]) {
    insert_pinned(path, &[0; 4], value);
}

/// Writes a row of a pinned map, past everything that guards it.
pub fn insert_pinned(path: &std::path::Path, key: &[u8], value: &[u8]) {
    let map = open_pinned(path);
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    bpf(2, &mut [map.as_raw_fd() as u64, key, value, 0, 0, 0, 0, 0]).unwrap();
}

/// Takes a row out of a pinned map.
pub fn delete_pinned(path: &std::path::Path, key: &[u8]) {
    let map = open_pinned(path);
    bpf(3, &mut [map.as_raw_fd() as u64, key.as_ptr() as u64, 0, 0, 0, 0, 0, 0]).unwrap();
}

fn open_pinned(path: &std::path::Path) -> OwnedFd {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    bpf_open(7, &mut [path.as_ptr() as u64, 0, 0, 0, 0, 0, 0, 0]).unwrap()
}

/// Whether none of these programs exists any more, after a moment.
pub fn programs_are_gone(ids: &[u32]) -> bool {
    (0..50).any(|_| {
        thread::sleep(Duration::from_millis(40));
        ids.iter().all(|id| bpf_open(13, &mut [u64::from(*id), 0, 0, 0, 0, 0, 0, 0]).is_err())
    })
}
