//! A JSON object on its way: members at its top level set or removed, every other byte as it came.
//!
//! Holds back a member's name until it is known whole, and never a value. After an error nothing more is let go.

use std::sync::Arc;

use super::{Field, RewriteError, folded};
use crate::json::{Event, Kind, Scanner};
use crate::limits::{JSON_DEPTH_MAX, REWRITE_HOLD_BACK_BYTES_MAX};

/// What happens to the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Before the object.
    Before,
    /// Between members, up to the end of the next one's name: held back.
    Hold,
    /// A member that stays, and what follows it up to the comma.
    Pass,
    /// A member whose value this field of the plan replaces, before that value.
    Replace(usize),
    /// The value that was replaced.
    Skip,
    /// A member that is removed, up to the comma.
    Drop,
    /// Behind the object.
    After,
}

/// What is to be done with one member.
enum Fate {
    Keep,
    Set(usize),
    Remove,
}

/// See the module.
#[derive(Debug)]
pub struct Json {
    plan: Arc<[Field]>,
    scanner: Scanner,
    mode: Mode,
    /// The comma, the white space and the name of the member that comes next.
    held: Vec<u8>,
    name_at: usize,
    /// Members passed on.
    members: u64,
    /// For each field of the plan: whether a member of exactly its name was set, and whether it changed anything.
    met: Vec<bool>,
    changed: Vec<bool>,
    failed: Option<RewriteError>,
}

impl Json {
    pub(super) fn new(plan: Arc<[Field]>) -> Self {
        let count = plan.len();
        Self {
            plan,
            scanner: Scanner::new(JSON_DEPTH_MAX),
            mode: Mode::Before,
            held: Vec::new(),
            name_at: 0,
            members: 0,
            met: vec![false; count],
            changed: vec![false; count],
            failed: None,
        }
    }

    /// Takes the next bytes of the body; appends to `out` what is certain.
    ///
    /// # Errors
    /// Where the body cannot be rewritten.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), RewriteError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        for &byte in chunk {
            if let Err(error) = self.byte(byte, out) {
                self.failed = Some(error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The body is complete. One without a value is fine.
    ///
    /// # Errors
    /// Where it ends too soon.
    pub fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), RewriteError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.scanner.is_blank() {
            return Ok(());
        }
        self.scanner.finish(&mut |_| {}).map_err(RewriteError::NotJson)
    }

    /// The rewrites that made a difference so far.
    #[must_use]
    pub fn applied(&self) -> Vec<String> {
        let changed = self.plan.iter().zip(&self.changed).filter(|(_, changed)| **changed);
        changed.map(|(field, _)| field.rewrite.clone()).collect()
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), RewriteError> {
        let before = self.scanner.depth();
        let mut events = [None; 2];
        let mut count = 0;
        let noted = self.scanner.push(byte, &mut |event| {
            // A byte ends at most one number and means one thing itself.
            if let Some(slot) = events.get_mut(count) {
                *slot = Some(event);
            }
            count += 1;
        });
        noted.map_err(RewriteError::NotJson)?;
        for event in events.into_iter().flatten() {
            if self.event(event, before, byte, out)? {
                return Ok(());
            }
        }
        match self.mode {
            Mode::Before | Mode::Pass | Mode::Replace(_) | Mode::After => out.push(byte),
            Mode::Hold => self.hold(byte)?,
            Mode::Skip | Mode::Drop => {}
        }
        Ok(())
    }

    fn hold(&mut self, byte: u8) -> Result<(), RewriteError> {
        if self.held.len() >= REWRITE_HOLD_BACK_BYTES_MAX {
            return Err(RewriteError::TooLong);
        }
        self.held.push(byte);
        Ok(())
    }

    /// Goes on to the next mode; whether the byte itself is settled by that.
    fn event(
        &mut self,
        event: Event,
        before: usize,
        byte: u8,
        out: &mut Vec<u8>,
    ) -> Result<bool, RewriteError> {
        let after = self.scanner.depth();
        match (self.mode, event) {
            (Mode::Before, Event::ValueBegins(Kind::Object)) => {
                out.push(byte);
                self.mode = Mode::Hold;
            }
            (Mode::Before, Event::ValueBegins(_)) => return Err(RewriteError::NotObject),
            (Mode::Hold, Event::NameBegins) => {
                self.name_at = self.held.len();
                return Ok(false);
            }
            (Mode::Hold, Event::NameEnds) => {
                self.hold(byte)?;
                self.named(out);
            }
            (Mode::Replace(field), Event::ValueBegins(_)) if before == 1 => {
                out.extend_from_slice(self.plan[field].set.as_deref().unwrap_or("null").as_bytes());
                self.mode = Mode::Skip;
            }
            (Mode::Skip, Event::ValueEnds { with_this }) => {
                // A number ends before this byte, and before what this byte closes.
                if (if with_this { after } else { before }) != 1 {
                    return Ok(false);
                }
                self.mode = Mode::Pass;
                return Ok(with_this);
            }
            (Mode::Pass | Mode::Drop, Event::Comma) if before == 1 => {
                self.mode = Mode::Hold;
                self.held.clear();
                self.held.push(byte);
            }
            (Mode::Hold | Mode::Pass | Mode::Drop, Event::ValueEnds { with_this: true }) if after == 0 => {
                out.append(&mut self.held);
                self.add(out);
                out.push(byte);
                self.mode = Mode::After;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A member's name is whole.
    fn named(&mut self, out: &mut Vec<u8>) {
        let name: String = serde_json::from_slice(&self.held[self.name_at..]).unwrap_or_default();
        match self.fate(&name) {
            Fate::Remove => {
                self.held.clear();
                self.mode = Mode::Drop;
                return;
            }
            Fate::Set(field) => self.mode = Mode::Replace(field),
            Fate::Keep => self.mode = Mode::Pass,
        }
        // The comma parted it from a member that is gone.
        let from = usize::from(self.members == 0 && self.held.first() == Some(&b','));
        out.extend_from_slice(&self.held[from..]);
        self.held.clear();
        self.members += 1;
    }

    /// All members of the name are set or removed. One whose name differs only in case is removed: some readers take it
    /// for the other.
    fn fate(&mut self, name: &str) -> Fate {
        let plan = Arc::clone(&self.plan);
        if let Some(exact) = plan.iter().position(|field| field.name == name) {
            self.changed[exact] = true;
            self.met[exact] = true;
            return if plan[exact].set.is_some() { Fate::Set(exact) } else { Fate::Remove };
        }
        let folded = folded(name);
        match plan.iter().position(|field| field.folded == folded) {
            Some(alike) => {
                self.changed[alike] = true;
                Fate::Remove
            }
            None => Fate::Keep,
        }
    }

    /// Adds the members that are to be set and were not there.
    fn add(&mut self, out: &mut Vec<u8>) {
        let plan = Arc::clone(&self.plan);
        for (index, field) in plan.iter().enumerate() {
            let Some(set) = field.set.as_deref().filter(|_| !self.met[index]) else { continue };
            if self.members > 0 {
                out.push(b',');
            }
            self.members += 1;
            self.changed[index] = true;
            out.extend_from_slice(serde_json::Value::from(field.name.as_str()).to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(set.as_bytes());
        }
    }
}
