//! Credentials as people write them on command lines, in environments and in addresses: `curl -u name:password`,
//! `https://name:password@host`.
//!
//! Passes over references (`$PASSWORD`, `<password>`), words that stand for a password, and numbers (`docker -u 1000:1000`).

use super::{SECRET_VALUE_BYTES_MAX, Seen, Span};
use crate::policy::nouns::Detector;

/// Bytes from the option to the password: what a window keeps behind itself, less the option.
const NAME_BYTES_MAX: usize = 60;
/// Bytes between the option and the name: quotes, the end of a continued line.
const OPTION_GAP_BYTES_MAX: usize = 8;
/// Bytes of the shortest password; shorter ones are examples.
const PASSWORD_BYTES_MIN: usize = 8;
/// What people write in the place of a password.
const PLACEHOLDERS: [&[u8]; 8] = [
    b"password",
    b"passwort",
    b"passphrase",
    b"yourpassword",
    b"your_password",
    b"your-password",
    b"changeme",
    b"apitoken",
];

/// `name:password` after an option for a user, where the password (or the name, if there is no password) is one.
pub(super) fn user(text: &[u8], word_end: usize, more: bool) -> Seen {
    let gap = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'"' | b'\'' | b'\\' | b'/');
    let cap = text.len().min(word_end + OPTION_GAP_BYTES_MAX);
    let name = text[word_end..cap].iter().position(|b| !gap(b)).map_or(cap, |n| word_end + n);
    let limit = text.len().min(word_end + NAME_BYTES_MAX);
    let stop = text[name.min(limit)..limit].iter().position(|&b| b == b':' || !b.is_ascii_graphic());
    let Some(colon) = stop.map(|n| name + n) else {
        let undecided = more && limit == text.len() && limit < word_end + NAME_BYTES_MAX;
        return if undecided { Seen::Undecided(name) } else { Seen::Nothing };
    };
    if text[colon] != b':' {
        return Seen::Nothing;
    }
    let password =
        text[colon + 1..].iter().take(2).take_while(|b| matches!(b, b'"' | b'\'')).count() + colon + 1;
    let longest = text.len().min(password + SECRET_VALUE_BYTES_MAX + 1);
    let end = text[password..longest].iter().position(|&b| !is_part(b)).map_or(longest, |n| password + n);
    if more && end == text.len() && end - password <= SECRET_VALUE_BYTES_MAX {
        return Seen::Undecided(name);
    }
    let (start, end) = if end > password { (password, end) } else { (name, colon) };
    if is_password(&text[start..end]) {
        Seen::Found(Span::by_rule(start, end, Detector::ApiKey.into(), "command-line"))
    } else {
        Seen::Nothing
    }
}

/// The password of an address (RFC 3986 section 3.2.1): `//name:password@host`.
pub(super) fn address(text: &[u8], start: usize, more: bool) -> Seen {
    let limit = text.len().min(start + NAME_BYTES_MAX);
    let stop = text[start..limit].iter().position(|&b| !is_user_byte(b));
    let Some(colon) = stop.map(|n| start + n) else {
        let undecided = more && limit == text.len() && limit < start + NAME_BYTES_MAX;
        return if undecided { Seen::Undecided(start) } else { Seen::Nothing };
    };
    if text[colon] != b':' {
        return Seen::Nothing;
    }
    let password = colon + 1;
    let longest = text.len().min(password + SECRET_VALUE_BYTES_MAX + 1);
    let part = |&b: &u8| b == b':' || is_user_byte(b);
    let end = text[password..longest].iter().position(|b| !part(b)).map_or(longest, |n| password + n);
    if more && end == text.len() && end - password <= SECRET_VALUE_BYTES_MAX {
        return Seen::Undecided(start);
    }
    if text.get(end) == Some(&b'@') && is_password(&text[password..end]) {
        Seen::Found(Span::by_rule(password, end, Detector::ApiKey.into(), "address"))
    } else {
        Seen::Nothing
    }
}

/// What the name and the password of an address are made of, as they are sent and as people write them.
fn is_user_byte(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b':' | b'@' | b'/' | b'?' | b'#' | b'"' | b'<' | b'>' | b'`' | b'\\')
}

fn is_part(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'`' | b'\\' | b'<' | b'>' | b';' | b'|')
}

fn is_password(text: &[u8]) -> bool {
    let reference = text.first().is_none_or(|b| matches!(b, b'$' | b'[' | b'*'))
        || text.starts_with(b"{{")
        || text.starts_with(b"%") && text.ends_with(b"%");
    let letters = text.iter().any(u8::is_ascii_alphabetic);
    let placeholder = PLACEHOLDERS.iter().any(|word| text.eq_ignore_ascii_case(word));
    (PASSWORD_BYTES_MIN..=SECRET_VALUE_BYTES_MAX).contains(&text.len())
        && letters
        && !reference
        && !placeholder
}

/// Two words of eight hexadecimal digits with a colon between, after the variable that holds them.
pub(super) fn pair(text: &[u8], word_end: usize, more: bool) -> Seen {
    const PAIR_BYTES: usize = 17;
    let gap = |b: &u8| matches!(b, b' ' | b':' | b'=' | b'"' | b'\'');
    let cap = text.len().min(word_end + OPTION_GAP_BYTES_MAX);
    let start = text[word_end..cap].iter().position(|b| !gap(b)).map_or(cap, |n| word_end + n);
    let whole = &text[start..text.len().min(start + PAIR_BYTES + 1)];
    let fits = |(place, b): (usize, &u8)| if place == 8 { *b == b':' } else { b.is_ascii_hexdigit() };
    if !whole.iter().take(PAIR_BYTES).enumerate().all(fits) {
        return Seen::Nothing;
    }
    match whole.get(PAIR_BYTES) {
        None if more => Seen::Undecided(start),
        Some(b) if b.is_ascii_alphanumeric() => Seen::Nothing,
        _ if whole.len() < PAIR_BYTES => Seen::Nothing,
        _ => Seen::Found(Span::by_rule(start, start + PAIR_BYTES, Detector::ApiKey.into(), "bundler")),
    }
}
