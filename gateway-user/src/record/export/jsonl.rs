//! JSON lines: one operation a line, with its session's beginning and its bodies.

use std::io::{self, Write};

use serde::Serialize;

use super::text::{Text, write_json};
use super::{Body, Whole, Writer};
use crate::record::entry::{SessionClosed, SessionOpened};
use crate::record::read::EntryView;

pub(super) struct Jsonl<'a> {
    out: &'a mut dyn Write,
}

#[derive(Serialize)]
struct Line<'a> {
    session: &'a SessionOpened,
    #[serde(flatten)]
    entry: &'a EntryView,
    bodies: Bodies,
}

#[derive(Serialize)]
struct Bodies {
    request: OneBody,
    response: OneBody,
}

#[derive(Serialize)]
struct OneBody {
    #[serde(flatten)]
    content: Text,
    /// What is missing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<String>,
}

impl OneBody {
    fn of(body: &Body) -> Self {
        Self { content: Text::of(body.bytes.clone()), gap: body.gap() }
    }
}

impl<'a> Jsonl<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }
}

impl Writer for Jsonl<'_> {
    fn opened(&mut self, _: &SessionOpened) -> io::Result<()> {
        Ok(())
    }

    fn entry(&mut self, whole: &Whole<'_>) -> io::Result<bool> {
        let bodies = Bodies { request: OneBody::of(&whole.request), response: OneBody::of(&whole.response) };
        write_json(self.out, &Line { session: whole.opened, entry: whole.entry, bodies })?;
        self.out.write_all(b"\n")?;
        Ok(true)
    }

    fn closed(&mut self, _: Option<&SessionClosed>) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
