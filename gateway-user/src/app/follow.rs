//! Follows what changes while the gate runs: the policy in force, the cgroups of guarded units as they come and go, and the
//! host's own addresses. Never lets the kernel's tables lag behind silently.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::table;
use crate::judge::{Bench, now};
use crate::kernel::{Gate, Own, Table};
use crate::operation::Sha256;
use crate::policy::Notice;
use crate::record::entry::{Event, PolicyChanged};

/// How often the cgroups of guards and the host's addresses are looked for again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps kernel, approvals and record in step with the policy.
pub(super) struct Follower {
    bench: Arc<Bench>,
    gate: Arc<Gate>,
    /// The cgroup v2 root, found once: where it cannot be read, nothing must be found to be gone.
    root: PathBuf,
}

impl Follower {
    pub(super) fn new(bench: Arc<Bench>, gate: Arc<Gate>, root: PathBuf) -> Self {
        Self { bench, gate, root }
    }

    /// Writes which policy the gate starts with, and what is wrong with the directory if it is another.
    pub(super) fn started(&self) {
        let fault = self.bench.shelf.fault().map(|fault| fault.to_string());
        self.changed(self.bench.shelf.current().digest(), fault);
    }

    /// Follows until the task is dropped.
    pub(super) async fn follow(self) {
        let mut state = self.bench.shelf.subscribe();
        let mut published: Option<Table> = None;
        let (mut own, mut fault) = (Own::default(), None);
        let mut noticed = Vec::new();
        loop {
            fault = self.tell_own(&mut own, fault);
            published = self.publish(published).await;
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

    fn changed(&self, policy: Sha256, refused: Option<String>) {
        self.bench.metrics.policy(refused.is_none());
        match &refused {
            None => tracing::info!(%policy, "policy in force"),
            Some(fault) => {
                tracing::error!(%policy, "the policy directory is not in force, an older set is:\n{fault}")
            }
        }
        let event = Event::PolicyChanged(PolicyChanged { at: now(), policy, refused });
        if let Err(error) = self.bench.recorder.append(event) {
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
