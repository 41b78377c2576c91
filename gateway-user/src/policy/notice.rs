//! What an operator should know about a sound policy set: what in it has ended, and what will.
//!
//! Changes nothing about any decision; leaves out nothing that ends by itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::nouns::{Exempt, Target};
use super::rules::Rule;
use super::set::Set;

/// One thing to know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// `ends` or `ended` of a rule, `observe` of a target, `exempt` of an exemption.
    pub about: String,
    /// Whether less is protected by it, now or later.
    pub warning: bool,
    /// The rule's id, `file#id`, or the name of the target or exemption.
    pub name: String,
    /// In words, with the place.
    pub text: String,
}

impl Set {
    /// What to know about this set at this moment, the warnings first.
    #[must_use]
    pub fn notices(&self, at: Timestamp) -> Vec<Notice> {
        let mut notices: Vec<Notice> = self.rules().filter_map(|rule| ending(rule, at)).collect();
        notices.extend(self.targets().iter().filter_map(|target| observed(target, at)));
        notices.extend(self.exempts().iter().map(exempted));
        notices.sort_by(|a, b| (!a.warning, a).cmp(&(!b.warning, b)));
        notices
    }
}

/// That somebody goes past the gate.
fn exempted(exempt: &Exempt) -> Notice {
    let users: Vec<String> = exempt.uids.iter().map(u32::to_string).collect();
    let within = match exempt.units.is_empty() {
        true => String::new(),
        false => format!(" within {}", exempt.units.join(", ")),
    };
    let (name, users) = (&exempt.name, users.join(", "));
    let text = format!(
        "exempt `{name}`: connections of uid {users}{within} go past the gate, unjudged and unrecorded: {}",
        exempt.reason
    );
    Notice { about: "exempt".to_owned(), warning: true, name: name.clone(), text }
}

/// That a target is only observed. Once it is not, that is no longer worth a word.
fn observed(target: &Target, at: Timestamp) -> Option<Notice> {
    let until = target.observed_until.filter(|_| target.is_observed(at))?;
    let name = &target.name;
    let text = format!(
        "target `{name}` is only OBSERVED until {until}: nothing on it is refused, held or masked; what would be is recorded"
    );
    Some(Notice { about: "observe".to_owned(), warning: true, name: name.clone(), text })
}

/// That a rule ends by itself, or has. The end of a forbid widens what may be done.
fn ending(rule: &Rule, at: Timestamp) -> Option<Notice> {
    let (until, over) = (rule.until?, rule.is_over(at));
    let text = match (rule.permits(), over) {
        (true, false) => format!("the permit `{}` ends at {until}", rule.id),
        (true, true) => format!("the permit `{}` ended at {until} and permits nothing; remove it", rule.id),
        (false, false) => format!(
            "the forbid `{}` ends at {until}: from then on it forbids nothing, and what others permit goes through",
            rule.id
        ),
        (false, true) => format!(
            "the forbid `{}` ended at {until} and forbids nothing: what others permit goes through; remove it, or give it another `@until`",
            rule.id
        ),
    };
    Some(Notice {
        about: if over { "ended" } else { "ends" }.to_owned(),
        warning: !rule.permits(),
        name: rule.id.clone(),
        text: format!("{text} ({})", rule.place),
    })
}
