//! The operator's door: a unix socket that shows how the gate is and takes votes. Knows its callers by what the kernel
//! says about them, never by what they say; opens for root, the gate's own user and declared people only.
//!
//! `peer` is who calls, `api` is what they may ask, `verb` is what is then done, `view` is what they get, `listen` is the
//! socket, `client` is the other end of it. Who answers may be another process than the one that enforces: `relay` is the line
//! between the two, and verbs are all that goes over it.

mod api;
mod approvals;
mod blocks;
pub mod client;
pub mod coverage;
mod listen;
mod notices;
mod peer;
mod record;
mod relay;
pub mod verb;
pub mod view;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use listen::{AdminError, Named, Socket, answer, receive, serve_metrics};

use arc_swap::ArcSwapOption;

pub use self::peer::{Peer, caller, may_order};
pub use self::record::{order_of, orders};
pub use self::relay::{Relay, serve};
use crate::approval::{Desk, Electorate};
use crate::block::Blocks;
use crate::notify::Post;
use crate::policy::Shelf;
use crate::record::entry::PolicyWeighed;
use crate::record::{Health, Recorder, Upkept};
use crate::signals::{Kind, Signals, View, broad};
use crate::tally::Tally;
use crate::telemetry::{Metrics, Reading};

/// The recorder's own socket, beside the admin socket: where it is a process of its own it takes orders there.
#[must_use]
pub fn record_socket(admin: &Path) -> PathBuf {
    admin.with_extension("record.sock")
}

/// What the door leads to.
pub struct Admin {
    /// The approval desk.
    pub desk: Desk,
    /// What tells people of demands.
    pub post: Post,
    /// Whom and what operators have blocked.
    pub blocks: Blocks,
    /// What the last change of policy was found to widen.
    pub weighed: Arc<ArcSwapOption<PolicyWeighed>>,
    /// The policy in force.
    pub shelf: Shelf,
    /// The people and approvals of the policy in force.
    pub electorate: Box<dyn Fn() -> Arc<dyn Electorate> + Send + Sync>,
    /// The record.
    pub recorder: Recorder,
    /// The counters.
    pub metrics: Metrics,
    /// Where the record, its keys and the spool are.
    pub state: PathBuf,
    /// The kernel's counters by name; empty where they cannot be read.
    pub kernel: Arc<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// Other network namespaces: in how many the gate listens, and in how many it is wanted and does not.
    pub spaces: Arc<dyn Fn() -> (u32, u32) + Send + Sync>,
    /// What reaches past the gate now. Blocks.
    pub coverage: Box<dyn Fn() -> io::Result<coverage::Coverage> + Send + Sync>,
    /// What the enforcer says of the flows that it took.
    pub tally: Tally,
    /// Hides what every detector finds, in what people write.
    pub scrub: fn(&str) -> Cow<'_, str>,
    /// Rates, surges and the use of rules.
    pub signals: Signals,
    /// When the gate started.
    pub started: Instant,
}

impl Admin {
    /// How everything is, now.
    #[must_use]
    pub fn status(&self) -> view::Status {
        let stats = self.recorder.stats();
        let fault = match self.recorder.health() {
            Health::Up => None,
            Health::Down(why) => Some(why.to_string()),
        };
        view::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            policy: view::PolicyStatus {
                digest: self.shelf.current().digest().to_string(),
                fault: self.shelf.fault().map(|fault| fault.to_string()),
                widens: self.widens(),
                notices: self.shelf.current().notices(jiff::Timestamp::now()),
            },
            record: view::RecordStatus {
                up: fault.is_none(),
                fault,
                commits: stats.commits,
                events: stats.frames,
                upkeep: self.recorder.upkeep(),
                refused: stats.refused,
                waiting: stats.waiting,
                recovered: stats.recovered,
            },
            sessions_open: self.metrics.sessions_open(),
            demands_held: self.desk.held() as u64,
            blocks: self.blocks.len() as u64,
            surges: self.signals.surges(jiff::Timestamp::now().as_microsecond()),
            kernel: (self.kernel)().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    /// Rates, surges, the use of rules, and the permits that nobody used since the gate started.
    #[must_use]
    pub fn signals(&self) -> view::SignalsView {
        let signals = self.signals.view(jiff::Timestamp::now().as_microsecond());
        let unused = broad(&self.shelf.current(), &signals);
        view::SignalsView { signals, unused }
    }

    /// How many operations the set in force lets through further than the one before; `None` where it was not weighed.
    fn widens(&self) -> Option<u64> {
        let weighed = self.weighed.load_full()?;
        let count = weighed.widened.len() as u64 + weighed.widened_left_out;
        (weighed.policy == self.shelf.current().digest()).then_some(count)
    }

    /// Adds what other parts count to the counters, read anew at every scrape. Call once.
    pub fn register(&self) {
        let (desk, shelf, recorder) = (self.desk.clone(), self.shelf.clone(), self.recorder.clone());
        let (kernel, blocks) = (Arc::clone(&self.kernel), self.blocks.clone());
        let spaces = Arc::clone(&self.spaces);
        let signals = self.signals.clone();
        self.metrics.on_scrape(move || {
            let seen = signals.view(jiff::Timestamp::now().as_microsecond());
            let stats = recorder.stats();
            let up = recorder.health() == Health::Up;
            let mut readings = vec![
                Reading::gauge(
                    "demands_held",
                    "Operations held, and approvals not yet used",
                    desk.held() as u64,
                ),
                Reading::gauge("blocks", "Blocks in force", blocks.len() as u64),
                Reading::counter("blocked_operations", "Operations refused by a block", blocks.refused()),
                Reading::gauge(
                    "policy_fault",
                    "1 while the directory is not in force",
                    shelf.fault().is_some().into(),
                ),
                Reading::gauge("record_up", "1 while the record can be written", up.into()),
                Reading::counter("record_commits", "Commits of the record", stats.commits),
                Reading::counter("record_events", "Events and changes of state written", stats.frames),
                Reading::counter("record_refused", "Events the record refused", stats.refused),
                Reading::gauge("record_waiting", "Events waiting for the disk", stats.waiting),
            ];
            let (served, refused) = spaces();
            readings.extend([("served", served), ("refused", refused)].map(|(state, count)| {
                Reading::gauge(
                    "namespaces",
                    "Other network namespaces where the gate is wanted",
                    count.into(),
                )
                .labelled("state", state)
            }));
            readings.extend(signal_readings(&seen, broad(&shelf.current(), &seen).len() as u64));
            readings.extend(upkeep_readings(&recorder.upkeep()));
            readings.extend(kernel().into_iter().map(|(event, count)| {
                Reading::counter("kernel_events", "What the kernel programs did", count)
                    .labelled("event", event)
            }));
            readings
        });
    }
}

/// Signals as counters and gauges: what surges now by kind, how holds ended and how long they take, permits nobody used.
fn signal_readings(seen: &View, unused: u64) -> Vec<Reading> {
    let kinds = [Kind::Sessions, Kind::Operations, Kind::Masked, Kind::Approvals];
    let mut readings: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let surging = seen.rates.iter().filter(|rate| rate.kind == *kind && rate.surging).count();
            Reading::gauge("surges", "Rates that are far above what is usual, now, by kind", surging as u64)
                .labelled("kind", kind.name())
        })
        .collect();
    let approvals = &seen.approvals;
    for (outcome, count) in
        [("asked", approvals.asked), ("released", approvals.released), ("refused", approvals.refused)]
    {
        let help = "Operations held, and how their holds ended";
        readings.push(Reading::counter("holds", help, count).labelled("outcome", outcome));
    }
    if let Some(seconds) = approvals.median_seconds {
        let help = "Half of the last holds ended within so many seconds";
        readings.push(Reading::gauge("hold_median_seconds", help, seconds));
    }
    let help = "Permits of the policy in force that allowed nothing since the gate started";
    readings.push(Reading::gauge("permits_unused", help, unused));
    readings
}

fn upkeep_readings(upkeep: &Upkept) -> Vec<Reading> {
    let failing = upkeep.witnesses.iter().filter(|witness| witness.fault.is_some()).count() as u64;
    let failures = upkeep.witnesses.iter().map(|witness| witness.failures).sum();
    vec![
        Reading::gauge(
            "record_pressure",
            "Mark that the free space is below: 0 none, 1 warn, 2 shed, 3 refuse",
            upkeep.pressure as u64,
        ),
        Reading::gauge("record_free_bytes", "Bytes free on the record's file system", upkeep.space.0),
        Reading::counter("record_shed_bytes", "Bytes of bodies removed", upkeep.removed.body_bytes),
        Reading::counter("record_pruned_events", "Events removed", upkeep.removed.events),
        Reading::gauge("record_signed_commits", "Commits under a signed checkpoint", upkeep.signed_commits),
        Reading::gauge(
            "record_witnesses_failing",
            "Witnesses that did not take the last checkpoint",
            failing,
        ),
        Reading::counter("record_witness_failures", "Checkpoints a witness did not take", failures),
    ]
}
