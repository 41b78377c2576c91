//! The contract between the kernel programs and the enforcer, and the decisions the programs take.
//!
//! Both sides compile these very definitions, so neither can read the other's bytes differently. Refuses to compile
//! where a type that crosses the boundary has padding or another size than the one written down.
#![no_std]
#![warn(missing_docs)]

pub mod abi;
pub mod choose;
mod counter;
