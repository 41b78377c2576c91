//! What comes to the gate, and what went past it, counted once per connection: how many flows, and how many bytes whoever had
//! them read and wrote. `tidegate coverage` compares that with what the enforcer says.
//!
//! Nothing runs per packet. What a process read and wrote is known when it closes the socket, from the kernel's own sequence
//! numbers. Decides nothing; what cannot be counted is counted as that.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::{SockContext, SockOpsContext};
use gateway_ebpf::abi::{
    Counter, FLOW_CAME, FLOW_ENDED, FLOW_FIN_SENT, FLOW_UNTAKEN, Flow, FlowCounts, FlowKey, Passer, Plain,
    Record, STATE_HANDED_OUTBOUND, STATE_REDIRECTED, Tuple, WAY_INBOUND, WAY_OUTBOUND, WAY_PAST,
};
use gateway_ebpf::choose;

use crate::establish::{TCP_CLOSE, WANT_STATE_CHANGES};
use crate::look::{self, read};
use crate::{FLOW, FLOWS, PASSERS, report};

const ALLOW: i32 = 1;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_LAST_ACK: u32 = 9;
/// Keeps what is there.
const IF_MISSING: u64 = 1;

/// As what a local client's connect is counted, whoever takes it.
#[inline(always)]
pub(crate) fn key_of(record: &Record) -> FlowKey {
    let outbound = record.state == STATE_REDIRECTED || record.state == STATE_HANDED_OUTBOUND;
    let way = if outbound { WAY_OUTBOUND } else { WAY_INBOUND };
    FlowKey { taker: 0, row: record.row, guard: record.guard, way, zero: 0 }
}

/// A socket dials anew: what it was counted as is void.
#[inline(always)]
pub(crate) fn anew(socket: *mut c_void) {
    if let Some(flow) = FLOW.get(socket) {
        flow.key.way = 0;
        flow.state = 0;
    }
}

/// As what a socket is counted, if it is.
#[inline(always)]
pub(crate) fn counted(socket: *mut c_void) -> Option<&'static mut Flow> {
    FLOW.get(socket).filter(|flow| flow.key.way != 0)
}

/// Counts one.
#[inline(always)]
pub(crate) fn count(key: &FlowKey, of: impl Fn(&mut FlowCounts) -> *mut u64) {
    if let Some(counts) = counts(key) {
        add(of(counts), 1);
    }
}

/// The row of a key, made where there is none.
#[inline(always)]
fn counts(key: &FlowKey) -> Option<&'static mut FlowCounts> {
    let found = FLOWS.get_ptr_mut(key).or_else(|| {
        // Another processor may have made it meanwhile; then that one is kept.
        let _ = FLOWS.insert(key, &FlowCounts::ZERO, IF_MISSING);
        FLOWS.get_ptr_mut(key)
    });
    if found.is_none() {
        report::count(Counter::FlowUncounted);
    }
    // SAFETY: a map value the lookup just gave; written by nothing but atomic additions.
    found.map(|found| unsafe { &mut *found })
}

/// Adds, whoever else adds at the same moment. (The target has no atomic operations in stable Rust.)
#[inline(always)]
fn add(place: *mut u64, more: u64) {
    // SAFETY: the places are aligned fields of live map values.
    unsafe {
        core::arch::asm!("lock *(u64 *)({place} + 0) += {more}", place = in(reg) place, more = in(reg) more);
    }
}

/// A connection has come to the gate's listener, or to whoever listens in its place.
#[inline(always)]
pub(crate) fn came(
    ctx: &SockOpsContext,
    socket: *mut c_void,
    (guard, row): (u32, u32),
    (outbound, recorded): (bool, bool),
) {
    let way = if outbound { WAY_OUTBOUND } else { WAY_INBOUND };
    let key = FlowKey { taker: 0, row, guard, way, zero: 0 };
    let Some(counts) = counts(&key) else { return };
    let Some(flow) = FLOW.get_or_make(socket, core::ptr::null_mut()) else {
        return report::count(Counter::FlowUncounted);
    };
    flow.key = key;
    begin(ctx, flow);
    add(&raw mut counts.came, 1);
    if recorded {
        add(&raw mut counts.came_recorded, 1);
    }
    let _ = ctx.set_cb_flags(WANT_STATE_CHANGES);
}

/// From here on bytes come and go: nothing was read or written before.
#[inline(always)]
fn begin(ctx: &SockOpsContext, flow: &mut Flow) {
    let ops = ctx.ops;
    flow.read_from = read!((*ops).rcv_nxt);
    flow.written_from = read!((*ops).snd_una);
    flow.state = FLOW_CAME;
}

/// A socket that is counted has another state. The socket is locked, as it is while somebody takes the flow.
#[inline(always)]
pub(crate) fn changed(flow: &mut Flow, to: u32) {
    if to == TCP_FIN_WAIT1 || to == TCP_LAST_ACK {
        flow.state |= FLOW_FIN_SENT;
    }
    let done = FLOW_UNTAKEN | FLOW_ENDED;
    if to == TCP_CLOSE && flow.key.way != WAY_PAST && flow.key.taker == 0 && flow.state & done == 0 {
        flow.state |= FLOW_UNTAKEN;
        count(&flow.key, |counts| &raw mut counts.untaken);
    }
}

/// The enforcer takes what it accepted: from here on it answers for it. `None`: nothing is counted there.
#[inline(always)]
pub(crate) fn take(socket: *mut c_void) -> Option<FlowKey> {
    let flow = counted(socket)?;
    if flow.key.way == WAY_PAST || flow.state & FLOW_ENDED != 0 {
        return None;
    }
    if flow.key.taker == 0 {
        let all = counts(&flow.key)?;
        let mut key = flow.key;
        key.taker = look::taker();
        let own = counts(&key)?;
        if flow.state & FLOW_UNTAKEN != 0 {
            flow.state &= !FLOW_UNTAKEN;
            add(&raw mut all.untaken, u64::MAX);
        }
        add(&raw mut all.taken, 1);
        add(&raw mut own.taken, 1);
        flow.key = key;
    }
    Some(flow.key)
}

/// A process closes a socket: what it read and wrote will not change any more.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) -> i32 {
    let socket: *mut c_void = ctx.as_ptr();
    let Some(flow) = counted(socket) else { return ALLOW };
    if flow.state & FLOW_ENDED != 0 || flow.state & FLOW_CAME == 0 {
        return ALLOW;
    }
    let at = look::progress(socket);
    // A FIN takes a sequence number of its own, and is read with what comes before it.
    let fin_read = u32::from(at.done && at.next == at.copied);
    let waiting = at.next.wrapping_sub(at.copied);
    let fin_sent = u32::from(flow.state & FLOW_FIN_SENT != 0);
    let unread = waiting - u32::from(at.done && waiting != 0);
    let was_read = choose::exactly(
        at.received.wrapping_sub(u64::from(waiting)),
        at.copied.wrapping_sub(flow.read_from).wrapping_sub(fin_read),
    );
    let written = choose::exactly(
        at.acked.wrapping_add(u64::from(at.written.wrapping_sub(at.unacked))),
        at.written.wrapping_sub(flow.written_from).wrapping_sub(fin_sent),
    );
    let untouched = flow.key.way != WAY_PAST && flow.key.taker == 0 && was_read == 0 && written == 0;
    if untouched {
        // Whoever had it did nothing with it.
        if flow.state & FLOW_UNTAKEN == 0 {
            flow.state |= FLOW_UNTAKEN;
            count(&flow.key, |counts| &raw mut counts.untaken);
        }
        flow.state |= FLOW_ENDED;
        return ALLOW;
    }
    if flow.state & FLOW_UNTAKEN != 0 {
        flow.state &= !FLOW_UNTAKEN;
        count_back(&flow.key);
    }
    flow.state |= FLOW_ENDED;
    if let Some(counts) = counts(&flow.key) {
        add(&raw mut counts.ended, 1);
        add(&raw mut counts.read, was_read);
        add(&raw mut counts.written, written);
        add(&raw mut counts.unread, u64::from(unread));
    }
    if flow.key.taker == 0 {
        passed(ctx, flow, was_read, written);
    }
    ALLOW
}

#[inline(always)]
fn count_back(key: &FlowKey) {
    if let Some(counts) = counts(key) {
        add(&raw mut counts.untaken, u64::MAX);
    }
}

/// A connection whose connect nobody saw dials past the gate.
#[inline(always)]
pub(crate) fn passing(ctx: &SockOpsContext, socket: *mut c_void, tuple: &Tuple, (guard, row): (u32, u32)) {
    let key = FlowKey { taker: 0, row, guard, way: WAY_PAST, zero: 0 };
    count(&key, |counts| &raw mut counts.dialled);
    match FLOW.get_or_make(socket, core::ptr::null_mut()) {
        Some(flow) => {
            flow.key = key;
            flow.state = 0;
            let _ = ctx.set_cb_flags(WANT_STATE_CHANGES);
        }
        None => report::count(Counter::FlowUncounted),
    }
    let (tgid, comm) = look::current_task();
    let passer = Passer {
        key,
        // SAFETY: reads the clock.
        at: unsafe { helper::bpf_ktime_get_boot_ns() },
        cgroup: 0,
        read: 0,
        written: 0,
        tgid,
        uid: look::current_uid(),
        state: 0,
        port: u32::from(tuple.destination_port),
        comm,
        address: tuple.destination,
    };
    // SAFETY: reads the socket behind the context.
    let cookie = unsafe { helper::bpf_get_socket_cookie(ctx.as_ptr()) };
    let _ = PASSERS.insert(&cookie, &passer, 0);
}

/// A dialled connection is established: it goes past the gate, if it is one of those.
#[inline(always)]
pub(crate) fn went(ctx: &SockOpsContext, socket: *mut c_void) {
    let Some(flow) = counted(socket) else { return };
    begin(ctx, flow);
    count(&flow.key, |counts| &raw mut counts.came);
    // SAFETY: reads the socket behind the context.
    let cookie = unsafe { helper::bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(passer) = PASSERS.get_ptr_mut(&cookie) {
        // SAFETY: a map value the lookup just gave; it is memory of the map as long as the program runs.
        unsafe { (*passer).state |= FLOW_CAME };
    }
}

/// Who had a flow that the enforcer did not.
#[inline(always)]
fn passed(ctx: &SockContext, flow: &Flow, was_read: u64, written: u64) {
    // SAFETY: reads the socket behind the context.
    let cookie = unsafe { helper::bpf_get_socket_cookie(ctx.as_ptr()) };
    let tgid = look::current_tgid();
    // SAFETY: reads the current task.
    let cgroup = unsafe { helper::bpf_get_current_cgroup_id() };
    if let Some(known) = PASSERS.get_ptr_mut(&cookie) {
        // SAFETY: as above.
        let known = unsafe { &mut *known };
        known.state |= FLOW_ENDED;
        (known.read, known.written) = (was_read, written);
        if known.tgid == tgid {
            known.cgroup = cgroup;
        }
        return;
    }
    let (_, comm) = look::current_task();
    let passer = Passer {
        key: flow.key,
        // SAFETY: reads the clock.
        at: unsafe { helper::bpf_ktime_get_boot_ns() },
        cgroup,
        read: was_read,
        written,
        tgid,
        // SAFETY: reads the current task.
        uid: unsafe { helper::bpf_get_current_uid_gid() } as u32,
        state: FLOW_CAME | FLOW_ENDED,
        port: look::own_port(ctx.as_ptr()),
        comm,
        address: [0; 16],
    };
    let _ = PASSERS.insert(&cookie, &passer, 0);
}
