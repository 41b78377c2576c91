//! Payment cards and US social security numbers: groups of digits.
//!
//! A card is hidden only where its length fits its issuer's range and its check digit is right; a group of digits
//! inside a longer one is never a card.

use super::class::{ALNUM, ALPHA, is, run_start};
use super::{Set, Span};
use crate::policy::nouns::Detector;

/// Digits of the longest card number (ISO/IEC 7812-1).
pub(crate) const CARD_DIGITS_MAX: usize = 19;
/// Bytes looked at before digits that follow a letter.
const NAME_BYTES_MAX: usize = 32;
/// Digits of the shortest (Maestro).
pub(crate) const CARD_DIGITS_MIN: usize = 12;

/// Finds cards and social security numbers that start at `from` or later. Gives how far the text is decided.
pub(super) fn find(text: &[u8], from: usize, set: Set, more: bool, spans: &mut Vec<Span>) -> usize {
    let (cards, ssns) = (set.has(Detector::Card), set.has(Detector::UsSsn));
    let mut certain = text.len();
    let mut at = from;
    while at < text.len() {
        if !text[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let group_end = digits_end(text, at);
        let starts_here = at == 0 || !text[at - 1].is_ascii_digit();
        if starts_here && cards {
            match card(text, at, more) {
                Seen::Until(end) => spans.push(Span::new(at, end, Detector::Card)),
                Seen::Undecided => certain = certain.min(at),
                Seen::Nothing => {}
            }
        }
        if starts_here && ssns {
            match ssn(text, at, more) {
                Seen::Until(end) => spans.push(Span::new(at, end, Detector::UsSsn)),
                Seen::Undecided => certain = certain.min(at),
                Seen::Nothing => {}
            }
        }
        at = group_end;
    }
    certain
}

enum Seen {
    Nothing,
    Until(usize),
    Undecided,
}

fn digits_end(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|b| !b.is_ascii_digit()).map_or(text.len(), |n| from + n)
}

/// The longest card that starts at `start`, which is the first digit of a group.
fn card(text: &[u8], start: usize, more: bool) -> Seen {
    // The fraction of a decimal number: 0.4111111111111111.
    if start >= 2 && text[start - 1] == b'.' && text[start - 2].is_ascii_digit() {
        return Seen::Nothing;
    }
    let mut digits = [0u8; CARD_DIGITS_MAX];
    let mut count = 0;
    let mut best = Seen::Nothing;
    let mut at = start;
    loop {
        let end = digits_end(&text[..text.len().min(at + CARD_DIGITS_MAX + 1)], at);
        if count + (end - at) > CARD_DIGITS_MAX {
            return best;
        }
        for &b in &text[at..end] {
            digits[count] = b - b'0';
            count += 1;
        }
        if end == text.len() && more {
            return Seen::Undecided;
        }
        if is_card(&digits[..count]) && !inside_a_word(text, start, end) {
            best = Seen::Until(end);
        }
        let group = end - at;
        let smallest = if at == start { 4 } else { 3 };
        if end == text.len() || group < smallest || !matches!(text[end], b' ' | b'-') {
            return best;
        }
        match text.get(end + 1) {
            Some(next) if next.is_ascii_digit() => at = end + 1,
            None if more => return Seen::Undecided,
            _ => return best,
        }
    }
}

/// Digits with a letter on either side, or after letters and digits, are part of a longer name: a digest, an IBAN.
fn inside_a_word(text: &[u8], start: usize, end: usize) -> bool {
    if start == 0 || !is(text[start - 1], ALPHA) {
        return false;
    }
    let word = &text[run_start(text, start, ALNUM, NAME_BYTES_MAX)..start];
    word.iter().any(u8::is_ascii_digit) || text.get(end).is_some_and(|&b| is(b, ALPHA))
}

/// Whether these digits (values, not characters) are a payment card number: length, issuer and check digit.
pub(crate) fn is_card(digits: &[u8]) -> bool {
    (CARD_DIGITS_MIN..=CARD_DIGITS_MAX).contains(&digits.len()) && issued(digits) && luhn(digits)
}

/// ISO/IEC 7812-1 annex B.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &d)| match (place % 2, d) {
            (0, d) => u32::from(d),
            (_, 9) => 9,
            (_, d) => u32::from(d) * 2 % 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Ranges of leading six digits and the lengths issued in them, from the networks' own publications.
const ISSUERS: &[(u32, u32, &[usize])] = &[
    (180_000, 180_099, &[15]),                         // JCB, old
    (213_100, 213_199, &[15]),                         // JCB, old
    (220_000, 220_599, &[16, 17, 18, 19]),             // Mir, BORICA
    (222_100, 272_099, &[16]),                         // Mastercard
    (300_000, 305_999, &[14, 16]),                     // Diners Club
    (309_500, 309_599, &[14, 16]),                     // Diners Club
    (340_000, 349_999, &[15]),                         // American Express
    (350_000, 359_999, &[16, 17, 18, 19]),             // JCB (3528 to 3589, and what surrounds it)
    (360_000, 369_999, &[14, 15, 16, 17, 18, 19]),     // Diners Club
    (370_000, 379_999, &[15]),                         // American Express
    (380_000, 399_999, &[14, 16, 17, 18, 19]),         // Diners Club
    (400_000, 499_999, &[13, 16, 19]),                 // Visa
    (500_000, 509_999, &[12, 13, 14, 15, 16, 18, 19]), // Maestro, Verve, RuPay, Elo
    (510_000, 559_999, &[16]),                         // Mastercard
    (560_000, 589_999, &[12, 13, 14, 15, 16, 18, 19]), // Maestro
    (600_000, 609_999, &[16, 17, 18, 19]),             // Discover, RuPay, Hipercard
    (620_000, 629_999, &[16, 17, 18, 19]),             // UnionPay
    (630_000, 639_999, &[12, 13, 14, 15, 16, 18, 19]), // Maestro, InterPayment, InstaPayment
    (640_000, 659_999, &[16, 17, 18, 19]),             // Discover, RuPay, Troy
    (670_000, 679_999, &[12, 13, 14, 15, 16, 18, 19]), // Maestro
    (810_000, 829_999, &[16, 17, 18, 19]),             // UnionPay, RuPay
    (860_000, 860_099, &[16]),                         // Uzcard
    (979_200, 979_299, &[16]),                         // Troy
    (986_000, 986_099, &[16]),                         // Humo
];

fn issued(digits: &[u8]) -> bool {
    let lead = digits[..6].iter().fold(0u32, |n, &d| n * 10 + u32::from(d));
    ISSUERS
        .iter()
        .any(|(low, high, lengths)| (*low..=*high).contains(&lead) && lengths.contains(&digits.len()))
}

/// `NNN-NN-NNNN` or `NNN NN NNNN` at `start`, which is the first digit of a group.
fn ssn(text: &[u8], start: usize, more: bool) -> Seen {
    let group = |at: usize, long: usize| -> Option<bool> {
        for place in at..at + long {
            match text.get(place) {
                Some(b) if b.is_ascii_digit() => {}
                Some(_) => return Some(false),
                None => return if more { None } else { Some(false) },
            }
        }
        Some(true)
    };
    let separator = match text.get(start + 3) {
        Some(b @ (b'-' | b' ')) => *b,
        Some(_) => return Seen::Nothing,
        None if more => return Seen::Undecided,
        None => return Seen::Nothing,
    };
    for (at, long) in [(start, 3), (start + 4, 2), (start + 7, 4)] {
        match group(at, long) {
            Some(true) => {}
            Some(false) => return Seen::Nothing,
            None => return Seen::Undecided,
        }
        if at == start + 4 {
            match text.get(start + 6) {
                Some(&b) if b == separator => {}
                None if more => return Seen::Undecided,
                _ => return Seen::Nothing,
            }
        }
    }
    let end = start + 11;
    // Part of a longer dashed number: 1-123-45-6789, 123-45-6789-01.
    if start >= 2 && text[start - 1] == b'-' && text[start - 2].is_ascii_digit() {
        return Seen::Nothing;
    }
    match (text.get(end), text.get(end + 1)) {
        (Some(b), _) if b.is_ascii_digit() => return Seen::Nothing,
        (Some(b'-'), Some(b)) if b.is_ascii_digit() => return Seen::Nothing,
        (None, _) | (Some(b'-'), None) if more => return Seen::Undecided,
        _ => {}
    }
    let digits: [u8; 9] =
        std::array::from_fn(|n| text[start + n + usize::from(n > 2) + usize::from(n > 4)] - b'0');
    if is_ssn(digits) { Seen::Until(end) } else { Seen::Nothing }
}

/// Whether the Social Security Administration could have issued it: no area 000, 666 or 9xx, no group 00, no serial 0000.
pub(crate) fn is_ssn(digits: [u8; 9]) -> bool {
    let [a, b, c, d, e, f, g, h, i] = digits;
    let area = [a, b, c];
    area != [0, 0, 0] && area != [6, 6, 6] && a != 9 && (d, e) != (0, 0) && [f, g, h, i] != [0; 4]
}
