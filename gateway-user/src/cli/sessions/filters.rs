//! Which operations are meant: the same options for every command that goes through sessions.

use jiff::Timestamp;

use crate::cli::when::gone;
use crate::record::entry::{Micros, Verdict};
use crate::record::read::Filter;

/// Conditions on one operation.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Filters {
    /// User: the subject, or the whole key `user:PROVIDER/SUBJECT`.
    #[arg(long)]
    user: Option<String>,
    /// Workload: a systemd unit, container id or uid, or the whole key (`unit:…`, `container:…`, `uid:…`).
    #[arg(long)]
    workload: Option<String>,
    /// Target.
    #[arg(long)]
    target: Option<String>,
    /// Kind of operation: `http`, `open`.
    #[arg(long)]
    kind: Option<String>,
    /// Verdict; `would-…`: what it would have been on a target that is only observed.
    #[arg(long, value_enum)]
    verdict: Option<VerdictName>,
    /// Not before: a time (`2026-11-21T10:00:00Z`, `2026-11-21 10:00`, `2026-11-21`) or how long ago (`90m`, `2h`).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Micros>,
    /// Before: as --since.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Micros>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum VerdictName {
    Allow,
    Hold,
    Deny,
    Refuse,
    WouldHold,
    WouldDeny,
    WouldRefuse,
}

impl Filters {
    /// The same as the record understands it, without a limit.
    pub(in crate::cli) fn filter(&self) -> Filter {
        Filter {
            user: self.user.clone(),
            workload: self.workload.clone(),
            target: self.target.clone(),
            kind: self.kind.clone(),
            verdict: self.verdict.and_then(VerdictName::given),
            would: self.verdict.and_then(VerdictName::would),
            since: self.since,
            until: self.until,
            limit: usize::MAX,
        }
    }

    /// The conditions in words, for the announcement of a reading.
    pub(in crate::cli) fn asked(&self) -> [(&'static str, Option<String>); 7] {
        let time = |at: Option<Micros>| {
            at.map(|at| Timestamp::from_microsecond(at).map_or_else(|_| at.to_string(), |at| at.to_string()))
        };
        [
            ("user", self.user.clone()),
            ("workload", self.workload.clone()),
            ("target", self.target.clone()),
            ("kind", self.kind.clone()),
            ("verdict", self.verdict.map(VerdictName::words)),
            ("since", time(self.since)),
            ("until", time(self.until)),
        ]
    }
}

impl VerdictName {
    fn given(self) -> Option<Verdict> {
        Some(match self {
            Self::Allow => Verdict::Allow,
            Self::Hold => Verdict::Hold,
            Self::Deny => Verdict::Deny,
            Self::Refuse => Verdict::Refuse,
            Self::WouldHold | Self::WouldDeny | Self::WouldRefuse => return None,
        })
    }

    fn would(self) -> Option<Verdict> {
        Some(match self {
            Self::WouldHold => Verdict::Hold,
            Self::WouldDeny => Verdict::Deny,
            Self::WouldRefuse => Verdict::Refuse,
            Self::Allow | Self::Hold | Self::Deny | Self::Refuse => return None,
        })
    }

    fn words(self) -> String {
        let would = self.would().and_then(Verdict::would_name);
        would.or_else(|| self.given().map(Verdict::name)).unwrap_or_default().to_owned()
    }
}

/// A time, or how long ago.
fn moment(text: &str) -> Result<Micros, String> {
    gone(text).map(Timestamp::as_microsecond)
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
        for bad in ["yesterday-ish", "", "-"] {
            assert!(moment(bad).is_err(), "{bad:?}");
        }
    }
}
