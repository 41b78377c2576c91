//! What must not leave, and what must not be taken: datagrams to targets, anything but TCP from guarded processes,
//! packets that went round the connect hooks, and the gate's port.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SysctlContext};
use gateway_ebpf::abi::{
    ACCEPTED_VETTED, Address, Counter, STATE_LOCAL, STATE_LOST, STATE_NONE, STATE_REDIRECTED,
    UNIX_NAME_BYTES, mapped,
};
use gateway_ebpf::choose::{self, Datagram, Packet, UDP};

use crate::connect::mark;
use crate::look::{self, Forget, Freed, read, v4, v6};
use crate::report::{To, Tried, attempted, dropped, refused};
use crate::{BOUND, EXEMPT, GATE, MARKS, RECORDS, TUPLES};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
pub(crate) const TCP_LISTEN: u32 = 10;
pub(crate) const TCP_NEW_SYN_RECV: u32 = 12;
/// IPv6 extension headers walked before the packet counts as unreadable. RFC 8200 knows seven kinds, each once.
const EXTENSIONS_MAX: u32 = 7;

#[inline(always)]
pub(crate) fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    let address = v4(read!((*ctx.sock_addr).user_ip4));
    datagram(ctx, &address)
}

#[inline(always)]
pub(crate) fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    let to = ctx.sock_addr;
    let address = v6([
        read!((*to).user_ip6[0]),
        read!((*to).user_ip6[1]),
        read!((*to).user_ip6[2]),
        read!((*to).user_ip6[3]),
    ]);
    datagram(ctx, &address)
}

/// UDP and UDP-Lite with an address of their own.
#[inline(always)]
fn datagram(ctx: &SockAddrContext, address: &Address) -> i32 {
    let from = ctx.sock_addr;
    let port = u16::from_be(read!((*from).user_port) as u16);
    let protocol = read!((*from).protocol);
    // SAFETY: a field of the context.
    let socket: *mut c_void = unsafe { (*from).__bindgen_anon_1.sk }.cast();
    let mut to = To { address, port, protocol, guard: 0 };
    let Some(config) = look::config() else {
        refused(ctx, Counter::ConfigFailed, &to);
        return DENY;
    };
    // SAFETY: reads the socket behind the context.
    if look::out_of_scope(config, unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) }) {
        return ALLOW;
    }
    let exempt = EXEMPT.get(socket).is_some();
    let guard = if exempt { 0 } else { look::current_guard() };
    to.guard = guard;
    if guard != 0 && !mark(socket, guard) {
        refused(ctx, Counter::MarkFailed, &to);
        return DENY;
    }
    let verdict = choose::datagram(&Datagram {
        exempt,
        alive: guard == 0 || look::is_alive(),
        protocol,
        guard,
        dns: guard != 0 && look::is_dns(guard, address, port),
        target: look::is_target(address, port),
    });
    match verdict {
        None => ALLOW,
        Some(counter) => {
            refused(ctx, counter, &to);
            DENY
        }
    }
}

/// While the gate is dead nobody may take its port; and when the gate takes it, we learn which process the gate is.
#[inline(always)]
pub(crate) fn bind(ctx: &SockAddrContext) -> i32 {
    let from = ctx.sock_addr;
    let port = u16::from_be(read!((*from).user_port) as u16);
    let protocol = read!((*from).protocol);
    // SAFETY: a field of the context.
    let socket: *mut c_void = unsafe { (*from).__bindgen_anon_1.sk }.cast();
    let to = To { address: &[0; 16], port, protocol, guard: 0 };
    let Some(config) = look::config() else {
        refused(ctx, Counter::ConfigFailed, &to);
        return DENY;
    };
    if port != config.gate_port || protocol == UDP {
        return ALLOW;
    }
    // SAFETY: reads the socket behind the context.
    if look::out_of_scope(config, unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) }) {
        return ALLOW;
    }
    if EXEMPT.get(socket).is_none() {
        refused(ctx, Counter::GatePortBound, &to);
        return DENY;
    }
    if let Some(gate) = GATE.get_ptr_mut(0) {
        // SAFETY: a map value the lookup just gave.
        unsafe { *gate = look::current_tgid() };
    }
    ALLOW
}

/// A guarded process makes a socket.
#[inline(always)]
pub(crate) fn sock_create(ctx: &SockContext) -> i32 {
    let (kind, protocol) = (read!((*ctx.sock).type_), read!((*ctx.sock).protocol));
    let mut to = To { address: &[0; 16], port: 0, protocol, guard: 0 };
    let Some(config) = look::config() else {
        refused(ctx, Counter::ConfigFailed, &to);
        return DENY;
    };
    // SAFETY: reads the socket behind the context.
    if look::out_of_scope(config, unsafe { helper::bpf_get_netns_cookie(ctx.as_ptr()) }) {
        return ALLOW;
    }
    let guard = look::current_guard();
    if guard == 0 {
        return ALLOW;
    }
    to.guard = guard;
    if !choose::socket(kind, protocol) {
        refused(ctx, Counter::GuardSocket, &to);
        return DENY;
    }
    if !mark(ctx.as_ptr(), guard) {
        refused(ctx, Counter::MarkFailed, &to);
        return DENY;
    }
    ALLOW
}

/// A guarded process changes a setting of the kernel's, or reads one. Some switch hooks off, or have the kernel start a program
/// outside of every guard; those of a network namespace (`net/`) are its own.
#[inline(always)]
pub(crate) fn sysctl(ctx: &SysctlContext) -> i32 {
    if read!((*ctx.sysctl).write) == 0 {
        return ALLOW;
    }
    let guard = look::current_guard();
    if guard == 0 || look::is_over_the_gate(guard) {
        return ALLOW;
    }
    let mut name = [0u8; UNIX_NAME_BYTES];
    // SAFETY: at most as many bytes as we have; a longer name is cut.
    unsafe {
        helper::bpf_sysctl_get_name(ctx.sysctl, name.as_mut_ptr().cast(), name.len() as u64, 0);
    }
    if name[0] == b'n' && name[1] == b'e' && name[2] == b't' && name[3] == b'/' {
        return ALLOW;
    }
    attempted(Counter::GuardKernel, &Tried { guard, other: 0, number: 0, name: &name });
    DENY
}

/// Where a packet goes, as its bytes say.
pub(crate) struct Flight {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u32,
    pub(crate) fragment: bool,
    pub(crate) routed: bool,
    /// IPv4 options, which may name another end, too.
    pub(crate) options: bool,
}

/// Every packet a socket sends, whatever way it found.
#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(flight) = flight(skb, 0) else {
        dropped(Counter::UnreadablePacket, &To { address: &[0; 16], port: 0, protocol: 0, guard: 0 });
        return DENY;
    };
    let mut fact = Packet {
        lost: false,
        exempt: false,
        protocol: flight.protocol,
        kind: 0,
        recorded: false,
        loopback: choose::is_loopback(&flight.destination),
        accepted: false,
        vetted: false,
        fragment: flight.fragment,
        routed: flight.routed,
        guard: 0,
        dns: false,
        target: false,
        service: false,
        freed: false,
        over: false,
    };
    let forget = Forget::by(skb);
    forget.flag(&mut fact.loopback);
    let freed = sender(skb, &flight, &mut fact);
    let (mut free, mut over) = (freed == Freed::Yes, freed == Freed::Over);
    for flag in [
        &mut fact.lost,
        &mut fact.exempt,
        &mut fact.recorded,
        &mut fact.accepted,
        &mut fact.vetted,
        &mut free,
        &mut over,
    ] {
        forget.flag(flag);
    }
    forget.number(&mut fact.kind);
    forget.number(&mut fact.guard);
    if !fact.exempt {
        let ports = !fact.fragment && choose::has_ports(flight.protocol);
        fact.dns = fact.guard != 0
            && look::is_dns(fact.guard, &flight.destination, flight.destination_port)
            && look::is_alive();
        fact.target = ports && look::is_target(&flight.destination, flight.destination_port);
        fact.service = ports && look::is_service(&flight.source, flight.source_port);
        forget.flag(&mut fact.dns);
        forget.flag(&mut fact.target);
        forget.flag(&mut fact.service);
        fact.over =
            over && ports && (fact.target || look::is_service(&flight.destination, flight.destination_port));
        fact.freed = fact.target && (free || (!over && !fact.recorded && look::is_packet_exempt(skb.cast())));
        forget.flag(&mut fact.over);
        forget.flag(&mut fact.freed);
    }
    match choose::packet(&fact) {
        None => ALLOW,
        Some(counter) => {
            let to = To {
                address: &flight.destination,
                port: flight.destination_port,
                protocol: flight.protocol,
                guard: fact.guard,
            };
            dropped(counter, &to);
            DENY
        }
    }
}

/// What is known of the socket a packet left from.
#[inline(always)]
fn sender(skb: *mut __sk_buff, flight: &Flight, fact: &mut Packet) -> Freed {
    // SAFETY: a field of the context.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return Freed::No;
    }
    // SAFETY: `state` may be read of any kind of socket.
    let state = unsafe { (*socket).state };
    // A listener's SYN-ACK leaves before there is an accepted socket.
    fact.accepted = state == TCP_LISTEN || state == TCP_NEW_SYN_RECV;
    fact.vetted = fact.accepted;
    let mut guard = 0;
    let mut freed = Freed::No;
    // SAFETY: takes the socket of the context; null where it is not a whole socket.
    let whole: *mut bpf_sock = unsafe { helper::bpf_sk_fullsock(socket) };
    if !whole.is_null() {
        // SAFETY: a whole socket, not null.
        fact.kind = unsafe { (*whole).type_ };
        fact.exempt = EXEMPT.get(whole.cast()).is_some();
        // Made for one place: a source route would lead by others, and one of them could answer in its name.
        if fact.exempt && (flight.routed || flight.options) && BOUND.get(whole.cast()).is_some() {
            fact.exempt = false;
            fact.lost = true;
        }
        freed = look::freed(whole.cast());
        if let Some(record) = RECORDS.get(whole.cast()) {
            let recorded = record.state == STATE_REDIRECTED || record.state == STATE_LOCAL;
            // By a source route or a translated address a packet goes elsewhere than its socket is connected to. The gate
            // will not see it arrive, and its row must not wait for that: who can do it at will could fill the map.
            if recorded && record.tuple.destination != flight.destination {
                let _ = TUPLES.remove(&record.tuple);
                // What was rewritten may go to the gate alone; what was not goes where it would without us.
                record.state = if record.state == STATE_REDIRECTED { STATE_LOST } else { STATE_NONE };
            }
            fact.lost = record.state == STATE_LOST;
            fact.recorded = record.state == STATE_REDIRECTED || record.state == STATE_LOCAL;
        }
        if let Some(mark) = MARKS.get(whole.cast()) {
            guard = mark.guard;
            fact.accepted |= mark.accepted != 0;
            fact.vetted |= mark.accepted == ACCEPTED_VETTED;
        }
    }
    // A raw socket's state says nothing about a handshake.
    if fact.kind == choose::RAW {
        fact.accepted = false;
    }
    if !fact.exempt {
        fact.guard = if look::in_force(guard) { guard } else { look::packet_guard(skb.cast()) };
    }
    freed
}

#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: writes at most N bytes into our own buffer, or fails.
    let failed = unsafe { helper::bpf_skb_load_bytes(skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
    (failed == 0).then_some(bytes)
}

/// Reads addresses and ports of the packet that starts at `base`; `None` where it cannot be read to its end.
#[inline(always)]
pub(crate) fn flight(skb: *mut __sk_buff, base: u32) -> Option<Flight> {
    let first: [u8; 1] = load(skb, base)?;
    let mut flight = Flight {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        fragment: false,
        routed: false,
        options: false,
    };
    let ports_at = match first[0] >> 4 {
        4 => {
            let head: [u8; 20] = load(skb, base)?;
            flight.source = mapped([head[12], head[13], head[14], head[15]]);
            flight.destination = mapped([head[16], head[17], head[18], head[19]]);
            flight.protocol = u32::from(head[9]);
            flight.fragment = u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0;
            flight.options = head[0] & 0xf != 5;
            base + u32::from(head[0] & 0xf) * 4
        }
        6 => {
            flight.source = load(skb, base + 8)?;
            flight.destination = load(skb, base + 24)?;
            walk_extensions(skb, base, &mut flight)?
        }
        _ => return None,
    };
    if !flight.fragment && choose::has_ports(flight.protocol) {
        let ports: [u8; 4] = load(skb, ports_at)?;
        flight.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        flight.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    }
    let forget = Forget::by(skb);
    for flag in [&mut flight.fragment, &mut flight.routed, &mut flight.options] {
        forget.flag(flag);
    }
    Some(flight)
}

/// Finds the transport header behind IPv6 extension headers; its offset.
#[inline(always)]
fn walk_extensions(skb: *mut __sk_buff, base: u32, flight: &mut Flight) -> Option<u32> {
    let next: [u8; 1] = load(skb, base + 6)?;
    let mut next = next[0];
    let mut at = base + 40;
    let mut walked = 0;
    while walked < EXTENSIONS_MAX {
        // Hop-by-hop, routing, fragment, authentication, destination options.
        if !matches!(next, 0 | 43 | 44 | 51 | 60) {
            flight.protocol = u32::from(next);
            return Some(at);
        }
        let head: [u8; 4] = load(skb, at)?;
        // Routing: the fourth byte counts the segments still to come.
        if next == 43 && head[3] != 0 {
            flight.routed = true;
        }
        at += match next {
            44 => {
                if u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0 {
                    flight.fragment = true;
                    flight.protocol = u32::from(head[0]);
                    return Some(at);
                }
                8
            }
            51 => (u32::from(head[1]) + 2) * 4,
            _ => (u32::from(head[1]) + 1) * 8,
        };
        next = head[0];
        walked += 1;
    }
    None
}
