//! The approval desk's small durable state, kept in the record's store. Says nothing is kept before it is on disk.

use std::future::ready;

use crate::approval::{Change, Durable, Ledger, LedgerError, Row, Said};
use crate::record::entry::{CalledOff, Event, Voted};
use crate::record::{self, RecordError, Recorder, StateOp};

/// The desk's ledger on the record's store.
pub(super) struct RecordLedger(pub(super) Recorder);

fn failed(error: &RecordError) -> LedgerError {
    LedgerError(error.to_string())
}

fn durable(written: Result<record::Durable, RecordError>) -> Durable {
    match written {
        Ok(durable) => Box::pin(async move { durable.await.map_err(|error| failed(&error)) }),
        Err(error) => Box::pin(ready(Err(failed(&error)))),
    }
}

impl Ledger for RecordLedger {
    fn write(&self, change: Change) -> Durable {
        let put = change.put.into_iter().map(|(key, bytes)| StateOp::Put(key.into(), bytes));
        let removed = change.remove.into_iter().map(|key| StateOp::Remove(key.into()));
        let said = change.said.map(event).into_iter().collect();
        durable(self.0.append_with(put.chain(removed).collect(), said))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Row>, LedgerError> {
        let rows = self.0.scan(prefix.as_bytes()).map_err(|error| failed(&error))?;
        Ok(rows.into_iter().map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value)).collect())
    }
}

fn event(said: Said) -> Event {
    match said {
        Said::Voted(vote) => Event::Voted(Voted {
            demand: vote.demand,
            entry: vote.entry,
            at: vote.at.as_microsecond(),
            person: vote.person,
            approve: vote.approve,
            comment: vote.comment,
        }),
        Said::CalledOff(off) => Event::CalledOff(CalledOff {
            demand: off.demand,
            entry: off.entry,
            at: off.at.as_microsecond(),
            by: off.by,
            revoked: off.revoked,
        }),
    }
}
