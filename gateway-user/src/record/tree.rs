//! The Merkle tree of RFC 9162 section 2.1: roots, audit paths, consistency. Pure, and never reads more nodes than a path
//! is long.
//!
//! The tree over the record has one leaf per commit, its seal. A seal covers the root of a second tree over the events
//! of its commit. So an event is proven by two short paths, and nothing of its neighbours but hashes is shown.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::operation::Sha256;

/// A node: level (0 are leaves) and index in that level, counted from the left.
pub type At = (u8, u64);

/// The hash of a leaf.
#[must_use]
pub fn leaf(of: &Sha256) -> Sha256 {
    hash(&[&[0], &of.0])
}

/// The hash of two nodes.
#[must_use]
pub fn node(left: &Sha256, right: &Sha256) -> Sha256 {
    hash(&[&[1], &left.0, &right.0])
}

fn hash(parts: &[&[u8]]) -> Sha256 {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Sha256(out)
}

/// A tree that grows to the right. Remembers the roots of its whole subtrees, one per bit of its size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    size: u64,
    /// Largest first.
    peaks: Vec<Sha256>,
}

impl Frontier {
    /// Leaves in it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf's hash, and gives each node that is whole now, from below.
    pub fn push(&mut self, leaf: Sha256, mut whole: impl FnMut(At, Sha256)) {
        whole((0, self.size), leaf);
        let (mut hash, mut level) = (leaf, 0_u8);
        while self.size >> level & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node(&left, &hash);
            level += 1;
            whole((level, self.size >> level), hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root; of nothing, the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Sha256 {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return hash(&[]) };
        peaks.fold(*last, |right, left| node(left, &right))
    }

    /// Where its peaks stand.
    pub fn places(size: u64) -> impl Iterator<Item = At> {
        (0..64).rev().filter(move |level| size >> level & 1 == 1).map(move |level| {
            let before = if level == 63 { 0 } else { size >> (level + 1) << 1 };
            (level, before)
        })
    }

    /// The tree of this size, from stored nodes.
    ///
    /// # Errors
    /// A node cannot be had.
    pub fn load<E>(size: u64, mut get: impl FnMut(At) -> Result<Sha256, E>) -> Result<Self, E> {
        Ok(Self { size, peaks: Self::places(size).map(&mut get).collect::<Result<_, _>>()? })
    }
}

/// The root over these.
#[must_use]
pub fn root(leaves: impl IntoIterator<Item = Sha256>) -> Sha256 {
    let mut tree = Frontier::default();
    leaves.into_iter().for_each(|of| tree.push(leaf(&of), |_, _| {}));
    tree.root()
}

/// The hash of the leaves `from..to`, from stored whole nodes: at most one per level, where `from` begins a subtree.
fn range<E>(from: u64, to: u64, get: &mut impl FnMut(At) -> Result<Sha256, E>) -> Result<Sha256, E> {
    let size = to - from;
    if size.is_power_of_two() {
        let level = size.trailing_zeros() as u8;
        return get((level, from >> level));
    }
    let left = split(size);
    Ok(node(&range(from, from + left, get)?, &range(from + left, to, get)?))
}

/// Leaves of the left subtree: the largest power of two below `size`.
fn split(size: u64) -> u64 {
    let half = 1 << (63 - size.leading_zeros());
    if half == size { half / 2 } else { half }
}

/// The audit path of one leaf in the tree of this size, lowest first.
///
/// # Errors
/// A node cannot be had.
pub fn path<E>(
    index: u64,
    size: u64,
    mut get: impl FnMut(At) -> Result<Sha256, E>,
) -> Result<Vec<Sha256>, E> {
    let (mut from, mut to, mut out) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            out.push(range(middle, to, &mut get)?);
            to = middle;
        } else {
            out.push(range(from, middle, &mut get)?);
            from = middle;
        }
    }
    out.reverse();
    Ok(out)
}

/// The root that a leaf's hash and its path lead to; `None` where the path has another length than it must.
#[must_use]
pub fn climb(leaf: Sha256, index: u64, size: u64, path: &[Sha256]) -> Option<Sha256> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

/// Shows that the tree of `new` leaves begins with that of `old`.
///
/// # Errors
/// A node cannot be had.
pub fn consistency<E>(
    old: u64,
    new: u64,
    mut get: impl FnMut(At) -> Result<Sha256, E>,
) -> Result<Vec<Sha256>, E> {
    let mut out = Vec::new();
    if old == 0 || old >= new {
        return Ok(out);
    }
    let (mut from, mut to, mut whole) = (0, new, true);
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            out.push(range(middle, to, &mut get)?);
            to = middle;
        } else {
            out.push(range(from, middle, &mut get)?);
            (from, whole) = (middle, false);
        }
    }
    if !whole {
        out.push(range(from, to, &mut get)?);
    }
    out.reverse();
    Ok(out)
}

/// Whether this shows that the tree with the new root begins with the one with the old root.
#[must_use]
pub fn is_consistent(old: (u64, Sha256), new: (u64, Sha256), proof: &[Sha256]) -> bool {
    if old.0 == 0 || old.0 > new.0 {
        return false;
    }
    if old.0 == new.0 {
        return old.1 == new.1 && proof.is_empty();
    }
    let (mut at, mut last) = (old.0 - 1, new.0 - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let mut rest = proof.iter();
    let first = if at == 0 { Some(&old.1) } else { rest.next() };
    let Some(first) = first else { return false };
    let (mut before, mut after) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            before = node(sibling, &before);
            after = node(sibling, &after);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            after = node(&after, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && before == old.1 && after == new.1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Whole {
        nodes: BTreeMap<At, Sha256>,
        roots: Vec<Sha256>,
    }

    fn whole(size: u64) -> Whole {
        let (mut tree, mut nodes) = (Frontier::default(), BTreeMap::new());
        let mut roots = vec![tree.root()];
        for number in 0..size {
            tree.push(leaf(&Sha256::of(&number.to_be_bytes())), |at, hash| {
                nodes.insert(at, hash);
            });
            roots.push(tree.root());
        }
        Whole { nodes, roots }
    }

    /// RFC 9162 section 2.1.1, word for word.
    fn defined(leaves: &[Sha256]) -> Sha256 {
        match leaves {
            [] => Sha256::of(b""),
            [one] => leaf(one),
            more => {
                let half = split(more.len() as u64) as usize;
                node(&defined(&more[..half]), &defined(&more[half..]))
            }
        }
    }

    #[test]
    fn every_root_is_the_one_the_rfc_defines_and_comes_back_from_stored_nodes() {
        let leaves: Vec<Sha256> = (0..70_u64).map(|number| Sha256::of(&number.to_be_bytes())).collect();
        let tree = whole(70);
        for size in 0..=70 {
            assert_eq!(tree.roots[size], defined(&leaves[..size]), "{size} leaves");
            let loaded = Frontier::load(size as u64, |at| tree.nodes.get(&at).copied().ok_or(at)).unwrap();
            assert_eq!(loaded.root(), tree.roots[size]);
        }
    }

    #[test]
    fn every_leaf_is_proven_and_no_other_place_or_hash_is() {
        let tree = whole(37);
        for size in 1..=37_u64 {
            for index in 0..size {
                let path = path(index, size, |at| tree.nodes.get(&at).copied().ok_or(at)).unwrap();
                let leaf = tree.nodes[&(0, index)];
                assert_eq!(climb(leaf, index, size, &path), Some(tree.roots[size as usize]));
                assert_ne!(climb(Sha256::of(b"other"), index, size, &path), Some(tree.roots[size as usize]));
                for wrong in (0..size).filter(|wrong| *wrong != index) {
                    assert_ne!(climb(leaf, wrong, size, &path), Some(tree.roots[size as usize]));
                }
                let mut longer = path.clone();
                longer.push(leaf);
                assert_eq!(climb(leaf, index, size, &longer), None);
            }
        }
    }

    #[test]
    fn every_pair_of_sizes_is_consistent_and_no_other_root_is() {
        let tree = whole(37);
        for new in 1..=37_u64 {
            for old in 1..=new {
                let proof = consistency(old, new, |at| tree.nodes.get(&at).copied().ok_or(at)).unwrap();
                let (first, second) = (tree.roots[old as usize], tree.roots[new as usize]);
                assert!(is_consistent((old, first), (new, second), &proof), "{old} {new}");
                assert!(!is_consistent((old, Sha256::of(b"x")), (new, second), &proof));
                assert!(!is_consistent((old, first), (new, Sha256::of(b"x")), &proof));
            }
        }
        assert!(!is_consistent((0, Sha256::of(b"")), (1, tree.roots[1]), &[]));
    }

    #[test]
    fn a_path_of_ten_million_leaves_reads_no_more_nodes_than_twice_its_height() {
        let mut reads = 0;
        let got: Result<_, ()> = path(7_654_321, 10_000_000, |_| {
            reads += 1;
            Ok(Sha256::default())
        });
        assert!(got.unwrap().len() <= 24 && reads <= 48, "{reads}");
    }
}
