//! What may stand beside a find: a number inside a longer one is none.

use serde::Deserialize;

/// What must not stand beside a find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// Nothing that makes it part of a longer name or number.
    #[default]
    Word,
    /// The same, and no other group of digits.
    Number,
    /// Nothing that makes it part of a longer address or of a product's version.
    Address,
    /// Only a letter or digit before it.
    Open,
    /// Anything: it is as exact as a find can be.
    Free,
}

impl Edge {
    /// Whether a find may start at `at`.
    pub(super) fn before(self, text: &[u8], at: usize) -> bool {
        if self == Self::Free {
            return true;
        }
        let Some(&last) = at.checked_sub(1).and_then(|n| text.get(n)) else { return true };
        let second = at.checked_sub(2).map(|n| text[n]);
        let after = |class: fn(&u8) -> bool| second.is_some_and(|b| class(&b));
        if is_word(last) {
            return false;
        }
        match self {
            Self::Word => {
                !(last == b'-' && after(u8::is_ascii_alphanumeric)
                    || last == b'.' && after(u8::is_ascii_digit))
            }
            Self::Number => {
                let part = matches!(last, b' ' | b',' | b':') && after(u8::is_ascii_digit);
                !(part || matches!(last, b'/' | b'.' | b'#' | b'$' | b'+' | b'-' | b'@'))
            }
            Self::Address => {
                !(matches!(last, b'.' | b':') && after(u8::is_ascii_alphanumeric)
                    || last == b'/' && after(u8::is_ascii_alphabetic))
            }
            Self::Open | Self::Free => true,
        }
    }

    /// Whether a find may end at `at`; `None` where what follows must be known first.
    pub(super) fn after(self, text: &[u8], at: usize, more: bool) -> Option<bool> {
        if matches!(self, Self::Open | Self::Free) {
            return Some(true);
        }
        let Some(&next) = text.get(at) else { return (!more).then_some(true) };
        if is_word(next) {
            return Some(false);
        }
        let joins = match self {
            Self::Word => matches!(next, b'-' | b'.'),
            Self::Number => matches!(next, b' ' | b'-' | b'.' | b'/' | b':' | b','),
            Self::Address => next == b'.' || next == b':',
            Self::Open | Self::Free => false,
        };
        if self == Self::Number && matches!(next, b'%' | b'@') {
            return Some(false);
        }
        if !joins {
            return Some(true);
        }
        let Some(&second) = text.get(at + 1) else { return (!more).then_some(true) };
        Some(match (self, next) {
            (Self::Word, b'-') => !second.is_ascii_alphanumeric(),
            (Self::Address, b':') => second != b':',
            _ => !second.is_ascii_digit(),
        })
    }
}

/// Whether a byte is part of a name or number.
pub(super) fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}
