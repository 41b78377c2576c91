//! Labelled texts: how much of what people marked is found, and how much is found that nobody marked.
//!
//! Reads three forms: JSON lines with `text` and `spans` (`kind`, `start`, `end` in characters); one JSON list with
//! `full_text` and `spans` (`entity_type`, `start_position`, `end_position`), as presidio-research has it; JSON lines with
//! `text` and `kind` `tp` or `fp`, where the whole text does or does not hold a credential.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::cli::{Context, Failure};
use crate::mask::Plan;

#[derive(Deserialize)]
struct Labelled {
    #[serde(alias = "full_text")]
    text: String,
    #[serde(default)]
    spans: Vec<Label>,
    /// `tp` or `fp`.
    #[serde(default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Label {
    #[serde(alias = "entity_type")]
    kind: String,
    #[serde(alias = "start_position")]
    start: usize,
    #[serde(alias = "end_position")]
    end: usize,
}

/// What became of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    labelled: u64,
    found: u64,
    finds: u64,
    wrong: u64,
}

const CREDENTIALS: &str = "credential";

/// The detector whose business a label is; other labels are nobody's.
fn detector(kind: &str) -> &str {
    match kind {
        "CREDIT_CARD" => "card",
        "PHONE_NUMBER" => "phone",
        "EMAIL_ADDRESS" => "email",
        "IBAN_CODE" => "iban",
        "US_SSN" => "us-ssn",
        "IP_ADDRESS" => "ip",
        other => other,
    }
}

/// Measures, tells, and says by its result whether everything was found and nothing else.
pub(super) fn measure(plan: &Plan, bytes: &[u8], context: &Context) -> Result<(), Failure> {
    let texts = read(bytes)?;
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut listed = Vec::new();
    for labelled in &texts {
        let finds = plan.finds(labelled.text.as_bytes());
        if let Some(kind) = &labelled.kind {
            whole_text(kind, finds.iter().any(|find| is_credential(find.detector)), &mut tallies);
        } else {
            spans(labelled, &finds, &mut tallies);
        }
        let finds = finds.iter().map(|find| {
            let character = |at: usize| characters(&labelled.text, at);
            json!({ "detector": find.detector, "rule": find.rule, "start": character(find.start), "end": character(find.end) })
        });
        listed.push(finds.collect::<Vec<_>>());
    }
    let perfect = tallies.values().all(|tally| tally.found == tally.labelled && tally.wrong == 0);
    if context.out.is_json() {
        let kinds: BTreeMap<&String, _> = tallies.iter().map(|(kind, t)| (kind, as_json(*t))).collect();
        context.out.json(&json!({ "texts": texts.len(), "kinds": kinds, "finds": listed }))?;
    } else {
        tell(texts.len(), &tallies, context)?;
    }
    if perfect { Ok(()) } else { Err(Failure::No) }
}

fn tell(texts: usize, tallies: &BTreeMap<String, Tally>, context: &Context) -> Result<(), Failure> {
    context.out.line(format_args!("{texts} texts"))?;
    context.out.line(format_args!(
        "{:<14} {:>8} {:>6} {:>7} {:>6} {:>6} {:>10}",
        "kind", "labelled", "found", "recall", "finds", "wrong", "precision"
    ))?;
    for (kind, tally) in tallies {
        context.out.line(format_args!(
            "{kind:<14} {:>8} {:>6} {:>7} {:>6} {:>6} {:>10}",
            tally.labelled,
            tally.found,
            share(tally.found, tally.labelled),
            tally.finds,
            tally.wrong,
            share(tally.finds - tally.wrong, tally.finds)
        ))?;
    }
    Ok(())
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.3}", ratio(part, whole)) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of labels")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn as_json(tally: Tally) -> serde_json::Value {
    json!({
        "labelled": tally.labelled, "found": tally.found, "finds": tally.finds, "wrong": tally.wrong,
        "recall": (tally.labelled > 0).then(|| ratio(tally.found, tally.labelled)),
        "precision": (tally.finds > 0).then(|| ratio(tally.finds - tally.wrong, tally.finds)),
    })
}

fn is_credential(detector: &str) -> bool {
    ["api-key", "jwt", "private-key", "secret"].contains(&detector)
}

fn whole_text(kind: &str, found: bool, tallies: &mut BTreeMap<String, Tally>) {
    let tally = tallies.entry(CREDENTIALS.to_owned()).or_default();
    tally.labelled += u64::from(kind == "tp");
    tally.finds += u64::from(found);
    if found {
        *(if kind == "tp" { &mut tally.found } else { &mut tally.wrong }) += 1;
    }
}

fn spans(labelled: &Labelled, finds: &[crate::mask::Find<'_>], tallies: &mut BTreeMap<String, Tally>) {
    let byte = |at: usize| labelled.text.char_indices().nth(at).map_or(labelled.text.len(), |(n, _)| n);
    let labels: Vec<(&str, usize, usize)> = labelled
        .spans
        .iter()
        .map(|label| (detector(&label.kind), byte(label.start), byte(label.end)))
        .collect();
    for &(kind, start, end) in &labels {
        if !crate::policy::nouns::Detector::ALL.iter().any(|known| known.name() == kind) {
            continue;
        }
        let tally = tallies.entry(kind.to_owned()).or_default();
        tally.labelled += 1;
        let covered = |at: usize| finds.iter().any(|f| f.detector == kind && (f.start..f.end).contains(&at));
        tally.found += u64::from((start..end).all(covered));
    }
    for find in finds {
        let tally = tallies.entry(find.detector.to_owned()).or_default();
        tally.finds += 1;
        let right = labels
            .iter()
            .any(|(kind, start, end)| *kind == find.detector && find.start < *end && find.end > *start);
        tally.wrong += u64::from(!right);
    }
}

fn characters(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(n, _)| *n < at).count()
}

fn read(bytes: &[u8]) -> Result<Vec<Labelled>, Failure> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return serde_json::from_slice(bytes)
            .map_err(|error| Failure::cannot(format!("these are no labelled texts: {error}")));
    }
    let lines = bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(n, line)| {
            serde_json::from_slice(line)
                .map_err(|error| Failure::cannot(format!("line {}: no labelled text: {error}", n + 1)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::nouns::{Detector, Mask, On, Style};

    #[test]
    fn everything_that_is_labelled_in_the_sample_is_found_and_nothing_else() {
        let sample = include_bytes!("../../../rules/sample.jsonl");
        let find = Detector::ALL.to_vec();
        let plan = Plan::new(&[std::sync::Arc::new(Mask {
            name: "test".to_owned(),
            find,
            declared: Vec::new(),
            targets: Vec::new(),
            paths: Vec::new(),
            keys: Vec::new(),
            columns: Vec::new(),
            headers: Vec::new(),
            on: On::Both,
            style: Style::Stars,
        })]);
        let (mut labels, mut texts) = (0, 0);
        for labelled in read(sample).unwrap() {
            let mut tallies = BTreeMap::new();
            spans(&labelled, &plan.finds(labelled.text.as_bytes()), &mut tallies);
            let perfect = |tally: &Tally| tally.found == tally.labelled && tally.wrong == 0;
            assert!(tallies.values().all(perfect), "{:?}: {tallies:?}", labelled.text);
            labels += labelled.spans.len();
            texts += usize::from(labelled.spans.is_empty());
        }
        assert!(labels >= 45 && texts >= 15, "{labels} labels, {texts} texts without one");
    }

    #[test]
    fn a_find_that_nobody_marked_is_wrong_and_half_a_find_is_none() {
        let text = "\u{e9} 4111111111111111";
        let labelled: Labelled = serde_json::from_value(json!({
            "text": text, "spans": [{ "kind": "CREDIT_CARD", "start": 2, "end": 18 }, { "kind": "PERSON", "start": 0, "end": 1 }],
        }))
        .unwrap();
        let find = |detector, start, end| crate::mask::Find { start, end, detector, rule: "" };
        let mut tallies = BTreeMap::new();
        spans(&labelled, &[find("card", 3, 19)], &mut tallies);
        assert_eq!(tallies["card"], Tally { labelled: 1, found: 1, finds: 1, wrong: 0 });
        spans(&labelled, &[find("card", 3, 18), find("phone", 3, 9)], &mut tallies);
        assert_eq!(tallies["card"], Tally { labelled: 2, found: 1, finds: 2, wrong: 0 });
        assert_eq!(tallies["phone"], Tally { wrong: 1, finds: 1, ..Tally::default() });
        assert_eq!(tallies.len(), 2);
    }

    #[test]
    fn what_is_no_labelled_text_is_refused_with_its_line() {
        let error =
            read(b"{\"text\":\"a\"}\n{\"txt\":1}\n").err().map(|failure| format!("{failure:?}")).unwrap();
        assert!(error.contains("line 2"), "{error}");
    }
}
