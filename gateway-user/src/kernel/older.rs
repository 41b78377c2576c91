//! Sockets that are older than what protects their peer: found, and destroyed.
//!
//! The rule is the egress hook's own (`choose::packet`), asked with what the kernel's list says of each socket, which
//! includes what our programs keep on it: a socket is destroyed exactly where its next packet would be dropped. So the
//! gate's own sockets, what came through the gate and what was accepted while the programs watched stay. Refuses to
//! judge by half a list.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gateway_ebpf::abi::{
    self, ACCEPTED_VETTED, Address, BLOCK_BITS, BlockData, BlockKey, Config, Counter, DnsKey, ExemptKey,
    Mark, Plain, Record, STATE_LOCAL, STATE_LOST, STATE_REDIRECTED,
};
use gateway_ebpf::choose::{self, Packet};

use super::KernelError;
use super::diag::{self, FAMILY_V4, FAMILY_V6, Listed};
use super::pins::{self, cgroup2_root, map_path};
use super::raw::RawMap;
use super::sock_diag::Link;
use super::sockets;

/// Directories of the cgroup tree looked at. The tree of a busy host has a few thousand.
const CGROUPS_MAX: usize = 100_000;
const UDPLITE: u32 = 136;
const FIN_WAIT2: u8 = 5;
/// Established, SYN sent, both FIN waits, close wait, last ACK, closing. The hooks judge whoever is still shaking hands
/// with a listener, and nothing leaves a listener, a closed socket or one in time wait.
const SYN_SENT: u32 = 1 << 2;
const TCP_STATES: u32 = 1 << 1 | 1 << 4 | 1 << FIN_WAIT2 | 1 << 8 | 1 << 9 | 1 << 11;
/// Connected.
const UDP_STATES: u32 = 1 << 1;

/// A socket whose next packet would be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    /// "tcp", "udp" or "udplite".
    pub protocol: &'static str,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// Who owns it.
    pub uid: u32,
    /// Inode of its file, by which its process can be found; 0: no process holds it any more.
    pub inode: u64,
    /// Cgroup it was made in.
    pub cgroup: Option<u64>,
    /// [`super::guard_id`] of the guard it belongs to; 0: none.
    pub guard: u32,
    /// Why.
    pub why: Why,
    number: u8,
    socket: Listed,
}

/// What a socket is older than.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is connected to a target, and did not come through the gate.
    Target,
    /// It is a service's connection that the gate does not stand in.
    Service,
    /// It is a guarded process's, and did not come through the gate.
    Guard,
    /// It went past the gate by an exemption that is over.
    Exemption,
    /// Its record was lost.
    Lost,
}

/// What is known of sockets and of what protects their peers. Opening needs root.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    targets: RawMap,
    services: RawMap,
    guards: RawMap,
    cgroups: RawMap,
    uids: RawMap,
    dns: RawMap,
    records: RawMap,
    marks: RawMap,
    exempt: RawMap,
    freed: RawMap,
    callers: RawMap,
}

impl Watch {
    /// Takes hold of what is loaded there.
    ///
    /// # Errors
    /// Where nothing is loaded there, or another version's.
    pub fn open(root: &Path) -> Result<Self, KernelError> {
        let open = |name: &'static str, key, value| {
            RawMap::open(&map_path(root, name), key, value).map_err(KernelError::map(name))
        };
        Ok(Self {
            config: pins::config(root)?,
            targets: open("TARGETS", size_of::<BlockKey>(), 4)?,
            services: open("SERVICES", size_of::<BlockKey>(), 4)?,
            guards: open("GUARDS", 4, 4)?,
            cgroups: open("GUARD_CGROUPS", 8, 4)?,
            uids: open("GUARD_UIDS", 4, 4)?,
            dns: open("DNS", size_of::<DnsKey>(), 4)?,
            records: open("RECORDS", 4, size_of::<Record>())?,
            marks: open("MARKS", 4, size_of::<Mark>())?,
            exempt: open("EXEMPT", 4, 4)?,
            freed: open("FREED", 4, size_of::<ExemptKey>())?,
            callers: open("EXEMPT_CALLERS", size_of::<ExemptKey>(), 4)?,
        })
    }

    /// The sockets of the gate's network namespace whose next packet would be dropped.
    ///
    /// # Errors
    /// The caller stands in another namespace, the kernel cannot be asked, or its answer not be read whole.
    pub fn past(&self) -> io::Result<Vec<Older>> {
        self.look(TCP_STATES | SYN_SENT)
    }

    /// The same without those that are being dialled: a connect that the hook has just seen stands in the kernel's list before
    /// its record says where it goes.
    ///
    /// # Errors
    /// As [`Watch::past`].
    pub fn older(&self) -> io::Result<Vec<Older>> {
        self.look(TCP_STATES)
    }

    fn look(&self, tcp: u32) -> io::Result<Vec<Older>> {
        if sockets::own_netns_cookie()? != self.config.netns {
            return Err(io::Error::other(KernelError::OtherNamespace));
        }
        let groups = self.groups()?;
        let link = Link::open()?;
        let maps = [&self.records, &self.marks, &self.exempt, &self.freed]
            .map(|map| map.as_fd().as_raw_fd().unsigned_abs());
        let mut found = Vec::new();
        let kinds =
            [("tcp", choose::TCP, tcp), ("udp", choose::UDP, UDP_STATES), ("udplite", UDPLITE, UDP_STATES)];
        for (protocol, number, states) in kinds {
            for family in [FAMILY_V4, FAMILY_V6] {
                let listed = match link.list(&diag::list_request(family, number as u8, states, &maps)) {
                    // Not every kernel has UDP-Lite; without it nobody has such a socket.
                    Err(error) if number == UDPLITE && error.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                for socket in listed {
                    if let Some((guard, why)) = self.judge(&socket, number, &groups)? {
                        found.push(Older {
                            protocol,
                            local: socket.local,
                            remote: socket.remote,
                            uid: socket.uid,
                            inode: u64::from(socket.inode),
                            cgroup: socket.cgroup,
                            guard,
                            why,
                            number: number as u8,
                            socket,
                        });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether the egress hook would drop this socket's next packet; with its guard.
    fn judge(&self, socket: &Listed, protocol: u32, groups: &Groups) -> io::Result<Option<(u32, Why)>> {
        // A connection in time wait is listed by what it waits for; nothing leaves it.
        let waits = socket.state == FIN_WAIT2 && socket.inode == 0;
        if waits || socket.storage(self.exempt.id()).is_some() || !groups.holds(socket.cgroup) {
            return Ok(None);
        }
        let record = socket.storage(self.records.id()).and_then(plain::<Record>).unwrap_or(Record::ZERO);
        let mark = socket.storage(self.marks.id()).and_then(plain::<Mark>).unwrap_or(Mark::ZERO);
        let (local, remote) = (address(socket.local.ip()), address(socket.remote.ip()));
        let guard = self.guard(socket, &mark, groups)?;
        let tcp = protocol == choose::TCP;
        let recorded = matches!(record.state, STATE_REDIRECTED | STATE_LOCAL);
        let target = in_blocks(&self.targets, remote, socket.remote.port())?;
        let by = socket.storage(self.freed.id()).and_then(plain::<ExemptKey>).filter(|by| by.one != 0);
        let freed = match by {
            Some(by) => Some(self.stands(by)?),
            None => (target && !recorded && self.is_exempt(socket, groups)?).then_some(true),
        };
        let fact = Packet {
            lost: record.state == STATE_LOST,
            exempt: false,
            protocol,
            kind: if tcp { choose::STREAM } else { choose::DATAGRAM },
            recorded: recorded && record.tuple.destination == remote,
            loopback: choose::is_loopback(&remote),
            accepted: mark.accepted != 0,
            vetted: mark.accepted == ACCEPTED_VETTED,
            fragment: false,
            routed: false,
            guard,
            dns: guard != 0 && self.is_dns(guard, remote, socket.remote.port())?,
            target,
            service: tcp && in_blocks(&self.services, local, socket.local.port())?,
            freed: target && freed == Some(true),
            over: freed == Some(false)
                && (target || in_blocks(&self.services, remote, socket.remote.port())?),
        };
        Ok(choose::packet(&fact).map(|counter| (guard, why(counter))))
    }

    /// As the egress hook finds it: the mark while its guard is in force, then the innermost cgroup, then the uid.
    fn guard(&self, socket: &Listed, mark: &Mark, groups: &Groups) -> io::Result<u32> {
        if mark.guard != 0 && self.guards.lookup(mark.guard.bytes(), 1)?.is_some() {
            return Ok(mark.guard);
        }
        match groups.guard(socket.cgroup) {
            0 => number(self.uids.lookup(socket.uid.bytes(), 1)?),
            guard => Ok(guard),
        }
    }

    /// Whether an exemption is still in force.
    fn stands(&self, by: ExemptKey) -> io::Result<bool> {
        Ok(self.callers.lookup(by.bytes(), 1)?.is_some())
    }

    /// Whether its maker is exempt: by the uid, and by the cgroup it was made in besides where one is asked for.
    fn is_exempt(&self, socket: &Listed, groups: &Groups) -> io::Result<bool> {
        let mut cgroup = Some(0);
        let mut above = socket.cgroup;
        while let Some(one) = cgroup {
            if self.stands(ExemptKey { cgroup: one, uid: socket.uid, one: 1 })? {
                return Ok(true);
            }
            cgroup = above;
            above = above.and_then(|above| groups.parents.get(&above)).copied();
        }
        Ok(false)
    }

    fn is_dns(&self, guard: u32, address: Address, port: u16) -> io::Result<bool> {
        Ok(self.dns.lookup(DnsKey { guard, port, zero: 0, address }.bytes(), 1)?.is_some())
    }

    /// The cgroup tree with the guard of each, below the cgroup that is watched.
    fn groups(&self) -> io::Result<Groups> {
        let root = cgroup2_root().map_err(io::Error::other)?;
        let mut groups = Groups {
            everything: fs::metadata(&root)?.ino() == self.config.cgroup,
            guards: HashMap::new(),
            parents: HashMap::new(),
        };
        let mut open: Vec<(PathBuf, Option<u64>, u32, bool)> = vec![(root, None, 0, groups.everything)];
        let mut looked = 0;
        while let Some((path, parent, above, watched)) = open.pop() {
            looked += 1;
            if looked > CGROUPS_MAX {
                return Err(io::Error::other("the cgroup tree has more directories than are looked at"));
            }
            // One that went away meanwhile has no living process.
            let Ok(about) = fs::metadata(&path) else { continue };
            let watched = watched || about.ino() == self.config.cgroup;
            let guard = match number(self.cgroups.lookup(about.ino().bytes(), 1)?)? {
                0 => above,
                guard => guard,
            };
            if watched {
                groups.guards.insert(about.ino(), guard);
            }
            groups.parents.extend(parent.map(|parent| (about.ino(), parent)));
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(below.map(|entry| (entry.path(), Some(about.ino()), guard, watched)));
        }
        Ok(groups)
    }
}

/// The cgroups that are watched.
struct Groups {
    /// All are.
    everything: bool,
    /// The guard of each; 0: none.
    guards: HashMap<u64, u32>,
    /// What each lies in.
    parents: HashMap<u64, u64>,
}

impl Groups {
    fn holds(&self, cgroup: Option<u64>) -> bool {
        self.everything || cgroup.is_some_and(|cgroup| self.guards.contains_key(&cgroup))
    }

    fn guard(&self, cgroup: Option<u64>) -> u32 {
        cgroup.and_then(|cgroup| self.guards.get(&cgroup)).copied().unwrap_or_default()
    }
}

/// Destroys these, and no others that stand at the same addresses by now. Gives what came of each; one that has closed
/// by itself counts as destroyed. Its process gets ECONNABORTED.
///
/// # Errors
/// The kernel cannot be asked at all.
pub fn destroy(older: &[Older]) -> io::Result<Vec<io::Result<()>>> {
    let link = Link::open()?;
    older
        .iter()
        .map(|one| match link.order(&diag::destroy_request(one.number, &one.socket)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(())),
            other => Ok(other),
        })
        .collect()
}

/// Whether this kernel destroys sockets (CONFIG_INET_DIAG_DESTROY), found by an order that meets none.
///
/// # Errors
/// It cannot be found out; without CAP_NET_ADMIN, for one.
pub(super) fn can_destroy() -> io::Result<bool> {
    let nowhere = SocketAddr::from(([0; 4], 0));
    let socket = Listed {
        family: FAMILY_V4,
        state: 0,
        local: nowhere,
        remote: nowhere,
        uid: 0,
        inode: 0,
        id: [0; 48],
        cgroup: None,
        storages: Vec::new(),
    };
    match Link::open()?.order(&diag::destroy_request(choose::TCP as u8, &socket)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

fn why(counter: Counter) -> Why {
    match counter {
        Counter::TargetPacket => Why::Target,
        Counter::StalePacket => Why::Service,
        Counter::LostPacket => Why::Lost,
        Counter::ExemptionOver => Why::Exemption,
        _ => Why::Guard,
    }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => abi::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn in_blocks(blocks: &RawMap, address: Address, port: u16) -> io::Result<bool> {
    let data = BlockData { port: port.to_be_bytes(), slot: [0; 2], address };
    Ok(blocks.lookup(BlockKey { prefix: BLOCK_BITS, data }.bytes(), 1)?.is_some())
}

fn number(value: Option<Vec<u8>>) -> io::Result<u32> {
    Ok(value.as_deref().and_then(plain::<u32>).unwrap_or_default())
}

/// The value of a map, which has exactly its size.
fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    let mut value = T::ZERO;
    (bytes.len() == size_of::<T>()).then(|| value.bytes_mut().copy_from_slice(bytes))?;
    Some(value)
}
