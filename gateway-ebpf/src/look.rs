//! Looking things up: maps, socket storage, addresses, the current task. Every miss is `None`, 0 or null, and the
//! caller refuses on it.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use gateway_ebpf::abi::{
    Address, BLOCK_BITS, BlockData, Config, DnsKey, ExemptKey, FLAG_ONLY_NETNS, GUARD_LEVELS_MAX,
    GUARD_OVER_THE_GATE, LOGIN_READ, Record, SPACE_SERVED, SPACE_SERVICES, mapped,
};
use gateway_ebpf::choose;

use crate::{
    CONFIG, DNS, EXEMPT_CALLERS, EXEMPTING, FREED, GATE, GUARD_CGROUPS, GUARD_UIDS, GUARDING, GUARDS,
    HEARTBEAT, OWN, SERVICES, SPACES, TARGETS,
};

/// A map that lives on sockets. (The crate's own type takes only one kind of context.) The pointers are never
/// followed; their types are what the loader reads from the object's BTF.
#[repr(C)]
pub(crate) struct Storage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers are placeholders and never dereferenced; the kernel synchronises the map itself.
unsafe impl<T> Sync for Storage<T> {}

impl<T> Storage<T> {
    pub(crate) const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What is kept on this socket, or `None`.
    #[inline(always)]
    pub(crate) fn get(&self, socket: *mut c_void) -> Option<&mut T> {
        // SAFETY: the helper takes any socket pointer the verifier lets through and gives null or a map value.
        unsafe {
            helper::bpf_sk_storage_get(ptr::from_ref(self).cast_mut().cast(), socket, ptr::null_mut(), 0)
                .cast::<T>()
                .as_mut()
        }
    }

    /// The same, made (zeroed, or as a copy of `first`) where there is none. `None`: no memory.
    #[inline(always)]
    pub(crate) fn get_or_make(&self, socket: *mut c_void, first: *mut T) -> Option<&mut T> {
        // SAFETY: as above.
        unsafe {
            helper::bpf_sk_storage_get(
                ptr::from_ref(self).cast_mut().cast(),
                socket,
                first.cast(),
                u64::from(BPF_SK_STORAGE_GET_F_CREATE),
            )
            .cast::<T>()
            .as_mut()
        }
    }
}

/// Reads a context field exactly once and exactly here: LLVM otherwise merges reads of two branches into one through
/// a computed pointer, which the verifier refuses for contexts.
macro_rules! read {
    ($place:expr) => {
        // SAFETY: a field of the hook's context, which is valid for the whole run.
        unsafe { core::ptr::read_volatile(&raw const $place) }
    };
}
pub(crate) use read;

/// Makes the verifier forget what it found out about values, so that ways that differ in nothing else are one to it; without it
/// every combination of facts is a way of its own, and they are a million.
#[derive(Clone, Copy)]
pub(crate) struct Forget {
    /// Always 0, which the verifier cannot know: it takes it for 0 or 1.
    nothing: u64,
}

impl Forget {
    /// By the top bit of a packet's length.
    #[inline(always)]
    pub(crate) fn by(skb: *const __sk_buff) -> Self {
        Self { nothing: u64::from(read!((*skb).len) >> 31) }
    }

    #[inline(always)]
    pub(crate) fn flag(self, flag: &mut bool) {
        let mut value = u64::from(*flag);
        // SAFETY: changes one register; LLVM, too, must not know by what.
        unsafe {
            core::arch::asm!("{value} ^= {nothing}", value = inout(reg) value, nothing = in(reg) self.nothing);
        }
        *flag = value & 1 != 0;
    }

    #[inline(always)]
    pub(crate) fn number(self, number: &mut u32) {
        let mut value = u64::from(*number);
        let nothing = 0u64.wrapping_sub(self.nothing);
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("{value} ^= {nothing}", value = inout(reg) value, nothing = in(reg) nothing);
        }
        *number = value as u32;
    }
}

#[inline(always)]
pub(crate) fn v4(word: u32) -> Address {
    mapped(word.to_ne_bytes())
}

#[inline(always)]
pub(crate) fn v6(words: [u32; 4]) -> Address {
    let mut address = [0; 16];
    let mut at = 0;
    while at < 4 {
        let bytes = words[at].to_ne_bytes();
        address[at * 4] = bytes[0];
        address[at * 4 + 1] = bytes[1];
        address[at * 4 + 2] = bytes[2];
        address[at * 4 + 3] = bytes[3];
        at += 1;
    }
    address
}

/// The four bytes of an address that start at `at`, as a context word.
#[inline(always)]
pub(crate) fn word(address: &Address, at: usize) -> u32 {
    u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
}

/// `None` also while the loader has not finished.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.abi != 0)
}

/// Whether the gate's heartbeat is in time. A gate that hangs is as dead as none.
#[inline(always)]
pub(crate) fn is_alive() -> bool {
    // SAFETY: reads the clock.
    let now = unsafe { helper::bpf_ktime_get_ns() };
    HEARTBEAT.get(0).is_some_and(|heartbeat| {
        // SAFETY: a map value the lookup just gave; another processor may be writing it, hence volatile.
        let deadline = unsafe { ptr::read_volatile(&raw const heartbeat.deadline) };
        now < deadline
    })
}

/// Whether a socket with this namespace cookie is none of our business.
#[inline(always)]
pub(crate) fn out_of_scope(config: &Config, netns: u64) -> bool {
    config.flags & FLAG_ONLY_NETNS != 0 && netns != config.netns
}

/// How a network namespace stands with the gate.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// Its number; 0: the gate's own.
    pub(crate) slot: u32,
    /// The gate listens there.
    pub(crate) listens: bool,
    /// What comes there for protected services is steered to the gate.
    pub(crate) services: bool,
}

/// The namespace with this cookie; one that nobody told of has no listener.
#[inline(always)]
pub(crate) fn here(config: &Config, netns: u64) -> Here {
    if netns == config.netns {
        return Here { slot: 0, listens: true, services: true };
    }
    let Some(space) = SPACES.get_ptr(&netns) else {
        return Here { slot: 0, listens: false, services: false };
    };
    // SAFETY: a map value the lookup just gave.
    let (slot, flags) = unsafe { ((*space).slot, (*space).flags) };
    let listens = flags & SPACE_SERVED != 0;
    Here { slot, listens, services: listens && flags & SPACE_SERVICES != 0 }
}

/// The number of the row that holds this place; 0: none does. Places of targets and services are the same in every namespace.
#[inline(always)]
fn row_of(blocks: &LpmTrie<BlockData, u32>, address: &Address, port: u16) -> u32 {
    let data = BlockData { port: port.to_be_bytes(), slot: [0; 2], address: *address };
    blocks.get(Key::new(BLOCK_BITS, data)).copied().unwrap_or_default()
}

/// Whether any row holds this place. Without the number: read where packets are judged, it costs the verifier seconds.
#[inline(always)]
fn in_blocks(blocks: &LpmTrie<BlockData, u32>, address: &Address, port: u16) -> bool {
    in_blocks_of(blocks, 0, address, port)
}

#[inline(always)]
fn in_blocks_of(blocks: &LpmTrie<BlockData, u32>, slot: u32, address: &Address, port: u16) -> bool {
    let data = BlockData { port: port.to_be_bytes(), slot: (slot as u16).to_ne_bytes(), address: *address };
    blocks.get(Key::new(BLOCK_BITS, data)).is_some()
}

#[inline(always)]
pub(crate) fn target(address: &Address, port: u16) -> u32 {
    row_of(&TARGETS, address, port)
}

#[inline(always)]
pub(crate) fn service(address: &Address, port: u16) -> u32 {
    row_of(&SERVICES, address, port)
}

#[inline(always)]
pub(crate) fn is_target(address: &Address, port: u16) -> bool {
    in_blocks(&TARGETS, address, port)
}

#[inline(always)]
pub(crate) fn is_service(address: &Address, port: u16) -> bool {
    in_blocks(&SERVICES, address, port)
}

/// Whether this is an address of the namespace with this number, as far as the enforcer has told.
#[inline(always)]
pub(crate) fn is_own(slot: u32, address: &Address) -> bool {
    choose::is_loopback(address) || in_blocks_of(&OWN, slot, address, 0)
}

#[inline(always)]
pub(crate) fn is_dns(guard: u32, address: &Address, port: u16) -> bool {
    let key = DnsKey { guard, port, zero: 0, address: *address };
    DNS.get_ptr(&key).is_some()
}

/// Whether a guard is (still) in force.
#[inline(always)]
pub(crate) fn in_force(guard: u32) -> bool {
    guard != 0 && GUARDS.get_ptr(&guard).is_some()
}

/// Whether this guard is the one over the gate's own processes.
#[inline(always)]
pub(crate) fn is_over_the_gate(guard: u32) -> bool {
    // SAFETY: a map value the lookup just gave.
    GUARDS.get_ptr(&guard).is_some_and(|over| unsafe { *over } == GUARD_OVER_THE_GATE)
}

/// What a socket's connect has of an exemption.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freed {
    /// It went by none.
    No,
    /// It went straight, and still may.
    Yes,
    /// It went straight, by an exemption that is over.
    Over,
}

/// Whether this socket's connect went straight by an exemption.
#[inline(always)]
pub(crate) fn freed(socket: *mut c_void) -> Freed {
    let Some(by) = FREED.get(socket) else { return Freed::No };
    if by.one == 0 {
        return Freed::No;
    }
    let key = ExemptKey { cgroup: by.cgroup, uid: by.uid, one: 1 };
    if EXEMPT_CALLERS.get_ptr(&key).is_some() { Freed::Yes } else { Freed::Over }
}

/// The exemption of whoever runs now.
#[inline(always)]
pub(crate) fn current_exemption() -> Option<ExemptKey> {
    // SAFETY: both helpers only read the current task.
    exemption_by(
        |level| unsafe { helper::bpf_get_current_ancestor_cgroup_id(level as i32) },
        || unsafe { helper::bpf_get_current_uid_gid() as u32 },
    )
}

/// Whether the maker of the socket a packet left from is exempt: for connections that no connect hook judged.
#[inline(always)]
pub(crate) fn is_packet_exempt(skb: *mut c_void) -> bool {
    // SAFETY: `skb` is the hook's context; both helpers only read the socket behind it.
    exemption_by(
        |level| unsafe { helper::bpf_skb_ancestor_cgroup_id(skb.cast(), level as i32) },
        || unsafe { helper::bpf_get_socket_uid(skb.cast()) },
    )
    .is_some()
}

/// Always by the uid, and by the cgroup besides where one is asked for.
#[inline(always)]
fn exemption_by(cgroup: impl Fn(u32) -> u64, uid: impl Fn() -> u32) -> Option<ExemptKey> {
    let exempting = EXEMPTING.get(0)?;
    if exempting.uids == 0 {
        return None;
    }
    let levels = exempting.levels;
    let mut key = ExemptKey { cgroup: 0, uid: uid(), one: 1 };
    if EXEMPT_CALLERS.get_ptr(&key).is_some() {
        return Some(key);
    }
    let mut level = 0;
    while level < GUARD_LEVELS_MAX {
        if levels & (1 << level) != 0 {
            key.cgroup = cgroup(level);
            if key.cgroup != 0 && EXEMPT_CALLERS.get_ptr(&key).is_some() {
                return Some(key);
            }
        }
        level += 1;
    }
    None
}

/// The guard of whoever runs now; 0: none. The innermost cgroup wins, then the uid.
#[inline(always)]
pub(crate) fn current_guard() -> u32 {
    // SAFETY: reads the current task.
    guard_by(current_cgroup, || unsafe { helper::bpf_get_current_uid_gid() as u32 })
}

/// The guard of the socket a packet left from; 0: none.
#[inline(always)]
pub(crate) fn packet_guard(skb: *mut c_void) -> u32 {
    // SAFETY: `skb` is the hook's context; both helpers only read the socket behind it.
    guard_by(
        |level| unsafe { helper::bpf_skb_ancestor_cgroup_id(skb.cast(), level as i32) },
        || unsafe { helper::bpf_get_socket_uid(skb.cast()) },
    )
}

#[inline(always)]
pub(crate) fn guard_by(cgroup: impl Fn(u32) -> u64, uid: impl Fn() -> u32) -> u32 {
    let guard = guard_by_cgroup(cgroup);
    if guard != 0 || GUARDING.get(0).is_none_or(|guarding| guarding.uids == 0) {
        return guard;
    }
    // SAFETY: a map value the lookup just gave.
    GUARD_UIDS.get_ptr(&uid()).map_or(0, |found| unsafe { *found })
}

/// The guard by the cgroups alone; 0: none.
#[inline(always)]
pub(crate) fn guard_by_cgroup(cgroup: impl Fn(u32) -> u64) -> u32 {
    let Some(guarding) = GUARDING.get(0) else { return 0 };
    let levels = guarding.levels;
    let mut guard = 0;
    let mut level = 0;
    while level < GUARD_LEVELS_MAX {
        if levels & (1 << level) != 0
            && let Some(found) = GUARD_CGROUPS.get_ptr(&cgroup(level))
        {
            // SAFETY: a map value the lookup just gave.
            guard = unsafe { *found };
        }
        level += 1;
    }
    guard
}

/// Whether whoever runs now is below the cgroup that the programs are attached to: for hooks that are the whole host's.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    let Some(config) = config() else { return false };
    let cgroup = config.cgroup;
    let mut level = 0;
    while level < GUARD_LEVELS_MAX {
        if current_cgroup(level) == cgroup {
            return true;
        }
        level += 1;
    }
    false
}

/// The cgroup above whoever runs now, at this level; 0: it stands higher.
#[inline(always)]
pub(crate) fn current_cgroup(level: u32) -> u64 {
    // SAFETY: reads the current task.
    unsafe { helper::bpf_get_current_ancestor_cgroup_id(level as i32) }
}

#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    // SAFETY: reads the current task.
    (unsafe { helper::bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Whether the gate itself runs now.
#[inline(always)]
pub(crate) fn is_gate() -> bool {
    GATE.get(0).is_some_and(|gate| *gate != 0 && *gate == current_tgid())
}

/// Byte offsets of kernel fields, found in the running kernel's BTF by the loader. (Rust emits no CO-RE relocations.)
macro_rules! offsets {
    ($($name:ident,)*) => { $(#[unsafe(no_mangle)] pub(crate) static $name: u32 = 0;)* };
}
pub(crate) use offsets;
offsets! {
    TASK_COMM, TASK_CRED, TASK_LEADER, TASK_LOGIN, TASK_TGID, TASK_START, TASK_MM, MM_EXE, CRED_UID, FILE_INODE, INODE_NUMBER, INODE_SUPER,
    SUPER_DEVICE, SOCK_FLAGS, SOCK_PORT, TCP_COPIED, TCP_NEXT, TCP_RECEIVED, TCP_WRITTEN, TCP_UNACKED, TCP_ACKED,
}

/// Reads a kernel word at `base + offset`; 0 where `base` is 0 or the read fails.
#[inline(always)]
pub(crate) fn kernel_word(base: u64, offset: &'static u32) -> u64 {
    if base == 0 {
        return 0;
    }
    // SAFETY: the offset is patched into read-only data before the program is loaded, hence volatile.
    kernel_word_at(base.wrapping_add(u64::from(unsafe { ptr::read_volatile(offset) })))
}

/// Reads a kernel word; 0 where it cannot be read.
#[inline(always)]
pub(crate) fn kernel_word_at(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address itself and leaves zero on failure.
    unsafe {
        helper::bpf_probe_read_kernel(ptr::from_mut(&mut value).cast(), 8, address as *const c_void);
    }
    value
}

/// How far a TCP socket has come, as its process sees it. Only for hooks whose context is the socket itself.
pub(crate) struct Progress {
    /// A FIN came. Read first: from then on nothing comes any more.
    pub(crate) done: bool,
    /// Sequence number of the next byte that may come.
    pub(crate) next: u32,
    pub(crate) received: u64,
    /// Sequence number of the next byte to be read.
    pub(crate) copied: u32,
    /// Sequence number of the next byte to be written.
    pub(crate) written: u32,
    /// Sequence number of the first byte that is not acknowledged.
    pub(crate) unacked: u32,
    pub(crate) acked: u64,
}

/// `SOCK_DONE` among the flags of a socket: set when its FIN came.
const SOCK_DONE: u64 = 1 << 1;

#[inline(always)]
pub(crate) fn progress(socket: *mut c_void) -> Progress {
    let socket = socket as u64;
    Progress {
        done: kernel_word(socket, &SOCK_FLAGS) & SOCK_DONE != 0,
        next: kernel_word(socket, &TCP_NEXT) as u32,
        received: kernel_word(socket, &TCP_RECEIVED),
        copied: kernel_word(socket, &TCP_COPIED) as u32,
        written: kernel_word(socket, &TCP_WRITTEN) as u32,
        unacked: kernel_word(socket, &TCP_UNACKED) as u32,
        acked: kernel_word(socket, &TCP_ACKED),
    }
}

/// A socket's own port. Only for hooks whose context is the socket itself.
#[inline(always)]
pub(crate) fn own_port(socket: *mut c_void) -> u32 {
    kernel_word(socket as u64, &SOCK_PORT) as u32 & 0xffff
}

/// Real user id of whoever runs now, for hooks that lack the helper (sock_ops).
#[inline(always)]
pub(crate) fn current_uid() -> u32 {
    // SAFETY: reads the current task.
    let task = unsafe { helper::bpf_get_current_task() };
    kernel_word(kernel_word(task, &TASK_CRED), &CRED_UID) as u32
}

/// Which gate takes a flow now: whose turn it is, and the process that asks.
#[inline(always)]
pub(crate) fn taker() -> u64 {
    HEARTBEAT.get(0).map_or(0, |heartbeat| heartbeat.turn << 32) | u64::from(current_tgid())
}

/// Process id and name of whoever runs now, for hooks that lack the helpers (sock_ops); 0 and empty where unreadable.
#[inline(always)]
pub(crate) fn current_task() -> (u32, [u8; 16]) {
    let mut comm = [0u8; 16];
    // SAFETY: reads the current task; offsets as above, and `comm` is 16 bytes of our own.
    unsafe {
        let task = helper::bpf_get_current_task();
        let from = task.wrapping_add(u64::from(ptr::read_volatile(&TASK_COMM))) as *const c_void;
        helper::bpf_probe_read_kernel(comm.as_mut_ptr().cast(), 16, from);
        (kernel_word(task, &TASK_TGID) as u32, comm)
    }
}

/// The login behind a process, as [`Record::login`] has it. Root's is 0, so a failed read must not look like it.
#[inline(always)]
fn login(leader: u64) -> u64 {
    let mut uid = 0u32;
    // SAFETY: as above; the loader leaves 0 where this kernel's tasks have no login.
    unsafe {
        let offset = ptr::read_volatile(&TASK_LOGIN);
        if leader == 0 || offset == 0 {
            return 0;
        }
        let from = leader.wrapping_add(u64::from(offset)) as *const c_void;
        if helper::bpf_probe_read_kernel(ptr::from_mut(&mut uid).cast(), 4, from) != 0 {
            return 0;
        }
    }
    LOGIN_READ | u64::from(uid)
}

/// Writes who runs now into the record: process, start time, executable, user, cgroup.
#[inline(always)]
pub(crate) fn fill_caller(record: &mut Record) {
    // SAFETY: these helpers only read the current task; `comm` is 16 bytes of our own.
    unsafe {
        record.cgroup = helper::bpf_get_current_cgroup_id();
        record.at = helper::bpf_ktime_get_boot_ns();
        let ids = helper::bpf_get_current_pid_tgid();
        record.tgid = (ids >> 32) as u32;
        record.pid = ids as u32;
        let owner = helper::bpf_get_current_uid_gid();
        record.uid = owner as u32;
        record.gid = (owner >> 32) as u32;
        helper::bpf_get_current_comm(record.comm.as_mut_ptr().cast(), 16);
        let task = helper::bpf_get_current_task();
        let leader = kernel_word(task, &TASK_LEADER);
        record.started = kernel_word(leader, &TASK_START);
        record.login = login(leader);
        let file = kernel_word(kernel_word(task, &TASK_MM), &MM_EXE);
        let inode = kernel_word(file, &FILE_INODE);
        record.executable_inode = kernel_word(inode, &INODE_NUMBER);
        // s_dev has 32 bits; what follows it in the same word is something else.
        record.executable_device = kernel_word(kernel_word(inode, &INODE_SUPER), &SUPER_DEVICE) & 0xffff_ffff;
    }
}
