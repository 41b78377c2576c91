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

use tokio::sync::mpsc;

use crate::limits::SIGNAL_SURGES_MAX;
use crate::record::entry::{Event, Micros};

/// The signals of a running gate. Clones share them.
#[derive(Clone)]
pub struct Signals(Arc<Mutex<Tally>>, mpsc::Sender<Surge>);

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals(..)")
    }
}

impl Signals {
    /// Nothing seen yet: the last hour, minute by minute. The other end gives each surge as it is noticed; at most
    /// [`SIGNAL_SURGES_MAX`] wait there, and the view has the rest.
    #[must_use]
    pub fn new(now: Micros) -> (Self, mpsc::Receiver<Surge>) {
        let (told, surges) = mpsc::channel(SIGNAL_SURGES_MAX);
        (Self(Arc::new(Mutex::new(Tally::new(Scale::HOUR, now))), told), surges)
    }

    /// Takes what is being recorded. Never waits.
    pub fn saw(&self, event: &Event) {
        for surge in self.tally().take(event) {
            // Full or over: the surge still stands in the view and in the metric.
            let _ = self.1.try_send(surge);
        }
    }

    /// How many surges were noticed within the hour before `now`.
    #[must_use]
    pub fn surges(&self, now: Micros) -> u64 {
        const HOUR: Micros = 3_600_000_000;
        self.tally().surges_since(now.saturating_sub(HOUR))
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
