//! Classes of bytes, as bits of one table, so that a run of a class is one lookup per byte.
//!
//! Knows nothing of characters: every byte of a multi-byte UTF-8 character is [`WIDE`].

/// `0-9`
pub(crate) const DIGIT: u16 = 1;
/// `A-Z0-9`
pub(crate) const UPPER: u16 = 1 << 1;
/// `A-Za-z0-9`
pub(crate) const ALNUM: u16 = 1 << 2;
/// `0-9a-fA-F`
pub(crate) const HEX: u16 = 1 << 3;
/// `A-Za-z0-9_`
pub(crate) const WORD: u16 = 1 << 4;
/// `A-Za-z0-9_-`, the alphabet of base64url
pub(crate) const URL: u16 = 1 << 5;
/// `A-Za-z0-9+/`, the alphabet of base64
pub(crate) const B64: u16 = 1 << 6;
/// `.`
pub(crate) const DOT: u16 = 1 << 7;
/// `=`
pub(crate) const EQUALS: u16 = 1 << 8;
/// `~`
pub(crate) const TILDE: u16 = 1 << 9;
/// The part of an e-mail address before the `@`, in ASCII.
pub(crate) const LOCAL: u16 = 1 << 10;
/// A host name, in ASCII.
pub(crate) const HOST: u16 = 1 << 11;
/// Beyond ASCII.
pub(crate) const WIDE: u16 = 1 << 12;
/// Between a word that announces a secret and the secret: `secret_key": "`.
pub(crate) const GAP: u16 = 1 << 13;
/// `A-Za-z`
pub(crate) const ALPHA: u16 = 1 << 14;
/// Control characters other than tab, line feed and carriage return.
pub(crate) const CONTROL: u16 = 1 << 15;

/// The classes of every byte.
pub(crate) static CLASS: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0usize;
    while byte < 256 {
        table[byte] = of(byte as u8);
        byte += 1;
    }
    table
}

const fn of(b: u8) -> u16 {
    let mut class = 0;
    if b.is_ascii_digit() {
        class |= DIGIT | UPPER;
    }
    if b.is_ascii_uppercase() {
        class |= UPPER;
    }
    if b.is_ascii_alphabetic() {
        class |= ALPHA;
    }
    if b.is_ascii_hexdigit() {
        class |= HEX;
    }
    if b.is_ascii_alphanumeric() {
        class |= ALNUM | WORD | URL | B64 | LOCAL | HOST | GAP;
    }
    class
        | match b {
            b'_' => WORD | URL | LOCAL | GAP,
            b'-' => URL | LOCAL | HOST | GAP,
            b'.' => DOT | LOCAL | HOST,
            b'+' => B64 | LOCAL,
            b'/' => B64,
            b'%' | b'\'' => LOCAL | GAP,
            b'=' => EQUALS | GAP,
            b'~' => TILDE,
            b' ' | b'\t' | b'"' | b'`' | b':' | b'?' | b'>' | b',' | b'\\' | b'[' | b'(' => GAP,
            b'\n' | b'\r' => 0,
            0..=31 | 127 => CONTROL,
            128..=255 => WIDE,
            _ => 0,
        }
}

/// Whether a byte is of any of these classes.
#[inline]
pub(crate) fn is(byte: u8, classes: u16) -> bool {
    CLASS[usize::from(byte)] & classes != 0
}

/// Where the run of these classes that starts at `from` ends.
#[inline]
pub(crate) fn run_end(text: &[u8], from: usize, classes: u16) -> usize {
    text[from..].iter().position(|&b| !is(b, classes)).map_or(text.len(), |n| from + n)
}

/// Where the run of these classes that ends at `to` starts, looking back at most `most` bytes.
#[inline]
pub(crate) fn run_start(text: &[u8], to: usize, classes: u16, most: usize) -> usize {
    let floor = to.saturating_sub(most);
    text[floor..to].iter().rposition(|&b| !is(b, classes)).map_or(floor, |n| floor + n + 1)
}
