//! The kernel programs: maps, and entry points of one line each. What they do stands in the module named after the
//! moment: `connect` (a client dials), `establish` (the handshake), `accept` (a connection arrives, the gate asks who
//! it is), `guard` (what must not leave). Anything a hook cannot find out is refused.
//!
//! Minimum kernel for the whole: 6.1 (`bpf_get_netns_cookie` in sock_ops).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(clippy::missing_safety_doc, missing_docs)]

mod accept;
mod connect;
mod coverage;
mod establish;
mod flows;
mod guard;
mod look;
mod lsm;
mod outside;
mod report;
mod uplink;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::{
    btf_map, cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, cgroup_sysctl, classifier, lsm,
    lsm_cgroup, map, sk_lookup, sock_ops,
};
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap};
use aya_ebpf::programs::{
    LsmContext, SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext,
    SysctlContext, TcContext,
};
use gateway_ebpf::abi::{
    self, BlockData, Bound, Config, DnsKey, ExemptKey, Flow, FlowCounts, FlowKey, Guarding, Heartbeat,
    InodeKey, LISTENERS_MAX, Mark, Passer, Record, Space, Tuple, UnixKey,
};

use crate::look::Storage;

// Where we are. Written by the loader before the first link exists.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Process id of the gate, written when it binds its port: the loop breaker.
#[map]
static GATE: Array<u32> = Array::with_max_entries(1, 0);

/// Until when the gate counts as alive. Written by the enforcer.
#[map]
static HEARTBEAT: Array<Heartbeat> = Array::with_max_entries(1, 0);

// The two tables, and the services. Written by the enforcer.
#[map]
static TARGETS: LpmTrie<BlockData, u32> = LpmTrie::with_max_entries(abi::TARGETS_MAX, BPF_F_NO_PREALLOC);
#[map]
static SERVICES: LpmTrie<BlockData, u32> = LpmTrie::with_max_entries(abi::SERVICES_MAX, BPF_F_NO_PREALLOC);
/// The other namespaces, by their cookies: where the gate listens, and where it was asked for and does not. Written by
/// whoever makes the listeners.
#[map]
static SPACES: HashMap<u64, Space> = HashMap::with_max_entries(abi::SPACES_KNOWN_MAX, 0);
/// The namespaces' own addresses, at port 0. Without it any destination on a service's port would be recorded.
#[map]
static OWN: LpmTrie<BlockData, u32> = LpmTrie::with_max_entries(abi::OWN_MAX, BPF_F_NO_PREALLOC);
#[map]
static GUARDING: Array<Guarding> = Array::with_max_entries(1, 0);
/// Guards in force. A mark on a socket outlives its guard; only what stands here counts.
#[map]
static GUARDS: HashMap<u32, u32> = HashMap::with_max_entries(abi::GUARDS_MAX, 0);
#[map]
static GUARD_CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(abi::GUARD_CGROUPS_MAX, 0);
#[map]
static GUARD_UIDS: HashMap<u32, u32> = HashMap::with_max_entries(abi::GUARD_UIDS_MAX, 0);
#[map]
static DNS: HashMap<DnsKey, u32> = HashMap::with_max_entries(abi::DNS_MAX, 0);

/// Unix sockets outside that guarded processes may connect to.
#[map]
static UNIX_ALLOWED: HashMap<UnixKey, u32> =
    HashMap::with_max_entries(abi::UNIX_ALLOWED_MAX, BPF_F_NO_PREALLOC);
/// What is the gate's own among files. Written by the loader.
#[map]
static SEALED: HashMap<InodeKey, u32> = HashMap::with_max_entries(abi::SEALED_MAX, 0);

// Whose connects go straight. Written by the enforcer.
#[map]
static EXEMPTING: Array<Guarding> = Array::with_max_entries(1, 0);
#[map]
static EXEMPT_CALLERS: HashMap<ExemptKey, u32> = HashMap::with_max_entries(abi::EXEMPT_CALLERS_MAX, 0);

/// The hand-over. Full, it forgets who waited longest: an honest row waits microseconds, and whoever lets rows wait (a
/// socket that hears no answer) crowds out his own.
#[map]
static TUPLES: LruHashMap<Tuple, Record> = LruHashMap::with_max_entries(abi::TUPLES_MAX, 0);
/// The gate's own connections to protected services, which must not be steered back to it.
#[map]
static ALLOWED: HashMap<Tuple, u32> = HashMap::with_max_entries(abi::ALLOWED_MAX, 0);
#[map]
static LISTENING: SockMap = SockMap::with_max_entries(LISTENERS_MAX, 0);
#[btf_map]
static RECORDS: Storage<Record> = Storage::new();
#[btf_map]
static MARKS: Storage<Mark> = Storage::new();
/// The gate's mark on its own sockets. Written from userspace through the map's descriptor; nothing else counts as
/// proof: marks, cgroups and interfaces can all be had by others.
#[btf_map]
static EXEMPT: Storage<u32> = Storage::new();
/// The exemption by which a connect went straight. It outlives the exemption: only while its row stands it counts.
#[btf_map]
static FREED: Storage<ExemptKey> = Storage::new();
/// Where such a socket may go, if it was made for somebody who is not trusted with more.
#[btf_map]
static BOUND: Storage<Bound> = Storage::new();

// What happened.
/// Flows and their bytes. Not an LRU: what was counted is not forgotten.
#[map]
static FLOWS: HashMap<FlowKey, FlowCounts> = HashMap::with_max_entries(abi::FLOWS_MAX, BPF_F_NO_PREALLOC);
/// Which of them a socket is.
#[btf_map]
static FLOW: Storage<Flow> = Storage::new();
/// Who went past the gate, by the socket's cookie.
#[map]
static PASSERS: LruHashMap<u64, Passer> = LruHashMap::with_max_entries(abi::PASSERS_MAX, 0);
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::COUNTERS_MAX, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(abi::EVENTS_BYTES, 0);

/// cgroup/connect4: 4.17, with `bpf_setsockopt(SO_BINDTOIFINDEX)` 5.8.
#[cgroup_sock_addr(connect4)]
pub fn tg_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect4(&ctx)
}

/// cgroup/connect6: 4.17.
#[cgroup_sock_addr(connect6)]
pub fn tg_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect6(&ctx)
}

/// cgroup/getpeername4: 5.8.
#[cgroup_sock_addr(getpeername4)]
pub fn tg_getpeername4(ctx: SockAddrContext) -> i32 {
    connect::getpeername4(&ctx)
}

/// cgroup/getpeername6: 5.8.
#[cgroup_sock_addr(getpeername6)]
pub fn tg_getpeername6(ctx: SockAddrContext) -> i32 {
    connect::getpeername6(&ctx)
}

/// cgroup/sendmsg4: 4.18.
#[cgroup_sock_addr(sendmsg4)]
pub fn tg_sendmsg4(ctx: SockAddrContext) -> i32 {
    guard::sendmsg4(&ctx)
}

/// cgroup/sendmsg6: 4.18.
#[cgroup_sock_addr(sendmsg6)]
pub fn tg_sendmsg6(ctx: SockAddrContext) -> i32 {
    guard::sendmsg6(&ctx)
}

/// cgroup/bind4: 4.17.
#[cgroup_sock_addr(bind4)]
pub fn tg_bind4(ctx: SockAddrContext) -> i32 {
    guard::bind(&ctx)
}

/// cgroup/bind6: 4.17.
#[cgroup_sock_addr(bind6)]
pub fn tg_bind6(ctx: SockAddrContext) -> i32 {
    guard::bind(&ctx)
}

/// cgroup/sock_create: 4.10, with socket storage 5.9.
#[cgroup_sock(sock_create)]
pub fn tg_sock_create(ctx: SockContext) -> i32 {
    guard::sock_create(&ctx)
}

/// cgroup/sysctl: 5.2.
#[cgroup_sysctl]
pub fn tg_sysctl(ctx: SysctlContext) -> i32 {
    guard::sysctl(&ctx)
}

/// cgroup/sock_release: 5.9.
#[cgroup_sock(sock_release)]
pub fn tg_release(ctx: SockContext) -> i32 {
    flows::release(&ctx)
}

/// cgroup_skb/egress: 4.10, with socket storage 5.2.
#[cgroup_skb(egress)]
pub fn tg_egress(ctx: SkBuffContext) -> i32 {
    guard::egress(&ctx)
}

/// sock_ops: 4.13, with the netns cookie 5.15 (6.1 in long-term kernels).
#[sock_ops]
pub fn tg_establish(ctx: SockOpsContext) -> u32 {
    establish::sock_ops(&ctx)
}

/// cgroup/getsockopt: 5.3.
#[cgroup_sockopt(getsockopt)]
pub fn tg_getsockopt(ctx: SockoptContext) -> i32 {
    accept::getsockopt(&ctx)
}

/// sk_lookup: 5.9.
#[sk_lookup]
pub fn tg_steer(ctx: SkLookupContext) -> u32 {
    accept::steer(&ctx)
}

/// tcx egress: 6.6.
#[classifier]
pub fn tg_uplink_ether(ctx: TcContext) -> i32 {
    uplink::ether(&ctx)
}

/// tcx egress: 6.6.
#[classifier]
pub fn tg_uplink_bare(ctx: TcContext) -> i32 {
    uplink::bare(&ctx)
}

/// lsm_cgroup/socket_create: 6.0, with CONFIG_BPF_LSM=y and `bpf` among the active modules. Optional.
#[lsm_cgroup(hook = "socket_create")]
pub fn tg_socket_create(ctx: LsmContext) -> i32 {
    lsm::socket_create(&ctx)
}

macro_rules! bars {
    ($($program:ident = $hook:literal, $module:ident::$function:ident;)*) => {$(
        /// lsm: 5.7, on what [`lsm::bars`] needs. Optional.
        #[lsm(hook = $hook)]
        pub fn $program(ctx: LsmContext) -> i32 {
            $module::$function(&ctx)
        }
    )*};
}
bars! {
    tg_bpf = "bpf", lsm::bpf;
    tg_trace = "ptrace_access_check", lsm::trace;
    tg_signal = "task_kill", lsm::signal;
    tg_clone = "task_alloc", lsm::clone;
    tg_mount = "sb_mount", lsm::mount;
    tg_move_mount = "move_mount", lsm::move_mount;
    tg_unmount = "sb_umount", lsm::unmount;
    tg_unix_connect = "unix_stream_connect", lsm::unix_connect;
    tg_unix_send = "unix_may_send", lsm::unix_send;
    tg_passed = "file_receive", lsm::passed;
    tg_file_open = "file_open", lsm::file_open;
    tg_truncate = "path_truncate", lsm::change_path;
    tg_chmod = "path_chmod", lsm::change_path;
    tg_chown = "path_chown", lsm::change_path;
    tg_create = "inode_create", lsm::change_entry;
    tg_mkdir = "inode_mkdir", lsm::change_entry;
    tg_rmdir = "inode_rmdir", lsm::change_entry;
    tg_mknod = "inode_mknod", lsm::change_entry;
    tg_perf = "perf_event_open", lsm::perf;
    tg_input_signal = "file_send_sigiotask", lsm::input_signal;
    tg_rlimit = "task_setrlimit", lsm::starve;
    tg_scheduler = "task_setscheduler", lsm::starve;
    tg_nice = "task_setnice", lsm::starve;
    tg_ioprio = "task_setioprio", lsm::starve;
    tg_ioctl = "file_ioctl", lsm::ioctl;
    tg_ioctl_compat = "file_ioctl_compat", lsm::ioctl;
    tg_notify = "path_notify", lsm::notify;
    tg_pivot_root = "sb_pivotroot", lsm::pivot_root;
    tg_remount = "sb_remount", lsm::remount;
    tg_lockdown = "locked_down", lsm::lockdown;
    tg_read_file = "kernel_read_file", lsm::kernel_read_file;
    tg_load_data = "kernel_load_data", lsm::kernel_load_data;
    tg_unlink = "inode_unlink", lsm::change_entry;
    tg_rename = "inode_rename", lsm::rename;
    tg_hard_link = "inode_link", lsm::hard_link;
    tg_symlink = "inode_symlink", lsm::change_entry;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier accepts no program that can come here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
