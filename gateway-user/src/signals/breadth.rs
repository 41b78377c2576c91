//! Roles that are too broad: permits that nobody used, and actions of used permits that nobody did.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::view::View;
use crate::policy::{Listed, Set};

/// A permit that could be narrower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broad {
    /// `file#id`.
    pub rule: String,
    /// The role it is for; `None` where it is for anyone or one principal.
    pub role: Option<String>,
    /// What it permits, as the rule says.
    pub permits: String,
    /// `file:line:column`.
    pub place: String,
}

/// The permits of this policy that allowed nothing in what was seen. What was held names the forbids that held it and not
/// the permit below them, so a permit about something that was held counts as used.
#[must_use]
pub fn broad(set: &Set, seen: &View) -> Vec<Broad> {
    let used: BTreeSet<&str> =
        seen.rules.iter().filter(|rule| rule.allowed > 0).map(|rule| rule.rule.as_str()).collect();
    let held = |rule: &Listed| {
        seen.held.iter().any(|(target, action)| rule.targets.contains(target) && set.covers(&rule.id, action))
    };
    set.listing()
        .into_iter()
        .filter(|rule| rule.permits && !rule.reveals && !used.contains(rule.id.as_str()) && !held(rule))
        .map(|rule| Broad { rule: rule.id, role: rule.role, permits: rule.scope, place: rule.place })
        .collect()
}
