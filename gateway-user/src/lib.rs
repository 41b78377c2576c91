//! Tidegate: lets through what policy allows, and falls shut by itself.
//!
//! The enforcer's library. Every operation goes through five steps, and the modules are laid out in that order:
//! intercept, identify, judge, act, record. `docs/ARCHITECTURE.md` is the map.

pub mod admin;
pub mod app;
pub mod approval;
pub mod block;
pub mod cli;
pub mod config;
pub mod credential;
pub mod expression;
pub mod identity;
pub mod inspect;
pub mod intercept;
pub mod json;
pub mod judge;
pub mod keeper;
pub mod kernel;
pub mod limits;
pub mod mask;
pub mod notify;
pub mod operation;
pub mod policy;
pub mod protocol;
pub mod record;
pub mod rewrite;
pub mod service;
pub mod session;
pub mod signals;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod upstream;
pub mod wire;
