//! `[[detector]]`: an operator's own detectors, tried on their examples before they are in force.
//!
//! Refuses one that does not find what its examples say, that takes the name of a built-in one, or that has no bound.

use std::cell::RefCell;
use std::sync::Arc;

use super::declare::{Draft, Entry};
use super::document::{At, Fields};
use super::nouns::{Detector, DetectorNoun, Mask};
use super::problem::{Problem, Problems, did_you_mean};
use super::words;
use crate::expression::{Edge, Engine, check_pattern};
use crate::limits::{DETECTOR_KEYWORD_BYTES_MAX, DETECTORS_MAX};

/// Reads one. Its examples are tried at once.
pub(super) fn read(fields: &Fields<'_>, name: At<String>) -> Entry<DetectorNoun> {
    let pattern = fields.need_text("pattern");
    let keywords = fields.texts("keywords");
    fields.distinct("keywords", &keywords);
    for word in keywords.iter().filter(|word| !(2..=DETECTOR_KEYWORD_BYTES_MAX).contains(&word.value.len())) {
        let long = format!("a keyword has 2 to {DETECTOR_KEYWORD_BYTES_MAX} bytes");
        fields.report(Problem::at(&word.place, long));
    }
    let entropy = fields.thousandths("min_entropy", 0, 8);
    let matching = fields.need_texts("match");
    let pass = fields.need_texts("pass");
    fields.finish(&[]);
    if words::detector_names().any(|known| known == name.value) {
        let taken = format!("`{}` is a built-in detector", name.value);
        fields.report(Problem::at(&name.place, taken).help("give it another name"));
    }
    let noun = DetectorNoun {
        name: name.value.clone(),
        pattern: pattern.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
        keywords: keywords.into_iter().map(|word| word.value).collect(),
        min_entropy_milli: entropy.map_or(0, |entropy| entropy.value),
        edge: Edge::Word,
    };
    if let Some(pattern) = pattern {
        match engine_of(&noun) {
            Ok(engine) => try_examples(&engine, &noun, (&matching, &pass), fields),
            Err(why) => {
                fields.report(Problem::at(&pattern.place, format!("this pattern cannot be used: {why}")))
            }
        }
    }
    Entry { noun, at: name.place, places: fields.places() }
}

fn engine_of(noun: &DetectorNoun) -> Result<Engine, String> {
    check_pattern(&noun.pattern)?;
    Engine::new(vec![noun.rule()])
}

fn try_examples(
    engine: &Engine,
    noun: &DetectorNoun,
    (matching, pass): (&[At<String>], &[At<String>]),
    fields: &Fields<'_>,
) {
    let finds = |text: &str| {
        let mut found = Vec::new();
        engine.find(text.as_bytes(), 0, (&|_| true, b""), false, &mut found);
        !found.is_empty()
    };
    for text in matching.iter().filter(|text| !finds(&text.value)) {
        let missed = format!("`{}` finds nothing in this example of `match`", noun.name);
        fields.report(Problem::at(&text.place, missed).help(
            "a find is a whole word, has `min_entropy`, and one of `keywords` in the 64 bytes before it",
        ));
    }
    for text in pass.iter().filter(|text| finds(&text.value)) {
        let hit = format!("`{}` finds something in this example of `pass`", noun.name);
        fields.report(Problem::at(&text.place, hit).help("narrow the pattern, or add `keywords`"));
    }
}

/// Finds out whom the names in masks' `find` mean, once all detectors are read.
pub(super) fn resolve(draft: &mut Draft, problems: &RefCell<Problems>) {
    let report = |problem| problems.borrow_mut().push(problem);
    let declared: Vec<Arc<DetectorNoun>> =
        draft.detectors.iter().map(|entry| Arc::new(entry.noun.clone())).collect();
    for (mask, name) in std::mem::take(&mut draft.finds) {
        let Some(mask) = draft.masks.get_mut(mask).map(|entry| &mut entry.noun) else { continue };
        let own = declared.iter().find(|noun| noun.name == name.value);
        match (Detector::named(&name.value), own) {
            (Some(built_in), _) => add(mask, &built_in),
            (None, Some(own)) => mask.declared.push(Arc::clone(own)),
            (None, None) if draft.broken => {}
            (None, None) => {
                let unknown = format!("there is no detector `{}`", name.value.escape_debug());
                let own = declared.iter().map(|noun| noun.name.as_str());
                let known = words::detector_names().chain(own);
                report(Problem::at(&name.place, unknown).help_if(did_you_mean(&name.value, known)));
            }
        }
    }
    if let Some(first) = draft.detectors.get(DETECTORS_MAX) {
        let many = format!("there are more than {DETECTORS_MAX} detectors");
        report(Problem::at(&first.at, many).help("join several patterns with `|` into one"));
        return;
    }
    // One that cannot be used alone is told already.
    let sound: Vec<_> =
        declared.iter().filter(|noun| engine_of(noun).is_ok()).map(|noun| noun.rule()).collect();
    if !sound.is_empty()
        && let Err(why) = Engine::new(sound)
    {
        let at = &draft.detectors[0].at;
        report(Problem::at(at, format!("these detectors cannot be used together: {why}")));
    }
}

fn add(mask: &mut Mask, detectors: &[Detector]) {
    for detector in detectors {
        if !mask.find.contains(detector) {
            mask.find.push(*detector);
        }
    }
}
