//! Content codings (RFC 9110 section 8.4) undone, piece by piece and under bounds: gzip, deflate, br and zstd, at most
//! two on top of each other.
//!
//! Refuses what has a second reading or none: an unknown coding, a stream that ends early, bytes after its end, a wrong
//! checksum, a window or an output beyond its bound. A caller takes one bounded piece at a time, so that no input makes
//! much output at once.

mod layer;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::layer::Layer;
use crate::limits::{
    CODINGS_MAX, DECODED_BYTES_MAX, DECODED_GRACE_BYTES, DECODED_PIECE_BYTES, DECODED_RATIO_MAX,
};

/// What an upstream may be told that the gate can read. Quality values say nothing: all cost the gate about the same.
pub const ACCEPTED: &str = "gzip, deflate, br, zstd";

/// A content coding that can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// `gzip` and `x-gzip` (RFC 1952).
    Gzip,
    /// `deflate`: zlib (RFC 1950), and the bare deflate (RFC 1951) that some servers mean by it.
    Deflate,
    /// `br` (RFC 7932), without large windows.
    Br,
    /// `zstd` (RFC 8878), windows of at most 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    /// Its name in `Content-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// The codings of one body, in the order they were applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Codings([Option<Coding>; CODINGS_MAX]);

/// A body that is coded in a way that cannot be undone: the name of the coding, or a word on how many there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body's Content-Encoding cannot be read ({0}); gzip, deflate, br and zstd can, at most two of them"
)]
pub struct UnknownCoding(pub String);

impl Codings {
    /// Reads the values of all `Content-Encoding` fields.
    ///
    /// # Errors
    /// [`UnknownCoding`] where one of them is not known, or there are too many.
    pub fn read<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Result<Self, UnknownCoding> {
        let mut found = Self::default();
        let mut slots = found.0.iter_mut();
        for value in values {
            for name in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                let coding = match name.to_ascii_lowercase().as_slice() {
                    b"" | b"identity" => continue,
                    b"gzip" | b"x-gzip" => Coding::Gzip,
                    b"deflate" => Coding::Deflate,
                    b"br" => Coding::Br,
                    b"zstd" => Coding::Zstd,
                    _ => {
                        let shown: String = String::from_utf8_lossy(name).chars().take(32).collect();
                        return Err(UnknownCoding(shown.escape_debug().to_string()));
                    }
                };
                match slots.next() {
                    Some(slot) => *slot = Some(coding),
                    None => return Err(UnknownCoding("more than two on top of each other".to_owned())),
                }
            }
        }
        Ok(found)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_identity(self) -> bool {
        self.0[0].is_none()
    }

    /// Them, in the order they were applied.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Coding> {
        self.0.into_iter().flatten()
    }
}

impl std::fmt::Display for Codings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.iter().map(Coding::name).collect();
        f.write_str(if names.is_empty() { "identity" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// Why a coded body cannot be read. What was taken of it before is what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not what its coding says, or its checksum is wrong.
    #[error("the {coding} body is damaged: {what}", coding = .0.name(), what = .1)]
    Damaged(Coding, &'static str),
    /// It ends in the middle.
    #[error("the {coding} body ends too early", coding = .0.name())]
    Truncated(Coding),
    /// Something follows its end.
    #[error("bytes follow the end of the {coding} body", coding = .0.name())]
    Trailing(Coding),
    /// It unpacks to far more than honest bodies do.
    #[error(
        "the {coding} body unpacks to more than {ratio} times its size", coding = .0.name(), ratio = DECODED_RATIO_MAX
    )]
    Bomb(Coding),
    /// It unpacks to more than any body may.
    #[error("the coded body unpacks to more than {max} bytes", max = DECODED_BYTES_MAX)]
    TooLong,
}

/// Undoes the codings of one body.
pub struct Decoder {
    /// The coding that was applied last comes first.
    layers: Vec<Layer>,
    input: Bytes,
    /// Bytes given so far.
    given: u64,
    total_max: u64,
    failed: Option<DecodeError>,
}

impl Decoder {
    /// A decoder for one body.
    #[must_use]
    pub fn new(codings: Codings) -> Self {
        Self {
            layers: codings.iter().rev().map(Layer::new).collect(),
            input: Bytes::new(),
            given: 0,
            total_max: DECODED_BYTES_MAX,
            failed: None,
        }
    }

    /// Takes the next bytes of the body. Only after [`Decoder::take`] said that nothing more is to be had without.
    pub fn give(&mut self, chunk: Bytes) {
        debug_assert!(self.input.is_empty(), "what was given before must be taken first");
        self.given += chunk.len() as u64;
        self.input = chunk;
    }

    /// Appends one piece of at most [`DECODED_PIECE_BYTES`]; gives whether there was one. Where there was none, it
    /// needs more input.
    ///
    /// # Errors
    /// [`DecodeError`], now and ever after.
    pub fn take(&mut self, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let start = out.len();
        out.resize(start + DECODED_PIECE_BYTES, 0);
        let pulled = pull(&mut self.layers, &mut self.input, &mut out[start..]);
        out.truncate(start + pulled.unwrap_or(0));
        let checked = pulled.and_then(|pulled| self.within_bounds().map(|()| pulled > 0));
        if let Err(error) = checked {
            out.truncate(start);
            self.failed = Some(error);
        }
        checked
    }

    fn within_bounds(&self) -> Result<(), DecodeError> {
        for layer in &self.layers {
            // A layer's output is measured by what came over the wire, not by what the layer around it made of that.
            if layer.made > DECODED_GRACE_BYTES + DECODED_RATIO_MAX * self.given {
                return Err(DecodeError::Bomb(layer.coding));
            }
            if layer.made > self.total_max {
                return Err(DecodeError::TooLong);
            }
        }
        Ok(())
    }

    /// The body is complete. A body without one byte is fine in any coding.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] where it is not whole, and whatever failed before.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.layers.iter().find(|layer| !layer.is_whole()) {
            Some(layer) if self.given > 0 => Err(DecodeError::Truncated(layer.coding)),
            _ => Ok(()),
        }
    }
}

/// Fills `out` from the innermost layer, which reads from the ones before it. Nothing written: more input is needed.
fn pull(layers: &mut [Layer], input: &mut Bytes, out: &mut [u8]) -> Result<usize, DecodeError> {
    let Some((last, outer)) = layers.split_last_mut() else {
        let long = input.len().min(out.len());
        out[..long].copy_from_slice(&input.split_to(long));
        return Ok(long);
    };
    if outer.is_empty() {
        return last.step(input, out);
    }
    loop {
        let mut between = std::mem::take(&mut last.between);
        let made = last.step(&mut between, out)?;
        last.between = between;
        if made > 0 {
            return Ok(made);
        }
        let mut piece = vec![0; DECODED_PIECE_BYTES];
        let got = pull(outer, input, &mut piece)?;
        if got == 0 {
            return Ok(0);
        }
        piece.truncate(got);
        last.between = piece.into();
    }
}

#[cfg(test)]
mod tests;
