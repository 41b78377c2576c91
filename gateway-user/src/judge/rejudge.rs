//! Recorded operations, judged again by other policy sets, at the time they happened. Asks only what the record holds in
//! full: what is masked, was never looked at or lies in a body is counted as unknown, never guessed.

mod asking;
#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde::Serialize;

pub use self::asking::{Again, Unknown};
use super::block::BLOCK_RULE;
use crate::operation::EntryId;
use crate::policy::Set;
use crate::record::RecordError;
use crate::record::entry::{Intent, Micros, Verdict};
use crate::record::operations::{Look, Looked, Recorded};

/// What the new answers are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// What was recorded.
    Recorded,
    /// What this set says.
    Set(&'a Set),
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Not before.
    pub since: Option<Micros>,
    /// Operations looked at.
    pub looked_at: usize,
    /// Different operations told apart.
    pub kinds: usize,
    /// No longer than until then.
    pub ends: Option<Instant>,
}

/// Operations that are decided differently, all of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The verdict before.
    pub before: Verdict,
    /// The verdict now.
    pub after: Verdict,
    /// How many of them were recorded.
    pub times: u64,
    /// Who asks.
    pub subject: String,
    /// The target: as recorded, else the one that is found now, else where it went.
    pub target: String,
    /// Method and path.
    pub operation: String,
    /// The rules that decided before.
    pub rules_before: Vec<String>,
    /// The rules that decide now.
    pub rules: Vec<String>,
    /// Why it is decided so now.
    pub reason: String,
    /// When the last of them was asked.
    pub last: Micros,
    /// The entry of the last of them.
    pub entry: EntryId,
}

impl Difference {
    /// Whether more is let through than before.
    #[must_use]
    pub fn widens(&self) -> bool {
        rank(self.after) < rank(self.before)
    }
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Hold => 1,
        Verdict::Deny | Verdict::Refuse => 2,
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Recorded operations looked at.
    pub looked_at: u64,
    /// Those that could be judged again.
    pub judged: u64,
    /// Of these, those that are decided as before.
    pub same: u64,
    /// Different operations among those judged.
    pub kinds: u64,
    /// Those that could not be judged, by why.
    pub unknown: BTreeMap<&'static str, u64>,
    /// Whether a bound was reached, so that older operations were not looked at.
    pub cut_short: bool,
    /// When the oldest one that was looked at was asked.
    pub oldest: Option<Micros>,
    /// What differs: what is let through first, then the most frequent.
    pub differences: Vec<Difference>,
}

/// Judges recorded operations again, one after the other.
pub struct Rejudge<'a> {
    before: Before<'a>,
    after: &'a Set,
    kinds_max: usize,
    kinds: HashMap<Kind, bool>,
    differences: HashMap<(Kind, Verdict, Verdict, Vec<String>), Difference>,
    report: Report,
}

/// What makes two operations the same for a reader: who asks for what.
type Kind = (String, String, String);

impl<'a> Rejudge<'a> {
    /// Compares with `after`.
    #[must_use]
    pub fn new(before: Before<'a>, after: &'a Set, kinds_max: usize) -> Self {
        Self {
            before,
            after,
            kinds_max,
            kinds: HashMap::new(),
            differences: HashMap::new(),
            report: Report::default(),
        }
    }

    /// Takes one more operation. `false` when it can tell no more apart.
    pub fn take(&mut self, recorded: &Recorded) -> bool {
        let again = Again::of(recorded);
        let kind = kind_of(recorded, again.as_ref().ok());
        if self.kinds.len() >= self.kinds_max && !self.kinds.contains_key(&kind) {
            return false;
        }
        self.report.looked_at += 1;
        self.report.oldest = Some(recorded.intent.at);
        let compared = again.and_then(|again| {
            let before = match self.before {
                Before::Recorded => recorded_word(recorded)?,
                Before::Set(set) => again.judge(set)?,
            };
            Ok((before, again.judge(self.after)?))
        });
        let known = self.kinds.entry(kind.clone()).or_default();
        match compared {
            Ok((before, after)) => {
                *known = true;
                self.report.judged += 1;
                if before.verdict == after.verdict {
                    self.report.same += 1;
                } else {
                    self.differ(kind, recorded, before, after);
                }
            }
            Err(unknown) => *self.report.unknown.entry(unknown.word()).or_default() += 1,
        }
        true
    }

    fn differ(&mut self, kind: Kind, recorded: &Recorded, before: Word, after: Word) {
        let (subject, target, operation) = kind.clone();
        let key = (kind, before.verdict, after.verdict, after.rules.clone());
        // They come newest first, so the first is the last that happened.
        let difference = self.differences.entry(key).or_insert_with(|| Difference {
            before: before.verdict,
            after: after.verdict,
            times: 0,
            subject,
            target,
            operation,
            rules_before: before.rules,
            rules: after.rules,
            reason: after.reason,
            last: recorded.intent.at,
            entry: recorded.intent.entry,
        });
        difference.times += 1;
    }

    /// What came of it all.
    #[must_use]
    pub fn finish(self, looked: Looked) -> Report {
        let mut report = self.report;
        report.cut_short = looked == Looked::CutShort;
        report.kinds = self.kinds.values().filter(|known| **known).count() as u64;
        report.differences = self.differences.into_values().collect();
        report.differences.sort_by(|a, b| {
            let order = |d: &Difference| (!d.widens(), std::cmp::Reverse(d.times), std::cmp::Reverse(d.last));
            order(a).cmp(&order(b)).then_with(|| a.operation.cmp(&b.operation))
        });
        report
    }
}

/// Walks recorded operations and judges each again. `walk` is [`crate::record::read::Reader::operations`] or the
/// recorder's.
///
/// # Errors
/// The record is damaged or unreadable.
pub fn rejudge(
    walk: impl FnOnce(Look, &mut dyn FnMut(Recorded) -> bool) -> Result<Looked, RecordError>,
    before: Before<'_>,
    after: &Set,
    bounds: Bounds,
) -> Result<Report, RecordError> {
    let mut work = Rejudge::new(before, after, bounds.kinds);
    let look = Look { since: bounds.since, limit: bounds.looked_at, ends: bounds.ends };
    let looked = walk(look, &mut |recorded| work.take(&recorded))?;
    Ok(work.finish(looked))
}

/// One verdict and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The verdict.
    pub verdict: Verdict,
    /// The rules that decided.
    pub rules: Vec<String>,
    /// Why.
    pub reason: String,
}

/// What the policy of its time said of an operation, where it was the policy that spoke.
fn recorded_word(recorded: &Recorded) -> Result<Word, Unknown> {
    let intent = &recorded.intent;
    if intent.rules.iter().any(|rule| rule.starts_with(BLOCK_RULE)) {
        return Err(Unknown::Blocked);
    }
    Ok(Word { verdict: spoken(intent), rules: intent.rules.clone(), reason: intent.reason.clone() })
}

/// The policy's verdict as it was recorded, also where its target was only observed.
pub(super) fn spoken(intent: &Intent) -> Verdict {
    intent.would.unwrap_or(intent.verdict)
}

fn kind_of(recorded: &Recorded, again: Option<&Again<'_>>) -> Kind {
    let intent = &recorded.intent;
    let subject = match (&intent.user, &recorded.opened.workload) {
        (Some(user), _) => user.key(),
        (None, Some(workload)) => workload.key(),
        (None, None) => format!("peer:{}", recorded.opened.peer.rsplit_once(':').map_or("", |(at, _)| at)),
    };
    let target = intent.target.clone().unwrap_or_else(|| recorded.opened.destination.clone());
    let operation = again.map_or_else(
        || intent.head.line.rsplit_once(' ').map_or_else(String::new, |(line, _)| line.to_owned()),
        Again::in_words,
    );
    (subject, target, operation)
}
