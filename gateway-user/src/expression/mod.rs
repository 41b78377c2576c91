//! Rules by regular expression over text that arrives in pieces: what a find looks like, what may stand beside it, which
//! words must stand before it, and what it must satisfy besides.
//!
//! Refuses an expression without a bounded length, with look-around, or too large: what a rule costs per byte and how
//! much it holds back must be known before it is in force.

mod edge;
mod engine;

pub use edge::Edge;
pub use engine::{Engine, NEAR_BYTES};

use regex_automata::util::syntax;

use crate::limits::PATTERN_MATCH_BYTES_MAX;

/// One rule.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// What a find looks like.
    pub pattern: String,
    /// What may not stand beside it.
    pub edge: Edge,
    /// What it must satisfy beyond its looks.
    pub check: Option<fn(&[u8]) -> bool>,
    /// Words of which one must start at most [`NEAR_BYTES`] before it, or stand in the name of its member; none: anywhere.
    pub keywords: Vec<String>,
    /// Words right before it that make it something else.
    pub unless: Vec<String>,
    /// Figures it has at least.
    pub digits: usize,
    /// Thousandths of a bit of entropy per byte that it has at least.
    pub entropy_milli: u32,
}

/// One find: `text[start..end]`, by the rule of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// Place of the rule among those the engine was made of.
    pub rule: usize,
}

/// Says what is wrong with a pattern that an operator wrote.
///
/// # Errors
/// It is no regular expression, matches nothing or without bound, or looks around.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let hir = syntax::parse_with(pattern, &syntax_config()).map_err(|error| error.to_string())?;
    let about = hir.properties();
    if !about.look_set().is_empty() {
        return Err("it has an anchor or a word boundary (`^`, `$`, `\\b`): what stands beside a find is looked at anyway".into());
    }
    match (about.minimum_len(), about.maximum_len()) {
        (None | Some(0..=2), _) => {
            Err("it matches fewer than 3 bytes: it would hide parts of everything".into())
        }
        (_, Some(long)) if long <= PATTERN_MATCH_BYTES_MAX => Ok(()),
        _ => Err(format!(
            "it has no end, or one beyond {PATTERN_MATCH_BYTES_MAX} bytes: write `{{1,64}}` in the place of `+` and `*`"
        )),
    }
}

/// Patterns are about bytes: what they match need not be UTF-8.
fn syntax_config() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false).nest_limit(32)
}

/// Shannon entropy, in thousandths of a bit per byte.
#[must_use]
pub fn entropy_milli(text: &[u8]) -> u32 {
    let mut counts = [0u32; 256];
    for &b in text {
        counts[usize::from(b)] += 1;
    }
    let all = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    let bits: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = f64::from(count) / all;
            -share * share.log2()
        })
        .sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 8000")]
    let milli = (bits * 1000.0).round() as u32;
    milli
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_bound_is_refused_with_its_reason() {
        for (pattern, why) in [
            ("[a-z]+@x", "no end"),
            ("a{5,300}", "beyond"),
            ("ab", "fewer than 3"),
            ("(?:abcd)?", "fewer than 3"),
            ("^abcde", "anchor"),
            (r"\babcde", "anchor"),
            ("abcd(", "unclosed"),
        ] {
            let error = check_pattern(pattern).unwrap_err();
            assert!(error.contains(why), "{pattern}: {error}");
        }
        assert!(check_pattern("EMP-[0-9]{6}").is_ok());
    }
}
