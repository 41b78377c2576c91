//! Finds what a detector names in text that arrives in pieces.
//!
//! What is found depends on the text alone, never on where it was cut: every answer comes with the offset up to which
//! it stands whatever follows, and nothing behind that offset may be let go.

mod class;
mod email;
mod number;
mod secret;
mod shapes;

pub(super) use number::{CARD_DIGITS_MAX, CARD_DIGITS_MIN, is_card, is_ssn};
pub(super) use secret::named;

use crate::policy::nouns::Detector;

/// Bytes that must be kept before the first undecided one, for what is judged by what stands in front of it.
pub(super) const LOOK_BEHIND: usize = 128;
const _: () = assert!(LOOK_BEHIND > secret::LOOK_BEHIND && LOOK_BEHIND > email::LOCAL_BYTES_MAX + 8);

/// The shortest text that anything but an e-mail address, a card or a social security number fits into.
pub(super) const SECRET_BYTES_MIN: usize = 12;

/// Digits of a social security number, the shortest number looked for.
pub(super) const SSN_DIGITS: usize = 9;

/// A set of detectors, and whether they look at text or at bytes of any kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u8);

const BINARY: u8 = 1 << 7;

impl Set {
    pub(super) const ALL: Self = Self(0b11_1111);

    pub(super) fn with(self, detector: Detector) -> Self {
        Self(self.0 | Self::bit(detector))
    }

    pub(super) fn without(self, detectors: &[Detector]) -> Self {
        Self(detectors.iter().fold(self.0, |set, &one| set & !Self::bit(one)))
    }

    /// The same detectors for bytes that need not be text: fewer false hits in compressed or encoded media.
    pub(super) fn binary(self) -> Self {
        Self(self.0 | BINARY)
    }

    #[inline]
    pub(super) fn has(self, detector: Detector) -> bool {
        self.0 & Self::bit(detector) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 & !BINARY == 0
    }

    pub(super) fn is_binary(self) -> bool {
        self.0 & BINARY != 0
    }

    fn bit(detector: Detector) -> u8 {
        1 << detector as u8
    }

    fn has_numbers(self) -> bool {
        self.has(Detector::Card) || self.has(Detector::UsSsn)
    }

    /// Whether any of them goes by literals: a social security number may have its word in front.
    pub(super) fn has_literals(self) -> bool {
        [Detector::ApiKey, Detector::Jwt, Detector::PrivateKey, Detector::UsSsn]
            .iter()
            .any(|&one| self.has(one))
    }
}

/// One find: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) detector: Detector,
    /// Set where the find reaches the end of the text and goes on with what follows.
    pub(super) run: Option<RunKind>,
}

impl Span {
    fn new(start: usize, end: usize, detector: Detector) -> Self {
        Self { start, end, detector, run: None }
    }
}

/// How a find that has begun goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunKind {
    /// As long as bytes of this class come.
    Class(u16),
    /// As long as base64url with single dots comes.
    Dotted,
    /// Up to the last line of a PEM block whose inside starts at `inside`, for at most `left` bytes.
    Pem {
        /// Offset of the first byte after the block's first line.
        inside: usize,
        /// Bytes of budget left.
        left: usize,
    },
}

/// A find that reached the end of the text: it is known up to `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: RunKind,
    pub(super) at: usize,
}

impl Run {
    /// Looks at text that has grown; gives whether the run may go on.
    pub(super) fn grow(&mut self, text: &[u8], more: bool) -> bool {
        secret::grow(text, self, more)
    }

    /// The first `bytes` of the text were dropped.
    pub(super) fn shift(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
        if let RunKind::Pem { inside, .. } = &mut self.kind {
            *inside = inside.saturating_sub(bytes);
        }
    }
}

/// Finds everything in `set` that ends after `from`, in order of start, and gives the offset before which
/// that is final. `more` says that text may follow. `text[..from]` is what stands in front (at least [`LOOK_BEHIND`]
/// bytes of it, or all).
pub(super) fn find(text: &[u8], from: usize, set: Set, more: bool, spans: &mut Vec<Span>) -> usize {
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
