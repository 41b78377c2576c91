//! Other network namespaces: the gate listens in each one that runs guarded processes or protected services, from the moment
//! that they are found there until the last of them is gone. Elsewhere what belongs to the gate is refused.
//!
//! Nothing here is open unless somebody takes the listeners: when the enforcer ends, so do all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::dwellers::{self, Dweller};
use crate::kernel::{self, Gate, Listeners, SPACES_MAX, Space, Table, Unserved};
use crate::limits::SPACES_OPENED_MAX;

/// How often namespaces are looked for, where nobody was refused for want of one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same where policy says in which cgroups services run: one that starts in a new namespace is open until it is found, and
/// nobody is refused meanwhile who would hurry.
const LOOK_FOR_SERVICES_EVERY: Duration = Duration::from_millis(100);
/// The least time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// After how long one is looked at again that an unprivileged user owns, or where there was no room.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What changed. Every set of listeners has a number of its own: a namespace that was let go and came again has new ones.
#[derive(Debug)]
pub enum Change {
    /// The gate listens in a namespace.
    Came {
        /// The number of this set.
        set: u64,
        /// The namespace's cookie.
        space: u64,
        /// The set.
        listeners: Listeners,
    },
    /// It does no longer: the number of the set that is void.
    Went(u64),
}

/// How many namespaces there are besides the gate's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counted {
    /// Where the gate listens.
    pub served: u32,
    /// Where guarded processes or services are, and it does not.
    pub refused: u32,
}

/// The namespaces that are served.
#[derive(Debug)]
pub struct Spaces {
    gate: Arc<Gate>,
    state: Mutex<State>,
    wanted: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody takes listeners.
    open: bool,
    table: Option<Arc<Table>>,
    /// By cookie; with the number of its set.
    served: BTreeMap<u64, (u64, Arc<Space>)>,
    /// The number of the last set.
    last: u64,
    /// What the programs were told by a gate before this one, or before its enforcer ended: cookie, then inode and slot.
    left: BTreeMap<u64, Left>,
    refused: BTreeMap<u64, (Unserved, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    inode: u64,
    slot: u32,
    services: bool,
}

impl Spaces {
    /// Over what is loaded.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        let left = kernel::spaces(gate.pins()).unwrap_or_else(|error| {
            tracing::error!(%error, "which network namespaces were served cannot be read");
            Vec::new()
        });
        let (left, refused): (Vec<_>, Vec<_>) = left.into_iter().partition(|space| space.served);
        refused.iter().for_each(|space| gate.forget_space(space.cookie, 0));
        let left = left.into_iter().map(|space| {
            (space.cookie, Left { inode: space.inode, slot: space.slot(), services: space.services })
        });
        let state = State { left: left.collect(), ..State::default() };
        Self { gate, state: Mutex::new(state), wanted: Notify::new(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose processes are looked for from now on.
    pub fn tell(&self, table: &Table) {
        self.state().table = Some(Arc::new(table.clone()));
        self.wanted.notify_one();
    }

    /// Whose processes are looked for.
    pub(super) fn table(&self) -> Option<Arc<Table>> {
        self.state().table.clone()
    }

    /// Somebody was refused for want of a listener: looks at once.
    pub fn hurry(&self) {
        self.wanted.notify_one();
    }

    /// Looks again and again, until the task is dropped.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let spaces = self.clone();
            if tokio::task::spawn_blocking(move || spaces.look()).await.is_err() {
                tracing::error!("looking for network namespaces failed; trying again");
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            // Looking again because the time is up, or because somebody waits, is the same.
            let services = self.state().table.as_ref().is_some_and(|table| !table.service_cgroups.is_empty());
            let every = if services { LOOK_FOR_SERVICES_EVERY } else { LOOK_EVERY };
            let _ = tokio::time::timeout(every, self.wanted.notified()).await;
        }
    }

    /// The next change, for somebody who serves the sets with these numbers. From the first call on the gate is open.
    pub async fn next(&self, serves: &[u64]) -> Change {
        loop {
            let changed = self.changed.notified();
            if let Some(change) = self.pending(serves) {
                return change;
            }
            changed.await;
        }
    }

    fn pending(&self, serves: &[u64]) -> Option<Change> {
        let mut state = self.state();
        if !state.open {
            state.open = true;
            self.wanted.notify_one();
        }
        let stands: BTreeSet<u64> = state.served.values().map(|(set, _)| *set).collect();
        if let Some(set) = serves.iter().find(|set| !stands.contains(set)) {
            return Some(Change::Went(*set));
        }
        let (space, (set, served)) = state.served.iter().find(|(_, (set, _))| !serves.contains(set))?;
        match served.listeners() {
            Ok(listeners) => Some(Change::Came { set: *set, space: *space, listeners }),
            Err(error) => {
                tracing::error!(%error, "listeners of a network namespace cannot be handed over");
                None
            }
        }
    }

    /// Nobody takes listeners any more: none is left open, and the programs refuse in all of them.
    pub fn shut(&self) {
        let mut state = self.state();
        state.open = false;
        let served = std::mem::take(&mut state.served);
        state.left.extend(served.into_values().map(|(_, space)| {
            let left = Left { inode: space.inode(), slot: space.slot(), services: space.services() };
            (space.cookie(), left)
        }));
    }

    /// A socket in a namespace that is served, for one place.
    ///
    /// # Errors
    /// It is not served, or there is no socket to be had.
    pub fn socket(&self, cookie: u64, to: SocketAddr) -> io::Result<OwnedFd> {
        let space = self.space(cookie)?;
        self.gate.socket_in(&space, to)
    }

    /// Whether an address is own in a namespace that is served.
    ///
    /// # Errors
    /// It is not served, or it cannot be found out.
    pub fn is_own(&self, cookie: u64, address: IpAddr) -> io::Result<bool> {
        self.space(cookie)?.is_own(address)
    }

    /// How many there are.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let state = self.state();
        Counted { served: state.served.len() as u32, refused: state.refused.len() as u32 }
    }

    fn space(&self, cookie: u64) -> io::Result<Arc<Space>> {
        let found = self.state().served.get(&cookie).map(|(_, space)| space.clone());
        found.ok_or_else(|| io::Error::other("the gate does not listen in that network namespace"))
    }

    /// Brings everything in step with the processes that there are.
    fn look(&self) {
        let (table, served) = {
            let state = self.state();
            let Some(table) = state.table.clone().filter(|_| state.open) else { return };
            (table, state.served.values().map(|(_, space)| space.clone()).collect::<Vec<_>>())
        };
        if self.gate.only_netns() {
            return;
        }
        let found = dwellers::find(&table, self.gate.netns_inode());
        let mut inhabited = None;
        // What runs a service stays as long as anybody lives there: its service may only be starting anew.
        let mut stays = |inode: u64, services: bool| {
            let inhabited = inhabited.get_or_insert_with(dwellers::inhabited);
            services
                && !table.service_cgroups.is_empty()
                && inhabited.as_ref().is_none_or(|all| all.contains(&inode))
        };
        for space in served {
            match found.get(&space.inode()) {
                Some(dweller) => {
                    let services =
                        dweller.services || (space.services() && !table.service_cgroups.is_empty());
                    if let Err(why) = self.gate.renew_space(&space, services) {
                        self.let_go(&space);
                        self.refuse(space.inode(), why);
                    }
                }
                None if stays(space.inode(), space.services()) => {}
                None => self.let_go(&space),
            }
        }
        self.open_new(&found);
        self.forget_left(&mut stays);
        self.forget_refused(&found);
    }

    /// Listens where somebody came; where no gate has been asked for first, so that many that are refused again and again
    /// keep nobody waiting.
    fn open_new(&self, found: &BTreeMap<u64, Dweller>) {
        let mut new: Vec<(u64, Dweller)> = {
            let state = self.state();
            let serves = |inode: u64| state.served.values().any(|(_, space)| space.inode() == inode);
            let waits = |inode| state.refused.get(&inode).is_some_and(|(why, at)| waits(*why, *at));
            let new = found.iter().filter(|(inode, _)| !serves(**inode) && !waits(**inode));
            new.map(|(inode, dweller)| (*inode, *dweller)).collect()
        };
        new.sort_by_key(|(inode, _)| self.state().refused.contains_key(inode));
        for (inode, dweller) in new.into_iter().take(SPACES_OPENED_MAX) {
            // Gone by now, or another one's.
            let Ok(file) = dwellers::open(dweller.pid, inode) else { continue };
            match self.gate.open_space(file, |cookie| self.slot(cookie), dweller.services) {
                Ok(space) => {
                    tracing::info!(inode, "the gate listens in one more network namespace");
                    let mut state = self.state();
                    // Shut meanwhile: nobody would serve it.
                    if !state.open {
                        let left = Left { inode, slot: space.slot(), services: space.services() };
                        state.left.insert(space.cookie(), left);
                        continue;
                    }
                    state.refused.remove(&inode);
                    state.left.remove(&space.cookie());
                    state.last += 1;
                    let set = state.last;
                    state.served.insert(space.cookie(), (set, Arc::new(space)));
                    drop(state);
                    self.changed.notify_one();
                }
                Err(why) => self.refuse(inode, why),
            }
        }
    }

    /// The number of a namespace: the one it had, or one that is free.
    fn slot(&self, cookie: u64) -> Option<u32> {
        let state = self.state();
        if let Some(left) = state.left.get(&cookie) {
            return Some(left.slot);
        }
        let left = state.left.values().map(|left| left.slot);
        free(&state.served.values().map(|(_, space)| space.slot()).chain(left).collect())
    }

    fn refuse(&self, inode: u64, why: Unserved) {
        let before = self.state().refused.insert(inode, (why, Instant::now()));
        if before.is_none_or(|(before, _)| before != why) {
            tracing::warn!(inode, %why, "the gate does not listen in a network namespace; what belongs to it there is refused");
        }
    }

    fn let_go(&self, space: &Space) {
        tracing::info!(inode = space.inode(), "the gate leaves a network namespace");
        self.gate.forget_space(space.cookie(), space.slot());
        self.state().served.remove(&space.cookie());
        self.changed.notify_one();
    }

    /// Takes away what is left of namespaces that nobody has come back to.
    fn forget_left(&self, stays: &mut impl FnMut(u64, bool) -> bool) {
        let left: Vec<(u64, Left)> =
            self.state().left.iter().map(|(cookie, left)| (*cookie, *left)).collect();
        for (cookie, left) in left {
            if !stays(left.inode, left.services) {
                self.gate.forget_space(cookie, left.slot);
                self.state().left.remove(&cookie);
            }
        }
    }

    fn forget_refused(&self, found: &BTreeMap<u64, Dweller>) {
        let mut state = self.state();
        let before = state.refused.len();
        state.refused.retain(|inode, _| found.contains_key(inode));
        let is_same = before == state.refused.len();
        drop(state);
        if is_same {
            return;
        }
        for space in kernel::spaces(self.gate.pins()).unwrap_or_default() {
            if !space.served && !found.contains_key(&space.inode) {
                self.gate.forget_space(space.cookie, 0);
            }
        }
    }
}

/// Whether one that was refused is left alone for a while.
fn waits(why: Unserved, at: Instant) -> bool {
    matches!(why, Unserved::OtherOwner | Unserved::TooMany | Unserved::Failed) && at.elapsed() < AGAIN_AFTER
}

/// The lowest number that nobody has.
fn free(taken: &BTreeSet<u32>) -> Option<u32> {
    (1..=SPACES_MAX).find(|slot| !taken.contains(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_up_to_the_bound_and_again_when_they_are_free_and_never_the_gates_own() {
        let mut taken = BTreeSet::new();
        for _ in 0..SPACES_MAX {
            let slot = free(&taken).unwrap();
            assert!(slot != 0 && taken.insert(slot));
        }
        assert_eq!(free(&taken), None);
        taken.remove(&7);
        assert_eq!(free(&taken), Some(7));
    }

    #[test]
    fn who_was_refused_for_good_waits_and_who_may_be_served_any_moment_does_not() {
        let now = Instant::now();
        assert!(
            [Unserved::OtherOwner, Unserved::TooMany, Unserved::Failed]
                .into_iter()
                .all(|why| waits(why, now))
        );
        assert!(![Unserved::LoopbackDown, Unserved::PortTaken].into_iter().any(|why| waits(why, now)));
        let long_ago = now.checked_sub(AGAIN_AFTER).unwrap();
        assert!(!waits(Unserved::TooMany, long_ago));
    }
}
