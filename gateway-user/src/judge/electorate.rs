//! What the approval desk asks of a policy set: its people, its approvals, and whether a rule still reads as it did.

use crate::approval::Electorate;
use crate::operation::Sha256;
use crate::policy::Set;
use crate::policy::nouns::{Approval, Person};

impl Electorate for Set {
    fn digest(&self) -> Sha256 {
        self.digest()
    }

    fn persons(&self) -> &[Person] {
        self.persons()
    }

    fn approval(&self, name: &str) -> Option<&Approval> {
        self.approval(name)
    }

    fn rule(&self, id: &str) -> Option<Sha256> {
        self.rule_digest(id)
    }
}
