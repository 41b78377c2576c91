//! Blocks, as the judge asks about them: before the policy, again when a hold is released, and all the while a flow
//! lives. No rule, approval or mode of a target is stronger than a block.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::{Asked, Case, Denial, Entry, Judge};
use crate::block::{Asking, Block};
use crate::intercept;
use crate::operation::{Subject, User};
use crate::policy::{Answer, Cause, Decision};

/// What stands for a rule in the entry of an operation that a block refused; no file can have this name.
pub(super) const BLOCK_RULE: &str = "block#";

/// What a flow is known to be about, for the blocks that come while it lives.
#[derive(Default)]
pub(super) struct Known {
    /// The user and the target of its last operation.
    last: Mutex<Option<(Option<User>, String)>>,
    /// Why it was cut off, once it is.
    cut: OnceLock<String>,
}

impl Known {
    /// Why the flow was cut off, where it was.
    pub(super) fn cut(&self) -> Option<&str> {
        self.cut.get().map(String::as_str)
    }
}

impl Judge {
    /// The block that an operation meets. From here on a block of its user or target reaches the flow.
    pub(super) fn block_of(&self, subject: &Subject, target: &str) -> Option<Arc<Block>> {
        // Enrolled before the table is asked: a block that comes in between finds the flow.
        *self.last() = Some((subject.user.clone(), target.to_owned()));
        self.bench.blocks.refuses(&Asking {
            user: subject.user.as_ref(),
            workload: subject.workload.as_deref(),
            target: Some(target),
        })
    }

    /// Refuses an operation that a block meets, durably.
    pub(super) async fn refuse_blocked(
        &self,
        entry: &Arc<Entry>,
        case: &Case,
        asked: &Asked,
        block: &Block,
    ) -> Denial {
        self.bench.metrics.judged(&case.target.name, "deny");
        self.deny(entry, case, &decision(block), asked, Denial::blocked(), &[]).await
    }

    /// Waits until a block meets this flow: its process, or the user or the target of its last operation. One that is in
    /// force already counts.
    pub(super) async fn is_blocked(&self) -> Arc<Block> {
        let changes = self.bench.blocks.subscribe();
        match self.block_now() {
            Some(block) => block,
            None => self.next_block(changes).await,
        }
    }

    /// Waits until a block comes that meets this flow. What was in force when the flow began is told to each of its
    /// operations instead.
    pub async fn block_comes(&self) -> Arc<Block> {
        self.next_block(self.bench.blocks.subscribe()).await
    }

    async fn next_block(&self, mut changes: watch::Receiver<()>) -> Arc<Block> {
        loop {
            if changes.changed().await.is_err() {
                // The table is gone with the gate.
                std::future::pending::<()>().await;
            }
            if let Some(block) = self.block_now() {
                return block;
            }
        }
    }

    /// Notes why everything of this flow that has not ended ends now.
    pub fn cut(&self, block: &Block) {
        // The first reason counts.
        let _ = self.known.cut.set(block.to_string());
    }

    fn block_now(&self) -> Option<Arc<Block>> {
        let last = self.last().clone();
        let (user, target) = match last {
            Some((user, target)) => (user, Some(target)),
            None => {
                let set = self.bench.shelf.current();
                (None, intercept::by_address(&set, &self.flow).map(|target| target.name.clone()))
            }
        };
        self.bench.blocks.meets(&Asking {
            user: user.as_ref(),
            workload: self.flow.workload.as_deref(),
            target: target.as_deref(),
        })
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Option<User>, String)>> {
        self.known.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block in the words of a decision, for the record.
fn decision(block: &Block) -> Decision {
    Decision {
        answer: Answer::Deny,
        cause: Cause::NoRule,
        operations: Vec::new(),
        rules: vec![format!("{BLOCK_RULE}{}", block.subject)],
        reason: block.to_string(),
        shown: None,
        masks: Vec::new(),
    }
}
