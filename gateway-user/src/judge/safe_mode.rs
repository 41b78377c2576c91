//! An operation that needs approval while nobody who could give it can be reached. Refused, unless its approval turns to
//! the safe mode, and then allowed only where two sets of rules both say so: those in force without that approval, and
//! those of the safe mode. So the safe mode can never allow what the others deny.

use std::sync::Arc;

use super::{Case, Judge};
use crate::policy::nouns::{Mask, OnUnavailable};
use crate::policy::{Answer, Decision, Question};

impl Judge {
    /// `None`: its approvers can be asked. Else the decision that allows it, or why it is refused.
    pub(super) fn without_approvers(
        &self,
        case: &Case,
        approvals: &[String],
    ) -> Option<Result<Decision, String>> {
        let down: Vec<String> =
            approvals.iter().filter(|name| self.bench.post.is_unavailable(name)).cloned().collect();
        if down.is_empty() {
            return None;
        }
        let names = down.join(", ");
        let gone = format!("no channel to the approvers of {names} works");
        let turns = |name: &String| {
            case.set.approval(name).is_some_and(|approval| approval.on_unavailable == OnUnavailable::SafeMode)
        };
        let Some(safe) = case.set.safe_mode().filter(|_| down.iter().all(turns)) else {
            tracing::warn!(target = %case.target.name, %names, "refused: approvers cannot be reached");
            return Some(Err(gone));
        };
        let at = jiff::Timestamp::now();
        let live = self.decide(at, case, &down);
        let asked = Question {
            subject: &case.subject,
            guard: self.flow.guard.as_deref(),
            operation: &case.operation,
            approved: &[],
        };
        let second = safe.recall(at, &asked);
        let decision = both(&live, &second, &gone);
        match &decision {
            Ok(_) => {
                tracing::warn!(target = %case.target.name, %names, "SAFE MODE: allowed without approval")
            }
            Err(why) => tracing::warn!(target = %case.target.name, %why, "SAFE MODE: refused"),
        }
        Some(decision)
    }
}

/// Allowed by both, with every mask that either leaves; or why not.
fn both(live: &Decision, safe: &Decision, gone: &str) -> Result<Decision, String> {
    let allows = |decision: &Decision| decision.answer == Answer::Allow;
    if !allows(live) {
        return Err(format!("{gone}; and without that approval: {}", live.reason));
    }
    if !allows(safe) {
        return Err(format!("{gone}; and in safe mode: {}", safe.reason));
    }
    let mut masks: Vec<Arc<Mask>> = live.masks.clone();
    // Whole masks are compared: the other set may hide more under the same name.
    masks.extend(safe.masks.iter().filter(|mask| !live.masks.contains(mask)).cloned());
    let rules = live.rules.iter().chain(&safe.rules).cloned().collect();
    Ok(Decision {
        rules,
        masks,
        reason: format!("SAFE MODE: {gone}; {}; in safe mode: {}", live.reason, safe.reason),
        ..live.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Cause;

    fn decision(answer: Answer, masks: &[&str]) -> Decision {
        let mask = |name: &&str| {
            Arc::new(Mask {
                name: (*name).to_owned(),
                targets: Vec::new(),
                find: Vec::new(),
                paths: Vec::new(),
                keys: Vec::new(),
                declared: Vec::new(),
                columns: Vec::new(),
                headers: Vec::new(),
                on: crate::policy::nouns::On::Response,
                style: crate::policy::nouns::Style::Stars,
            })
        };
        Decision {
            answer,
            cause: Cause::Rule,
            operations: Vec::new(),
            rules: Vec::new(),
            reason: "because".into(),
            shown: None,
            masks: masks.iter().map(mask).collect(),
        }
    }

    #[test]
    fn safe_mode_allows_only_what_both_sets_allow() {
        let hold = || Answer::Hold { approvals: vec!["other".into()] };
        for (live, safe) in [
            (Answer::Deny, Answer::Allow),
            (Answer::Allow, Answer::Deny),
            (hold(), Answer::Allow),
            (Answer::Allow, hold()),
            (Answer::Deny, Answer::Deny),
        ] {
            assert!(both(&decision(live, &[]), &decision(safe, &[]), "gone").is_err());
        }
        assert!(both(&decision(Answer::Allow, &[]), &decision(Answer::Allow, &[]), "gone").is_ok());
    }

    #[test]
    fn safe_mode_leaves_every_mask_that_either_set_leaves() {
        let (live, safe) = (decision(Answer::Allow, &["a", "b"]), decision(Answer::Allow, &["b", "c"]));
        let masks = both(&live, &safe, "gone").unwrap().masks;
        assert_eq!(masks.iter().map(|mask| mask.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_mask_of_the_safe_mode_that_hides_more_under_the_same_name_stays() {
        let live = decision(Answer::Allow, &["a"]);
        let mut safe = decision(Answer::Allow, &["a"]);
        let stricter = Mask { keys: vec!["salary".into()], ..(*safe.masks[0]).clone() };
        safe.masks = vec![Arc::new(stricter.clone())];
        let masks = both(&live, &safe, "gone").unwrap().masks;
        assert_eq!(masks.len(), 2);
        assert!(masks.iter().any(|mask| **mask == stricter));
    }
}
