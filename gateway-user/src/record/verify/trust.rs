//! What was signed, what a witness saw, and what tombstones say is gone. Believes no checkpoint of a key that the record
//! does not list, and no gap without a tombstone.

use std::collections::BTreeMap;

use super::super::chain::{Base, Link, META_BASE, META_KEYS, META_SEGMENT, Problem, meta};
use super::super::entry::{Kept, Upkeep};
use super::super::frame::About;
use super::super::head::{ListedKey, SignedHead, vouched};
use super::super::tree::{self, Frontier};
use super::Walk;
use crate::operation::Sha256;
use crate::store::{SegmentRow, Snapshot, StoreError};

/// What is known from outside the record.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Checkpoints that a witness kept.
    pub witnessed: Vec<SignedHead>,
    /// A signing key of this record, 64 hexadecimal digits.
    pub key: Option<String>,
}

/// Where a body stands: commit, event, whom it is about.
type Stands = (u64, u64, About);

/// What the walk has collected.
pub(super) struct Evidence<'a> {
    pub(super) store: Sha256,
    trust: &'a Trust,
    /// What the witness saw and was not compared yet, by number of commits.
    awaited: BTreeMap<u64, Vec<&'a SignedHead>>,
    tree: Frontier,
    nodes: u64,
    heads: u64,
    next_head: Option<(u64, Vec<u8>)>,
    keys: Vec<ListedKey>,
    /// Segments that a tombstone says are shed, and the commit it stands in.
    shed: BTreeMap<u32, u64>,
    gone: BTreeMap<u32, (Stands, u64)>,
    /// The greatest segment that a body lies in.
    pub(super) segment: u32,
    /// What the last tombstone of commits says, and the commit it stands in.
    pruned: Option<(u64, Sha256, u64)>,
}

impl<'a> Evidence<'a> {
    pub(super) fn of(trust: &'a Trust) -> Self {
        let mut awaited: BTreeMap<u64, Vec<&SignedHead>> = BTreeMap::new();
        trust.witnessed.iter().for_each(|head| awaited.entry(head.commits).or_default().push(head));
        Self {
            store: Sha256::default(),
            trust,
            awaited,
            tree: Frontier::default(),
            nodes: 0,
            heads: 0,
            next_head: None,
            keys: Vec::new(),
            shed: BTreeMap::new(),
            gone: BTreeMap::new(),
            segment: 0,
            pruned: None,
        }
    }

    /// Takes what was done to the record, said in this commit.
    pub(super) fn kept(&mut self, kept: &Kept, commit: u64) {
        match &kept.what {
            Upkeep::SigningKey(key) => self.keys.push(key.clone()),
            Upkeep::Shed { segments, .. } => {
                self.shed.extend(segments.iter().map(|segment| (*segment, commit)));
            }
            Upkeep::Pruned { to, base, .. } => self.pruned = Some((*to, *base, commit)),
            Upkeep::Rekeyed { .. } => {}
        }
    }

    pub(super) fn gone(&mut self, segment: u32, stands: Stands) {
        self.gone.entry(segment).or_insert((stands, 0)).1 += 1;
    }

    /// Whether this fits what the record is at this point.
    fn fits(&self, head: &SignedHead, link: &Link) -> bool {
        head.store == self.store
            && head.commits == link.number
            && head.events == link.sequence
            && head.seal == link.seal
            && head.root == self.tree.root()
    }
}

impl Walk<'_> {
    /// Starts where the record begins.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, store: &[u8]) -> Result<(), StoreError> {
        self.evidence.store = Sha256(<[u8; 32]>::try_from(store).unwrap_or_default());
        let base = match meta::<Base>(snapshot, META_BASE) {
            Ok(base) => base,
            Err(damage @ StoreError::Damaged { .. }) => {
                self.report.say(None, damage);
                Base::first(store)
            }
            Err(other) => return Err(other),
        };
        self.base = base.clone();
        (self.link, self.ledger) = (base.link, base.ledger);
        (self.lateness, self.state) = (base.lateness, base.state);
        self.report.begins = base.link.number;
        for at in Frontier::places(base.link.number) {
            self.evidence.nodes += 1;
            if let Err(damage @ StoreError::Damaged { .. }) = snapshot.node(at) {
                self.report.say(None, damage);
            }
        }
        (self.evidence.tree, self.evidence.keys) = (base.tree, base.keys);
        self.evidence.next_head = snapshot.signed_from(base.link.number)?;
        self.at_point(&base.link.clone(), snapshot)
    }

    /// Whether the record begins at another point by now.
    pub(super) fn begins_elsewhere(&self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        match meta::<Base>(snapshot, META_BASE) {
            Ok(base) => Ok(base.link.number != self.base.link.number),
            Err(StoreError::Damaged { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Takes a commit into the tree, and compares what is stored and signed of it.
    pub(super) fn grow(&mut self, snapshot: &Snapshot, after: &Link) -> Result<(), StoreError> {
        let mut nodes = Vec::new();
        self.evidence.tree.push(tree::leaf(&after.seal), |at, hash| nodes.push((at, hash)));
        for (at, hash) in nodes {
            self.evidence.nodes += 1;
            match snapshot.node(at) {
                Ok(stored) if stored == hash => {}
                Ok(_) => {
                    let what =
                        format!("node {} of level {} of the tree over the commits is another", at.1, at.0);
                    self.report.say(Some(after.number - 1), what);
                }
                Err(damage @ StoreError::Damaged { .. }) => self.report.say(Some(after.number - 1), damage),
                Err(other) => return Err(other),
            }
        }
        self.at_point(after, snapshot)
    }

    fn at_point(&mut self, link: &Link, snapshot: &Snapshot) -> Result<(), StoreError> {
        if self.evidence.next_head.is_none() {
            self.evidence.next_head = snapshot.signed_from(link.number)?;
        }
        if self.evidence.next_head.as_ref().is_some_and(|(commits, _)| *commits == link.number) {
            let row = self.evidence.next_head.take().map(|(_, row)| row).unwrap_or_default();
            self.evidence.heads += 1;
            self.signed(&row, link);
            self.evidence.next_head = snapshot.signed_from(link.number + 1)?;
        }
        for head in self.evidence.awaited.remove(&link.number).unwrap_or_default() {
            if self.evidence.fits(head, link) {
                self.report.witnessed += 1;
            } else {
                let what = format!(
                    "the witness saw another record of {} commits: this one was rewritten, or is another",
                    head.commits
                );
                self.report.say(link.number.checked_sub(1), what);
            }
        }
        Ok(())
    }

    fn signed(&mut self, row: &[u8], link: &Link) {
        let wrong = match postcard::from_bytes::<SignedHead>(row) {
            Err(cause) => format!("does not decode: {cause}"),
            Ok(head) if !self.evidence.fits(&head, link) => "was signed of another record".to_owned(),
            Ok(head) if !self.evidence.keys.iter().any(|key| key.public == head.key) => {
                "was signed with a key that the record does not list".to_owned()
            }
            Ok(head) if !head.is_signed() => "has a signature that does not hold".to_owned(),
            Ok(_) => {
                self.report.signed += 1;
                self.report.signed_commits = link.number;
                return;
            }
        };
        self.report.say(link.number.checked_sub(1), format!("the signed checkpoint after it {wrong}"));
    }

    /// Judges at the end of the walk what it collected.
    pub(super) fn judge_evidence(&mut self, snapshot: &Snapshot, head: &Link) -> Result<(), StoreError> {
        self.judge_keys(snapshot)?;
        let [nodes, heads, _] = snapshot.upkeep_counts()?;
        if self.sound {
            if nodes != self.evidence.nodes {
                let must = self.evidence.nodes;
                self.report.say(None, format!("there are {nodes} nodes of the tree where {must} must be"));
            }
            if heads != self.evidence.heads {
                let there = self.evidence.heads;
                let what = format!("there are {heads} checkpoints, and commits for only {there} of them");
                self.report.say(None, what);
            }
        }
        self.judge_tombstones(snapshot)?;
        self.judge_witness(head);
        Ok(())
    }

    fn judge_keys(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let row = self.row::<Vec<ListedKey>>(meta(snapshot, META_KEYS))?;
        if row.is_some_and(|row| row != self.evidence.keys) && self.sound {
            self.report.say(None, "its keys row lists other signing keys than the chain");
        }
        if let Err(what) = vouched(&self.evidence.store, &self.evidence.keys) {
            self.report.say(None, what);
        }
        self.report.signing_key = self.evidence.keys.last().map(|key| key.public.clone());
        if let Some(trusted) = &self.evidence.trust.key
            && !self.evidence.keys.iter().any(|key| key.public.eq_ignore_ascii_case(trusted))
        {
            self.report.say(
                None,
                format!("the record does not list the signing key {trusted}: it is another's record"),
            );
        }
        Ok(())
    }

    fn judge_tombstones(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        if self.base.link.number > 0 {
            let row = snapshot.meta(META_BASE)?.unwrap_or_default();
            let (begins, base) = (self.base.link.number, Sha256::of(&row));
            let wrong = match self.evidence.pruned {
                Some((to, said, commit)) if (to, said) == (begins, base) => (!self.is_signed(commit))
                    .then_some("the tombstone that says so is under no signed checkpoint"),
                _ => Some("no tombstone in the chain says so"),
            };
            if let Some(wrong) = wrong {
                self.report.say(None, format!("it begins with commit {begins}, and {wrong}"));
            }
        }
        let given = self.row::<u32>(meta(snapshot, META_SEGMENT))?;
        if given.is_some_and(|given| given < self.evidence.segment) {
            self.report.say(None, "its segment row names a lower number than bodies lie in");
        }
        for (number, row) in snapshot.segments()? {
            if let Some(damage) = SegmentRow::read(number, &row).err() {
                self.report.say(None, damage);
            }
            if self.evidence.shed.contains_key(&number) {
                self.report
                    .say(None, format!("segment {number:08}.seg is there, and a tombstone says it is shed"));
            }
        }
        for (segment, ((commit, sequence, about), stretches)) in std::mem::take(&mut self.evidence.gone) {
            let said = self.evidence.shed.get(&segment).copied();
            if said.is_some_and(|commit| self.is_signed(commit)) {
                self.report.shed_stretches += stretches;
            } else {
                self.report.add(Problem {
                    commit: Some(commit),
                    sequence: Some(sequence),
                    about: Some(about.to_string()),
                    what: format!(
                        "body segment {segment:08}.seg is missing and no tombstone under a signed checkpoint says why; {stretches} stretches of bodies were in it"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Whether a valid signed checkpoint covers this commit: whoever removes from a record signs that at once.
    fn is_signed(&self, commit: u64) -> bool {
        self.report.signed_commits > commit
    }

    fn judge_witness(&mut self, head: &Link) {
        let trust = self.evidence.trust;
        self.report.witness_reaches = trust.witnessed.iter().map(|seen| (seen.commits, seen.at)).max();
        for seen in &trust.witnessed {
            if !self.evidence.keys.iter().any(|key| key.public == seen.key) || !seen.is_signed() {
                let what = format!(
                    "the witness has a checkpoint of {} commits that no signing key of this record signed",
                    seen.commits
                );
                self.report.say(None, what);
            }
        }
        for (commits, seen) in std::mem::take(&mut self.evidence.awaited) {
            if commits < self.base.link.number {
                self.report.witnessed_pruned += seen.len() as u64;
            } else if commits > head.number {
                let ends = head.number;
                let what = format!(
                    "it ends after {ends} commits, and the witness saw {commits}: its end was cut off, or an old copy was put in its place"
                );
                self.report.say(None, what);
            } else {
                // A commit before it does not verify, and is named.
                self.report.say(commits.checked_sub(1), "what the witness saw of it cannot be compared");
            }
        }
        // Otherwise whoever replaces all that the witness saw by a gap would only have to say that it is pruned.
        let all_pruned = self.report.witnessed_pruned == trust.witnessed.len() as u64;
        if let Some((commits, _)) =
            self.report.witness_reaches.filter(|(commits, _)| all_pruned && *commits < head.number)
        {
            let what = format!(
                "everything that the witness saw, {commits} commits, is pruned, so that nothing of what is left can be \
                 compared: show it a newer checkpoint before pruning"
            );
            self.report.say(None, what);
        }
    }
}
