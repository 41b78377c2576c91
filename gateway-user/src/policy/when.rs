//! Time in policy: when a rule ends, which hours it is, and for how long what was found at a moment stays true.
//!
//! Reads no clock: every answer is about the moment it is given.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};

use super::parse::Misread;
use super::problem::did_you_mean;

/// Minutes of a day: what `to = "24:00"` means.
const DAY_MINUTES: u16 = 24 * 60;

/// Named hours of a week, as a clock on the wall in one place shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// Unique name; what `context.hours` contains while they last.
    pub name: String,
    /// Where the clock hangs.
    pub zone: TimeZone,
    /// The days on which they begin; empty means every day.
    pub days: Vec<Weekday>,
    /// The first minute of the day that is in them.
    pub from: u16,
    /// The first minute that no longer is. Not after `from`: on the next day.
    pub to: u16,
}

impl Hours {
    /// Whether they last at this moment.
    #[must_use]
    pub fn last_at(&self, at: Timestamp) -> bool {
        let clock = self.zone.to_datetime(at);
        let begins = |day: Weekday| self.days.is_empty() || self.days.contains(&day);
        let (today, minute) = (clock.weekday(), minute_of(clock));
        if self.from < self.to {
            return begins(today) && (self.from..self.to).contains(&minute);
        }
        (begins(today) && minute >= self.from) || (begins(today.previous()) && minute < self.to)
    }

    /// Moments around this one at which they may begin or end. None is left out between the last before it and the
    /// first after it: they change only where the clock passes one of its bounds, or is put forward or back.
    fn turns(&self, at: Timestamp) -> Vec<Timestamp> {
        let next = at.checked_add(Span::new().nanoseconds(1)).unwrap_or(at);
        let before = self.zone.preceding(next).next();
        let after = self.zone.following(at).next();
        let mut turns: Vec<Timestamp> =
            before.into_iter().chain(after).map(|turn| turn.timestamp()).collect();
        let today = self.zone.to_datetime(at).date();
        for days in -2..=2 {
            let Ok(day) = today.checked_add(Span::new().days(days)) else { continue };
            for minute in [0, self.from, self.to % DAY_MINUTES] {
                turns.extend(self.instants(day, minute));
            }
        }
        turns
    }

    /// When the clock shows this minute of this day: once, twice, or (skipped) at neither of two moments.
    fn instants(&self, day: Date, minute: u16) -> impl Iterator<Item = Timestamp> {
        let clock = day.at(hour(minute), minute_past(minute), 0, 0);
        let offsets = match self.zone.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Unambiguous { offset } => [offset, offset],
            AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => {
                [before, after]
            }
        };
        offsets.into_iter().filter_map(move |offset| offset.to_timestamp(clock).ok())
    }
}

fn minute_of(clock: DateTime) -> u16 {
    u16::from(clock.hour().unsigned_abs()) * 60 + u16::from(clock.minute().unsigned_abs())
}

fn hour(minute: u16) -> i8 {
    i8::try_from(minute / 60).unwrap_or_default()
}

fn minute_past(minute: u16) -> i8 {
    i8::try_from(minute % 60).unwrap_or_default()
}

/// A stretch of time in which no rule ends and no hours begin or end: what is decided once in it holds in all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Season {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it. A season that cannot be told apart from the next is one moment long.
    pub until: Timestamp,
    /// The hours that last in it.
    pub hours: BTreeSet<String>,
}

impl Season {
    /// The season of this moment, where rules end at `ends`.
    pub(super) fn at(at: Timestamp, ends: impl Iterator<Item = Timestamp>, hours: &[Hours]) -> Self {
        let turns = hours.iter().flat_map(|hours| hours.turns(at));
        let (mut from, mut until) = (Timestamp::MIN, Timestamp::MAX);
        for turn in ends.chain(turns) {
            if turn <= at {
                from = from.max(turn);
            } else {
                until = until.min(turn);
            }
        }
        let hours = hours.iter().filter(|hours| hours.last_at(at)).map(|hours| hours.name.clone()).collect();
        Self { from, until, hours }
    }

    /// Whether this moment is in it.
    pub(super) fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.until
    }
}

/// An end: a date, which means the moment it begins in UTC, or a moment with its offset from UTC.
pub(super) fn end(text: &str) -> Result<Timestamp, Misread> {
    let date = || Date::from_str(text).ok().filter(|_| text.len() == "2026-12-01".len());
    let day = date().and_then(|date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok());
    day.or_else(|| Timestamp::from_str(text).ok()).ok_or_else(|| Misread {
        message: format!("`{}` is neither a date nor a moment", text.escape_debug()),
        help: Some(
            "write 2026-12-01 (the moment that day begins in UTC), or a moment: 2026-12-01T18:00:00+01:00"
                .to_owned(),
        ),
    })
}

/// A time zone by its name in the IANA database.
pub(super) fn zone(text: &str) -> Result<TimeZone, Misread> {
    let refuse = || Misread {
        message: format!("there is no time zone `{}`", text.escape_debug()),
        help: did_you_mean(
            text,
            jiff::tz::db()
                .available()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .or_else(|| Some("write a name of the IANA database, such as Europe/Berlin or UTC".to_owned())),
    };
    TimeZone::get(text).map_err(|_| refuse())
}

/// A day of the week by the first three letters of its English name.
pub(super) fn weekday(text: &str) -> Result<Weekday, Misread> {
    const DAYS: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    let found = DAYS.iter().find(|(name, _)| *name == text).map(|(_, day)| *day);
    found.ok_or_else(|| Misread {
        message: format!("`{}` is no day of the week", text.escape_debug()),
        help: Some("write mon, tue, wed, thu, fri, sat or sun".to_owned()),
    })
}

/// A time of day as minutes since midnight: `09:00`, up to `24:00`.
pub(super) fn minute(text: &str) -> Result<u16, Misread> {
    let wrong = || Misread {
        message: format!("`{}` is no time of day", text.escape_debug()),
        help: Some("write hours and minutes, from 00:00 to 24:00: 09:00, 17:30".to_owned()),
    };
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    if !digits(hours) || !digits(minutes) {
        return Err(wrong());
    }
    let (hours, minutes): (u16, u16) =
        (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
    let minute = hours * 60 + minutes;
    if minutes >= 60 || minute > DAY_MINUTES { Err(wrong()) } else { Ok(minute) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hours(zone: &str, days: &[&str], from: &str, to: &str) -> Hours {
        Hours {
            name: "h".into(),
            zone: super::zone(zone).unwrap(),
            days: days.iter().map(|day| weekday(day).unwrap()).collect(),
            from: minute(from).unwrap(),
            to: minute(to).unwrap(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn hours_begin_with_their_first_minute_and_are_over_with_their_last() {
        let office = hours("Europe/Berlin", &["mon", "fri"], "09:00", "17:00");
        // 2026-11-23 is a Monday; Berlin is an hour ahead of UTC in winter.
        for (moment, lasts) in [
            ("2026-11-23T07:59:59.999999999Z", false),
            ("2026-11-23T08:00:00Z", true),
            ("2026-11-23T15:59:59.999999999Z", true),
            ("2026-11-23T16:00:00Z", false),
            ("2026-11-24T12:00:00Z", false),
            ("2026-07-10T07:00:00Z", true),
            ("2026-07-10T15:00:00Z", false),
        ] {
            assert_eq!(office.last_at(at(moment)), lasts, "{moment}");
        }
    }

    #[test]
    fn hours_over_midnight_belong_to_the_day_they_begin_on() {
        let night = hours("UTC", &["fri"], "22:00", "06:00");
        for (moment, lasts) in [
            ("2026-11-27T05:00:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:30:00Z", false),
        ] {
            assert_eq!(night.last_at(at(moment)), lasts, "{moment}");
        }
        let until_midnight = hours("UTC", &["fri"], "22:00", "24:00");
        assert!(until_midnight.last_at(at("2026-11-27T23:59:59Z")));
        assert!(!until_midnight.last_at(at("2026-11-28T00:00:00Z")));
    }

    #[test]
    fn an_hour_that_summer_time_skips_is_not_there_and_one_it_repeats_counts_twice() {
        let early = hours("Europe/Berlin", &[], "02:15", "02:45");
        // Skipped on 29 March 2026: 02:00 is 03:00.
        for moment in ["2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"] {
            assert!(!early.last_at(at(moment)), "{moment}");
        }
        // Repeated on 25 October 2026: 03:00 is 02:00 again.
        for (moment, lasts) in [
            ("2026-10-25T00:30:00Z", true),
            ("2026-10-25T00:50:00Z", false),
            ("2026-10-25T01:30:00Z", true),
            ("2026-10-25T01:50:00Z", false),
        ] {
            assert_eq!(early.last_at(at(moment)), lasts, "{moment}");
        }
    }

    #[test]
    fn a_date_means_the_moment_it_begins_in_utc() {
        assert_eq!(end("2026-12-01").unwrap(), at("2026-12-01T00:00:00Z"));
        assert_eq!(end("2026-12-01T01:00:00+01:00").unwrap(), at("2026-12-01T00:00:00Z"));
        for wrong in
            ["", "2026-12", "2026-13-01", "2026-12-01T09:00:00", "tomorrow", "20261201", "2026-12-01 "]
        {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_almost_a_time_is_refused() {
        assert_eq!((minute("00:00").unwrap(), minute("24:00").unwrap()), (0, 1440));
        for wrong in ["", "9:00", "09:60", "24:01", "25:00", "09", "09:00:00", "+9:00", "ab:cd"] {
            assert!(minute(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "Mon", "monday", "1"] {
            assert!(weekday(wrong).is_err(), "{wrong}");
        }
        assert!(zone("Europe/Berlim").unwrap_err().help.unwrap().contains("Europe/Berlin"));
        assert!(zone("").is_err() && zone("CET-1CEST").is_err() && zone("/etc/localtime").is_err());
    }

    fn any_hours() -> impl Strategy<Value = Hours> {
        let zones = prop_oneof![
            Just("UTC"),
            Just("Europe/Berlin"),
            Just("America/St_Johns"),
            Just("Australia/Lord_Howe"),
            Just("Asia/Kathmandu"),
            Just("Pacific/Apia"),
        ];
        let days =
            proptest::sample::subsequence(vec!["mon", "tue", "wed", "thu", "fri", "sat", "sun"], 0..=7);
        (zones, days, 0_u16..1440, 1_u16..=1440).prop_filter_map("no hours", |(zone, days, from, to)| {
            (from != to).then(|| Hours { from, to, ..hours(zone, &days, "00:00", "24:00") })
        })
    }

    proptest! {
        #[test]
        fn in_one_season_the_hours_are_the_same(
            all in proptest::collection::vec(any_hours(), 1..4),
            // The years 1995 to 2037, with every change of the clock and the day that Samoa left out.
            second in 788_918_400_i64..2_114_380_800,
            steps in proptest::collection::vec(0.0_f64..1.0, 20),
        ) {
            let named: Vec<Hours> = all.into_iter().enumerate()
                .map(|(number, hours)| Hours { name: number.to_string(), ..hours }).collect();
            let now = Timestamp::from_second(second).unwrap();
            let season = Season::at(now, std::iter::empty(), &named);
            prop_assert!(season.holds(now));
            let length = season.until.as_second() - season.from.as_second();
            prop_assert!(length <= 49 * 3600, "{season:?}");
            for step in steps {
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a season is days long")]
                let later = Timestamp::from_second(season.from.as_second() + (length as f64 * step) as i64).unwrap();
                prop_assert_eq!(&Season::at(later, std::iter::empty(), &named), &season);
            }
        }
    }
}
