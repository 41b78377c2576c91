//! Moments as operators write them: a time, a date, or how long ago.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::record::entry::Micros;

/// A time, or how long ago.
pub(super) fn moment(text: &str) -> Result<Micros, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_microsecond());
    }
    if let Ok(at) = text.parse::<DateTime>() {
        let at = at.to_zoned(TimeZone::system()).map_err(|error| error.to_string())?;
        return Ok(at.timestamp().as_microsecond());
    }
    let ago: Span = text.parse().map_err(|_| {
        format!(
            "{text:?} is neither a time (2026-11-21T10:00:00Z, 2026-11-21) nor how long ago (90m, 2h, 7d)"
        )
    })?;
    let at = Zoned::now().checked_sub(ago).map_err(|error| error.to_string())?;
    Ok(at.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_documented_form_and_others_refused() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert!(moment("2026-11-21").is_ok() && moment("2026-11-21 10:00").is_ok());
        let now = Timestamp::now().as_microsecond();
        let hour_ago = moment("1h").unwrap();
        assert!((now - hour_ago - 3_600_000_000).abs() < 5_000_000);
        let week_ago = moment("7d").unwrap();
        assert!(
            (now - week_ago - 7 * 86_400_000_000).abs() <= 3_605_000_000,
            "an hour more or less where clocks change"
        );
        for bad in ["yesterday-ish", "", "-"] {
            assert!(moment(bad).is_err(), "{bad:?}");
        }
    }
}
