//! Establishes who asks: the process behind a local flow, and the user behind a bearer token.
//!
//! Unknown stays unknown: what cannot be established beyond doubt is `None` or an error, never a guess.

mod accounts;
mod cgroup;
mod claims;
pub mod container;
mod digest;
pub(crate) mod fetch;
pub mod holders;
mod keys;
mod keyset;
mod proc;
pub mod process;
pub mod token;

pub use accounts::account_name;
