//! Looks for text in what was recorded: message heads and bodies, masked as they are. Stops at its bounds, and says what
//! it did not look at.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Serialize;

use super::RecordError;
use super::entry::{Head, Micros, Side, Verdict};
use super::read::{EntryView, Filter, Reader};
use super::walk::Passed;
use crate::limits::{READING_BYTES_MAX, SESSIONS_WALKED_MAX};
use crate::operation::{EntryId, SessionId};

/// Bytes shown before and after what was found.
const CONTEXT_BYTES: usize = 48;

/// What to look for, and for how long.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The text.
    pub text: String,
    /// Whether `A` and `a` are different letters. Letters beyond ASCII always are.
    pub exact: bool,
    /// In which operations.
    pub filter: Filter,
    /// Places reported at most.
    pub matches: usize,
    /// Bytes of bodies and heads looked at, at most.
    pub bytes: u64,
    /// How long to look.
    pub time: Duration,
}

/// One place that holds the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The session.
    pub session: SessionId,
    /// The operation.
    pub entry: EntryId,
    /// When it was judged.
    pub at: Micros,
    /// How.
    pub verdict: Verdict,
    /// Its request line.
    pub line: String,
    /// Where in it: `request head`, `request body`, `response head`, `response body`.
    pub place: &'static str,
    /// Byte offset of the first find in that place. In a head, of its lines as the record has them.
    pub offset: usize,
    /// How often the text is there.
    pub times: usize,
    /// The first find and what stands around it; bytes that are no text as U+FFFD.
    pub before: String,
    /// What matched.
    pub found: String,
    /// What follows it.
    pub after: String,
}

/// Why a search ended before it had looked at everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// It found as many places as it was to report.
    Matches,
    /// It had read as many bytes as it was to read.
    Bytes,
    /// Its time was over.
    Time,
}

/// How far a search came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Operations looked at.
    pub entries: u64,
    /// Sessions looked at, or begun to.
    pub sessions: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Why it stopped early; `None` where it looked at everything.
    pub stopped: Option<Stopped>,
    /// Sessions that match the filter and were not looked at to their end.
    pub sessions_left: u64,
    /// Whether there are more than that: so many are never looked at in one search.
    pub more_sessions: bool,
    /// Bodies of which the record holds only the beginning: what follows it was not looked at.
    pub truncated_bodies: u64,
    /// Bodies that could not be read.
    pub unreadable_bodies: u64,
    /// Why the first of those could not be read.
    pub unreadable: Option<String>,
}

struct Search<'a> {
    reader: &'a Reader,
    wanted: &'a Wanted,
    finder: AhoCorasick,
    until: Instant,
    found: usize,
    looked: Looked,
}

impl Reader {
    /// Looks through the newest sessions first, and tells every place that holds the text.
    ///
    /// # Errors
    /// The record is damaged or unreadable, or what `tell` gives.
    pub fn search<E: From<RecordError>>(
        &self,
        wanted: &Wanted,
        mut tell: impl FnMut(&Match) -> Result<(), E>,
    ) -> Result<Looked, E> {
        let bytes = wanted.text.len();
        let too_long = || RecordError::TooLarge { what: "a text to look for", bytes, max: READING_BYTES_MAX };
        if bytes > READING_BYTES_MAX {
            return Err(too_long().into());
        }
        let finder = AhoCorasick::builder()
            .ascii_case_insensitive(!wanted.exact)
            .match_kind(MatchKind::LeftmostFirst)
            .build([&wanted.text])
            .map_err(|_| too_long())?;
        let (sessions, more) = self.sessions_with(&wanted.filter, SESSIONS_WALKED_MAX)?;
        let until = Instant::now() + wanted.time;
        let looked = Looked { more_sessions: more, ..Looked::default() };
        let mut search = Search { reader: self, wanted, finder, until, found: 0, looked };
        for (at, session) in sessions.iter().enumerate() {
            search.looked.sessions += 1;
            self.walk(*session, |passed| match passed {
                Passed::Entry(entry) if wanted.filter.admits(&entry) => search.look(&entry, &mut tell),
                _ => Ok(search.flow()),
            })?;
            if search.looked.stopped.is_some() {
                search.looked.sessions_left = (sessions.len() - at) as u64;
                break;
            }
        }
        Ok(search.looked)
    }
}

impl Search<'_> {
    /// Whether a bound is reached.
    fn flow(&mut self) -> ControlFlow<()> {
        let stopped = match () {
            () if self.found >= self.wanted.matches => Some(Stopped::Matches),
            () if self.looked.bytes >= self.wanted.bytes => Some(Stopped::Bytes),
            () if Instant::now() >= self.until => Some(Stopped::Time),
            () => None,
        };
        self.looked.stopped = stopped;
        if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn look<E: From<RecordError>>(
        &mut self,
        entry: &EntryView,
        tell: &mut impl FnMut(&Match) -> Result<(), E>,
    ) -> Result<ControlFlow<()>, E> {
        if self.flow().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.looked.entries += 1;
        let heads = [("request head", Some(&entry.intent.head))]
            .into_iter()
            .chain([("response head", entry.responded.last().map(|responded| &responded.head))]);
        for (place, head) in heads {
            let Some(head) = head else { continue };
            self.place(entry, place, &lines(head), tell)?;
        }
        for (place, side) in [("request body", Side::Request), ("response body", Side::Response)] {
            if self.flow().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match self.reader.body(entry, side) {
                Ok(bytes) => self.place(entry, place, &bytes, tell)?,
                Err(why) => {
                    self.looked.unreadable_bodies += 1;
                    self.looked.unreadable.get_or_insert_with(|| why.to_string());
                }
            }
            let end = entry.closed.as_ref().map(|closed| match side {
                Side::Request => closed.request,
                Side::Response => closed.response,
            });
            self.looked.truncated_bodies += u64::from(end.is_some_and(|end| end.truncated_at.is_some()));
        }
        Ok(self.flow())
    }

    fn place<E>(
        &mut self,
        entry: &EntryView,
        place: &'static str,
        bytes: &[u8],
        tell: &mut impl FnMut(&Match) -> Result<(), E>,
    ) -> Result<(), E> {
        self.looked.bytes += bytes.len() as u64;
        let mut finds = self.finder.find_iter(bytes);
        let Some(first) = finds.next().filter(|_| self.found < self.wanted.matches) else { return Ok(()) };
        self.found += 1;
        let text = |from: usize, to: usize| String::from_utf8_lossy(&bytes[from..to]).into_owned();
        let from = whole_character(bytes, first.start().saturating_sub(CONTEXT_BYTES));
        let to = whole_character(bytes, (first.end() + CONTEXT_BYTES).min(bytes.len()));
        tell(&Match {
            session: entry.intent.session,
            entry: entry.intent.entry,
            at: entry.intent.at,
            verdict: entry.intent.verdict,
            line: entry.intent.head.line.clone(),
            place,
            offset: first.start(),
            times: 1 + finds.count(),
            before: text(from.min(first.start()), first.start()),
            found: text(first.start(), first.end()),
            after: text(first.end(), to.max(first.end())),
        })
    }
}

/// The next place at which no UTF-8 character is cut.
fn whole_character(bytes: &[u8], at: usize) -> usize {
    (at..bytes.len().min(at + 4)).find(|&at| bytes[at] & 0xc0 != 0x80).unwrap_or(at)
}

/// A head as one text, a line for the first line and for each field.
fn lines(head: &Head) -> Vec<u8> {
    let mut text = head.line.clone();
    for (name, value) in &head.fields {
        text.push('\n');
        text.push_str(name);
        text.push_str(": ");
        text.push_str(value);
    }
    text.into_bytes()
}
