//! Verifies the whole record: chain, seals, bodies, index, state, rows about the store, and what must be open or
//! closed; what was signed and what a witness saw. Streams, goes on
//! after a problem where it can, and changes nothing.

mod trust;
mod whole;

use std::collections::BTreeMap;

use serde::Serialize;

use self::trust::Evidence;
pub use self::trust::Trust;
use self::whole::Watched;
use super::RecordError;
use super::chain::{Base, Link, META_HEAD, META_STORE, Problem, examine, meta};
use super::entry::{Event, Micros};
use super::frame::{About, Commit, Frame};
use super::index::{self, Rows};
use super::ledger::Ledger;
use super::read::Reader;
use crate::operation::{EntryId, SessionId, Sha256};
use crate::store::{PART_BYTES, Row, Snapshot, StoreError};

/// Problems that are told one by one; beyond it they are counted.
const PROBLEMS_SHOWN: usize = 100;
/// Commits read from one snapshot, so that a long run keeps no old pages from the running enforcer.
const COMMITS_PER_SNAPSHOT: u64 = 256;
/// Times that verification begins again because the record was pruned beneath it; then it keeps one snapshot.
const RESTARTS: u64 = 3;

/// What was verified, and what does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Commits read.
    pub commits: u64,
    /// Events and changes of state in them.
    pub events: u64,
    /// Entries begun.
    pub entries: u64,
    /// Sessions begun.
    pub sessions: u64,
    /// Stretches of bodies read and hashed.
    pub stretches: u64,
    /// Bytes of those.
    pub body_bytes: u64,
    /// Index rows compared.
    pub index_rows: u64,
    /// Entries without an end: in flight, or left by an enforcer that has not started again.
    pub open_entries: u64,
    /// Stretches of bodies that were shed, as a tombstone says.
    pub shed_stretches: u64,
    /// Stretches of bodies whose key is not here: not verified.
    pub sealed_stretches: u64,
    /// The first commit that is left; those before are pruned.
    pub begins: u64,
    /// Signed checkpoints that fit.
    pub signed: u64,
    /// Commits that the last of them covers.
    pub signed_commits: u64,
    /// The last signing key that the record lists.
    pub signing_key: Option<String>,
    /// Checkpoints of the witness that fit.
    pub witnessed: u64,
    /// Checkpoints of the witness about what is pruned: not compared.
    pub witnessed_pruned: u64,
    /// How many commits the last checkpoint of the witness covers, and when it was signed.
    pub witness_reaches: Option<(u64, Micros)>,
    /// The seal of the last commit: two reports with the same one saw the same record.
    pub seal: Sha256,
    /// How many things do not hold.
    pub problems: u64,
    /// The first of them.
    pub first: Vec<Problem>,
}

impl Report {
    /// Whether everything holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems == 0
    }

    /// Of a store that cannot even be opened.
    #[must_use]
    pub fn of_damage(damage: &StoreError) -> Self {
        let mut report = Self::default();
        report.say(None, damage);
        report
    }

    fn add(&mut self, problem: Problem) {
        self.problems += 1;
        if self.first.len() < PROBLEMS_SHOWN {
            self.first.push(problem);
        }
    }

    fn say(&mut self, commit: Option<u64>, what: impl std::fmt::Display) {
        self.add(Problem { commit, sequence: None, about: None, what: what.to_string() });
    }
}

impl Reader {
    /// Verifies everything from the first commit to the last there is when it gets there.
    ///
    /// # Errors
    /// The disk cannot be read. Damage is no error here but stands in the report.
    pub fn verify(&self) -> Result<Report, RecordError> {
        self.verify_against(&Trust::default())
    }

    /// As [`Reader::verify`], and compares with what is known from elsewhere: checkpoints of a witness, and a public key.
    ///
    /// # Errors
    /// As [`Reader::verify`].
    pub fn verify_against(&self, trust: &Trust) -> Result<Report, RecordError> {
        for round in 0.. {
            let mut walk = Walk {
                reader: self,
                report: Report::default(),
                base: Base::first(&[]),
                link: Link::first(&[]),
                ledger: Ledger::default(),
                checkpoint: None,
                lateness: 0,
                state: BTreeMap::new(),
                sound: true,
                missing: false,
                seconds: 0,
                parts: 0,
                evidence: Evidence::of(trust),
            };
            match walk.run(if round < RESTARTS { COMMITS_PER_SNAPSHOT } else { u64::MAX }) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(damage @ StoreError::Damaged { .. }) => walk.report.say(None, damage),
                Err(other) => return Err(other.into()),
            }
            walk.report.open_entries = walk.ledger.entries() as u64;
            walk.report.seal = walk.link.seal;
            return Ok(walk.report);
        }
        Ok(Report::default())
    }
}

struct Walk<'a> {
    reader: &'a Reader,
    report: Report,
    /// Where the record begins.
    base: Base,
    link: Link,
    ledger: Ledger,
    checkpoint: Option<Watched>,
    /// The greatest time between an event and its commit, so far.
    lateness: Micros,
    /// The state that the chain leads to: key to digest.
    state: BTreeMap<Vec<u8>, Sha256>,
    /// Nothing is missing so far, so what is open is known and index rows can be compared.
    sound: bool,
    /// Something may be missing that the index still names.
    missing: bool,
    /// Rows of the time index that there must be.
    seconds: u64,
    /// Rows of commits that there must be.
    parts: u64,
    evidence: Evidence<'a>,
}

impl Walk<'_> {
    /// Gives `false` where the record was pruned meanwhile, and it must begin again.
    fn run(&mut self, commits_per_snapshot: u64) -> Result<bool, StoreError> {
        let mut snapshot = self.reader.store.snapshot()?;
        let store = snapshot.meta(META_STORE)?.unwrap_or_default();
        self.begin(&snapshot, &store)?;
        loop {
            let head: Link = meta(&snapshot, META_HEAD)?;
            self.watch(&snapshot)?;
            let stop = head.number.min(self.link.number.saturating_add(commits_per_snapshot));
            while self.link.number < stop {
                self.commit(&snapshot)?;
            }
            if self.link.number >= head.number {
                self.finish(&snapshot, &head)?;
                return Ok(true);
            }
            snapshot = self.reader.store.snapshot()?;
            if self.begins_elsewhere(&snapshot)? {
                return Ok(false);
            }
        }
    }

    fn commit(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let number = self.link.number;
        let blob = match snapshot.commit(number) {
            Ok(Some(blob)) => blob,
            Ok(None) => return self.skip("it is missing: it was dropped"),
            Err(damage @ StoreError::Damaged { .. }) => return self.skip(damage),
            Err(other) => return Err(other),
        };
        // After a gap only the commit itself says where it claims to belong.
        if !self.sound
            && let Ok(commit) = Commit::parse(&blob)
            && self.link.seal == Sha256::default()
        {
            let bytes = self.link.bytes;
            self.link =
                Link { number, sequence: commit.first, seal: commit.link, written: commit.written, bytes };
        }
        let before = self.link;
        let mut found = Vec::new();
        let (frames, next) = match examine(&blob, &before, &mut |problem| found.push(problem)) {
            Ok(examined) => examined,
            Err(what) => return self.skip(what),
        };
        self.missing |= !found.is_empty();
        found.into_iter().for_each(|problem| self.report.add(problem));
        let times = frames.iter().filter_map(|examined| examined.frame.as_ref()?.at());
        if let Some(first) = times.min() {
            self.lateness = self.lateness.max(next.written.saturating_sub(first));
        }
        let (mut rows, mut places) = (Rows::default(), Vec::new());
        for (position, examined) in frames.iter().enumerate() {
            let Some(frame) = &examined.frame else {
                self.sound = false;
                continue;
            };
            self.frame(snapshot, examined.sequence, examined.about, frame)?;
            match self.ledger.admit(frame, &mut places) {
                Ok(()) => rows.add(position as u32, &mut places),
                Err(cause) => {
                    if self.sound {
                        self.tell(examined.sequence, examined.about, &cause);
                    }
                    self.sound = false;
                }
            }
        }
        self.report.commits += 1;
        self.parts += blob.len().div_ceil(PART_BYTES) as u64;
        self.link = next;
        let rows = rows.finish(number, &mut self.ledger);
        if self.sound {
            self.compare(snapshot, number, rows)?;
            self.times(snapshot, &before, &next)?;
            self.grow(snapshot, &next)?;
            self.at_checkpoint();
        }
        Ok(())
    }

    /// Goes on after a commit that cannot be read.
    fn skip(&mut self, what: impl std::fmt::Display) -> Result<(), StoreError> {
        self.report.say(Some(self.link.number), what);
        self.link.number += 1;
        self.link.seal = Sha256::default();
        (self.sound, self.missing) = (false, true);
        Ok(())
    }

    fn tell(&mut self, sequence: u64, about: About, what: impl std::fmt::Display) {
        let (commit, sequence) = (Some(self.link.number), Some(sequence));
        self.report.add(Problem { commit, sequence, about: Some(about.to_string()), what: what.to_string() });
    }

    fn frame(
        &mut self,
        snapshot: &Snapshot,
        sequence: u64,
        about: About,
        frame: &Frame,
    ) -> Result<(), StoreError> {
        self.report.events += 1;
        match frame {
            Frame::Event(Event::SessionOpened(_)) => self.report.sessions += 1,
            Frame::Event(Event::Intent(_)) => self.report.entries += 1,
            Frame::Event(Event::Kept(kept)) => self.evidence.kept(kept, self.link.number),
            Frame::Event(_) => {}
            Frame::Body(body) => {
                self.evidence.segment = self.evidence.segment.max(body.placed.segment);
                match self.reader.bodies.read(snapshot, &self.evidence.store, &body.placed) {
                    Ok(bytes) => {
                        self.report.stretches += 1;
                        self.report.body_bytes += bytes.len() as u64;
                    }
                    Err(StoreError::Gone(segment)) => {
                        self.evidence.gone(segment, (self.link.number, sequence, about));
                    }
                    Err(StoreError::Sealed { .. }) => self.report.sealed_stretches += 1,
                    Err(damage @ StoreError::Damaged { .. }) => self.tell(sequence, about, damage),
                    Err(other) => return Err(other),
                }
            }
            Frame::Put { key, digest, .. } => drop(self.state.insert(key.clone(), *digest)),
            Frame::Removed { key } => drop(self.state.remove(key)),
        }
        Ok(())
    }

    fn compare(&mut self, snapshot: &Snapshot, number: u64, rows: Vec<Row>) -> Result<(), StoreError> {
        for (key, value) in rows {
            self.report.index_rows += 1;
            let there = match snapshot.index(&key) {
                Ok(there) => there,
                Err(damage @ StoreError::Damaged { .. }) => {
                    self.report.say(Some(number), damage);
                    continue;
                }
                Err(other) => return Err(other),
            };
            let wrong = match there {
                Some(there) if there == value => continue,
                Some(_) => "names other events than its commit holds",
                None => "is missing",
            };
            self.missing = true;
            self.report.say(Some(number), format!("the index row for {} {wrong}", named(&key)));
        }
        Ok(())
    }

    fn times(&mut self, snapshot: &Snapshot, before: &Link, after: &Link) -> Result<(), StoreError> {
        let second = after.written.div_euclid(1_000_000);
        if before.number == 0 || second != before.written.div_euclid(1_000_000) {
            self.seconds += 1;
            if snapshot.time(second)? != Some(before.number) {
                self.report.say(Some(before.number), "the time index does not lead to it");
            }
        }
        Ok(())
    }

    fn finish(&mut self, snapshot: &Snapshot, head: &Link) -> Result<(), StoreError> {
        if self.link != *head && self.link.seal != Sha256::default() {
            self.report.say(None, "the row that names the end of the chain does not fit its last commit");
        }
        if let Some(beyond) = snapshot.commit_from(head.number)? {
            self.report.say(Some(beyond), "it lies beyond the end of the chain");
        }
        let [parts, rows, seconds, keys] = snapshot.counts()?;
        if self.sound {
            if parts != self.parts {
                self.report
                    .say(None, format!("there are {parts} parts of commits where {} must be", self.parts));
            }
            if rows != self.report.index_rows {
                self.missing = true;
                let expected = self.report.index_rows;
                self.report.say(None, format!("there are {rows} index rows where {expected} must be"));
            }
            if seconds != self.seconds {
                let expected = self.seconds;
                self.report.say(
                    None,
                    format!("there are {seconds} rows in the time index where {expected} must be"),
                );
            }
            self.check_state(snapshot, keys)?;
        }
        self.whole(snapshot, head)?;
        self.judge_evidence(snapshot, head)?;
        if self.missing { self.orphans(snapshot) } else { Ok(()) }
    }

    fn check_state(&mut self, snapshot: &Snapshot, keys: u64) -> Result<(), StoreError> {
        for (key, digest) in &self.state {
            let shown = String::from_utf8_lossy(key);
            match snapshot.state(key)? {
                Some(value) if Sha256::of(&value) == *digest => {}
                Some(_) => {
                    self.report.say(None, format!("the state under {shown} is not what was put there"))
                }
                None => {
                    self.report.say(None, format!("the state under {shown} is gone, and nothing removed it"))
                }
            }
        }
        if keys > self.state.len() as u64 {
            self.report
                .say(None, format!("there are {keys} keys of state where {} must be", self.state.len()));
        }
        Ok(())
    }

    /// Names what the index still knows and the commits no longer hold.
    fn orphans(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let mut from = vec![index::Dimension::Entry as u8];
        let mut cached: Option<(u64, Vec<About>)> = None;
        while let Some((row, value)) = snapshot.index_after(&from)? {
            let Some((dimension, id, number)) = index::split(&row) else { break };
            if dimension > index::Dimension::Session as u8 {
                break;
            }
            if cached.as_ref().is_none_or(|(held, _)| *held != number) {
                cached = Some((number, abouts(snapshot, number)));
            }
            let held = cached.as_ref().map_or(&[][..], |(_, held)| held);
            let at = |position: u32| held.get(position as usize);
            let mut gone = Vec::new();
            if dimension == index::Dimension::Entry as u8 {
                let entry = About::Entry(EntryId(uuid::Uuid::from_slice(id).unwrap_or_default()));
                let positions = index::positions(&value).unwrap_or_default();
                if positions.is_empty() || !positions.into_iter().all(|position| at(position) == Some(&entry))
                {
                    gone.push(entry);
                }
            } else {
                for session in index::directory(&value, number).unwrap_or_default() {
                    let about = About::Session(session.session);
                    // An entry's event stands under its session; which that is, only the entry's intent says.
                    let fits = |held: &About| *held == about || matches!(held, About::Entry(_));
                    if !session.marks.iter().all(|mark| at(mark / 2).is_some_and(fits)) {
                        gone.push(about);
                    }
                }
            }
            for about in gone {
                let what = "the index names it, but the commit no longer holds it: it was dropped or swapped"
                    .to_owned();
                let about = Some(about.to_string());
                self.report.add(Problem { commit: Some(number), sequence: None, about, what });
            }
            from = row;
            from.push(0);
        }
        Ok(())
    }
}

/// Whom the frames of a commit say they are about; nothing where it cannot be read.
fn abouts(snapshot: &Snapshot, number: u64) -> Vec<About> {
    let blob = snapshot.commit(number).ok().flatten().unwrap_or_default();
    Commit::parse(&blob)
        .map_or_else(|_| Vec::new(), |commit| commit.frames.iter().map(|frame| frame.about.1).collect())
}

/// What an index key is for, in words.
fn named(row: &[u8]) -> String {
    let Some((dimension, value, _)) = index::split(row) else { return "nothing known".to_owned() };
    let id = || uuid::Uuid::from_slice(value).unwrap_or_default();
    match dimension {
        1 => format!("entry {}", EntryId(id())),
        2 => "the sessions of the commit".to_owned(),
        10 => format!("the end of session {}", SessionId(id())),
        _ => {
            const NAMES: [&str; 7] =
                ["sessions opened", "user", "workload", "target", "kind", "verdict", "the gate"];
            let name = NAMES.get(usize::from(dimension).wrapping_sub(3)).unwrap_or(&"an unknown index");
            format!("{name} {}", String::from_utf8_lossy(value))
        }
    }
}
