//! Values of header fields under masks.
//!
//! Hides the whole value, and only what `headers` names: nobody but an operator knows which fields a protocol needs. A credential
//! that the gate itself put into the request is hidden in any of them.

use super::plan::Plan;
use super::stream::Hits;
use super::window::{Hidden, STARS};
use crate::policy::nouns::Style;

impl Plan {
    /// Whether it hides any header field.
    #[must_use]
    pub fn has_headers(&self) -> bool {
        self.0.has_headers()
    }

    /// What stands in the place of this field's value, and what to count; `None` where it is not hidden.
    #[must_use]
    pub fn header(&self, name: &str, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        self.named_header(name, value).or_else(|| self.exact(value))
    }

    /// The same by the field's name alone.
    pub(super) fn named_header(&self, name: &str, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        let rule = self.0.header(name)?;
        // Of what must not be seen at all the last four are not seen either.
        let look = if self.exact(value).is_some() { rule.look.at_most(Style::Stars) } else { rule.look };
        let mut hidden = Hidden::new(look);
        hidden.take(value);
        let mut shown = Vec::new();
        hidden.write(&self.0, false, &mut shown);
        let names = rule.names.iter().filter_map(|&index| self.0.names.get(index));
        let masks = names.map(|name| (name.clone(), 1)).collect();
        Some((shown, Hits { masks, ..Hits::default() }))
    }

    /// The value without what is known exactly.
    fn exact(&self, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        if self.0.exact.is_empty() {
            return None;
        }
        let mut spans = Vec::new();
        self.0.find(value, 0, self.0.exact, false, b"", &mut spans);
        let first = spans.first()?;
        let names = self.0.rule(first.detector)?.names.iter().filter_map(|&index| self.0.names.get(index));
        let masks = names.map(|name| (name.clone(), 1)).collect();
        let (mut shown, mut at) = (Vec::new(), 0);
        for span in &spans {
            if span.start >= at {
                shown.extend_from_slice(&value[at..span.start]);
                shown.extend_from_slice(STARS);
            }
            at = at.max(span.end);
        }
        shown.extend_from_slice(&value[at..]);
        Some((shown, Hits { masks, ..Hits::default() }))
    }
}
