//! Helpers outside of a guard: whom a guarded process has connected to over a Unix socket, and could ask to dial in its stead.
//!
//! Tells, and refuses nothing: where the kernel runs no LSM programs nothing can refuse it. What comes and goes between two looks,
//! datagrams without a connection, and a socket without a name (inherited, or handed over) are not seen.

mod outside;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::outside::{Member, Outside, outside};
use super::{Refusals, Spaces, dwellers, guarded};
use crate::identity::holders::held_by;
use crate::kernel::diag::unix::{Name, Unix};
use crate::kernel::{self, Denial, GuardRow, Table};
use crate::limits::{GUARDED_DESCRIPTORS_MAX, HELPERS_TOLD_MAX, SPACE_PROCESSES_MAX, UNIX_SPACES_MAX};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that took long is paid for by so many times its length without one.
const REST: u32 = 20;
/// What the record calls it.
const REASON: &str = "unix_socket_outside";
/// Looks until the task is dropped, while there are guards. `unrefused`: why this kernel cannot refuse what is found.
pub async fn watch(
    spaces: Arc<Spaces>,
    refusals: Arc<Refusals>,
    cgroups: PathBuf,
    unrefused: Option<String>,
) {
    let mut looker = Looker { refusals, cgroups, unrefused, told: HashSet::new(), fault: None };
    let mut rest = LOOK_EVERY;
    loop {
        tokio::time::sleep(rest).await;
        let Some(table) = spaces.table().filter(|table| table.guards.iter().any(is_policys)) else {
            continue;
        };
        let begun = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            looker.look(&table);
            looker
        });
        let Ok(after) = looked.await else {
            tracing::error!("Unix sockets of guarded processes are no longer looked at");
            return std::future::pending().await;
        };
        looker = after;
        rest = LOOK_EVERY.max(begun.elapsed() * REST);
    }
}

/// The gate's own processes are no business of anybody's here.
fn is_policys(guard: &GuardRow) -> bool {
    !guard.own
}

/// What is told once: which process, by number and start, and which name.
type Told = (u32, u64, Option<Name>);

struct Looker {
    refusals: Arc<Refusals>,
    cgroups: PathBuf,
    unrefused: Option<String>,
    told: HashSet<Told>,
    /// What was wrong when it looked last.
    fault: Option<String>,
}

impl Looker {
    fn look(&mut self, table: &Table) {
        let mut fault = None;
        let (members, found) = round(table, &mut fault);
        let alive: HashSet<(u32, u64)> = members.iter().map(|one| (one.pid, one.started)).collect();
        self.told.retain(|(pid, started, _)| alive.contains(&(*pid, *started)));
        let mut new: Vec<Outside> = found.into_iter().filter(|one| !self.told.contains(&key(one))).collect();
        if !new.is_empty() {
            // A list and a walk over descriptors are no one moment: who still is the same a moment later is.
            let (_, again) = round(table, &mut fault);
            new.retain(|one| again.contains(one));
        }
        for one in new {
            if self.told.len() >= HELPERS_TOLD_MAX {
                self.told.clear();
            }
            if self.told.insert(key(&one)) {
                self.tell(&one);
            }
        }
        if let Some(fault) = fault.as_ref().filter(|fault| self.fault.as_ref() != Some(*fault)) {
            tracing::error!("Unix sockets of guarded processes: {fault}");
        }
        self.fault = fault;
    }

    fn tell(&self, one: &Outside) {
        let Outside { pid, command, guard, name, .. } = one;
        let about =
            name.as_ref().map_or_else(|| "a Unix socket of another namespace".to_owned(), Name::to_string);
        let (command, socket) = (command.escape_debug(), about.escape_debug());
        match &self.unrefused {
            Some(why) => tracing::warn!(
                pid, %command, guard, %socket, why,
                "a guarded process is connected to a Unix socket outside of its guard, and this kernel cannot refuse it"
            ),
            None => tracing::warn!(
                pid, %command, guard, %socket,
                "a guarded process is connected to a Unix socket outside of its guard, from before it was guarded or by another's hand"
            ),
        }
        self.refusals.take(&Denial {
            reason: REASON,
            to: ([0; 4], 0).into(),
            about: Some(about),
            protocol: 0,
            tgid: *pid,
            uid: guarded::real_uid(*pid).unwrap_or_default(),
            cgroup: cgroup(*pid, &self.cgroups).unwrap_or_default(),
            command: one.command.clone(),
            guard: kernel::guard_id(guard),
            at: kernel::since_boot(),
        });
    }
}

fn key(one: &Outside) -> Told {
    (one.pid, one.started, one.name.clone())
}

/// One look: the guarded processes, and what of them is connected to whom outside.
fn round(table: &Table, fault: &mut Option<String>) -> (Vec<Member>, Vec<Outside>) {
    let processes = guarded::find(table, is_policys);
    // The list first: whoever is accepted after it stands in there as not accepted yet, and is nobody's.
    let sockets = listed(processes.keys().copied(), fault);
    let mut room = GUARDED_DESCRIPTORS_MAX;
    let members: Vec<Member> = processes
        .iter()
        .filter_map(|(pid, guard)| {
            let held = held_by(*pid, &mut room)?;
            Some(Member {
                pid: *pid,
                started: held.started,
                command: held.command,
                guard: (*guard).to_owned(),
                sockets: held.sockets,
            })
        })
        .collect();
    if processes.len() >= SPACE_PROCESSES_MAX {
        *fault = Some(format!("only the first {SPACE_PROCESSES_MAX} guarded processes are looked at"));
    }
    if room == 0 {
        *fault = Some(format!("only the first {GUARDED_DESCRIPTORS_MAX} descriptors are looked at"));
    }
    let guards: BTreeMap<&str, &GuardRow> =
        table.guards.iter().map(|guard| (guard.name.as_str(), guard)).collect();
    let found = outside(&sockets, &members, |guard, name| {
        guards.get(guard).is_some_and(|guard| kernel::unix_sockets(guard).any(|text| name.is(text)))
    });
    (members, found)
}

/// The Unix sockets of the caller's network namespace and of every other one where these processes are.
fn listed(processes: impl Iterator<Item = u32>, fault: &mut Option<String>) -> Vec<Unix> {
    let home = PathBuf::from("/proc/thread-self/ns/net");
    let own = fs::metadata(&home).ok().map(|about| about.ino());
    let mut others = BTreeMap::new();
    for pid in processes {
        if let Some(inode) = dwellers::namespace(pid).filter(|inode| Some(*inode) != own) {
            others.entry(inode).or_insert(pid);
        }
    }
    if others.len() > UNIX_SPACES_MAX {
        *fault = Some(format!("only those of {UNIX_SPACES_MAX} network namespaces are looked at"));
    }
    let others =
        others.values().take(UNIX_SPACES_MAX).map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
    let mut sockets = Vec::new();
    for place in std::iter::once(home.clone()).chain(others) {
        match kernel::list_unix(&place) {
            Ok(listing) => {
                if listing.is_cut {
                    *fault = Some("there are more than are looked at".to_owned());
                }
                sockets.extend(listing.sockets);
            }
            // Its process may have ended meanwhile.
            Err(_) if place != home && !place.exists() => {}
            Err(error) => *fault = Some(error.to_string()),
        }
    }
    sockets
}

/// The id of a process's cgroup.
fn cgroup(pid: u32, root: &Path) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    fs::metadata(root.join(path)).ok().map(|about| about.ino())
}
