//! What is written in the place of a hidden value, and for which mask or detector.

use crate::policy::nouns::Style;

/// How a value is written, and whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) style: Style,
    /// Index into the plan's names.
    pub(super) name: usize,
}

impl Look {
    /// The same, showing no more than this.
    pub(super) fn at_most(self, style: Style) -> Self {
        strictest(self, Self { style, ..self })
    }

    /// The same as stars, whatever the style: for what is hidden together with the marks around it.
    pub(super) fn as_stars(self) -> Self {
        Self { style: Style::Stars, ..self }
    }

    pub(super) fn is_drop(self) -> bool {
        self.style == Style::Drop
    }
}

/// The look that shows less. A hash shows whether two values are the same; nothing at all shows least.
pub(super) fn strictest(one: Look, other: Look) -> Look {
    let shows = |look: Look| match look.style {
        Style::Drop => 0,
        Style::Stars => 1,
        Style::KeyedHash => 2,
        Style::KeepLast4 => 3,
    };
    if shows(one) <= shows(other) { one } else { other }
}
