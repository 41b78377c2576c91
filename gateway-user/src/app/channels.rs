//! The channels of the policy in force, for the outbox. Knows none that the policy does not name.

use crate::kernel::Exempt;
use crate::notify::{Channel, Channels, Webhook};
use crate::policy::Shelf;

/// The channels of whatever set is in force.
pub(super) struct PolicyChannels {
    pub(super) shelf: Shelf,
    pub(super) exempt: Exempt,
}

impl Channels for PolicyChannels {
    fn of_approval(&self, approval: &str) -> Vec<String> {
        self.shelf.current().approval(approval).map(|approval| approval.notify.clone()).unwrap_or_default()
    }

    fn channel(&self, name: &str) -> Option<Box<dyn Channel>> {
        let set = self.shelf.current();
        let noun = set.notifies().iter().find(|notify| notify.name == name)?;
        Some(Box::new(Webhook::new(noun.clone(), self.exempt.clone())))
    }

    fn names(&self) -> Vec<String> {
        self.shelf.current().notifies().iter().map(|notify| notify.name.clone()).collect()
    }
}
