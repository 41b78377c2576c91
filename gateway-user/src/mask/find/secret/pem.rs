//! PEM blocks of private keys (RFC 7468): from the first line to the last, and no further than a bound where that is missing.

use super::{Seen, Span};
use crate::mask::find::RunKind;
use crate::mask::find::class::{CONTROL, WIDE, is, run_end};
use crate::policy::nouns::Detector;

/// Bytes hidden after a private key's first line if its last line never comes. An RSA key of 16,384 bits takes 13 KiB.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// Bytes of a PEM label: `-----BEGIN ENCRYPTED PRIVATE KEY-----`.
pub(super) const LABEL_BYTES_MAX: usize = 64;

/// The block that begins here, where it is of a private key.
pub(super) fn found(text: &[u8], at: usize, more: bool, block: &mut KnownBlock) -> Seen {
    let label = at + b"-----BEGIN ".len();
    let limit = text.len().min(label + LABEL_BYTES_MAX);
    let end = text[label..limit].iter().position(|b| !is_label(b)).map_or(limit, |n| label + n);
    let dashes = text[end..].iter().take(5).take_while(|&&b| b == b'-').count();
    if dashes < 5 {
        let undecided = more && end + dashes == text.len() && end - label < LABEL_BYTES_MAX;
        return if undecided { Seen::Undecided(at) } else { Seen::Nothing };
    }
    if !text[label..end].windows(11).any(|words| words == b"PRIVATE KEY") {
        return Seen::Nothing;
    }
    let inside = end + 5;
    let (end, open) = end_of(text, inside, BYTES_MAX, more, block);
    let kind = open.then_some(RunKind::Pem { inside, left: BYTES_MAX.saturating_sub(end - inside) });
    Seen::Found(Span { run: kind, ..Span::new(at, end, Detector::PrivateKey) })
}

/// The end of a block whose inside is looked at from `from`, and whether it may go on.
pub(super) fn end_of(
    text: &[u8],
    from: usize,
    left: usize,
    more: bool,
    block: &mut KnownBlock,
) -> (usize, bool) {
    let limit = text.len().min(from.saturating_add(left));
    let last = match block.stop(text, from, limit) {
        Some((last, true)) => last,
        Some((control, false)) => return (control, more && control == text.len()),
        None => {
            // At the bound it ends with a whole character.
            let end = run_end(text, limit, WIDE);
            return (end, more && end == text.len());
        }
    };
    let label = last + LAST.len();
    let cap = text.len().min(label + LABEL_BYTES_MAX);
    let dashes = text[label..cap].iter().position(|b| !is_label(b)).map_or(cap, |n| label + n);
    let end = dashes + text[dashes..].iter().take(5).take_while(|&&b| b == b'-').count();
    (end, more && end == text.len() && end < label + LABEL_BYTES_MAX)
}

/// What the last line of a block begins with.
const LAST: &[u8] = b"-----END ";

/// What stops the block that was last looked through: its last line (`true`), or a byte that no block has. A text with many
/// beginnings of blocks is looked through once.
#[derive(Default)]
pub(super) struct KnownBlock {
    start: usize,
    /// How far it was looked through.
    seen: usize,
    stop: Option<(usize, bool)>,
}

impl KnownBlock {
    fn stop(&mut self, text: &[u8], from: usize, limit: usize) -> Option<(usize, bool)> {
        let known = self.start <= from && self.stop.map_or(from < self.seen, |(at, _)| from <= at);
        if !known {
            *self = Self { start: from, seen: from, stop: None };
        }
        if self.stop.is_none() && self.seen < limit {
            // A last line that was cut off where the looking ended begins before it.
            let start = self.seen.saturating_sub(LAST.len() - 1).max(from);
            let stops = |at: &usize| is(text[*at], CONTROL) || text[*at..limit].starts_with(LAST);
            self.stop = (start..limit).find(stops).map(|at| (at, !is(text[at], CONTROL)));
            self.seen = limit;
        }
        self.stop.filter(|(at, last)| at + if *last { LAST.len() } else { 1 } <= limit)
    }
}

/// Whether a byte may stand in the label of a PEM block.
fn is_label(byte: &u8) -> bool {
    *byte == b' ' || byte.is_ascii_uppercase() || byte.is_ascii_digit()
}
