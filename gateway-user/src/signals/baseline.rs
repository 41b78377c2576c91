//! What is usual, learned as it goes: an exponentially weighted moving average and variance per step (Roberts 1959;
//! NIST/SEMATECH e-Handbook 6.3.2.4). A surge is taught only as far as its threshold, so that it does not become usual
//! at once.

/// Steps the average looks back on.
const MEMORY: f64 = 30.0;
/// Steps to learn from before anything is called a surge.
const LEARN: u32 = 10;
/// Standard deviations above the average.
const WIDTH: f64 = 4.0;
/// Fewer than this in one step are never a surge.
const FLOOR: u64 = 10;

/// The usual count of one step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Baseline {
    mean: f64,
    variance: f64,
    learned: u32,
}

impl Baseline {
    /// Learns from a step that is over.
    pub(super) fn learn(&mut self, count: u64) {
        let seen = match self.threshold() {
            Some(threshold) => as_float(count).min(threshold),
            None => as_float(count),
        };
        // While little is known each step weighs the same.
        let known = f64::from(self.learned);
        let weight = (2.0 / (MEMORY + 1.0)).max(1.0 / (known + 1.0));
        let off = seen - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        self.learned = self.learned.saturating_add(1);
    }

    /// What a step usually counts.
    pub(super) fn expected(&self) -> f64 {
        self.mean
    }

    /// Whether a count is far more than usual.
    pub(super) fn is_surge(&self, count: u64) -> bool {
        count >= FLOOR && self.threshold().is_some_and(|threshold| as_float(count) > threshold)
    }

    /// Beyond it is a surge; `None` while too little is known. Events that come by themselves vary by at least the root
    /// of their number (Poisson), whatever few steps showed.
    fn threshold(&self) -> Option<f64> {
        (self.learned >= LEARN).then(|| self.mean + WIDTH * self.variance.max(self.mean).max(1.0).sqrt())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of one step stay far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(count: u64) -> Baseline {
        let mut baseline = Baseline::default();
        (0..60).for_each(|n| baseline.learn(count + n % 3));
        baseline
    }

    #[test]
    fn a_sudden_multiple_is_a_surge_and_the_usual_is_none() {
        let baseline = usual(20);
        assert!((20.0..22.0).contains(&baseline.expected()), "{baseline:?}");
        assert!(!baseline.is_surge(30));
        assert!(baseline.is_surge(60));
    }

    #[test]
    fn nothing_is_a_surge_before_enough_is_known() {
        let mut baseline = Baseline::default();
        (0..9).for_each(|_| baseline.learn(1));
        assert!(!baseline.is_surge(1_000_000));
        baseline.learn(1);
        assert!(baseline.is_surge(1_000_000));
    }

    #[test]
    fn what_was_silent_needs_more_than_a_handful() {
        let baseline = Baseline { learned: 100, ..Baseline::default() };
        assert!(!baseline.is_surge(9));
        assert!(baseline.is_surge(10));
    }

    #[test]
    fn a_surge_that_lasts_becomes_usual_only_slowly() {
        let mut baseline = usual(20);
        baseline.learn(100_000);
        assert!(baseline.is_surge(100_000));
        assert!(baseline.expected() < 30.0, "{baseline:?}");
    }
}
