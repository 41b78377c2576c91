//! The heaviest of many names in little room: Space-Saving (Metwally, Agrawal, El Abbadi 2005). A name that is not kept
//! occurred at most as often as the least that is.

/// The heaviest names.
#[derive(Debug, Clone)]
pub(super) struct Heavy {
    room: usize,
    kept: Vec<(String, u64)>,
}

impl Heavy {
    /// Keeps so many names.
    pub(super) fn new(room: usize) -> Self {
        Self { room: room.max(1), kept: Vec::new() }
    }

    /// Counts a name. Where there is no room it takes the place, and the count, of the lightest.
    pub(super) fn add(&mut self, name: &str, more: u64) {
        if let Some((_, count)) = self.kept.iter_mut().find(|(kept, _)| kept == name) {
            *count = count.saturating_add(more);
        } else if self.kept.len() < self.room {
            self.kept.push((name.to_owned(), more));
        } else if let Some(lightest) = self.kept.iter_mut().min_by_key(|(_, count)| *count) {
            *lightest = (name.to_owned(), lightest.1.saturating_add(more));
        }
    }

    /// The heaviest first.
    pub(super) fn ranked(&self) -> Vec<(String, u64)> {
        let mut ranked = self.kept.clone();
        ranked.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_name_is_never_lost_among_many_light_ones() {
        let mut heavy = Heavy::new(8);
        for n in 0..10_000 {
            heavy.add(&format!("light-{n}"), 1);
            if n % 4 == 0 {
                heavy.add("heavy", 1);
            }
        }
        let ranked = heavy.ranked();
        assert_eq!(ranked.len(), 8);
        assert_eq!(ranked[0].0, "heavy");
        assert!(ranked[0].1 >= 2500);
    }
}
