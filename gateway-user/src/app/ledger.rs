//! The approval desk's small durable state, kept in the record's store. Says nothing is kept before it is on disk.

use std::future::ready;

use crate::approval::{CastVote, Durable, Ledger, LedgerError};
use crate::record::entry::{Event, Voted};
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
    fn put(&self, key: &str, bytes: Vec<u8>) -> Durable {
        durable(self.0.put(key.as_bytes(), &bytes))
    }

    fn remove(&self, key: &str) -> Durable {
        durable(self.0.remove(key.as_bytes()))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let rows = self.0.scan(prefix.as_bytes()).map_err(|error| failed(&error))?;
        Ok(rows.into_iter().map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value)).collect())
    }

    fn voted(&self, vote: CastVote, key: &str, demand: Option<Vec<u8>>) -> Durable {
        let state = match demand {
            Some(bytes) => StateOp::Put(key.into(), bytes),
            None => StateOp::Remove(key.into()),
        };
        let event = Event::Voted(Voted {
            demand: vote.demand,
            entry: vote.entry,
            at: vote.at.as_microsecond(),
            person: vote.person,
            approve: vote.approve,
            comment: vote.comment,
        });
        durable(self.0.append_with(vec![state], vec![event]))
    }
}
