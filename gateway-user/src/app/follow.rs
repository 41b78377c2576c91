//! Follows what changes while the gate runs: the policy in force, and with it approvals, the record, and the kernel's tables.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hold::Followed;
use super::weigh::{Weigher, Whole};
use crate::identity::account_name;
use crate::judge::{Bench, now};
use crate::limits::POLICY_CHANGES_TOLD_MAX;
use crate::operation::Sha256;
use crate::policy::{Change, Inventory, Notice};
use crate::record::StateOp;
use crate::record::entry::{Event, FileChange, FileChanged, PolicyChanged};

/// How often the kernel's tables are looked after again: cgroups of guards and addresses come and go.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps kernel, approvals and record in step with the policy.
pub(super) struct Follower {
    bench: Arc<Bench>,
    kernel: Followed,
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
    pub(super) fn new(bench: Arc<Bench>, kernel: Followed, weigher: Weigher) -> Self {
        Self { bench, kernel, known: None, whole: None, weigher }
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
        let mut noticed = Vec::new();
        loop {
            let set = self.bench.shelf.current();
            self.kernel.follow(&set).await;
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
