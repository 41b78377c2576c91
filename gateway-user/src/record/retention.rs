//! What of the record is kept, and for how long; keys changed, and segments shed. Removes nothing without a tombstone in
//! the chain, nothing that does not verify, and never much between two commits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::RecordError;
use super::chain::{Base, META_BASE, META_KEYS, examine};
use super::entry::{Event, Kept, Micros, Upkeep};
use super::frame::Frame;
use super::head::{ListedKey, Signer, introduction};
use super::index::Rows;
use super::journal::{Journal, Refused, encode};
use super::tree::{self, Frontier};
use crate::limits;
use crate::operation::Sha256;
use crate::store::disk::Space;
use crate::store::keyring::generation_of;
use crate::store::{Cut, SegmentRow, Snapshot, StoreError};

/// How much free space of its file system the record wants, in parts of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Below it the gate says so.
    pub warn: u64,
    /// Below it bodies are shed, the oldest first, and when there are none, heads.
    pub shed: u64,
    /// Below it nothing new begins.
    pub refuse: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self { warn: 150, shed: 80, refuse: 20 }
    }
}

/// Which mark the free space has fallen below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// None.
    #[default]
    Enough,
    /// It is time to look for space.
    Low,
    /// The oldest goes.
    Shedding,
    /// Nothing new begins.
    Refusing,
}

impl Marks {
    /// What this much space means.
    #[must_use]
    pub fn pressure(&self, space: Space) -> Pressure {
        let below = |part: u64| u128::from(space.free) * 1000 < u128::from(space.total) * u128::from(part);
        match (below(self.refuse), below(self.shed), below(self.warn)) {
            (true, _, _) => Pressure::Refusing,
            (_, true, _) => Pressure::Shedding,
            (_, _, true) => Pressure::Low,
            _ => Pressure::Enough,
        }
    }
}

/// What is kept, and for how long. By default everything, as long as there is space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// How old bodies may get.
    pub bodies: Option<Duration>,
    /// How old everything may get.
    pub heads: Option<Duration>,
    /// How old the bodies of these targets may get.
    pub targets: BTreeMap<String, Duration>,
    /// Bytes of commits and bodies.
    pub max_bytes: Option<u64>,
    /// The marks of free space.
    pub marks: Marks,
    /// What is younger is never shed for want of space: who fills the disk must not erase what he did.
    pub spare: Spare,
}

/// How old something is before it may be shed for want of space. A day, if nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare(pub Duration);

impl Default for Spare {
    fn default() -> Self {
        Self(Duration::from_secs(24 * 60 * 60))
    }
}

impl Retention {
    /// The lane for bodies of this target.
    #[must_use]
    pub fn lane<'a>(&self, target: Option<&'a str>) -> &'a str {
        target.filter(|target| self.targets.contains_key(*target)).unwrap_or_default()
    }

    /// What it asks for at this time.
    #[must_use]
    pub fn wanted(&self, now: Micros) -> Wanted {
        let before = |age: &Duration| before(now, *age);
        Wanted {
            bodies: self.bodies.as_ref().map(before),
            lanes: self.targets.iter().map(|(target, age)| (target.clone(), before(age))).collect(),
            heads: self.heads.as_ref().map(before),
            oldest: None,
            evenly: false,
            by: "retention".to_owned(),
            why: "older than what is to be kept".to_owned(),
        }
    }
}

/// What shall be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Bodies from before.
    pub bodies: Option<Micros>,
    /// Bodies of these targets from before.
    pub lanes: BTreeMap<String, Micros>,
    /// Everything from before.
    pub heads: Option<Micros>,
    /// The oldest bodies from before; where there are none, the oldest heads.
    pub oldest: Option<Micros>,
    /// Heads instead, while they have more bytes than the bodies: bodies of a moment ago must not go while old heads stay.
    pub evenly: bool,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Wanted {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.bodies.is_none() && self.lanes.is_empty() && self.heads.is_none() && self.oldest.is_none()
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Removed {
    /// Segments of bodies.
    pub segments: u64,
    /// Bytes in them.
    pub body_bytes: u64,
    /// Commits.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
}

impl Removed {
    /// Both.
    pub fn add(&mut self, other: Self) {
        self.segments += other.segments;
        self.body_bytes += other.body_bytes;
        self.commits += other.commits;
        self.events += other.events;
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A segment, and when and where its use ended.
struct Ended {
    number: u32,
    lane: String,
    /// No commit from this one on refers to it.
    end: u64,
    /// When the last commit that refers to it was written, at the latest.
    last: Micros,
}

impl Journal {
    /// The segments in order, each with its end.
    fn ended(&self, snapshot: &Snapshot) -> Result<Vec<Ended>, StoreError> {
        let mut all: Vec<Ended> = Vec::new();
        let mut latest: BTreeMap<String, usize> = BTreeMap::new();
        for (number, row) in snapshot.segments()? {
            let row = SegmentRow::read(number, &row)?;
            if let Some(before) = latest.insert(row.lane.clone(), all.len()) {
                (all[before].end, all[before].last) = (row.first, row.born);
            }
            let last = self.bodies.last_use(number).unwrap_or(self.link().written);
            all.push(Ended { number, lane: row.lane, end: self.link().number, last });
        }
        Ok(all)
    }

    /// Takes one bounded step towards what is wanted, and gives what it removed. The tombstone, the removal and a signed
    /// checkpoint are one commit.
    ///
    /// # Errors
    /// What would go does not verify (and then nothing went), or the disk refuses.
    pub(crate) fn prune(&mut self, wanted: &Wanted, now: Micros) -> Result<Removed, RecordError> {
        let snapshot = self.store.snapshot()?;
        let segments = self.ended(&snapshot)?;
        let due = |segment: &Ended| {
            let before = wanted.lanes.get(&segment.lane).copied().or(wanted.bodies);
            before.max(wanted.heads).is_some_and(|before| segment.last < before)
        };
        let mut shed: Vec<&Ended> = segments.iter().filter(|s| due(s)).take(limits::SHED_SEGMENTS).collect();
        let heads_first = wanted.evenly && self.body_bytes() < self.head_bytes();
        if let Some(before) = wanted.oldest.filter(|_| shed.is_empty() && !heads_first) {
            shed.extend(segments.iter().filter(|segment| segment.last < before).min_by_key(|s| s.last));
        }
        let mut removed = Removed::default();
        if shed.is_empty() {
            let until = self.prunable(&snapshot, wanted)?;
            if until > self.base.link.number {
                let (base, cut, events) = self.advance(&snapshot, until)?;
                let ended = segments.iter().filter(|s| s.end <= base.link.number);
                shed.extend(ended);
                (removed.commits, removed.events) = (base.link.number - self.base.link.number, events);
                self.tombstone(base, cut, events, wanted, now)?;
            }
        }
        let gone: Vec<(u32, String)> = shed.iter().map(|s| (s.number, s.lane.clone())).collect();
        removed.segments = gone.len() as u64;
        removed.body_bytes = self.shed(&gone, wanted, now)?;
        if removed.is_nothing() {
            return Ok(removed);
        }
        self.sign = true;
        self.commit(now)?;
        for (number, _) in gone {
            self.bodies.forget(number);
        }
        // What stays is looked for again with the next step; it is sealed with a key that is gone.
        if let Err(cause) = self.bodies.sweep(&self.store.snapshot()?) {
            tracing::warn!(%cause, "files of shed segments stay");
        }
        Ok(removed)
    }

    /// Bytes of the commits that are left, and of all bodies.
    pub(crate) fn bytes(&self) -> u64 {
        self.body_bytes() + self.head_bytes()
    }

    fn body_bytes(&self) -> u64 {
        let segments = self.disk.segments().unwrap_or_default();
        segments.into_iter().map(|number| self.segment_bytes(number)).sum()
    }

    fn head_bytes(&self) -> u64 {
        self.link().bytes - self.base.link.bytes
    }

    fn segment_bytes(&self, number: u32) -> u64 {
        let file = self.disk.segment(number, crate::store::disk::Access::Read);
        file.and_then(|file| file.len()).unwrap_or(0)
    }

    /// Where the heads end that may go.
    fn prunable(&mut self, snapshot: &Snapshot, wanted: &Wanted) -> Result<u64, StoreError> {
        let end = match wanted.heads.max(wanted.oldest) {
            Some(before) => snapshot.commit_at(before.div_euclid(1_000_000))?.unwrap_or(u64::MAX),
            None => 0,
        };
        let end = end.min(self.link().number);
        // What a start reads must stay; so it gets to read from here.
        if end > self.recovery && self.base.link.number >= self.recovery {
            self.mark_recovery()?;
        }
        Ok(end.min(self.recovery).min(self.base.link.number + limits::PRUNE_COMMITS))
    }

    /// Where the record begins after this many commits are gone, and which rows go with them.
    fn advance(&self, snapshot: &Snapshot, until: u64) -> Result<(Base, Cut, u64), StoreError> {
        let mut base = self.base.clone();
        let mut cut = Cut { from: base.link.number, ..Cut::default() };
        let mut nodes: BTreeSet<tree::At> = Frontier::places(base.link.number).collect();
        let (mut rows, mut places, mut bytes) = (Rows::default(), Vec::new(), 0);
        while base.link.number < until && bytes < limits::PRUNE_BYTES {
            let number = base.link.number;
            let what = || format!("commit {number}, which was to be pruned");
            let blob =
                snapshot.commit(number)?.ok_or_else(|| StoreError::damaged(what(), "it is missing"))?;
            bytes += blob.len();
            let mut problem = None;
            let (frames, next) = examine(&blob, &base.link, &mut |p| problem = problem.take().or(Some(p)))
                .map_err(|detail| StoreError::damaged(what(), detail))?;
            if let Some(problem) = problem {
                return Err(StoreError::damaged(what(), problem));
            }
            for (examined, position) in frames.iter().zip(0..) {
                let Some(frame) = &examined.frame else { continue };
                base.ledger
                    .admit(frame, &mut places)
                    .map_err(|detail| StoreError::damaged(what(), detail))?;
                rows.add(position, &mut places);
                match frame {
                    Frame::Put { key, digest, .. } => drop(base.state.insert(key.clone(), *digest)),
                    Frame::Removed { key } => drop(base.state.remove(key)),
                    Frame::Event(Event::Kept(Kept { what: Upkeep::SigningKey(key), .. })) => {
                        base.keys.push(key.clone());
                    }
                    _ => {}
                }
                if let Some(at) = frame.at() {
                    base.lateness = base.lateness.max(next.written.saturating_sub(at));
                }
            }
            let keys = rows.finish(number, &mut base.ledger).into_iter().map(|(key, _)| key);
            cut.index.extend(keys);
            let second = next.written.div_euclid(1_000_000);
            if number == 0 || second != base.link.written.div_euclid(1_000_000) {
                cut.seconds.push(second);
            }
            base.tree.push(tree::leaf(&next.seal), |at, _| {
                nodes.insert(at);
            });
            base.link = next;
        }
        cut.below = base.link.number;
        let peaks: BTreeSet<tree::At> = Frontier::places(base.link.number).collect();
        cut.tree = nodes.difference(&peaks).copied().collect();
        let events = base.link.sequence - self.base.link.sequence;
        Ok((base, cut, events))
    }

    fn tombstone(
        &mut self,
        base: Base,
        cut: Cut,
        events: u64,
        wanted: &Wanted,
        now: Micros,
    ) -> Result<(), RecordError> {
        let row = encode(&base)?;
        let what = Upkeep::Pruned {
            from: cut.from,
            to: cut.below,
            events,
            base: Sha256::of(&row),
            why: wanted.why.clone(),
        };
        self.keep(what, &wanted.by, now)?;
        self.rows_about.push((META_BASE, row));
        (self.cut, self.base) = (Some(cut), base);
        Ok(())
    }

    fn shed(&mut self, gone: &[(u32, String)], wanted: &Wanted, now: Micros) -> Result<u64, RecordError> {
        let mut lanes: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        gone.iter().for_each(|(number, lane)| lanes.entry(lane).or_default().push(*number));
        let mut all = 0;
        for (lane, segments) in lanes {
            let bytes = segments.iter().map(|number| self.segment_bytes(*number)).sum();
            all += bytes;
            self.segments.extend(segments.iter().map(|number| (*number, None)));
            let why = wanted.why.clone();
            self.keep(Upkeep::Shed { lane: lane.to_owned(), segments, bytes, why }, &wanted.by, now)?;
        }
        Ok(all)
    }

    fn keep(&mut self, what: Upkeep, by: &str, now: Micros) -> Result<(), RecordError> {
        let event = Event::Kept(Kept { at: now, by: by.to_owned(), what });
        self.add_event(event).map_err(|refused| match refused {
            Refused::NotOpen(cause) => RecordError::NotOpen(cause),
            Refused::NoRoom(cause, _) | Refused::Store(cause) => cause.into(),
        })
    }

    /// Lists the first signing key of a new record, into the commit under way.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn introduce(&mut self, now: Micros) -> Result<(), RecordError> {
        if !self.listed.is_empty() {
            return Ok(());
        }
        let Some(signer) = self.signer.take() else {
            let detail = "there is no signing key".to_owned();
            return Err(StoreError::Sealed { what: "a new record".to_owned(), detail }.into());
        };
        let listed = self.list(&signer, &signer, "the enforcer", now);
        self.signer = Some(signer);
        listed
    }

    fn list(&mut self, new: &Signer, by: &Signer, who: &str, now: Micros) -> Result<(), RecordError> {
        let number = self.listed.len() as u32 + 1;
        let signature = by.sign(&introduction(&self.name, number, new.public()));
        let key = ListedKey { number, public: new.public().to_owned(), signature };
        self.keep(Upkeep::SigningKey(key.clone()), who, now)?;
        self.listed.push(key);
        self.rows_about.push((META_KEYS, encode(&self.listed)?));
        Ok(())
    }

    /// Makes a new signing key, introduced by the old one, and forgets the old one when the record lists the new. Between
    /// the steps the key file holds both, and the record says which one signs.
    ///
    /// # Errors
    /// The key file or the record cannot be written. Whichever key is listed then goes on.
    pub(crate) fn rotate_signing_key(&mut self, by: &str, now: Micros) -> Result<String, RecordError> {
        let ring = self.keys.signing.ring();
        let grown =
            ring.grown().map_err(|cause| StoreError::io("make a key")(std::io::Error::other(cause)))?;
        let seed = grown.secrets().last().map(|(_, seed)| Signer::of(seed)).transpose()?;
        self.keys.signing.replace(grown.clone())?;
        let (Some(old), Some(new)) = (self.signer.take(), seed) else {
            let detail = "it has no signing key".to_owned();
            return Err(StoreError::Sealed { what: "the record".to_owned(), detail }.into());
        };
        self.list(&new, &old, by, now)?;
        let public = new.public().to_owned();
        (self.signer, self.sign) = (Some(new), true);
        self.commit(now)?;
        self.keys.signing.replace(grown.keeping(|_| false))?;
        Ok(public)
    }

    /// Seals the keys of all segments with a new generation, in one commit. Gives the generation, and how many segments.
    /// Between the steps the key file holds the old and the new generation, so that whatever stands in the record opens.
    ///
    /// # Errors
    /// The key file or the record cannot be written; the old generations are kept then.
    pub(crate) fn rekey(&mut self, by: &str, now: Micros) -> Result<(u32, u64), RecordError> {
        let keys = self.keys.bodies.clone();
        if keys.is_credential() {
            keys.reload()?;
        } else {
            let grown = keys.ring().grown();
            keys.replace(grown.map_err(|cause| StoreError::io("make a key")(std::io::Error::other(cause)))?)?;
        }
        let snapshot = self.store.snapshot()?;
        for (number, row) in snapshot.segments()? {
            let row = SegmentRow::read(number, &row)?.resealed(number, &self.name, &keys)?;
            self.segments.push((number, Some(row.bytes()?)));
        }
        self.bodies.reseal()?;
        let (generation, segments) = (keys.ring().current(), self.segments.len() as u64);
        self.keep(Upkeep::Rekeyed { generation, segments }, by, now)?;
        self.sign = true;
        self.commit(now)?;
        Ok((generation, segments))
    }

    /// Forgets the generations that no segment is sealed with and that `used` does not name. Gives those that are left.
    ///
    /// # Errors
    /// The key file cannot be written, or is a credential.
    pub(crate) fn forget_keys(&mut self, used: &BTreeSet<u32>) -> Result<Vec<u32>, RecordError> {
        let mut used = used.clone();
        for (number, row) in self.store.snapshot()?.segments()? {
            used.extend(generation_of(&SegmentRow::read(number, &row)?.key));
        }
        let kept = self.keys.bodies.ring().keeping(|generation| used.contains(&generation));
        let left = kept.generations();
        self.keys.bodies.replace(kept)?;
        Ok(left)
    }

    /// Takes nothing of a commit that was prepared and cannot be written.
    pub(crate) fn abandon(&mut self) {
        self.segments.clear();
        self.rows_about.clear();
        self.cut = None;
    }
}

/// The moment that lies this long back.
pub(crate) fn before(now: Micros, age: Duration) -> Micros {
    now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}
