//! Finds what a detector names in text that arrives in pieces.
//!
//! What is found depends on the text alone, never on where it was cut: every answer comes with the offset up to which
//! it stands whatever follows, and nothing behind that offset may be let go.

mod check;
mod class;
mod email;
mod finder;
mod number;
mod rules;
mod secret;
mod shapes;

pub(super) use finder::Finder;
pub(super) use number::{CARD_DIGITS_MAX, CARD_DIGITS_MIN, is_card, is_ssn};
pub(super) use secret::named;

use crate::policy::nouns::Detector;

/// Bytes that must be kept before the first undecided one, for what is judged by what stands in front of it.
pub(super) const LOOK_BEHIND: usize = 128;
const _: () = assert!(
    LOOK_BEHIND > secret::LOOK_BEHIND
        && LOOK_BEHIND > email::LOCAL_BYTES_MAX + 8
        && LOOK_BEHIND > crate::expression::NEAR_BYTES + 2
);

/// The shortest text that anything but an e-mail address or a number fits into.
pub(super) const SECRET_BYTES_MIN: usize = 12;

/// Digits of a social security number, the shortest number looked for by hand.
pub(super) const SSN_DIGITS: usize = 9;

/// A detector by its number: those of the program first, then those that a policy directory declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u8);

/// Numbers of detectors.
pub(super) const SLOTS: usize = 127;
/// The first number of a declared one.
const DECLARED_FROM: u8 = 64;
/// Those of a policy directory, and the one of a credential.
const DECLARED_MAX: usize = crate::limits::DETECTORS_MAX + 1;
const _: () =
    assert!(Detector::ALL.len() <= DECLARED_FROM as usize && DECLARED_FROM as usize + DECLARED_MAX <= SLOTS);

impl Slot {
    /// That of the n-th declared detector; `None` beyond [`DECLARED_MAX`].
    pub(super) fn declared(n: usize) -> Option<Self> {
        let n = u8::try_from(n).ok().filter(|&n| usize::from(n) < DECLARED_MAX)?;
        Some(Self(DECLARED_FROM + n))
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl From<Detector> for Slot {
    fn from(detector: Detector) -> Self {
        Self(detector as u8)
    }
}

/// A set of detectors, and whether they look at text or at bytes of any kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Set(u128);

const BINARY: u128 = 1 << 127;
/// What is found by hand, not by a rule's expression.
const BY_HAND: [Detector; 7] = [
    Detector::Card,
    Detector::Email,
    Detector::UsSsn,
    Detector::ApiKey,
    Detector::Jwt,
    Detector::PrivateKey,
    Detector::Secret,
];

impl Set {
    /// What the record hides whatever the policy says.
    pub(super) fn always() -> Self {
        let always = Detector::ALL.into_iter().filter(|detector| detector.is_always_recorded_hidden());
        always.fold(Self::default(), Self::with)
    }

    pub(super) fn with(self, detector: Detector) -> Self {
        self.with_slot(detector.into())
    }

    pub(super) fn with_slot(self, slot: Slot) -> Self {
        Self(self.0 | 1 << slot.0)
    }

    pub(super) fn without(self, detectors: &[Detector]) -> Self {
        Self(detectors.iter().fold(self.0, |set, &one| set & !Self::bit(one)))
    }

    /// Without everything that is found by a rule's expression alone. A social security number is found by hand, too.
    pub(super) fn without_patterns(self) -> Self {
        Self(self.0 & (BINARY | BY_HAND.iter().fold(0, |set, &one| set | Self::bit(one))))
    }

    /// Only what is found by a rule's expression alone.
    pub(super) fn patterns(self) -> Self {
        Self(self.0 & !self.without_patterns().0)
    }

    /// The same detectors for bytes that need not be text: fewer false hits in compressed or encoded media.
    pub(super) fn binary(self) -> Self {
        Self(self.0 | BINARY)
    }

    #[inline]
    pub(super) fn has(self, detector: Detector) -> bool {
        self.0 & Self::bit(detector) != 0
    }

    #[inline]
    pub(super) fn has_slot(self, slot: Slot) -> bool {
        self.0 & 1 << slot.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 & !BINARY == 0
    }

    pub(super) fn is_binary(self) -> bool {
        self.0 & BINARY != 0
    }

    fn bit(detector: Detector) -> u128 {
        1 << detector as u8
    }

    /// Whether rules by expression have to be asked.
    fn has_patterns(self) -> bool {
        self.has(Detector::UsSsn) || self.without_patterns() != self
    }

    fn has_numbers(self) -> bool {
        self.has(Detector::Card) || self.has(Detector::UsSsn)
    }

    /// Whether any of them goes by literals: a social security number may have its word in front.
    pub(super) fn has_literals(self) -> bool {
        [Detector::ApiKey, Detector::Jwt, Detector::PrivateKey, Detector::UsSsn, Detector::Secret]
            .iter()
            .any(|&one| self.has(one))
    }
}

/// One find: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) detector: Slot,
    /// The rule of that detector, where it has several by name.
    pub(super) rule: &'static str,
    /// Set where the find reaches the end of the text and goes on with what follows.
    pub(super) run: Option<RunKind>,
}

impl Span {
    fn new(start: usize, end: usize, detector: Detector) -> Self {
        Self::by_rule(start, end, detector.into(), "")
    }

    fn by_rule(start: usize, end: usize, detector: Slot, rule: &'static str) -> Self {
        Self { start, end, detector, rule, run: None }
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
