//! JSON paths, followed step by step while a document goes by.
//!
//! Keeps one set of open steps per container, never a value. A path matches what RFC 9535 says it matches; names are
//! compared exactly.

use super::plan::Rule;
use crate::policy::nouns::{JsonPath, JsonStep, Style};

/// All paths of a plan, their steps laid end to end. A step is *open* at a container when the steps before it led there.
#[derive(Debug, Default)]
pub(super) struct Paths {
    steps: Vec<Step>,
    firsts: Vec<usize>,
    /// The rule of the paths that consist of `$` alone.
    whole: Option<Rule>,
}

#[derive(Debug)]
struct Step {
    of: JsonStep,
    /// Set at the last step of a path.
    rule: Option<Rule>,
}

/// What stands on the way from a container to its child.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edge<'a> {
    /// A member of an object, by its decoded name.
    Member(&'a [u8]),
    /// An element of an array.
    Index(u64),
}

impl Paths {
    pub(super) fn add(&mut self, path: &JsonPath, index: usize, style: Style) {
        let rule = Rule::new(index, style);
        let Some((last, before)) = path.steps.split_last() else {
            match &mut self.whole {
                Some(whole) => whole.add(index, style),
                None => self.whole = Some(rule),
            }
            return;
        };
        self.firsts.push(self.steps.len());
        self.steps.extend(before.iter().map(|step| Step { of: step.clone(), rule: None }));
        self.steps.push(Step { of: last.clone(), rule: Some(rule) });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.whole.is_none()
    }

    /// Words of 64 steps that a set takes.
    fn words(&self) -> usize {
        self.steps.len().div_ceil(64)
    }
}

/// The sets of open steps of the containers from the root to here, and of the value that comes next.
#[derive(Debug, Default)]
pub(super) struct Trail {
    stack: Vec<u64>,
    next: Vec<u64>,
}

impl Trail {
    /// A new document: gives the rule if all of it is to be hidden.
    pub(super) fn begin<'p>(&mut self, paths: &'p Paths) -> Option<&'p Rule> {
        self.stack.clear();
        self.next.clear();
        self.next.resize(paths.words(), 0);
        for &first in &paths.firsts {
            self.next[first / 64] |= 1 << (first % 64);
        }
        paths.whole.as_ref()
    }

    /// The value that comes next is a container, and it is entered.
    pub(super) fn enter(&mut self) {
        self.stack.extend_from_slice(&self.next);
    }

    /// The innermost container ends.
    pub(super) fn leave(&mut self) {
        self.stack.truncate(self.stack.len().saturating_sub(self.next.len()));
    }

    /// A child of the innermost container comes next; `hit` gets the rule of each path that ends there.
    pub(super) fn child<'p>(&mut self, paths: &'p Paths, edge: Edge<'_>, mut hit: impl FnMut(&'p Rule)) {
        let words = self.next.len();
        let open = self.stack.len().saturating_sub(words);
        self.next.fill(0);
        for word in 0..words {
            let mut bits = self.stack.get(open + word).copied().unwrap_or(0);
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let step = &paths.steps[at];
                if let JsonStep::Descendant(_) = step.of {
                    self.next[at / 64] |= 1 << (at % 64);
                }
                if !leads(&step.of, edge) {
                    continue;
                }
                match &step.rule {
                    Some(rule) => hit(rule),
                    None => self.next[(at + 1) / 64] |= 1 << ((at + 1) % 64),
                }
            }
        }
    }
}

fn leads(step: &JsonStep, edge: Edge<'_>) -> bool {
    match (step, edge) {
        (JsonStep::Member(name) | JsonStep::Descendant(name), Edge::Member(key)) => name.as_bytes() == key,
        (JsonStep::Index(wanted), Edge::Index(index)) => *wanted == index,
        (JsonStep::Any, _) => true,
        _ => false,
    }
}
