//! The process behind a local flow, from what the kernel recorded when it connected.
//!
//! The kernel's record stands. `/proc` only fills in, and only where it agrees with that record: a number that now means
//! another process, a program that was replaced or deleted, or a cgroup that is gone give `None`, never a wrong name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cgroup::{self, Cgroups};
use super::container::{Contained, Images};
use super::digest::Digests;
use super::proc::{Process, Stat, ticks};
use crate::kernel::{Login, Seen};
use crate::limits::ANCESTORS_MAX;
use crate::operation::{Ancestor, Executable, Workload};

/// How long an answer serves further flows of the same process. Long enough for a burst of connects; what may change
/// meanwhile (parents that end) is no part of any decision.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);
/// Answers remembered.
const ANSWERS_MAX: usize = 4096;

/// What the kernel recorded of a process when it called connect(2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Facts {
    /// Process id (thread group) in the host's numbering.
    pub pid: u32,
    /// When it started, in nanoseconds since boot; 0 where unknown.
    pub started: u64,
    /// User id.
    pub uid: u32,
    /// Who logged in.
    pub login: Login,
    /// The id of its cgroup: the inode of the directory in the cgroup v2 tree.
    pub cgroup: u64,
    /// Its short name, not escaped.
    pub command: String,
    /// Device of its program as stat(2) gives it, 0 where unknown.
    pub program_device: u64,
    /// Inode of its program, 0 where unknown.
    pub program_inode: u64,
}

impl From<&Seen> for Facts {
    fn from(seen: &Seen) -> Self {
        Self {
            pid: seen.tgid,
            started: seen.started,
            uid: seen.uid,
            login: seen.login,
            cgroup: seen.cgroup,
            command: seen.command.clone(),
            program_device: seen.executable_device,
            program_inode: seen.executable_inode,
        }
    }
}

/// Resolves processes. Blocks on `/proc` and, once per program, on hashing: keep it off the async threads.
#[derive(Debug)]
pub struct Processes {
    cgroups: Cgroups,
    images: Images,
    digests: Digests,
    answers: Mutex<HashMap<Facts, (Instant, Workload)>>,
}

impl Processes {
    /// `cgroup_root` is where cgroup v2 is mounted.
    #[must_use]
    pub fn new(cgroup_root: &Path) -> Self {
        Self {
            cgroups: Cgroups::new(cgroup_root),
            images: Images::below(Path::new("/")),
            digests: Digests::default(),
            answers: Mutex::default(),
        }
    }

    /// Who this is. Everything that could not be established is `None`.
    pub fn resolve(&self, seen: impl Into<Facts>) -> Workload {
        let facts = seen.into();
        let fresh = |at: &Instant| at.elapsed() < ANSWER_AGE_MAX;
        if let Some((at, workload)) = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&facts)
            && fresh(at)
        {
            return workload.clone();
        }
        let workload = self.look(&facts);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (at, _)| fresh(at));
        }
        if answers.len() < ANSWERS_MAX {
            answers.insert(facts, (Instant::now(), workload.clone()));
        }
        workload
    }

    fn look(&self, facts: &Facts) -> Workload {
        let process = Process::open(facts.pid).and_then(|process| {
            let stat = process.stat()?;
            (facts.started != 0 && stat.started == ticks(facts.started)).then_some((process, stat))
        });
        let own = process.as_ref().and_then(|(process, _)| process.text("cgroup"));
        let cgroup = self.cgroups.path(facts.cgroup, own.as_deref().and_then(cgroup::own_path));
        let Contained { container, pod } = self.cgroups.contained(cgroup.as_deref(), own.as_deref());
        let mut workload = Workload {
            pid: facts.pid,
            started: facts.started,
            uid: facts.uid,
            login_uid: match facts.login {
                Login::As(uid) => Some(uid),
                Login::None | Login::Unknown => None,
            },
            command: shown(&facts.command),
            unit: cgroup.as_deref().and_then(cgroup::unit),
            image: container.as_deref().and_then(|id| self.images.of(id)),
            container,
            pod,
            cgroup,
            executable: None,
            parents: Vec::new(),
        };
        if let Some((process, stat)) = process {
            if facts.login == Login::Unknown {
                workload.login_uid = process.login_uid();
            }
            workload.executable =
                self.executable(&process, Some((facts.program_device, facts.program_inode)));
            workload.parents = self.parents(process, stat);
        }
        workload
    }

    /// The program of a process, if it is the one the kernel saw (where it saw one) and its path leads to it.
    fn executable(&self, process: &Process, seen: Option<(u64, u64)>) -> Option<Executable> {
        let (mut file, device, inode) = process.program()?;
        if seen.is_some_and(|seen| seen != (device, inode)) {
            return None;
        }
        let path = process.program_path(device, inode)?;
        let sha256 = self.digests.of(&mut file)?;
        // A process that ran another program meanwhile is no longer what was hashed.
        let (_, device_now, inode_now) = process.program()?;
        ((device, inode) == (device_now, inode_now)).then_some(Executable { path, sha256 })
    }

    /// The chain above, nearest first. Ends where a link cannot be proven.
    fn parents(&self, mut child: Process, mut stat: Stat) -> Vec<Ancestor> {
        let mut parents = Vec::new();
        while stat.parent != 0 && parents.len() < ANCESTORS_MAX {
            let Some((parent, parent_stat)) = self.parent(&child, &stat) else { break };
            parents.push(Ancestor {
                pid: stat.parent,
                command: shown(&parent_stat.command),
                executable: self.executable(&parent, None),
            });
            (child, stat) = (parent, parent_stat);
        }
        parents
    }

    /// The parent of `child`: still its parent after it was opened, and started no later.
    fn parent(&self, child: &Process, stat: &Stat) -> Option<(Process, Stat)> {
        let parent = Process::open(stat.parent)?;
        let parent_stat = parent.stat()?;
        let unchanged = child.stat()?.parent == stat.parent;
        (unchanged && parent_stat.started <= stat.started).then_some((parent, parent_stat))
    }
}

/// A name for display: what could move or hide other text is written as an escape.
fn shown(name: &str) -> String {
    let unsafe_to_show = |c: char| {
        c.is_control()
            || c == '\\'
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
    };
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        if unsafe_to_show(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
#[path = "process/tests.rs"]
mod tests;
