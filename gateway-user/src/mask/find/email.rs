//! E-mail addresses: an `@`, what is left of it, and a host name with a dot on its right.
//!
//! Takes the dot-atom form people use (RFC 5322 section 3.2.3, letters beyond ASCII by RFC 6531), not quoted local
//! parts. In doubt it hides more: letters beyond ASCII next to an address count as part of it.

use super::class::{ALNUM, ALPHA, HOST, LOCAL, WIDE, is, run_start};
use super::{Set, Span};
use crate::policy::nouns::Detector;

/// Bytes before the `@` (RFC 5321 section 4.5.3.1.1).
pub(super) const LOCAL_BYTES_MAX: usize = 64;
/// Bytes of a host name (RFC 5321 section 4.5.3.1.2).
const HOST_BYTES_MAX: usize = 255;
/// What follows the last dot of `logo@2x.png`; none of them is a top-level domain.
const IMAGES: [&[u8]; 7] = [b"png", b"jpg", b"jpeg", b"gif", b"webp", b"svg", b"avif"];

/// Finds addresses that start at `from` or later. Gives how far the text is decided.
pub(super) fn find(text: &[u8], from: usize, set: Set, more: bool, spans: &mut Vec<Span>) -> usize {
    let wide = if set.is_binary() { 0 } else { WIDE };
    let mut certain =
        if more { run_start(text, text.len(), LOCAL | wide, LOCAL_BYTES_MAX + 4) } else { text.len() };
    let mut at = from;
    while let Some(found) = text[at..].iter().position(|&b| b == b'@') {
        let sign = at + found;
        at = sign + 1;
        let Some(start) = local_start(text, sign, wide) else { continue };
        let end = host_run(text, sign + 1, wide);
        if end == text.len() && more {
            certain = certain.min(start);
        } else if let Some(end) = host_end(text, sign + 1, end, wide)
            && (wide != 0 || (sign - start >= 2 && end - sign > 5))
        {
            spans.push(Span::new(start, end, Detector::Email));
        }
    }
    certain
}

/// Where the local part before the `@` at `sign` starts; `None` where there is none.
fn local_start(text: &[u8], sign: usize, wide: u16) -> Option<usize> {
    let mut start = run_start(text, sign, LOCAL | wide, LOCAL_BYTES_MAX);
    // Not inside a character, and not with the quote or dot that opens it.
    while start > 0
        && is(text[start - 1], wide)
        && text[start] & 0xC0 == 0x80
        && sign - start < LOCAL_BYTES_MAX + 3
    {
        start -= 1;
    }
    while start < sign && matches!(text[start], b'\'' | b'.' | b'-') {
        start += 1;
    }
    (start < sign).then_some(start)
}

/// The end of what may be a host name, on a whole character where the bound cuts it.
fn host_run(text: &[u8], from: usize, wide: u16) -> usize {
    let cap = text.len().min(from + HOST_BYTES_MAX);
    let end = text[from..cap].iter().position(|&b| !is(b, HOST | wide)).map_or(cap, |n| from + n);
    let whole = (from..=end).rev().take(4).find(|&at| text.get(at).is_none_or(|b| b & 0xC0 != 0x80));
    whole.unwrap_or(end)
}

/// The end of the host name in `text[from..to]`: its last label that may be a top-level domain.
fn host_end(text: &[u8], from: usize, to: usize, wide: u16) -> Option<usize> {
    let mut best = None;
    let mut start = from;
    for (place, label) in text[from..to].split(|&b| b == b'.').enumerate() {
        if !label.first().is_some_and(|&b| is(b, ALNUM | wide)) {
            break;
        }
        let end = start + label.len();
        if place > 0 && label.len() >= 2 && label[..2].iter().all(|&b| is(b, ALPHA | wide)) {
            let picture = IMAGES.iter().any(|name| label.eq_ignore_ascii_case(name));
            if !picture {
                best = Some(end - label.iter().rev().take_while(|&&b| b == b'-').count());
            }
        }
        start = end + 1;
    }
    best
}
