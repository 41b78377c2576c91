//! A sliding window over text that is searched: takes decoded text with the raw form of what was escaped, gives the raw
//! form back with what was found replaced.
//!
//! Lets nothing go before it is decided. What it holds is bounded by the longest undecided find, never by the text.

use std::fmt;

use aws_lc_rs::digest;

use super::find::{LOOK_BEHIND, Run, Set, Slot, Span};
use super::look::{Look, strictest};
use super::plan::Compiled;
use crate::policy::nouns::Style;

/// What stands in the place of a hidden value.
pub(super) const STARS: &[u8] = b"********";
/// Characters a value must have before the last four of it may be shown.
const KEEP_LAST_4_MIN: usize = 12;

/// Values hidden so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// By index into the plan's names.
    pub(super) names: Vec<u64>,
    /// By the number of the detector that found them.
    pub(super) slots: Vec<u64>,
}

impl Counts {
    /// A value that is hidden under these names.
    pub(super) fn add(&mut self, names: &[usize]) {
        for &name in names {
            count(&mut self.names, name);
        }
    }

    /// The same, for a value that a detector found.
    pub(super) fn found(&mut self, detector: Slot, names: &[usize]) {
        count(&mut self.slots, detector.index());
        self.add(names);
    }
}

fn count(counts: &mut Vec<u64>, index: usize) {
    if counts.len() <= index {
        counts.resize(index + 1, 0);
    }
    counts[index] += 1;
}

/// A hidden value of which more may come: what its replacement needs, nothing else.
pub(super) struct Hidden {
    look: Look,
    characters: usize,
    tail: Vec<u8>,
    digest: digest::Context,
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hidden").field("look", &self.look).finish_non_exhaustive()
    }
}

impl Hidden {
    pub(super) fn new(look: Look) -> Self {
        Self { look, characters: 0, tail: Vec::new(), digest: digest::Context::new(&digest::SHA256) }
    }

    pub(super) fn restrict(&mut self, look: Look) {
        self.look = strictest(self.look, look);
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.look.is_drop()
    }

    /// Takes more of the value.
    pub(super) fn take(&mut self, text: &[u8]) {
        if matches!(self.look.style, Style::Stars | Style::Drop) {
            return;
        }
        // Also where the last four are to be kept: a stricter mask may yet ask for the hash of all.
        self.digest.update(text);
        self.characters += text.iter().filter(|&&b| b & 0xC0 != 0x80).count();
        self.tail.extend_from_slice(&text[text.len().saturating_sub(16)..]);
        let surplus = self.tail.len().saturating_sub(16);
        self.tail.drain(..surplus);
    }

    /// Writes the replacement of a whole JSON value.
    pub(super) fn write_value(&self, plan: &Compiled, out: &mut Vec<u8>) {
        if self.look.is_drop() && plan.label(self.look).is_none() {
            return out.extend_from_slice(b"null");
        }
        out.push(b'"');
        self.write(plan, true, out);
        out.push(b'"');
    }

    /// Writes the replacement.
    pub(super) fn write(&self, plan: &Compiled, json: bool, out: &mut Vec<u8>) {
        if let Some(label) = plan.label(self.look) {
            return out.extend_from_slice(label.as_bytes());
        }
        match (self.look.style, &plan.hash_key) {
            (Style::Drop, _) => return,
            (Style::KeyedHash, Some(key)) => {
                let digest = self.digest.clone().finish();
                return out.extend_from_slice(key.token(digest.as_ref()).as_bytes());
            }
            _ => out.extend_from_slice(STARS),
        }
        if self.look.style != Style::KeepLast4 || self.characters < KEEP_LAST_4_MIN {
            return;
        }
        let starts = self.tail.iter().enumerate().rev().filter(|(_, b)| **b & 0xC0 != 0x80);
        let Some((start, _)) = starts.take(4).last() else { return };
        let last = &self.tail[start..];
        if !json {
            return out.extend_from_slice(last);
        }
        for &b in last {
            match b {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                0..=31 => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
                _ => out.push(b),
            }
        }
    }
}

/// The raw form of a stretch of decoded text that was escaped.
#[derive(Debug)]
struct Escape {
    at: usize,
    long: u8,
    raw: [u8; 12],
    raw_long: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    text: Vec<u8>,
    escapes: Vec<Escape>,
    /// Everything before was let go; it stays as context.
    from: usize,
    /// Everything before is part of a find, also beyond `from`.
    covered: usize,
    hidden: Option<Hidden>,
    runs: Vec<Run>,
    spans: Vec<Span>,
    /// How far each detector's last find goes: one that starts inside it is no other value.
    counted: Vec<(Slot, usize)>,
    /// The name of the JSON member whose value the text is.
    name: Vec<u8>,
    json: bool,
}

impl Window {
    /// A window whose text is a JSON string's: replacements are escaped.
    pub(super) fn for_json() -> Self {
        Self { json: true, ..Self::default() }
    }

    /// Forgets all text.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.escapes.clear();
        self.runs.clear();
        self.counted.clear();
        self.name.clear();
        self.from = 0;
        self.covered = 0;
        self.hidden = None;
    }

    /// Says what the text is the value of.
    pub(super) fn set_name(&mut self, name: &[u8]) {
        self.name.clear();
        self.name.extend_from_slice(name);
    }

    /// Whether everything that it took was let go.
    pub(super) fn is_settled(&self) -> bool {
        self.from == self.text.len() && self.hidden.is_none()
    }

    /// The decoded text.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Takes text that stands for itself.
    pub(super) fn push(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    /// Takes at most four bytes of text, written as at most twelve.
    pub(super) fn push_escaped(&mut self, text: &[u8], raw: &[u8]) {
        let mut escape = Escape { at: self.text.len(), long: 0, raw: [0; 12], raw_long: 0 };
        debug_assert!(raw.len() <= escape.raw.len() && text.len() <= 4);
        for (to, from) in escape.raw.iter_mut().zip(raw) {
            *to = *from;
            escape.raw_long += 1;
        }
        escape.long = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.text.extend_from_slice(text);
        self.escapes.push(escape);
    }

    /// Lets go what is decided; all of it where no `more` follows.
    pub(super) fn drain(
        &mut self,
        plan: &Compiled,
        set: Set,
        more: bool,
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) {
        let mut spans = std::mem::take(&mut self.spans);
        self.grow_runs(more);
        let mut certain = plan.find(&self.text, self.from, set, more, &self.name, &mut spans);
        if !self.runs.is_empty() {
            certain = certain.min(self.covered).max(self.from);
            spans.retain(|span| span.start < certain);
        }
        certain = self.between_escapes(certain);
        for span in &spans {
            if span.start >= certain {
                break;
            }
            // What began before `from` was taken in when it was found.
            if span.start < self.from && span.end <= self.covered {
                continue;
            }
            let Some(rule) = plan.rule(span.detector) else { continue };
            if self.is_another(span) {
                counts.found(span.detector, &rule.names);
            }
            let (start, end) = (self.between_escapes(span.start).max(self.from), self.after_escape(span.end));
            self.let_go(plan, start, out);
            self.hidden.get_or_insert_with(|| Hidden::new(rule.look)).restrict(rule.look);
            self.covered = self.covered.max(end);
            if let Some(kind) = span.run {
                // Of two open runs of a kind, the later one ends no sooner.
                self.runs.retain(|run| !same_kind(run.kind, kind));
                self.runs.push(Run { kind, at: span.end });
            }
        }
        self.spans = spans;
        self.let_go(plan, certain, out);
        if more {
            self.forget();
        } else {
            self.close(plan, out);
            self.clear();
        }
    }

    /// Whether a find is a value of its own, not part of the one that the same rules by expression found before it.
    fn is_another(&mut self, span: &Span) -> bool {
        if Set::default().with_slot(span.detector).patterns().is_empty() {
            return true;
        }
        match self.counted.iter_mut().find(|(slot, _)| *slot == span.detector) {
            Some((_, end)) => {
                let another = span.start >= *end;
                *end = span.end.max(*end);
                another
            }
            None => {
                self.counted.push((span.detector, span.end));
                true
            }
        }
    }

    fn grow_runs(&mut self, more: bool) {
        let (text, covered) = (&self.text, &mut self.covered);
        self.runs.retain_mut(|run| {
            let open = run.grow(text, more);
            *covered = (*covered).max(run.at);
            open
        });
        self.covered = self.after_escape(self.covered);
    }

    /// Passes on everything up to `to`: what is covered into the hidden value, the rest as it came.
    fn let_go(&mut self, plan: &Compiled, to: usize, out: &mut Vec<u8>) {
        if self.hidden.is_some() {
            let end = self.covered.min(to).max(self.from);
            if let Some(hidden) = &mut self.hidden {
                hidden.take(&self.text[self.from..end]);
            }
            self.from = end;
            // Finds that touch are one hidden value, so it ends only where something uncovered follows.
            if self.covered < to {
                self.close(plan, out);
            }
        }
        if self.from >= to {
            return;
        }
        let first = self.escapes.partition_point(|escape| escape.at < self.from);
        for escape in self.escapes[first..].iter().take_while(|escape| escape.at < to) {
            out.extend_from_slice(&self.text[self.from..escape.at]);
            out.extend_from_slice(&escape.raw[..usize::from(escape.raw_long)]);
            self.from = escape.at + usize::from(escape.long);
        }
        out.extend_from_slice(&self.text[self.from..to]);
        self.from = to;
    }

    fn close(&mut self, plan: &Compiled, out: &mut Vec<u8>) {
        if let Some(hidden) = self.hidden.take() {
            hidden.write(plan, self.json, out);
        }
    }

    fn forget(&mut self) {
        let surplus = self.from.saturating_sub(LOOK_BEHIND);
        // Moving the rest down costs as much as it is long: do it when there is enough to gain.
        if surplus < LOOK_BEHIND {
            return;
        }
        let kept = self.escapes.partition_point(|escape| escape.at < surplus);
        self.escapes.drain(..kept);
        self.escapes.iter_mut().for_each(|escape| escape.at -= surplus);
        self.text.drain(..surplus);
        self.from -= surplus;
        self.covered = self.covered.saturating_sub(surplus);
        self.runs.iter_mut().for_each(|run| run.shift(surplus));
        self.counted.iter_mut().for_each(|(_, end)| *end = end.saturating_sub(surplus));
    }

    /// The last offset up to `to` that does not part an escaped character.
    fn between_escapes(&self, to: usize) -> usize {
        match self.escapes[..self.escapes.partition_point(|escape| escape.at < to)].last() {
            Some(escape) if escape.at + usize::from(escape.long) > to => escape.at,
            _ => to,
        }
    }

    /// The first offset from `to` on that does not part an escaped character.
    fn after_escape(&self, to: usize) -> usize {
        let down = self.between_escapes(to);
        if down == to {
            return to;
        }
        let part = self.escapes.iter().find(|escape| escape.at == down);
        part.map_or(to, |escape| escape.at + usize::from(escape.long))
    }
}

fn same_kind(one: super::find::RunKind, other: super::find::RunKind) -> bool {
    use super::find::RunKind::Pem;
    matches!((one, other), (Pem { .. }, Pem { .. })) || one == other
}
