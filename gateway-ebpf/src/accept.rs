//! A connection arrives: `sk_lookup` gives protected ports to the gate, and only to the gate; and the gate asks who it
//! is by `getsockopt`, which needs no privilege.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::{SkLookupContext, SockoptContext};
use gateway_ebpf::abi::{
    Config, Counter, FlowKey, LISTEN_INBOUND, LISTEN_OUTBOUND, LISTENERS, OPTION_FLOW, OPTION_LEVEL,
    OPTION_RECORD, Record, STATE_HANDED_INBOUND, STATE_HANDED_OUTBOUND, Tuple,
};
use gateway_ebpf::choose;

use crate::look::{self, read, v4, v6};
use crate::report::{To, count, dropped};
use crate::{ALLOWED, LISTENING, RECORDS, TUPLES, flows};

const DROP: u32 = 0;
const PASS: u32 = 1;
const AF_INET: u32 = 2;
const NO_REUSEPORT: u64 = 2;
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
const SO_ORIGINAL_DST: i32 = 80;
/// Longer options do not fit the buffer a program is shown.
const PAGE: i32 = 4096;

/// Which namespace this copy of [`steer`] is attached to: patched by the loader, for the program cannot ask. 0: the gate's own.
#[unsafe(no_mangle)]
static SPACE: u64 = 0;

#[inline(always)]
pub(crate) fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let protocol = read!((*lookup).protocol);
    let family = read!((*lookup).family);
    let (local4, remote4) = (read!((*lookup).local_ip4), read!((*lookup).remote_ip4));
    let local6 = [
        read!((*lookup).local_ip6[0]),
        read!((*lookup).local_ip6[1]),
        read!((*lookup).local_ip6[2]),
        read!((*lookup).local_ip6[3]),
    ];
    let remote6 = [
        read!((*lookup).remote_ip6[0]),
        read!((*lookup).remote_ip6[1]),
        read!((*lookup).remote_ip6[2]),
        read!((*lookup).remote_ip6[3]),
    ];
    let port = read!((*lookup).local_port) as u16;
    let remote_port = u16::from_be(read!((*lookup).remote_port) as u16);
    let (destination, source) =
        if family == AF_INET { (v4(local4), v4(remote4)) } else { (v6(local6), v6(remote6)) };
    let to = To { address: &destination, port, protocol, guard: 0 };
    let Some(config) = look::config() else {
        dropped(Counter::ConfigFailed, &to);
        return DROP;
    };
    // SAFETY: read-only data, patched before load, hence volatile.
    let space = unsafe { core::ptr::read_volatile(&SPACE) };
    let netns = if space == 0 { config.netns } else { space };
    let here = look::here(config, netns);
    let service = (space == 0 || here.services) && look::is_service(&destination, port);
    if protocol != choose::TCP {
        // The service is protected over TCP; what it also serves over UDP (QUIC) would be a door beside the gate.
        if !service {
            return PASS;
        }
        dropped(Counter::ServiceDatagram, &to);
        return DROP;
    }
    let outbound = port == config.gate_port;
    if !outbound && !service {
        return PASS;
    }
    let tuple =
        Tuple { netns, source, destination, source_port: remote_port, destination_port: port, zero: 0 };
    let first = match admit(config, &tuple, outbound) {
        Admit::Gate(first) => first,
        Admit::Service => {
            count(Counter::SteerExempt);
            return PASS;
        }
        Admit::Nobody(counter) => {
            dropped(counter, &to);
            return DROP;
        }
    };
    let index = here.slot * LISTENERS + if family == AF_INET { first } else { first + 1 };
    // A namespace that is let go has no slot, and the gate's own is not its.
    if !here.listens {
        dropped(Counter::GateDown, &to);
        return DROP;
    }
    // During an upgrade the old gate listens beside the new one; only the one in the map is meant.
    if LISTENING.redirect_sk_lookup(ctx, index, NO_REUSEPORT).is_err() {
        dropped(Counter::GateDown, &to);
        return DROP;
    }
    // Frozen, the listener would still take connections, and nobody would serve them. What is assigned counts for nothing
    // where the program drops.
    if !look::is_alive() {
        dropped(Counter::HeartbeatLost, &to);
        return DROP;
    }
    count(Counter::Steered);
    PASS
}

enum Admit {
    /// To the gate's listener of this index (v6: the next).
    Gate(u32),
    /// To whoever really listens.
    Service,
    Nobody(Counter),
}

#[inline(always)]
fn admit(config: &Config, tuple: &Tuple, outbound: bool) -> Admit {
    if !outbound {
        return if ALLOWED.get_ptr(tuple).is_some() { Admit::Service } else { Admit::Gate(LISTEN_INBOUND) };
    }
    // The gate's port exists for rewritten connects alone: over loopback, and with a record under way.
    let known = config.abi != 0 && choose::is_loopback(&tuple.destination) && TUPLES.get_ptr(tuple).is_some();
    if known { Admit::Gate(LISTEN_OUTBOUND) } else { Admit::Nobody(Counter::NoRecord) }
}

#[inline(always)]
pub(crate) fn getsockopt(ctx: &SockoptContext) -> i32 {
    let option = ctx.sockopt;
    let (level, name) = (read!((*option).level), read!((*option).optname));
    if level == OPTION_LEVEL && name == OPTION_FLOW {
        // SAFETY: a field of the context.
        let socket: *mut c_void = unsafe { (*option).__bindgen_anon_1.sk }.cast();
        let Some(key) = flows::take(socket) else { return 1 };
        return i32::from(write_flow(ctx, &key));
    }
    let wants_record = level == OPTION_LEVEL && name == OPTION_RECORD;
    let wants_v4 = level == SOL_IP && name == SO_ORIGINAL_DST;
    let wants_v6 = level == SOL_IPV6 && name == SO_ORIGINAL_DST;
    if !wants_record && !wants_v4 && !wants_v6 {
        // Before 6.4 the kernel answers EFAULT to options longer than a page (iptables has some) unless told to
        // take its own buffer.
        // SAFETY: the context's own writable field.
        unsafe {
            if (*option).optlen > PAGE {
                (*option).optlen = 0;
            }
        }
        return 1;
    }
    // SAFETY: a field of the context.
    let socket: *mut c_void = unsafe { (*option).__bindgen_anon_1.sk }.cast();
    let handed = RECORDS
        .get(socket)
        .filter(|record| record.state == STATE_HANDED_OUTBOUND || record.state == STATE_HANDED_INBOUND);
    let Some(record) = handed else {
        // SAFETY: reads the socket behind the context.
        let netns = unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) };
        // Another gate's socket, where several share a cgroup, is no loss of this one.
        if look::config().is_some_and(|config| !look::out_of_scope(config, netns)) {
            count(Counter::RecordMissing);
        }
        return 1;
    };
    count(Counter::RecordRead);
    let written = if wants_record {
        write_record(ctx, record)
    } else if wants_v4 {
        write_v4(ctx, record)
    } else {
        write_v6(ctx, record)
    };
    i32::from(written)
}

/// Where `length` bytes of the answer go, if the caller's buffer holds them.
macro_rules! buffer {
    ($option:expr, $length:expr) => {{
        // SAFETY: fields of the context.
        let (start, end) =
            unsafe { ((*$option).__bindgen_anon_2.optval, (*$option).__bindgen_anon_3.optval_end) };
        if start as usize + $length > end as usize {
            return false;
        }
        start.cast::<u8>()
    }};
}

/// Says to the kernel that `length` bytes are the answer, and that there was no error.
#[inline(always)]
fn answered(ctx: &SockoptContext, length: usize) -> bool {
    // SAFETY: the context's own writable fields.
    unsafe {
        // Volatile: LLVM would make one 8-byte store of them, which the verifier refuses.
        core::ptr::write_volatile(&raw mut (*ctx.sockopt).optlen, length as i32);
        core::ptr::write_volatile(&raw mut (*ctx.sockopt).retval, 0);
    }
    true
}

#[inline(always)]
fn write_record(ctx: &SockoptContext, record: &Record) -> bool {
    let to = buffer!(ctx.sockopt, size_of::<Record>());
    // SAFETY: the bound was just checked; the buffer is 8-aligned, being a kernel allocation's start.
    unsafe { *to.cast::<Record>() = *record };
    answered(ctx, size_of::<Record>())
}

#[inline(always)]
fn write_flow(ctx: &SockoptContext, key: &FlowKey) -> bool {
    let to = buffer!(ctx.sockopt, size_of::<FlowKey>());
    // SAFETY: as above.
    unsafe { *to.cast::<FlowKey>() = *key };
    answered(ctx, size_of::<FlowKey>())
}

/// `struct sockaddr_in`, as netfilter answers it.
#[inline(always)]
fn write_v4(ctx: &SockoptContext, record: &Record) -> bool {
    let to = buffer!(ctx.sockopt, 16);
    // SAFETY: 16 bytes were just checked.
    unsafe {
        *to.cast::<u16>() = 2;
        *to.add(2).cast::<u16>() = record.port.to_be();
        *to.add(4).cast::<u32>() = look::word(&record.address, 12);
        *to.add(8).cast::<u64>() = 0;
    }
    answered(ctx, 16)
}

/// `struct sockaddr_in6`, as netfilter answers it.
#[inline(always)]
fn write_v6(ctx: &SockoptContext, record: &Record) -> bool {
    let to = buffer!(ctx.sockopt, 28);
    // SAFETY: 28 bytes were just checked.
    unsafe {
        *to.cast::<u16>() = 10;
        *to.add(2).cast::<u16>() = record.port.to_be();
        *to.add(4).cast::<u32>() = 0;
        *to.add(8).cast::<u32>() = look::word(&record.address, 0);
        *to.add(12).cast::<u32>() = look::word(&record.address, 4);
        *to.add(16).cast::<u32>() = look::word(&record.address, 8);
        *to.add(20).cast::<u32>() = look::word(&record.address, 12);
        *to.add(24).cast::<u32>() = 0;
    }
    answered(ctx, 28)
}
