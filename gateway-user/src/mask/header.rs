//! Values of header fields under masks.
//!
//! Hides the whole value, and only what `headers` names: nobody but an operator knows which fields a protocol needs.

use super::plan::Plan;
use super::stream::Hits;
use super::window::Hidden;

impl Plan {
    /// Whether it hides any header field.
    #[must_use]
    pub fn has_headers(&self) -> bool {
        self.0.has_headers()
    }

    /// What stands in the place of this field's value, and what to count; `None` where it is not hidden.
    #[must_use]
    pub fn header(&self, name: &str, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        let rule = self.0.header(name)?;
        let mut hidden = Hidden::new(rule.look);
        hidden.take(value);
        let mut shown = Vec::new();
        hidden.write(&self.0, false, &mut shown);
        let names = rule.names.iter().filter_map(|&index| self.0.names.get(index));
        let masks = names.map(|name| (name.clone(), 1)).collect();
        Some((shown, Hits { masks, ..Hits::default() }))
    }
}
