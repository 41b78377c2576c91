//! Counts events. Pure: no clock of its own, no I/O, so that the same events give the same signals.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::baseline::Baseline;
use super::heavy::Heavy;
use super::series::Series;
use super::view::{ApprovalsView, Kind, LiveView, RateView, RuleView, Surge, View};
use crate::limits::{
    CONNECTIONS_MAX, SIGNAL_HOLDS_MAX, SIGNAL_KEYS_MAX, SIGNAL_SUBJECTS_MAX, SIGNAL_SURGES_MAX,
};
use crate::operation::{EntryId, SessionId, User};
use crate::record::entry::{Event, Intent, Micros, Verdict};

/// What stands for a target or subject that nobody knows.
const UNKNOWN: &str = "-";

/// How long a step is, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Microseconds of one step.
    pub step: Micros,
    /// Steps kept.
    pub steps: usize,
}

impl Scale {
    /// An hour, minute by minute.
    pub const HOUR: Self = Self { step: 60_000_000, steps: 60 };

    /// A stretch of this many microseconds in at most so many steps, each a whole number of minutes.
    #[must_use]
    pub fn over(length: Micros, most: usize) -> Self {
        const MINUTE: Micros = 60_000_000;
        let most = Micros::try_from(most.max(1)).unwrap_or(Micros::MAX);
        let minutes = (length.max(MINUTE) / MINUTE).div_euclid(most) + 1;
        let step = minutes * MINUTE;
        Self { step, steps: usize::try_from(length.max(0) / step + 1).unwrap_or(1) }
    }
}

/// Counts of everything.
#[derive(Debug)]
pub struct Tally {
    scale: Scale,
    since: Micros,
    open: HashMap<EntryId, Open>,
    live: BTreeMap<SessionId, LiveView>,
    rates: BTreeMap<(Kind, String, String), Track>,
    rules: BTreeMap<String, Usage>,
    /// Target and operation of what was held.
    held: BTreeSet<(String, String)>,
    /// Seconds that the last holds took.
    holds: VecDeque<u64>,
    asked: u64,
    released: u64,
    refused: u64,
    voters: Heavy,
    surges: VecDeque<Surge>,
    left_out: u64,
}

/// An operation that has not ended.
#[derive(Debug)]
struct Open {
    target: String,
    subject: String,
    held: Option<Micros>,
}

#[derive(Debug)]
struct Track {
    series: Series,
    baseline: Baseline,
    subjects: Heavy,
    /// Who made the step under way.
    recent: Heavy,
    /// The step whose surge has been told.
    told: Option<i64>,
}

#[derive(Debug)]
struct Usage {
    allowed: u64,
    held: u64,
    denied: u64,
    last: Micros,
    subjects: Heavy,
}

impl Tally {
    /// Nothing counted, from this moment on.
    #[must_use]
    pub fn new(scale: Scale, since: Micros) -> Self {
        Self {
            scale,
            since,
            open: HashMap::new(),
            live: BTreeMap::new(),
            rates: BTreeMap::new(),
            rules: BTreeMap::new(),
            held: BTreeSet::new(),
            holds: VecDeque::new(),
            asked: 0,
            released: 0,
            refused: 0,
            voters: Heavy::new(SIGNAL_SUBJECTS_MAX),
            surges: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Counts one event; gives the surges that it was the first to show.
    pub fn take(&mut self, event: &Event) -> Vec<Surge> {
        match event {
            Event::SessionOpened(opened) => {
                let who = opened.workload.as_ref().map(crate::operation::Workload::key);
                let target = opened.target.clone();
                let live = LiveView {
                    session: opened.session.to_string(),
                    opened: opened.at,
                    peer: opened.peer.clone(),
                    who: who.clone(),
                    target: target.clone(),
                    operations: 0,
                    verdict: None,
                    line: None,
                };
                if self.live.len() < CONNECTIONS_MAX {
                    self.live.insert(opened.session, live);
                }
                let target = target.unwrap_or_else(|| UNKNOWN.to_owned());
                let key = (Kind::Sessions, target.as_str(), "opened");
                self.count(opened.at, key, who.as_deref(), 1).into_iter().collect()
            }
            Event::Intent(intent) => self.intent(intent),
            Event::Decided(decided) => {
                let (target, subject, since) = match self.open.get_mut(&decided.entry) {
                    Some(open) => (open.target.clone(), open.subject.clone(), open.held.take()),
                    None => (UNKNOWN.to_owned(), UNKNOWN.to_owned(), None),
                };
                if let Some(since) = since {
                    self.hold_took(decided.at.saturating_sub(since));
                }
                let released = decided.verdict == Verdict::Allow;
                let word = if released { "released" } else { "refused" };
                if released {
                    self.released += 1;
                } else {
                    self.refused += 1;
                }
                let key = (Kind::Approvals, target.as_str(), word);
                self.count(decided.at, key, Some(&subject), 1).into_iter().collect()
            }
            Event::EntryClosed(closed) => {
                let open = self.open.remove(&closed.entry);
                let target = open.as_ref().map_or(UNKNOWN, |open| open.target.as_str()).to_owned();
                let subject = open.map(|open| open.subject);
                let mut count = |(mask, values): &(String, u64)| {
                    self.count(closed.at, (Kind::Masked, &target, mask), subject.as_deref(), *values)
                };
                closed.masks.iter().filter_map(&mut count).collect()
            }
            Event::SessionClosed(closed) => {
                self.live.remove(&closed.session);
                Vec::new()
            }
            Event::Voted(voted) => {
                self.voters.add(&voted.person, 1);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn intent(&mut self, intent: &Intent) -> Vec<Surge> {
        let subject = intent.user.as_ref().map(User::key).or_else(|| intent.workload.clone());
        let subject = subject.unwrap_or_else(|| UNKNOWN.to_owned());
        let target = intent.target.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        if let Some(live) = self.live.get_mut(&intent.session) {
            live.operations += 1;
            live.verdict = Some(intent.verdict.name().to_owned());
            live.line = Some(intent.head.line.clone());
            live.target = intent.target.clone().or(live.target.take());
            live.who = Some(subject.clone());
        }
        for rule in &intent.rules {
            self.rule(rule, intent, &subject);
        }
        let held = (intent.verdict == Verdict::Hold).then_some(intent.at);
        let mut surges = Vec::new();
        if held.is_some() {
            self.asked += 1;
            let kinds = if intent.operations.is_empty() {
                std::slice::from_ref(&intent.kind)
            } else {
                &intent.operations
            };
            if self.held.len() < SIGNAL_KEYS_MAX {
                self.held.extend(kinds.iter().map(|kind| (target.clone(), kind.clone())));
            }
            surges.extend(self.count(intent.at, (Kind::Approvals, &target, "asked"), Some(&subject), 1));
        }
        let verdict = intent.verdict.name();
        surges.extend(self.count(intent.at, (Kind::Operations, &target, verdict), Some(&subject), 1));
        // As many as there can be, held ones of clients that have left included.
        if self.open.len() < 2 * CONNECTIONS_MAX {
            self.open.insert(intent.entry, Open { target, subject, held });
        }
        surges
    }

    fn rule(&mut self, rule: &str, intent: &Intent, subject: &str) {
        if !self.rules.contains_key(rule) && self.rules.len() >= SIGNAL_KEYS_MAX {
            self.left_out += 1;
            return;
        }
        let usage = self.rules.entry(rule.to_owned()).or_insert_with(|| Usage {
            allowed: 0,
            held: 0,
            denied: 0,
            last: intent.at,
            subjects: Heavy::new(SIGNAL_SUBJECTS_MAX),
        });
        match intent.verdict {
            Verdict::Allow => usage.allowed += 1,
            Verdict::Hold => usage.held += 1,
            Verdict::Deny | Verdict::Refuse => usage.denied += 1,
        }
        usage.last = usage.last.max(intent.at);
        usage.subjects.add(subject, 1);
    }

    fn hold_took(&mut self, length: Micros) {
        if self.holds.len() >= SIGNAL_HOLDS_MAX {
            self.holds.pop_front();
        }
        self.holds.push_back(u64::try_from(length / 1_000_000).unwrap_or(0));
    }

    fn count(
        &mut self,
        at: Micros,
        key: (Kind, &str, &str),
        subject: Option<&str>,
        more: u64,
    ) -> Option<Surge> {
        let (kind, target, name) = key;
        let key = (kind, target.to_owned(), name.to_owned());
        let (step, scale, first) = (at.div_euclid(self.scale.step), self.scale, self.since);
        if !self.rates.contains_key(&key) && self.rates.len() >= SIGNAL_KEYS_MAX {
            self.left_out += 1;
            return None;
        }
        let track = self.rates.entry(key).or_insert_with(|| Track::new(scale, first.div_euclid(scale.step)));
        let surge = track.add(step, subject, more).then(|| Surge {
            at,
            kind,
            target: target.to_owned(),
            name: name.to_owned(),
            subject: track.recent.ranked().into_iter().next().map(|(name, _)| name),
            count: track.series.now(),
            expected: track.baseline.expected(),
        });
        match &surge {
            Some(surge) => {
                if self.surges.len() >= SIGNAL_SURGES_MAX {
                    self.surges.pop_front();
                }
                self.surges.push_back(surge.clone());
            }
            None if track.told == Some(step) => {
                let told = self.surges.iter_mut().rev();
                let mut same =
                    told.filter(|told| (told.kind, &*told.target, &*told.name) == (kind, target, name));
                if let Some(told) = same.next() {
                    told.count = track.series.now();
                }
            }
            None => {}
        }
        surge
    }

    /// How many surges were noticed from then on, of the last ones that are kept.
    pub(super) fn surges_since(&self, at: Micros) -> u64 {
        self.surges.iter().filter(|surge| surge.at >= at).count() as u64
    }

    /// All of it as of now.
    #[must_use]
    pub fn view(&mut self, now: Micros) -> View {
        let step = now.div_euclid(self.scale.step);
        let rates = self.rates.iter_mut().map(|((kind, target, name), track)| {
            track.forward(step);
            RateView {
                kind: *kind,
                target: target.clone(),
                name: name.clone(),
                counts: track.series.counts(),
                expected: track.baseline.expected(),
                surging: track.baseline.is_surge(track.series.now()),
                subjects: track.subjects.ranked(),
            }
        });
        let rates = rates.collect();
        let mut live: Vec<_> = self.live.values().cloned().collect();
        live.sort_by_key(|live| std::cmp::Reverse(live.opened));
        View {
            since: self.since,
            now,
            step_seconds: u64::try_from(self.scale.step / 1_000_000).unwrap_or(0),
            live,
            rates,
            approvals: self.approvals(),
            rules: self.rules(),
            held: self.held.iter().cloned().collect(),
            surges: self.surges.iter().rev().cloned().collect(),
            left_out: self.left_out,
        }
    }

    fn approvals(&self) -> ApprovalsView {
        let mut took: Vec<u64> = self.holds.iter().copied().collect();
        took.sort_unstable();
        let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied();
        ApprovalsView {
            asked: self.asked,
            released: self.released,
            refused: self.refused,
            median_seconds: at(50),
            slow_seconds: at(95),
            voters: self.voters.ranked(),
        }
    }

    fn rules(&self) -> Vec<RuleView> {
        let view = |(rule, usage): (&String, &Usage)| RuleView {
            rule: rule.clone(),
            allowed: usage.allowed,
            held: usage.held,
            denied: usage.denied,
            last: usage.last,
            subjects: usage.subjects.ranked(),
        };
        let mut rules: Vec<_> = self.rules.iter().map(view).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.allowed + rule.held + rule.denied));
        rules
    }
}

impl Track {
    fn new(scale: Scale, first: i64) -> Self {
        Self {
            series: Series::new(scale.steps, first),
            baseline: Baseline::default(),
            subjects: Heavy::new(SIGNAL_SUBJECTS_MAX),
            recent: Heavy::new(SIGNAL_SUBJECTS_MAX),
            told: None,
        }
    }

    fn forward(&mut self, step: i64) {
        if step > self.series.step() {
            self.recent = Heavy::new(SIGNAL_SUBJECTS_MAX);
        }
        let baseline = &mut self.baseline;
        self.series.forward(step, |count| baseline.learn(count));
    }

    /// Counts; `true` once per step, where it has become a surge.
    fn add(&mut self, step: i64, subject: Option<&str>, more: u64) -> bool {
        self.forward(step);
        self.series.add(step, more);
        if let Some(subject) = subject {
            self.subjects.add(subject, more);
            self.recent.add(subject, more);
        }
        let step = self.series.step();
        if self.told == Some(step) || !self.baseline.is_surge(self.series.now()) {
            return false;
        }
        self.told = Some(step);
        true
    }
}

#[cfg(test)]
mod tests;
