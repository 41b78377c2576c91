//! Holds an operation until humans have said yes to exactly that operation, or to all like it for a while. Never lets its
//! requester vote, counts one human once, and spends one approval once.
//!
//! `demand` is what waits, `digest` names the exact operation, `quorum` weighs votes, `book` keeps what is open within
//! bounds, `spool` keeps bodies sealed, `desk` moves it all, durably first.

mod book;
mod demand;
mod desk;
mod digest;
mod ledger;
mod news;
mod priors;
mod quorum;
mod spool;
mod waiting;

pub use book::Queue;
pub use demand::{Asker, Demand, DemandDraft, Process, Shown, ShownBody, State, Vote};
pub use desk::{Caller, Clock, Desk, DeskError, Parts, Place};
pub use digest::{Key, KeyError};
pub use ledger::{CalledOff, CastVote, Change, Durable, Ledger, LedgerError, Row, Said};
pub use news::{Listener, News, Turn};
pub use priors::Prior;
pub use quorum::{Account, Ballot, Electorate, Share, Standing, VoteError, owners};
pub use spool::{SPOOL, Spool, SpoolError};
pub use waiting::{Approved, Outcome, Waiting};
