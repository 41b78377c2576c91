//! Hides what policy names in bodies while they stream: by JSON path, by key name, and by detectors.
//!
//! Every byte outside a hidden value is passed on unchanged, and the result does not depend on where the body was cut.
//! Never holds a whole body, and lets nothing go that is not certain to be clean: a body it cannot read is a
//! [`MaskError`]. `docs/MASKING.md` has the rules in full.

mod charset;
mod csv;
mod escape;
mod events;
mod find;
mod form;
mod hash;
mod header;
mod json;
mod look;
mod media;
mod multipart;
mod packing;
mod path;
mod plan;
mod scalar;
mod scrub;
mod stream;
mod text;
mod window;
mod xml;

pub use hash::HashKey;
pub use media::Media;
pub use packing::{Packing, Unpacker};
pub use plan::{Find, Plan};
pub use scrub::{scrub, scrub_header};
pub use stream::{Hits, Stream};

use crate::wire::coding::{DecodeError, UnknownCoding};

#[cfg(test)]
mod tests;

/// Why a body cannot be masked. What had been let go before is clean; nothing may follow it. The upstream sent what
/// policy cannot control: answer 502, or abort where the response has begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// The body is not JSON where it must be.
    #[error(
        "the body is not JSON: {what} at byte {at}; a body under a mask must be readable, so it was stopped here"
    )]
    NotJson {
        /// Offset in the body.
        at: u64,
        /// What was met.
        what: &'static str,
    },
    /// The body ends in the middle of a JSON value.
    #[error("the JSON body ends in the middle of a value, after {at} bytes")]
    Truncated {
        /// Length of the body.
        at: u64,
    },
    /// Deeper than [`crate::limits::JSON_DEPTH_MAX`].
    #[error("the JSON body nests deeper than {max} levels at byte {at}", max = crate::limits::JSON_DEPTH_MAX)]
    TooDeep {
        /// Offset in the body.
        at: u64,
    },
    /// A key name or number longer than [`crate::limits::MASK_HOLD_BACK_BYTES_MAX`].
    #[error("a JSON {what} at byte {at} is longer than {max} bytes", max = crate::limits::MASK_HOLD_BACK_BYTES_MAX)]
    TooLong {
        /// Offset in the body.
        at: u64,
        /// `key` or `number`.
        what: &'static str,
    },
    /// A mask by field met a body that has none, or one by JSON path met a body that is no JSON.
    #[error(
        "a mask by field applies here and the body has no fields that it could name, so it cannot be honoured; use a \
         mask with `find` for bodies of other kinds, or narrow its targets"
    )]
    NoFields,
    /// The text is in a character encoding that cannot be read, or is not what it says it is.
    #[error("the body's character encoding cannot be read ({0})")]
    Encoding(String),
    /// A content coding that cannot be undone.
    #[error(transparent)]
    Coding(#[from] UnknownCoding),
    /// A content coding that was not what it says, or too much.
    #[error(transparent)]
    Decoding(#[from] DecodeError),
    /// The body is not what its Content-Type says, or can be read in two ways.
    #[error("the body cannot be read as {kind}: {what} at byte {at}")]
    Unreadable {
        /// `a form`, `CSV`, ...
        kind: &'static str,
        /// Offset in the unpacked body.
        at: u64,
        /// What was met.
        what: &'static str,
    },
    /// A body that must be known whole is larger than the bound.
    #[error("the body unpacks to more than {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
}
