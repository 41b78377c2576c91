//! Holds an operation until humans have said yes to exactly that operation. Never lets its requester vote, counts one
//! human once, and spends one approval once.
//!
//! `demand` is what waits, `digest` names the exact operation, `quorum` weighs votes, `book` keeps what is open within
//! bounds, `desk` moves it all, durably first.

mod book;
mod demand;
mod desk;
mod digest;
mod ledger;
mod quorum;
mod waiting;

pub use demand::{Asker, Demand, DemandDraft, Process, Shown, ShownBody, State, Vote};
pub use desk::{Clock, Desk, DeskError};
pub use digest::{Key, KeyError};
pub use ledger::{CastVote, Durable, Ledger, LedgerError};
pub use quorum::{Account, Electorate, Share, Standing, VoteError};
pub use waiting::{Approved, Outcome, Waiting};
