//! Nouns about time: `[[hours]]`, and the end of what is only observed.

use jiff::Timestamp;

use super::{Entry, entry, values};
use crate::limits::OBSERVED_MAX;
use crate::policy::document::{At, Fields};
use crate::policy::problem::Problem;
use crate::policy::when::{self, Hours};

/// Reads `mode` and `until` of a target: until when it is only observed. `now` is when the files were read; `None` where
/// they were in force before.
pub(super) fn observed(fields: &Fields<'_>, now: Option<Timestamp>) -> Option<Timestamp> {
    let mode = fields.word("mode", &[("enforce", false), ("observe", true)], &[]);
    let observes = mode.as_ref().is_some_and(|mode| mode.value);
    let until = fields.end("until");
    match (mode, until) {
        (Some(mode), None) if observes && !fields.has("until") => {
            let endless = Problem::at(
                &mode.place,
                "a target that is only observed protects nothing, and this one has no end",
            );
            fields.report(
                endless.help("give it `until`, such as until = 2026-12-01; it is enforced from then on"),
            );
            None
        }
        (mode, Some(until)) if !observes => {
            let idle = Problem::at(&until.place, "`until` says nothing about a target that is enforced");
            let idle = match &mode {
                Some(mode) => idle.also(&mode.place, "enforced by this"),
                None => idle,
            };
            fields.report(idle.help("remove it, or write mode = \"observe\""));
            None
        }
        (mode, Some(until)) => {
            let Some(now) = now else { return Some(until.value) };
            let problem = if until.value <= now {
                Some(("the time to observe this target is over", "remove `mode` and `until`: it is enforced"))
            } else if until.value.duration_since(now)
                > jiff::SignedDuration::try_from(OBSERVED_MAX).unwrap_or_default()
            {
                Some(("a target is observed for 90 days at most", "give it an earlier `until`"))
            } else {
                None
            };
            if let Some((what, help)) = problem {
                let wrong = Problem::at(&until.place, what).help(help);
                fields.report(match &mode {
                    Some(mode) => wrong.also(&mode.place, "observed by this"),
                    None => wrong,
                });
            }
            Some(until.value)
        }
        _ => None,
    }
}

/// Reads one `[[hours]]`.
pub(super) fn hours(fields: &Fields<'_>, name: At<String>) -> Option<Entry<Hours>> {
    let zone = fields.need_text("zone").and_then(|text| fields.parse(&text, when::zone));
    let days = fields.parsed("days", when::weekday);
    fields.distinct("days", &days);
    let from = fields.need_text("from").and_then(|text| fields.parse(&text, when::minute));
    let to = fields.need_text("to").and_then(|text| fields.parse(&text, when::minute));
    fields.finish(&["except", "holidays"]);
    let (zone, from, to) = (zone?, from?, to?);
    if from.value == to.value || from.value == 24 * 60 {
        let never = Problem::at(&to.place, "these hours end as they begin");
        fields.report(never.also(&from.place, "from here").help("a whole day is from 00:00 to 24:00"));
    }
    let hours = Hours {
        name: name.value.clone(),
        zone: zone.value,
        days: values(days),
        from: from.value,
        to: to.value,
    };
    Some(entry(hours, name, fields))
}
