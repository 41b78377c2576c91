//! Compiled masks, kept as long as the policy set they belong to. Never more than a bound of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mask::{HashKey, Plan};
use crate::operation::Sha256;
use crate::policy::Set;
use crate::policy::nouns::{Mask, On};

/// Combinations of target and masks kept at once.
const PLANS_MAX: usize = 1024;

/// Of one combination of names at once: a credential that is set anew is another mask of the same name.
const SAME_MAX: usize = 4;

/// What is hidden, from whom.
#[derive(Clone)]
pub(super) struct Hiding {
    /// From the target.
    pub asks: Plan,
    /// From the client.
    pub answers: Plan,
    /// From the record.
    pub recorded: Plan,
    /// From approvers, who are told by which mask or detector.
    pub shown: Plan,
}

/// Plans by target and by the masks that apply.
#[derive(Default)]
pub struct Plans {
    hash_key: Option<HashKey>,
    kept: Mutex<Kept>,
}

/// Masks, and what they were compiled into.
type Compiled = (Vec<Arc<Mask>>, Hiding);

#[derive(Default)]
struct Kept {
    /// The set they were compiled for.
    digest: Sha256,
    /// By target and names of the masks. In the safe mode another mask may have the same name.
    plans: HashMap<(String, String), Vec<Compiled>>,
}

impl Plans {
    /// Plans whose masks hash with this key.
    #[must_use]
    pub fn hashing(key: HashKey) -> Self {
        Self { hash_key: Some(key), kept: Mutex::default() }
    }

    /// The plans for `masks` on `target` under `set`.
    pub(super) fn of(&self, set: &Set, target: &str, masks: &[Arc<Mask>]) -> Hiding {
        let names: Vec<&str> = masks.iter().map(|mask| mask.name.as_str()).collect();
        let key = (target.to_owned(), names.join("\n"));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.digest != set.digest() || kept.plans.len() >= PLANS_MAX {
            *kept = Kept { digest: set.digest(), plans: HashMap::new() };
        }
        let same = kept.plans.entry(key).or_default();
        if let Some((_, hiding)) = same.iter().find(|(whole, _)| whole == masks) {
            return hiding.clone();
        }
        let hiding = self.compile(set, target, masks);
        if same.len() >= SAME_MAX {
            same.remove(0);
        }
        same.push((masks.to_vec(), hiding.clone()));
        hiding
    }

    fn compile(&self, set: &Set, target: &str, masks: &[Arc<Mask>]) -> Hiding {
        let key = self.hash_key.as_ref();
        let of = |wanted: fn(On) -> bool| {
            let masks: Vec<_> = masks.iter().filter(|mask| wanted(mask.on)).cloned().collect();
            Plan::new(&masks).with_key(key)
        };
        let mut all = set.masks_of(target).to_vec();
        all.extend(masks.iter().filter(|mask| !set.masks_of(target).contains(mask)).cloned());
        Hiding {
            asks: of(On::requests),
            answers: of(On::responses),
            // Whichever way a mask works: what is asked and what is answered often say the same.
            recorded: Plan::everything(&all, set.detectors()).with_key(key),
            shown: Plan::labelled(&all, set.detectors()),
        }
    }
}
