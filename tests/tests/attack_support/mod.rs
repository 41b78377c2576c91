//! What the attacks are made against, and where their outcomes are kept.
#![allow(unreachable_pub, reason = "used by one test program")]

pub mod arena;
pub mod log;
pub mod table;
pub mod who;
