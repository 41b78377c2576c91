//! What is owed to the record while it takes nothing: ends, which are kept, and how much was refused, which is counted.

use std::collections::HashSet;

use uuid::Uuid;

use super::entry::Event;
use crate::limits;

/// What was not written. Bounded.
#[derive(Debug, Default)]
pub(super) struct Owing {
    /// Ends that no queue took, in order.
    pub(super) ends: Vec<Event>,
    /// Openings that were refused a moment ago: their ends are not owed.
    pub(super) refused: HashSet<Uuid>,
    /// Flows that were refused.
    pub(super) flows: u64,
    /// Operations that were.
    pub(super) operations: u64,
}

impl Owing {
    /// What was not written: openings are counted, and ends kept, unless they end what was refused itself.
    pub(super) fn lose(&mut self, events: Vec<Event>) {
        for event in events {
            match &event {
                Event::SessionOpened(opened) => {
                    self.flows += 1;
                    self.refuse(opened.session.0);
                }
                Event::Intent(intent) => {
                    self.operations += 1;
                    self.refuse(intent.entry.0);
                }
                Event::EntryClosed(closed) if !self.refused.remove(&closed.entry.0) => self.keep(event),
                Event::SessionClosed(closed) if !self.refused.remove(&closed.session.0) => self.keep(event),
                _ => {}
            }
        }
    }

    fn refuse(&mut self, id: Uuid) {
        if self.refused.len() < limits::ENDS_KEPT_MAX {
            self.refused.insert(id);
        }
    }

    fn keep(&mut self, end: Event) {
        if self.ends.len() < limits::ENDS_KEPT_MAX {
            self.ends.push(end);
        }
    }
}
