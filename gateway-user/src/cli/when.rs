//! Times as people write them: a moment, how long ago, how long from now.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// A time to come, or how long from now: `90m`, `8h`, `2d`, `2030-01-01`.
pub(super) fn coming(text: &str) -> Result<Timestamp, String> {
    let refused = |why: &dyn std::fmt::Display| format!("{text:?}: {why}");
    let at = match moment(text) {
        Some(at) => at?,
        None => span(text)?.1,
    };
    if at <= Timestamp::now() {
        return Err(refused(&"that is over already"));
    }
    Ok(at)
}

/// A time gone by, or how long ago: `7d`, `90m`, `2026-11-21`.
pub(super) fn gone(text: &str) -> Result<Timestamp, String> {
    match moment(text) {
        Some(at) => at,
        None => Ok(span(text)?.0),
    }
}

/// A time, where the text is one.
fn moment(text: &str) -> Option<Result<Timestamp, String>> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(Ok(at));
    }
    let at = text.parse::<DateTime>().ok()?.to_zoned(TimeZone::system());
    Some(at.map(|at| at.timestamp()).map_err(|error| error.to_string()))
}

/// So long before now, and after. Days are calendar days of this host.
fn span(text: &str) -> Result<(Timestamp, Timestamp), String> {
    let unread = || {
        format!(
            "{text:?} is neither a time (2026-11-21T10:00:00Z, 2026-11-21) nor a length of time (90m, 8h, 7d)"
        )
    };
    let span: Span = text.parse().map_err(|_| unread())?;
    let now = Zoned::now();
    let ends = now.checked_sub(span).and_then(|before| Ok((before, now.checked_add(span)?)));
    let (before, after) = ends.map_err(|error| error.to_string())?;
    let length: SignedDuration = after.timestamp().duration_since(now.timestamp());
    if length.is_negative() {
        return Err(unread());
    }
    Ok((before.timestamp(), after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_lead_both_ways_and_days_are_days() {
        let now = Timestamp::now();
        for (text, hours) in [("90m", 1), ("8h", 8), ("2d", 48), ("1w", 168)] {
            let ahead = coming(text).unwrap().duration_since(now).as_hours();
            let ago = now.duration_since(gone(text).unwrap()).as_hours();
            assert!((ahead - hours).abs() <= 1 && (ago - hours).abs() <= 1, "{text}: {ahead} {ago}");
        }
        assert_eq!(gone("1970-01-01T00:00:01Z").unwrap().as_second(), 1);
        assert!(gone("2026-11-21").is_ok() && coming("2126-11-21").is_ok());
    }

    #[test]
    fn what_is_no_time_or_lies_behind_is_refused() {
        for bad in ["", "-", "yesterday-ish", "-8h", "8", "2001-01-01", "1970-01-01T00:00:01Z"] {
            assert!(coming(bad).is_err(), "{bad:?}");
        }
        assert!(gone("soon").is_err());
    }
}
