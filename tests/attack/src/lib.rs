//! Ways round the gate, by name. Each tries one thing and says what it saw; whether anything arrived is for the other
//! side's own log to say, never for the attacker.

pub mod helpers;
pub mod sys;
mod ways {
    //! The attempts, by what they go through.
    pub(crate) mod datagram;
    pub(crate) mod gate;
    pub(crate) mod link;
    pub(crate) mod raw;
    pub(crate) mod ring;
    pub(crate) mod stream;
}

use std::collections::HashMap;
use std::io::{BufRead, Result};
use std::net::SocketAddr;

/// What an attempt aims at.
#[derive(Debug, Default)]
pub struct Aim {
    words: HashMap<String, String>,
}

impl Aim {
    /// From `key=value` words.
    #[must_use]
    pub fn of(words: &[String]) -> Self {
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        Self { words: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    /// A word, empty if it was not given.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.words.get(key).map_or("", String::as_str)
    }

    /// The destination, IPv4.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.address("to")
    }

    /// The destination, IPv6.
    #[must_use]
    pub fn to6(&self) -> SocketAddr {
        self.address("to6")
    }

    /// An address by its key.
    #[must_use]
    pub fn address(&self, key: &str) -> SocketAddr {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key}=ADDRESS is missing"))
    }

    /// A number by its key.
    #[must_use]
    pub fn number(&self, key: &str) -> u32 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key}=NUMBER is missing"))
    }

    /// What the other side shall find.
    #[must_use]
    pub fn token(&self) -> &str {
        self.get("token")
    }

    /// Between making a socket and using it: waits for a line where the socket shall be older than the gate.
    pub fn pause(&self) {
        if self.get("older") == "yes" {
            println!("made");
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).expect("whoever started us says when to go on");
        }
    }
}

/// What an attempt needs before any gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any process can.
    Nothing,
    /// CAP_NET_RAW.
    NetRaw,
    /// CAP_NET_ADMIN.
    NetAdmin,
    /// CAP_SETUID.
    SetUid,
    /// CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_BPF, CAP_KILL: root of the host.
    Root,
}

/// What an attempt does where there is no gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Arrives.
    Arrives,
    /// Arrives where the kernel was built with it (or has the module).
    MayBeMissing,
    /// Cannot arrive by itself: it is tried for what it does to the gate.
    CannotArrive,
}

/// One way.
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// What it does without the gate.
    pub control: Control,
    /// Harms the gate it is tried on, so that the next attempt needs a new one.
    pub harms: bool,
    /// Is about this host's own addresses and routes: from a container it means something else.
    pub of_host: bool,
    /// Makes a socket that may be older than the gate.
    pub ages: bool,
    /// The attempt.
    pub run: fn(&Aim) -> Result<String>,
}

const fn way(name: &'static str, about: &'static str, run: fn(&Aim) -> Result<String>) -> Way {
    Way {
        name,
        about,
        needs: Needs::Nothing,
        control: Control::Arrives,
        harms: false,
        of_host: false,
        ages: false,
        run,
    }
}

impl Way {
    const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    const fn may_be_missing(mut self) -> Self {
        self.control = Control::MayBeMissing;
        self
    }

    const fn cannot_arrive(mut self) -> Self {
        self.control = Control::CannotArrive;
        self
    }

    const fn harms(mut self) -> Self {
        self.harms = true;
        self
    }

    const fn of_host(mut self) -> Self {
        self.of_host = true;
        self
    }

    const fn ages(mut self) -> Self {
        self.ages = true;
        self
    }
}

use ways::{datagram, gate, link, raw, ring, stream};

/// All of them.
pub static WAYS: &[Way] = &[
    way("tcp4", "connect, IPv4", |aim| stream::plain(aim, aim.to())).ages(),
    way("tcp6", "connect, IPv6", |aim| stream::plain(aim, aim.to6())),
    way("tcp-mapped", "connect to an IPv4 address in an IPv6 socket", stream::mapped),
    way("tcp-bind-first", "bind, then connect", stream::bind_first),
    way("tcp-dontroute", "SO_DONTROUTE", stream::dont_route).of_host(),
    way("tcp-mark", "the gate's mark forged by SO_MARK", stream::mark).needs(Needs::NetRaw),
    way("tcp-device", "SO_BINDTODEVICE to the uplink", stream::device),
    way("tcp-fast-open", "TCP Fast Open by sendto", stream::fast_open),
    way("tcp-fast-open-connect", "TCP_FASTOPEN_CONNECT, then write", stream::fast_open_connect),
    way("mptcp", "multipath TCP", stream::multipath).may_be_missing(),
    way("tcp-transparent", "IP_TRANSPARENT, bound to a foreign address", stream::transparent)
        .needs(Needs::NetAdmin),
    way("tcp-source-route", "loose source route by way of the other machine", stream::source_route)
        .needs(Needs::NetRaw)
        .of_host(),
    way("tcp-repair", "TCP_REPAIR: established without a handshake", stream::repair).needs(Needs::NetAdmin),
    way("tcp-reconnect", "disconnect by AF_UNSPEC, connect again", stream::reconnect),
    way("tcp-keep-alive", "a connection that may be older than the gate", stream::keep_alive).ages(),
    way("tcp-fork", "the parent connects, a child without exec talks", stream::fork),
    way("tcp-thread-uid", "a thread that changed its own user id", stream::thread_uid).needs(Needs::SetUid),
    way("tcp-cgroup", "moved to another cgroup", stream::other_cgroup).needs(Needs::Root),
    way("tcp-clone-cgroup", "a child that begins in another cgroup", stream::child_in_other_cgroup)
        .needs(Needs::Root),
    way("tcp-netns", "unshare user and network namespace", stream::own_namespace).cannot_arrive(),
    way("tcp-setns", "entered another network namespace", stream::other_namespace).needs(Needs::Root),
    way("uring-connect", "connect by io_uring", |aim| ring::connect(aim, false)).may_be_missing(),
    way("uring-sqpoll", "connect by io_uring's polling thread", |aim| ring::connect(aim, true))
        .may_be_missing(),
    way("uring-sendmsg", "UDP sendmsg by io_uring", ring::sendmsg).may_be_missing(),
    way("udp4", "sendto, IPv4", |aim| datagram::send_to(aim, aim.to())).ages(),
    way("udp6", "sendto, IPv6", |aim| datagram::send_to(aim, aim.to6())),
    way("udp-connected", "connected UDP", datagram::connected).ages(),
    way("udp-mapped", "an IPv4 address in an IPv6 socket", datagram::mapped),
    way("udp-unspec", "sendto with family AF_UNSPEC", datagram::unspec),
    way("udp-route-header", "IPv6 segment routing header", datagram::route_header),
    way("udp-options", "IPv6 destination options before the UDP header", datagram::options)
        .needs(Needs::NetRaw),
    way("udplite", "UDP-Lite sendto", datagram::lite).may_be_missing(),
    way("udplite-connected", "connected UDP-Lite", datagram::lite_connected).may_be_missing(),
    way("sctp", "SCTP connect", datagram::sctp).may_be_missing(),
    way("dccp", "DCCP connect", datagram::dccp).may_be_missing(),
    way("raw-tcp", "a TCP segment by a raw socket", raw::tcp).needs(Needs::NetRaw).ages(),
    way("raw-header", "the same with its IP header (IP_HDRINCL)", raw::header).needs(Needs::NetRaw).ages(),
    way("raw-fragments", "a datagram in fragments made by hand", raw::fragments).needs(Needs::NetRaw),
    way("raw6-tcp", "a TCP segment by a raw IPv6 socket", raw::tcp6).needs(Needs::NetRaw),
    way("raw6-extension", "IPv6 extension headers made by hand", raw::extension).needs(Needs::NetRaw),
    way("raw-ipip", "the datagram inside an IP-in-IP packet", raw::ip_in_ip).needs(Needs::NetRaw),
    way("packet", "AF_PACKET on the uplink", |aim| link::packet(aim, false)).needs(Needs::NetRaw).ages(),
    way("packet-bypass", "AF_PACKET with PACKET_QDISC_BYPASS", |aim| link::packet(aim, true))
        .needs(Needs::NetRaw)
        .ages(),
    way("xdp", "AF_XDP transmit on the uplink", link::xdp).needs(Needs::NetRaw).may_be_missing(),
    way("tun", "a TUN device whose packets the host forwards", link::tun).needs(Needs::NetAdmin),
    way("vsock", "AF_VSOCK to a listener of this host", link::vsock).may_be_missing(),
    way("passed-fresh", "an unconnected socket from outside by SCM_RIGHTS", stream::passed_fresh),
    way("passed-connected", "a connected socket from outside by SCM_RIGHTS", stream::passed_connected),
    way("unix-relay", "a helper outside that dials for whoever asks its Unix socket", stream::relay),
    way("gate-port", "the gate's port at 127.0.0.1", |aim| gate::port(aim, "127.0.0.1")).of_host(),
    way("gate-port-2", "the gate's port at 127.0.0.2", |aim| gate::port(aim, "127.0.0.2")).of_host(),
    way("gate-port-0", "the gate's port at 0.0.0.0", |aim| gate::port(aim, "0.0.0.0")).of_host(),
    way("gate-port-6", "the gate's port at ::1", |aim| gate::port(aim, "::1")).of_host(),
    way("gate-port-bind", "takes the gate's port when the gate is dead", gate::bind_port).harms(),
    way("service-listen", "listens on a protected service's port", gate::listen).of_host(),
    way("gate-kill", "SIGKILL to the gate, then connect", gate::kill).needs(Needs::Root).harms(),
    way("gate-stop", "SIGSTOP to the gate, then connect", gate::stop).needs(Needs::Root).harms(),
    way("gate-ptrace", "reads a secret of the gate by ptrace", gate::ptrace)
        .needs(Needs::Root)
        .cannot_arrive()
        .harms(),
    way("gate-memory", "reads a secret of the gate by /proc/PID/mem", gate::memory)
        .needs(Needs::Root)
        .cannot_arrive(),
    way("gate-descriptors", "takes the gate's map by pidfd_getfd, exempts itself", gate::descriptors)
        .needs(Needs::Root)
        .cannot_arrive(),
    way("pins-exempt", "opens the pinned map, exempts itself", gate::exempt)
        .needs(Needs::Root)
        .cannot_arrive(),
    way("map-by-id", "the same map by its id", gate::exempt_by_id).needs(Needs::Root).cannot_arrive(),
    way("link-detach", "detaches the pinned links", gate::detach).needs(Needs::Root).cannot_arrive().harms(),
    way("pins-remove", "removes the pinned links", gate::unpin).needs(Needs::Root).cannot_arrive().harms(),
    way("bpffs-umount", "unmounts bpffs in a mount namespace of its own", gate::umount)
        .needs(Needs::Root)
        .cannot_arrive(),
];

/// A way by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.name == name)
}
