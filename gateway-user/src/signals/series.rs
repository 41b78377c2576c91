//! Counts per step of time, the last so many steps. Moves only forward: what comes late counts in the newest step.

use std::collections::VecDeque;

/// Counts of the last steps.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Oldest first; the last is the step under way.
    counts: VecDeque<u64>,
    steps: usize,
    /// Number of the newest step.
    step: i64,
}

impl Series {
    /// Nothing counted, beginning with this step.
    pub(super) fn new(steps: usize, step: i64) -> Self {
        Self { counts: VecDeque::from([0]), steps: steps.max(1), step }
    }

    /// Counts `more` in a step; in the newest where that one is over.
    pub(super) fn add(&mut self, step: i64, more: u64) {
        self.forward(step, |_| {});
        if let Some(last) = self.counts.back_mut() {
            *last = last.saturating_add(more);
        }
    }

    /// Goes forward to a step. `ended` gets the count of each step that is over now, oldest first; of a long silence no
    /// more empty steps than the series has.
    pub(super) fn forward(&mut self, step: i64, mut ended: impl FnMut(u64)) {
        let ahead = usize::try_from(step.saturating_sub(self.step)).unwrap_or(0);
        for _ in 0..ahead.min(self.steps) {
            ended(self.now());
            self.counts.push_back(0);
            if self.counts.len() > self.steps {
                self.counts.pop_front();
            }
        }
        self.step = self.step.max(step);
    }

    /// The count of the newest step.
    pub(super) fn now(&self) -> u64 {
        self.counts.back().copied().unwrap_or(0)
    }

    /// Number of the newest step.
    pub(super) fn step(&self) -> i64 {
        self.step
    }

    /// All steps, oldest first, exactly as many as the series has; steps before the first count are zero.
    pub(super) fn counts(&self) -> Vec<u64> {
        let missing = self.steps - self.counts.len();
        std::iter::repeat_n(0, missing).chain(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_series_is_forgotten() {
        let mut series = Series::new(3, 10);
        series.add(10, 1);
        series.add(11, 2);
        series.add(13, 4);
        assert_eq!(series.counts(), [2, 0, 4]);
    }

    #[test]
    fn what_comes_late_is_counted_all_the_same() {
        let mut series = Series::new(3, 10);
        series.add(12, 1);
        series.add(11, 1);
        assert_eq!(series.counts(), [0, 0, 2]);
    }

    #[test]
    fn a_clock_that_jumps_far_costs_no_more_than_one_round() {
        let mut series = Series::new(3, 0);
        series.add(0, 7);
        let mut ended = Vec::new();
        series.forward(i64::MAX, |count| ended.push(count));
        assert_eq!(ended, [7, 0, 0]);
        assert_eq!(series.counts(), [0, 0, 0]);
    }
}
