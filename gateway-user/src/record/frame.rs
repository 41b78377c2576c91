//! How events are packed and chained: one blob per commit, one frame per event. Never accepts a blob with bytes left
//! over, and reads nothing outside it.
//!
//! The layout is written down byte by byte in `docs/RECORD.md`.

use aws_lc_rs::digest::{Context, SHA256};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::{Event, Micros, Side};
use super::tree::{self, Frontier};
use crate::operation::{EntryId, SessionId, Sha256};
use crate::store::Placed;

/// The layout's version, first byte of every blob.
pub const VERSION: u8 = 1;
/// Bytes before the first frame: version, number, first sequence number, time, count, link to the commit before.
pub const HEADER_BYTES: usize = 1 + 8 + 8 + 8 + 4 + 32;
/// Bytes before a frame's content: its length, its kind, whom it is about, its hash.
pub const FRAME_HEAD_BYTES: usize = 4 + 1 + 16 + 32;
/// Bytes after the last frame: the seal.
pub const SEAL_BYTES: usize = 32;

const GENESIS_TAG: &[u8] = b"tidegate record 1 genesis\0";
const FRAME_TAG: &[u8] = b"tidegate record 1 frame\0";
const SEAL_TAG: &[u8] = b"tidegate record 1 seal\0";

/// What one frame holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "frames pass by one at a time; most are events")]
pub enum Frame {
    /// An event, as it was handed in. Never [`Event::Body`].
    Event(Event),
    /// A stretch of a body, whose bytes lie in a segment.
    Body(KeptBody),
    /// Small state was put.
    Put {
        /// Its key.
        #[serde(with = "key_text")]
        key: Vec<u8>,
        /// Digest of the value.
        digest: Sha256,
        /// Bytes of the value.
        bytes: u32,
    },
    /// Small state was removed.
    Removed {
        /// Its key.
        #[serde(with = "key_text")]
        key: Vec<u8>,
    },
}

/// Keys are bytes in the record, and text for people.
mod key_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            String::from_utf8_lossy(key).serialize(serializer)
        } else {
            key.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer).map(String::into_bytes)
        } else {
            Vec::deserialize(deserializer)
        }
    }
}

/// A stretch of a body, with its bytes elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBody {
    /// The entry.
    pub entry: EntryId,
    /// Which of its bodies.
    pub side: Side,
    /// Where the bytes are, and what they are.
    pub placed: Placed,
}

/// Whom a frame is about. Stands in clear before the frame, so that a damaged one can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The gate itself.
    Gate,
    /// A session.
    Session(SessionId),
    /// An entry.
    Entry(EntryId),
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gate => f.write_str("the gate itself"),
            Self::Session(id) => write!(f, "session {id}"),
            Self::Entry(id) => write!(f, "entry {id}"),
        }
    }
}

impl Frame {
    /// Its kind, as one byte, and whom it is about.
    #[must_use]
    pub fn about(&self) -> (u8, About) {
        match self {
            Self::Event(event) => match event {
                Event::SessionOpened(event) => (1, About::Session(event.session)),
                Event::Intent(event) => (2, About::Entry(event.entry)),
                Event::Decided(event) => (3, About::Entry(event.entry)),
                Event::Responded(event) => (4, About::Entry(event.entry)),
                Event::Body(event) => (5, About::Entry(event.entry)),
                Event::EntryClosed(event) => (6, About::Entry(event.entry)),
                Event::SessionClosed(event) => (7, About::Session(event.session)),
                Event::Voted(event) => (8, About::Entry(event.entry)),
                Event::PolicyChanged(_) => (9, About::Gate),
                Event::Started(_) => (10, About::Gate),
                Event::Interrupted(_) => (13, About::Gate),
                Event::Demanded(event) => (14, About::Entry(event.entry)),
                Event::RecordRead(_) => (15, About::Gate),
                Event::CalledOff(event) => (16, About::Entry(event.entry)),
                Event::Blocked(_) => (17, About::Gate),
                Event::Unblocked(_) => (18, About::Gate),
                Event::PolicyWeighed(_) => (19, About::Gate),
                Event::Kept(_) => (20, About::Gate),
                Event::Surged(_) => (21, About::Gate),
                Event::SocketsDestroyed(_) => (22, About::Gate),
                Event::KernelRefused(_) => (23, About::Gate),
                Event::CredentialClaimed(event) => (24, About::Entry(event.entry)),
            },
            Self::Body(body) => (5, About::Entry(body.entry)),
            Self::Put { .. } => (11, About::Gate),
            Self::Removed { .. } => (12, About::Gate),
        }
    }

    /// When it happened, for events that say so.
    #[must_use]
    pub fn at(&self) -> Option<Micros> {
        match self {
            Self::Event(event) => event.at(),
            _ => None,
        }
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// It is not one, or bytes are left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match postcard::take_from_bytes(bytes) {
            Ok((frame, [])) => Ok(frame),
            Ok((_, rest)) => Err(format!("{} bytes are left over after it", rest.len())),
            Err(cause) => Err(format!("it does not decode: {cause}")),
        }
    }
}

/// Encodes this behind what is there.
///
/// # Errors
/// It cannot be encoded; a part of it may be there then.
pub(super) fn encode_onto(bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<(), postcard::Error> {
    postcard::serialize_with_flavor(value, Onto(bytes))
}

struct Onto<'a>(&'a mut Vec<u8>);

impl Flavor for Onto<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> Result<(), postcard::Error> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> Result<(), postcard::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> Result<(), postcard::Error> {
        Ok(())
    }
}

/// The 16 bytes of `about`, and the bits that say which id they are.
fn about_bytes(kind: u8, about: About) -> [u8; 17] {
    let (class, id) = match about {
        About::Gate => (0, Uuid::nil()),
        About::Session(id) => (0x40, id.0),
        About::Entry(id) => (0x80, id.0),
    };
    let mut out = [0; 17];
    out[0] = class | kind;
    out[1..].copy_from_slice(id.as_bytes());
    out
}

fn about_from(bytes: &[u8; 17]) -> (u8, About) {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[1..]);
    let id = Uuid::from_bytes(id);
    let about = match bytes[0] & 0xc0 {
        0x40 => About::Session(SessionId(id)),
        0x80 => About::Entry(EntryId(id)),
        _ => About::Gate,
    };
    (bytes[0] & 0x3f, about)
}

/// What the first commit links to.
#[must_use]
pub fn genesis(store: &[u8]) -> Sha256 {
    digest(&[GENESIS_TAG, store])
}

/// The hash of one frame: of the hash before it, its sequence number, its head and its content.
#[must_use]
pub fn frame_hash(previous: &Sha256, sequence: u64, about: &[u8; 17], content: &[u8]) -> Sha256 {
    digest(&[FRAME_TAG, &previous.0, &sequence.to_be_bytes(), about, content])
}

/// The seal of one commit: of its last frame's hash, the root of the tree over its frames' hashes, and its header. The
/// next commit links to it.
#[must_use]
pub fn seal(last: &Sha256, root: &Sha256, header: &[u8]) -> Sha256 {
    digest(&[SEAL_TAG, &last.0, &root.0, header])
}

fn digest(parts: &[&[u8]]) -> Sha256 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Sha256(out)
}

/// Packs one commit.
#[derive(Debug, Default)]
pub struct Packer {
    blob: Vec<u8>,
    link: Sha256,
    last: Sha256,
    first: u64,
    count: u32,
    tree: Frontier,
}

impl Packer {
    /// Starts a commit that links to `link` and whose first frame has this sequence number.
    pub fn begin(&mut self, link: Sha256, first: u64) {
        self.blob.clear();
        self.blob.resize(HEADER_BYTES, 0);
        (self.link, self.last, self.first, self.count) = (link, link, first, 0);
        self.tree = Frontier::default();
    }

    /// Frames so far; the position the next one gets.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// It cannot be encoded; the commit must begin again then.
    pub fn push(&mut self, frame: &Frame) -> Result<(), postcard::Error> {
        let start = self.blob.len();
        self.blob.resize(start + FRAME_HEAD_BYTES, 0);
        encode_onto(&mut self.blob, frame)?;
        let (kind, about) = frame.about();
        let about = about_bytes(kind, about);
        let content = start + FRAME_HEAD_BYTES;
        let length = (self.blob.len() - content) as u32;
        let hash = frame_hash(&self.last, self.first + u64::from(self.count), &about, &self.blob[content..]);
        self.blob[start..start + 4].copy_from_slice(&length.to_be_bytes());
        self.blob[start + 4..start + 21].copy_from_slice(&about);
        self.blob[start + 21..content].copy_from_slice(&hash.0);
        self.last = hash;
        self.tree.push(tree::leaf(&hash), |_, _| {});
        self.count += 1;
        Ok(())
    }

    /// Ends the commit. Gives its bytes and its seal.
    pub fn finish(&mut self, number: u64, written: Micros) -> (&[u8], Sha256) {
        let header = &mut self.blob[..HEADER_BYTES];
        header[0] = VERSION;
        header[1..9].copy_from_slice(&number.to_be_bytes());
        header[9..17].copy_from_slice(&self.first.to_be_bytes());
        header[17..25].copy_from_slice(&written.to_be_bytes());
        header[25..29].copy_from_slice(&self.count.to_be_bytes());
        header[29..61].copy_from_slice(&self.link.0);
        let seal = seal(&self.last, &self.tree.root(), header);
        self.blob.extend_from_slice(&seal.0);
        (&self.blob, seal)
    }
}

/// A packed commit, taken apart. Nothing in it is believed yet.
#[derive(Debug)]
pub struct Commit<'a> {
    /// Its header, as it stands.
    pub header: &'a [u8],
    /// Its number.
    pub number: u64,
    /// Sequence number of its first frame.
    pub first: u64,
    /// When it was written.
    pub written: Micros,
    /// The seal of the commit before.
    pub link: Sha256,
    /// Its frames.
    pub frames: Vec<RawFrame<'a>>,
    /// Its seal, as it stands.
    pub seal: Sha256,
}

/// One frame, not believed yet.
#[derive(Debug, Clone, Copy)]
pub struct RawFrame<'a> {
    /// Its kind and whom it is about, as they stand.
    pub about: (u8, About),
    /// The same, as bytes.
    pub about_bytes: &'a [u8; 17],
    /// Its hash, as it stands.
    pub hash: Sha256,
    /// Its content.
    pub content: &'a [u8],
}

impl<'a> Commit<'a> {
    /// Takes a blob apart.
    ///
    /// # Errors
    /// It is no blob of this version, or its lengths do not add up; says what and at which byte.
    pub fn parse(blob: &'a [u8]) -> Result<Self, String> {
        let mut rest = Bytes { all: blob, at: 0 };
        let header = rest.take(HEADER_BYTES, "its header")?;
        if header[0] != VERSION {
            return Err(format!(
                "byte 0 says layout version {}, and this tidegate reads {VERSION}",
                header[0]
            ));
        }
        let count = u32::from_be_bytes(part(header, 25));
        let mut frames = Vec::with_capacity(count.min(8192) as usize);
        for position in 0..count {
            let length = rest.array::<4>("a frame's length")?;
            let about_bytes = rest.array::<17>("a frame's head")?;
            let hash = Sha256(*rest.array::<32>("a frame's hash")?);
            let length = u32::from_be_bytes(*length) as usize;
            let content = rest.take(length, "a frame").map_err(|e| format!("frame {position}: {e}"))?;
            frames.push(RawFrame { about: about_from(about_bytes), about_bytes, hash, content });
        }
        let seal = Sha256(*rest.array::<32>("its seal")?);
        if rest.at != blob.len() {
            return Err(format!("{} bytes are left over after byte {}", blob.len() - rest.at, rest.at));
        }
        let number = u64::from_be_bytes(part(header, 1));
        let first = u64::from_be_bytes(part(header, 9));
        let written = i64::from_be_bytes(part(header, 17));
        Ok(Self { header, number, first, written, link: Sha256(part(header, 29)), frames, seal })
    }

    /// The sequence number of the next commit's first frame.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }
}

fn part<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.all.len());
        let end = end.ok_or_else(|| {
            format!("the commit's {} bytes end inside {what} at byte {}", self.all.len(), self.at)
        })?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<&'a [u8; N], String> {
        let taken = self.take(N, what)?;
        taken.try_into().map_err(|_| format!("{what} is short"))
    }
}
