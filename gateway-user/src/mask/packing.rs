//! How a body is packed on the wire, content codings around a character encoding around a kind of content, and one body
//! being unpacked and masked.
//!
//! Gives one bounded piece after the other, whatever a chunk unpacks to. What cannot be unpacked is a [`MaskError`].

use bytes::Bytes;

use super::charset::Charset;
use super::stream::{Hits, Stream};
use super::{MaskError, Media, Plan};
use crate::limits::DECODED_PIECE_BYTES;
use crate::wire::coding::{Codings, Decoder, UnknownCoding};
use crate::wire::media_type::{MediaType, Unclear};

/// How a body is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    codings: Result<Codings, UnknownCoding>,
    charset: Charset,
    media: Media,
    /// The value of its Content-Type field, where that names an encoding which unpacking changes.
    renamed: Option<String>,
}

impl Packing {
    /// Reads the values of Content-Type and of all Content-Encoding fields.
    #[must_use]
    pub fn new<'v>(content_type: Option<&str>, encodings: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let (charset, renamed) = content_type.map_or((Charset::Ascii, None), charset);
        let media = Media::of(content_type);
        // What says how it is to be read is text.
        let media = if media == Media::Opaque && charset != Charset::Ascii { Media::Text } else { media };
        Self { codings: Codings::read(encodings), charset, media, renamed }
    }

    /// Reads the fields of a head.
    #[must_use]
    pub fn of<'v>(fields: impl Iterator<Item = (&'v str, &'v [u8])>) -> Self {
        let (mut content_type, mut encodings) = (None, Vec::new());
        for (name, value) in fields {
            if name.eq_ignore_ascii_case("content-type") {
                // Several, or one beyond ASCII: nobody knows which counts, so it is read as any bytes.
                content_type = match content_type {
                    None => Some(std::str::from_utf8(value).unwrap_or_default()),
                    Some(_) => Some(""),
                };
            } else if name.eq_ignore_ascii_case("content-encoding") {
                encodings.push(value);
            }
        }
        Self::new(content_type, encodings)
    }

    /// Its content codings.
    ///
    /// # Errors
    /// [`UnknownCoding`] where they cannot be undone.
    pub fn codings(&self) -> Result<Codings, &UnknownCoding> {
        self.codings.as_ref().copied()
    }

    pub(super) fn media(&self) -> &Media {
        &self.media
    }

    pub(super) fn charset(&self) -> &Charset {
        &self.charset
    }

    /// What Content-Type must say once the body is unpacked, where that differs: it is UTF-8 then.
    #[must_use]
    pub fn renamed(&self) -> Option<&str> {
        self.renamed.as_deref()
    }

    /// How the body is packed once it is unpacked: not at all.
    #[must_use]
    pub fn unpacked(&self) -> Self {
        Self {
            codings: Ok(Codings::default()),
            charset: Charset::Ascii,
            media: self.media.clone(),
            renamed: None,
        }
    }
}

/// The encoding that a Content-Type names, and its value with UTF-8 in that place, where that is another.
fn charset(content_type: &str) -> (Charset, Option<String>) {
    let read = MediaType::read(content_type);
    let charset = match read.parameter("charset") {
        Ok(None) => Charset::Ascii,
        Ok(Some(label)) => Charset::of_label(label.trim_matches('\'')),
        Err(Unclear) if content_type.to_ascii_lowercase().contains("charset") => {
            Charset::Unreadable("not clearly named".to_owned())
        }
        Err(Unclear) => Charset::Ascii,
    };
    match charset {
        Charset::Ascii => (charset, None),
        // What cannot be written again is not believed to be read.
        _ => match read.with("charset", "utf-8") {
            Some(renamed) => (charset, Some(renamed)),
            None => (Charset::Unreadable("not clearly named".to_owned()), None),
        },
    }
}

/// One body on its way: unpacked and masked.
pub struct Unpacker {
    state: State,
    stream: Stream,
    piece: Vec<u8>,
}

enum State {
    /// No coding: what was given goes through in pieces as long as those of a coding.
    Plain(Bytes),
    Coded(Box<Decoder>),
    Refused(UnknownCoding),
}

impl Plan {
    /// Starts on one body that is packed like this.
    #[must_use]
    pub fn unpack(&self, packing: &Packing) -> Unpacker {
        let state = match &packing.codings {
            Err(unknown) => State::Refused(unknown.clone()),
            Ok(codings) if codings.is_identity() => State::Plain(Bytes::new()),
            Ok(codings) => State::Coded(Box::new(Decoder::new(*codings))),
        };
        let stream = Stream::new(self, packing.media.clone(), &packing.charset);
        Unpacker { state, stream, piece: Vec::new() }
    }

    /// Masks a body that is known whole, as long as no more than `max` bytes of it come out.
    ///
    /// # Errors
    /// [`MaskError`] where it cannot be masked, or is longer.
    pub fn mask_whole(
        &self,
        packing: &Packing,
        body: Bytes,
        max: usize,
    ) -> Result<(Vec<u8>, Hits), MaskError> {
        let mut unpacker = self.unpack(packing);
        let mut out = Vec::new();
        unpacker.give(body);
        let mut more = true;
        while more {
            more = unpacker.take(&mut out)?;
            if out.len() > max {
                return Err(MaskError::TooLarge { max });
            }
        }
        let hits = unpacker.finish(&mut out)?;
        Ok((out, hits))
    }
}

impl Unpacker {
    /// Takes the next bytes of the body. Only after [`Unpacker::take`] said that there is no more.
    pub fn give(&mut self, chunk: Bytes) {
        match &mut self.state {
            State::Plain(at_hand) => *at_hand = chunk,
            State::Coded(decoder) => decoder.give(chunk),
            State::Refused(_) => {}
        }
    }

    /// Appends what is certain of the next piece; gives whether there may be another without more bytes.
    ///
    /// # Errors
    /// [`MaskError`] where the body cannot be masked; what `out` got before is clean.
    pub fn take(&mut self, out: &mut Vec<u8>) -> Result<bool, MaskError> {
        match &mut self.state {
            State::Plain(at_hand) => {
                let piece = at_hand.split_to(at_hand.len().min(DECODED_PIECE_BYTES));
                self.stream.push(&piece, out).map(|()| !at_hand.is_empty())
            }
            State::Coded(decoder) => {
                self.piece.clear();
                if !decoder.take(&mut self.piece)? {
                    return Ok(false);
                }
                self.stream.push(&self.piece, out).map(|()| true)
            }
            State::Refused(unknown) => Err(unknown.clone().into()),
        }
    }

    /// The body is complete: appends what was held back, and tells what was hidden.
    ///
    /// # Errors
    /// As [`Unpacker::take`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Hits, MaskError> {
        match &self.state {
            State::Coded(decoder) => decoder.finish()?,
            State::Plain(_) | State::Refused(_) => {}
        }
        self.stream.finish(out)
    }

    /// What was hidden so far.
    #[must_use]
    pub fn hits(&self) -> Hits {
        self.stream.hits()
    }
}
