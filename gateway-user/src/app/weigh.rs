//! What a change of policy widens: recorded operations and the cases of both directories, judged by both sets, after the
//! change and beside everything else. Never makes a change wait, and looks at a bounded number for a bounded time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::judge::now;
use crate::judge::rejudge::{Before, Bounds, Difference, rejudge};
use crate::limits::{WEIGHED_LOOKED_AT_MAX, WEIGHED_OPERATIONS_MAX, WEIGHING_TIMEOUT, WIDENED_TOLD_MAX};
use crate::policy::files::Files;
use crate::policy::{Answer, Question, Set, cases};
use crate::record::entry::{Event, PolicyWeighed, Verdict, Widened};
use crate::record::{RecordError, Recorder};

/// A set with its files.
pub(super) type Whole = (Arc<Set>, Arc<Files>);

/// Weighs changes, one after the other. Those that come meanwhile are weighed as one.
#[derive(Clone)]
pub(super) struct Weigher {
    recorder: Recorder,
    pending: Arc<Mutex<Option<(Whole, Whole)>>>,
    bell: Arc<Notify>,
    /// What the last change was found to widen.
    last: Arc<ArcSwapOption<PolicyWeighed>>,
}

impl Weigher {
    pub(super) fn new(recorder: Recorder, last: Arc<ArcSwapOption<PolicyWeighed>>) -> Self {
        Self { recorder, pending: Arc::default(), bell: Arc::default(), last }
    }

    /// Hands in a change.
    pub(super) fn hand(&self, before: Whole, after: Whole) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pending.take().map_or(before, |(first, _)| first);
        *pending = Some((before, after));
        drop(pending);
        self.bell.notify_one();
    }

    /// Weighs until the task is dropped.
    pub(super) async fn weigh(self) {
        loop {
            self.bell.notified().await;
            let next = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((before, after)) = next else { continue };
            let recorder = self.recorder.clone();
            let weighed = tokio::task::spawn_blocking(move || weigh(&recorder, &before, &after)).await;
            match weighed {
                Ok(Ok(weighed)) => self.tell(weighed),
                Ok(Err(error)) => {
                    tracing::error!(%error, "what a change of policy widens cannot be found out")
                }
                Err(error) => tracing::error!(%error, "what a change of policy widens cannot be found out"),
            }
        }
    }

    fn tell(&self, weighed: PolicyWeighed) {
        let count = weighed.widened.len() as u64 + weighed.widened_left_out;
        if count > 0 {
            let first: Vec<String> = weighed.widened.iter().take(5).map(in_words).collect();
            let policy = weighed.policy;
            tracing::warn!(%policy, count, "this change of policy widens what is let through: {}", first.join("; "));
        }
        if let Err(error) = self.recorder.append(Event::PolicyWeighed(weighed.clone())) {
            tracing::error!(%error, "what a change of policy widens could not be recorded");
        }
        self.last.store(Some(Arc::new(weighed)));
    }
}

fn in_words(widened: &Widened) -> String {
    let Widened { subject, target, operation, before, after, .. } = widened;
    format!("{subject} {operation} on {target}: {} -> {}", before.name(), after.name())
}

fn weigh(recorder: &Recorder, before: &Whole, after: &Whole) -> Result<PolicyWeighed, RecordError> {
    let bounds = Bounds {
        since: None,
        looked_at: WEIGHED_LOOKED_AT_MAX,
        kinds: WEIGHED_OPERATIONS_MAX,
        ends: Some(Instant::now() + WEIGHING_TIMEOUT),
    };
    let sets = (Before::Set(&before.0), &*after.0);
    let report = rejudge(|look, take| recorder.operations(look, take), sets.0, sets.1, bounds)?;
    let (cases, mut widened) = by_cases(before, after);
    widened.extend(report.differences.iter().filter(|difference| difference.widens()).map(of_recorded));
    let widened_left_out = widened.len().saturating_sub(WIDENED_TOLD_MAX) as u64;
    widened.truncate(WIDENED_TOLD_MAX);
    Ok(PolicyWeighed {
        at: now(),
        before: before.0.digest(),
        policy: after.0.digest(),
        judged: report.kinds,
        unknown: report.unknown.values().sum(),
        cases,
        cut_short: report.cut_short,
        widened,
        widened_left_out,
    })
}

fn of_recorded(difference: &Difference) -> Widened {
    Widened {
        subject: difference.subject.clone(),
        target: difference.target.clone(),
        operation: difference.operation.clone(),
        before: difference.before,
        after: difference.after,
        rules: difference.rules.clone(),
        times: difference.times,
    }
}

/// How many cases were judged by both, and those that are let through further now. A case that says something about a
/// noun which the other set does not have is judged by one set only, and counts as nothing.
fn by_cases(before: &Whole, after: &Whole) -> (u64, Vec<Widened>) {
    let (mut judged, mut widened) = (0, Vec::new());
    let both = [after, before].map(|(set, files)| cases::run(files, set).unwrap_or_default());
    let mut seen = std::collections::BTreeSet::new();
    for case in both.iter().flatten() {
        // The newer directory comes first, and says best what a case of this name means.
        if !seen.insert(&case.name) {
            continue;
        }
        let (Some((was, _, _)), Some((is, rules, who))) = (asked(case, &before.0), asked(case, &after.0))
        else {
            continue;
        };
        judged += 1;
        if rank(is) < rank(was) {
            widened.push(Widened {
                subject: who,
                target: case.sample.target.clone(),
                operation: format!("case `{}`", case.name),
                before: was,
                after: is,
                rules,
                times: 0,
            });
        }
    }
    (judged, widened)
}

fn asked(case: &cases::CaseResult, set: &Set) -> Option<(Verdict, Vec<String>, String)> {
    let (subject, operation) = case.sample.stage(set).ok()?;
    let guard = case.sample.guard.as_deref();
    let question = Question { subject: &subject, guard, operation: &operation, approved: &case.approved };
    let decision = set.decide(case.at, &question);
    let verdict = match decision.answer {
        Answer::Allow => Verdict::Allow,
        Answer::Hold { .. } => Verdict::Hold,
        Answer::Deny => Verdict::Deny,
    };
    Some((verdict, decision.rules, subject.key()))
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Hold => 1,
        Verdict::Deny | Verdict::Refuse => 2,
    }
}
