//! The inside of JSON strings and numbers, looked at byte by byte.
//!
//! Says what could be in a string at the price of one table lookup per byte; takes no number that RFC 8259 does not.

use super::find::{CARD_DIGITS_MAX, SECRET_BYTES_MIN, SSN_DIGITS, Set, is_card};
use crate::policy::nouns::Detector;

const QUOTE: u8 = 1;
const BACKSLASH: u8 = 2;
const CONTROL: u8 = 4;
const WIDE: u8 = 8;
const AT_SIGN: u8 = 16;
const DIGIT: u8 = 32;

static STRING: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0usize;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'"' => QUOTE,
            b'\\' => BACKSLASH,
            0..=0x1F => CONTROL,
            0x80.. => WIDE,
            b'@' => AT_SIGN,
            b'0'..=b'9' => DIGIT,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// What the inside of a string holds, as far as it was scanned.
#[derive(Debug, Default)]
pub(super) struct Content {
    scanned: usize,
    flags: u8,
    digits: usize,
}

impl Content {
    /// Whether it has escapes.
    pub(super) fn is_escaped(&self) -> bool {
        self.flags & BACKSLASH != 0
    }

    /// Whether it must be read through: it has escapes, bytes beyond ASCII, or what no string may have.
    pub(super) fn is_plain(&self) -> bool {
        self.flags & (BACKSLASH | CONTROL | WIDE) == 0
    }

    /// Goes on to the closing quote; gives its offset. A backslash takes the byte after it along.
    pub(super) fn scan(&mut self, inside: &[u8]) -> Option<usize> {
        let mut at = self.scanned;
        while let Some(&byte) = inside.get(at) {
            let class = STRING[usize::from(byte)];
            if class & (QUOTE | BACKSLASH) == 0 {
                self.flags |= class;
                self.digits += usize::from(class >> 5);
                at += 1;
                continue;
            }
            if class == QUOTE {
                return Some(at);
            }
            self.flags |= BACKSLASH;
            if at + 1 == inside.len() {
                break;
            }
            at += 2;
        }
        self.scanned = at;
        None
    }

    /// The detectors that could find anything in a string without escapes, `long` bytes of it.
    /// `least_digits`: figures without which no rule by expression finds anything.
    pub(super) fn worth(&self, set: Set, long: usize, least_digits: usize) -> Set {
        let mut worth = set;
        if self.flags & AT_SIGN == 0 {
            worth = worth.without(&[Detector::Email]);
        }
        if self.digits < least_digits {
            worth = worth.without_patterns();
        }
        if self.digits < SSN_DIGITS {
            worth = worth.without(&[Detector::Card, Detector::UsSsn]);
        }
        if long < SECRET_BYTES_MIN {
            worth = worth.without(&[Detector::ApiKey, Detector::Jwt, Detector::PrivateKey, Detector::Secret]);
        }
        worth
    }
}

/// RFC 8259 section 6.
pub(super) fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let long = digits(fraction);
        if long == 0 {
            return false;
        }
        rest = &fraction[long..];
    }
    match rest.split_first() {
        None => true,
        Some((b'e' | b'E', exponent)) => {
            let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
        Some(_) => false,
    }
}

/// Whether a JSON number is a whole number whose digits are a card: 4111111111111111, 4.111111111111111e15.
pub(super) fn is_card_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mantissa = text.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(text.len());
    let point = text[..mantissa].iter().position(|&b| b == b'.').unwrap_or(mantissa);
    let exponent = match std::str::from_utf8(text.get(mantissa + 1..).unwrap_or_default()) {
        Ok("") => 0,
        Ok(exponent) => exponent.parse::<i32>().unwrap_or(i32::MAX),
        Err(_) => return false,
    };
    let Ok(exponent) = usize::try_from(exponent) else { return false };
    let places = point.saturating_add(exponent);
    if places > CARD_DIGITS_MAX {
        return false;
    }
    let mut digits = [0u8; CARD_DIGITS_MAX];
    let written = text[..mantissa].iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0');
    for (place, digit) in written.enumerate() {
        match digits.get_mut(place) {
            Some(slot) if place < places => *slot = digit,
            _ if digit != 0 => return false,
            _ => {}
        }
    }
    is_card(&digits[..places])
}
