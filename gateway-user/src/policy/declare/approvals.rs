//! The `[[approval]]` nouns, each read by itself: who must say yes, how long a yes lasts, and what the client does
//! meanwhile. Refuses whatever would let silence or an endless window pass for approval.

use std::path::Path;

use super::{Draft, Entry, Wanted, entry};
use crate::limits::{APPROVAL_TIMEOUT, APPROVAL_TIMEOUT_MAX, APPROVAL_WINDOW_MAX};
use crate::policy::document::{At, Fields};
use crate::policy::nouns::{Approval, Hold, Notify, OnUnavailable};
use crate::policy::problem::Problem;
use crate::policy::{parse, words};

impl Draft {
    pub(super) fn approval(&mut self, fields: &Fields<'_>, name: &At<String>) -> Approval {
        let approvers = fields.need_texts("approvers");
        fields.distinct("approvers", &approvers);
        let needed = fields.number("needed", 1, 100);
        let timeout = fields.text("timeout").and_then(|text| fields.parse(&text, parse::duration));
        if let Some(long) = timeout.as_ref().filter(|timeout| timeout.value > APPROVAL_TIMEOUT_MAX) {
            fields.report(Problem::at(&long.place, "nobody remembers a question for more than 7 days"));
        }
        let window = fields.text("window").and_then(|text| fields.parse(&text, parse::duration));
        if let Some(long) = window.as_ref().filter(|window| window.value > APPROVAL_WINDOW_MAX) {
            let problem =
                Problem::at(&long.place, "a window of more than 24 hours is a permission, not an approval");
            fields.report(problem.help("shorten it, or write a `permit` with its own rule"));
        }
        let hold = fields.word("hold", &[("wait", Hold::Wait), ("retry", Hold::Retry)], &[]);
        let required = |key| fields.word(key, &[("required", true), ("optional", false)], &[]);
        let (reason, comment, owner) = (required("reason"), required("comment"), required("owner"));
        strict_timeout(fields);
        let notify = fields.texts("notify");
        fields.distinct("notify", &notify);
        let modes = [("deny", OnUnavailable::Deny), ("safe-mode", OnUnavailable::SafeMode)];
        let on_unavailable = fields.word("on_unavailable", &modes, &[]);
        if let Some(deaf) = on_unavailable.as_ref().filter(|_| !fields.has("notify")) {
            let text = "nothing tells whether the approvers can be reached";
            fields.report(
                Problem::at(&deaf.place, text).help("name the channels they hear of demands by: `notify`"),
            );
        }
        fields.finish(&[]);
        Approval {
            name: name.value.clone(),
            approvers: self.names(Wanted::Approver, approvers),
            needed: needed.and_then(|needed| u32::try_from(needed.value).ok()).unwrap_or(1),
            timeout: timeout.map_or(APPROVAL_TIMEOUT, |timeout| timeout.value),
            window: window.map(|window| window.value),
            hold: hold.map_or(Hold::Wait, |hold| hold.value),
            reason_required: reason.is_some_and(|word| word.value),
            comment_required: comment.is_some_and(|word| word.value),
            owner_required: owner.is_some_and(|word| word.value),
            notify: self.names(Wanted::Notify, notify),
            on_unavailable: on_unavailable.map_or(OnUnavailable::Deny, |mode| mode.value),
        }
    }
}

/// Reads one `[[notify]]`.
pub(super) fn notify(fields: &Fields<'_>, name: At<String>, home: &Path) -> Option<Entry<Notify>> {
    if !fields.has("kind") {
        fields.need_text("kind");
    }
    fields.word("kind", &[("webhook", ())], &["slack", "teams", "pagerduty", "email"]);
    let url = fields.need_text("url").and_then(|text| fields.parse(&text, words::receiver));
    let secret = fields.need_text("secret");
    if let Some(inline) =
        secret.as_ref().filter(|secret| secret.value.contains("whsec_") || secret.value.is_empty())
    {
        let problem = Problem::at(&inline.place, "`secret` is the path of a file, never the secret itself");
        fields.report(
            problem.help("put the secret into a file of mode 0600; if it stood here for long, make another"),
        );
    }
    fields.finish(&["events", "headers", "template"]);
    let notify = Notify { name: name.value.clone(), url: url?.value, secret: home.join(secret?.value) };
    Some(entry(notify, name, fields))
}

/// What a demand becomes that nobody answered: refused, and nothing laxer can be written.
fn strict_timeout(fields: &Fields<'_>) {
    let Some(text) = fields.text("on_timeout").filter(|text| text.value != "deny") else { return };
    let lax = format!("`on_timeout` is \"deny\" and nothing else, not `{}`", text.value.escape_debug());
    fields.report(
        Problem::at(&text.place, lax).help("silence is no approval; remove the key, or write \"deny\""),
    );
}
