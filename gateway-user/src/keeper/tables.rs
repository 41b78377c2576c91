//! Keeps the kernel's tables in step: with the policy in force, with the cgroups of guarded units as they come and go, and
//! with the host's own addresses. Cuts what is older than a change. Never lets them lag behind silently.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Refusals, Spaces, User, guard_over, older, table};
use crate::kernel::{self, Gate, Own, Place, Table};
use crate::policy::Set;

/// How often older connections are looked for after a change of the tables: at once, and when what was just being dialled
/// stands in the kernel's lists.
const CUTS: u32 = 2;

/// What the kernel was told last.
#[derive(Debug)]
pub struct Tables {
    gate: Arc<Gate>,
    /// Who looks for the processes of the table in other network namespaces.
    spaces: Arc<Spaces>,
    /// The cgroup v2 root, found once: where it cannot be read, nothing must be found to be gone.
    root: PathBuf,
    /// Whom the enforcer runs as, where it is guarded itself.
    user: Option<User>,
    published: Option<Table>,
    own: Own,
    fault: Option<String>,
    /// Where the programs are attached.
    place: Place,
    unseen: Option<String>,
    /// Looks for older connections that are due.
    cuts: u32,
    /// Hooks that are not where the load put them.
    missing: Vec<&'static str>,
    /// The links of all of them, as they were at the last look.
    links: Vec<Option<u32>>,
    /// Who has recorded what was cut.
    refusals: Arc<Refusals>,
}

impl Tables {
    /// Nothing was told yet.
    #[must_use]
    pub fn new(
        (gate, spaces, refusals): (Arc<Gate>, Arc<Spaces>, Arc<Refusals>),
        (root, place): (PathBuf, Place),
        user: Option<User>,
    ) -> Self {
        Self {
            gate,
            spaces,
            root,
            user,
            published: None,
            own: Own::default(),
            fault: None,
            place,
            unseen: None,
            cuts: 0,
            missing: Vec::new(),
            links: Vec::new(),
            refusals,
        }
    }

    /// Tells the kernel what differs from what it was told last. Gives whether its tables are of this set now.
    pub async fn follow(&mut self, set: &Arc<Set>) -> bool {
        self.tell_own();
        self.follow_uplinks();
        let published = self.publish(set).await;
        self.look_for_hooks();
        if self.cuts > 0 && self.cut_older(set).await {
            self.cuts -= 1;
        }
        published
    }

    async fn publish(&mut self, set: &Arc<Set>) -> bool {
        let (set, root, user) = (set.clone(), self.root.clone(), self.user);
        let searched = tokio::task::spawn_blocking(move || {
            table::of(&set, &root).map(|(mut table, missing)| {
                table.guards.extend(user.map(guard_over));
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
                self.spaces.tell(&table);
                missing.iter().for_each(|missing| tracing::warn!("{missing}: it guards nothing by that"));
                if let Err(error) = kernel::seal(&self.place) {
                    tracing::error!(%error, "the gate's own files are guarded as they were");
                }
                self.published = Some(table);
                self.cuts = CUTS;
                true
            }
            Err(error) => {
                tracing::error!(%error, "the kernel's table could not be brought up to date; trying again");
                self.published = None;
                false
            }
        }
    }

    /// Looks whether every hook is where the load put it; says so where one is not, and that is news.
    fn look_for_hooks(&mut self) {
        let hooks = match kernel::hooks(self.gate.pins()) {
            Ok(hooks) => hooks,
            Err(error) => {
                return tracing::error!(%error, "whether the kernel programs are attached cannot be found out");
            }
        };
        let missing: Vec<_> = hooks.iter().filter(|hook| hook.id.is_none()).map(|hook| hook.name).collect();
        let links: Vec<_> = hooks.iter().map(|hook| hook.link).collect();
        if missing != self.missing && !missing.is_empty() {
            let names = missing.join(", ");
            tracing::error!(%names, "kernel programs are not attached any more: run `tidegate load`, and see `tidegate coverage`");
        }
        // Also where one was away only between two looks: its link is another one then.
        let were_away = !self.missing.is_empty() || (!self.links.is_empty() && links != self.links);
        if missing.is_empty() && were_away {
            tracing::warn!(
                "kernel programs were attached anew; what was dialled while they were not is looked for"
            );
            // Whatever was dialled meanwhile went past the gate.
            self.cuts = CUTS;
        }
        self.links = links;
        self.missing = missing;
    }

    /// Cuts what is older than the tables that were published; whether it could.
    async fn cut_older(&mut self, set: &Arc<Set>) -> bool {
        if self.refusals.has_no_room_for_a_cut() {
            return false;
        }
        let (set, pins, root) = (set.clone(), self.gate.pins().to_owned(), self.root.clone());
        match tokio::task::spawn_blocking(move || older::cut(&set, &pins, &root)).await {
            Ok(Ok(cut)) => {
                cut.into_iter().for_each(|cut| self.refusals.cut(cut));
                true
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "older connections are not cut, their packets are dropped; trying again");
                false
            }
            Err(_) => false,
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
