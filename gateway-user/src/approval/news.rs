//! What the desk tells others about its demands: one word for each turn of one. Tells in the same commit that makes the
//! turn, so that no kill parts the two.

use super::demand::Demand;
use super::ledger::Row;

/// The turn a demand took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It lies before people.
    Requested,
    /// Its votes are enough.
    Approved,
    /// Somebody said no.
    Rejected,
    /// Nobody answered in time.
    Expired,
    /// It was taken back before it was approved.
    Withdrawn,
    /// What it was granted was taken back, or its rules changed.
    Revoked,
}

impl Turn {
    /// Its name in events: `approval.requested`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
        }
    }
}

/// One turn of one demand.
#[derive(Debug, Clone, Copy)]
pub struct News<'a> {
    /// Which turn.
    pub turn: Turn,
    /// The demand, as it is after it.
    pub demand: &'a Demand,
    /// Who did it, where somebody did.
    pub by: Option<&'a str>,
    /// What they said, masked.
    pub comment: Option<&'a str>,
}

/// Hears of every turn.
pub trait Listener: Send + Sync {
    /// Rows to be kept in the commit that makes the turn. Never waits.
    fn rows(&self, news: &News<'_>) -> Vec<Row>;
    /// These rows are on disk.
    fn kept(&self, rows: Vec<Row>);
}

/// Nobody listens.
impl Listener for () {
    fn rows(&self, _news: &News<'_>) -> Vec<Row> {
        Vec::new()
    }

    fn kept(&self, _rows: Vec<Row>) {}
}
