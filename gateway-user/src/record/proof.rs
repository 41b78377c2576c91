//! One entry, handed out so that it can be checked alone: its events, the paths from them to a signed checkpoint, and
//! nothing of its neighbours but hashes. Believes nothing in a proof that it has not hashed.

use serde::{Deserialize, Serialize};

use super::RecordError;
use super::chain::{Link, META_HEAD, meta};
use super::entry::Event;
use super::frame::{Commit, Frame, HEADER_BYTES, frame_hash, seal};
use super::head::{SignedHead, listed, vouched};
use super::read::Reader;
use super::summary::{entry_positions, intent_of};
use super::tree;
use crate::limits::PROOF_BYTES_MAX;
use crate::operation::{EntryId, Sha256};
use crate::store::{Snapshot, StoreError};

/// What a proof calls itself.
const FORMAT: &str = "tidegate proof 1";

/// The proof of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// `tidegate proof 1`.
    pub format: String,
    /// The entry.
    pub entry: EntryId,
    /// Its events, in order.
    pub events: Vec<ProvenEvent>,
    /// The commits they stand in, in order.
    pub commits: Vec<ProvenCommit>,
    /// What was signed of all commits.
    pub checkpoint: SignedHead,
}

/// One event in a proof. Its leaf is the hash over `previous`, `sequence`, `about` and `content`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenEvent {
    /// Its number.
    pub sequence: u64,
    /// The commit it stands in.
    pub commit: u64,
    /// What it says, for people. Not hashed: `content` is.
    pub shown: serde_json::Value,
    /// The hash of the event before it.
    pub previous: Sha256,
    /// Its kind and whom it is about: 17 bytes in hexadecimal.
    pub about: String,
    /// Its content, in hexadecimal.
    pub content: String,
    /// From its leaf to the root of its commit.
    pub path: Vec<Sha256>,
}

/// One commit in a proof. Its seal is the hash over `last`, the root of its events, and `header`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenCommit {
    /// Its number, and index in the tree.
    pub number: u64,
    /// Its first 61 bytes, in hexadecimal.
    pub header: String,
    /// The hash of its last event.
    pub last: Sha256,
    /// From its leaf to the root that was signed.
    pub path: Vec<Sha256>,
}

/// Shows that one checkpoint continues another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continued {
    /// The older one.
    pub old: SignedHead,
    /// The newer one.
    pub new: SignedHead,
    /// From the one root to the other.
    pub path: Vec<Sha256>,
}

impl Reader {
    /// The proof of one entry, against the first checkpoint that covers all its events; `None` where there is no such entry.
    ///
    /// # Errors
    /// It is not signed yet, or the record is damaged.
    pub fn prove(&self, entry: EntryId) -> Result<Option<Proof>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some((_, intent)) = intent_of(&snapshot, entry)? else { return Ok(None) };
        let places = entry_positions(&snapshot, entry, intent.session)?;
        let last = places.keys().next_back().copied().unwrap_or(0);
        let checkpoint = signed(&snapshot, last + 1)?.ok_or(RecordError::Unsigned(entry.to_string()))?;
        let (mut events, mut commits) = (Vec::new(), Vec::new());
        for (number, positions) in places {
            let blob = snapshot.commit(number)?;
            let blob =
                blob.ok_or_else(|| StoreError::damaged(format!("commit {number}"), "it is missing"))?;
            let commit = Commit::parse(&blob)
                .map_err(|detail| StoreError::damaged(format!("commit {number}"), detail))?;
            for position in positions {
                events.push(event(&commit, position as usize)?);
            }
            commits.push(ProvenCommit {
                number,
                header: data_encoding::HEXLOWER.encode(commit.header),
                last: commit.frames.last().map(|frame| frame.hash).unwrap_or_default(),
                path: tree::path(number, checkpoint.commits, |at| snapshot.node(at))?,
            });
        }
        Ok(Some(Proof { format: FORMAT.to_owned(), entry, events, commits, checkpoint }))
    }

    /// Shows that the last checkpoint continues this one.
    ///
    /// # Errors
    /// It is of another record or of a later state, lies before what was pruned, or the record is damaged.
    pub fn continues(&self, old: &SignedHead) -> Result<Continued, RecordError> {
        let snapshot = self.store.snapshot()?;
        let head: Link = meta(&snapshot, META_HEAD)?;
        let new = snapshot.signed_last()?.map(|(_, row)| decoded(&row)).transpose()?;
        let new = new.ok_or(RecordError::Unsigned("the record".to_owned()))?;
        if new.store != old.store || old.commits > head.number || old.commits > new.commits {
            let what = format!("a checkpoint of {} commits of store {}", old.commits, old.store);
            let detail = format!(
                "this record is store {} and its last checkpoint covers {} commits: it is another, or was rolled back",
                new.store, new.commits
            );
            return Err(StoreError::damaged(what, detail).into());
        }
        let keys = listed(&snapshot)?;
        let unlisted = [old, &new].into_iter().find(|head| !keys.iter().any(|key| key.public == head.key));
        let wrong = match (vouched(&new.store, &keys), unlisted) {
            (Err(wrong), _) => Some(wrong),
            (Ok(()), Some(head)) => {
                Some(format!("{} is none of the signing keys that the record lists", head.key))
            }
            (Ok(()), None) => None,
        };
        if let Some(wrong) = wrong {
            return Err(StoreError::damaged("the list of signing keys", wrong).into());
        }
        let path = tree::consistency(old.commits, new.commits, |at| snapshot.node(at))?;
        Ok(Continued { old: old.clone(), new, path })
    }

    /// The last signed checkpoint.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn signed_head(&self) -> Result<Option<SignedHead>, RecordError> {
        Ok(self.store.snapshot()?.signed_last()?.map(|(_, row)| decoded(&row)).transpose()?)
    }
}

fn decoded(row: &[u8]) -> Result<SignedHead, StoreError> {
    postcard::from_bytes(row).map_err(|cause| StoreError::damaged("a signed checkpoint", cause))
}

fn signed(snapshot: &Snapshot, commits: u64) -> Result<Option<SignedHead>, StoreError> {
    snapshot.signed_from(commits)?.map(|(_, row)| decoded(&row)).transpose()
}

fn event(commit: &Commit<'_>, position: usize) -> Result<ProvenEvent, StoreError> {
    let damaged = |detail: String| StoreError::damaged(format!("commit {}", commit.number), detail);
    let frame = commit.frames.get(position);
    let frame = frame.ok_or_else(|| damaged(format!("it has no event {position}")))?;
    let before = position.checked_sub(1).and_then(|before| commit.frames.get(before));
    let decoded = Frame::decode(frame.content).map_err(damaged)?;
    let shown = serde_json::to_value(&decoded).map_err(|cause| damaged(cause.to_string()))?;
    let mut nodes = std::collections::BTreeMap::new();
    let mut leaves = tree::Frontier::default();
    for frame in &commit.frames {
        leaves.push(tree::leaf(&frame.hash), |at, hash| {
            nodes.insert(at, hash);
        });
    }
    let path = tree::path(position as u64, commit.frames.len() as u64, |at| {
        nodes.get(&at).copied().ok_or_else(|| damaged("its tree has a gap".to_owned()))
    })?;
    Ok(ProvenEvent {
        sequence: commit.first + position as u64,
        commit: commit.number,
        shown,
        previous: before.map_or(commit.link, |before| before.hash),
        about: data_encoding::HEXLOWER.encode(frame.about_bytes),
        content: data_encoding::HEXLOWER.encode(frame.content),
        path,
    })
}

/// Reads a proof.
///
/// # Errors
/// It is longer than a proof may be, or none.
pub fn parse(text: &[u8]) -> Result<Proof, String> {
    if text.len() as u64 > PROOF_BYTES_MAX {
        return Err(format!("it is longer than {PROOF_BYTES_MAX} bytes"));
    }
    let proof: Proof = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    if proof.format == FORMAT { Ok(proof) } else { Err(format!("its format is not {FORMAT:?}")) }
}

impl Proof {
    /// Checks it against a public key (64 hexadecimal digits), and gives what its events say.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, key: &str) -> Result<Vec<Frame>, String> {
        let head = &self.checkpoint;
        if !head.key.eq_ignore_ascii_case(key) {
            return Err(format!("its checkpoint is signed with {}, not with {key}", head.key));
        }
        if !head.is_signed() {
            return Err("the signature of its checkpoint does not hold".to_owned());
        }
        let mut frames = Vec::new();
        for commit in &self.commits {
            let number = commit.number;
            let header = header(commit)?;
            let part = |from: usize| u64::from_be_bytes(array(&header, from));
            let count = u64::from(u32::from_be_bytes(array(&header, 25)));
            if part(1) != number {
                return Err(format!("commit {number} says in its header that it is another"));
            }
            let mine: Vec<&ProvenEvent> = self.events.iter().filter(|event| event.commit == number).collect();
            if mine.is_empty() {
                return Err(format!("commit {number} proves no event"));
            }
            for event in mine {
                let (frame, root) = event.root(part(9), count)?;
                let leaf = tree::leaf(&seal(&commit.last, &root, &header));
                if tree::climb(leaf, number, head.commits, &commit.path) != Some(head.root) {
                    return Err(format!(
                        "event {} is not what the checkpoint was signed over: it or a path was changed",
                        event.sequence
                    ));
                }
                frames.push(frame);
            }
        }
        if frames.len() != self.events.len() {
            return Err("an event stands in a commit that the proof does not have".to_owned());
        }
        let mine = |frame: &Frame| match frame {
            Frame::Event(Event::Intent(intent)) => intent.entry == self.entry,
            other => other.about().1 == super::frame::About::Entry(self.entry),
        };
        if !frames.iter().all(mine) || !frames.iter().any(|f| matches!(f, Frame::Event(Event::Intent(_)))) {
            return Err("it has an event of another entry, or not the one that began this one".to_owned());
        }
        Ok(frames)
    }
}

impl ProvenEvent {
    /// What it says, and the root of its commit's events.
    fn root(&self, first: u64, count: u64) -> Result<(Frame, Sha256), String> {
        let sequence = self.sequence;
        let wrong = |what: &str| format!("event {sequence} {what}");
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes());
        let about = hex(&self.about).ok().and_then(|bytes| <[u8; 17]>::try_from(bytes).ok());
        let about = about.ok_or_else(|| wrong("does not say whom it is about in 17 bytes"))?;
        let content = hex(&self.content).map_err(|_| wrong("has content that is not hexadecimal"))?;
        let frame = Frame::decode(&content).map_err(|cause| wrong(&cause))?;
        let shown = serde_json::to_value(&frame).map_err(|cause| wrong(&cause.to_string()))?;
        if shown != self.shown {
            return Err(wrong("shows people something else than its content says"));
        }
        let hash = frame_hash(&self.previous, sequence, &about, &content);
        let index = sequence.checked_sub(first).ok_or_else(|| wrong("lies before its commit"))?;
        let root = tree::climb(tree::leaf(&hash), index, count, &self.path);
        Ok((frame, root.ok_or_else(|| wrong("has a path of another length than its place in the commit"))?))
    }
}

fn header(commit: &ProvenCommit) -> Result<Vec<u8>, String> {
    let bytes = data_encoding::HEXLOWER.decode(commit.header.as_bytes()).unwrap_or_default();
    if bytes.len() == HEADER_BYTES {
        Ok(bytes)
    } else {
        Err(format!("the header of commit {} has not {HEADER_BYTES} bytes in hexadecimal", commit.number))
    }
}

fn array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = bytes.get(from..from + N) {
        out.copy_from_slice(part);
    }
    out
}

impl Continued {
    /// Checks it against a public key. Both must be signed with keys that were listed; the newer with this one.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, key: &str) -> Result<(), String> {
        if !self.new.key.eq_ignore_ascii_case(key) {
            return Err(format!("the newer checkpoint is signed with {}, not with {key}", self.new.key));
        }
        if !self.new.is_signed() || !self.old.is_signed() || self.new.store != self.old.store {
            return Err("a signature does not hold, or the two are of different records".to_owned());
        }
        let (old, new) = ((self.old.commits, self.old.root), (self.new.commits, self.new.root));
        if tree::is_consistent(old, new, &self.path) {
            Ok(())
        } else {
            Err("the newer checkpoint does not continue the older one: what was recorded was changed"
                .to_owned())
        }
    }
}
