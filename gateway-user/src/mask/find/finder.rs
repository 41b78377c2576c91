//! All detectors of a plan over one text.
//!
//! Each says how far the text is decided; the least of it stands.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::rules::{BUILT_IN, Pattern};
use super::{SECRET_BYTES_MIN, Set, Slot, Span, email, number, secret};
use crate::expression::{Engine, Found};
use crate::policy::nouns::{Detector, DetectorNoun};

/// Finds everything in a set.
#[derive(Debug, Clone, Default)]
pub(in crate::mask) struct Finder {
    expressions: Option<Arc<Expressions>>,
}

/// Rules by expression: the engine, and whose each rule is.
#[derive(Debug)]
struct Expressions {
    engine: Engine,
    rules: Vec<(Slot, &'static str)>,
}

/// Engines in use, by what they look for: plans of many targets share one.
static ENGINES: Mutex<Vec<(Key, Weak<Expressions>)>> = Mutex::new(Vec::new());

type Key = (Set, Vec<Arc<DetectorNoun>>);

impl Finder {
    /// A finder for these detectors and those declared. What `policy` has checked compiles; a
    /// directory whose detectors do not compile together is refused at load.
    pub(in crate::mask) fn new(set: Set, declared: &[Arc<DetectorNoun>]) -> Self {
        let key = (set, declared.to_vec());
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.iter().find(|(known, _)| *known == key).and_then(|(_, e)| e.upgrade()) {
            return Self { expressions: Some(engine) };
        }
        let mut rules: Vec<Pattern> =
            BUILT_IN.iter().filter(|rule| set.has_slot(rule.slot)).cloned().collect();
        for (n, noun) in declared.iter().enumerate() {
            rules.extend(Slot::declared(n).map(|slot| Pattern::declared(noun, slot)));
        }
        let Ok(finder) = Self::of(rules) else { return Self::default() };
        engines.retain(|(_, engine)| engine.strong_count() > 0);
        if let Some(engine) = &finder.expressions {
            engines.push((key, Arc::downgrade(engine)));
        }
        finder
    }

    /// A finder for these rules.
    ///
    /// # Errors
    /// Why they cannot be compiled.
    pub(super) fn of(rules: Vec<Pattern>) -> Result<Self, String> {
        if rules.is_empty() {
            return Ok(Self::default());
        }
        let whose = rules.iter().map(|rule| (rule.slot, rule.name)).collect();
        let engine = Engine::of_all(rules.into_iter().map(|rule| rule.rule).collect())?;
        Ok(Self { expressions: Some(Arc::new(Expressions { engine, rules: whose })) })
    }

    /// Digits without which no rule by expression finds anything.
    pub(in crate::mask) fn least_digits(&self) -> usize {
        self.expressions.as_ref().map_or(usize::MAX, |those| those.engine.least_digits())
    }

    /// Finds everything in `set` that ends after `from`, in order of start, and gives the offset before which that is
    /// final. `more` says that text may follow. `text[..from]` is what stands in front (at least
    /// [`super::LOOK_BEHIND`] bytes of it, or all). `name` is that of the JSON member whose value the text is.
    pub(in crate::mask) fn find(
        &self,
        text: &[u8],
        from: usize,
        set: Set,
        more: bool,
        name: &[u8],
        spans: &mut Vec<Span>,
    ) -> usize {
        spans.clear();
        let mut certain = text.len();
        if set.has(Detector::Email) {
            certain = certain.min(email::find(text, from, set, more, spans));
        }
        if set.has_numbers() {
            certain = certain.min(number::find(text, from, set, more, spans));
        }
        if set.has_literals() && (more || text.len() >= SECRET_BYTES_MIN) {
            certain = certain.min(secret::find(text, from, set, more, spans));
        }
        if set.has_patterns()
            && let Some(expressions) = &self.expressions
        {
            certain = certain.min(expressions.find(text, from, (set, name), more, spans));
        }
        certain = certain.max(from);
        if !spans.is_empty() {
            for span in spans.iter().filter(|span| span.run.is_some()) {
                certain = certain.min(span.end.max(from));
            }
            spans.retain(|span| span.end > from && span.start < certain);
            spans.sort_unstable_by_key(|span| (span.start, span.end));
        }
        certain
    }
}

impl Expressions {
    fn find(
        &self,
        text: &[u8],
        from: usize,
        (set, name): (Set, &[u8]),
        more: bool,
        spans: &mut Vec<Span>,
    ) -> usize {
        let wanted = |rule: usize| self.rules.get(rule).is_some_and(|(slot, _)| set.has_slot(*slot));
        let mut finds: Vec<Found> = Vec::new();
        let certain = self.engine.find(text, from, (&wanted, name), more, &mut finds);
        for found in finds {
            let (slot, rule) = self.rules[found.rule];
            spans.push(Span::by_rule(found.start, found.end, slot, rule));
        }
        certain
    }
}
