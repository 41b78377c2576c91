//! The operator's face: help that is true, JSON that parses, exit codes as documented, metrics, and no captured byte that
//! could deceive a terminal. Strangers learn nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::time::Duration;

use tidegate_tests::{Client, Finished, Gate, Host, Seat, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
@id("held") @approval("lead")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("held") };
"#;

const CASES: &str = "[[case]]\nname = \"reads\"\ntarget = \"api\"\nas = { uid = 1 }\nmethod = \"GET\"\npath = \"/x\"\nexpect = \"allow\"\n";

const HOST: &str = "127.0.0.1:7001";
const METRICS: u16 = 9465;

struct World {
    host: Host,
    gate: Gate,
    _upstream: Upstream,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("a.cases.toml", CASES)
        .option(&format!("--metrics-port={METRICS}"))
        .start();
    World { host, gate, _upstream: upstream }
});

fn dial() -> Client {
    let seat = WORLD.host.client();
    // The process must live as long as its connection; the host's end is its end.
    std::mem::forget(seat.clone());
    seat.connect(HOST.parse().unwrap()).unwrap()
}

fn tidegate(words: &[&str]) -> Finished {
    WORLD.gate.tidegate(words)
}

/// Every command there is, found by reading help: `["policy", "check"]`.
fn commands() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut next = vec![Vec::new()];
    while let Some(words) = next.pop() {
        let help = help(&words);
        let listed =
            help.split("Commands:\n").nth(1).map(|rest| rest.split("\n\n").next().unwrap_or_default());
        for line in listed.unwrap_or_default().lines() {
            let Some(name) = line.strip_prefix("  ").and_then(|line| line.split(' ').next()) else {
                continue;
            };
            if !name.is_empty() && name != "help" {
                next.push([words.clone(), vec![name.to_owned()]].concat());
            }
        }
        found.push(words);
    }
    found
}

fn help(words: &[String]) -> String {
    let mut command = WORLD.host.seat("gate").command(tidegate_tests::built("tidegate"));
    // Wide enough that no example is broken into two lines.
    command.args(words).arg("--help").env("COLUMNS", "1000");
    Finished::of(command, Duration::from_secs(30)).success().text()
}

#[test]
fn every_command_has_help_with_an_example() {
    let all = commands();
    assert!(all.len() >= 18, "{all:?}");
    for words in &all {
        let help = help(words);
        assert!(
            help.contains("Example") && help.contains("tidegate "),
            "`{}` has no example:\n{help}",
            words.join(" ")
        );
    }
}

#[test]
fn every_example_in_help_is_a_line_that_the_program_takes() {
    let places = [
        ("TIDEGATE_POLICIES", WORLD.gate.policies()),
        ("TIDEGATE_STATE", WORLD.gate.state()),
        // Nothing is loaded there, so that an example can harm nobody.
        ("TIDEGATE_PINS", WORLD.host.pins().join("nothing")),
        ("TIDEGATE_CGROUP", "/nonexistent".into()),
        ("TIDEGATE_ADMIN_SOCKET", WORLD.gate.admin_socket()),
    ];
    let mut run = 0;
    for words in commands() {
        for line in help(&words).lines() {
            let line = line.trim_start();
            let Some(example) = line.strip_prefix("sudo ").unwrap_or(line).strip_prefix("tidegate ") else {
                continue;
            };
            // What follows two spaces explains; what follows a pipe or an arrow is the shell's.
            let cuts = ["  ", " | ", " > ", " < ", " && "];
            let example = cuts.iter().fold(example, |text, cut| text.split(cut).next().unwrap_or(text));
            let example = example.replace("/usr/local/share", &WORLD.host.folder().display().to_string());
            let program = tidegate_tests::built("tidegate").display().to_string();
            let mut command = WORLD.host.seat("examples").command("timeout");
            command.args(["2", "sh", "-c", &format!("exec '{program}' {example}")]);
            for (name, place) in &places {
                command.env(name, place);
            }
            if words.iter().any(|word| word == "upgrade") {
                // The other tests ask the gate meanwhile.
                command.env("TIDEGATE_ADMIN_SOCKET", "/nonexistent");
            }
            let finished = Finished::of(command, Duration::from_secs(20));
            assert_ne!(
                finished.code(),
                Some(2),
                "`tidegate {example}` of `{}`: {}",
                words.join(" "),
                finished.errors()
            );
            run += 1;
        }
    }
    assert!(run > 20, "{run} examples");
}

#[test]
fn exit_codes_are_as_documented() {
    let stranger = "01890000-0000-7000-8000-000000000000";
    for (words, code) in [
        (&["policy", "check"][..], 0),
        (&["policy", "test"], 0),
        (&["record", "verify"], 0),
        (&["sessions", "list"], 0),
        (&["approvals", "list"], 0),
        (&["status"], 0),
        (&["--version"], 0),
        (&["sessions", "list", "--verdict", "maybe"], 2),
        (&["sessions", "list", "--since", "yesterday-ish"], 2),
        (&["sessions", "show", "not-an-id"], 2),
        (&["policy", "check", "--force"], 2),
        (&["conquer"], 2),
        (&[], 2),
        (&["sessions", "show", stranger], 3),
        (&["approvals", "show", stranger], 1),
        (&["--state", "/nonexistent", "sessions", "list"], 3),
        (&["--state", "/nonexistent", "record", "verify"], 3),
        (&["--admin-socket", "/nonexistent", "approvals", "list"], 3),
    ] {
        let words: Vec<&str> = words.to_vec();
        let finished = raw(&words);
        assert_eq!(finished.code(), Some(code), "{words:?}: {}{}", finished.text(), finished.errors());
        if code >= 2 {
            assert!(!finished.errors().is_empty(), "{words:?} says why");
        }
    }
}

/// Runs with the gate's places in the environment, so that options may stand on the line.
fn raw(words: &[&str]) -> Finished {
    let mut command = WORLD.host.seat("gate").command(tidegate_tests::built("tidegate"));
    command.args(words);
    command.env("TIDEGATE_POLICIES", WORLD.gate.policies()).env("TIDEGATE_STATE", WORLD.gate.state());
    command.env("TIDEGATE_PINS", WORLD.gate.pins()).env("TIDEGATE_CGROUP", WORLD.host.cgroup());
    command.env("TIDEGATE_ADMIN_SOCKET", WORLD.gate.admin_socket());
    Finished::of(command, Duration::from_secs(30))
}

#[test]
fn json_is_json_everywhere() {
    let mut client = dial();
    assert_eq!(client.get(HOST, "/json").unwrap().status, 200);
    let mut held = dial();
    held.send(format!("GET /held/json HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let entry = WORLD.gate.entry_of("GET /json HTTP");
    let session = entry.intent.session.to_string();
    let demand = tidegate_tests::eventually("a demand", || {
        let listed = tidegate(&["--json", "approvals", "list"]).success().json();
        let list = listed.as_array().or_else(|| listed["demands"].as_array()).cloned().unwrap_or_default();
        list.iter()
            .find(|demand| demand.to_string().contains("/held/json"))
            .map(|demand| demand["id"].as_str().unwrap().to_owned())
    });
    for words in [
        &["status"][..],
        &["doctor"],
        &["policy", "check"],
        &["policy", "test"],
        &["sessions", "list"],
        &["sessions", "list", "--verdict", "deny"],
        &["sessions", "show", &session],
        &["sessions", "show", &entry.intent.entry.to_string()],
        &["record", "verify"],
        &["approvals", "list"],
        &["approvals", "show", &demand],
    ] {
        let words = [words, &["--json"]].concat();
        let finished = tidegate(&words);
        let _ = finished.json();
        assert!(
            matches!(finished.code(), Some(0 | 1)),
            "{words:?}: {:?} {}",
            finished.code(),
            finished.errors()
        );
        assert!(!finished.text().contains('\x1b'), "{words:?} is coloured");
    }
    for line in tidegate(&["--json", "sessions", "tail"]).success().text().lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object());
    }
    drop(tidegate(&["approvals", "reject", &demand]));
}

#[test]
fn sessions_are_found_by_every_index() {
    let seat = WORLD.host.client().uid(1800);
    let mut client = seat.connect(HOST.parse().unwrap()).unwrap();
    assert_eq!(client.get(HOST, "/indexed").unwrap().status, 200);
    let id = WORLD.gate.entry_of("/indexed").intent.session.to_string();
    for (filter, found) in [
        (&["--workload", "1800"][..], true),
        (&["--workload", "uid:1800"], true),
        (
            &[
                "--workload",
                "1800",
                "--target",
                "api",
                "--kind",
                "http",
                "--verdict",
                "allow",
                "--since",
                "1h",
            ],
            true,
        ),
        (&["--workload", "1800", "--verdict", "deny"], false),
        (&["--workload", "1800", "--until", "1h"], false),
        (&["--workload", "1800", "--target", "other"], false),
        (&["--user", "somebody"], false),
    ] {
        let words = [&["--json", "sessions", "list"], filter].concat();
        assert_eq!(tidegate(&words).success().text().contains(&id), found, "{filter:?}");
    }
}

#[test]
fn captured_bytes_cannot_deceive_a_terminal() {
    let hostile = ["GET /\x1b[2Jcleared HTTP/1.1", "GET /a\u{202e}txt HTTP/1.1", "G\x07T / HTTP/1.1"];
    for line in hostile {
        let response = dial().ask(format!("{line}\r\nHost: {HOST}\r\n\r\n")).unwrap();
        assert_eq!(response.status, 400);
    }
    let fields = "X-Bidi: a\u{202e}b\u{2066}c\u{200b}d\r\nX-Tag: \u{e0041}\r\nX-Latin: \u{9b}2J\r\n";
    assert_eq!(
        dial().ask(format!("GET /deceive HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")).unwrap().status,
        200
    );
    let session = WORLD.gate.entry_of("/deceive").intent.session.to_string();
    for words in [
        &["sessions", "list"][..],
        &["sessions", "list", "--json"],
        &["sessions", "show", &session],
        &["sessions", "show", &session, "--json"],
        &["sessions", "tail", "-n", "200"],
        &["sessions", "tail", "-n", "200", "--json"],
    ] {
        let text = tidegate(words).success().text();
        let deceptive = |c: &char| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
        };
        let found = text.chars().find(deceptive);
        assert_eq!(found, None, "{words:?}");
    }
    let shown = tidegate(&["sessions", "show", &session]).success().text();
    assert!(shown.contains("\\u{202e}"), "it is shown escaped: {shown}");
    assert!(!WORLD.gate.log().contains("\x1b[2J"));
}

#[test]
fn the_admin_socket_tells_strangers_nothing() {
    let mode = fs::metadata(WORLD.gate.admin_socket()).unwrap().permissions().mode();
    let stranger = WORLD.host.client().uid(65534);
    for words in [&["approvals", "list"][..], &["--json", "approvals", "list"]] {
        let finished = WORLD.gate.tidegate_at(&stranger, words);
        assert_eq!(finished.code(), Some(3), "{mode:o} {words:?}: {}{}", finished.text(), finished.errors());
        assert!(!finished.errors().is_empty());
    }
    let program = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                   s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
                   print(s.recv(9999).decode())\n";
    let asked = stranger.python(program, &[&WORLD.gate.admin_socket().display().to_string()]);
    let heard = asked.text();
    assert!(
        heard.is_empty() || heard.starts_with("HTTP/1.1 403") || heard.starts_with("HTTP/1.1 401"),
        "{heard}"
    );
}

#[test]
fn the_admin_socket_knows_no_other_paths_and_takes_no_large_bodies() {
    assert_eq!(WORLD.gate.admin("GET", "/", "").status, 404);
    assert_eq!(WORLD.gate.admin("GET", "/v1/secrets", "").status, 404);
    assert_eq!(WORLD.gate.admin("DELETE", "/v1/status", "").status, 405);
    let large = "x".repeat(tidegate::limits::ADMIN_BODY_BYTES_MAX + 1);
    let stranger = "/v1/approvals/01890000-0000-7000-8000-000000000000/vote";
    let answered = WORLD.gate.try_admin("POST", stranger, &large);
    assert!(answered.is_none_or(|answer| answer.status >= 400));
}

#[test]
fn metrics_are_prometheus_text_on_the_socket_and_on_loopback_only() {
    assert_eq!(dial().get(HOST, "/measured").unwrap().status, 200);
    let here = WORLD.host.client().curl(&[&format!("http://127.0.0.1:{METRICS}/metrics")]);
    assert_eq!(here.status, 200);
    for text in [here.body, WORLD.gate.admin("GET", "/metrics", "").text()] {
        let mut samples = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(name.starts_with("tidegate_") || name.starts_with("process_"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            samples += 1;
        }
        assert!(samples > 5, "{text}");
        assert!(text.contains("# HELP") && text.contains("# TYPE"), "{text}");
        assert!(!text.contains("/measured"), "paths are no labels");
    }
    for path in ["/", "/v1/status", "/v1/approvals"] {
        let other = WORLD.host.client().curl(&[&format!("http://127.0.0.1:{METRICS}{path}")]);
        assert!((400..500).contains(&other.status), "{path}: the port serves metrics and nothing else");
    }
    let address = "192.0.2.99".parse().unwrap();
    WORLD.host.add_address(address);
    let elsewhere = WORLD.host.client().try_curl(&[&format!("http://192.0.2.99:{METRICS}/metrics")]);
    assert_eq!(elsewhere.code(), Some(7), "loopback only");
}

#[test]
fn status_shows_the_kernel_side_the_policy_and_the_enforcer_alive_and_dead() {
    let shown = tidegate(&["status"]).success().text();
    for word in ["tg_connect4", "tg_steer", "polic"] {
        assert!(shown.contains(word), "`{word}` is not in:\n{shown}");
    }
    let host = Host::new();
    let mut gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    gate.kill();
    let dead = gate.tidegate(&["status"]);
    let said = (dead.text() + &dead.errors()).to_lowercase();
    assert!(said.contains("not running") || said.contains("shut") || said.contains("down"), "{said}");
    assert_eq!(dead.code(), Some(1), "a dead enforcer is a no");
    drop(gate.tidegate(&["unload"]).success());
    let bare = gate.tidegate(&["status"]);
    let said = (bare.text() + &bare.errors()).to_lowercase();
    assert!(matches!(bare.code(), Some(1 | 3)) && said.contains("load"), "{said}");
}

#[test]
fn every_exemption_is_shown_by_status_and_doctor_and_its_end_is_on_record() {
    let host = Host::new();
    let exempt = "[[exempt]]\nname = \"backup\"\nuids = [34]\nreason = \"reads it all at night\"\n";
    let gate =
        Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).policy("b.toml", exempt).start();
    for command in [&["status"][..], &["doctor"], &["policy", "check"]] {
        let told = gate.tidegate(command);
        let shown = told.text() + &told.errors();
        for word in ["exempt `backup`", "uid 34", "reads it all at night"] {
            assert!(shown.contains(word), "`{word}` is not in {command:?}:\n{shown}");
        }
    }
    gate.remove_policy("b.toml");
    eventually("its end", || (!gate.tidegate(&["status"]).text().contains("backup")).then_some(()));
    eventually("its end on record", || {
        gate.tidegate(&["policy", "log"]).text().contains("b.toml").then_some(())
    });
}

#[test]
fn doctor_says_what_this_kernel_supports() {
    let told = tidegate(&["doctor"]);
    assert!(matches!(told.code(), Some(0 | 1)), "{}", told.errors());
    let text = told.text();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(text.contains(release.trim()), "{text}");
    for word in ["cgroup", "BTF"] {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "`{word}` is not in:\n{text}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let script = tidegate(&["completions", shell]).success().text();
        assert!(script.contains("approvals") && script.contains("verify"), "{shell}");
        if shell == "bash" {
            let place = WORLD.host.folder().join("completions.bash");
            fs::write(&place, script).unwrap();
            drop(WORLD.host.client().run("bash", &["-n", &place.display().to_string()]).success());
        }
    }
    assert_eq!(tidegate(&["completions", "sh-of-my-own"]).code(), Some(2));
    let place = WORLD.host.folder().join("man1");
    drop(tidegate(&["man", &place.display().to_string()]).success());
    let pages = fs::read_dir(&place).unwrap().count();
    assert!(pages + 1 >= commands().len(), "{pages} pages for {} commands", commands().len());
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let seat: Seat = WORLD.host.seat("gate");
    let program = tidegate_tests::built("tidegate");
    let line =
        format!("'{}' completions bash | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}", program.display());
    assert_eq!(seat.run("bash", &["-c", &line]).success().text().trim(), "0");
}
