//! What signals look like to those who show them. Everything in here is masked already, and none of it is escaped.

use serde::{Deserialize, Serialize};

use crate::record::entry::Micros;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Flows accepted.
    Sessions,
    /// Operations, by verdict.
    Operations,
    /// Values hidden, by mask.
    Masked,
    /// Holds: `asked`, `released`, `refused`.
    Approvals,
}

impl Kind {
    /// Its name in tables and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Operations => "operations",
            Self::Masked => "masked",
            Self::Approvals => "approvals",
        }
    }
}

/// Far more than usual in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Surge {
    /// When it was seen.
    pub at: Micros,
    /// What surged.
    pub kind: Kind,
    /// On which target.
    pub target: String,
    /// The verdict, mask or word.
    pub name: String,
    /// Who made most of it.
    pub subject: Option<String>,
    /// How many in that step so far; the whole step once it is over.
    pub count: u64,
    /// How many are usual.
    pub expected: f64,
}

/// One rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateView {
    /// What is counted.
    pub kind: Kind,
    /// On which target.
    pub target: String,
    /// The verdict, mask or word.
    pub name: String,
    /// Counts per step, oldest first; the last step is under way.
    pub counts: Vec<u64>,
    /// How many are usual in one step.
    pub expected: f64,
    /// Whether the step under way is far above that.
    pub surging: bool,
    /// Who made most of it, the heaviest first.
    pub subjects: Vec<(String, u64)>,
}

/// How often a rule decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// `file#id`.
    pub rule: String,
    /// Operations it allowed.
    pub allowed: u64,
    /// Operations it held.
    pub held: u64,
    /// Operations it denied.
    pub denied: u64,
    /// When it last decided.
    pub last: Micros,
    /// On whom, the most often first.
    pub subjects: Vec<(String, u64)>,
}

/// A session that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveView {
    /// Its id.
    pub session: String,
    /// When it was opened.
    pub opened: Micros,
    /// From where.
    pub peer: String,
    /// The user, else the workload, else nothing.
    pub who: Option<String>,
    /// The target, where one is known.
    pub target: Option<String>,
    /// Operations so far.
    pub operations: u64,
    /// The last verdict.
    pub verdict: Option<String>,
    /// The last request line.
    pub line: Option<String>,
}

/// How holds went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalsView {
    /// Held.
    pub asked: u64,
    /// Released.
    pub released: u64,
    /// Rejected, expired or withdrawn.
    pub refused: u64,
    /// Of the last ended ones: half of them ended within so many seconds.
    pub median_seconds: Option<u64>,
    /// Of the last ended ones: 95 of 100 ended within so many seconds.
    pub slow_seconds: Option<u64>,
    /// Who votes, and how often.
    pub voters: Vec<(String, u64)>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// From when on events were seen.
    pub since: Micros,
    /// As of when this is.
    pub now: Micros,
    /// Seconds of one step.
    pub step_seconds: u64,
    /// Sessions that run, newest first.
    pub live: Vec<LiveView>,
    /// Rates, by kind, target and name.
    pub rates: Vec<RateView>,
    /// Holds.
    pub approvals: ApprovalsView,
    /// Rules that decided, the most often first.
    pub rules: Vec<RuleView>,
    /// What was held: target and operation.
    pub held: Vec<(String, String)>,
    /// Surges, newest first.
    pub surges: Vec<Surge>,
    /// Events that could not be counted under their own name, for want of room.
    pub left_out: u64,
}

impl View {
    /// The sum of one kind, by name, over all targets.
    #[must_use]
    pub fn total(&self, kind: Kind, name: &str) -> u64 {
        self.rates
            .iter()
            .filter(|rate| rate.kind == kind && rate.name == name)
            .flat_map(|rate| &rate.counts)
            .sum()
    }

    /// Counts per step of one kind and name, over all targets, oldest first.
    #[must_use]
    pub fn steps(&self, kind: Kind, name: Option<&str>) -> Vec<u64> {
        let mut sum = Vec::new();
        for rate in self.rates.iter().filter(|rate| rate.kind == kind) {
            if name.is_some_and(|name| name != rate.name) {
                continue;
            }
            sum.resize(sum.len().max(rate.counts.len()), 0);
            sum.iter_mut().zip(&rate.counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }
}
