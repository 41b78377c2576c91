//! Tables (RFC 4180 CSV, and TSV) under masks by column.
//!
//! The first row names the columns; the one of `,` `;` tab `|` in it parts the cells. Refuses what two readers could
//! cut into different cells: two of these in the first row, quotes inside or after a cell, a lone carriage return, a row longer than the first.

use std::sync::Arc;

use super::MaskError;
use super::look::Look;
use super::plan::Compiled;
use super::stream::Format;
use super::text::{Coding, Text, write_hidden};
use super::window::{Counts, Hidden};
use crate::limits::MASK_HOLD_BACK_BYTES_MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Csv {
    plan: Arc<Compiled>,
    text: Text,
    /// What parts cells, once it is known.
    mark: Option<u8>,
    /// The styles of columns that are hidden, and what to count; empty until the first row is whole.
    columns: Vec<Option<(Look, Vec<usize>)>>,
    /// The first row, while it is read.
    first: Option<Vec<u8>>,
    column: usize,
    cell: Cell,
    hidden: Option<Hidden>,
    offset: u64,
}

/// Where in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Start,
    Bare,
    Quoted,
    /// After a quote in a quoted cell: its end, or the first of two.
    Quote,
    /// After a carriage return: a line feed must follow.
    Return,
}

impl Csv {
    /// `mark`: what parts cells, where the type says it.
    pub(super) fn new(plan: Arc<Compiled>, mark: Option<u8>) -> Self {
        let text = Text::new(plan.set, Coding::Bare);
        Self {
            plan,
            text,
            mark,
            columns: Vec::new(),
            first: Some(Vec::new()),
            column: 0,
            cell: Cell::Start,
            hidden: None,
            offset: 0,
        }
    }

    fn wrong(&self, what: &'static str) -> MaskError {
        MaskError::Unreadable { kind: "a table", at: self.offset, what }
    }

    /// Reads the first row, which may have line ends in quotes; gives how much of `chunk` was read.
    fn first_row(
        &mut self,
        chunk: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<usize, MaskError> {
        let Some(row) = &mut self.first else { return Ok(0) };
        let before = row.len();
        row.extend_from_slice(chunk);
        let mut quoted = false;
        let end = row.iter().position(|&b| {
            quoted ^= b == b'"';
            b == b'\n' && !quoted
        });
        let long = match end {
            Some(end) => end + 1,
            None if row.len() > MASK_HOLD_BACK_BYTES_MAX => {
                return Err(self.wrong("a first row that is too long"));
            }
            None if !last => return Ok(chunk.len()),
            None => row.len(),
        };
        let mut row = self.first.take().unwrap_or_default();
        row.truncate(long);
        let line = row.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&row);
        out.extend_from_slice(&row[..row.len() - line.len()]);
        self.name_columns(line)?;
        self.rows(line, out, counts)?;
        Ok(long - before)
    }

    fn name_columns(&mut self, line: &[u8]) -> Result<(), MaskError> {
        let mut quoted = false;
        let mut found = line.iter().copied().filter(|&b| {
            quoted ^= b == b'"';
            !quoted && b",;\t|".contains(&b)
        });
        let first = found.next();
        let mark = *self.mark.get_or_insert(first.unwrap_or(b','));
        let twofold = first.into_iter().chain(found).any(|other| other != mark);
        // Whoever parts them at the other mark finds other columns; spreadsheets take `sep=` for a word of their own.
        if self.plan.has_keys() && (twofold || line.starts_with(b"sep=")) {
            return Err(self.wrong("a first row that can be parted in two ways"));
        }
        let mut quoted = false;
        let cells = line.split(|&b| {
            quoted ^= b == b'"';
            b == mark && !quoted
        });
        let plan = Arc::clone(&self.plan);
        for cell in cells {
            let Ok(cell) = std::str::from_utf8(cell) else {
                return Err(self.wrong("a name of a column that is not UTF-8"));
            };
            let name = cell.trim().trim_matches('"').replace("\"\"", "\"");
            self.columns.push(plan.key(name.trim().as_bytes()).map(|rule| (rule.look, rule.names.clone())));
        }
        // The first row itself is shown.
        self.column = usize::MAX;
        Ok(())
    }

    /// A cell begins.
    fn begin(&mut self, counts: &mut Counts) -> Result<(), MaskError> {
        // `usize::MAX` is the first row.
        if self.column == usize::MAX {
            return Ok(());
        }
        match self.columns.get(self.column) {
            None => Err(self.wrong("a row with more cells than the first")),
            Some(None) => Ok(()),
            Some(Some((style, names))) => {
                self.hidden = Some(Hidden::new(*style));
                counts.add(names);
                Ok(())
            }
        }
    }

    /// Takes bytes of a cell.
    fn take(&mut self, raw: &[u8], out: &mut Vec<u8>, counts: &mut Counts) {
        match &mut self.hidden {
            Some(hidden) => hidden.take(raw),
            None => self.text.push(&self.plan, raw, out, counts),
        }
    }

    /// The text of a cell ends.
    fn end(&mut self, coding: Coding, out: &mut Vec<u8>, counts: &mut Counts) {
        match self.hidden.take() {
            Some(hidden) => write_hidden(&self.plan, &hidden, coding, out),
            None => self.text.end(&self.plan, out, counts),
        }
    }

    fn rows(&mut self, bytes: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let mark = self.mark.unwrap_or(b',');
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            self.offset += 1;
            at += 1;
            match (self.cell, byte) {
                (Cell::Start, b'"') => {
                    self.begin(counts)?;
                    out.push(b'"');
                    self.text.set_coding(Coding::Quoted);
                    self.cell = Cell::Quoted;
                }
                (Cell::Quoted, b'"') => self.cell = Cell::Quote,
                (Cell::Quote, b'"') => {
                    self.take(if self.hidden.is_some() { b"\"" } else { b"\"\"" }, out, counts);
                    self.cell = Cell::Quoted;
                }
                (Cell::Quoted, _) => {
                    let long = bytes[at..].iter().position(|&b| b == b'"').unwrap_or(bytes.len() - at);
                    self.take(&bytes[at - 1..at + long], out, counts);
                    (self.offset, at) = (self.offset + long as u64, at + long);
                }
                (Cell::Return, b'\n') => self.next_row(b"\r\n", out),
                (Cell::Return, _) => return Err(self.wrong("a carriage return without a line feed")),
                (Cell::Start | Cell::Bare | Cell::Quote, b'\r' | b'\n') => {
                    // A hidden column that has nothing in it hides nothing; an empty line is no row.
                    if self.cell != Cell::Start {
                        self.finish_cell(out, counts);
                    }
                    match byte {
                        b'\n' => self.next_row(b"\n", out),
                        _ => self.cell = Cell::Return,
                    }
                }
                (Cell::Start | Cell::Bare | Cell::Quote, _) if byte == mark => {
                    if self.cell == Cell::Start
                        && self.column != usize::MAX
                        && self.column >= self.columns.len()
                    {
                        return Err(self.wrong("a row with more cells than the first"));
                    }
                    if self.cell != Cell::Start {
                        self.finish_cell(out, counts);
                    }
                    out.push(mark);
                    self.cell = Cell::Start;
                    if self.column != usize::MAX {
                        self.column += 1;
                    }
                }
                (Cell::Quote, _) => return Err(self.wrong("text after a closing quote")),
                (Cell::Bare, b'"') => return Err(self.wrong("a quote inside a cell")),
                (Cell::Start | Cell::Bare, _) => {
                    if self.cell == Cell::Start {
                        self.begin(counts)?;
                        self.text.set_coding(Coding::Bare);
                        self.cell = Cell::Bare;
                    }
                    let stop = |&b: &u8| b == mark || b"\r\n\"".contains(&b);
                    let long = bytes[at..].iter().position(stop).unwrap_or(bytes.len() - at);
                    self.take(&bytes[at - 1..at + long], out, counts);
                    (self.offset, at) = (self.offset + long as u64, at + long);
                }
            }
        }
        Ok(())
    }

    fn finish_cell(&mut self, out: &mut Vec<u8>, counts: &mut Counts) {
        let quoted = self.cell == Cell::Quote;
        self.end(if quoted { Coding::Quoted } else { Coding::Bare }, out, counts);
        if quoted {
            out.push(b'"');
        }
    }

    fn next_row(&mut self, end: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(end);
        self.cell = Cell::Start;
        self.column = 0;
    }
}

impl Format for Csv {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        self.text.check(chunk)?;
        let read = self.first_row(chunk, false, out, counts)?;
        self.rows(&chunk[read..], out, counts)
    }

    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        self.first_row(&[], true, out, counts)?;
        match self.cell {
            Cell::Start => Ok(()),
            Cell::Quoted => Err(self.wrong("its end inside a quoted cell")),
            Cell::Return => Err(self.wrong("a carriage return without a line feed")),
            Cell::Bare | Cell::Quote => {
                self.finish_cell(out, counts);
                Ok(())
            }
        }
    }
}
