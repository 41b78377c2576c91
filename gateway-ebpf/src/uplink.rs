//! A frame leaves by an uplink: the last look, at what no cgroup hook sees. Packet sockets write frames past all of them,
//! and what is forwarded has no socket.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::TcContext;
use gateway_ebpf::choose::{self, Carried, Frame, Sender};

use crate::guard::{Flight, TCP_LISTEN, TCP_NEW_SYN_RECV, flight, load};
use crate::look::{self, Freed};
use crate::report::{To, dropped};
use crate::{EXEMPT, MARKS};

/// The next program on the interface is asked, and where there is none the frame leaves.
const NEXT: i32 = -1;
const DROP: i32 = 2;
const AF_PACKET: u32 = 17;
/// Where an Ethernet frame says what it carries.
const KIND_AT: u32 = 12;
/// VLAN tags in front of a packet that are passed over. Providers stack two.
const TAGS_MAX: u32 = 2;

/// An uplink with Ethernet headers.
#[inline(always)]
pub(crate) fn ether(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let mut at = KIND_AT;
    let mut tags = 0;
    while tags <= TAGS_MAX {
        // Read from the frame: what the sender told the kernel about it may be another thing.
        let Some(kind) = load::<2>(skb, at) else { return judge(skb, Carried::Unreadable, None) };
        match u16::from_be_bytes(kind) {
            0x0800 | 0x86dd => return packet(skb, at + 2),
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            // MPLS, PPPoE, MACsec, provider bridges, TRILL, service headers, Ethernet inside of something.
            0x8847 | 0x8848 | 0x8864 | 0x88e5 | 0x88e7 | 0x22f3 | 0x894f | 0x6558 => {
                return judge(skb, Carried::Wrapped, None);
            }
            _ => return judge(skb, Carried::Other, None),
        }
        tags += 1;
    }
    judge(skb, Carried::Unreadable, None)
}

/// An uplink without a header of its own (PPP, tunnels).
#[inline(always)]
pub(crate) fn bare(ctx: &TcContext) -> i32 {
    packet(ctx.skb.skb, 0)
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, base: u32) -> i32 {
    let Some(flight) = flight(skb, base) else { return judge(skb, Carried::Unreadable, None) };
    judge(skb, Carried::Packet, Some(&flight))
}

#[inline(always)]
fn judge(skb: *mut __sk_buff, carried: Carried, flight: Option<&Flight>) -> i32 {
    let mut fact =
        Frame { exempt: false, sender: Sender::Nobody, accepted: false, guard: 0, carried, target: false };
    sender(skb, &mut fact);
    let mut to = To { address: &[0; 16], port: 0, protocol: 0, guard: fact.guard };
    if let Some(flight) = flight {
        to.address = &flight.destination;
        to.port = flight.destination_port;
        to.protocol = flight.protocol;
        // Router alerts of the kernel have no packet socket; a hand-written option may be a source route.
        if flight.routed || (flight.options && matches!(fact.sender, Sender::Packet)) {
            fact.carried = Carried::Unreadable;
        }
        let ports = !flight.fragment && choose::has_ports(flight.protocol);
        fact.target = ports && look::is_target(&flight.destination, flight.destination_port);
    }
    match choose::frame(&fact) {
        None => NEXT,
        Some(counter) => {
            dropped(counter, &to);
            DROP
        }
    }
}

/// What is known of the socket a frame left from.
#[inline(always)]
fn sender(skb: *mut __sk_buff, fact: &mut Frame) {
    // SAFETY: a field of the context.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: `state` may be read of any kind of socket.
    let state = unsafe { (*socket).state };
    // SAFETY: takes the socket of the context; null where it is not a whole socket.
    let whole: *mut bpf_sock = unsafe { helper::bpf_sk_fullsock(socket) };
    if whole.is_null() {
        // A request or the remains of a connection: the kernel's own answer.
        fact.sender = Sender::Socket;
        fact.accepted = state == TCP_NEW_SYN_RECV;
        return;
    }
    // SAFETY: a whole socket, not null.
    if unsafe { (*whole).family } == AF_PACKET {
        fact.sender = Sender::Packet;
        fact.guard = look::packet_guard(skb.cast());
        return;
    }
    fact.sender = Sender::Socket;
    // SAFETY: as above.
    let kind = unsafe { (*whole).type_ };
    let raw = kind == choose::RAW;
    fact.exempt =
        EXEMPT.get(whole.cast()).is_some() || (kind == choose::STREAM && is_freed(skb, whole.cast()));
    fact.accepted =
        !raw && (state == TCP_LISTEN || MARKS.get(whole.cast()).is_some_and(|mark| mark.accepted != 0));
}

/// Whether a connection goes straight by an exemption.
#[inline(always)]
fn is_freed(skb: *mut __sk_buff, socket: *mut c_void) -> bool {
    match look::freed(socket) {
        Freed::Yes => true,
        Freed::Over => false,
        Freed::No => look::is_packet_exempt(skb.cast()),
    }
}
