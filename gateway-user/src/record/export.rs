//! Writes recorded operations for other programs: JSON lines, HAR 1.2, pcapng. Holds one operation and its bodies at a
//! time, and writes what the record holds: masked, and nothing that is not in it.

mod har;
mod jsonl;
mod pcapng;
mod text;

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::RecordError;
use super::entry::{BodyEnd, SessionClosed, SessionOpened, Side};
use super::read::{EntryView, Filter, Reader};
use super::walk::Passed;
use crate::limits::SESSIONS_WALKED_MAX;

pub use text::Text;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object for each operation, on one line each.
    Jsonl,
    /// HTTP Archive 1.2.
    Har,
    /// A capture file with TCP made up around what was recorded.
    Pcapng,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Sessions with at least one operation in it.
    pub sessions: u64,
    /// Operations.
    pub entries: u64,
    /// Whether older sessions match as well: so many are never written at once.
    pub more_sessions: bool,
    /// Bodies of which the record holds only the beginning.
    pub truncated_bodies: u64,
    /// Bodies that could not be read, and are marked so.
    pub unreadable_bodies: u64,
    /// Why the first of those could not be read.
    pub unreadable: Option<String>,
    /// Operations that the format has no room for: without an address or without a message.
    pub left_out: u64,
}

/// Why an export ended.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The output cannot be written.
    #[error("cannot write the export: {0}")]
    Io(#[from] io::Error),
}

/// One body as the record has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Body {
    bytes: Vec<u8>,
    end: BodyEnd,
    /// Why its bytes are not here, though there were some.
    lost: Option<String>,
}

impl Body {
    /// What is missing of it, in words; `None` where nothing is.
    fn gap(&self) -> Option<String> {
        if let Some(why) = &self.lost {
            return Some(format!("the recorded body cannot be read: {why}"));
        }
        let (bytes, kept) = (self.end.bytes, self.bytes.len());
        self.end.truncated_at.map(|_| format!("the record holds the first {kept} bytes of a body of {bytes}"))
    }
}

/// One operation, ready to be written.
struct Whole<'a> {
    opened: &'a SessionOpened,
    entry: &'a EntryView,
    request: Body,
    response: Body,
}

/// A format being written.
trait Writer {
    /// A session begins that has at least one operation to write.
    fn opened(&mut self, opened: &SessionOpened) -> io::Result<()>;
    /// One of its operations. Gives whether the format could take it.
    fn entry(&mut self, whole: &Whole<'_>) -> io::Result<bool>;
    /// The session is over, or as far as it came.
    fn closed(&mut self, closed: Option<&SessionClosed>) -> io::Result<()>;
    /// Everything was written.
    fn finish(&mut self) -> io::Result<()>;
}

impl Reader {
    /// Writes every operation that matches, session by session, the oldest first.
    ///
    /// # Errors
    /// The record is damaged or unreadable, or the output cannot be written; what is there then is no whole document.
    pub fn export(
        &self,
        filter: &Filter,
        format: Format,
        out: &mut dyn Write,
    ) -> Result<Exported, ExportError> {
        let (sessions, more_sessions) = self.sessions_with(filter, SESSIONS_WALKED_MAX)?;
        let mut done = Exported { more_sessions, ..Exported::default() };
        let mut writer: Box<dyn Writer + '_> = match format {
            Format::Jsonl => Box::new(jsonl::Jsonl::new(out)),
            Format::Har => Box::new(har::Har::begin(out)?),
            Format::Pcapng => Box::new(pcapng::Pcapng::begin(out)?),
        };
        for session in sessions.into_iter().rev() {
            let (mut opened, mut begun, mut end) = (None, false, None);
            self.walk(session, |passed| {
                match passed {
                    Passed::Opened(event) => opened = Some(event.clone()),
                    Passed::Closed(event) => end = Some(event.clone()),
                    Passed::Entry(entry) => {
                        if let Some(opened) = opened.as_ref().filter(|_| filter.admits(&entry)) {
                            if !begun {
                                writer.opened(opened)?;
                            }
                            begun = true;
                            self.export_entry(opened, &entry, &mut *writer, &mut done)?;
                        }
                    }
                }
                Ok::<_, ExportError>(ControlFlow::Continue(()))
            })?;
            if begun {
                done.sessions += 1;
                writer.closed(end.as_ref())?;
            }
        }
        writer.finish()?;
        drop(writer);
        out.flush()?;
        Ok(done)
    }

    fn export_entry(
        &self,
        opened: &SessionOpened,
        entry: &EntryView,
        writer: &mut dyn Writer,
        done: &mut Exported,
    ) -> Result<(), ExportError> {
        let mut body = |side: Side| {
            let end = entry.closed.as_ref().map_or_else(BodyEnd::default, |closed| match side {
                Side::Request => closed.request,
                Side::Response => closed.response,
            });
            let (bytes, lost) = match self.body(entry, side) {
                Ok(bytes) => (bytes, None),
                Err(why) => (Vec::new(), Some(why.to_string())),
            };
            done.truncated_bodies += u64::from(end.truncated_at.is_some());
            done.unreadable_bodies += u64::from(lost.is_some());
            if done.unreadable.is_none() {
                done.unreadable.clone_from(&lost);
            }
            Body { bytes, end, lost }
        };
        let (request, response) = (body(Side::Request), body(Side::Response));
        match writer.entry(&Whole { opened, entry, request, response })? {
            true => done.entries += 1,
            false => done.left_out += 1,
        }
        Ok(())
    }
}
