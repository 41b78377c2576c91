//! The open record: builds one commit at a time and makes it durable. After a failure it is thrown away and opened
//! again, so that what is in memory never runs ahead of what is on disk.

use std::mem;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::{
    Base, Checkpoint, FORMAT, Link, META_BASE, META_CHECKPOINT, META_FORMAT, META_HEAD, META_KEYS,
    META_LATENESS, META_SEGMENT, META_STORE, Tail, meta,
};
use super::claim::Claims;
use super::entry::{Event, Micros};
use super::frame::{Frame, KeptBody, Packer};
use super::head::{ListedKey, SignedHead, Signer};
use super::index::{Place, Rows};
use super::ledger::{Ledger, NotOpen};
use super::retention::{Pressure, Retention};
use super::tree::{self, Frontier};
use super::{Keys, RecordError};
use crate::limits::RECORD_ROOM_BYTES;
use crate::operation::Sha256;
use crate::store::disk::Disk;
use crate::store::{Appender, Batch, Cut, Rehearsal, Snapshot, Store, StoreError, Viewer, close};

/// Bytes of commits after which what is open is written down again, so that recovery reads little.
const CHECKPOINT_BYTES: usize = 8 * 1024 * 1024;
/// A checkpoint may cost at most this part of what is written between two.
const CHECKPOINT_PART: usize = 16;

/// A change of the small durable state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateOp {
    /// Put this value under this key.
    Put(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] Vec<u8>),
    /// Remove what is under this key.
    Remove(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// Why something was not taken into the commit.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its subject is not open. The rest of the commit is unharmed.
    NotOpen(NotOpen),
    /// It begins something, and there is no space for what that will bring: why, and what it was. The rest of the
    /// commit is unharmed.
    NoRoom(StoreError, Vec<Event>),
    /// The commit as a whole cannot be written.
    Store(StoreError),
}

/// The record, open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) keys: Keys,
    pub(super) name: Sha256,
    pub(super) store: Store,
    pub(super) bodies: Appender,
    ledger: Ledger,
    link: Link,
    /// Over all commits.
    tree: Frontier,
    /// Where the record begins.
    pub(super) base: Base,
    /// Signing keys by now, and the last of them; none in a record that is being made.
    pub(super) listed: Vec<ListedKey>,
    pub(super) signer: Option<Signer>,
    /// What was signed last.
    pub(super) signed: Option<SignedHead>,
    /// The next commit is signed.
    pub(super) sign: bool,
    /// Whose bodies lie in lanes of their own.
    pub(super) retention: Arc<Retention>,
    /// Of this commit: segments, what is pruned, rows about the store.
    pub(super) segments: Vec<(u32, Option<Vec<u8>>)>,
    pub(super) cut: Option<Cut>,
    pub(super) rows_about: Vec<(&'static str, Vec<u8>)>,
    /// Where the last checkpoint for recovery lies.
    pub(super) recovery: u64,
    /// The last number that was given to a segment.
    given: u32,
    /// What the free space allows.
    pub(super) pressure: Pressure,
    lateness: Micros,
    packer: Packer,
    rows: Rows,
    places: Vec<Place>,
    spent: Vec<Frame>,
    state: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Earliest and latest time an event of this commit names.
    times: Option<(Micros, Micros)>,
    /// Bytes of commits since the last checkpoint, and bytes of that checkpoint.
    since_checkpoint: usize,
    checkpoint_bytes: usize,
}

impl Journal {
    /// Opens the record on this disk, makes a new one where there is none, and writes the first commit with `first`.
    ///
    /// All of that is rehearsed in memory beforehand: the engine's own recovery writes, and a record that does not
    /// verify, or that cannot be written on, must stay as it is.
    ///
    /// # Errors
    /// It is damaged (and then nothing was changed), in use, or the disk refuses.
    pub(crate) fn open<T>(
        disk: &Arc<dyn Disk>,
        keys: &Keys,
        retention: &Arc<Retention>,
        first: impl Fn(&mut Self) -> Result<T, RecordError>,
    ) -> Result<(Self, T), RecordError> {
        if disk.exists().map_err(StoreError::io("look for the record's database"))? {
            let stage: Arc<dyn Disk> = Arc::new(Rehearsal(Arc::clone(disk)));
            let mut rehearsed = Self::reopen(&stage, keys, retention)?;
            let tried = first(&mut rehearsed);
            close(rehearsed)?;
            tried?;
        } else {
            create(disk.as_ref())?;
        }
        let mut journal = Self::reopen(disk, keys, retention)?;
        let done = first(&mut journal)?;
        Ok((journal, done))
    }

    /// Opens it without rehearsal: this process closed it a moment ago.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub(crate) fn reopen(
        disk: &Arc<dyn Disk>,
        keys: &Keys,
        retention: &Arc<Retention>,
    ) -> Result<Self, StoreError> {
        let store = Store::open(disk.as_ref())?;
        let snapshot = store.snapshot()?;
        let tail = Tail::read(&snapshot)?;
        let name = store_name(&snapshot)?;
        let listed: Vec<ListedKey> = meta(&snapshot, META_KEYS)?;
        let recovery: Checkpoint = meta(&snapshot, META_CHECKPOINT)?;
        let given: u32 = meta(&snapshot, META_SEGMENT)?;
        let bodies =
            Appender::open(Arc::clone(disk), &snapshot, name, keys.bodies.clone(), tail.link.written, given)?;
        let signed = snapshot.signed_last()?.and_then(|(_, head)| postcard::from_bytes(&head).ok());
        let mut journal = Self {
            disk: Arc::clone(disk),
            keys: keys.clone(),
            name,
            bodies,
            base: meta(&snapshot, META_BASE)?,
            signer: keys.signer(&listed)?,
            listed,
            signed,
            sign: false,
            retention: Arc::clone(retention),
            segments: Vec::new(),
            cut: None,
            rows_about: Vec::new(),
            recovery: recovery.link.number,
            given,
            pressure: Pressure::default(),
            store,
            ledger: tail.ledger,
            link: tail.link,
            tree: tail.tree,
            lateness: tail.lateness,
            packer: Packer::default(),
            rows: Rows::default(),
            places: Vec::new(),
            spent: Vec::new(),
            state: Vec::new(),
            times: None,
            // The first commit writes a checkpoint, so that what recovery closed is not read again.
            since_checkpoint: usize::MAX,
            checkpoint_bytes: 0,
        };
        journal.begin();
        Ok(journal)
    }

    pub(crate) fn viewer(&self) -> Viewer {
        self.store.viewer()
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Takes changes of state and events into the commit: all or none.
    pub(crate) fn add(&mut self, state: Vec<StateOp>, events: Vec<Event>) -> Result<(), Refused> {
        if events.iter().any(Event::is_beginning)
            && let Err(cause) = self.make_room()
        {
            return Err(Refused::NoRoom(cause, events));
        }
        // One alone is all or none by itself.
        if state.len() + events.len() > 1 {
            self.ledger.check(&events).map_err(Refused::NotOpen)?;
        }
        for change in state {
            self.add_state(change)?;
        }
        for event in events {
            self.add_event(event)?;
        }
        Ok(())
    }

    /// Makes sure that there is space for what an operation brings.
    ///
    /// # Errors
    /// There is not.
    pub(crate) fn make_room(&mut self) -> Result<(), StoreError> {
        if self.pressure == Pressure::Refusing {
            let cause = std::io::Error::from(rustix::io::Errno::NOSPC);
            return Err(StoreError::io(
                "begin anything, so little space is left on the record's file system",
            )(cause));
        }
        // The database has no space of its own taken beforehand, and grows by what is under way.
        let space = self.disk.space().map_err(StoreError::io("ask for the free space of the record"))?;
        if space.free < RECORD_ROOM_BYTES {
            let cause = std::io::Error::from(rustix::io::Errno::NOSPC);
            return Err(StoreError::io("find space for the record's database")(cause));
        }
        self.bodies.make_room()
    }

    /// Takes one event into the commit.
    pub(crate) fn add_event(&mut self, event: Event) -> Result<(), Refused> {
        let frame = match event {
            Event::Body(body) if !self.ledger.has_entry(body.entry) => {
                return Err(Refused::NotOpen(NotOpen(format!("entry {}", body.entry))));
            }
            Event::Body(body) => {
                let lane = self.retention.lane(self.ledger.target_of(body.entry));
                let placed = self.bodies.place(lane, &body.bytes).map_err(Refused::Store)?;
                Frame::Body(KeptBody { entry: body.entry, side: body.side, placed })
            }
            event => Frame::Event(event),
        };
        self.add_frame(&frame)?;
        self.spent.push(frame);
        Ok(())
    }

    /// Has it known what the commit that was just written says of credentials.
    pub(crate) fn tell(&self, claims: &Claims) {
        for frame in &self.spent {
            match frame {
                Frame::Event(Event::CredentialClaimed(claim)) => claims.durable(claim),
                Frame::Event(Event::EntryClosed(closed)) => claims.ended(closed.entry),
                _ => {}
            }
        }
    }

    /// Frees what was written. A matter of many small pieces, so not before those who wait have been told.
    pub(crate) fn tidy(&mut self) {
        self.spent.clear();
    }

    fn add_state(&mut self, change: StateOp) -> Result<(), Refused> {
        let (frame, row) = match change {
            StateOp::Put(key, value) => {
                let (digest, bytes) = (Sha256::of(&value), value.len() as u32);
                (Frame::Put { key: key.clone(), digest, bytes }, (key, Some(value)))
            }
            StateOp::Remove(key) => (Frame::Removed { key: key.clone() }, (key, None)),
        };
        self.add_frame(&frame)?;
        self.state.push(row);
        Ok(())
    }

    fn add_frame(&mut self, frame: &Frame) -> Result<(), Refused> {
        self.ledger.admit(frame, &mut self.places).map_err(Refused::NotOpen)?;
        self.rows.add(self.packer.count(), &mut self.places);
        if let Some(at) = frame.at() {
            let (first, last) = self.times.unwrap_or((at, at));
            self.times = Some((first.min(at), last.max(at)));
        }
        let encoded = self.packer.push(frame);
        encoded.map_err(|cause| Refused::Store(StoreError::damaged("an event in memory", cause)))
    }

    /// Whether the commit holds anything yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.packer.count() == 0
    }

    /// Makes the commit durable. After an error the journal is of no more use: open it again.
    pub(crate) fn commit(&mut self, now: Micros) -> Result<(), StoreError> {
        let (first, last) = self.times.unzip();
        let written = now.max(self.link.written).max(last.unwrap_or(now));
        // What names no time is not late, so that the events alone say what this must be.
        let lateness = self.lateness.max(written.saturating_sub(first.unwrap_or(written)));
        let number = self.link.number;
        let sequence = self.link.sequence + u64::from(self.packer.count());
        for (segment, row) in self.bodies.sync(number, written)? {
            self.given = self.given.max(segment);
            self.rows_about.retain(|(name, _)| *name != META_SEGMENT);
            self.rows_about.push((META_SEGMENT, encode(&self.given)?));
            self.segments.push((segment, Some(row.bytes()?)));
        }
        let (blob, seal) = self.packer.finish(number, written);
        let link =
            Link { number: number + 1, sequence, seal, written, bytes: self.link.bytes + blob.len() as u64 };
        let (mut tree, mut nodes) = (self.tree.clone(), Vec::new());
        tree.push(tree::leaf(&seal), |at, hash| nodes.push((at, hash.0)));
        let head = match &self.signer {
            Some(signer) if self.sign => Some(signer.head(unsigned(self.name, &link, &tree, now))),
            _ => None,
        };
        let signed = head.as_ref().map(encode).transpose()?;
        let second = written.div_euclid(1_000_000);
        let new_second = number == 0 || second != self.link.written.div_euclid(1_000_000);
        let mut meta = mem::take(&mut self.rows_about);
        meta.push((META_HEAD, encode(&link)?));
        if lateness != self.lateness {
            meta.push((META_LATENESS, encode(&lateness)?));
        }
        // Before the checkpoint: it also notes what this commit means for open sessions.
        let index = self.rows.finish(number, &mut self.ledger);
        let since = self.since_checkpoint.saturating_add(blob.len());
        let mark = since >= CHECKPOINT_BYTES.max(self.checkpoint_bytes.saturating_mul(CHECKPOINT_PART));
        if mark {
            meta.push((META_CHECKPOINT, encode(&Checkpoint { link, ledger: self.ledger.clone() })?));
        }
        self.store.commit(&Batch {
            commit: Some((number, blob)),
            index: &index,
            second: new_second.then_some(second),
            state: &self.state,
            meta: &meta,
            segments: &self.segments,
            tree: &nodes,
            signed: signed.as_deref().map(|head| (link.number, head)),
            cut: self.cut.as_ref(),
        })?;
        self.since_checkpoint = if mark { 0 } else { since };
        if mark {
            self.checkpoint_bytes = meta.last().map_or(0, |(_, bytes)| bytes.len());
            self.recovery = link.number;
        }
        if head.is_some() {
            (self.signed, self.sign) = (head, false);
        }
        (self.link, self.lateness, self.tree) = (link, lateness, tree);
        self.begin();
        Ok(())
    }

    /// Has the next start read and verify from here.
    ///
    /// # Errors
    /// The disk refuses. Open the journal again then.
    pub(super) fn mark_recovery(&mut self) -> Result<(), StoreError> {
        let row = encode(&Checkpoint { link: self.link, ledger: self.ledger.clone() })?;
        self.checkpoint_bytes = row.len();
        self.store.commit(&Batch { meta: &[(META_CHECKPOINT, row)], ..Batch::default() })?;
        (self.recovery, self.since_checkpoint) = (self.link.number, 0);
        Ok(())
    }

    /// Signs what there is, without a commit; nothing where that is signed already.
    ///
    /// # Errors
    /// The disk refuses. Open the journal again then.
    pub(crate) fn sign_now(&mut self, now: Micros) -> Result<(), StoreError> {
        if self.signed.as_ref().is_some_and(|signed| signed.commits >= self.link.number) {
            return Ok(());
        }
        let Some(signer) = &self.signer else { return Ok(()) };
        let head = signer.head(unsigned(self.name, &self.link, &self.tree, now));
        let signed = encode(&head)?;
        self.store.commit(&Batch { signed: Some((head.commits, &signed)), ..Batch::default() })?;
        self.signed = Some(head);
        Ok(())
    }

    /// Events since the last signed checkpoint.
    pub(crate) fn unsigned(&self) -> u64 {
        self.link.sequence - self.signed.as_ref().map_or(0, |signed| signed.events)
    }

    fn begin(&mut self) {
        self.packer.begin(self.link.seal, self.link.sequence);
        self.state.clear();
        self.segments.clear();
        self.cut = None;
        self.times = None;
    }
}

fn unsigned(store: Sha256, link: &Link, tree: &Frontier, at: Micros) -> SignedHead {
    SignedHead {
        store,
        commits: link.number,
        events: link.sequence,
        root: tree.root(),
        seal: link.seal,
        at,
        key: String::new(),
        signature: String::new(),
    }
}

/// The store's random name.
///
/// # Errors
/// It is missing, or no name.
pub(crate) fn store_name(snapshot: &Snapshot) -> Result<Sha256, StoreError> {
    let name = snapshot.meta(META_STORE)?.unwrap_or_default();
    let name = <[u8; 32]>::try_from(name.as_slice());
    name.map(Sha256).map_err(|_| StoreError::damaged("its store row", "it is missing or has not 32 bytes"))
}

/// A new, empty store with a random name.
fn create(disk: &dyn Disk) -> Result<(), StoreError> {
    let mut store = [0; 32];
    aws_lc_rs::rand::fill(&mut store)
        .map_err(|_| StoreError::io("name the new record")(std::io::Error::other("no random numbers")))?;
    let link = Link::first(&store);
    let meta = [
        (META_FORMAT, encode(&FORMAT)?),
        (META_STORE, store.to_vec()),
        (META_HEAD, encode(&link)?),
        (META_LATENESS, encode(&Micros::default())?),
        (META_CHECKPOINT, encode(&Checkpoint { link, ledger: Ledger::default() })?),
        (META_BASE, encode(&Base::first(&store))?),
        (META_SEGMENT, encode(&0_u32)?),
        (META_KEYS, encode(&Vec::<ListedKey>::new())?),
    ];
    Store::create(disk, &Batch { meta: &meta, ..Batch::default() })
}

pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_allocvec(value).map_err(|cause| StoreError::damaged("a row in memory", cause))
}
