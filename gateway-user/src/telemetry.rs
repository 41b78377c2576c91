//! What the gate says about itself: logs and counters. Names nothing above it, keeps no global, and puts into a label
//! only words from the policy or from this file, so that no client can make new series.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

use crate::operation::Direction;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read: {why}; write `info`, or `tidegate=debug`")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Sets logging up for this process, on standard error: for people on a terminal, JSON lines otherwise. The filter is
/// the given one, else `RUST_LOG`, else `info`.
///
/// # Errors
/// The filter cannot be read, or logging is set up already.
pub fn log(filter: Option<&str>) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let text = filter.map(str::to_owned).or_else(|| std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| LogError::Filter { filter: text.clone(), why: error.to_string() })?;
    // Where nobody takes the log any more there is nobody to tell, and no reason to end.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).finish().try_init()?;
    } else {
        builder.json().flatten_event(true).finish().try_init()?;
    }
    Ok(())
}

/// How a connection was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Taken {
    Served,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    direction: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    target: String,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObservedLabels {
    target: String,
    would: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MaskLabels {
    mask: String,
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DetectorLabels {
    detector: String,
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    target: String,
    fault: &'static str,
}

/// One number read from another part at the moment of a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Name, without the `tidegate_` prefix; a counter's gets `_total`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// One label, if it has one: its name and value.
    pub label: Option<(&'static str, String)>,
    /// The number.
    pub value: u64,
}

impl Reading {
    /// A number that only grows.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, counter: true, label: None, value }
    }

    /// A number that goes up and down.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, counter: false, label: None, value }
    }

    /// The same with a label. Readings of one name must come one after the other.
    #[must_use]
    pub fn labelled(self, name: &'static str, value: impl Into<String>) -> Self {
        Self { label: Some((name, value.into())), ..self }
    }
}

/// The counters of one gate. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    flows: Family<FlowLabels, Counter>,
    sessions: Gauge,
    operations: Family<OperationLabels, Counter>,
    masked: Family<MaskLabels, Counter>,
    found: Family<DetectorLabels, Counter>,
    policy: Family<ResultLabels, Counter>,
    upstream: Family<UpstreamLabels, Counter>,
    observed: Family<ObservedLabels, Counter>,
    registry: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner {
            flows: Family::default(),
            sessions: Gauge::default(),
            operations: Family::default(),
            masked: Family::default(),
            found: Family::default(),
            policy: Family::default(),
            upstream: Family::default(),
            observed: Family::default(),
            registry: Mutex::new(Registry::with_prefix("tidegate")),
        };
        {
            let mut registry = inner.registry.lock().unwrap_or_else(PoisonError::into_inner);
            registry.register(
                "flows",
                "Connections, by direction and whether they were served",
                inner.flows.clone(),
            );
            registry.register("sessions_open", "Flows being served now", inner.sessions.clone());
            registry.register(
                "operations",
                "Operations judged, by target and verdict",
                inner.operations.clone(),
            );
            registry.register(
                "masked_values",
                "Values hidden from clients, by mask and target",
                inner.masked.clone(),
            );
            registry.register(
                "found_values",
                "Values that a detector found and a mask hid, by detector and target",
                inner.found.clone(),
            );
            registry.register(
                "policy_reloads",
                "Changes of the policy directory, by result",
                inner.policy.clone(),
            );
            registry.register(
                "observed_operations",
                "Operations let through on observed targets, by target and the verdict they would have got",
                inner.observed.clone(),
            );
            registry.register(
                "upstream_errors",
                "Upstream failures, by target and fault",
                inner.upstream.clone(),
            );
        }
        Self(Arc::new(inner))
    }

    /// Adds numbers that are read at every scrape. `read` must be quick and must not scrape.
    pub fn on_scrape(&self, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) {
        self.registry().register_collector(Box::new(Readings(Box::new(read))));
    }

    /// A session was opened: a flow is being served.
    pub fn session_opened(&self, direction: Direction) {
        self.flow(direction, Taken::Served);
        self.0.sessions.inc();
    }

    /// A session was closed.
    pub fn session_closed(&self) {
        self.0.sessions.dec();
    }

    /// Flows being served now.
    #[must_use]
    pub fn sessions_open(&self) -> u64 {
        u64::try_from(self.0.sessions.get()).unwrap_or(0)
    }

    /// A connection was closed without a session.
    pub fn refused(&self, direction: Direction) {
        self.flow(direction, Taken::Refused);
    }

    /// An operation was judged. `target` must be a target of the policy; `verdict` is `allow`, `hold`, `deny` or `refuse`.
    pub fn judged(&self, target: &str, verdict: &'static str) {
        self.0.operations.get_or_create(&OperationLabels { target: target.into(), verdict }).inc();
    }

    /// An operation was let through because its target is only observed; `would` is the verdict it would have got.
    pub fn observed(&self, target: &str, would: &'static str) {
        self.0.observed.get_or_create(&ObservedLabels { target: target.into(), would }).inc();
    }

    /// A mask hid this many values of a target from a client.
    pub fn masked(&self, mask: &str, target: &str, values: u64) {
        let labels = MaskLabels { mask: mask.into(), target: target.into() };
        self.0.masked.get_or_create(&labels).inc_by(values);
    }

    /// A detector found this many of the values that masks hid of a target. `detector` must be built in or declared by the
    /// policy.
    pub fn found(&self, detector: &str, target: &str, values: u64) {
        let labels = DetectorLabels { detector: detector.into(), target: target.into() };
        self.0.found.get_or_create(&labels).inc_by(values);
    }

    /// The policy directory changed; its new files are in force or were refused.
    pub fn policy(&self, in_force: bool) {
        let result = if in_force { "in_force" } else { "refused" };
        self.0.policy.get_or_create(&ResultLabels { result }).inc();
    }

    /// An upstream failed; `fault` is a word of ours: `refused`, `timeout`, `reset`, `garbage`, `unresolved`.
    pub fn upstream_failed(&self, target: &str, fault: &'static str) {
        self.0.upstream.get_or_create(&UpstreamLabels { target: target.into(), fault }).inc();
    }

    /// Everything, in the OpenMetrics text form.
    #[must_use]
    pub fn scrape(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail, and a reading that fails ends the text before its `# EOF`, which scrapers see.
        let _ = encode(&mut text, &self.registry());
        text
    }

    fn flow(&self, direction: Direction, taken: Taken) {
        let direction = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let outcome = match taken {
            Taken::Served => "served",
            Taken::Refused => "refused",
        };
        self.0.flows.get_or_create(&FlowLabels { direction, outcome }).inc();
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Readings(Box<dyn Fn() -> Vec<Reading> + Send + Sync>);

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings(..)")
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let readings = (self.0)();
        for same in readings.chunk_by(|a, b| a.name == b.name) {
            let Some(first) = same.first() else { continue };
            let mut metric = encoder.encode_descriptor(first.name, first.help, None, first.kind())?;
            for reading in same {
                match &reading.label {
                    Some((name, value)) => {
                        reading.encode(metric.encode_family(&[(*name, value.as_str())].as_slice())?)?;
                    }
                    None => {
                        reading.encode(metric)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Reading {
    fn kind(&self) -> MetricType {
        if self.counter { MetricType::Counter } else { MetricType::Gauge }
    }

    fn encode(&self, into: MetricEncoder<'_>) -> fmt::Result {
        match self.counter {
            true => ConstCounter::new(self.value).encode(into),
            false => ConstGauge::new(i64::try_from(self.value).unwrap_or(i64::MAX)).encode(into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_what_a_scrape_shows() {
        let metrics = Metrics::new();
        metrics.session_opened(Direction::Outbound);
        metrics.session_opened(Direction::Outbound);
        metrics.session_closed();
        metrics.refused(Direction::Inbound);
        metrics.judged("crm", "deny");
        metrics.masked("cards", "crm", 3);
        metrics.found("card", "crm", 2);
        metrics.policy(false);
        metrics.upstream_failed("crm", "timeout");
        let text = metrics.scrape();
        for line in [
            r#"tidegate_flows_total{direction="outbound",outcome="served"} 2"#,
            r#"tidegate_flows_total{direction="inbound",outcome="refused"} 1"#,
            "tidegate_sessions_open 1",
            r#"tidegate_operations_total{target="crm",verdict="deny"} 1"#,
            r#"tidegate_masked_values_total{mask="cards",target="crm"} 3"#,
            r#"tidegate_found_values_total{detector="card",target="crm"} 2"#,
            r#"tidegate_policy_reloads_total{result="refused"} 1"#,
            r#"tidegate_upstream_errors_total{target="crm",fault="timeout"} 1"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(metrics.sessions_open(), 1);
    }

    #[test]
    fn readings_are_taken_at_the_scrape() {
        let metrics = Metrics::new();
        let commits = Arc::new(std::sync::atomic::AtomicU64::new(1));
        let seen = Arc::clone(&commits);
        metrics.on_scrape(move || {
            vec![
                Reading::counter("record_commits", "Commits", seen.load(std::sync::atomic::Ordering::SeqCst)),
                Reading::counter("kernel_events", "Hooks", 4).labelled("event", "redirected"),
                Reading::counter("kernel_events", "Hooks", 5).labelled("event", "denied"),
                Reading::gauge("demands_held", "Demands", 7),
            ]
        });
        drop(metrics.scrape());
        commits.store(9, std::sync::atomic::Ordering::SeqCst);
        let text = metrics.scrape();
        for line in [
            "tidegate_record_commits_total 9",
            r#"tidegate_kernel_events_total{event="redirected"} 4"#,
            r#"tidegate_kernel_events_total{event="denied"} 5"#,
            "tidegate_demands_held 7",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
        }
        assert_eq!(text.matches("# TYPE tidegate_kernel_events ").count(), 1, "{text}");
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let metrics = Metrics::new();
        metrics.judged("a\"} 1\nforged 2", "deny");
        assert!(!metrics.scrape().lines().any(|line| line.starts_with("forged")), "{}", metrics.scrape());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_by_name() {
        let refused = log(Some("tidegate=[nonsense"));
        assert!(matches!(refused, Err(LogError::Filter { filter, .. }) if filter == "tidegate=[nonsense"));
    }
}
