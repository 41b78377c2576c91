//! Walks the chain. Names what does not hold, frame by frame; believes nothing it has not hashed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::entry::Micros;
use super::frame::{About, Commit, Frame, RawFrame, frame_hash, genesis, seal};
use super::head::ListedKey;
use super::index::Rows;
use super::ledger::Ledger;
use super::tree::{self, Frontier};
use crate::operation::Sha256;
use crate::store::{Snapshot, StoreError};

/// Version of the whole store's layout.
pub const FORMAT: u32 = 2;
/// Names of the rows about the whole store.
pub const META_FORMAT: &str = "format";
/// The store's random name, 32 bytes.
pub const META_STORE: &str = "store";
/// The end of the chain: [`Link`].
pub const META_HEAD: &str = "head";
/// Where recovery starts: [`Checkpoint`].
pub const META_CHECKPOINT: &str = "checkpoint";
/// The greatest number of microseconds between an event and its commit, so far.
pub const META_LATENESS: &str = "lateness";
/// Where the record begins: [`Base`].
pub const META_BASE: &str = "base";
/// The keys that checkpoints were signed with: a list of [`ListedKey`].
pub const META_KEYS: &str = "keys";
/// The last number that was given to a segment of bodies: u32.
pub const META_SEGMENT: &str = "segment";
/// All rows about the whole store. A commit writes no other.
pub const META_ROWS: [&str; 8] =
    [META_FORMAT, META_STORE, META_HEAD, META_CHECKPOINT, META_LATENESS, META_BASE, META_KEYS, META_SEGMENT];

/// A point in the chain between two commits: what the next commit must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The next commit's number.
    pub number: u64,
    /// The sequence number of its first frame.
    pub sequence: u64,
    /// The seal it links to.
    pub seal: Sha256,
    /// No commit after this point was written earlier.
    pub written: Micros,
    /// Bytes of all commits before it, also of those that are pruned.
    pub bytes: u64,
}

impl Link {
    /// Before the first commit of this store.
    #[must_use]
    pub fn first(store: &[u8]) -> Self {
        Self { number: 0, sequence: 0, seal: genesis(store), written: 0, bytes: 0 }
    }
}

/// A point in the chain, and what was open there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The point.
    pub link: Link,
    /// What was open.
    pub ledger: Ledger,
}

/// Where a record begins: what one must know of the commits before to verify those after. That of a new record is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The point.
    pub link: Link,
    /// What was open there.
    pub ledger: Ledger,
    /// See [`META_LATENESS`].
    pub lateness: Micros,
    /// The tree over the commits before.
    pub tree: Frontier,
    /// The signing keys that were listed by then.
    pub keys: Vec<ListedKey>,
    /// The state by then: keys, and digests of values.
    pub state: BTreeMap<Vec<u8>, Sha256>,
}

impl Base {
    /// Of a new record.
    #[must_use]
    pub fn first(store: &[u8]) -> Self {
        Self {
            link: Link::first(store),
            ledger: Ledger::default(),
            lateness: 0,
            tree: Frontier::default(),
            keys: Vec::new(),
            state: BTreeMap::new(),
        }
    }
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In which commit, where it is in one.
    pub commit: Option<u64>,
    /// Which event, counted from the first of the store.
    pub sequence: Option<u64>,
    /// Whom it is about: `entry …`, `session …`.
    pub about: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(commit) = self.commit {
            write!(f, "commit {commit}, ")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, "event {sequence}, ")?;
        }
        if let Some(about) = &self.about {
            write!(f, "{about}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// A frame that was taken apart, and whether its hash held.
#[derive(Debug)]
pub struct Examined {
    /// Its sequence number.
    pub sequence: u64,
    /// Whom its head says it is about.
    pub about: About,
    /// Its content, where that decodes.
    pub frame: Option<Frame>,
}

/// Takes a commit apart and checks it against the point it must follow. Gives the frames, and the point after it.
/// Where something does not hold it says so, and goes on from what the commit itself claims.
pub fn examine(
    blob: &[u8],
    from: &Link,
    report: &mut dyn FnMut(Problem),
) -> Result<(Vec<Examined>, Link), String> {
    let commit = Commit::parse(blob)?;
    let mut say = |what: String| {
        report(Problem { commit: Some(from.number), sequence: None, about: None, what });
    };
    if commit.number != from.number {
        say(format!("it says it is commit {}: commits were swapped or renumbered", commit.number));
    }
    if commit.first != from.sequence {
        say(format!("it starts with event {} where event {} must follow", commit.first, from.sequence));
    }
    if commit.link != from.seal {
        say("it does not link to the commit before it: that one was changed, dropped or swapped".to_owned());
    }
    if commit.written < from.written {
        say("it was written earlier than the commit before it".to_owned());
    }
    let mut previous = commit.link;
    let mut leaves = Frontier::default();
    let mut frames = Vec::with_capacity(commit.frames.len());
    for (position, raw) in commit.frames.iter().enumerate() {
        let sequence = commit.first + position as u64;
        let hash = frame_hash(&previous, sequence, raw.about_bytes, raw.content);
        let mut say = |what: String| {
            let about = Some(raw.about.1.to_string());
            report(Problem { commit: Some(from.number), sequence: Some(sequence), about, what });
        };
        previous = if hash == raw.hash {
            hash
        } else if follows(&commit, position + 1, &hash, &leaves) {
            say("its stored hash was changed".to_owned());
            hash
        } else {
            say("its content was changed, or it does not follow the event before it".to_owned());
            raw.hash
        };
        leaves.push(tree::leaf(&previous), |_, _| {});
        frames.push(Examined { sequence, about: raw.about.1, frame: decode(raw, &mut say) });
    }
    if seal(&previous, &leaves.root(), commit.header) != commit.seal {
        let what =
            "its seal does not fit: its header, its number of events or its seal was changed".to_owned();
        report(Problem { commit: Some(from.number), sequence: None, about: None, what });
    }
    let next = Link {
        number: from.number + 1,
        sequence: commit.next(),
        seal: commit.seal,
        written: commit.written,
        bytes: from.bytes + blob.len() as u64,
    };
    Ok((frames, next))
}

/// Whether what stands at this position follows `previous`.
fn follows(commit: &Commit<'_>, position: usize, previous: &Sha256, before: &Frontier) -> bool {
    match commit.frames.get(position) {
        Some(next) => {
            frame_hash(previous, commit.first + position as u64, next.about_bytes, next.content) == next.hash
        }
        None => {
            let mut leaves = before.clone();
            leaves.push(tree::leaf(previous), |_, _| {});
            seal(previous, &leaves.root(), commit.header) == commit.seal
        }
    }
}

fn decode(raw: &RawFrame<'_>, say: &mut dyn FnMut(String)) -> Option<Frame> {
    match Frame::decode(raw.content) {
        Ok(frame) => {
            let (kind, about) = frame.about();
            if (kind, about) != raw.about {
                say(format!("its content is about {about}"));
            }
            Some(frame)
        }
        Err(cause) => {
            say(cause);
            None
        }
    }
}

/// The end of a sound store: where the chain goes on, and what is open.
#[derive(Debug)]
pub struct Tail {
    /// Where the next commit goes.
    pub link: Link,
    /// What is open.
    pub ledger: Ledger,
    /// See [`META_LATENESS`].
    pub lateness: Micros,
    /// The tree over all commits.
    pub tree: Frontier,
}

impl Tail {
    /// Reads and verifies everything after the last checkpoint.
    ///
    /// # Errors
    /// The first thing that does not hold, or what the disk says.
    pub fn read(snapshot: &Snapshot) -> Result<Self, StoreError> {
        let format: u32 = meta(snapshot, META_FORMAT)?;
        if format != FORMAT {
            let detail = format!("it has layout version {format}, and this tidegate writes {FORMAT}");
            return Err(StoreError::damaged("its format row", detail));
        }
        let head: Link = meta(snapshot, META_HEAD)?;
        let Checkpoint { mut link, mut ledger } = meta(snapshot, META_CHECKPOINT)?;
        let lateness = meta(snapshot, META_LATENESS)?;
        let mut tree = Frontier::load(link.number, |at| snapshot.node(at))?;
        let (mut rows, mut places) = (Rows::default(), Vec::new());
        while link.number < head.number {
            let number = link.number;
            let what = || format!("commit {number}");
            let blob =
                snapshot.commit(number)?.ok_or_else(|| StoreError::damaged(what(), "it is missing"))?;
            let mut first = None;
            let examined = examine(&blob, &link, &mut |problem| first = first.take().or(Some(problem)));
            let (frames, next) = examined.map_err(|detail| StoreError::damaged(what(), detail))?;
            if let Some(problem) = first {
                return Err(StoreError::damaged("its chain", problem));
            }
            for frame in frames.iter().filter_map(|examined| examined.frame.as_ref()) {
                ledger.admit(frame, &mut places).map_err(|detail| StoreError::damaged(what(), detail))?;
                rows.add(0, &mut places);
            }
            rows.finish(number, &mut ledger);
            tree.push(tree::leaf(&next.seal), |_, _| {});
            link = next;
        }
        if link != head {
            return Err(StoreError::damaged("its end", "the last commit and the row that names it disagree"));
        }
        if let Some(beyond) = snapshot.commit_from(head.number)? {
            return Err(StoreError::damaged(
                "its end",
                format!("commit {beyond} lies beyond the end of the chain"),
            ));
        }
        if tree != Frontier::load(head.number, |at| snapshot.node(at))? {
            return Err(StoreError::damaged("the tree over the commits", "it does not fit the chain"));
        }
        Ok(Self { link, ledger, lateness, tree })
    }
}

/// A row about the whole store.
///
/// # Errors
/// It is missing, or it is not what this layout writes: of several spellings of a value only the one.
pub fn meta<T>(snapshot: &Snapshot, name: &str) -> Result<T, StoreError>
where
    T: Serialize + for<'de> Deserialize<'de>,
{
    let damaged = |detail: &dyn std::fmt::Display| StoreError::damaged(format!("its {name} row"), detail);
    let bytes = snapshot.meta(name)?.ok_or_else(|| damaged(&"it is missing"))?;
    let value: T = postcard::from_bytes(&bytes).map_err(|cause| damaged(&cause))?;
    let spelt = postcard::to_allocvec(&value).map_err(|cause| damaged(&cause))?;
    if spelt == bytes { Ok(value) } else { Err(damaged(&"it is spelt in another way than it was written")) }
}
