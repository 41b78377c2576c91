//! What the record's events add up to: rates, surges against a learned baseline, rules that are hit often or never.
//!
//! One tally serves the running gate (an hour in minutes) and the weekly review (days in hours). Never keeps more keys
//! than its bounds, and counts what it had to leave out. Judges nothing: signals are for people.

mod baseline;
mod breadth;
mod heavy;
mod series;
mod tally;
mod view;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub use breadth::{Broad, broad};
pub use tally::{Scale, Tally};
pub use view::{ApprovalsView, Kind, LiveView, RateView, RuleView, Surge, View};

use crate::record::entry::{Event, Micros};

/// The signals of a running gate. Clones share them.
#[derive(Clone)]
pub struct Signals(Arc<Mutex<Tally>>);

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals(..)")
    }
}

impl Signals {
    /// Nothing seen yet: the last hour, minute by minute.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self(Arc::new(Mutex::new(Tally::new(Scale::HOUR, now))))
    }

    /// Takes what is being recorded.
    pub fn saw(&self, event: &Event) {
        if let Some(surge) = self.tally().take(event) {
            tracing::warn!(
                what = %surge.kind.name(), target = %surge.target, name = %surge.name,
                subject = surge.subject.as_deref().unwrap_or("-"), count = surge.count, expected = surge.expected,
                "a surge: far more than is usual"
            );
        }
    }

    /// All of it as of now.
    #[must_use]
    pub fn view(&self, now: Micros) -> View {
        self.tally().view(now)
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
