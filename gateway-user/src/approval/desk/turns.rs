//! The turns of a demand: votes, expiry, another policy, use, and being taken back. One at a time, each durable first.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::form::{encode, key_of};
use super::{Desk, DeskError};
use crate::approval::book::Word;
use crate::approval::demand::{Asker, Demand, State};
use crate::approval::ledger::{CalledOff, Change, Durable, LedgerError, Said};
use crate::approval::news::{News, Turn};
use crate::approval::quorum::{
    self, Account, Ballot, Electorate, Standing, VoteError, Weighed, is_behind, may_decide,
};
use crate::operation::DemandId;

/// Who takes a demand, a grant or a window back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its effective user id.
    pub uid: u32,
    /// Its account, where that is known beyond doubt.
    pub account: Option<Account>,
    /// Root or the gate's own user.
    pub operator: bool,
    /// Its process is known, and no guard holds it. Any other is taken for nobody but the process that asked.
    pub free: bool,
}

impl Desk {
    /// Takes one vote, records it, and when that is durable lets it take effect. Goes on to its end also when the
    /// caller leaves.
    ///
    /// # Errors
    /// The vote does not count, and why; nothing has changed then.
    pub async fn vote(
        &self,
        id: DemandId,
        account: Account,
        ballot: Ballot,
        electorate: Arc<dyn Electorate>,
    ) -> Result<Standing, VoteError> {
        let desk = self.clone();
        tokio::spawn(async move { desk.cast(id, account, ballot, &*electorate).await })
            .await
            .unwrap_or_else(|error| Err(LedgerError(error.to_string()).into()))
    }

    /// Takes a demand back before it is decided, or after (a grant, a window). The first is for its requester and
    /// operators, the second for its approvers and operators. Goes on to its end also when the caller leaves.
    ///
    /// # Errors
    /// It is not the caller's to take back, or that cannot be kept; nothing has changed then.
    pub async fn call_off(
        &self,
        id: DemandId,
        revoke: bool,
        caller: Caller,
        electorate: Arc<dyn Electorate>,
    ) -> Result<String, VoteError> {
        let desk = self.clone();
        tokio::spawn(async move { desk.take_back(id, revoke, caller, &*electorate).await })
            .await
            .unwrap_or_else(|error| Err(LedgerError(error.to_string()).into()))
    }

    /// Ends what has run out. Called by those who wait and by [`Desk::hold`]; must be called now and then also for what
    /// nobody waits on, whose body else stays readable. Goes on to its end also when the caller leaves.
    pub async fn sweep(&self) {
        if self.book().over(self.now()).is_empty() {
            return;
        }
        let desk = self.clone();
        let swept = tokio::spawn(async move {
            let _turn = desk.0.turn.lock().await;
            let over = desk.book().over(desk.now());
            let ends: Vec<_> =
                over.into_iter().map(|id| desk.end(id, Word::Expired, Turn::Expired)).collect();
            for end in ends {
                log_failure(end.await);
            }
        });
        log_failure(swept.await.map_err(|error| LedgerError(error.to_string())));
    }

    /// Holds every demand against a new set: ends those whose rules changed (their votes are void), counts the votes of
    /// the others again by today's approvers.
    pub async fn recheck(&self, electorate: &dyn Electorate) {
        let _turn = self.0.turn.lock().await;
        let all = self.book().all();
        for demand in all {
            let mut next = (*demand).clone();
            match quorum::grant_if_met(&mut next, electorate, self.now()) {
                Ok(()) if next != *demand => log_failure(self.grant(next, None).await),
                Ok(()) if self.stands(&demand, &demand, electorate) => {}
                Ok(()) | Err(_) => log_failure(self.end(demand.id, Word::Superseded, Turn::Revoked).await),
            }
        }
    }

    /// Ends a demand that can no longer come to anything. Nobody can vote on it or use it from now on.
    pub async fn withdraw(&self, id: DemandId) {
        let _turn = self.0.turn.lock().await;
        log_failure(self.end(id, Word::Superseded, Turn::Revoked).await);
    }

    /// Marks a grant used; looks at a window again.
    pub(in crate::approval) async fn spend(
        &self,
        id: DemandId,
        asker: &Asker,
        electorate: &dyn Electorate,
    ) -> Result<(), DeskError> {
        let _turn = self.0.turn.lock().await;
        let demand = self.show(id).ok_or(DeskError::Gone)?;
        if !demand.is_approved() {
            return Err(DeskError::Gone);
        }
        let counts =
            quorum::tally_for(&demand, asker, electorate).is_ok_and(|shares| quorum::is_met(&shares));
        if !counts || !self.stands(&demand, &demand, electorate) {
            return Err(DeskError::Superseded);
        }
        if matches!(demand.state, State::Window { .. }) {
            return Ok(());
        }
        // Forgotten before it is durable: whatever happens now, nobody else spends it.
        self.book().end(id, Word::Superseded);
        let spent = self.commit(Change { remove: vec![key_of(id)], ..Change::default() }, None);
        let desk = self.clone();
        let spent = tokio::spawn(async move {
            let result = spent.await;
            desk.forget(&demand).await;
            result
        });
        Ok(spent.await.unwrap_or_else(|error| Err(LedgerError(error.to_string())))?)
    }

    async fn cast(
        &self,
        id: DemandId,
        account: Account,
        ballot: Ballot,
        electorate: &dyn Electorate,
    ) -> Result<Standing, VoteError> {
        let _turn = self.0.turn.lock().await;
        let demand = self.book().get(id).ok_or(VoteError::Unknown(id))?;
        match quorum::weigh(&demand, account, ballot, electorate, self.now()) {
            Ok(Weighed::For(next, cast)) if next.is_approved() => {
                self.grant(*next, Some(Said::Voted(cast))).await?;
                Ok(Standing::Approved)
            }
            Ok(Weighed::For(next, cast)) => {
                let put = vec![(key_of(id), encode(&next)?)];
                let said = Some(Said::Voted(cast));
                self.commit(Change { put, said, ..Change::default() }, None).await?;
                let standing = Standing::Open(quorum::tally(&next, electorate)?);
                self.book().replace(*next);
                Ok(standing)
            }
            Ok(Weighed::Against(cast)) => {
                let (by, comment) = (cast.person.clone(), cast.comment.clone());
                self.refuse(&demand, by, comment, Said::Voted(cast)).await?;
                Ok(Standing::Rejected)
            }
            Err(error) => {
                match error {
                    VoteError::Expired => log_failure(self.end(id, Word::Expired, Turn::Expired).await),
                    VoteError::Superseded => log_failure(self.end(id, Word::Superseded, Turn::Revoked).await),
                    _ => {}
                }
                Err(error)
            }
        }
    }

    /// Keeps what is approved: a grant, or a window, which needs no body any more and covers others that wait.
    async fn grant(&self, mut next: Demand, said: Option<Said>) -> Result<(), LedgerError> {
        let mut shown = next.shown.clone();
        let (desk, whole) = (self.clone(), next.clone());
        let showing = whole.clone();
        let body = tokio::task::spawn_blocking(move || desk.body(&showing)).await;
        let body = body.map_err(|error| LedgerError(error.to_string()))?;
        shown.body = body.map_err(|error| LedgerError(error.to_string()))?;
        let is_window = matches!(next.state, State::Window { .. });
        if is_window {
            next.shown.body = None;
        }
        let by = next.voters().join(", ");
        let put = vec![(key_of(next.id), encode(&next)?)];
        let news = News { turn: Turn::Approved, demand: &next, by: Some(&by), comment: None };
        self.commit(Change { put, said, ..Change::default() }, Some(&news)).await?;
        let now = self.now();
        self.0.priors.lock().unwrap_or_else(PoisonError::into_inner).remember(&next, shown, now);
        self.book().replace(next.clone());
        if is_window {
            self.forget(&whole).await;
            let covered = self.book().covered_by(&next);
            for demand in covered {
                log_failure(self.end(demand.id, Word::Covered(next.id), Turn::Approved).await);
            }
        }
        Ok(())
    }

    /// Keeps a no: who waits hears it now; for one who asks again later it is remembered as long as the demand would have
    /// waited.
    async fn refuse(
        &self,
        demand: &Demand,
        by: String,
        comment: Option<String>,
        said: Said,
    ) -> Result<(), LedgerError> {
        let mut next = demand.clone();
        let state = State::Rejected { until: demand.expires, by: by.clone(), comment: comment.clone() };
        let remembered = demand.retry && demand.expires > self.now();
        let news = News { turn: Turn::Rejected, demand, by: Some(&by), comment: comment.as_deref() };
        let said = Some(said);
        let change = if remembered {
            next.state = state;
            next.shown.body = None;
            Change { put: vec![(key_of(next.id), encode(&next)?)], said, ..Change::default() }
        } else {
            Change { remove: vec![key_of(demand.id)], said, ..Change::default() }
        };
        self.commit(change, Some(&news)).await?;
        if remembered {
            self.book().replace(next);
        } else {
            self.book().end(demand.id, Word::Rejected { by, comment });
        }
        self.forget(demand).await;
        Ok(())
    }

    async fn take_back(
        &self,
        id: DemandId,
        revoke: bool,
        caller: Caller,
        electorate: &dyn Electorate,
    ) -> Result<String, VoteError> {
        let _turn = self.0.turn.lock().await;
        let demand = self.show(id).ok_or(VoteError::Unknown(id))?;
        let known = caller.account.filter(|_| caller.free);
        let person = known.and_then(|account| account.person(electorate).ok());
        let is_operator = caller.operator && caller.free;
        let is_requester = person.is_some_and(|person| is_behind(person, &demand.asker))
            || demand.asker.process.as_ref().is_some_and(|process| {
                caller.account.is_some_and(|account| {
                    account.uid == process.uid && account.uid != 0 && account.uid == caller.uid
                })
            });
        let is_approver = person.is_some_and(|person| may_decide(person, &demand, electorate));
        match (revoke, demand.is_approved()) {
            (true, false) => return Err(VoteError::NotYours(NOT_APPROVED)),
            (true, true) if !(is_operator || is_approver || is_requester) => {
                return Err(VoteError::NotYours(NOT_AN_APPROVER));
            }
            (false, _) if !(is_operator || is_requester) => {
                return Err(VoteError::NotYours(NOT_THE_REQUESTER));
            }
            _ => {}
        }
        let by = person.map_or_else(|| format!("uid {}", caller.uid), |person| person.name.clone());
        let (entry, at, revoked) = (demand.entry, self.now(), demand.is_approved());
        let said = Some(Said::CalledOff(CalledOff { demand: id, entry, at, by: by.clone(), revoked }));
        let turn = if revoked { Turn::Revoked } else { Turn::Withdrawn };
        let news = News { turn, demand: &demand, by: Some(&by), comment: None };
        let change = Change { remove: vec![key_of(id)], said, ..Change::default() };
        self.commit(change, Some(&news)).await?;
        self.book().end(id, Word::CalledOff { by: by.clone() });
        self.forget(&demand).await;
        Ok(by)
    }

    /// Forgets a demand here, in the ledger and in the spool, and tells who waits and who listens.
    fn end(&self, id: DemandId, word: Word, turn: Turn) -> Durable {
        let Some(demand) = self.book().end(id, word) else { return Box::pin(std::future::ready(Ok(()))) };
        // Of a use that ends, or a no that was kept, nobody needs to hear again.
        let news = News { turn, demand: &demand, by: None, comment: None };
        let told = (!matches!(demand.state, State::Rejected { .. })).then_some(&news);
        let kept = self.commit(Change { remove: vec![key_of(id)], ..Change::default() }, told);
        let desk = self.clone();
        Box::pin(async move {
            let result = kept.await;
            desk.forget(&demand).await;
            result
        })
    }
}

const NOT_APPROVED: &str =
    "it is not approved yet: reject it, or withdraw it (`tidegate approvals withdraw`)";
const NOT_AN_APPROVER: &str =
    "only its approvers, its requester, root and the gate's own user can revoke what was approved";
const NOT_THE_REQUESTER: &str =
    "only its requester, root and the gate's own user can withdraw a demand; an approver rejects it";

/// For endings that hold in memory whatever the disk says, and end by themselves after a restart.
fn log_failure(result: Result<(), LedgerError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "an approval that is over stays in the record until its time runs out");
    }
}
