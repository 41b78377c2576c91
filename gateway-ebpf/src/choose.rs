//! The decisions of the kernel programs, without a kernel: facts in, answer out. Unit-tested on the host.
//!
//! Refuses whenever a rule does not clearly allow: an unread fact must be passed in as the worst case.

use crate::abi::{Address, Counter};

/// TCP.
pub const TCP: u32 = 6;
/// UDP.
pub const UDP: u32 = 17;
/// UDP-Lite.
pub const UDP_LITE: u32 = 136;
/// Multipath TCP, as a socket protocol; on the wire it is TCP.
pub const MPTCP: u32 = 262;
/// `SOCK_STREAM`.
pub const STREAM: u32 = 1;
/// `SOCK_DGRAM`.
pub const DATAGRAM: u32 = 2;
/// `SOCK_RAW`.
pub const RAW: u32 = 3;

/// A count of bytes from the sequence numbers that it went by. `about` is the count as the kernel has it, perhaps some packets off,
/// because it is read in several steps; `low` are the exact lower 32 bits.
#[must_use]
#[inline(always)]
pub const fn exactly(about: u64, low: u32) -> u64 {
    about.wrapping_add_signed(low.wrapping_sub(about as u32) as i32 as i64)
}

/// What a connect hook answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Goes where it wants to; counted where the outcome is worth counting.
    Pass(Option<Counter>),
    /// Goes where it wants to, and who dialled is recorded, because `sk_lookup` will give it to the gate.
    Record,
    /// Goes to the gate.
    Redirect,
    /// Fails with EPERM.
    Refuse(Counter),
}

/// What a connect hook knows.
#[derive(Debug, Clone, Copy)]
pub struct Connect {
    /// The socket carries the gate's mark.
    pub exempt: bool,
    /// The caller is exempt by policy.
    pub freed: bool,
    /// The calling process is the gate.
    pub gate: bool,
    /// The gate's heartbeat is in time.
    pub alive: bool,
    /// Socket protocol.
    pub protocol: u32,
    /// The destination port is the gate's.
    pub gate_port: bool,
    /// The destination is this host by any spelling of loopback or "unspecified".
    pub loopback: bool,
    /// The gate listens in the socket's namespace.
    pub listens: bool,
    /// And there gets what comes for protected services.
    pub here: bool,
    /// The destination is known to be one of that namespace's own addresses.
    pub own: bool,
    /// The caller's guard; 0: none.
    pub guard: u32,
    /// The destination is a DNS server of that guard.
    pub dns: bool,
    /// The destination lies in a target's block.
    pub target: bool,
    /// The destination lies in a protected service's block.
    pub service: bool,
}

/// Decides one connect(2).
#[must_use]
#[inline(always)]
pub const fn connect(fact: &Connect) -> Answer {
    if fact.exempt {
        return Answer::Pass(Some(Counter::ExemptConnect));
    }
    let tcp = is_tcp(fact.protocol);
    if tcp && fact.gate_port && fact.loopback {
        return Answer::Refuse(Counter::GatePortDialled);
    }
    // A guard is stronger, and only a connection is exempt: a datagram has no mark to leave with.
    if fact.freed && fact.guard == 0 && tcp && !fact.gate {
        let counted = fact.target || (fact.service && fact.here && fact.own);
        return Answer::Pass(if counted { Some(Counter::Exempted) } else { None });
    }
    let wanted = if fact.guard != 0 { guarded(fact, tcp) } else { unguarded(fact, tcp) };
    match wanted {
        // The gate forgot to exempt its own socket. Sending it to itself would go round for ever.
        Answer::Redirect | Answer::Record if fact.gate => Answer::Refuse(Counter::LoopBroken),
        // Whoever listens there at the gate's port is not the gate.
        Answer::Redirect | Answer::Record if !fact.listens => Answer::Refuse(Counter::NoListener),
        other => other,
    }
}

#[inline(always)]
const fn guarded(fact: &Connect, tcp: bool) -> Answer {
    let dns = fact.dns && (tcp || fact.protocol == UDP);
    if dns && fact.alive {
        return Answer::Pass(Some(Counter::DnsAllowed));
    }
    if !tcp {
        if dns {
            return Answer::Refuse(Counter::HeartbeatLost);
        }
        return Answer::Refuse(Counter::GuardDatagram);
    }
    // Only here is loopback certain to end in our own sk_lookup. Elsewhere it would be a way out.
    if fact.service && fact.loopback && fact.here {
        return Answer::Record;
    }
    // Also past the heartbeat's deadline: refused at the gate's port, the caller sees "connection refused" and no EPERM.
    Answer::Redirect
}

#[inline(always)]
const fn unguarded(fact: &Connect, tcp: bool) -> Answer {
    match (fact.target, tcp) {
        (true, true) => Answer::Redirect,
        (true, false) => Answer::Refuse(Counter::TargetDatagram),
        // A service may stand on every address, so its block is no proof that this connect ends here. What ends elsewhere
        // would wait in the hand-over map for nobody.
        (false, true) if fact.service && fact.here && fact.own => Answer::Record,
        (false, _) => Answer::Pass(None),
    }
}

/// What a send hook knows of a datagram with an address of its own.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// The socket carries the gate's mark.
    pub exempt: bool,
    /// The gate's heartbeat is in time.
    pub alive: bool,
    /// Socket protocol.
    pub protocol: u32,
    /// The sender's guard; 0: none.
    pub guard: u32,
    /// The destination is a DNS server of that guard.
    pub dns: bool,
    /// The destination lies in a target's block.
    pub target: bool,
}

/// Decides one datagram; `Some` refuses.
#[must_use]
#[inline(always)]
pub const fn datagram(fact: &Datagram) -> Option<Counter> {
    if fact.exempt {
        None
    } else if fact.guard != 0 {
        // UDP-Lite shares these hooks, but a DNS server does not speak it.
        match (fact.dns && fact.protocol == UDP, fact.alive) {
            (true, true) => None,
            (true, false) => Some(Counter::HeartbeatLost),
            (false, _) => Some(Counter::GuardDatagram),
        }
    } else if fact.target {
        Some(Counter::TargetDatagram)
    } else {
        None
    }
}

/// Whether a guarded process may have a socket of this kind at all: TCP, MPTCP and UDP only. What is refused here
/// would be dropped at egress anyway; refused early it is a clear error.
#[must_use]
#[inline(always)]
pub const fn socket(kind: u32, protocol: u32) -> bool {
    match kind {
        STREAM => protocol == 0 || is_tcp(protocol),
        DATAGRAM => protocol == 0 || protocol == UDP,
        _ => false,
    }
}

/// Whether sockets of this family carry bytes off the host past every cgroup hook: AF_PACKET, AF_VSOCK, AF_XDP.
#[must_use]
#[inline(always)]
pub const fn is_off_host_family(family: i32) -> bool {
    matches!(family, 17 | 40 | 44)
}

/// What the egress hook knows of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// The packet's socket lost its record.
    pub lost: bool,
    /// The packet's socket carries the gate's mark.
    pub exempt: bool,
    /// IP protocol of the packet.
    pub protocol: u32,
    /// Kind of its socket; 0: not a whole socket.
    pub kind: u32,
    /// Its socket was redirected, or recorded, on connect.
    pub recorded: bool,
    /// Its destination is this host by any spelling of loopback.
    pub loopback: bool,
    /// Its socket was accepted while the programs were watching, or is a listener's.
    pub accepted: bool,
    /// The same, and what was accepted was a protected service's already.
    pub vetted: bool,
    /// Not the first fragment: there are no ports to read.
    pub fragment: bool,
    /// An IPv6 routing header sends it on: its destination is not where it ends.
    pub routed: bool,
    /// The guard of its socket; 0: none.
    pub guard: u32,
    /// Its destination is a DNS server of that guard, and the gate's heartbeat is in time.
    pub dns: bool,
    /// Its destination lies in a target's block.
    pub target: bool,
    /// Its source lies in a protected service's block.
    pub service: bool,
    /// Its socket went straight by an exemption in force, or is an exempt process's that no connect hook judged.
    pub freed: bool,
    /// Its socket went straight to something that is still protected, by an exemption that is over.
    pub over: bool,
}

/// Decides one outgoing packet; `Some` drops it.
#[must_use]
#[inline(always)]
pub const fn packet(fact: &Packet) -> Option<Counter> {
    if fact.lost {
        return Some(Counter::LostPacket);
    }
    if fact.exempt {
        return None;
    }
    if fact.over {
        return Some(Counter::ExemptionOver);
    }
    // Of other sockets the connect and send hooks saw the true destination; a raw one shows it to nobody, and a guarded
    // process has no business with routes of its own.
    if fact.routed && (fact.kind == RAW || fact.guard != 0) {
        return Some(Counter::UnreadablePacket);
    }
    // A raw socket can write any bytes: only a stream socket's TCP is the kernel's own.
    let tcp = fact.protocol == TCP && (fact.kind == STREAM || fact.kind == 0) && !fact.fragment;
    // What the gate takes over stays on this host. A source route would carry its first packets elsewhere, and a
    // connection to a far service's port is not one that the gate took.
    let ours = tcp && ((fact.recorded && fact.loopback) || fact.accepted);
    if fact.guard != 0 {
        let asks = fact.dns && (tcp || (fact.protocol == UDP && fact.kind == DATAGRAM)) && !fact.fragment;
        return if ours || asks { None } else { Some(Counter::GuardPacket) };
    }
    if tcp && fact.service && !fact.vetted {
        return Some(Counter::StalePacket);
    }
    if fact.target && !ours && !(fact.freed && tcp) {
        return Some(Counter::TargetPacket);
    }
    // `sk_lookup` sees neither what a connected socket gets, nor UDP-Lite: their answers are stopped instead.
    if fact.service && (fact.protocol == UDP || fact.protocol == UDP_LITE) {
        return Some(Counter::ServiceDatagram);
    }
    None
}

/// Whose socket a frame left from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Nobody's: forwarded, or the kernel's own.
    Nobody,
    /// A packet socket's: every byte of it may be invented.
    Packet,
    /// A socket's whose headers the kernel wrote, or the hooks at its cgroup have seen.
    Socket,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// An IP packet that was read to its ports.
    Packet,
    /// What cannot be an IP packet: ARP, LLDP and their like.
    Other,
    /// An IP packet inside of something else (MPLS, PPPoE): the next hop may unpack it.
    Wrapped,
    /// An IP packet that cannot be read to its ports, or whose header says that it ends elsewhere.
    Unreadable,
}

/// What the uplink hook knows of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Its socket carries the gate's mark.
    pub exempt: bool,
    /// Whose it is.
    pub sender: Sender,
    /// Its socket was accepted while the programs were watching, or is a listener's.
    pub accepted: bool,
    /// The guard of its socket; 0: none, or no socket.
    pub guard: u32,
    /// What it carries.
    pub carried: Carried,
    /// Its destination lies in a target's block.
    pub target: bool,
}

/// Decides one frame that leaves by an uplink; `Some` drops it.
#[must_use]
#[inline(always)]
pub const fn frame(fact: &Frame) -> Option<Counter> {
    if fact.exempt {
        return None;
    }
    let by_hand = matches!(fact.sender, Sender::Packet);
    if by_hand && fact.guard != 0 {
        return Some(Counter::GuardFrame);
    }
    match (fact.carried, fact.sender) {
        (Carried::Wrapped, Sender::Packet) | (Carried::Unreadable, Sender::Packet | Sender::Nobody) => {
            Some(Counter::UnreadableFrame)
        }
        _ if fact.target && (!fact.accepted || by_hand) => Some(Counter::TargetFrame),
        _ => None,
    }
}

/// Whether a socket protocol is TCP in either form.
#[must_use]
#[inline(always)]
pub const fn is_tcp(protocol: u32) -> bool {
    protocol == TCP || protocol == MPTCP
}

/// Whether an IP protocol starts with two ports, source first: TCP, UDP, DCCP, SCTP, UDP-Lite.
#[must_use]
#[inline(always)]
pub const fn has_ports(protocol: u32) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// Whether an address means this host by itself: 127/8, 0/8, `::1`, `::`, and their mapped forms. (Linux treats
/// 0.0.0.0 and `::` as "this host" on connect.)
#[must_use]
#[inline(always)]
pub const fn is_loopback(address: &Address) -> bool {
    let high = u64::from_be_bytes([
        address[0], address[1], address[2], address[3], address[4], address[5], address[6], address[7],
    ]);
    let middle = u32::from_be_bytes([address[8], address[9], address[10], address[11]]);
    let low = u32::from_be_bytes([address[12], address[13], address[14], address[15]]);
    high == 0
        && match middle {
            0 => low <= 1,
            0xffff => address[12] == 127 || address[12] == 0,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::mapped;

    const CALL: Connect = Connect {
        exempt: false,
        freed: false,
        gate: false,
        alive: true,
        protocol: TCP,
        gate_port: false,
        loopback: false,
        listens: true,
        here: true,
        own: false,
        guard: 0,
        dns: false,
        target: false,
        service: false,
    };
    const SENT: Packet = Packet {
        lost: false,
        exempt: false,
        protocol: TCP,
        kind: STREAM,
        recorded: false,
        loopback: true,
        accepted: false,
        vetted: false,
        fragment: false,
        routed: false,
        guard: 0,
        dns: false,
        target: false,
        service: false,
        freed: false,
        over: false,
    };

    #[test]
    fn an_unguarded_process_reaches_what_no_target_names() {
        assert_eq!(connect(&CALL), Answer::Pass(None));
        assert_eq!(connect(&Connect { protocol: UDP, ..CALL }), Answer::Pass(None));
    }

    #[test]
    fn a_target_is_redirected_over_tcp_and_refused_over_anything_else() {
        let call = Connect { target: true, ..CALL };
        assert_eq!(connect(&call), Answer::Redirect);
        assert_eq!(connect(&Connect { protocol: MPTCP, ..call }), Answer::Redirect);
        for protocol in [UDP, 136, 1, 0] {
            let answer = connect(&Connect { protocol, ..call });
            assert_eq!(answer, Answer::Refuse(Counter::TargetDatagram));
        }
    }

    #[test]
    fn the_gates_port_is_never_dialled_directly_not_even_by_a_guarded_process() {
        for guard in [0, 7] {
            let call = Connect { gate_port: true, loopback: true, guard, target: true, ..CALL };
            assert_eq!(connect(&call), Answer::Refuse(Counter::GatePortDialled));
        }
    }

    #[test]
    fn a_guarded_process_is_redirected_wherever_it_calls() {
        let call = Connect { guard: 7, ..CALL };
        assert_eq!(connect(&call), Answer::Redirect);
        assert_eq!(connect(&Connect { loopback: true, ..call }), Answer::Redirect);
        assert_eq!(
            connect(&Connect { service: true, ..call }),
            Answer::Redirect,
            "the port may be elsewhere"
        );
        let elsewhere = Connect { service: true, loopback: true, here: false, ..call };
        assert_eq!(connect(&elsewhere), Answer::Redirect, "another namespace's loopback is not ours");
        let own = Connect { service: true, loopback: true, ..call };
        assert_eq!(connect(&own), Answer::Record, "sk_lookup gives it to the gate");
    }

    #[test]
    fn only_a_connect_that_ends_here_is_recorded_for_a_service() {
        let call = Connect { service: true, own: true, ..CALL };
        assert_eq!(connect(&call), Answer::Record);
        assert_eq!(connect(&Connect { own: false, ..call }), Answer::Pass(None), "somebody else's port");
        assert_eq!(connect(&Connect { here: false, ..call }), Answer::Pass(None), "another namespace's");
        assert_eq!(connect(&Connect { protocol: UDP, ..call }), Answer::Pass(None));
    }

    #[test]
    fn where_the_gate_does_not_listen_what_belongs_to_it_is_refused_and_nothing_else() {
        let elsewhere = Connect { listens: false, here: false, ..CALL };
        for call in [
            Connect { guard: 7, ..elsewhere },
            Connect { target: true, ..elsewhere },
            Connect { guard: 7, alive: false, loopback: true, service: true, ..elsewhere },
        ] {
            assert_eq!(connect(&call), Answer::Refuse(Counter::NoListener));
            assert_eq!(connect(&Connect { listens: true, ..call }), Answer::Redirect);
        }
        assert_eq!(connect(&elsewhere), Answer::Pass(None));
        assert_eq!(connect(&Connect { service: true, own: true, ..elsewhere }), Answer::Pass(None));
        let dns = Connect { guard: 7, protocol: UDP, dns: true, ..elsewhere };
        assert_eq!(connect(&dns), Answer::Pass(Some(Counter::DnsAllowed)), "its datagrams need no listener");
    }

    #[test]
    fn a_guarded_process_speaks_udp_to_its_dns_and_to_nobody_else() {
        let call = Connect { guard: 7, protocol: UDP, ..CALL };
        assert_eq!(connect(&call), Answer::Refuse(Counter::GuardDatagram));
        assert_eq!(connect(&Connect { dns: true, ..call }), Answer::Pass(Some(Counter::DnsAllowed)));
        let lite = Connect { dns: true, protocol: 136, ..call };
        assert_eq!(connect(&lite), Answer::Refuse(Counter::GuardDatagram));
    }

    #[test]
    fn past_the_heartbeats_deadline_nobody_asks_dns_and_tcp_goes_where_it_is_refused() {
        let call = Connect { guard: 7, dns: true, alive: false, ..CALL };
        assert_eq!(connect(&call), Answer::Redirect, "to the gate's port");
        let udp = Connect { protocol: UDP, ..call };
        assert_eq!(connect(&udp), Answer::Refuse(Counter::HeartbeatLost));
        let sent =
            Datagram { exempt: false, alive: false, protocol: UDP, guard: 7, dns: true, target: false };
        assert_eq!(datagram(&sent), Some(Counter::HeartbeatLost));
        assert_eq!(datagram(&Datagram { alive: true, ..sent }), None);
        assert_eq!(connect(&Connect { target: true, alive: false, ..CALL }), Answer::Redirect);
    }

    #[test]
    fn an_exempt_process_goes_straight_over_tcp_unless_it_is_guarded_and_never_to_the_gates_port() {
        let call = Connect { freed: true, target: true, ..CALL };
        assert_eq!(connect(&call), Answer::Pass(Some(Counter::Exempted)));
        assert_eq!(connect(&Connect { protocol: UDP, ..call }), Answer::Refuse(Counter::TargetDatagram));
        assert_eq!(connect(&Connect { guard: 7, ..call }), Answer::Redirect);
        let gate = connect(&Connect { gate_port: true, loopback: true, ..call });
        assert_eq!(gate, Answer::Refuse(Counter::GatePortDialled));
        assert_eq!(connect(&Connect { target: false, ..call }), Answer::Pass(None));
        let forgot = connect(&Connect { gate: true, ..call });
        assert_eq!(forgot, Answer::Refuse(Counter::LoopBroken), "the gate is nobody's exemption");
    }

    #[test]
    fn an_exemption_frees_tcp_to_targets_alone_and_what_stood_by_it_falls_with_it() {
        let sent = Packet { freed: true, target: true, ..SENT };
        assert_eq!(packet(&sent), None);
        assert_eq!(packet(&Packet { protocol: UDP, kind: DATAGRAM, ..sent }), Some(Counter::TargetPacket));
        assert_eq!(packet(&Packet { kind: RAW, ..sent }), Some(Counter::TargetPacket));
        assert_eq!(packet(&Packet { guard: 7, ..sent }), Some(Counter::GuardPacket), "a guard is stronger");
        assert_eq!(packet(&Packet { service: true, ..sent }), Some(Counter::StalePacket), "its own answers");
        assert_eq!(packet(&Packet { over: true, ..SENT }), Some(Counter::ExemptionOver));
    }

    #[test]
    fn the_gate_never_calls_itself() {
        for call in [Connect { target: true, ..CALL }, Connect { service: true, own: true, ..CALL }] {
            let answer = connect(&Connect { gate: true, ..call });
            assert_eq!(answer, Answer::Refuse(Counter::LoopBroken));
            assert!(matches!(connect(&Connect { gate: true, exempt: true, ..call }), Answer::Pass(_)));
        }
    }

    #[test]
    fn a_datagram_to_a_target_is_refused_unless_it_is_the_gates() {
        let sent = Datagram { exempt: false, alive: true, protocol: UDP, guard: 0, dns: false, target: true };
        assert_eq!(datagram(&sent), Some(Counter::TargetDatagram));
        assert_eq!(datagram(&Datagram { exempt: true, ..sent }), None);
        assert_eq!(datagram(&Datagram { target: false, ..sent }), None);
        let guarded = Datagram { guard: 7, target: false, ..sent };
        assert_eq!(datagram(&guarded), Some(Counter::GuardDatagram));
        assert_eq!(datagram(&Datagram { dns: true, ..guarded }), None);
        assert_eq!(datagram(&Datagram { dns: true, protocol: 136, ..guarded }), Some(Counter::GuardDatagram));
    }

    #[test]
    fn a_guarded_process_gets_no_raw_icmp_sctp_or_udplite_socket() {
        for (kind, protocol) in [(1, 0), (1, 6), (1, 262), (2, 0), (2, 17)] {
            assert!(socket(kind, protocol), "{kind}/{protocol}");
        }
        for (kind, protocol) in
            [(3, 255), (3, 6), (3, 1), (2, 1), (2, 58), (1, 132), (5, 132), (2, 136), (6, 33), (4, 0)]
        {
            assert!(!socket(kind, protocol), "{kind}/{protocol}");
        }
    }

    #[test]
    fn packet_vsock_and_xdp_sockets_leave_the_host_and_unix_netlink_and_inet_are_seen_elsewhere() {
        assert!([17, 40, 44].into_iter().all(is_off_host_family));
        assert!(![1, 2, 10, 16, 38].into_iter().any(is_off_host_family));
    }

    #[test]
    fn a_packet_to_a_target_leaves_only_by_the_gate_or_as_an_answer() {
        let sent = Packet { target: true, ..SENT };
        assert_eq!(packet(&sent), Some(Counter::TargetPacket), "a keep-alive older than the load");
        assert_eq!(packet(&Packet { exempt: true, ..sent }), None);
        assert_eq!(packet(&Packet { accepted: true, ..sent }), None);
        assert_eq!(packet(&Packet { recorded: true, ..sent }), None);
        for protocol in [UDP, 33, 132, 136] {
            let other = Packet { protocol, accepted: true, recorded: true, kind: DATAGRAM, ..sent };
            assert_eq!(packet(&other), Some(Counter::TargetPacket));
        }
    }

    #[test]
    fn a_record_is_worth_nothing_on_a_packet_that_leaves_this_host() {
        let sent = Packet { recorded: true, loopback: false, ..SENT };
        let to_target = Packet { target: true, ..sent };
        assert_eq!(packet(&to_target), Some(Counter::TargetPacket), "a source route by way of a target");
        assert_eq!(packet(&Packet { guard: 7, ..sent }), Some(Counter::GuardPacket), "or of anybody");
        assert_eq!(packet(&Packet { accepted: true, ..to_target }), None, "an answer may leave");
        assert_eq!(packet(&sent), None, "what nobody protects is nobody's business");
    }

    #[test]
    fn a_record_is_worth_nothing_to_a_service_that_answers() {
        let stale = Packet { service: true, recorded: true, ..SENT };
        assert_eq!(
            packet(&stale),
            Some(Counter::StalePacket),
            "a socket that dialled before it was a service"
        );
        assert_eq!(packet(&Packet { loopback: false, ..stale }), Some(Counter::StalePacket));
    }

    #[test]
    fn a_routing_header_is_refused_to_whoever_is_guarded_even_on_the_way_to_the_gate() {
        let sent = Packet { guard: 7, recorded: true, routed: true, ..SENT };
        for other in [sent, Packet { dns: true, ..sent }, Packet { accepted: true, ..sent }] {
            assert_eq!(packet(&other), Some(Counter::UnreadablePacket));
            assert_eq!(packet(&Packet { routed: false, ..other }), None);
        }
        assert_eq!(packet(&Packet { guard: 0, ..sent }), None, "of others the connect hook saw the true end");
    }

    #[test]
    fn a_raw_sockets_tcp_is_not_tcp() {
        let raw = Packet { kind: RAW, accepted: true, recorded: true, ..SENT };
        assert_eq!(packet(&Packet { target: true, ..raw }), Some(Counter::TargetPacket));
        assert_eq!(packet(&Packet { guard: 7, ..raw }), Some(Counter::GuardPacket));
    }

    #[test]
    fn a_raw_socket_sends_nothing_by_way_of_a_routing_header() {
        let raw = Packet { kind: RAW, protocol: 58, routed: true, ..SENT };
        assert_eq!(packet(&raw), Some(Counter::UnreadablePacket));
        assert_eq!(packet(&Packet { routed: false, ..raw }), None);
        assert_eq!(packet(&Packet { kind: STREAM, protocol: TCP, ..raw }), None);
    }

    #[test]
    fn a_guarded_packet_is_the_gates_tcp_or_declared_dns() {
        let sent = Packet { guard: 7, ..SENT };
        assert_eq!(packet(&sent), Some(Counter::GuardPacket), "a connection older than the load");
        assert_eq!(packet(&Packet { recorded: true, ..sent }), None);
        assert_eq!(packet(&Packet { accepted: true, ..sent }), None);
        let udp = Packet { protocol: UDP, kind: DATAGRAM, ..sent };
        assert_eq!(packet(&udp), Some(Counter::GuardPacket));
        assert_eq!(packet(&Packet { dns: true, ..udp }), None);
        assert_eq!(packet(&Packet { dns: true, kind: 3, ..udp }), Some(Counter::GuardPacket));
        for protocol in [1, 58, 132, 136, 47] {
            let other = Packet { protocol, dns: true, recorded: true, kind: DATAGRAM, ..sent };
            assert_eq!(packet(&other), Some(Counter::GuardPacket), "{protocol}");
        }
    }

    #[test]
    fn a_service_answers_only_on_connections_made_since_it_is_protected() {
        let sent = Packet { service: true, ..SENT };
        assert_eq!(packet(&sent), Some(Counter::StalePacket));
        assert_eq!(packet(&Packet { accepted: true, ..sent }), Some(Counter::StalePacket));
        assert_eq!(packet(&Packet { accepted: true, vetted: true, ..sent }), None);
        assert_eq!(packet(&Packet { exempt: true, ..sent }), None);
    }

    #[test]
    fn a_service_answers_no_datagram() {
        for protocol in [UDP, UDP_LITE] {
            let sent = Packet { service: true, protocol, kind: DATAGRAM, ..SENT };
            assert_eq!(packet(&sent), Some(Counter::ServiceDatagram));
            assert_eq!(
                packet(&Packet { accepted: true, vetted: true, ..sent }),
                Some(Counter::ServiceDatagram)
            );
            assert_eq!(packet(&Packet { service: false, ..sent }), None);
            assert_eq!(packet(&Packet { exempt: true, ..sent }), None);
        }
    }

    const LEFT: Frame = Frame {
        exempt: false,
        sender: Sender::Packet,
        accepted: false,
        guard: 0,
        carried: Carried::Packet,
        target: false,
    };

    #[test]
    fn a_frame_for_a_target_leaves_only_by_the_gate_or_as_an_answer() {
        for sender in [Sender::Nobody, Sender::Packet, Sender::Socket] {
            let left = Frame { sender, target: true, ..LEFT };
            assert_eq!(frame(&left), Some(Counter::TargetFrame), "{sender:?}");
            assert_eq!(frame(&Frame { exempt: true, ..left }), None);
            assert_eq!(frame(&Frame { target: false, ..left }), None);
            let answer = frame(&Frame { accepted: true, ..left });
            assert_eq!(answer.is_none(), sender != Sender::Packet, "a packet socket accepts nothing");
        }
    }

    #[test]
    fn a_guarded_process_writes_no_frame_at_all() {
        for carried in [Carried::Packet, Carried::Other, Carried::Wrapped, Carried::Unreadable] {
            assert_eq!(frame(&Frame { guard: 7, carried, ..LEFT }), Some(Counter::GuardFrame));
        }
        assert_eq!(
            frame(&Frame { guard: 7, sender: Sender::Socket, ..LEFT }),
            None,
            "its cgroup's hook saw it"
        );
    }

    #[test]
    fn what_cannot_be_read_is_dropped_unless_the_kernel_wrote_it_and_arp_passes() {
        let unreadable = Frame { carried: Carried::Unreadable, ..LEFT };
        assert_eq!(frame(&unreadable), Some(Counter::UnreadableFrame));
        assert_eq!(frame(&Frame { sender: Sender::Nobody, ..unreadable }), Some(Counter::UnreadableFrame));
        assert_eq!(frame(&Frame { sender: Sender::Socket, ..unreadable }), None);
        let wrapped = Frame { carried: Carried::Wrapped, ..LEFT };
        assert_eq!(frame(&wrapped), Some(Counter::UnreadableFrame));
        assert_eq!(frame(&Frame { sender: Sender::Nobody, ..wrapped }), None, "a router's own business");
        for sender in [Sender::Nobody, Sender::Packet, Sender::Socket] {
            assert_eq!(frame(&Frame { sender, carried: Carried::Other, ..LEFT }), None);
        }
    }

    #[test]
    fn a_lost_record_stops_even_the_gates_own_socket() {
        let sent = Packet { lost: true, exempt: true, ..SENT };
        assert_eq!(packet(&sent), Some(Counter::LostPacket));
    }

    #[test]
    fn every_spelling_of_loopback_is_known_and_nothing_else() {
        let mut one = [0; 16];
        assert!(is_loopback(&one));
        one[15] = 1;
        assert!(is_loopback(&one));
        one[15] = 2;
        assert!(!is_loopback(&one));
        for v4 in [[127, 0, 0, 1], [127, 255, 0, 9], [0, 0, 0, 0]] {
            assert!(is_loopback(&mapped(v4)));
        }
        assert!(!is_loopback(&mapped([128, 0, 0, 1])));
        assert!(!is_loopback(&[0xfe; 16]));
    }
}
