//! record.
pub mod entry;
