//! Keys, values, events, counters and limits of the maps: everything that crosses between kernel and enforcer.
//!
//! Every type is `repr(C)` without padding and its size is asserted below, because the verifier refuses to copy
//! uninitialised bytes and a hash map compares padding. Addresses are always 128 bits; IPv4 is `::ffff:a.b.c.d`.

pub use crate::counter::{COUNTERS, COUNTERS_MAX, Counter};

/// Version of everything in this file. A change of any layout or meaning raises it; the loader refuses to adopt maps
/// of another version.
pub const ABI: u32 = 4;

/// An address in 128 bits, network order; IPv4 mapped.
pub type Address = [u8; 16];

/// Levels of the cgroup tree at which a guard may stand. systemd and Kubernetes stay below 10.
pub const GUARD_LEVELS_MAX: u32 = 16;
/// Address blocks times ports of all targets.
pub const TARGETS_MAX: u32 = 16 * 1024;
/// Address blocks times ports of all protected services.
pub const SERVICES_MAX: u32 = 4 * 1024;
/// Blocks of the namespace's own addresses. A load balancer may carry some thousands.
pub const OWN_MAX: u32 = 16 * 1024;
/// Guards.
pub const GUARDS_MAX: u32 = 1024;
/// User ids, times cgroups, of all exemptions.
pub const EXEMPT_CALLERS_MAX: u32 = 8 * 1024;
/// Names of Unix sockets that the processes of all guards may connect to.
pub const UNIX_ALLOWED_MAX: u32 = 8 * 1024;
/// Files and directories that are the gate's own, with those above them.
pub const SEALED_MAX: u32 = 1024;
/// Cgroups of all guards.
pub const GUARD_CGROUPS_MAX: u32 = 8 * 1024;
/// User ids of all guards.
pub const GUARD_UIDS_MAX: u32 = 8 * 1024;
/// DNS servers of all guards.
pub const DNS_MAX: u32 = 8 * 1024;
/// Connects between "source port chosen" and "established": twice what the enforcer accepts at once. The oldest goes
/// where one more comes.
pub const TUPLES_MAX: u32 = 32 * 1024;
/// The gate's own connections to protected services.
pub const ALLOWED_MAX: u32 = 32 * 1024;
/// Rows of the counts of flows: enforcers in turn, times ways, rows of the tables and guards that traffic is for. A host has some
/// dozens.
pub const FLOWS_MAX: u32 = 16 * 1024;
/// Connections that went past the gate, of which the process is remembered. The oldest goes where one more comes.
pub const PASSERS_MAX: u32 = 1024;
/// Bytes of the telemetry ring. A refusal takes 80 of them, an attempt 200.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Other network namespaces where the gate listens. A Kubernetes node runs 110 pods, unless told to run up to 250.
pub const SPACES_MAX: u32 = 256;
/// The same with those that it was asked for and does not serve, which `tidegate status` names.
pub const SPACES_KNOWN_MAX: u32 = 2 * SPACES_MAX;
/// Listeners of one namespace: outbound v4, outbound v6, inbound v4, inbound v6.
pub const LISTENERS: u32 = 4;
/// Listeners of all: the gate's own namespace is slot 0, the others follow.
pub const LISTENERS_MAX: u32 = LISTENERS * (1 + SPACES_MAX);

/// Index of the outbound listeners in the listener map; v6 follows v4.
pub const LISTEN_OUTBOUND: u32 = 0;
/// Index of the inbound listeners in the listener map; v6 follows v4.
pub const LISTEN_INBOUND: u32 = 2;

/// The private `getsockopt` level that answers with a [`Record`] ("TG").
pub const OPTION_LEVEL: i32 = 0x5447;
/// The option at [`OPTION_LEVEL`].
pub const OPTION_RECORD: i32 = 1;
/// The option at [`OPTION_LEVEL`] that answers with a [`FlowKey`]: the asker takes the flow, and answers for its bytes.
pub const OPTION_FLOW: i32 = 2;

/// Only sockets of the namespace in [`Config::netns`] are anybody's business. For tests at the root cgroup.
pub const FLAG_ONLY_NETNS: u16 = 1;

/// What the programs know about their place. One entry.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// [`ABI`] of whoever made the maps; 0 while a load has not come that far.
    pub abi: u32,
    /// The gate's port, host order.
    pub gate_port: u16,
    /// `FLAG_*`.
    pub flags: u16,
    /// Cookie of the network namespace the gate serves.
    pub netns: u64,
    /// Inode of the same.
    pub netns_inode: u64,
    /// Id of the cgroup the hooks are attached to.
    pub cgroup: u64,
}

/// How long the gate is believed to live. One entry; all zero: there is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// CLOCK_MONOTONIC in nanoseconds; past it the gate counts as dead.
    pub deadline: u64,
    /// Which gate wrote it: each that takes charge counts one on, and an older one leaves it alone.
    pub turn: u64,
}

/// One block of addresses at one port, as a longest-prefix key. The port comes first, so that blocks of different
/// ports never hide each other and one lookup is enough.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// [`BLOCK_PORT_BITS`] plus the leading bits of the (mapped) address that count.
    pub prefix: u32,
    /// What is matched.
    pub data: BlockData,
}

/// The matched bytes of a [`BlockKey`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockData {
    /// Port, network order; 0 where blocks stand for every port.
    pub port: [u8; 2],
    /// Whose own addresses these are: 0 the gate's namespace, else [`Space::slot`], host order. Always zero in other maps.
    pub slot: [u8; 2],
    /// Address; host bits zero.
    pub address: Address,
}

/// The gate listens there.
pub const SPACE_SERVED: u32 = 1;
/// Protected services run there, and what comes for them is steered to the gate.
pub const SPACE_SERVICES: u32 = 2;

/// Another network namespace, by its cookie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its inode (`net:[N]`).
    pub inode: u64,
    /// Its number among those served: that of its listeners, and of its addresses in the map of own addresses. Never 0.
    pub slot: u32,
    /// `SPACE_*`; 0: the gate does not listen there.
    pub flags: u32,
    /// Why it does not, as the loader numbers the reasons.
    pub why: u32,
    /// Always zero.
    pub zero: u32,
}

/// Bits of a [`BlockKey`] in front of the address.
pub const BLOCK_PORT_BITS: u32 = 32;
/// Bits of a [`BlockKey`] that asks for one address.
pub const BLOCK_BITS: u32 = BLOCK_PORT_BITS + 128;

/// One DNS server that one guard's processes may ask.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsKey {
    /// The guard's id.
    pub guard: u32,
    /// Port, host order.
    pub port: u16,
    /// Always zero.
    pub zero: u16,
    /// Address.
    pub address: Address,
}

/// Which ways of guarding are in use, so that a host without guards pays nothing. One entry.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarding {
    /// Bit n: some guard stands at level n of the cgroup tree.
    pub levels: u32,
    /// User ids guarded.
    pub uids: u32,
}

/// Whose connects go straight to what is protected. On a socket: by which row its connect went there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExemptKey {
    /// Id of a cgroup that the process must be in, or below; 0: wherever it is.
    pub cgroup: u64,
    /// Its real user id.
    pub uid: u32,
    /// 1; on a socket 0 where its connect went by no exemption.
    pub one: u32,
}

/// One TCP connection seen from its client.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Cookie of the network namespace. Without it a process could forge another's tuple in a namespace of its own.
    pub netns: u64,
    /// Client's address.
    pub source: Address,
    /// Server's address. Without it one source port connected to two servers would be one entry.
    pub destination: Address,
    /// Client's port, host order.
    pub source_port: u16,
    /// Server's port, host order.
    pub destination_port: u16,
    /// Always zero.
    pub zero: u32,
}

/// Nothing is known (any more).
pub const STATE_NONE: u32 = 0;
/// On a client's socket: its connect was rewritten to the gate.
pub const STATE_REDIRECTED: u32 = 1;
/// On a client's socket: it dialled a protected service here; nothing was rewritten, `sk_lookup` steers.
pub const STATE_LOCAL: u32 = 2;
/// On the gate's accepted socket: came by a rewritten connect.
pub const STATE_HANDED_OUTBOUND: u32 = 3;
/// On the gate's accepted socket: came from a local client of a protected service.
pub const STATE_HANDED_INBOUND: u32 = 4;
/// On any socket: its record could not be handed over. Its packets are dropped.
pub const STATE_LOST: u32 = 5;

/// In [`Record::login`]: it was read.
pub const LOGIN_READ: u64 = 1 << 32;
/// In the lower half of [`Record::login`]: nobody logged in.
pub const LOGIN_NONE: u32 = u32::MAX;

/// Who called connect(2), and where to: the identity record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its connection: the namespace from connect(2) on, the rest from the moment its SYN leaves.
    pub tuple: Tuple,
    /// Id of the caller's cgroup.
    pub cgroup: u64,
    /// Cookie of the caller's socket.
    pub cookie: u64,
    /// Nanoseconds since boot, sleep included.
    pub at: u64,
    /// When the caller's process started, nanoseconds since boot, sleep included; 0: could not be read.
    pub started: u64,
    /// Inode of its executable; 0: could not be read.
    pub executable_inode: u64,
    /// Device of its executable, as the kernel writes it (12 bits major, 20 bits minor).
    pub executable_device: u64,
    /// The user id it logged in with (audit), with [`LOGIN_READ`]; 0: this kernel keeps none, or it could not be read.
    pub login: u64,
    /// Its process id (thread group).
    pub tgid: u32,
    /// The calling thread's id.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Its real group id.
    pub gid: u32,
    /// The guard it belongs to; 0: none.
    pub guard: u32,
    /// `STATE_*`.
    pub state: u32,
    /// The calling thread's name.
    pub comm: [u8; 16],
    /// Where it dialled.
    pub address: Address,
    /// The port it dialled, host order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6` (then `address` may still be mapped).
    pub family: u16,
    /// The number of the target or service that was dialled; 0: none, it is a guarded process's.
    pub row: u32,
}

/// It came by a rewritten connect.
pub const WAY_OUTBOUND: u32 = 1;
/// It was dialled to a protected service.
pub const WAY_INBOUND: u32 = 2;
/// It went past the gate.
pub const WAY_PAST: u32 = 3;

/// What flows are counted by.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Who took it: the gate's turn (see [`Heartbeat`]) in the upper half, its process id in the lower; 0: what is counted
    /// whoever takes it.
    pub taker: u64,
    /// The number of the target or service; 0: none.
    pub row: u32,
    /// The guard; 0: none.
    pub guard: u32,
    /// `WAY_*`.
    pub way: u32,
    /// Always zero.
    pub zero: u32,
}

/// How many flows, and how many bytes of what they carried. Counts wrap.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Connects that are to come to the gate, or go past it, whose SYN was about to leave.
    pub dialled: u64,
    /// Those of them that ended before they came: refused, given up.
    pub never_came: u64,
    /// Connections at the gate's listeners; past the gate: with whoever was dialled.
    pub came: u64,
    /// Those of them that were dialled on this host, and had a record.
    pub came_recorded: u64,
    /// Taken by an enforcer.
    pub taken: u64,
    /// Ended before anybody took them.
    pub untaken: u64,
    /// Closed by whoever had them.
    pub ended: u64,
    /// Bytes that whoever had them read until then.
    pub read: u64,
    /// Bytes that it wrote.
    pub written: u64,
    /// Bytes that had come and that it did not read.
    pub unread: u64,
}

/// In [`Flow::state`]: whoever has it sent its FIN.
pub const FLOW_FIN_SENT: u32 = 1;
/// In [`Flow::state`]: counted as [`FlowCounts::untaken`].
pub const FLOW_UNTAKEN: u32 = 2;
/// In [`Flow::state`]: counted as [`FlowCounts::ended`].
pub const FLOW_ENDED: u32 = 4;
/// In [`Flow::state`]: the connection is established.
pub const FLOW_CAME: u32 = 8;

/// On a socket whose bytes are counted: as what, and from where on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As what.
    pub key: FlowKey,
    /// Sequence number of the first byte that comes.
    pub read_from: u32,
    /// Sequence number of the first byte that goes.
    pub written_from: u32,
    /// `FLOW_*`.
    pub state: u32,
    /// Always zero.
    pub zero: u32,
}

/// A connection past the gate, and whose it is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passer {
    /// As what it is counted. `way` is how it should have come.
    pub key: FlowKey,
    /// Nanoseconds since boot, sleep included.
    pub at: u64,
    /// Its process's cgroup; 0: not known before it ends.
    pub cgroup: u64,
    /// Bytes read; 0 before it ends.
    pub read: u64,
    /// Bytes written; 0 before it ends.
    pub written: u64,
    /// Process id of who dialled it, or closed it where it was accepted.
    pub tgid: u32,
    /// Its real user id.
    pub uid: u32,
    /// `FLOW_*`.
    pub state: u32,
    /// Where it went, or came to.
    pub port: u32,
    /// The thread's name.
    pub comm: [u8; 16],
    /// Where it went, or came to.
    pub address: Address,
}

/// A connection to something that was no protected service then.
pub const ACCEPTED_OPEN: u32 = 1;
/// A connection to a protected service, so by the gate or for the gate.
pub const ACCEPTED_VETTED: u32 = 2;

/// What is known of a socket besides its record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Id of the guard whose process made or used it; 0: none.
    pub guard: u32,
    /// `ACCEPTED_*`: how it was accepted, while the programs were watching; 0: it was not.
    pub accepted: u32,
}

/// The one place a socket of the gate's own may be connected to, where it was made for one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Address.
    pub address: Address,
    /// Port, host order.
    pub port: u32,
}

/// One refusal, for telemetry. No verdict depends on it: the ring may be full.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Nanoseconds since boot, sleep included.
    pub at: u64,
    /// Cgroup of the current task; 0 for packets, which have none.
    pub cgroup: u64,
    /// [`Counter`] that was raised.
    pub counter: u32,
    /// Process id; 0 for packets.
    pub tgid: u32,
    /// Real user id; 0 for packets.
    pub uid: u32,
    /// Guard; 0: none.
    pub guard: u32,
    /// Thread's name; empty for packets.
    pub comm: [u8; 16],
    /// Where it wanted to go.
    pub address: Address,
    /// Port, host order.
    pub port: u16,
    /// IP protocol.
    pub protocol: u16,
    /// Always zero.
    pub zero: u32,
}

/// Bytes of a Unix socket's name, unix(7).
pub const UNIX_NAME_BYTES: usize = 108;

/// A Unix socket that a guard's processes may connect to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixKey {
    /// The guard's id.
    pub guard: u32,
    /// Its name as its server bound it, then zeros; an abstract one begins with a zero.
    pub name: [u8; UNIX_NAME_BYTES],
}

/// A file or directory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeKey {
    /// Device of its file system, as the kernel writes it (12 bits major, 20 bits minor); [`HOME`] for a namespace.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// In [`InodeKey::device`]: the mount namespace of the host; a row with inode 0 says that it is known.
pub const HOME: u64 = u64::MAX;
/// Nothing is mounted over it, and it is not renamed: it is the gate's, or on the way there.
pub const SEALED_WAY: u32 = 1;
/// Nothing in it is changed.
pub const SEALED_INSIDE: u32 = 2;
/// Processes that run it get no signal.
pub const SEALED_PROGRAM: u32 = 4;
/// Nothing in it is read.
pub const SEALED_SECRET: u32 = 8;
/// The pins. Who owns them by his user id, and has no right to programs, changes nothing there either.
pub const SEALED_PINS: u32 = 16;

/// In the map of guards: one over processes that run apart from the gate, and one over the gate's own.
pub const GUARD_OVER_OTHERS: u32 = 1;
/// See [`GUARD_OVER_OTHERS`].
pub const GUARD_OVER_THE_GATE: u32 = 2;

/// A refusal of something that is no traffic: what a guarded process tried with something outside of its guard.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// As any other; its address says nothing.
    pub refusal: Refusal,
    /// The other process; 0: it is about none.
    pub other: u32,
    /// The signal, the command of bpf(2), the family of the socket, the kernel's reason.
    pub number: u32,
    /// Its name: the other process's, the file's, the Unix socket's (an abstract one begins with a zero); then zeros.
    pub name: [u8; UNIX_NAME_BYTES],
    /// Always zero.
    pub zero: u32,
}

/// Types whose every byte is meaningful, so that they can cross as bytes.
///
/// # Safety
/// The type must be `repr(C)`, have no padding, and be valid for every pattern of bits.
pub unsafe trait Plain: Copy {
    /// All zero bytes.
    const ZERO: Self;

    /// Its bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the trait promises that there is no padding, so all `size_of` bytes are initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Its bytes, to write.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the trait promises that every pattern of bits is a value.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! plain {
    ($($type:ty = $size:expr,)*) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: repr(C) integers and arrays of them; the size above is the sum of the fields, so no padding.
        unsafe impl Plain for $type {
            // SAFETY: all-zero is a value of every integer.
            const ZERO: Self = unsafe { core::mem::zeroed() };
        }
    )*};
}
plain! {
    Config = 32,
    Heartbeat = 16,
    BlockKey = 4 + 20,
    BlockData = 2 + 2 + 16,
    DnsKey = 4 + 2 + 2 + 16,
    Guarding = 8,
    Bound = 16 + 4,
    ExemptKey = 16,
    Space = 8 + 4 * 4,
    Tuple = 8 + 16 + 16 + 2 + 2 + 4,
    Record = size_of::<Tuple>() + 7 * 8 + 6 * 4 + 16 + 16 + 2 + 2 + 4,
    FlowKey = 8 + 4 * 4,
    FlowCounts = 10 * 8,
    Flow = size_of::<FlowKey>() + 4 * 4,
    Passer = size_of::<FlowKey>() + 4 * 8 + 4 * 4 + 16 + 16,
    Mark = 8,
    Refusal = 2 * 8 + 4 * 4 + 16 + 16 + 2 + 2 + 4,
    UnixKey = 4 + UNIX_NAME_BYTES,
    InodeKey = 2 * 8,
    Attempt = size_of::<Refusal>() + 2 * 4 + UNIX_NAME_BYTES + 4,
    u32 = 4,
    u64 = 8,
}

/// An IPv4 address in 128 bits.
#[must_use]
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
