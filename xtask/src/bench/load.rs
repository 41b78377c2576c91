//! The load: wrk for what goes through at most, h2load for latencies at a fixed rate. A round in which any request was
//! not answered with 200 counts for nothing: it ends the measurement.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::host::Host;

/// Keep-alive connections of every round.
pub(super) const CONNECTIONS: u32 = 64;
/// Requests a second of the rounds that measure latency.
pub(super) const RATE: u32 = 2000;

/// Each request for another account, more of them than any cache of decisions holds.
const VARIED: &str = "local n = 0\nrequest = function()\n  n = (n + 1) % 20000\n  \
    return wrk.format(\"GET\", \"/accounts/\" .. n .. \".json\")\nend\n";

/// One round as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fast {
    /// Requests answered.
    pub(super) requests: u64,
    /// Of them, each second.
    pub(super) per_second: f64,
}

/// One round at [`RATE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Paced {
    /// Requests answered.
    pub(super) requests: u64,
    /// Of them, each second: less than asked for where the way cannot keep up.
    pub(super) per_second: f64,
    /// Microseconds that half of them stayed within.
    pub(super) p50: f64,
    /// Microseconds that 99 of 100 stayed within.
    pub(super) p99: f64,
}

/// As many requests as go through.
pub(super) fn fast(host: &Host, group: &str, url: &str, varied: bool, round: Duration) -> Result<Fast> {
    let (connections, seconds) = (format!("-c{CONNECTIONS}"), format!("-d{}s", round.as_secs()));
    let script = host.folder().join("accounts.lua");
    fs::write(&script, VARIED)?;
    let script = format!("-s{}", script.display());
    let mut words = vec!["wrk", "-t1", &connections, &seconds];
    words.extend(varied.then_some(script.as_str()));
    words.push(url);
    let said = host.run(group, host.cores().around, &words)?;
    read_wrk(&said).with_context(|| format!("wrk against {url} said:\n{said}"))
}

/// [`RATE`] requests a second, spread over all connections.
pub(super) fn paced(host: &Host, group: &str, url: &str, round: Duration) -> Result<Paced> {
    let log = host.folder().join("h2load.tsv");
    if log.exists() {
        // h2load appends.
        fs::remove_file(&log)?;
    }
    let requests = u64::from(RATE) * round.as_secs();
    let (connections, log_file) = (format!("-c{CONNECTIONS}"), format!("--log-file={}", log.display()));
    let (rate, total) =
        (format!("--rps={}", f64::from(RATE) / f64::from(CONNECTIONS)), format!("-n{requests}"));
    // Two connections each millisecond: their requests then come evenly, not all 64 at once every 32 ms.
    let spread = ["-r2", "--rate-period=1ms"];
    let words =
        ["h2load", "--h1", "-t1", "-m1", &connections, &rate, &total, spread[0], spread[1], &log_file, url];
    let said = host.run(group, host.cores().around, &words)?;
    read_log(&fs::read_to_string(&log)?).with_context(|| format!("h2load against {url} said:\n{said}"))
}

fn read_wrk(said: &str) -> Result<Fast> {
    for trouble in ["Socket errors", "Non-2xx"] {
        if let Some(line) = said.lines().find(|line| line.contains(trouble)) {
            bail!("not every request was answered: {}", line.trim());
        }
    }
    let requests = said.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok());
    let per_second = said.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    Ok(Fast { requests: requests.context("no requests")?, per_second: per_second.context("no rate")? })
}

/// Start, status and microseconds of each request, between tabs.
fn read_log(log: &str) -> Result<Paced> {
    let mut times = Vec::new();
    let (mut first, mut last) = (f64::INFINITY, 0.0_f64);
    for line in log.lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        let (start, status, time) = (next(), next(), next());
        if status != "200" {
            bail!("not every request was answered with 200: {line}");
        }
        let number = |text: &str| text.parse::<f64>().with_context(|| format!("no time in the line {line}"));
        let (start, time) = (number(start)?, number(time)?);
        (first, last) = (first.min(start), last.max(start + time));
        times.push(time);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().context("no requests");
    let per_second = times.len() as f64 * 1e6 / (last - first).max(1.0);
    Ok(Paced { requests: times.len() as u64, per_second, p50: at(0.5)?, p99: at(0.99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 4s test @ http://127.0.0.1:9000/\n  1 threads and 64 connections\n\
        \x20 89120 requests in 4.01s, 108.00MB read\nRequests/sec:  22224.44\nTransfer/sec:     26.93MB\n";

    #[test]
    fn what_wrk_says_is_read() {
        assert_eq!(read_wrk(WRK).unwrap(), Fast { requests: 89120, per_second: 22224.44 });
    }

    #[test]
    fn a_round_with_one_refused_or_broken_request_counts_for_nothing() {
        for trouble in
            ["  Non-2xx or 3xx responses: 1", "  Socket errors: connect 0, read 1, write 0, timeout 0"]
        {
            assert!(read_wrk(&format!("{WRK}{trouble}\n")).is_err());
        }
        assert!(read_log("1\t200\t90\n2\t503\t90\n").is_err());
        assert!(read_log("1\t-1\t90\n").is_err());
        assert!(read_log("").is_err(), "no requests are no measurement");
    }

    #[test]
    fn percentiles_are_of_all_requests() {
        let log: String = (0..100).rev().map(|time| format!("{}\t200\t{time}\n", 100 - time)).collect();
        let read = Paced { requests: 100, per_second: 100e6 / 99.0, p50: 50.0, p99: 99.0 };
        assert_eq!(read_log(&log).unwrap(), read);
    }
}
