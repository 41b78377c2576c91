//! Nouns about time: `[[hours]]`, and the end of what is only observed.

use super::{Entry, entry, values};
use crate::policy::document::{At, Fields};
use crate::policy::problem::Problem;
use crate::policy::when::{self, Hours};

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
