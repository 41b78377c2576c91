//! Follows what changes while the gate runs: the policy in force, the cgroups of guarded units as they come and go, and the
//! host's own addresses. Cuts what is older than a change. Never lets the kernel's tables lag behind silently.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::weigh::{Weigher, Whole};
use super::{older, table};
use crate::identity::account_name;
use crate::judge::{Bench, now};
use crate::kernel::{self, Gate, Own, Table};
use crate::limits::POLICY_CHANGES_TOLD_MAX;
use crate::operation::Sha256;
use crate::policy::{Change, Inventory, Notice};
use crate::record::StateOp;
use crate::record::entry::{Event, FileChange, FileChanged, PolicyChanged};

/// How often the cgroups of guards and the host's addresses are looked for again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often older connections are looked for after a change of the tables: at once, and when what was just being dialled
/// stands in the kernel's lists.
const CUTS: u32 = 2;

/// Keeps kernel, approvals and record in step with the policy.
pub(super) struct Follower {
    bench: Arc<Bench>,
    gate: Arc<Gate>,
    /// The cgroup v2 root, found once: where it cannot be read, nothing must be found to be gone.
    root: PathBuf,
    /// What was in force last, also before this enforcer.
    known: Option<Known>,
    /// The set in force and its files, for what the next one is weighed against.
    whole: Option<Whole>,
    weigher: Weigher,
}

/// Where the set in force is kept for the next start, in the record's small state.
const KNOWN: &str = "policy/in-force";

/// A set by its digest, and its files.
#[derive(Serialize, Deserialize)]
struct Known {
    policy: Sha256,
    files: Inventory,
}

impl Follower {
    pub(super) fn new(bench: Arc<Bench>, gate: Arc<Gate>, root: PathBuf, weigher: Weigher) -> Self {
        Self { bench, gate, root, known: None, whole: None, weigher }
    }

    /// Writes which policy the gate starts with, and what is wrong with the directory if it is another.
    pub(super) fn started(&mut self) {
        self.known = self.remembered();
        let fault = self.bench.shelf.fault().map(|fault| fault.to_string());
        self.changed(self.bench.shelf.current().digest(), fault);
    }

    /// The set that was in force last, as an earlier enforcer kept it.
    fn remembered(&self) -> Option<Known> {
        let rows = self.bench.recorder.scan(KNOWN.as_bytes());
        let kept = rows
            .inspect_err(|error| tracing::warn!(%error, "the policy of the last run cannot be read"))
            .ok()?
            .into_iter()
            .find(|(key, _)| key == KNOWN.as_bytes())?;
        postcard::from_bytes(&kept.1).ok()
    }

    /// Follows until the task is dropped.
    pub(super) async fn follow(mut self) {
        let mut state = self.bench.shelf.subscribe();
        let mut published: Option<Table> = None;
        let (mut own, mut fault) = (Own::default(), None);
        let mut noticed = Vec::new();
        let (mut cuts, mut missing): (u32, Vec<&'static str>) = (0, Vec::new());
        loop {
            fault = self.tell_own(&mut own, fault);
            let before = published.clone();
            published = self.publish(published).await;
            if published.is_some() && published != before {
                cuts = CUTS;
            }
            let before = missing;
            missing = self.missing(&before);
            if missing.is_empty() && !before.is_empty() {
                // Whatever was dialled meanwhile went past the gate.
                cuts = CUTS;
            }
            if cuts > 0 && self.cut().await {
                cuts -= 1;
            }
            noticed = self.notice(noticed);
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let state = state.borrow_and_update().clone();
                    self.changed(state.digest, state.fault.as_ref().map(ToString::to_string));
                    self.bench.desk.recheck(&*self.bench.shelf.current()).await;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn changed(&mut self, policy: Sha256, refused: Option<String>) {
        self.bench.metrics.policy(refused.is_none());
        match &refused {
            None => tracing::info!(%policy, "policy in force"),
            Some(fault) => {
                tracing::error!(%policy, "the policy directory is not in force, an older set is:\n{fault}")
            }
        }
        let (in_force, tried) = self.bench.shelf.files();
        let files = match refused.is_some() {
            true => tried,
            false => Some(Arc::clone(&in_force)),
        };
        let before = self.known.as_ref().map(|known| known.policy);
        let empty = Inventory::new();
        let inventory = self.known.as_ref().map_or(&empty, |known| &known.files);
        let changes = files.map(|files| files.changes_since(inventory)).unwrap_or_default();
        // At the first start of all every file is new, which says nothing.
        let changes = if self.known.is_some() { changes } else { Vec::new() };
        let event = Event::PolicyChanged(PolicyChanged {
            at: now(),
            policy,
            before,
            files_left_out: changes.len().saturating_sub(POLICY_CHANGES_TOLD_MAX) as u64,
            files: changes.into_iter().take(POLICY_CHANGES_TOLD_MAX).map(told).collect(),
            refused: refused.clone(),
        });
        let mut state = Vec::new();
        if refused.is_none() {
            let known = Known { policy, files: in_force.inventory() };
            match postcard::to_allocvec(&known) {
                Ok(bytes) => state.push(StateOp::Put(KNOWN.into(), bytes)),
                Err(error) => tracing::warn!(%error, "the policy in force cannot be kept for the next start"),
            }
            self.known = Some(known);
            let after = (self.bench.shelf.current(), in_force);
            let before = self.whole.replace(after.clone());
            if let Some(before) = before.filter(|before| before.0.digest() != after.0.digest()) {
                self.weigher.hand(before, after);
            }
        }
        if let Err(error) = self.bench.recorder.append_with(state, vec![event]) {
            tracing::error!(%error, "a change of policy could not be recorded");
        }
    }

    /// Logs what is to be known about the set in force and was not known before: at its load, and at the moment that
    /// something in it ends.
    fn notice(&self, known: Vec<Notice>) -> Vec<Notice> {
        let notices = self.bench.shelf.current().notices(jiff::Timestamp::now());
        for notice in notices.iter().filter(|notice| !known.contains(notice)) {
            match notice.warning {
                true => tracing::warn!(about = notice.about, name = notice.name, "{}", notice.text),
                false => tracing::info!(about = notice.about, name = notice.name, "{}", notice.text),
            }
        }
        notices
    }

    /// Tells the kernel which addresses are this host's; says once what keeps it from that, which is given back.
    fn tell_own(&self, own: &mut Own, fault: Option<String>) -> Option<String> {
        let now = self.gate.tell_own(own).err().map(|error| error.to_string());
        if let Some(error) = now.as_ref().filter(|now| fault.as_ref() != Some(*now)) {
            tracing::error!(
                %error,
                "local clients of protected services at new addresses are refused; trying again"
            );
        }
        now
    }

    /// The hooks that are not where the load put them; says so where that is news.
    fn missing(&self, known: &[&'static str]) -> Vec<&'static str> {
        let missing = match kernel::hooks(self.gate.pins()) {
            Ok(hooks) => hooks.iter().filter(|hook| hook.id.is_none()).map(|hook| hook.name).collect(),
            Err(error) => {
                tracing::error!(%error, "whether the kernel programs are attached cannot be found out");
                known.to_vec()
            }
        };
        if missing != known && !missing.is_empty() {
            let names = missing.join(", ");
            tracing::error!(%names, "kernel programs are not attached any more: run `tidegate load`, and see `tidegate coverage`");
        }
        missing
    }

    /// Cuts what is older than the tables that were published; whether it could.
    async fn cut(&self) -> bool {
        let (bench, pins, root) = (self.bench.clone(), self.gate.pins().to_owned(), self.root.clone());
        let cut = tokio::task::spawn_blocking(move || older::cut(&bench, &pins, &root)).await;
        match cut {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "older connections are not cut, their packets are dropped; trying again");
                false
            }
            Err(_) => false,
        }
    }

    /// Tells the kernel what the set in force protects, where that differs from what it was told last.
    async fn publish(&self, published: Option<Table>) -> Option<Table> {
        let (set, root) = (self.bench.shelf.current(), self.root.clone());
        let searched = tokio::task::spawn_blocking(move || table::of(&set, &root)).await;
        let (table, missing) = match searched {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "the cgroups of guards cannot be searched; the last table stands");
                return published;
            }
            Err(_) => return published,
        };
        if published.as_ref() == Some(&table) {
            return published;
        }
        match self.gate.publish(&table) {
            Ok(_) => {
                missing.iter().for_each(|missing| tracing::warn!("{missing}: it guards nothing by that"));
                Some(table)
            }
            Err(error) => {
                tracing::error!(%error, "the kernel's table could not be brought up to date; trying again");
                None
            }
        }
    }
}

fn told(change: Change) -> FileChanged {
    FileChanged {
        change: match (change.before, change.after) {
            (None, _) => FileChange::Added,
            (_, None) => FileChange::Removed,
            _ => FileChange::Changed,
        },
        owner: change.uid.and_then(account_name),
        name: change.name,
        uid: change.uid,
        modified: change.modified,
        before: change.before,
        after: change.after,
    }
}
