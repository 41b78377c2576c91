//! What the kernel programs refused, as they tell it through their ring. No verdict depends on it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use gateway_ebpf::abi::{Attempt, COUNTERS, Counter, Plain, Refusal};
use serde::Serialize;

use super::pins::map_path;
use super::sockets::text;
use super::{KernelError, raw};

/// Refusals as they happen. Poll its descriptor, then take them all.
pub struct Denials(RingBuf<MapData>);

impl Denials {
    /// Of what is loaded there.
    pub(super) fn open(pins: &Path) -> Result<Self, KernelError> {
        let path = map_path(pins, "EVENTS");
        let failed = |error: &dyn std::error::Error| KernelError::Object {
            why: format!("{}: {error}", path.display()),
            source: None,
        };
        let map = MapData::from_pin(&path).map_err(|error| failed(&error))?;
        RingBuf::try_from(Map::RingBuf(map)).map(Self).map_err(|error| failed(&error))
    }
}

impl AsFd for Denials {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Iterator for Denials {
    type Item = Denial;

    /// The oldest that waits; `None` when there is none now.
    fn next(&mut self) -> Option<Denial> {
        let item = self.0.next()?;
        // A refusal is what an attempt begins with. A ring of another layout is refused by the version check; a short item
        // would be a bug, not an attack.
        let mut attempt = Attempt::ZERO;
        let length = item.len().min(size_of::<Attempt>());
        attempt.bytes_mut()[..length].copy_from_slice(&item[..length]);
        Some(Denial {
            about: (length > size_of::<Refusal>()).then(|| about(&attempt)).flatten(),
            ..denial(&attempt.refusal)
        })
    }
}

/// One refusal of the kernel programs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Denial {
    /// The counter it raised.
    pub reason: &'static str,
    /// Where it wanted to go.
    pub to: SocketAddr,
    /// What it wanted, in words, where that is no address: a process, a file, a Unix socket; not escaped.
    pub about: Option<String>,
    /// IP protocol, or socket protocol (262: MPTCP).
    pub protocol: u16,
    /// Process id; 0: a packet, whose process is not known.
    pub tgid: u32,
    /// Real user id; 0 for packets.
    pub uid: u32,
    /// Cgroup id; 0 where nothing is known of who it was but the process and its name, as for packets.
    pub cgroup: u64,
    /// The thread's name; not escaped, empty for packets.
    pub command: String,
    /// [`super::guard_id`] of the guard; 0: none.
    pub guard: u32,
    /// When, in nanoseconds since boot.
    pub at: u64,
}

impl Denial {
    /// How long ago it was.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(raw::since_boot().saturating_sub(self.at))
    }
}

fn denial(refusal: &Refusal) -> Denial {
    Denial {
        reason: COUNTERS.get(refusal.counter as usize).map_or("unknown", |(_, name)| name),
        to: SocketAddr::new(IpAddr::from(refusal.address).to_canonical(), refusal.port),
        about: None,
        protocol: refusal.protocol,
        tgid: refusal.tgid,
        uid: refusal.uid,
        cgroup: refusal.cgroup,
        command: text(&refusal.comm),
        guard: refusal.guard,
        at: refusal.at,
    }
}

/// What an attempt was about, in words; `None`: its reason says all there is.
fn about(attempt: &Attempt) -> Option<String> {
    let (number, other) = (attempt.number, attempt.other);
    let reason = COUNTERS.get(attempt.refusal.counter as usize)?.0;
    Some(match reason {
        Counter::GuardBpf => format!("bpf command {number}"),
        Counter::GuardTrace => format!("{}[{other}]", text(&attempt.name)),
        Counter::GuardSignal => format!("signal {number} to {}[{other}]", text(&attempt.name)),
        Counter::GuardUnix => match attempt.name.split_first() {
            Some((0, name)) => format!("@{}", text(name)),
            _ => text(&attempt.name),
        },
        Counter::GuardKernel if attempt.name[0] == 0 => format!("reason {number}"),
        Counter::GuardPassed => format!("a socket of family {number}"),
        _ => Some(text(&attempt.name)).filter(|name| !name.is_empty())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(counter: Counter, name: &[u8]) -> Attempt {
        let refusal = Refusal { counter: counter as u32, ..Refusal::ZERO };
        let mut attempt = Attempt { refusal, other: 7, number: 9, ..Attempt::ZERO };
        attempt.name[..name.len()].copy_from_slice(name);
        attempt
    }

    #[test]
    fn an_attempt_says_what_it_was_about() {
        let said = |counter, name: &[u8]| about(&attempt(counter, name));
        assert_eq!(said(Counter::GuardSignal, b"tidegate").unwrap(), "signal 9 to tidegate[7]");
        assert_eq!(said(Counter::GuardTrace, b"tidegate").unwrap(), "tidegate[7]");
        assert_eq!(said(Counter::GuardUnix, b"/run/docker.sock").unwrap(), "/run/docker.sock");
        assert_eq!(said(Counter::GuardUnix, b"\0bus").unwrap(), "@bus");
        assert_eq!(said(Counter::GuardBpf, b"").unwrap(), "bpf command 9");
        assert_eq!(said(Counter::GuardPassed, b"").unwrap(), "a socket of family 9");
        assert_eq!(said(Counter::GuardFile, b"policy.toml").unwrap(), "policy.toml");
        assert_eq!(said(Counter::GuardMount, b""), None);
    }
}
