//! What differs between two states of a policy directory, file by file, and whose each file is.

use std::collections::BTreeMap;

use crate::operation::Sha256;

use super::files::Files;

/// The files of a directory by name, each with the digest of what it holds.
pub type Inventory = BTreeMap<String, Sha256>;

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The user id that owns it now; `None` for one that is gone.
    pub uid: Option<u32>,
    /// When it was last written, in microseconds; `None` for one that is gone.
    pub modified: Option<i64>,
    /// Digest of what it held before; `None` for one that is new.
    pub before: Option<Sha256>,
    /// Digest of what it holds now; `None` for one that is gone.
    pub after: Option<Sha256>,
}

impl Files {
    /// Names and digests.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let digest = |text: &str| Sha256::of(text.as_bytes());
        self.every().map(|file| (file.name.clone(), digest(file.source.text()))).collect()
    }

    /// What differs from these, by name.
    #[must_use]
    pub fn changes_since(&self, before: &Inventory) -> Vec<Change> {
        let now = self.inventory();
        let mut changes: Vec<Change> = self
            .every()
            .map(|file| Change {
                name: file.name.clone(),
                uid: Some(file.uid),
                modified: Some(file.modified),
                before: before.get(&file.name).copied(),
                after: now.get(&file.name).copied(),
            })
            .filter(|change| change.before != change.after)
            .collect();
        let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
        changes.extend(gone.map(|(name, digest)| Change {
            name: name.clone(),
            uid: None,
            modified: None,
            before: Some(*digest),
            after: None,
        }));
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_changed_and_removed_files_are_told_with_their_owner_and_the_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.toml", "a");
        write("b.toml", "b");
        write("c.toml", "c");
        let before = Files::read(dir.path()).unwrap().inventory();
        write("b.toml", "other");
        write("d.toml", "d");
        std::fs::remove_file(dir.path().join("c.toml")).unwrap();
        let changes = Files::read(dir.path()).unwrap().changes_since(&before);
        let seen: Vec<_> =
            changes.iter().map(|c| (c.name.as_str(), c.before.is_some(), c.after.is_some())).collect();
        assert_eq!(seen, [("b.toml", true, true), ("c.toml", true, false), ("d.toml", false, true)]);
        let me = rustix::process::geteuid().as_raw();
        assert_eq!((changes[0].uid, changes[1].uid), (Some(me), None));
        assert!(changes[0].modified.is_some_and(|at| at > 0));
    }
}
