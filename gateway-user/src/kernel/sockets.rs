//! The gate's sockets: listening, marking, and asking the kernel who called.
//!
//! [`identify`] needs no privilege, and a [`Gate`] none after it was adopted: it works through descriptors it already holds.
//! A socket without a record has no identity here, whoever it may be.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use gateway_ebpf::abi::{
    Bound, Config, LISTEN_INBOUND, LISTEN_OUTBOUND, LOGIN_NONE, LOGIN_READ, OPTION_LEVEL, OPTION_RECORD,
    Plain, Record, STATE_HANDED_INBOUND, STATE_HANDED_OUTBOUND,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::denials::Denials;
use super::heartbeat::Heartbeat;
use super::pins::{self, map_path};
use super::raw::{self, RawMap};
use super::tables::{self, Published, Tables};
use super::{Block, Exempt, KernelError, Place, Table, own, status, uplinks};

/// Connections that may wait for the gate to accept them; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// `SO_NETNS_COOKIE` at `SOL_SOCKET`: Linux 5.14.
const SO_NETNS_COOKIE: i32 = 71;
/// The inbound listeners stand on addresses that nobody can dial (documentation and discard prefixes): connections come
/// to them by `sk_lookup` alone.
const UNREACHABLE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UNREACHABLE_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Which way a connection came to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A process of this host dialled somewhere else, and was redirected.
    Outbound,
    /// A process of this host dialled a protected service of this host.
    Inbound,
}

/// The login behind a process (audit), which sudo and su do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Login {
    /// This kernel keeps none, or it could not be read.
    Unknown,
    /// Nobody logged in.
    None,
    /// This user id did.
    As(u32),
}

/// Who called connect(2) and where to, as the kernel saw it at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Which way.
    pub kind: Kind,
    /// What was dialled. Mapped addresses are given as IPv4.
    pub original: SocketAddr,
    /// Process id (thread group), in the host's numbering.
    pub tgid: u32,
    /// The calling thread.
    pub thread: u32,
    /// When the process started, in nanoseconds since boot (`/proc/PID/stat` field 22 has it in ticks); 0: unknown.
    pub started: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Who logged in.
    pub login: Login,
    /// Id of its cgroup: the inode of its directory in the cgroup v2 tree.
    pub cgroup: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Cookie of its socket.
    pub socket: u64,
    /// The calling thread's name, at most 15 bytes; not escaped.
    pub command: String,
    /// Inode of its executable; 0: unknown.
    pub executable_inode: u64,
    /// Device of its executable as `st_dev` gives it; 0: unknown.
    pub executable_device: u64,
    /// [`super::guard_id`] of its guard; 0: none.
    pub guard: u32,
    /// When it called, in nanoseconds since boot.
    pub at: u64,
}

/// Asks the kernel who is behind an accepted socket. `None`: no record, so no local process that could be named.
///
/// # Errors
/// Where the socket cannot be asked, or the answer is not one of ours.
pub fn identify(socket: impl AsFd) -> io::Result<Option<Seen>> {
    let mut record = Record::ZERO;
    match raw::socket_option(socket.as_fd(), OPTION_LEVEL, OPTION_RECORD, record.bytes_mut()) {
        Ok(length) if length == size_of::<Record>() => seen(&record).map(Some),
        Ok(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn seen(record: &Record) -> io::Result<Seen> {
    let kind = match record.state {
        STATE_HANDED_OUTBOUND => Kind::Outbound,
        STATE_HANDED_INBOUND => Kind::Inbound,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    Ok(Seen {
        kind,
        original: SocketAddr::new(IpAddr::from(record.address).to_canonical(), record.port),
        tgid: record.tgid,
        thread: record.pid,
        started: record.started,
        uid: record.uid,
        gid: record.gid,
        login: login(record.login),
        cgroup: record.cgroup,
        netns: record.tuple.netns,
        socket: record.cookie,
        command: text(&record.comm),
        executable_inode: record.executable_inode,
        executable_device: device(record.executable_device),
        guard: record.guard,
        at: record.at,
    })
}

fn login(kernel: u64) -> Login {
    match (kernel & LOGIN_READ != 0, kernel as u32) {
        (false, _) => Login::Unknown,
        (true, LOGIN_NONE) => Login::None,
        (true, uid) => Login::As(uid),
    }
}

/// What stands before the first zero.
pub(super) fn text(comm: &[u8]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

/// The kernel's own device number in the form that stat(2) shows.
fn device(kernel: u64) -> u64 {
    let (major, minor) = ((kernel >> 20) & 0xfff, kernel & 0xf_ffff);
    libc::makedev(major as u32, minor as u32)
}

/// Whether an address is this namespace's own, so that whoever comes from it is a local process. Errs on the side of
/// "own", as on hosts with `ip_nonlocal_bind`.
///
/// # Errors
/// Where it cannot be found out.
pub fn is_own_address(address: IpAddr) -> io::Result<bool> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return Ok(true);
    }
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => Ok(true),
        // A socket of no device finds no address of a VRF.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Ok(own::addresses_here()?.iter().any(|block| own::is_in(block, address)))
        }
        // A link-local address without its interface cannot be bound, own or not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
        Err(error) => Err(error),
    }
}

/// The gate's listeners, nonblocking. IPv6 ones are missing where the host has no IPv6.
#[derive(Debug)]
pub struct Listeners {
    /// Redirected connects of this host's processes arrive here: what was dialled is in [`identify`].
    pub outbound: Vec<TcpListener>,
    /// Connections to protected services arrive here: what was dialled is the accepted socket's local address.
    pub inbound: Vec<TcpListener>,
}

/// The namespace's own addresses, as the programs were told last.
#[derive(Debug, Default)]
pub struct Own(Option<Vec<Block>>);

/// What a running enforcer holds of the kernel. Adopting needs root; nothing else does.
#[derive(Debug)]
pub struct Gate {
    pins: PathBuf,
    pub(super) config: Config,
    tables: Tables,
    exempt: RawMap,
    bound: RawMap,
    listening: RawMap,
    counts: RawMap,
}

impl Gate {
    /// Where redirected connects go, in each namespace.
    pub(super) const LOOPBACK: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    /// Where the inbound listeners stand.
    pub(super) const UNREACHABLE: [IpAddr; 2] = [IpAddr::V4(UNREACHABLE_V4), IpAddr::V6(UNREACHABLE_V6)];

    /// Takes hold of what is loaded.
    ///
    /// # Errors
    /// Where nothing is loaded there, or another version's.
    pub fn adopt(pins: &Path) -> Result<Self, KernelError> {
        let config = pins::config(pins)?;
        let open = |name: &'static str, value| {
            RawMap::open(&map_path(pins, name), 4, value).map_err(KernelError::map(name))
        };
        Ok(Self {
            pins: pins.to_path_buf(),
            config,
            tables: Tables::open(pins)?,
            exempt: open("EXEMPT", 4)?,
            bound: open("BOUND", size_of::<Bound>())?,
            listening: open("LISTENING", 4)?,
            counts: open("COUNTS", 8)?,
        })
    }

    /// Where it is pinned.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The gate's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.config.gate_port
    }

    /// Makes the tables hold exactly this, new rows before old ones go.
    ///
    /// # Errors
    /// Where a row cannot be or does not fit; what stood there still protects.
    pub fn publish(&self, table: &Table) -> Result<Published, KernelError> {
        self.tables.publish(tables::resolve(table, self.config.gate_port)?)
    }

    /// Opens the gate's listeners in the caller's network namespace and puts them in charge. A gate that still runs keeps the
    /// connections it has and gets no new ones.
    ///
    /// # Errors
    /// Where the caller stands in another namespace, or a port is taken.
    pub fn listen(&self) -> Result<Listeners, KernelError> {
        self.is_here()?;
        Ok(Listeners {
            outbound: self.listen_at(Self::LOOPBACK, LISTEN_OUTBOUND)?,
            inbound: self.listen_at(Self::UNREACHABLE, LISTEN_INBOUND)?,
        })
    }

    /// Takes over listeners that the program before this one left, by its words, and puts them in charge.
    ///
    /// # Errors
    /// As [`Gate::listen`], and where they are none of ours.
    pub fn take_over(&self, words: &str) -> Result<Listeners, KernelError> {
        self.is_here()?;
        let failed = |source| KernelError::File { path: PathBuf::from("--listeners"), source };
        let listeners = Listeners::found(words, self.config.gate_port).map_err(failed)?;
        let all = [(LISTEN_OUTBOUND, &listeners.outbound), (LISTEN_INBOUND, &listeners.inbound)];
        for (first, listeners) in all {
            for listener in listeners {
                let at = listener.local_addr().map_err(failed)?;
                self.put_in_charge(first + u32::from(at.is_ipv6()), listener)?;
            }
        }
        Ok(listeners)
    }

    fn put_in_charge(&self, index: u32, listener: &TcpListener) -> Result<(), KernelError> {
        let fd = listener.as_fd().as_raw_fd().to_ne_bytes();
        self.listening.update(&index.to_ne_bytes(), &fd).map_err(KernelError::map("LISTENING"))
    }

    /// Takes the right to say that the gate lives. For whoever serves the listeners, once they are in charge.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub fn heartbeat(&self) -> Result<Heartbeat, KernelError> {
        Heartbeat::take(&self.pins)
    }

    /// Tells the programs which addresses are this namespace's own, where that differs from what they were told last. A
    /// local client of a service at an address they do not know has no record, and is refused.
    ///
    /// # Errors
    /// Where the caller stands in another namespace, or the addresses cannot be read or do not fit; what was told stands.
    pub fn tell_own(&self, told: &mut Own) -> Result<(), KernelError> {
        let netns = KernelError::file("/proc/thread-self/ns/net");
        self.is_here()?;
        let own = own::addresses_here().map_err(netns)?;
        if told.0.as_ref() != Some(&own) {
            self.tables.publish_own(0, &own)?;
            told.0 = Some(own);
        }
        Ok(())
    }

    /// Brings the programs to interfaces that came, in the place they were loaded for. Needs the rights to attach.
    ///
    /// # Errors
    /// Where the interfaces cannot be read, or a program not be attached to one: frames of packet sockets leave there.
    pub fn follow_uplinks(&self, place: &Place) -> Result<(), KernelError> {
        uplinks::follow(place).map(drop)
    }

    fn is_here(&self) -> Result<(), KernelError> {
        let cookie = own_netns_cookie().map_err(KernelError::file("/proc/thread-self/ns/net"))?;
        if cookie == self.config.netns { Ok(()) } else { Err(KernelError::OtherNamespace) }
    }

    /// The tables' maps.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Nobody is in charge at this place.
    pub(super) fn take_from_charge(&self, index: u32) -> Result<(), KernelError> {
        match self.listening.delete(&index.to_ne_bytes()) {
            // What the kernel says of an empty place.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other.map_err(KernelError::map("LISTENING")),
        }
    }

    /// Opens listeners at these addresses of the caller's namespace, and puts them in charge from this place on.
    pub(super) fn listen_at(
        &self,
        addresses: [IpAddr; 2],
        first: u32,
    ) -> Result<Vec<TcpListener>, KernelError> {
        let mut listeners = Vec::new();
        for (index, address) in (first..).zip(addresses) {
            let at = SocketAddr::new(address, self.config.gate_port);
            match self.listener(at) {
                Ok(listener) => {
                    self.put_in_charge(index, &listener)?;
                    listeners.push(listener);
                }
                Err(error) if address.is_ipv6() && no_ipv6(&error) => {
                    tracing::warn!(%error, "no IPv6 here: the gate listens on IPv4 alone");
                }
                Err(source) => return Err(KernelError::File { path: PathBuf::from(at.to_string()), source }),
            }
        }
        Ok(listeners)
    }

    fn listener(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        // It listens, and goes nowhere, also when it is shut down and connected: no connection has that port.
        let nowhere = Bound { address: [0; 16], port: u32::MAX };
        self.bound.update(&socket.as_fd().as_raw_fd().to_ne_bytes(), nowhere.bytes())?;
        // The bind guard lets only a marked socket have the gate's port.
        self.exempt(&socket)?;
        socket.set_reuse_address(true)?;
        // So that the next gate can listen while this one drains.
        socket.set_reuse_port(true)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// Marks one of the gate's own sockets, before it connects, so that it is neither redirected nor steered.
    ///
    /// # Errors
    /// Where the kernel has no memory for the mark: do not connect then.
    pub fn exempt(&self, socket: impl AsFd) -> io::Result<()> {
        self.exempt.update(&socket.as_fd().as_raw_fd().to_ne_bytes(), &1u32.to_ne_bytes())
    }

    /// A socket of the gate's own that can be connected to this place and to no other, for a process that is not trusted
    /// with more: nonblocking, not connected yet.
    ///
    /// # Errors
    /// There is no socket to be had, or the kernel has no memory for its marks.
    pub fn socket_for(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = Exempt::plain_socket(to)?;
        let fd = socket.as_fd().as_raw_fd().to_ne_bytes();
        let bound = Bound { address: mapped_octets(to.ip()), port: u32::from(to.port()) };
        // The place first: a socket that is let out has one at every moment.
        self.bound.update(&fd, bound.bytes())?;
        self.exempt(&socket)?;
        Ok(socket.into())
    }

    /// Every counter by name, summed over the processors.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        status::counters(&self.counts)
    }

    /// The telemetry of refusals. One reader at a time; what it misses is counted as `event_lost`.
    ///
    /// # Errors
    /// Where the ring cannot be opened. Needs root, like [`Gate::adopt`].
    pub fn denials(&self) -> Result<Denials, KernelError> {
        Denials::open(&self.pins)
    }
}

/// The address as the programs see it: IPv4 mapped into IPv6; where it is unspecified, the loopback that Linux dials.
fn mapped_octets(address: IpAddr) -> [u8; 16] {
    let address = match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Says that this address family is switched off, not that the address is taken.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// The cookie of a network namespace.
pub(super) fn netns_cookie(path: &Path) -> Result<u64, KernelError> {
    inside(path, own_netns_cookie)
}

/// Asks something of a network namespace, by entering it on a thread of its own where it is not the caller's.
pub(super) fn inside<T: Send + 'static>(
    path: &Path,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, KernelError> {
    let failed = || KernelError::file(path);
    let own = pins::inode(Path::new("/proc/thread-self/ns/net"))?;
    if pins::inode(path)? == own {
        return ask().map_err(failed());
    }
    let file = File::open(path).map_err(failed())?;
    let inside = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        ask()
    });
    match inside.join() {
        Ok(answer) => answer.map_err(failed()),
        Err(_) => {
            Err(KernelError::File { path: path.to_path_buf(), source: io::Error::from(io::ErrorKind::Other) })
        }
    }
}

pub(super) fn own_netns_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let mut cookie = [0u8; 8];
    raw::socket_option(socket.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut cookie)?;
    Ok(u64::from_ne_bytes(cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_did_not_come_through_the_gate_has_no_identity() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(identify(&client).unwrap(), None);
        assert_eq!(identify(listener.accept().unwrap().0).unwrap(), None);
    }

    #[test]
    fn a_record_that_was_not_handed_over_is_not_believed() {
        assert!(seen(&Record::ZERO).is_err());
        let record =
            Record { state: STATE_HANDED_OUTBOUND, comm: *b"python3\0\0\0\0\0\0\0\0\0", ..Record::ZERO };
        assert_eq!(seen(&record).unwrap().command, "python3");
    }

    #[test]
    fn a_mapped_address_is_given_as_the_ipv4_address_it_is() {
        let address = gateway_ebpf::abi::mapped([10, 0, 0, 1]);
        let record = Record { state: STATE_HANDED_OUTBOUND, address, port: 80, ..Record::ZERO };
        assert_eq!(seen(&record).unwrap().original, "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn a_login_that_was_not_read_is_neither_roots_nor_nobodys() {
        assert_eq!(login(0), Login::Unknown);
        assert_eq!(login(LOGIN_READ), Login::As(0));
        assert_eq!(login(LOGIN_READ | 1001), Login::As(1001));
        assert_eq!(login(LOGIN_READ | u64::from(LOGIN_NONE)), Login::None);
    }

    #[test]
    fn the_kernels_device_number_becomes_the_one_stat_shows() {
        assert_eq!(device((254 << 20) | 1), libc::makedev(254, 1));
        assert_eq!(device((8 << 20) | 0x1_2345), libc::makedev(8, 0x1_2345));
    }

    #[test]
    fn own_addresses_are_told_from_others() {
        assert!(is_own_address("127.9.9.9".parse().unwrap()).unwrap());
        assert!(is_own_address("::ffff:127.0.0.1".parse().unwrap()).unwrap());
        assert!(!is_own_address("198.51.100.7".parse().unwrap()).unwrap());
    }
}
