//! JSON for files and terminals: nothing in it but ASCII, so that no captured character can do anything, and bodies as
//! text where they are text.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// A body as text where it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    /// It is UTF-8.
    Text(String),
    /// It is not.
    Base64(String),
}

impl Text {
    /// A body's bytes.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes)
            .map_or_else(|error| Self::Base64(data_encoding::BASE64.encode(error.as_bytes())), Self::Text)
    }
}

/// Writes one JSON value on one line, in ASCII.
pub(super) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Ascii)).map_err(io::Error::from)
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !c.is_ascii() || *c == '\x7f') {
            out.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            plain = at + c.len_utf8();
        }
        out.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        CompactFormatter.write_char_escape(out, escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_ascii_is_written_and_the_meaning_stays() {
        let value = "a\u{1b}[2J\u{202e}\u{e0041}é\u{7f}\"\n🦀";
        let mut out = Vec::new();
        write_json(&mut out, &value).unwrap();
        assert!(out.iter().all(|byte| (0x20..0x7f).contains(byte)), "{out:?}");
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), value);
    }
}
