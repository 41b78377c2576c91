//! What was recorded, read by other people's tools: exports open in Wireshark's and the archive's own checker with the
//! messages as they were recorded; and every reading is on record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use tidegate::record::entry::{Event, Side};
use tidegate::record::frame::Frame;
use tidegate_tests::{Answer, Finished, Gate, Host, Seat, Upstream, workspace};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[target]]
name = "six"
direction = "outbound"
addresses = ["::1"]
ports = [7006]

[[mask]]
name = "cards"
targets = ["api", "six"]
find = ["card"]
"#;

const RULES: &str = r#"
@id("all")
permit (principal, action == Action::"http", resource);
@id("no-deletes")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.method == "DELETE" };
"#;

const CARD: &str = "4111 1111 1111 1111";
const LARGE: usize = 1_300_000;

struct World {
    host: Host,
    gate: Gate,
    _upstreams: [Upstream; 2],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let answer = |request: &tidegate_tests::Request| match request.target.as_str() {
        "/chunked" => {
            let head = Answer::chunked(200, &[("Content-Type", "application/json")]);
            head.chunk("{\"card\": \"4111 1111 ").chunk("1111 1111\", \"n\": 1}").last_chunk(&[])
        }
        "/large" => Answer::new(200, &[("Content-Type", "text/plain")], "y".repeat(LARGE)),
        "/binary" => {
            Answer::new(200, &[("Content-Type", "application/octet-stream")], b"\x89PNG\x00\xff\xfe")
        }
        "/nothing" => Answer::new(204, &[], ""),
        _ => Answer::json("{\"ok\": true, \"who\": \"Gr\u{fc}\u{df}e\"}"),
    };
    let four = Upstream::answering(&host.client(), "127.0.0.1:7001", answer);
    let six = Upstream::answering(&host.client(), "[::1]:7006", answer);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let seat = host.client();
    curl(
        &seat,
        &["http://127.0.0.1:7001/one", "http://127.0.0.1:7001/chunked", "http://127.0.0.1:7001/binary"],
    );
    let body = format!("{{\"pay\": \"{CARD}\"}}");
    curl(&seat, &["-H", "Content-Type: application/json", "-d", &body, "http://127.0.0.1:7001/post?a=b%20c"]);
    curl(&seat, &["-X", "DELETE", "http://127.0.0.1:7001/one"]);
    curl(&seat, &["http://127.0.0.1:7001/large"]);
    curl(&seat, &["--head", "http://127.0.0.1:7001/head"]);
    curl(&seat, &["http://127.0.0.1:7001/nothing", "http://127.0.0.1:7001/after"]);
    curl(&seat, &["-d", "plain", "http://[::1]:7006/six"]);
    let last = gate.entry_of("/six");
    drop(tidegate_tests::eventually("the end of the last session", || gate.session_of(&last).summary.closed));
    World { host, gate, _upstreams: [four, six] }
});

fn curl(seat: &Seat, words: &[&str]) {
    drop(seat.run("curl", &[&["-s", "-o", "/dev/null"], words].concat()));
}

fn export(format: &str, name: &str, more: &[&str]) -> PathBuf {
    let path = WORLD.host.folder().join(name);
    let file = path.display().to_string();
    let words = [&["sessions", "export", "--format", format, "-o", &file, "--force"], more].concat();
    drop(WORLD.gate.tidegate(&words).success());
    path
}

fn tool(program: &str, words: &[&str]) -> Finished {
    let mut command = Command::new(program);
    command.args(words);
    Finished::of(command, Duration::from_secs(120)).success()
}

/// One row of fields for each packet that `filter` shows.
fn tshark(path: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let file = path.display().to_string();
    let mut words = vec!["-r", &file, "-Y", filter, "-T", "fields", "-E", "separator=|"];
    words.extend(["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    fields.iter().for_each(|field| words.extend(["-e", field]));
    let text = tool("tshark", &words).text();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[test]
fn a_capture_opens_in_wireshark_with_the_http_that_was_recorded() {
    let path = export("pcapng", "all.pcapng", &[]);
    let asked = tshark(&path, "http.request", &["http.request.method", "http.request.uri", "tcp.dstport"]);
    let asked: Vec<String> = asked.iter().map(|row| row.join(" ")).collect();
    assert_eq!(
        asked,
        [
            "GET /one 7001",
            "GET /chunked 7001",
            "GET /binary 7001",
            "POST /post?a=b%20c 7001",
            "DELETE /one 7001",
            "GET /large 7001",
            "HEAD /head 7001",
            "GET /nothing 7001",
            "GET /after 7001",
            "POST /six 7006",
        ]
    );
    let answered =
        tshark(&path, "http.response", &["http.response.code", "http.response_for.uri", "http.file_data"]);
    assert_eq!(answered.len(), 10, "{answered:?}");
    let bodies: BTreeMap<&str, &str> =
        answered.iter().map(|row| (row[1].rsplit_once('/').unwrap().1, row[2].as_str())).collect();
    assert_eq!(bodies["chunked"], "{\"card\": \"********\", \"n\": 1}", "masked, and in one piece");
    assert_eq!(answered.iter().map(|row| row[0].as_str()).filter(|code| *code == "403").count(), 1);
    assert_eq!(answered.iter().filter(|row| row[0] == "204").count(), 1);
    let posted = tshark(&path, "http.request.method == POST", &["http.file_data", "ip.version", "ipv6.dst"]);
    assert!(posted[0][0].contains("********") && !posted[0][0].contains("4111"), "{posted:?}");
    assert_eq!(posted[1][2], "::1");
}

#[test]
fn the_made_up_tcp_stands_every_check_of_a_reader() {
    let path = export("pcapng", "tcp.pcapng", &[]);
    let wrong =
        "tcp.analysis.flags || tcp.checksum.status == Bad || ip.checksum.status == Bad || _ws.malformed";
    assert_eq!(tshark(&path, wrong, &["frame.number", "_ws.col.Info"]), Vec::<Vec<String>>::new());
    let rows = tshark(
        &path,
        "tcp",
        &["tcp.stream", "tcp.flags.syn", "tcp.flags.fin", "tcp.len", "frame.time_epoch"],
    );
    let streams: BTreeMap<&str, usize> = rows.iter().fold(BTreeMap::new(), |mut all, row| {
        *all.entry(row[0].as_str()).or_default() += 1;
        all
    });
    assert_eq!(streams.len(), 7, "one for each session");
    let count = |at: usize| rows.iter().filter(|row| row[at] == "1").count();
    assert_eq!((count(1), count(2)), (14, 14), "each begins and ends");
    assert!(rows.iter().all(|row| row[3].parse::<usize>().unwrap() <= 1460));
    let one = WORLD.gate.entries_of("GET /one").remove(0);
    let begin =
        tshark(&path, "http.request.uri == \"/one\" && http.request.method == GET", &["frame.time_epoch"]);
    let shown: f64 = begin[0][0].parse().unwrap();
    assert!((shown - one.intent.at as f64 / 1e6).abs() < 0.01, "{shown} {}", one.intent.at);
}

#[test]
fn comments_of_a_capture_say_verdict_rule_and_what_is_missing() {
    let path = export("pcapng", "comments.pcapng", &[]);
    let comments: Vec<String> =
        tshark(&path, "frame.comment", &["frame.comment"]).into_iter().map(|mut row| row.remove(0)).collect();
    let denied = WORLD.gate.entry_of("DELETE /one").intent.entry.to_string();
    let of = |text: &str| comments.iter().find(|comment| comment.contains(text)).unwrap();
    assert!(of(&format!("{denied}; verdict deny")).contains("a.cedar#no-deletes"), "{comments:?}");
    assert!(of("values hidden by cards").contains("finished"));
    assert!(of("the record holds the first 1048576 bytes of a body of 1300000").contains("finished"));
    let large = tshark(&path, "http.response_for.uri contains \"large\"", &["http.content_length_header"]);
    assert_eq!(large, [["1048576"]], "what is cut off has the length of what is there");
}

#[test]
fn an_archive_is_valid_by_the_published_schema_and_holds_what_was_recorded() {
    let path = export("har", "all.har", &[]);
    let script = "const {har} = require('har-validator'); const fs = require('fs'); \
                  har(JSON.parse(fs.readFileSync(process.argv[1]))).then(() => console.log('valid'), \
                  error => { console.error(JSON.stringify(error.errors)); process.exit(1); })";
    let mut command = Command::new("node");
    command.current_dir(workspace().join("target/testbed")).args(["-e", script]).arg(&path);
    assert_eq!(Finished::of(command, Duration::from_secs(60)).success().text().trim(), "valid");
    let archive: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let entries = archive["log"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let of = |url: &str| {
        entries.iter().find(|entry| entry["request"]["url"].as_str().unwrap().ends_with(url)).unwrap()
    };
    let post = of("/post?a=b%20c");
    assert_eq!(post["request"]["postData"]["text"], "{\"pay\": \"********\"}");
    assert_eq!(post["request"]["queryString"][0]["value"], "b%20c");
    assert_eq!(
        (&of("/binary")["response"]["content"]["encoding"], &of("/chunked")["response"]["status"]),
        (&"base64".into(), &200.into())
    );
    assert!(of("/large")["comment"].as_str().unwrap().contains("first 1048576 bytes"));
    assert_eq!(of("/six")["serverIPAddress"], "::1");
    assert!(!fs::read_to_string(&path).unwrap().contains("4111"));
}

#[test]
fn json_lines_hold_each_operation_that_matches_the_filters_and_no_other() {
    let lines = |more: &[&str]| -> Vec<Value> {
        let text = fs::read_to_string(export("jsonl", &format!("{}.jsonl", more.len()), more)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(lines(&[]).len(), 10);
    let denied = lines(&["--verdict", "deny"]);
    assert_eq!(
        (denied.len(), denied[0]["intent"]["head"]["line"].as_str()),
        (1, Some("DELETE /one HTTP/1.1"))
    );
    assert_eq!(lines(&["--target", "six", "--since", "2h"]).len(), 1);
    for line in lines(&["--target", "api"]) {
        let entry = WORLD.gate.entry_of(line["intent"]["head"]["line"].as_str().unwrap());
        let recorded = WORLD.gate.recorded_body(&entry, Side::Response);
        if let Some(text) = line["bodies"]["response"]["text"].as_str() {
            assert_eq!(text, recorded);
        }
    }
}

#[test]
fn a_replay_takes_the_time_that_it_took_divided_by_the_speed() {
    let session = WORLD.gate.entry_of("POST /post").intent.session.to_string();
    let shown = WORLD.gate.tidegate(&["replay", &session, "--speed", "50"]).success().text();
    for part in [
        "open",
        "allow",
        "POST /post?a=b%20c",
        "{\"pay\": \"********\"}",
        "HTTP/1.1 200",
        "close",
        "+0.000 s",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let steps = WORLD.gate.tidegate(&["replay", &session, "--no-wait", "--json"]).success().text();
    let steps: Vec<Value> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let offsets: Vec<i64> = steps.iter().map(|step| step["offset_us"].as_i64().unwrap()).collect();
    assert!(offsets.is_sorted() && offsets[0] == 0 && steps.len() >= 6, "{steps:?}");
}

#[test]
fn every_reading_of_the_live_record_is_on_record_with_who_and_what() {
    let entry = WORLD.gate.entry_of("POST /post").intent.entry.to_string();
    for words in [
        &["sessions", "show", &entry][..],
        &["sessions", "search", "plain", "--target", "six"],
        &["replay", &entry, "--no-wait"],
    ] {
        drop(WORLD.gate.tidegate(words).success());
    }
    let lines = WORLD.gate.record().last(1000).unwrap();
    let readings = lines.into_iter().filter_map(|line| match line.frame {
        Frame::Event(Event::RecordRead(reading)) => Some((reading.command, reading.about, reading.uid)),
        _ => None,
    });
    let readings: Vec<_> = readings.collect();
    for (command, about) in
        [("sessions show", entry.as_str()), ("sessions search", "\"plain\" --target six"), ("replay", &entry)]
    {
        let wanted = (command.to_owned(), about.to_owned(), 0);
        assert!(readings.contains(&wanted), "{wanted:?} in {readings:?}");
    }
    let elsewhere = WORLD.gate.tidegate(&["sessions", "list", "--admin-socket", "/nonexistent"]);
    assert_eq!((elsewhere.code(), elsewhere.text().as_str()), (Some(3), ""), "{}", elsewhere.errors());
}
