//! Keeps the kernel's tables in step: with the policy in force, with the cgroups of guarded units as they come and go, and
//! with the host's own addresses. Never lets them lag behind silently.

use std::path::PathBuf;
use std::sync::Arc;

use super::table;
use crate::kernel::{Gate, GuardRow, Own, Place, Table};
use crate::policy::Set;

/// What the kernel was told last.
#[derive(Debug)]
pub struct Tables {
    gate: Arc<Gate>,
    /// The cgroup v2 root, found once: where it cannot be read, nothing must be found to be gone.
    root: PathBuf,
    /// A guard over the gate itself, where it is a user of its own.
    own_guard: Option<GuardRow>,
    published: Option<Table>,
    own: Own,
    fault: Option<String>,
    /// Where the programs are attached.
    place: Place,
    unseen: Option<String>,
}

impl Tables {
    /// Nothing was told yet.
    #[must_use]
    pub fn new(gate: Arc<Gate>, (root, place): (PathBuf, Place), own_guard: Option<GuardRow>) -> Self {
        Self { gate, root, own_guard, published: None, own: Own::default(), fault: None, place, unseen: None }
    }

    /// Tells the kernel what differs from what it was told last. Gives whether its tables are of this set now.
    pub async fn follow(&mut self, set: &Arc<Set>) -> bool {
        self.tell_own();
        self.follow_uplinks();
        let (set, root, own_guard) = (set.clone(), self.root.clone(), self.own_guard.clone());
        let searched = tokio::task::spawn_blocking(move || {
            table::of(&set, &root).map(|(mut table, missing)| {
                table.guards.extend(own_guard);
                (table, missing)
            })
        });
        let (table, missing) = match searched.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "the cgroups of guards cannot be searched; the last table stands");
                return false;
            }
            Err(_) => return false,
        };
        if self.published.as_ref() == Some(&table) {
            return true;
        }
        match self.gate.publish(&table) {
            Ok(_) => {
                missing.iter().for_each(|missing| tracing::warn!("{missing}: it guards nothing by that"));
                self.published = Some(table);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the kernel's table could not be brought up to date; trying again");
                self.published = None;
                false
            }
        }
    }

    /// Brings the programs to new interfaces; says once what keeps them from there.
    fn follow_uplinks(&mut self) {
        let now = self.gate.follow_uplinks(&self.place).err().map(|error| error.to_string());
        if let Some(error) = now.as_ref().filter(|now| self.unseen.as_ref() != Some(*now)) {
            tracing::error!(%error, "frames of packet sockets may leave by an interface unseen; trying again");
        }
        self.unseen = now;
    }

    /// Tells the kernel which addresses are this host's; says once what keeps it from that.
    fn tell_own(&mut self) {
        let now = self.gate.tell_own(&mut self.own).err().map(|error| error.to_string());
        if let Some(error) = now.as_ref().filter(|now| self.fault.as_ref() != Some(*now)) {
            tracing::error!(
                %error,
                "local clients of protected services at new addresses are refused; trying again"
            );
        }
        self.fault = now;
    }
}
