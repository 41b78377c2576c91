//! What to hide, compiled once from the policy's masks: detectors, key names and JSON paths, each with its style and the
//! masks to count it under.
//!
//! Where several masks hit one value, the strictest style wins and each is counted.

use std::sync::Arc;

use super::Media;
use super::charset::Charset;
use super::find::{Finder, SLOTS, Set, Slot, Span};
use super::hash::HashKey;
use super::look::{Look, strictest};
use super::path::Paths;
use super::stream::Stream;
use crate::expression::Edge;
use crate::policy::nouns::{Detector, DetectorNoun, Mask, Style};

/// What to hide. Cheap to clone, shared by all streams.
#[derive(Debug, Clone)]
pub struct Plan(pub(super) Arc<Compiled>);

/// One find: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Find<'p> {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// The detector by its name in policy files.
    pub detector: &'p str,
    /// The rule of the detector; empty where it has but one.
    pub rule: &'p str,
}

#[derive(Debug)]
pub(super) struct Compiled {
    /// Mask names, then detector names; counts are kept by index.
    pub(super) names: Vec<String>,
    pub(super) set: Set,
    /// Those that know exactly what they find.
    pub(super) exact: Set,
    finder: Finder,
    /// By the number of the detector.
    rules: Vec<Option<Rule>>,
    declared: Vec<Arc<DetectorNoun>>,
    /// Without one, what should be hashed is starred.
    pub(super) hash_key: Option<HashKey>,
    /// What approvers read in the place of what a name hides; empty where styles are written.
    labels: Vec<String>,
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
    pub(super) look: Look,
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
        Self(Arc::new(Compiled::new(masks, None)))
    }

    /// Hides what these masks name, what any detector finds that the record always hides
    /// ([`Detector::is_always_recorded_hidden`]), and what these declared ones find: what the record may hold.
    #[must_use]
    pub fn everything(masks: &[Arc<Mask>], declared: &[Arc<DetectorNoun>]) -> Self {
        Self(Arc::new(Compiled::new(masks, Some(declared))))
    }

    /// The same as [`Plan::everything`] for people who decide: what is hidden reads `[masked: NAME]`, by the mask or else
    /// the detector, whatever the style.
    #[must_use]
    pub fn labelled(masks: &[Arc<Mask>], declared: &[Arc<DetectorNoun>]) -> Self {
        let mut compiled = Compiled::new(masks, Some(declared));
        compiled.labels = compiled.names.iter().map(|name| label(name)).collect();
        Self(Arc::new(compiled))
    }

    /// The same with the key of keyed hashes. A plan that streams already keeps the one it has.
    #[must_use]
    pub fn with_key(mut self, key: Option<&HashKey>) -> Self {
        if let Some(compiled) = Arc::get_mut(&mut self.0) {
            compiled.hash_key = key.cloned();
        }
        self
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

    /// What its detectors find in a text, for people who try them out. Escapes are not read.
    #[must_use]
    pub fn finds(&self, text: &[u8]) -> Vec<Find<'_>> {
        let mut spans = Vec::new();
        self.0.find(text, 0, self.0.set, false, b"", &mut spans);
        let find = |span: &Span| Find {
            start: span.start,
            end: span.end,
            detector: self.0.name_of(span.detector.index()),
            rule: span.rule,
        };
        let mut finds: Vec<Find<'_>> = Vec::new();
        for find in spans.iter().map(find) {
            // What several rules of a detector find of one value is one find.
            let inside = |known: &Find<'_>| known.detector == find.detector && known.end >= find.end;
            if !finds.iter().rev().take(8).any(inside) {
                finds.push(find);
            }
        }
        finds
    }

    /// Starts on one body of this kind.
    #[must_use]
    pub fn stream(&self, media: Media) -> Stream {
        Stream::new(self, media, &Charset::Ascii)
    }
}

impl Compiled {
    fn new(masks: &[Arc<Mask>], everything: Option<&[Arc<DetectorNoun>]>) -> Self {
        let mut plan = Self {
            names: masks.iter().map(|mask| mask.name.clone()).collect(),
            set: Set::default(),
            exact: Set::default(),
            finder: Finder::default(),
            rules: vec![None; SLOTS],
            declared: declared_by(masks, everything.unwrap_or_default()),
            hash_key: None,
            labels: Vec::new(),
            keys: Vec::new(),
            key_lengths: 0,
            paths: Paths::default(),
            headers: Vec::new(),
        };
        for detector in Detector::ALL {
            let always = everything.is_some() && detector.is_always_recorded_hidden();
            let named = |mask: &Mask| mask.find.contains(&detector);
            plan.add_detector(detector.into(), masks, named, always.then(|| detector.name()));
        }
        for (n, noun) in plan.declared.clone().iter().enumerate() {
            let Some(slot) = Slot::declared(n) else { break };
            let named = |mask: &Mask| mask.declared.contains(noun);
            plan.add_detector(slot, masks, named, everything.map(|_| noun.name.as_str()));
            if noun.edge == Edge::Free {
                plan.exact = plan.exact.with_slot(slot);
            }
        }
        plan.finder = Finder::new(plan.set, &plan.declared);
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

    /// A detector, under the masks that name it, or under its own name if it is `always` on.
    fn add_detector(
        &mut self,
        slot: Slot,
        masks: &[Arc<Mask>],
        named: impl Fn(&Mask) -> bool,
        always: Option<&str>,
    ) {
        let mut rule: Option<Rule> = None;
        for (index, mask) in masks.iter().enumerate().filter(|(_, mask)| named(mask)) {
            add(&mut rule, index, mask.style);
        }
        if let (None, Some(own)) = (&rule, always) {
            self.names.push(own.to_owned());
            add(&mut rule, self.names.len() - 1, Style::Stars);
        }
        if rule.is_some() {
            self.set = self.set.with_slot(slot);
        }
        self.rules[slot.index()] = rule;
    }

    /// Finds in text what its detectors find; see [`Finder::find`].
    pub(super) fn find(
        &self,
        text: &[u8],
        from: usize,
        set: Set,
        more: bool,
        name: &[u8],
        spans: &mut Vec<Span>,
    ) -> usize {
        self.finder.find(text, from, set, more, name, spans)
    }

    /// Digits without which no rule by expression finds anything.
    pub(super) fn least_digits(&self) -> usize {
        self.finder.least_digits()
    }

    /// The name of the detector of this number ([`Slot::index`]).
    pub(super) fn name_of(&self, index: usize) -> &str {
        let is = |slot: Slot| slot.index() == index;
        if let Some(detector) = Detector::ALL.into_iter().find(|&detector| is(detector.into())) {
            return detector.name();
        }
        let mut declared = self.declared.iter().enumerate();
        let found = declared.find(|(n, _)| Slot::declared(*n).is_some_and(is));
        found.map_or("", |(_, noun)| noun.name.as_str())
    }

    fn add_key(&mut self, name: &str, index: usize, style: Style) {
        let lower = name.to_lowercase();
        self.key_lengths |= 1 << lower.len().min(63);
        if let Some(key) = self.keys.iter_mut().find(|key| key.lower == lower) {
            return key.rule.add(index, style);
        }
        self.keys.push(Key { lower, rule: Rule::new(index, style) });
    }

    fn add_header(&mut self, name: &str, index: usize, style: Style) {
        let lower = name.to_ascii_lowercase();
        match self.headers.iter_mut().find(|key| key.lower == lower) {
            Some(key) => key.rule.add(index, style),
            None => self.headers.push(Key { lower, rule: Rule::new(index, style) }),
        }
    }

    /// The rule for the value of this header field.
    pub(super) fn header(&self, name: &str) -> Option<&Rule> {
        self.headers.iter().find(|key| key.lower.eq_ignore_ascii_case(name)).map(|key| &key.rule)
    }

    pub(super) fn has_headers(&self) -> bool {
        !self.headers.is_empty() || !self.exact.is_empty()
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

    /// Whether people are told whose work a hidden value is. Such a text is read, never parsed.
    pub(super) fn is_labelled(&self) -> bool {
        !self.labels.is_empty()
    }

    /// What stands for a value where people are told whose work it is.
    pub(super) fn label(&self, look: Look) -> Option<&str> {
        self.labels.get(look.name).map(String::as_str)
    }

    /// The rule for a detector in the set.
    pub(super) fn rule(&self, detector: impl Into<Slot>) -> Option<&Rule> {
        self.rules.get(detector.into().index())?.as_ref()
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
    pub(super) fn new(index: usize, style: Style) -> Self {
        Self { look: Look { style, name: index }, names: vec![index] }
    }

    pub(super) fn add(&mut self, index: usize, style: Style) {
        self.look = strictest(self.look, Look { style, name: index });
        if !self.names.contains(&index) {
            self.names.push(index);
        }
    }
}

/// Declared detectors in use: those that the masks name, and those given.
fn declared_by(masks: &[Arc<Mask>], given: &[Arc<DetectorNoun>]) -> Vec<Arc<DetectorNoun>> {
    let mut all: Vec<Arc<DetectorNoun>> = Vec::new();
    for noun in masks.iter().flat_map(|mask| &mask.declared).chain(given) {
        if !all.contains(noun) {
            all.push(Arc::clone(noun));
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Bytes of a name in a label; longer ones are cut.
const LABEL_NAME_BYTES_MAX: usize = 64;

/// A label that stays one word of plain text in every kind of body.
fn label(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("[masked: {}]", name.chars().take(LABEL_NAME_BYTES_MAX).map(plain).collect::<String>())
}

fn add(rule: &mut Option<Rule>, index: usize, style: Style) {
    match rule {
        Some(rule) => rule.add(index, style),
        None => *rule = Some(Rule::new(index, style)),
    }
}
