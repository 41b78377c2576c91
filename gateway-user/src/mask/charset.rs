//! Character encodings: what a body says it is written in, read into UTF-8 before anything is looked for.
//!
//! A byte order mark says more than a header field. Refuses encodings it does not know, UTF-7, UTF-32, UTF-16 that does
//! not say which, and every sequence that is malformed: two readers could see two texts in it.

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE, X_USER_DEFINED};

use super::MaskError;

/// The encoding of a body, as its Content-Type names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Charset {
    /// UTF-8, ASCII, or nothing said: every byte below 128 means itself.
    Ascii,
    /// Another that can be read.
    Named(&'static Encoding),
    /// UTF-16 of an order that only a byte order mark tells.
    Marked,
    /// One that cannot be read.
    Unreadable(String),
}

impl Charset {
    pub(super) fn of_label(label: &str) -> Self {
        let lower = label.trim().to_ascii_lowercase();
        match lower.as_str() {
            "us-ascii" | "ascii" | "binary" | "" => return Self::Ascii,
            "utf-16" | "ucs-2" | "unicode" | "csunicode" | "iso-10646-ucs-2" => return Self::Marked,
            _ => {}
        }
        match Encoding::for_label_no_replacement(lower.as_bytes()) {
            Some(encoding) if encoding == UTF_8 => Self::Ascii,
            Some(encoding) if encoding != X_USER_DEFINED => Self::Named(encoding),
            _ => Self::Unreadable(lower.chars().take(32).collect()),
        }
    }
}

const UTF_8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// How much of UTF-16 that only its name makes so is looked at before it is believed: some paragraphs of Chinese hold a
/// space, a digit or a line end, and thereby a zero byte, which no text in ASCII or UTF-8 does.
const WIDE_SEEN_BYTES: usize = 2048;

/// Whether a body is UTF-16 because a header field says so, and not by a byte order mark. Whoever asks may have chosen that
/// field, and read so, text in ASCII is letters in which nothing is found.
fn is_wide_by_name(charset: &Charset, start: &[u8]) -> bool {
    let marked = matches!(start, [0xEF, 0xBB, 0xBF, ..] | [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]);
    !marked && matches!(charset, Charset::Named(encoding) if [UTF_16LE, UTF_16BE].contains(encoding))
}

/// Reads one body into UTF-8. A byte order mark stays, as UTF-8's own.
#[derive(Debug)]
pub(super) enum Reader {
    /// Nothing to do.
    Passing,
    /// The first bytes decide.
    Undecided(Charset, Vec<u8>),
    Decoding(Box<Transcoder>),
}

pub(super) struct Transcoder {
    decoder: Decoder,
    /// Bytes read before those at hand.
    offset: u64,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcoder")
            .field("encoding", &self.decoder.encoding().name())
            .finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn of(charset: &Charset) -> Self {
        Self::Undecided(charset.clone(), Vec::new())
    }

    /// Appends what `chunk` says, where that is not what it is: gives false where `chunk` stands for itself.
    pub(super) fn read(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<bool, MaskError> {
        if let Self::Undecided(charset, held) = self {
            // Almost every body: no mark begins with these bytes.
            if held.is_empty()
                && *charset == Charset::Ascii
                && chunk.first().is_some_and(|b| !matches!(b, 0xEF | 0xFE | 0xFF))
            {
                *self = Self::Passing;
                return Ok(false);
            }
            held.extend_from_slice(chunk);
            if held.is_empty() || (held.len() < UTF_8_MARK.len() && !last) {
                return Ok(true);
            }
            let wide = is_wide_by_name(charset, held);
            if wide && !held.contains(&0) && held.len() < WIDE_SEEN_BYTES && !last {
                return Ok(true);
            }
            if wide && !held.contains(&0) {
                return Err(MaskError::Encoding("UTF-16 that begins without any ASCII in it".to_owned()));
            }
            let held = std::mem::take(held);
            let next = decided(charset, &held)?;
            *self = next;
            if !self.read(&held, last, out)? {
                out.extend_from_slice(&held);
            }
            return Ok(true);
        }
        match self {
            Self::Decoding(transcoder) => transcoder.read(chunk, last, out).map(|()| true),
            Self::Passing | Self::Undecided(..) => Ok(false),
        }
    }
}

/// What to do with a body that begins so.
fn decided(charset: &Charset, start: &[u8]) -> Result<Reader, MaskError> {
    let encoding = match (start, charset) {
        ([0xEF, 0xBB, 0xBF, ..], _) => return Ok(Reader::Passing),
        ([0xFF, 0xFE, ..], _) => UTF_16LE,
        ([0xFE, 0xFF, ..], _) => UTF_16BE,
        (_, Charset::Ascii) => return Ok(Reader::Passing),
        (_, Charset::Named(encoding)) => encoding,
        (_, Charset::Marked) => {
            return Err(MaskError::Encoding("UTF-16 without a byte order mark".to_owned()));
        }
        (_, Charset::Unreadable(name)) => return Err(MaskError::Encoding(name.clone())),
    };
    let decoder = encoding.new_decoder_without_bom_handling();
    Ok(Reader::Decoding(Box::new(Transcoder { decoder, offset: 0 })))
}

impl Transcoder {
    fn read(&mut self, mut chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), MaskError> {
        loop {
            let start = out.len();
            let room = self.decoder.max_utf8_buffer_length_without_replacement(chunk.len());
            out.resize(start + room.unwrap_or(4 * chunk.len() + 16), 0);
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(chunk, &mut out[start..], last);
            out.truncate(start + written);
            self.offset += read as u64;
            chunk = &chunk[read..];
            match result {
                DecoderResult::InputEmpty => return Ok(()),
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => {
                    let name = self.decoder.encoding().name();
                    return Err(MaskError::Encoding(format!("malformed {name} before byte {}", self.offset)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(label: &str, pieces: &[&[u8]]) -> Result<Vec<u8>, MaskError> {
        let mut reader = Reader::of(&Charset::of_label(label));
        let mut out = Vec::new();
        for piece in pieces {
            if !reader.read(piece, false, &mut out)? {
                out.extend_from_slice(piece);
            }
        }
        reader.read(&[], true, &mut out)?;
        Ok(out)
    }

    #[test]
    fn every_encoding_is_read_the_same_in_any_split() {
        let cases: [(&str, &[u8], &str); 10] = [
            ("utf-8", "zoë".as_bytes(), "zoë"),
            ("iso-8859-1", b"zo\xEB", "zoë"),
            ("windows-1251", b"\xEF\xF0\xE8", "при"),
            ("shift_jis", b"\x93\xFA\x96{", "日本"),
            ("gbk", b"\xD6\xD0", "中"),
            ("utf-16le", b"z\0o\0", "zo"),
            ("utf-16be", b"\0z\0o", "zo"),
            ("utf-16", b"\xFE\xFF\0z\0o", "\u{feff}zo"),
            ("", b"\xFF\xFEz\0o\0", "\u{feff}zo"),
            ("iso-8859-1", b"\xEF\xBB\xBFzo\xC3\xAB", "\u{feff}zoë"),
        ];
        for (label, bytes, text) in cases {
            assert_eq!(all(label, &[bytes]).unwrap(), text.as_bytes(), "{label}");
            for cut in 0..=bytes.len() {
                let got = all(label, &[&bytes[..cut], &bytes[cut..]]).unwrap();
                assert_eq!(got, text.as_bytes(), "{label} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(all(label, &single).unwrap(), text.as_bytes(), "{label}");
        }
    }

    #[test]
    fn what_is_malformed_unknown_or_ambiguous_is_refused() {
        for (label, bytes) in [
            ("shift_jis", &b"ok \x93"[..]),
            ("gbk", b"\xD6"),
            ("utf-16le", b"z\0o"),
            ("utf-16le", b"\x00\xD8z\0"),
            ("utf-16", b"z\0o\0"),
            ("utf-7", b"+AGE-"),
            ("utf-32", b"z\0\0\0"),
            ("x-user-defined", b"z"),
            ("klingon", b"z"),
        ] {
            assert!(matches!(all(label, &[bytes]), Err(MaskError::Encoding(_))), "{label}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert!(all(label, &single).is_err(), "{label}");
        }
        assert_eq!(all("utf-7", &[]).unwrap(), b"", "no byte needs no encoding");
    }
}
