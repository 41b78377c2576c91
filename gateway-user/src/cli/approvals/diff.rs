//! The lines that two texts share and those that only one has: the longest common subsequence, within a bound.

/// Cells of the table of lines by lines. Beyond it what differs in the middle is shown as replaced whole.
const CELLS_MAX: usize = 4_000_000;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// In both.
    Same,
    /// Only in the old one.
    Gone,
    /// Only in the new one.
    New,
}

/// Every line of both, in order.
pub(super) fn changes(old: &[String], new: &[String]) -> Vec<(Change, String)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (before, after) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let same = |lines: &[String]| lines.iter().map(|line| (Change::Same, line.clone())).collect::<Vec<_>>();
    let mut all = same(&new[..head]);
    all.extend(middle(before, after));
    all.extend(same(&new[new.len() - tail..]));
    all
}

fn middle(old: &[String], new: &[String]) -> Vec<(Change, String)> {
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    if old.len().saturating_mul(new.len()) <= CELLS_MAX {
        // common[i][j]: lines that old[i..] and new[j..] share at most.
        let wide = new.len() + 1;
        let mut common = vec![0_u32; (old.len() + 1) * wide];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                common[i * wide + j] = if old[i] == new[j] {
                    common[(i + 1) * wide + j + 1] + 1
                } else {
                    common[(i + 1) * wide + j].max(common[i * wide + j + 1])
                };
            }
        }
        while i < old.len() && j < new.len() {
            if old[i] == new[j] {
                all.push((Change::Same, new[j].clone()));
                (i, j) = (i + 1, j + 1);
            } else if common[(i + 1) * wide + j] >= common[i * wide + j + 1] {
                all.push((Change::Gone, old[i].clone()));
                i += 1;
            } else {
                all.push((Change::New, new[j].clone()));
                j += 1;
            }
        }
    }
    all.extend(old[i..].iter().map(|line| (Change::Gone, line.clone())));
    all.extend(new[j..].iter().map(|line| (Change::New, line.clone())));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_changed_line_stands_as_gone_and_new_between_what_stayed() {
        let found = changes(&lines("a b c d"), &lines("a x c d e"));
        let shown: Vec<_> = found.iter().map(|(change, line)| (*change, line.as_str())).collect();
        use Change::{Gone, New, Same};
        assert_eq!(shown, [(Same, "a"), (Gone, "b"), (New, "x"), (Same, "c"), (Same, "d"), (New, "e")]);
    }

    #[test]
    fn texts_too_large_to_compare_are_shown_as_replaced() {
        let old: Vec<String> = (0..3000).map(|n| format!("old {n}")).collect();
        let new: Vec<String> = (0..3000).map(|n| format!("new {n}")).collect();
        assert_eq!(changes(&old, &new).len(), 6000);
    }

    proptest! {
        #[test]
        fn no_line_of_either_text_is_lost_or_made_up(
            old in proptest::collection::vec("[a-c]", 0..20),
            new in proptest::collection::vec("[a-c]", 0..20),
        ) {
            let found = changes(&old, &new);
            let of = |left: Change| -> Vec<String> {
                found.iter().filter(|(change, _)| *change != left).map(|(_, line)| line.clone()).collect()
            };
            prop_assert_eq!(of(Change::New), old);
            prop_assert_eq!(of(Change::Gone), new);
        }
    }
}
