//! Rules by regular expression: those the program brings (`rules/values.toml`) and those a policy directory declares.
//!
//! Built-in data that cannot be read is a defect that a test finds, not something to run without.

use std::sync::LazyLock;

use serde::Deserialize;

use super::Slot;
use super::check;
use crate::expression::{Edge, Rule};
use crate::policy::nouns::{Detector, DetectorNoun};

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) slot: Slot,
    /// Empty for what a policy directory declares: that goes by its slot.
    pub(super) name: &'static str,
    pub(super) rule: Rule,
}

/// The rules of the program.
pub(super) static BUILT_IN: LazyLock<Vec<Pattern>> =
    LazyLock::new(|| file().rule.into_iter().map(Pattern::of).collect());

fn file() -> File {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
    toml::from_str(include_str!("../../../rules/values.toml")).expect("rules/values.toml is sound")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "a statement for readers; the key must stand in the file")]
    licence: String,
    rule: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    detector: String,
    name: String,
    pattern: String,
    check: Option<String>,
    #[serde(default)]
    edge: Edge,
    digits: usize,
    #[serde(default)]
    keywords: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    #[expect(dead_code, reason = "where the facts come from; a rule without it is refused")]
    source: String,
    #[serde(rename = "match")]
    #[cfg_attr(not(test), expect(dead_code, reason = "examples: the tests run them"))]
    matching: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "examples: the tests run them"))]
    pass: Vec<String>,
}

impl Pattern {
    fn of(rule: Written) -> Self {
        let detector = Detector::ALL.into_iter().find(|detector| detector.name() == rule.detector);
        #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
        let detector = detector.expect("rules/values.toml names detectors");
        #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
        let check = rule.check.map(|name| check::named(&name).expect("rules/values.toml names checks"));
        Self {
            slot: detector.into(),
            name: rule.name.leak(),
            rule: Rule {
                pattern: rule.pattern,
                edge: rule.edge,
                check,
                keywords: rule.keywords,
                unless: rule.unless,
                digits: rule.digits,
                entropy_milli: 0,
            },
        }
    }

    /// A detector of a policy directory, in a slot of its own.
    pub(super) fn declared(noun: &DetectorNoun, slot: Slot) -> Self {
        Self { slot, name: "", rule: noun.rule() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Finder, Set};
    use super::*;

    #[test]
    fn every_rule_finds_what_it_says_and_nothing_in_what_it_passes() {
        for rule in file().rule {
            assert!(
                crate::expression::check_pattern(&rule.pattern).is_ok(),
                "{}: {:?}",
                rule.name,
                crate::expression::check_pattern(&rule.pattern)
            );
            assert!(!rule.matching.is_empty() && !rule.pass.is_empty(), "{}", rule.name);
            let (matching, pass, name) = (rule.matching.clone(), rule.pass.clone(), rule.name.clone());
            let pattern = Pattern::of(rule);
            let set = Set::default().with_slot(pattern.slot);
            let finder = Finder::of(vec![pattern]).unwrap();
            let mut spans = Vec::new();
            for text in matching {
                finder.find(text.as_bytes(), 0, set, false, b"", &mut spans);
                assert_eq!(
                    spans.iter().filter(|span| span.rule == name).count().min(1),
                    1,
                    "{name} in {text:?}"
                );
            }
            for text in pass {
                finder.find(text.as_bytes(), 0, set, false, b"", &mut spans);
                assert!(!spans.iter().any(|span| span.rule == name), "{name} in {text:?}: {spans:?}");
            }
        }
    }
}
