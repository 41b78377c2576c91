//! Demands as they are made and as they are kept. Refuses what another version wrote.

use jiff::Timestamp;

use super::DeskError;
use crate::approval::demand::{Asker, Demand, DemandDraft, State};
use crate::approval::ledger::LedgerError;
use crate::approval::quorum::{self, Electorate};
use crate::operation::DemandId;
use crate::policy::nouns::Hold;

/// Where demands are in the ledger.
pub(super) const PREFIX: &str = "approval/demand/";

/// First byte of a kept demand: the form of the rest.
const FORM: u8 = 3;

pub(super) fn key_of(id: DemandId) -> String {
    format!("{PREFIX}{id}")
}

pub(super) fn encode(demand: &Demand) -> Result<Vec<u8>, LedgerError> {
    postcard::to_extend(demand, vec![FORM]).map_err(|error| LedgerError(error.to_string()))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Demand, LedgerError> {
    match bytes {
        [FORM, demand @ ..] => postcard::from_bytes(demand).map_err(|error| LedgerError(error.to_string())),
        _ => Err(LedgerError("it was written by another version".into())),
    }
}

pub(super) fn make(
    draft: DemandDraft<'_>,
    electorate: &dyn Electorate,
    now: Timestamp,
) -> Result<Demand, DeskError> {
    let mut approvals = draft.approvals;
    approvals.sort();
    approvals.dedup();
    let missing = approvals.iter().find(|name| electorate.approval(name).is_none());
    if let Some(name) = missing {
        return Err(DeskError::NoApproval(name.clone()));
    }
    let lasts =
        quorum::shortest(&approvals, electorate).ok_or_else(|| DeskError::NoApproval("(none)".into()))?;
    let mut rules = draft.rules;
    rules.sort();
    rules.dedup();
    let retries =
        |name: &String| electorate.approval(name).is_some_and(|approval| approval.hold == Hold::Retry);
    Ok(Demand {
        id: DemandId::now(),
        entry: draft.entry,
        session: draft.session,
        asker: Asker::of(draft.subject, draft.guard),
        reason: draft.reason,
        target: draft.target,
        operations: draft.operations,
        digest: draft.digest,
        basis: quorum::basis(&rules, electorate),
        rules,
        message: draft.message,
        window: quorum::window(&approvals, electorate),
        retry: approvals.iter().any(retries),
        approvals,
        created: now,
        expires: quorum::end_of(now, lasts),
        shown: draft.shown,
        votes: Vec::new(),
        state: State::Pending,
    })
}
