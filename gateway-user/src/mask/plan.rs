//! What to hide, compiled once from the policy's masks: detectors, key names and JSON paths, each with its style and the
//! masks to count it under.
//!
//! Where several masks hit one value, the strictest style wins and each is counted.

use std::sync::Arc;

use super::Media;
use super::charset::Charset;
use super::find::Set;
use super::path::Paths;
use super::stream::Stream;
use crate::policy::nouns::{Detector, Mask, Style};

/// What to hide. Cheap to clone, shared by all streams.
#[derive(Debug, Clone)]
pub struct Plan(pub(super) Arc<Compiled>);

#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// Mask names, then detector names; counts are kept by index.
    pub(super) names: Vec<String>,
    pub(super) set: Set,
    rules: [Option<Rule>; Detector::ALL.len()],
    keys: Vec<Key>,
    /// Bit n: some key name has n bytes (bit 63: at least 63). Most keys of a body are passed over by this alone.
    key_lengths: u64,
    pub(super) paths: Paths,
    /// Header fields whose value is hidden.
    headers: Vec<Key>,
}

/// How a find is written and where it is counted.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) style: Style,
    pub(super) names: Vec<usize>,
}

#[derive(Debug)]
struct Key {
    lower: String,
    rule: Rule,
}

impl Plan {
    /// Hides what these masks name.
    #[must_use]
    pub fn new(masks: &[Arc<Mask>]) -> Self {
        Self(Arc::new(Compiled::new(masks, false)))
    }

    /// Hides what these masks name and everything any detector finds: what the record may hold.
    #[must_use]
    pub fn everything(masks: &[Arc<Mask>]) -> Self {
        Self(Arc::new(Compiled::new(masks, true)))
    }

    /// Whether it hides nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.set.is_empty() && !self.0.has_fields()
    }

    /// Whether it has masks by path or key name, which only a JSON body can honour.
    #[must_use]
    pub fn has_fields(&self) -> bool {
        self.0.has_fields()
    }

    /// Starts on one body of this kind.
    #[must_use]
    pub fn stream(&self, media: Media) -> Stream {
        Stream::new(self, media, &Charset::Ascii)
    }
}

impl Compiled {
    fn new(masks: &[Arc<Mask>], everything: bool) -> Self {
        let mut plan =
            Self { names: masks.iter().map(|mask| mask.name.clone()).collect(), ..Self::default() };
        for detector in Detector::ALL {
            let listed = masks.iter().enumerate().filter(|(_, mask)| mask.find.contains(&detector));
            let mut rule: Option<Rule> = None;
            for (index, mask) in listed {
                add(&mut rule, index, mask.style);
            }
            if rule.is_none() && everything {
                plan.names.push(detector.name().to_owned());
                add(&mut rule, plan.names.len() - 1, Style::Stars);
            }
            if rule.is_some() {
                plan.set = plan.set.with(detector);
            }
            plan.rules[detector as usize] = rule;
        }
        for (index, mask) in masks.iter().enumerate() {
            for name in mask.keys.iter().chain(&mask.columns) {
                plan.add_key(name, index, mask.style);
            }
            for path in &mask.paths {
                plan.paths.add(path, index, mask.style);
            }
            for name in &mask.headers {
                plan.add_header(name, index, mask.style);
            }
        }
        plan
    }

    fn add_key(&mut self, name: &str, index: usize, style: Style) {
        let lower = name.to_lowercase();
        self.key_lengths |= 1 << lower.len().min(63);
        if let Some(key) = self.keys.iter_mut().find(|key| key.lower == lower) {
            return key.rule.add(index, style);
        }
        self.keys.push(Key { lower, rule: Rule { style, names: vec![index] } });
    }

    fn add_header(&mut self, name: &str, index: usize, style: Style) {
        let lower = name.to_ascii_lowercase();
        match self.headers.iter_mut().find(|key| key.lower == lower) {
            Some(key) => key.rule.add(index, style),
            None => self.headers.push(Key { lower, rule: Rule { style, names: vec![index] } }),
        }
    }

    /// The rule for the value of this header field.
    pub(super) fn header(&self, name: &str) -> Option<&Rule> {
        self.headers.iter().find(|key| key.lower.eq_ignore_ascii_case(name)).map(|key| &key.rule)
    }

    pub(super) fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    pub(super) fn has_fields(&self) -> bool {
        !self.keys.is_empty() || !self.paths.is_empty()
    }

    pub(super) fn has_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// The rule for a name that may have parts, as forms write them: `card[number]`.
    pub(super) fn key_within(&self, name: &str) -> Option<&Rule> {
        let parts = name.split(['[', ']', '.']).map(str::trim).filter(|part| !part.is_empty());
        std::iter::once(name).chain(parts).find_map(|part| self.key(part.as_bytes()))
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The rule for a detector in the set.
    pub(super) fn rule(&self, detector: Detector) -> Option<&Rule> {
        self.rules[detector as usize].as_ref()
    }

    /// The rule for the value of a member with this name, compared without case.
    pub(super) fn key(&self, name: &[u8]) -> Option<&Rule> {
        if name.is_ascii() {
            if self.key_lengths & (1 << name.len().min(63)) == 0 {
                return None;
            }
            return self
                .keys
                .iter()
                .find(|key| key.lower.as_bytes().eq_ignore_ascii_case(name))
                .map(|key| &key.rule);
        }
        let lower = std::str::from_utf8(name).ok()?.to_lowercase();
        self.keys.iter().find(|key| key.lower == lower).map(|key| &key.rule)
    }
}

impl Rule {
    pub(super) fn add(&mut self, index: usize, style: Style) {
        self.style = strictest(self.style, style);
        if !self.names.contains(&index) {
            self.names.push(index);
        }
    }
}

fn add(rule: &mut Option<Rule>, index: usize, style: Style) {
    match rule {
        Some(rule) => rule.add(index, style),
        None => *rule = Some(Rule { style, names: vec![index] }),
    }
}

/// The style that shows less.
pub(super) fn strictest(one: Style, other: Style) -> Style {
    match (one, other) {
        (Style::KeepLast4, Style::KeepLast4) => Style::KeepLast4,
        _ => Style::Stars,
    }
}
