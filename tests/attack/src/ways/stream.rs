//! Connections: every way to begin one, and every way to come by one that somebody else began.

use std::io::{Error, Read, Result, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::sys::{self, set_number, sockaddr};
use crate::{Aim, helpers};

/// Connects and talks.
pub(crate) fn plain(aim: &Aim, to: SocketAddr) -> Result<String> {
    let socket = sys::stream(to)?;
    aim.pause();
    dial(aim, &socket, to)
}

fn dial(aim: &Aim, socket: &OwnedFd, to: SocketAddr) -> Result<String> {
    sys::connect(socket, &sockaddr(to))?;
    sys::talk(socket, aim.token())
}

pub(crate) fn mapped(aim: &Aim) -> Result<String> {
    plain(aim, as_mapped(aim.to()))
}

pub(crate) fn as_mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

pub(crate) fn bind_first(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::bind(&socket, &sockaddr((Ipv4Addr::UNSPECIFIED, 0).into()))?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn dont_route(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    set_number(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn mark(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    set_number(&socket, libc::SOL_SOCKET, libc::SO_MARK, 0x7467)?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn device(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, aim.get("device").as_bytes())?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn fast_open(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::send_to(&socket, aim.token().as_bytes(), &sockaddr(aim.to()), libc::MSG_FASTOPEN)?;
    sys::hear(&socket)
}

pub(crate) fn fast_open_connect(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    set_number(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn multipath(aim: &Aim) -> Result<String> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    dial(aim, &socket, aim.to())
}

/// No answer finds its way to the foreign address: what counts is that the first packet leaves.
pub(crate) fn transparent(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    set_number(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?;
    sys::bind(&socket, &sockaddr((Ipv4Addr::new(203, 0, 113, 77), 0).into()))?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn source_route(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    let SocketAddr::V4(hop) = aim.to() else { return Err(Error::other("a source route is IPv4")) };
    let mut option = vec![131, 7, 4];
    option.extend(hop.ip().octets());
    option.push(1);
    sys::set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option)?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn repair(aim: &Aim) -> Result<String> {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_WINDOW: i32 = 29;
    let socket = sys::stream(aim.to())?;
    set_number(&socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    sys::bind(&socket, &sockaddr((Ipv4Addr::UNSPECIFIED, 0).into()))?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    // Room to send: the sequence of the last update, our and the largest window, theirs and its last update.
    let window: Vec<u8> =
        [0u32, 60_000, 60_000, 60_000, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    sys::set(&socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window)?;
    // Off, without the window probe that the other side would answer by a reset before we have said anything.
    set_number(&socket, libc::IPPROTO_TCP, TCP_REPAIR, -1)?;
    sys::talk(&socket, aim.token())
}

pub(crate) fn reconnect(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    let mut nobody = [0; 16];
    nobody[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    sys::connect(&socket, &nobody)?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn keep_alive(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    aim.pause();
    sys::talk(&socket, aim.token())
}

pub(crate) fn fork(aim: &Aim) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    // SAFETY: one thread, and the child only sends and ends.
    let child = sys::answer(i64::from(unsafe { libc::fork() }))?;
    if child == 0 {
        let sent = sys::send(&socket, aim.token().as_bytes());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(sent.is_err())) };
    }
    sys::hear(&socket)
}

pub(crate) fn thread_uid(aim: &Aim) -> Result<String> {
    let (to, token) = (aim.to(), aim.token().to_owned());
    let thread = std::thread::spawn(move || {
        sys::call(libc::SYS_setresuid, [61_234, 61_234, 61_234, 0, 0, 0])?;
        let socket = sys::stream(to)?;
        sys::connect(&socket, &sockaddr(to))?;
        sys::talk(&socket, &token)
    });
    thread.join().unwrap_or_else(|_| Err(Error::other("the thread panicked")))
}

pub(crate) fn other_cgroup(aim: &Aim) -> Result<String> {
    std::fs::write(format!("{}/cgroup.procs", aim.get("elsewhere")), std::process::id().to_string())?;
    plain(aim, aim.to())
}

/// By clone3(2) with `CLONE_INTO_CGROUP`. The child's answer comes through a pipe.
pub(crate) fn child_in_other_cgroup(aim: &Aim) -> Result<String> {
    const INTO_CGROUP: u64 = 1 << 33;
    let cgroup = std::fs::File::open(aim.get("elsewhere"))?;
    let (mut heard, said) = std::io::pipe()?;
    let mut arguments = [0u64; 11];
    arguments[0] = INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = cgroup.as_raw_fd() as u64;
    let size = size_of_val(&arguments) as u64;
    let child = sys::call(libc::SYS_clone3, [arguments.as_mut_ptr() as u64, size, 0, 0, 0, 0])?;
    if child == 0 {
        let outcome = plain(aim, aim.to());
        let code = outcome.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(1));
        drop((&said).write_all(outcome.unwrap_or_default().as_bytes()));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    drop(said);
    let mut text = String::new();
    heard.read_to_string(&mut text)?;
    let mut status = 0;
    // SAFETY: a live integer, and a child of ours.
    sys::answer(i64::from(unsafe { libc::waitpid(child as i32, &raw mut status, 0) }))?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(text),
        code => Err(Error::from_raw_os_error(code)),
    }
}

pub(crate) fn own_namespace(aim: &Aim) -> Result<String> {
    // SAFETY: one thread, plain flags.
    sys::answer(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }))?;
    plain(aim, aim.to())
}

/// The other namespace has an uplink of its own.
pub(crate) fn other_namespace(aim: &Aim) -> Result<String> {
    let netns = std::fs::File::open(aim.get("othernetns"))?;
    // SAFETY: a live descriptor.
    sys::answer(i64::from(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }))?;
    plain(aim, aim.to())
}

pub(crate) fn passed_fresh(aim: &Aim) -> Result<String> {
    let socket = helpers::take(aim, "fresh")?;
    dial(aim, &socket, aim.to())
}

pub(crate) fn passed_connected(aim: &Aim) -> Result<String> {
    let socket = helpers::take(aim, "connected")?;
    sys::talk(&socket, aim.token())
}

pub(crate) fn relay(aim: &Aim) -> Result<String> {
    let socket: OwnedFd = UnixStream::connect(aim.get("relay"))?.into();
    sys::talk(&socket, aim.token())
}

/// What is left of an IPv6 address on the wire.
pub(crate) fn octets6(of: SocketAddr) -> [u8; 16] {
    match of {
        SocketAddr::V6(v6) => v6.ip().octets(),
        SocketAddr::V4(_) => Ipv6Addr::UNSPECIFIED.octets(),
    }
}
