//! Codecs of the wire: pure, bounded, free of I/O. What they cannot read in exactly one way they refuse.

pub mod coding;
pub mod fault;
pub mod field;
pub mod http1;
pub mod media_type;
pub mod uri;
