//! Reads rows as they were after one commit. Changes nothing, and takes no damaged page for an answer.

use std::fmt;

use redb::{Range, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::{COMMITS, HEADS, INDEX, META, SEGMENTS, STATE, StoreError, TIMES, TREE, guarded};
use crate::operation::Sha256;

/// The store as it was after one commit.
pub struct Snapshot {
    commits: ReadOnlyTable<(u64, u32), &'static [u8]>,
    index: ReadOnlyTable<&'static [u8], &'static [u8]>,
    times: ReadOnlyTable<i64, u64>,
    state: ReadOnlyTable<&'static [u8], &'static [u8]>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
    segments: ReadOnlyTable<u32, &'static [u8]>,
    tree: ReadOnlyTable<(u8, u64), &'static [u8; 32]>,
    heads: ReadOnlyTable<u64, &'static [u8]>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Some index rows, last first. Keeps the store as it was.
pub struct IndexRows(Range<'static, &'static [u8], &'static [u8]>);

impl IndexRows {
    /// The last that was not given yet.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn last(&mut self) -> Result<Option<Row>, StoreError> {
        guarded("search the index", || {
            let row = self.0.next_back().transpose()?;
            Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }
}

impl Snapshot {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the tables keep the transaction alive; nobody else needs it"
    )]
    pub(super) fn of(transaction: ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            commits: transaction.open_table(COMMITS)?,
            index: transaction.open_table(INDEX)?,
            times: transaction.open_table(TIMES)?,
            state: transaction.open_table(STATE)?,
            meta: transaction.open_table(META)?,
            segments: transaction.open_table(SEGMENTS)?,
            tree: transaction.open_table(TREE)?,
            heads: transaction.open_table(HEADS)?,
        })
    }

    /// One row about the whole store.
    ///
    /// # Errors
    /// The database is damaged or the disk refuses; so for every method here.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        guarded("read a row about the store", || Ok(self.meta.get(name)?.map(|value| value.value().to_vec())))
    }

    /// The names of the rows about the whole store, at most so many.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn meta_names(&self, most: usize) -> Result<Vec<String>, StoreError> {
        guarded("list the rows about the store", || {
            let mut names = Vec::new();
            for row in self.meta.range::<&str>(..)?.take(most) {
                names.push(row?.0.value().to_owned());
            }
            Ok(names)
        })
    }

    /// One packed commit.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn commit(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(&format!("read commit {number}"), || {
            let mut whole: Option<Vec<u8>> = None;
            for part in self.commits.range((number, 0)..=(number, u32::MAX))? {
                whole.get_or_insert_default().extend_from_slice(part?.1.value());
            }
            Ok(whole)
        })
    }

    /// The number of the first commit at or after this one.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn commit_from(&self, number: u64) -> Result<Option<u64>, StoreError> {
        guarded(&format!("look for commits from {number}"), || {
            Ok(self.commits.range((number, 0)..)?.next().transpose()?.map(|(key, _)| key.value().0))
        })
    }

    /// The number of the last commit.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn last_commit(&self) -> Result<Option<u64>, StoreError> {
        guarded("look for the last commit", || Ok(self.commits.last()?.map(|(key, _)| key.value().0)))
    }

    /// The first commit written in this second or a later one.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn commit_at(&self, second: i64) -> Result<Option<u64>, StoreError> {
        guarded("read the time index", || {
            Ok(self.times.range(second..)?.next().transpose()?.map(|(_, commit)| commit.value()))
        })
    }

    /// The rows of the time index.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn time(&self, second: i64) -> Result<Option<u64>, StoreError> {
        guarded("read the time index", || Ok(self.times.get(second)?.map(|commit| commit.value())))
    }

    /// One index row.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn index(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded("read an index row", || Ok(self.index.get(key)?.map(|value| value.value().to_vec())))
    }

    /// The last index row with `from <= key <= to`.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn index_before(&self, from: &[u8], to: &[u8]) -> Result<Option<Row>, StoreError> {
        guarded("search the index", || {
            let row = self.index.range(from..=to)?.next_back().transpose()?;
            Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }

    /// The index rows with `from <= key <= to`, last first.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn index_rows(&self, from: &[u8], to: &[u8]) -> Result<IndexRows, StoreError> {
        guarded("search the index", || Ok(IndexRows(self.index.range(from..=to)?)))
    }

    /// The first index row with `from <= key`.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn index_after(&self, from: &[u8]) -> Result<Option<Row>, StoreError> {
        guarded("search the index", || {
            let row = self.index.range(from..)?.next().transpose()?;
            Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }

    /// How many index rows there are for one key.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn index_count(&self, key: &[u8]) -> Result<u64, StoreError> {
        guarded("count index rows", || {
            let to = [key, &u64::MAX.to_be_bytes()].concat();
            let mut rows = 0;
            for row in self.index.range(key..=to.as_slice())? {
                row?;
                rows += 1;
            }
            Ok(rows)
        })
    }

    /// One value of the small state.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn state(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded("read the state", || Ok(self.state.get(key)?.map(|value| value.value().to_vec())))
    }

    /// All state whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn state_scan(&self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        guarded("scan the state", || {
            let mut rows = Vec::new();
            for row in self.state.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(rows)
        })
    }

    /// How many rows there are: parts of commits, index, seconds, state.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn counts(&self) -> Result<[u64; 4], StoreError> {
        guarded("count the rows", || {
            Ok([self.commits.len()?, self.index.len()?, self.times.len()?, self.state.len()?])
        })
    }

    /// How many rows there are beside those: nodes of the tree, checkpoints, segments.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn upkeep_counts(&self) -> Result<[u64; 3], StoreError> {
        guarded("count the rows", || Ok([self.tree.len()?, self.heads.len()?, self.segments.len()?]))
    }

    /// A node of the tree.
    ///
    /// # Errors
    /// As [`Snapshot::meta`]; it is missing.
    pub fn node(&self, at: (u8, u64)) -> Result<Sha256, StoreError> {
        let node = guarded("read a node of the tree", || Ok(self.tree.get(at)?.map(|hash| *hash.value())))?;
        node.map(Sha256).ok_or_else(|| {
            StoreError::damaged(
                "the tree over the commits",
                format!("node {} of level {} is missing", at.1, at.0),
            )
        })
    }

    /// The row of a segment.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn segment(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        guarded("read the row of a segment", || {
            Ok(self.segments.get(number)?.map(|row| row.value().to_vec()))
        })
    }

    /// The rows of all segments, ascending.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn segments(&self) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        guarded("read the rows of the segments", || {
            let mut rows = Vec::new();
            for row in self.segments.iter()? {
                let (number, row) = row?;
                rows.push((number.value(), row.value().to_vec()));
            }
            Ok(rows)
        })
    }

    /// The first signed checkpoint over at least so many commits.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn signed_from(&self, commits: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        guarded("read a checkpoint", || {
            let row = self.heads.range(commits..)?.next().transpose()?;
            Ok(row.map(|(commits, head)| (commits.value(), head.value().to_vec())))
        })
    }

    /// The last signed checkpoint.
    ///
    /// # Errors
    /// As [`Snapshot::meta`].
    pub fn signed_last(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        guarded("read the last checkpoint", || {
            Ok(self.heads.last()?.map(|(commits, head)| (commits.value(), head.value().to_vec())))
        })
    }
}
