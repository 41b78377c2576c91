//! The sign of life that the kernel programs wait for: past its deadline they refuse what they would give to the gate.
//!
//! Refuses to speak for a gate that has taken over since.

use std::path::Path;
use std::time::Duration;

use gateway_ebpf::abi::{self, Plain};
use serde::Serialize;

use super::pins::map_path;
use super::raw::{self, RawMap};
use super::{Check, Flows, Found, KernelError, status};
use crate::limits::{HEARTBEAT_EVERY, HEARTBEAT_LIFE};

const MAP: &str = "HEARTBEAT";
const KEY: [u8; 4] = [0; 4];

/// The right to say that the gate lives. Dropped, the gate counts as dead at once, unless another has taken over.
#[derive(Debug)]
pub struct Heartbeat {
    map: RawMap,
    turn: u64,
    /// The deadline that it leaves behind.
    last: u64,
}

impl Heartbeat {
    /// Takes over from whatever gate was alive last, and beats once.
    pub(super) fn take(pins: &Path) -> Result<Self, KernelError> {
        let map = open(pins)?;
        let turn = read(&map)?.turn.wrapping_add(1);
        let heartbeat = Self { map, turn, last: 0 };
        // Before anything is accepted in this turn. Rows that stay do no harm.
        if let Err(error) = Flows::open(pins)?.forget_before(turn) {
            tracing::warn!(%error, "counts of flows that earlier enforcers took are still there");
        }
        heartbeat.write(deadline(HEARTBEAT_LIFE))?;
        Ok(heartbeat)
    }

    /// Ends, and lets the gate count as alive for so long: another program is to take over.
    pub fn leave(mut self, life: Duration) {
        self.last = deadline(life);
    }

    /// Says that the gate lives. False: a newer gate has taken over, and nothing was said.
    ///
    /// # Errors
    /// Where the map cannot be written; the gate is shut by itself soon.
    pub fn beat(&self) -> Result<bool, KernelError> {
        if read(&self.map)?.turn > self.turn {
            return Ok(false);
        }
        self.write(deadline(HEARTBEAT_LIFE)).map(|()| true)
    }

    fn write(&self, deadline: u64) -> Result<(), KernelError> {
        let heartbeat = abi::Heartbeat { deadline, turn: self.turn };
        self.map.update(&KEY, heartbeat.bytes()).map_err(KernelError::map(MAP))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let ended = match read(&self.map) {
            Ok(now) if now.turn > self.turn => Ok(()),
            _ => self.write(self.last),
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "the gate counts as alive until its heartbeat runs out");
        }
    }
}

fn open(pins: &Path) -> Result<RawMap, KernelError> {
    RawMap::open(&map_path(pins, MAP), KEY.len(), size_of::<abi::Heartbeat>()).map_err(KernelError::map(MAP))
}

fn read(map: &RawMap) -> Result<abi::Heartbeat, KernelError> {
    let bytes = map.lookup(&KEY, 1).map_err(KernelError::map(MAP))?.unwrap_or_default();
    let mut heartbeat = abi::Heartbeat::ZERO;
    if bytes.len() == size_of::<abi::Heartbeat>() {
        heartbeat.bytes_mut().copy_from_slice(&bytes);
    }
    Ok(heartbeat)
}

fn deadline(life: Duration) -> u64 {
    raw::monotonic().saturating_add(life.as_nanos() as u64)
}

/// The gate's sign of life, as the programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pulse {
    /// Whether it is in time. If not, everything protected is refused.
    pub alive: bool,
    /// Milliseconds since the last one; `None`: no gate has beaten yet, or the last one was stopped in order.
    pub age_ms: Option<u64>,
}

impl std::fmt::Display for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.age_ms {
            None => f.write_str("none: no enforcer runs"),
            Some(age) => write!(f, "{}.{} s old", age / 1000, age % 1000 / 100),
        }
    }
}

/// Reads the sign of life.
pub(super) fn pulse(pins: &Path) -> Result<Pulse, KernelError> {
    let deadline = read(&open(pins)?)?.deadline;
    let now = raw::monotonic();
    let age = || (now.saturating_add(HEARTBEAT_LIFE.as_nanos() as u64)).saturating_sub(deadline) / 1_000_000;
    Ok(Pulse { alive: now < deadline, age_ms: (deadline != 0).then(age) })
}

/// The sign of life as `tidegate doctor` shows it.
#[must_use]
pub fn heartbeat_check(pins: &Path) -> Check {
    let seen = |found, seen: String, means: &str| Check {
        name: "enforcer's heartbeat",
        found,
        seen,
        means: means.to_owned(),
    };
    match status(pins).map(|status| status.heartbeat) {
        Ok(pulse) if pulse.alive => seen(Found::Ok, pulse.to_string(), ""),
        Ok(pulse) if pulse.age_ms.is_none() => seen(
            Found::Reduced,
            pulse.to_string(),
            "everything protected is refused until `tidegate run` starts",
        ),
        Ok(pulse) => seen(
            Found::Reduced,
            pulse.to_string(),
            "the enforcer was killed or hangs: everything protected is refused until it beats again or is started anew",
        ),
        Err(KernelError::NotLoaded { .. }) => seen(Found::Ok, "nothing is loaded".to_owned(), ""),
        Err(error) => seen(Found::Unknown, error.to_string(), "run as root to find out"),
    }
}

// A beat that comes late by nearly the whole life must still come in time.
const _: () = assert!(HEARTBEAT_EVERY.as_nanos() * 4 < HEARTBEAT_LIFE.as_nanos());
