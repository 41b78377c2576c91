//! policy.
pub mod nouns;
