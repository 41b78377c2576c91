//! A client dials: match, record who it is on its own socket, rewrite the address to the gate's loopback port; and show
//! it, when it asks, the peer it dialled.
//!
//! The address is rewritten here and not steered later, because then a dead gate means "connection refused" at once.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockAddrContext;
use gateway_ebpf::abi::{Address, Config, Counter, ExemptKey, STATE_LOCAL, STATE_NONE, STATE_REDIRECTED};
use gateway_ebpf::choose::{self, Answer, Connect};

use crate::look::{self, read, v4, v6, word};
use crate::report::{To, count, refused};
use crate::{BOUND, EXEMPT, FREED, MARKS, RECORDS};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOL_SOCKET: i32 = 1;
const SO_BINDTOIFINDEX: i32 = 62;
const LOOPBACK4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

enum Outcome {
    Allow,
    Deny,
    ToGate(u16),
}

/// One dial as the hook sees it.
struct Dial {
    socket: *mut c_void,
    address: Address,
    port: u16,
    family: u16,
    protocol: u32,
}

#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    let from = ctx.sock_addr;
    let dial = Dial {
        address: no_unspecified(v4(read!((*from).user_ip4))),
        port: u16::from_be(read!((*from).user_port) as u16),
        family: AF_INET,
        protocol: read!((*from).protocol),
        // SAFETY: a field of the context.
        socket: unsafe { (*from).__bindgen_anon_1.sk }.cast(),
    };
    match decide(ctx, &dial) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::ToGate(gate_port) => {
            // SAFETY: the context's own writable fields.
            unsafe {
                (*from).user_ip4 = LOOPBACK4;
                (*from).user_port = u32::from(gate_port.to_be());
            }
            ALLOW
        }
    }
}

#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    let from = ctx.sock_addr;
    let words = [
        read!((*from).user_ip6[0]),
        read!((*from).user_ip6[1]),
        read!((*from).user_ip6[2]),
        read!((*from).user_ip6[3]),
    ];
    let dial = Dial {
        address: no_unspecified(v6(words)),
        port: u16::from_be(read!((*from).user_port) as u16),
        family: AF_INET6,
        protocol: read!((*from).protocol),
        // SAFETY: a field of the context.
        socket: unsafe { (*from).__bindgen_anon_1.sk }.cast(),
    };
    match decide(ctx, &dial) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::ToGate(gate_port) => {
            let is_mapped = words[0] == 0 && words[1] == 0 && words[2] == MAPPED;
            // SAFETY: the context's own writable fields.
            unsafe {
                (*from).user_port = u32::from(gate_port.to_be());
                if is_mapped {
                    (*from).user_ip6[3] = LOOPBACK4;
                } else {
                    (*from).user_ip6[0] = 0;
                    (*from).user_ip6[1] = 0;
                    (*from).user_ip6[2] = 0;
                    (*from).user_ip6[3] = 1u32.to_be();
                }
            }
            ALLOW
        }
    }
}

/// Linux dials loopback where the address is unspecified; a target on loopback must see that.
#[inline(always)]
fn no_unspecified(mut address: Address) -> Address {
    if word(&address, 0) == 0 && word(&address, 4) == 0 && word(&address, 12) == 0 {
        let middle = word(&address, 8);
        if middle == MAPPED {
            address[12] = 127;
            address[15] = 1;
        } else if middle == 0 {
            address[15] = 1;
        }
    }
    address
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, dial: &Dial) -> Outcome {
    // A socket may disconnect (AF_UNSPEC, which no hook sees) and dial again, for somebody else: what it was is void.
    if let Some(old) = RECORDS.get(dial.socket) {
        old.state = STATE_NONE;
    }
    if let Some(old) = FREED.get(dial.socket) {
        old.one = 0;
    }
    let (address, port) = (&dial.address, dial.port);
    let mut to = To { address, port, protocol: dial.protocol, guard: 0 };
    let Some(config) = look::config() else {
        refused(ctx, Counter::ConfigFailed, &to);
        return Outcome::Deny;
    };
    // SAFETY: reads the socket behind the context.
    let netns = unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) };
    if look::out_of_scope(config, netns) {
        return Outcome::Allow;
    }
    let exempt = EXEMPT.get(dial.socket).is_some();
    if exempt && !goes_where_it_may(dial) {
        refused(ctx, Counter::BoundElsewhere, &to);
        return Outcome::Deny;
    }
    let guard = if exempt { 0 } else { look::current_guard() };
    let exemption =
        if exempt || guard != 0 || !choose::is_tcp(dial.protocol) { None } else { look::current_exemption() };
    to.guard = guard;
    let (target, service) = (look::target(address, port), look::service(address, port));
    let row = if target != 0 { target } else { service };
    let here = look::here(config, netns);
    let answer = choose::connect(&Connect {
        exempt,
        freed: exemption.is_some(),
        gate: look::is_gate(),
        // Asked where it matters alone.
        alive: guard == 0 || look::is_alive(),
        protocol: dial.protocol,
        gate_port: port == config.gate_port,
        loopback: choose::is_loopback(address),
        listens: here.listens,
        here: here.services,
        own: service != 0 && look::is_own(here.slot, address),
        guard,
        dns: guard != 0 && look::is_dns(guard, address, port),
        target: target != 0,
        service: service != 0,
    });
    if guard != 0 && !mark(dial.socket, guard) {
        refused(ctx, Counter::MarkFailed, &to);
        return Outcome::Deny;
    }
    let failed = match answer {
        Answer::Pass(counter) => match pass(dial, counter, exemption) {
            Ok(()) => return Outcome::Allow,
            Err(counter) => counter,
        },
        Answer::Refuse(counter) => counter,
        Answer::Record => match keep(ctx, dial, netns, (guard, service), STATE_LOCAL) {
            Ok(()) => {
                count(Counter::LocalRecorded);
                return Outcome::Allow;
            }
            Err(counter) => counter,
        },
        Answer::Redirect => match redirect(ctx, dial, netns, (guard, row), config) {
            Ok(port) => return Outcome::ToGate(port),
            Err(counter) => counter,
        },
    };
    refused(ctx, failed, &to);
    Outcome::Deny
}

/// Whether a socket of the gate's own was made for this place, or for any.
#[inline(always)]
fn goes_where_it_may(dial: &Dial) -> bool {
    let Some(bound) = BOUND.get(dial.socket) else { return true };
    bound.port == u32::from(dial.port)
        && word(&bound.address, 0) == word(&dial.address, 0)
        && word(&bound.address, 4) == word(&dial.address, 4)
        && word(&bound.address, 8) == word(&dial.address, 8)
        && word(&bound.address, 12) == word(&dial.address, 12)
}

/// Lets it go straight. What goes past the gate by an exemption keeps by which one: its packets need that.
#[inline(always)]
fn pass(dial: &Dial, counter: Option<Counter>, exemption: Option<ExemptKey>) -> Result<(), Counter> {
    let Some(counter) = counter else { return Ok(()) };
    if matches!(counter, Counter::Exempted)
        && let Some(by) = exemption
    {
        let Some(kept) = FREED.get_or_make(dial.socket, core::ptr::null_mut()) else {
            return Err(Counter::MarkFailed);
        };
        *kept = by;
    }
    count(counter);
    Ok(())
}

/// The gate's port, where the address may be rewritten.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    dial: &Dial,
    netns: u64,
    whose: (u32, u32),
    config: &Config,
) -> Result<u16, Counter> {
    keep(ctx, dial, netns, whose, STATE_REDIRECTED)?;
    count(Counter::Redirected);
    Ok(config.gate_port)
}

/// Everything that must hold before the gate may be expected to see this connect: the socket reaches this host's own
/// addresses, and its record is kept.
#[inline(always)]
fn keep(
    ctx: &SockAddrContext,
    dial: &Dial,
    netns: u64,
    whose: (u32, u32),
    state: u32,
) -> Result<(), Counter> {
    if !free_of_device(ctx, dial.socket) {
        return Err(Counter::DeviceBound);
    }
    match record(ctx, dial, netns, whose, state) {
        true => Ok(()),
        false => Err(Counter::RecordFailed),
    }
}

/// A socket bound to an interface cannot reach loopback, and its connect to another own address would go out on that
/// interface and never arrive; the binding is undone, since the gate dials in its place.
#[inline(always)]
fn free_of_device(ctx: &SockAddrContext, socket: *mut c_void) -> bool {
    // SAFETY: the socket of the context, of which the verifier knows this field.
    let bound = unsafe { (*socket.cast::<aya_ebpf::bindings::bpf_sock>()).bound_dev_if };
    if bound == 0 {
        return true;
    }
    let mut none = 0u32;
    // SAFETY: a helper for this very context; `none` outlives the call.
    let failed = unsafe {
        helper::bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            SO_BINDTOIFINDEX,
            core::ptr::from_mut(&mut none).cast(),
            4,
        )
    };
    failed == 0
}

/// Keeps on the client's socket who dialled and where to: the guard, and the number of what was dialled. False: no memory.
#[inline(always)]
fn record(ctx: &SockAddrContext, dial: &Dial, netns: u64, (guard, row): (u32, u32), state: u32) -> bool {
    let Some(record) = RECORDS.get_or_make(dial.socket, core::ptr::null_mut()) else { return false };
    look::fill_caller(record);
    record.tuple.netns = netns;
    // SAFETY: reads the socket behind the context.
    record.cookie = unsafe { helper::bpf_get_socket_cookie(ctx.as_ptr()) };
    record.guard = guard;
    record.row = row;
    record.address = dial.address;
    record.port = dial.port;
    record.family = dial.family;
    record.state = state;
    true
}

/// Keeps on the socket whose it is, for packets that leave when no process is in sight. False: no memory.
#[inline(always)]
pub(crate) fn mark(socket: *mut c_void, guard: u32) -> bool {
    let Some(mark) = MARKS.get_or_make(socket, core::ptr::null_mut()) else { return false };
    mark.guard = guard;
    true
}

#[inline(always)]
pub(crate) fn getpeername4(ctx: &SockAddrContext) -> i32 {
    let to = ctx.sock_addr;
    // SAFETY: a field of the context.
    let socket: *mut c_void = unsafe { (*to).__bindgen_anon_1.sk }.cast();
    if let Some(record) = RECORDS.get(socket)
        && record.state == STATE_REDIRECTED
    {
        // SAFETY: the context's own writable fields.
        unsafe {
            (*to).user_ip4 = word(&record.address, 12);
            (*to).user_port = u32::from(record.port.to_be());
        }
    }
    ALLOW
}

#[inline(always)]
pub(crate) fn getpeername6(ctx: &SockAddrContext) -> i32 {
    let to = ctx.sock_addr;
    // SAFETY: a field of the context.
    let socket: *mut c_void = unsafe { (*to).__bindgen_anon_1.sk }.cast();
    if let Some(record) = RECORDS.get(socket)
        && record.state == STATE_REDIRECTED
    {
        // SAFETY: the context's own writable fields.
        unsafe {
            (*to).user_ip6[0] = word(&record.address, 0);
            (*to).user_ip6[1] = word(&record.address, 4);
            (*to).user_ip6[2] = word(&record.address, 8);
            (*to).user_ip6[3] = word(&record.address, 12);
            (*to).user_port = u32::from(record.port.to_be());
        }
    }
    ALLOW
}
