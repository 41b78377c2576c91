//! Medians, ratios, and whether each aim was met. Never rounds a miss into a hit.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::load::{CONNECTIONS, RATE};
use super::parts::{WAYS, Way};

/// The most CPU per request the gate may take, in those of nginx: now, and later.
const CPU_AIMS: [f64; 2] = [3.0, 1.75];
/// The most CPU per request that four processes may take, in that of one.
const APART_AIM: f64 = 1.15;
/// The least durable records a second, in those of naive rows.
const RECORD_AIM: f64 = 1.5;
/// The most CPU that handing one record to another process may cost, in microseconds.
const HAND_OVER_AIM: f64 = 3.0;

/// One way's turn in one round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Requests answered in both parts.
    pub(super) requests: u64,
    /// At full speed: requests answered a second.
    pub(super) per_second: f64,
    /// At full speed: microseconds of processor time for each request.
    pub(super) cpu: f64,
    /// At the fixed rate: requests answered a second.
    pub(super) paced_per_second: f64,
    /// At the fixed rate: microseconds of processor time for each request.
    pub(super) paced_cpu: f64,
    /// At the fixed rate: microseconds to the end of the answer.
    pub(super) p50: f64,
    /// The same.
    pub(super) p99: f64,
    /// Memory that is in use at the end.
    pub(super) resident_mib: f64,
}

/// What the record's bench said.
#[derive(Debug, PartialEq)]
pub(super) struct Records {
    /// Name, records a second, processor microseconds for each.
    pub(super) rows: Vec<(String, f64, f64)>,
    /// Records a second against naive rows with the same indexes, without any, and with a commit each.
    pub(super) against: [f64; 3],
    /// Processor microseconds of handing one record to another process.
    pub(super) hand_over: f64,
}

/// Everything measured.
pub(super) struct Report {
    /// Each round's turns, by way.
    pub(super) paths: Vec<[Sample; WAYS]>,
    /// Bytes on disk for each request through the gate.
    pub(super) recorded_bytes: f64,
    /// Absent when left out.
    pub(super) records: Option<Records>,
}

/// The figures of one way.
struct Figures {
    way: Way,
    values: [(&'static str, &'static str, f64); 9],
}

impl Records {
    /// Reads the table and what is said below it.
    pub(super) fn read(said: &str) -> Result<Self> {
        let is_row = |line: &&str| line.starts_with("the record, ") || line.starts_with("naive: ");
        let row = |line: &str| {
            // The name is padded by at least one blank; four numbers follow.
            let mut fields = line.split_whitespace().rev().map(str::parse::<f64>);
            let (cpu, rate) = (fields.nth(2)?.ok()?, fields.next()?.ok()?);
            let name = line.split("  ").next()?;
            Some((name.to_owned(), rate, cpu))
        };
        let rows =
            said.lines().filter(is_row).map(row).collect::<Option<Vec<_>>>().context("a row is cut")?;
        let last = said.lines().find_map(|line| line.strip_prefix("the record against naive rows: "));
        let ratios = last.context("no ratios")?.split_whitespace().filter_map(|word| word.strip_suffix('x'));
        let ratios: Vec<f64> = ratios.filter_map(|ratio| ratio.parse().ok()).collect();
        let hand_over = said.lines().find_map(|line| line.strip_prefix("handing over costs "));
        let hand_over = hand_over.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let hand_over = hand_over.context("not what handing over costs")?;
        Ok(Self { rows, against: ratios.try_into().ok().context("not three ratios")?, hand_over })
    }
}

impl Report {
    /// Prints all of it.
    pub(super) fn print(&self, json: bool) {
        println!("{}", if json { self.json() } else { self.table() });
    }

    fn median(&self, value: impl Fn(&[Sample; WAYS]) -> f64) -> f64 {
        median(self.paths.iter().map(value).collect())
    }

    fn figures(&self, way: Way) -> Figures {
        let (at, direct) = (way as usize, Way::Direct as usize);
        let plain = |value: fn(&Sample) -> f64| self.median(|round| value(&round[at]));
        // Against the direct turn of the same round: what the machine does meanwhile hits both.
        let added = |value: fn(&Sample) -> f64| {
            let paced = |round: &[Sample; WAYS]| value(&round[at]) - value(&round[direct]);
            if way == Way::Varied { 0.0 } else { self.median(paced) }
        };
        let values = [
            ("requests_per_second", "requests/s", plain(|s| s.per_second)),
            ("cpu_us_per_request", "CPU us/request", plain(|s| s.cpu)),
            ("paced_requests_per_second", "requests/s, paced", plain(|s| s.paced_per_second)),
            ("paced_cpu_us_per_request", "CPU us/request, paced", plain(|s| s.paced_cpu)),
            ("p50_us", "p50 us, paced", plain(|s| s.p50)),
            ("p99_us", "p99 us, paced", plain(|s| s.p99)),
            ("added_p50_us", "added p50 us", added(|s| s.p50)),
            ("added_p99_us", "added p99 us", added(|s| s.p99)),
            ("rss_mib", "RSS MiB", plain(|s| s.resident_mib)),
        ];
        Figures { way, values }
    }

    /// Name and value of every ratio. Of CPU, the median of each round's own.
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let [direct, nginx, gate, varied, apart] = Way::ALL.map(|way| way as usize);
        let ratio = |value: fn(&Sample) -> f64, of: usize, to: usize| {
            self.median(|round| value(&round[of]) / value(&round[to]))
        };
        vec![
            ("cpu_gate_varied_to_nginx", ratio(|s| s.cpu, varied, nginx)),
            ("cpu_gate_to_nginx", ratio(|s| s.cpu, gate, nginx)),
            ("paced_cpu_gate_to_nginx", ratio(|s| s.paced_cpu, gate, nginx)),
            ("cpu_apart_to_gate", ratio(|s| s.cpu, apart, gate)),
            ("paced_cpu_apart_to_gate", ratio(|s| s.paced_cpu, apart, gate)),
            ("requests_per_second_gate_to_nginx", ratio(|s| s.per_second, gate, nginx)),
            ("requests_per_second_gate_to_direct", ratio(|s| s.per_second, gate, direct)),
            ("p50_gate_to_nginx", ratio(|s| s.p50, gate, nginx)),
            ("p99_gate_to_nginx", ratio(|s| s.p99, gate, nginx)),
            ("rss_gate_to_nginx", ratio(|s| s.resident_mib, gate, nginx)),
        ]
    }

    /// Each aim in words, and whether it was met. The gate's processor time is that of the harder load.
    fn aims(&self) -> Vec<(String, bool)> {
        let cpu = self.ratios()[0].1;
        let of_cpu =
            CPU_AIMS.map(|aim| (format!("CPU per request at most {aim}x nginx: {cpu:.2}x"), cpu <= aim));
        let apart = self.ratios()[3].1;
        let of_apart = (
            format!("CPU per request of four processes at most {APART_AIM}x that of one: {apart:.2}x"),
            apart <= APART_AIM,
        );
        let of_record = self.records.iter().flat_map(|records| {
            let [indexed, bare, _] = records.against;
            [("with the same indexes", indexed), ("without any index", bare)].map(|(what, ratio)| {
                let aim = format!(
                    "durable records/s at least {RECORD_AIM}x naive rows {what}, 100 writers: {ratio:.2}x"
                );
                (aim, ratio >= RECORD_AIM)
            })
        });
        let of_hand_over = self.records.as_ref().map(|records| {
            let cost = records.hand_over;
            let aim = format!(
                "CPU of handing one record to another process at most {HAND_OVER_AIM} us: {cost:.2} us"
            );
            (aim, cost <= HAND_OVER_AIM)
        });
        of_cpu.into_iter().chain([of_apart]).chain(of_record).chain(of_hand_over).collect()
    }

    fn table(&self) -> String {
        let all = Way::ALL.map(|way| self.figures(way));
        let mut text = format!(
            "{CONNECTIONS} keep-alive connections; medians of {} rounds; paced: {RATE} requests/s\n\n{:24}",
            self.paths.len(),
            ""
        );
        all.iter().for_each(|figures| line(&mut text, format_args!("{:>12}", figures.way.name())));
        for at in 0..all[0].values.len() {
            line(&mut text, format_args!("\n{:24}", all[0].values[at].1));
            for figures in &all {
                let value = figures.values[at].2;
                // Nothing carries the direct way, and the varied one is measured at full speed only.
                let shown =
                    if value == 0.0 || value.is_nan() { "-".to_owned() } else { format!("{value:.1}") };
                line(&mut text, format_args!("{shown:>12}"));
            }
        }
        text.push_str("\n\n");
        for (name, value) in self.ratios() {
            line(&mut text, format_args!("{:44}{value:>8.2}\n", name.replace('_', " ")));
        }
        line(&mut text, format_args!("{:44}{:>8.0}\n", "bytes recorded per request", self.recorded_bytes));
        if let Some(records) = &self.records {
            line(&mut text, format_args!("\n{:54}{:>12}{:>16}\n", "", "records/s", "CPU us/record"));
            for (name, rate, cpu) in &records.rows {
                line(&mut text, format_args!("{name:54}{rate:>12.0}{cpu:>16.2}\n"));
            }
        }
        for (aim, met) in self.aims() {
            line(&mut text, format_args!("\n{}: {aim}", if met { "met   " } else { "MISSED" }));
        }
        text
    }

    fn json(&self) -> String {
        let object = |fields: Vec<String>| format!("{{{}}}", fields.join(","));
        let field = |name: &str, value: f64| format!("\"{name}\":{}", number(value));
        let way = |way: Way| {
            let values =
                self.figures(way).values.iter().map(|(name, _, value)| field(name, *value)).collect();
            format!("\"{}\":{}", way.name(), object(values))
        };
        let mut all = vec![
            format!("\"rounds\":{}", self.paths.len()),
            format!("\"ways\":{}", object(Way::ALL.map(way).to_vec())),
            format!(
                "\"ratios\":{}",
                object(self.ratios().iter().map(|(name, value)| field(name, *value)).collect())
            ),
            field("recorded_bytes_per_request", self.recorded_bytes),
        ];
        if let Some(records) = &self.records {
            let rows = records.rows.iter().map(|(name, rate, cpu)| {
                let values = vec![
                    format!("\"name\":\"{name}\""),
                    field("records_per_second", *rate),
                    field("cpu_us_per_record", *cpu),
                ];
                object(values)
            });
            all.push(format!("\"records\":[{}]", rows.collect::<Vec<_>>().join(",")));
            all.push(field("hand_over_cpu_us_per_record", records.hand_over));
        }
        let aims = self.aims();
        let aims = aims.iter().map(|(aim, met)| format!("{{\"aim\":\"{aim}\",\"met\":{met}}}"));
        all.push(format!("\"aims\":[{}]", aims.collect::<Vec<_>>().join(",")));
        object(all)
    }
}

/// Writing into a string does not fail.
fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// JSON has no infinities.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "null".to_owned() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "round 1 of 1\n  the record, 100 waiting writers\n\n      records/s  CPU us/record\n\
        the record, 100 waiting writers                           21000          21.50          11.25           700\n\
        naive: a row each, a commit each                            400         900.00         800.00          9000\n\n\
        the record against naive rows: 2.10x with indexes, 1.20x without, 52x against a commit each\n\
        handing over costs 2.50 us CPU per record; the aim of 3 us is met\n";

    fn report(gate_cpu: f64) -> Report {
        let turn = |cpu| Sample { cpu, per_second: 1000.0, p50: cpu, p99: 2.0 * cpu, ..Sample::default() };
        let records = Records::read(SAID).unwrap();
        Report {
            paths: vec![
                [turn(0.0), turn(10.0), turn(gate_cpu / 2.0), turn(gate_cpu), turn(gate_cpu / 1.8)];
                3
            ],
            recorded_bytes: 700.0,
            records: Some(records),
        }
    }

    #[test]
    fn what_the_records_bench_says_is_read() {
        let records = Records::read(SAID).unwrap();
        assert_eq!(records.against, [2.1, 1.2, 52.0]);
        assert_eq!(records.rows[0], ("the record, 100 waiting writers".to_owned(), 21000.0, 21.5));
        assert_eq!((records.rows.len(), records.hand_over), (2, 2.5));
        assert!(Records::read("panicked").is_err());
    }

    #[test]
    fn a_missed_aim_is_said() {
        let met = |report: &Report| report.aims().iter().map(|(_, met)| *met).collect::<Vec<_>>();
        assert_eq!(met(&report(17.0)), [true, true, true, true, false, true]);
        assert_eq!(met(&report(30.0)), [true, false, true, true, false, true]);
        assert_eq!(met(&report(30.1)), [false, false, true, true, false, true]);
        assert!(report(30.1).table().contains("MISSED: CPU per request at most 3x nginx: 3.01x"));
        assert!(report(30.1).json().contains("\"met\":false"));
    }

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        assert_eq!(median(vec![1.0, 900.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 2.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
