//! Escapes taken apart: what a stretch of escaped text says, piece by piece, beside the bytes that say it.
//!
//! JSON strings are read strictly and refused when wrong; other text is read leniently, because an escape there is a guess.

/// One piece of escaped text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Stands for itself.
    Plain(&'a [u8]),
    /// `raw` says `text`: at most twelve and four bytes.
    Escaped {
        /// What it says.
        text: &'a [u8],
        /// The bytes that say it.
        raw: &'a [u8],
    },
}

/// Why a JSON string is none, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// Reads the inside of a JSON string (RFC 8259 section 7). Where it is not the `last` of the string, what may be the
/// start of an escape or character stays; gives the bytes read. A lone surrogate says U+FFFD.
pub(super) fn json(raw: &[u8], last: bool, mut take: impl FnMut(Piece<'_>)) -> Result<usize, Bad> {
    let mut at = 0;
    loop {
        let end = raw[at..].iter().position(|&b| b == b'\\').map_or(raw.len(), |n| at + n);
        let whole =
            plain(&raw[at..end], last || end < raw.len()).map_err(|bad| Bad { at: at + bad.at, ..bad })?;
        if whole > 0 {
            take(Piece::Plain(&raw[at..at + whole]));
        }
        at += whole;
        if at < end || end == raw.len() {
            return Ok(at);
        }
        match unescape(&raw[at..], last) {
            Escape::One(character, long) => {
                take(Piece::Escaped {
                    text: character.encode_utf8(&mut [0; 4]).as_bytes(),
                    raw: &raw[at..at + long],
                });
                at += long;
            }
            Escape::Unfinished if !last => return Ok(at),
            Escape::Unfinished | Escape::Wrong => return Err(Bad { at, what: "a wrong escape" }),
        }
    }
}

/// How much of unescaped string text is whole and well-formed.
fn plain(text: &[u8], last: bool) -> Result<usize, Bad> {
    if let Some(at) = text.iter().position(|&b| b < 0x20) {
        return Err(Bad { at, what: "a control character in a string" });
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(text.len()),
        Err(error) if error.error_len().is_none() && !last => Ok(error.valid_up_to()),
        Err(error) => Err(Bad { at: error.valid_up_to(), what: "a string that is not UTF-8" }),
    }
}

/// Reads JSON escapes wherever they stand in text of any kind; what is none stands for itself.
pub(super) fn lenient(raw: &[u8], last: bool, mut take: impl FnMut(Piece<'_>)) -> usize {
    let mut at = 0;
    loop {
        let end = raw[at..].iter().position(|&b| b == b'\\').map_or(raw.len(), |n| at + n);
        if end > at {
            take(Piece::Plain(&raw[at..end]));
        }
        if end == raw.len() {
            return end;
        }
        at = end;
        match unescape(&raw[at..], last) {
            Escape::One(character, long) => {
                take(Piece::Escaped {
                    text: character.encode_utf8(&mut [0; 4]).as_bytes(),
                    raw: &raw[at..at + long],
                });
                at += long;
            }
            Escape::Unfinished if !last => return at,
            Escape::Unfinished | Escape::Wrong => {
                take(Piece::Plain(&raw[at..=at]));
                at += 1;
            }
        }
    }
}

/// Reads `%40` and `+` as forms write them; what is no escape stands for itself.
pub(super) fn percent(raw: &[u8], last: bool, mut take: impl FnMut(Piece<'_>)) -> usize {
    let mut at = 0;
    loop {
        let end = raw[at..].iter().position(|&b| matches!(b, b'%' | b'+')).map_or(raw.len(), |n| at + n);
        if end > at {
            take(Piece::Plain(&raw[at..end]));
        }
        at = end;
        let hex = |n: usize| {
            raw.get(at + n).and_then(|&b| (b as char).to_digit(16)).and_then(|d| u8::try_from(d).ok())
        };
        match raw.get(at) {
            None => return at,
            Some(b'+') => {
                take(Piece::Escaped { text: b" ", raw: &raw[at..=at] });
                at += 1;
            }
            Some(_) if !last && at + 3 > raw.len() => return at,
            Some(_) => match (hex(1), hex(2)) {
                (Some(high), Some(low)) => {
                    take(Piece::Escaped { text: &[high << 4 | low], raw: &raw[at..at + 3] });
                    at += 3;
                }
                _ => {
                    take(Piece::Plain(&raw[at..=at]));
                    at += 1;
                }
            },
        }
    }
}

/// The longest character reference that is read: `&#x10FFFF;`, and room for two zeros.
const REFERENCE_BYTES_MAX: usize = 12;

/// Reads the character references of XML and the few of HTML that hide punctuation; what is none stands for itself.
/// `scripts`: and JSON's escapes.
pub(super) fn entities(raw: &[u8], last: bool, scripts: bool, mut take: impl FnMut(Piece<'_>)) -> usize {
    let mut at = 0;
    loop {
        let mark = |&b: &u8| b == b'&' || (scripts && b == b'\\');
        let end = raw[at..].iter().position(mark).map_or(raw.len(), |n| at + n);
        if end > at {
            take(Piece::Plain(&raw[at..end]));
        }
        at = end;
        let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) else { return at };
        let escape = if rest[0] == b'&' { character_reference(rest, last) } else { unescape(rest, last) };
        match escape {
            Escape::Unfinished if !last => return at,
            Escape::One(character, long) => {
                take(Piece::Escaped {
                    text: character.encode_utf8(&mut [0; 4]).as_bytes(),
                    raw: &raw[at..at + long],
                });
                at += long;
            }
            Escape::Unfinished | Escape::Wrong => {
                take(Piece::Plain(&raw[at..=at]));
                at += 1;
            }
        }
    }
}

/// The character reference at the start of `rest`, which is an ampersand.
fn character_reference(rest: &[u8], last: bool) -> Escape {
    let within = &rest[..rest.len().min(REFERENCE_BYTES_MAX)];
    let inside = |b: &u8| b.is_ascii_alphanumeric() || *b == b'#';
    match within.iter().skip(1).position(|b| !inside(b)).map(|n| n + 1) {
        Some(stop) if within[stop] == b';' => match reference(&within[1..stop]) {
            Some(character) => Escape::One(character, stop + 1),
            None => Escape::Wrong,
        },
        None if rest.len() < REFERENCE_BYTES_MAX && !last => Escape::Unfinished,
        _ => Escape::Wrong,
    }
}

/// What stands between `&` and `;`.
fn reference(name: &[u8]) -> Option<char> {
    let named = match name {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        b"commat" => '@',
        b"period" => '.',
        b"lowbar" => '_',
        b"hyphen" | b"dash" => '-',
        b"nbsp" => '\u{a0}',
        b"colon" => ':',
        b"equals" => '=',
        b"plus" => '+',
        _ => {
            let number = std::str::from_utf8(name.strip_prefix(b"#")?).ok()?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            return char::from_u32(code);
        }
    };
    Some(named)
}

/// Reads `""` as `"`, as tables quote quotes.
pub(super) fn doubled(raw: &[u8], last: bool, mut take: impl FnMut(Piece<'_>)) -> usize {
    let mut at = 0;
    loop {
        let end = raw[at..].iter().position(|&b| b == b'"').map_or(raw.len(), |n| at + n);
        if end > at {
            take(Piece::Plain(&raw[at..end]));
        }
        at = end;
        match raw.get(at..).map(<[u8]>::len) {
            None | Some(0) => return at,
            Some(1) if !last => return at,
            Some(_) if raw.get(at + 1) == Some(&b'"') => {
                take(Piece::Escaped { text: b"\"", raw: &raw[at..at + 2] });
                at += 2;
            }
            Some(_) => {
                take(Piece::Plain(&raw[at..=at]));
                at += 1;
            }
        }
    }
}

enum Escape {
    /// This character, and the bytes that say it.
    One(char, usize),
    Unfinished,
    Wrong,
}

/// The escape at the start of `raw`, which is a backslash.
fn unescape(raw: &[u8], last: bool) -> Escape {
    let simple = match raw.get(1) {
        None => return Escape::Unfinished,
        Some(b'u') => return unicode(raw, last),
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(_) => return Escape::Wrong,
    };
    Escape::One(simple, 2)
}

fn unicode(raw: &[u8], last: bool) -> Escape {
    let first = match four_hex(raw) {
        Ok(unit) => unit,
        Err(escape) => return escape,
    };
    if let Some(character) = char::from_u32(first) {
        return Escape::One(character, 6);
    }
    let lone = Escape::One(char::REPLACEMENT_CHARACTER, 6);
    if !(0xD800..0xDC00).contains(&first) {
        return lone;
    }
    let rest = &raw[6..];
    if !b"\\u".starts_with(&rest[..rest.len().min(2)]) {
        return lone;
    }
    match four_hex(rest) {
        Ok(second) if (0xDC00..0xE000).contains(&second) => {
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            Escape::One(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
        }
        Err(Escape::Unfinished) if !last => Escape::Unfinished,
        _ => lone,
    }
}

/// The code unit of `\uXXXX`.
fn four_hex(raw: &[u8]) -> Result<u32, Escape> {
    let mut unit = 0;
    for n in 2..6 {
        match raw.get(n).map(|&b| (b as char).to_digit(16)) {
            None => return Err(Escape::Unfinished),
            Some(None) => return Err(Escape::Wrong),
            Some(Some(digit)) => unit = unit << 4 | digit,
        }
    }
    Ok(unit)
}
