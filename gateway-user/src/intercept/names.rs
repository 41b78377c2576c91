//! The gate's own view of host names. Remembers what a name resolved to for a while, because names behind balancers
//! answer with another part of the set each time. Refuses to guess: what does not resolve has no addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::RESOLVE_TIMEOUT;

/// An answer is asked for again after this long.
const FRESH: Duration = Duration::from_secs(5);
/// An address stays part of its name's set for this long after it was last seen in an answer.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Names remembered at once.
const NAMES_MAX: usize = 4096;
/// Addresses remembered per name.
const ADDRESSES_MAX: usize = 256;

/// Resolves names and remembers.
#[derive(Default)]
pub struct Names {
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    asked: Instant,
    addresses: Vec<(IpAddr, Instant)>,
}

impl Names {
    /// Whether `name` is, or lately was, at `address`.
    pub async fn agree(&self, name: &str, address: IpAddr) -> bool {
        if let Ok(literal) = name.parse::<IpAddr>() {
            return literal.to_canonical() == address.to_canonical();
        }
        match self.remembers(name, address) {
            Some(true) => return true,
            Some(false) => return false,
            None => {}
        }
        let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
        let found: Vec<IpAddr> = match lookup {
            Ok(Ok(found)) => found.map(|found| found.ip().to_canonical()).take(ADDRESSES_MAX).collect(),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "name does not resolve");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        self.learn(name, &found);
        self.remembers(name, address).unwrap_or(false)
    }

    /// `None` when the name has to be asked for.
    fn remembers(&self, name: &str, address: IpAddr) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(name)?;
        if entry
            .addresses
            .iter()
            .any(|(known, at)| *known == address.to_canonical() && at.elapsed() < REMEMBERED)
        {
            return Some(true);
        }
        (entry.asked.elapsed() < FRESH).then_some(false)
    }

    fn learn(&self, name: &str, found: &[IpAddr]) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            known.retain(|_, entry| entry.asked.elapsed() < FRESH);
            if known.len() >= NAMES_MAX {
                return;
            }
        }
        let entry =
            known.entry(name.to_owned()).or_insert_with(|| Known { asked: now, addresses: Vec::new() });
        entry.asked = now;
        entry.addresses.retain(|(address, at)| at.elapsed() < REMEMBERED && !found.contains(address));
        entry.addresses.extend(found.iter().map(|address| (*address, now)));
        let surplus = entry.addresses.len().saturating_sub(ADDRESSES_MAX);
        entry.addresses.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_literal_agrees_only_with_itself() {
        let names = Names::default();
        assert!(names.agree("127.0.0.1", "127.0.0.1".parse().unwrap()).await);
        assert!(names.agree("::ffff:127.0.0.1", "127.0.0.1".parse().unwrap()).await);
        assert!(!names.agree("127.0.0.1", "127.0.0.2".parse().unwrap()).await);
    }

    #[tokio::test]
    async fn a_name_that_resolves_elsewhere_disagrees() {
        let names = Names::default();
        assert!(names.agree("localhost", "127.0.0.1".parse().unwrap()).await);
        assert!(!names.agree("localhost", "192.0.2.7".parse().unwrap()).await);
        assert!(!names.agree("no-such-host.invalid", "127.0.0.1".parse().unwrap()).await);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let names = Names::default();
        for n in 0..NAMES_MAX + 10 {
            names.learn(&format!("h{n}"), &[IpAddr::from([127, 0, 0, 1])]);
        }
        assert!(names.known.lock().unwrap().len() <= NAMES_MAX);
        let many: Vec<IpAddr> =
            (0..=u8::MAX).flat_map(|a| (0..2).map(move |b| IpAddr::from([10, 0, b, a]))).collect();
        names.learn("h1", &many);
        assert_eq!(names.known.lock().unwrap()["h1"].addresses.len(), ADDRESSES_MAX);
    }
}
