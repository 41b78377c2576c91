//! Targets that are only observed: everything is judged and recorded with what would have happened, and goes through.
//!
//! Observes nothing that no target names, and no message with two readings: those stay refused.

use std::sync::Arc;

use super::{Asked, Case, Entry, Judge, Verdict, head};
use crate::operation::Subject;
use crate::policy::{Answer, Decision};
use crate::record::entry::{Intent, Verdict as Recorded};

impl Judge {
    /// Lets an operation through, and writes down what would have become of it.
    pub(super) async fn observe(
        &self,
        entry: Arc<Entry>,
        case: &Case,
        decision: &Decision,
        unproven: Option<String>,
        asked: &Asked,
    ) -> Verdict {
        let (would, word) = match (&unproven, &decision.answer) {
            (Some(_), _) => (Recorded::Refuse, "refused"),
            (None, Answer::Allow) => (Recorded::Allow, "allowed"),
            (None, Answer::Hold { .. }) => (Recorded::Hold, "held"),
            (None, Answer::Deny) => (Recorded::Deny, "denied"),
        };
        let name = &case.target.name;
        self.bench.metrics.judged(name, "allow");
        self.bench.metrics.observed(name, would.name());
        let why = unproven.as_deref().unwrap_or(&decision.reason);
        let reason = format!("only observed; it would be {word}: {}", head::told(why));
        let intent = self.intent(&entry, case, decision, asked, Recorded::Allow);
        let intent = Intent { would: Some(would), reason, ..intent };
        entry.observe(decision.masks.iter().map(|mask| mask.name.clone()).collect());
        self.allow(entry, case, decision, asked, intent).await
    }

    /// The subject of an operation whose user is not proven.
    pub(super) fn nobody(&self) -> Subject {
        Subject { user: None, workload: self.flow.workload.clone(), peer: self.flow.peer }
    }
}
