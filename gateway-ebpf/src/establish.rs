//! The handshake: the client's record travels from its socket to the gate's accepted socket by way of the 4-tuple.
//!
//! The source port exists only once `TCP_CONNECT_CB` runs, just before the SYN; "established" would be too late for
//! Fast Open. What cannot be handed over is lost, and a lost connection's packets are dropped.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockOpsContext;
use gateway_ebpf::abi::{
    ACCEPTED_OPEN, ACCEPTED_VETTED, Config, Counter, Record, STATE_HANDED_INBOUND, STATE_HANDED_OUTBOUND,
    STATE_LOCAL, STATE_LOST, STATE_NONE, STATE_REDIRECTED, Tuple,
};

use crate::look::{self, Freed, read, v4, v6};
use crate::report::count;
use crate::{ALLOWED, EXEMPT, MARKS, RECORDS, TUPLES};
use crate::{coverage, flows};

const TCP_CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE_CHANGED: u32 = 10;
pub(crate) const TCP_CLOSE: u32 = 7;
const TCP_SYN_SENT: u32 = 2;
pub(crate) const WANT_STATE_CHANGES: i32 = 4;
const AF_INET: u32 = 2;
const SOL_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

#[inline(always)]
pub(crate) fn sock_ops(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: fields of the context.
    let (op, socket) = unsafe { ((*ops).op, (*ops).__bindgen_anon_2.sk.cast::<c_void>()) };
    if socket.is_null() {
        return 1;
    }
    match op {
        TCP_CONNECT => dialling(ctx, socket),
        ACTIVE_ESTABLISHED => flows::went(ctx, socket),
        PASSIVE_ESTABLISHED => accepted(ctx, socket),
        STATE_CHANGED => {
            // SAFETY: fields of the context.
            let (from, to) = unsafe { ((*ops).__bindgen_anon_1.args[0], (*ops).__bindgen_anon_1.args[1]) };
            match flows::counted(socket) {
                Some(flow) => flows::changed(flow, to),
                None if to == TCP_CLOSE => closed(ctx, socket, from),
                None => {}
            }
        }
        _ => {}
    }
    1
}

/// The 4-tuple from the client's side (`from_client`) or from the accepting side.
#[inline(always)]
fn tuple(ctx: &SockOpsContext, from_client: bool) -> Tuple {
    let ops = ctx.ops;
    // Every field is read, used or not: see `read!`.
    let family = read!((*ops).family);
    let (remote4, local4) = (read!((*ops).remote_ip4), read!((*ops).local_ip4));
    let remote6 = [
        read!((*ops).remote_ip6[0]),
        read!((*ops).remote_ip6[1]),
        read!((*ops).remote_ip6[2]),
        read!((*ops).remote_ip6[3]),
    ];
    let local6 = [
        read!((*ops).local_ip6[0]),
        read!((*ops).local_ip6[1]),
        read!((*ops).local_ip6[2]),
        read!((*ops).local_ip6[3]),
    ];
    // The remote port comes in network order in the upper half on little-endian machines, the local one in host order.
    let remote_port = u32::from_be(read!((*ops).remote_port)) as u16;
    let local_port = read!((*ops).local_port) as u16;
    let (remote, local) =
        if family == AF_INET { (v4(remote4), v4(local4)) } else { (v6(remote6), v6(local6)) };
    // SAFETY: reads the socket behind the context.
    let netns = unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) };
    if from_client {
        Tuple {
            netns,
            source: local,
            destination: remote,
            source_port: local_port,
            destination_port: remote_port,
            zero: 0,
        }
    } else {
        Tuple {
            netns,
            source: remote,
            destination: local,
            source_port: remote_port,
            destination_port: local_port,
            zero: 0,
        }
    }
}

/// A client's SYN is about to leave.
#[inline(always)]
fn dialling(ctx: &SockOpsContext, socket: *mut c_void) {
    flows::anew(socket);
    if EXEMPT.get(socket).is_some() || look::freed(socket) == Freed::Yes {
        let tuple = tuple(ctx, true);
        if !look::is_service(&tuple.destination, tuple.destination_port) {
            return;
        }
        if ALLOWED.insert(&tuple, &1, 0).is_err() {
            // Steered back to the gate, this connection would go round for ever.
            count(Counter::AllowedFailed);
            lose(ctx, socket);
            return;
        }
        let _ = ctx.set_cb_flags(WANT_STATE_CHANGES);
        return;
    }
    let Some(config) = look::config() else { return };
    let tuple = tuple(ctx, true);
    let Some(record) = RECORDS.get(socket) else { return coverage::unseen(ctx, config, socket, &tuple) };
    if record.state == STATE_NONE {
        return coverage::unseen(ctx, config, socket, &tuple);
    }
    if record.state != STATE_REDIRECTED && record.state != STATE_LOCAL {
        return;
    }
    record.tuple = tuple;
    flows::count(&flows::key_of(record), |counts| &raw mut counts.dialled);
    // Where the gate does not listen none arrives at it: their rows would wait as long as their owner likes.
    if !look::here(config, record.tuple.netns).listens {
        flows::count(&flows::key_of(record), |counts| &raw mut counts.never_came);
        return;
    }
    if TUPLES.insert(&record.tuple, &*record, 0).is_err() {
        count(Counter::TupleFailed);
        // A rewritten connect is refused at the gate's port (no record, no entry); one that was not rewritten would
        // arrive as a stranger.
        flows::count(&flows::key_of(record), |counts| &raw mut counts.never_came);
        if record.state == STATE_LOCAL {
            lose(ctx, socket);
        }
        return;
    }
    let _ = ctx.set_cb_flags(WANT_STATE_CHANGES);
}

/// From here on nothing leaves this socket, and it gives up soon. (A sock_ops program cannot refuse.)
#[inline(always)]
fn lose(ctx: &SockOpsContext, socket: *mut c_void) {
    if let Some(record) = RECORDS.get_or_make(socket, core::ptr::null_mut()) {
        record.state = STATE_LOST;
    }
    let mut milliseconds = 1u32;
    // SAFETY: a helper for this very context; the value outlives the call. Failing only means a later timeout.
    unsafe {
        helper::bpf_setsockopt(
            ctx.as_ptr(),
            SOL_TCP,
            TCP_USER_TIMEOUT,
            core::ptr::from_mut(&mut milliseconds).cast(),
            4,
        );
    }
}

/// A server's socket, the gate's or another's, has a connection.
#[inline(always)]
fn accepted(ctx: &SockOpsContext, socket: *mut c_void) {
    let Some(config) = look::config() else { return };
    let tuple = tuple(ctx, false);
    // An answer is no escape: egress must know it from a connection that was dialled. In every namespace, since
    // egress does not know in which it is. Without memory for the mark the packets are dropped, where it matters.
    if let Some(mark) = MARKS.get_or_make(socket, core::ptr::null_mut()) {
        let service = look::is_service(&tuple.destination, tuple.destination_port);
        mark.accepted = if service { ACCEPTED_VETTED } else { ACCEPTED_OPEN };
    }
    if look::out_of_scope(config, tuple.netns) {
        return;
    }
    hand_over(ctx, config, &tuple, socket);
}

#[inline(always)]
fn hand_over(ctx: &SockOpsContext, config: &Config, tuple: &Tuple, socket: *mut c_void) {
    let outbound = tuple.destination_port == config.gate_port;
    let service = look::service(&tuple.destination, tuple.destination_port);
    if !outbound && service == 0 {
        return;
    }
    // The gate's own connection to the service: nobody's record.
    if ALLOWED.get_ptr(tuple).is_some() {
        return;
    }
    let mut whose = (0, if outbound { 0 } else { service });
    let mut recorded = false;
    if let Some(from) = TUPLES.get_ptr_mut(tuple) {
        let record = RECORDS.get_or_make(socket, from);
        // A row that was forgotten meanwhile may have been another's while it was copied.
        let taken = TUPLES.remove(tuple).is_ok();
        if let Some(record) = record {
            if taken {
                record.state = if outbound { STATE_HANDED_OUTBOUND } else { STATE_HANDED_INBOUND };
                whose = (record.guard, record.row);
                recorded = true;
                count(Counter::HandedOver);
            } else {
                record.state = STATE_NONE;
            }
        }
    }
    // Nothing of another namespace comes to the gate.
    if tuple.netns == config.netns {
        flows::came(ctx, socket, whose, (outbound, recorded));
    }
}

/// A client's socket is closed: whatever it left behind goes, unless the tuple is somebody else's by now.
#[inline(always)]
fn closed(ctx: &SockOpsContext, socket: *mut c_void, from: u32) {
    let tuple = tuple(ctx, true);
    let mut came = from != TCP_SYN_SENT;
    // SAFETY: reads the socket behind the context.
    let cookie = unsafe { helper::bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: a map value the lookup just gave; entries are preallocated, so it stays readable.
    if TUPLES.get_ptr(&tuple).is_some_and(|left: *const Record| unsafe { (*left).cookie } == cookie) {
        let _ = TUPLES.remove(&tuple);
        came = false;
    }
    let _ = ALLOWED.remove(&tuple);
    if !came
        && let Some(record) = RECORDS.get(socket)
        && (record.state == STATE_REDIRECTED || record.state == STATE_LOCAL)
    {
        flows::count(&flows::key_of(record), |counts| &raw mut counts.never_came);
    }
}
