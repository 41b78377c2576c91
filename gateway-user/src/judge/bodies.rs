//! Room in memory for the bodies of held operations, while they are read and while they wait. Refuses more than its bounds,
//! per subject and in all, before the bytes are there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{DEMAND_BYTES_MAX, DEMAND_BYTES_PER_SUBJECT_MAX};

/// All that is taken. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Bodies(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    by_subject: HashMap<String, usize>,
    all: usize,
}

/// What one body has of it; given back when dropped.
#[derive(Debug)]
pub struct BodyRoom {
    bodies: Bodies,
    subject: String,
    bytes: usize,
}

impl Bodies {
    /// Room for a body of this subject, none yet.
    #[must_use]
    pub fn room(&self, subject: String) -> BodyRoom {
        BodyRoom { bodies: self.clone(), subject, bytes: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BodyRoom {
    /// Takes room for so many more bytes. `false`: there is none.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut taken = self.bodies.taken();
        let mine = taken.by_subject.get(&self.subject).copied().unwrap_or_default();
        if mine + bytes > DEMAND_BYTES_PER_SUBJECT_MAX || taken.all + bytes > DEMAND_BYTES_MAX {
            return false;
        }
        taken.all += bytes;
        *taken.by_subject.entry(self.subject.clone()).or_default() += bytes;
        self.bytes += bytes;
        true
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.bodies.taken();
        taken.all -= self.bytes;
        if let Some(mine) = taken.by_subject.get_mut(&self.subject) {
            *mine -= self.bytes;
            if *mine == 0 {
                taken.by_subject.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subject_cannot_fill_the_memory_with_bodies_and_gets_its_room_back() {
        let bodies = Bodies::default();
        let mut ann = bodies.room("ann".into());
        assert!(ann.grow(DEMAND_BYTES_PER_SUBJECT_MAX));
        assert!(!ann.grow(1) && !bodies.room("ann".into()).grow(1));
        assert!(bodies.room("bob".into()).grow(1));
        drop(ann);
        assert!(bodies.room("ann".into()).grow(DEMAND_BYTES_PER_SUBJECT_MAX));
        assert!(bodies.taken().by_subject.is_empty() && bodies.taken().all == 0);
    }

    #[test]
    fn all_subjects_together_stay_within_the_bound() {
        let bodies = Bodies::default();
        let count = DEMAND_BYTES_MAX / DEMAND_BYTES_PER_SUBJECT_MAX;
        let mut rooms: Vec<BodyRoom> = (0..=count).map(|n| bodies.room(n.to_string())).collect();
        let last = rooms.pop();
        assert!(rooms.iter_mut().all(|room| room.grow(DEMAND_BYTES_PER_SUBJECT_MAX)));
        assert!(!last.unwrap().grow(1));
    }
}
