//! Captured traffic, judged again: `tidegate inspect` says of tcpdump's captures what the live gate said and masked, and of
//! captures that are cut, mixed up or hostile what it did not read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use tidegate::record::entry::Verdict;
use tidegate_tests::{Answer, Finished, Gate, Host, Seat, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[mask]]
name = "cards"
targets = ["api"]
find = ["card"]

[[mask]]
name = "pins"
targets = ["api"]
fields = ["pin"]

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]
"#;

const RULES: &str = r#"
@id("all")
permit (principal, action == Action::"http", resource == Target::"api");
@id("no-deletes")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.method == "DELETE" };
@id("held") @approval("lead")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("held") };
"#;

const HOST: &str = "127.0.0.1:7001";

struct World {
    host: Host,
    gate: Gate,
    upstream: Upstream,
    /// What the client of the gate sent and got, captured on its own side.
    live: PathBuf,
    /// The same without a gate.
    direct: PathBuf,
}

fn answer(request: &tidegate_tests::Request) -> Answer {
    match request.target.as_str() {
        "/chunked" => {
            let head = Answer::chunked(200, &[("Content-Type", "application/json")]);
            head.chunk("{\"card\": \"4111 1111 ").chunk("1111 1111\", \"pin\": 1234}").last_chunk(&[])
        }
        "/large" => {
            Answer::json(format!("{{\"cards\": [{}]}}", vec!["\"4111111111111111\""; 9000].join(",")))
        }
        _ => Answer::json("{\"ok\": true}"),
    }
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let seat = host.client();
    let upstream = Upstream::answering(&seat, HOST, answer);
    let direct = capture(&host, "direct.pcap", || requests(&seat));
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let live = capture(&host, "live.pcap", || {
        requests(&seat);
        let _ = gate.entry_of("DELETE /one");
        let _ = gate.entry_of("GET /large");
    });
    World { host, gate, upstream, live, direct }
});

fn requests(seat: &Seat) {
    let curl =
        |words: &[&str]| drop(seat.run("curl", &[&["-s", "-m", "20", "-o", "/dev/null"], words].concat()));
    let url = |path: &str| format!("http://{HOST}{path}");
    curl(&[&url("/one"), &url("/chunked"), &url("/one?card=4111111111111111")]);
    curl(&["-d", "{\"n\": 1}", "-H", "Content-Type: application/json", &url("/post")]);
    curl(&["-X", "DELETE", &url("/one")]);
    curl(&["-m", "1", &url("/held/one")]);
    curl(&["--head", &url("/head")]);
    curl(&[&url("/large")]);
}

/// What passes the loopback of the host meanwhile, by the real tcpdump.
fn capture(host: &Host, name: &str, act: impl FnOnce()) -> PathBuf {
    let path = host.folder().join(name);
    let file = path.display().to_string();
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        host.name(),
        "tcpdump",
        "-Z",
        "root",
        "-U",
        "-s",
        "0",
        "-i",
        "lo",
        "-w",
        &file,
        "tcp",
    ]);
    let mut tcpdump = tidegate_tests::Process::start(command);
    tcpdump.await_text("listening on");
    act();
    let mut size = 0;
    // tcpdump hears of packets a little later than they pass.
    eventually("the end of the capture", || {
        let now = fs::metadata(&path).map_or(0, |file| file.len());
        let still = now == size && now > 0;
        size = now;
        std::thread::sleep(Duration::from_millis(500));
        still.then_some(())
    });
    let _ = tcpdump.stop(Duration::from_secs(20));
    path
}

fn inspect(path: &Path, more: &[&str]) -> Finished {
    let file = path.display().to_string();
    WORLD.gate.tidegate(&[&["inspect", &file, "--json"], more].concat())
}

/// Request line, verdict, and values hidden by each mask.
type Found = (String, String, Vec<(String, u64)>);

/// Every operation of the connections to this port, by time: line, verdict, masks.
fn operations(report: &Value, port: &str) -> Vec<Found> {
    let flows = report["flows"].as_array().unwrap().iter();
    let mut found: Vec<&Value> = flows
        .filter(|flow| flow["server"].as_str().unwrap().ends_with(port))
        .flat_map(|flow| flow["operations"].as_array().unwrap())
        .collect();
    found.sort_by_key(|operation| operation["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let masks = |operation: &Value| serde_json::from_value(operation["masks"].clone()).unwrap();
    found
        .iter()
        .map(|operation| (text(&operation["line"]), text(&operation["verdict"]), masks(operation)))
        .collect()
}

/// The uid that the client of these tests has.
fn uid() -> String {
    WORLD.host.client().run("id", &["-u"]).success().text().trim().to_owned()
}

#[test]
fn a_capture_of_real_traffic_is_judged_and_masked_as_the_live_gate_did() {
    let found = inspect(&WORLD.direct, &["--uid", &uid()]);
    let found = operations(&found.json(), ":7001");
    let recorded: Vec<Found> = WORLD
        .gate
        .entries()
        .into_iter()
        .map(|entry| {
            let masks = entry.closed.as_ref().map(|closed| closed.masks.clone()).unwrap_or_default();
            (entry.intent.head.line.clone(), entry.intent.verdict.name().to_owned(), masks)
        })
        .collect();
    assert_eq!(found.len(), 8, "{found:?}");
    assert_eq!(found, recorded, "entry by entry");
    assert!(found.iter().any(|(_, verdict, _)| verdict == Verdict::Hold.name()));
    assert!(found.iter().any(|(_, _, masks)| masks.contains(&("cards".into(), 9000))));
}

#[test]
fn a_capture_beside_the_running_gate_shows_what_its_clients_got() {
    let found = inspect(&WORLD.live, &["--uid", &uid()]).json();
    let text = found.to_string();
    assert!(text.contains("403") && !text.contains("4111111111111111"), "{text}");
}

#[test]
fn without_a_process_the_verdict_is_unknown_and_says_what_is_missing() {
    let found = inspect(&WORLD.direct, &[]).json();
    let all = operations(&found, ":7001");
    assert!(all.iter().all(|(_, verdict, masks)| verdict == "unknown" && masks.is_empty()), "{all:?}");
    assert!(found.to_string().contains("requires a local process"));
}

#[test]
fn a_capture_that_is_cut_anywhere_is_read_as_far_as_it_goes_and_says_so() {
    let whole = fs::read(&WORLD.direct).unwrap();
    let path = WORLD.host.folder().join("cut.pcap");
    for length in [30, 100, 3000, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let found = inspect(&path, &["--uid", "1"]);
        assert_eq!(found.code(), Some(1), "{length}: {}", found.errors());
        let said = found.json();
        assert!(said["broken"].as_str().unwrap().contains("in the middle of a block"), "{length}: {said}");
    }
    for bytes in [&b""[..], b"no capture at all, whatever it is called"] {
        fs::write(&path, bytes).unwrap();
        let refused = inspect(&path, &[]);
        assert_eq!(refused.code(), Some(3));
        assert!(refused.errors().contains("neither a pcap nor a pcapng"), "{}", refused.errors());
    }
}

#[test]
fn an_export_of_the_record_is_inspected_like_any_capture() {
    let path = WORLD.host.folder().join("export.pcapng");
    let file = path.display().to_string();
    drop(
        WORLD.gate.tidegate(&["sessions", "export", "--format", "pcapng", "-o", &file, "--force"]).success(),
    );
    let found = inspect(&path, &["--uid", &uid()]);
    assert_eq!(found.code(), Some(0), "{}{}", found.text(), found.errors());
    let found = operations(&found.json(), ":7001");
    let lines: Vec<String> =
        WORLD.gate.entries().iter().map(|entry| entry.intent.head.line.clone()).collect();
    assert_eq!(found.iter().map(|(line, ..)| line.clone()).collect::<Vec<_>>(), lines);
    assert!(found.iter().all(|(_, _, masks)| masks.is_empty()), "there is nothing left to hide");
}

#[test]
fn nothing_is_enforced_written_or_sent() {
    let requests = WORLD.upstream.requests().len();
    let before = WORLD.gate.record().end().unwrap();
    drop(inspect(&WORLD.direct, &[]));
    assert_eq!(WORLD.upstream.requests().len(), requests);
    let lines = WORLD.gate.record().end().unwrap();
    assert_eq!(lines, before, "not even an event: nothing of the record was read");
}
