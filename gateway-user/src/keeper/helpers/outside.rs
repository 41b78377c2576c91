//! Which Unix sockets of guarded processes lead out of their guard, by what the kernel lists and by who holds what. Looks at
//! nothing itself.

use std::collections::{HashMap, HashSet};

use crate::kernel::diag::unix::{Name, Unix};

/// A guarded process, and the inodes of the sockets it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) started: u64,
    /// Not escaped.
    pub(super) command: String,
    pub(super) guard: String,
    pub(super) sockets: Vec<u64>,
}

/// A guarded process that is connected to somebody outside of its guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) command: String,
    pub(super) guard: String,
    /// Its own socket.
    pub(super) socket: u64,
    /// What the other end is bound to; `None`: that is in a network namespace that was not listed.
    pub(super) name: Option<Name>,
}

/// Those that lead to a bound socket that no process of the same guard holds, and whose name is not allowed.
pub(super) fn outside(
    sockets: &[Unix],
    members: &[Member],
    is_allowed: impl Fn(&str, &Name) -> bool,
) -> Vec<Outside> {
    let known = Known::of(sockets, members);
    let mut found = Vec::new();
    for member in members {
        for inode in &member.sockets {
            let Some(name) = known.leads_outside(*inode, &member.guard) else { continue };
            if name.is_some_and(|name| is_allowed(&member.guard, name)) {
                continue;
            }
            found.push(Outside {
                pid: member.pid,
                started: member.started,
                command: member.command.clone(),
                guard: member.guard.clone(),
                socket: *inode,
                name: name.cloned(),
            });
        }
    }
    found
}

struct Known<'a> {
    by_inode: HashMap<u64, &'a Unix>,
    /// The names of ends that nobody has accepted yet, by the inode of their peers.
    waiting: HashMap<u64, Option<&'a Name>>,
    /// Which guards hold a socket.
    held: HashSet<(u64, &'a str)>,
    /// Which guards hold a socket of this name.
    named: HashSet<(&'a Name, &'a str)>,
}

impl<'a> Known<'a> {
    fn of(sockets: &'a [Unix], members: &'a [Member]) -> Self {
        let by_inode: HashMap<u64, &Unix> =
            sockets.iter().filter(|one| one.inode != 0).map(|one| (u64::from(one.inode), one)).collect();
        let waiting = sockets.iter().filter(|one| one.inode == 0);
        let waiting = waiting.filter_map(|one| Some((u64::from(one.peer?), one.name.as_ref()))).collect();
        let held: HashSet<(u64, &str)> = members
            .iter()
            .flat_map(|one| one.sockets.iter().map(|inode| (*inode, one.guard.as_str())))
            .collect();
        let named =
            held.iter().filter_map(|(inode, guard)| Some((by_inode.get(inode)?.name.as_ref()?, *guard)));
        let named = named.collect();
        Self { by_inode, waiting, held, named }
    }

    /// Whether a socket of this guard leads to a bound one outside of it; and to which name, where that is known.
    fn leads_outside(&self, inode: u64, guard: &str) -> Option<Option<&'a Name>> {
        match self.by_inode.get(&inode)?.peer? {
            // Nobody has accepted it yet, or it is closed.
            0 => {
                let name = (*self.waiting.get(&inode)?)?;
                (!self.named.contains(&(name, guard))).then_some(Some(name))
            }
            peer if self.held.contains(&(u64::from(peer), guard)) => None,
            peer => match self.by_inode.get(&u64::from(peer)) {
                // Without a name it was made for this one, and handed over.
                Some(peer) => peer.name.as_ref().map(Some),
                None => Some(None),
            },
        }
    }
}

#[cfg(test)]
mod tests;
