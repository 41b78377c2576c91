//! Signals: what the gate saw adds up, live and in the weekly review; surges and rules are named; nobody else may look.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tidegate_tests::{Answer, Gate, Host, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[operation]]
name = "read"
target = "crm"
methods = ["GET"]
paths = ["/**"]

[[operation]]
name = "erase"
target = "crm"
methods = ["DELETE"]
paths = ["/**"]

[[mask]]
name = "cards"
targets = ["crm"]
find = ["card"]

[[role]]
name = "auditors"
uids = [4242]
"#;

const RULES: &str = r#"
@id("everybody-reads")
permit (principal, action == Action::"read", resource == Target::"crm");
@id("auditors-erase")
permit (principal in Role::"auditors", action == Action::"erase", resource == Target::"crm");
@id("no-secrets")
forbid (principal, action == Action::"read", resource == Target::"crm") when { context.segments.contains("secrets") };
"#;

const AT: &str = "127.0.0.1:7001";

fn world() -> (Host, Upstream, Gate) {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), AT);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    (host, upstream, gate)
}

/// Two allowed with a card each, three denied.
fn traffic(host: &Host, upstream: &Upstream) {
    let agent = host.client();
    for _ in 0..2 {
        upstream.next(Answer::json("{\"card\":\"4111 1111 1111 1111\"}"));
        assert_eq!(agent.curl(&[&format!("http://{AT}/customers/1")]).status, 200);
    }
    for _ in 0..3 {
        assert_eq!(agent.curl(&[&format!("http://{AT}/secrets/1")]).status, 403);
    }
}

#[test]
fn what_happened_is_on_the_page_live_and_in_the_review_with_rule_and_subject() {
    let (host, upstream, gate) = world();
    traffic(&host, &upstream);
    let who = gate.entries_of("/secrets/1")[0].intent.workload.clone().unwrap();

    let seen = gate.tidegate(&["top", "--json"]).success().json();
    let rule = |id: &str| seen["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == id).cloned();
    assert_eq!(rule("a.cedar#no-secrets").unwrap()["denied"], 3);
    assert_eq!(rule("a.cedar#no-secrets").unwrap()["subjects"][0][0], who.as_str());
    assert_eq!(rule("a.cedar#everybody-reads").unwrap()["allowed"], 2);
    let unused: Vec<_> =
        seen["unused"].as_array().unwrap().iter().map(|broad| broad["rule"].clone()).collect();
    assert_eq!(unused, ["a.cedar#auditors-erase"], "a permit nobody used is named, one that was used is not");
    let masked = seen["rates"].as_array().unwrap().iter().find(|rate| rate["kind"] == "masked").unwrap();
    assert_eq!((masked["name"].as_str(), masked["target"].as_str()), (Some("cards"), Some("crm")));
    assert_eq!(masked["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 2);

    let once = gate.tidegate(&["top", "--once"]).success().text();
    for part in ["Sessions: ", "Masks: ", "cards", "Approvals: ", "a.cedar#no-secrets", "unused: "] {
        assert!(once.contains(part), "{part} in\n{once}");
    }
    let metrics = gate.admin("GET", "/metrics", "").text();
    assert!(metrics.lines().any(|line| line == "tidegate_permits_unused 1"), "{metrics}");
    assert!(metrics.contains("tidegate_surges{kind=\"masked\"} 0"), "{metrics}");

    let review = gate.tidegate(&["report", "--since", "1h", "--json"]).success().json();
    assert_eq!(review["unused"][0]["rule"], "a.cedar#auditors-erase");
    let denied = &review["signals"]["rules"].as_array().unwrap()[0];
    assert_eq!((denied["rule"].as_str(), denied["denied"].as_u64()), (Some("a.cedar#no-secrets"), Some(3)));
}

#[test]
fn the_terminal_page_turns_its_views_and_leaves_the_terminal_as_it_was() {
    let (host, upstream, gate) = world();
    traffic(&host, &upstream);
    let terminal = gate.terminal(&host.seat("gate"), 140, 40, &["top"]);
    let first = terminal.await_screen("the first view", |screen| screen.contains("in the hour"));
    assert!(
        first.contains("1 Sessions") && first.contains("denied: 3 now") && first.contains("age"),
        "{first}"
    );
    terminal.press(&["2"]);
    let masks = terminal.await_screen("the masks", |screen| screen.contains("values masked"));
    assert!(masks.contains("cards") && masks.contains("crm"), "{masks}");
    terminal.press(&["3"]);
    terminal.await_screen("the approvals", |screen| screen.contains("0 wait; since the start 0 asked"));
    terminal.press(&["4"]);
    let rules = terminal.await_screen("the rules", |screen| screen.contains("a.cedar#no-secrets"));
    assert!(rules.contains("unused: "), "{rules}");
    terminal.press(&["p"]);
    terminal.await_screen("that it stopped", |screen| screen.contains("stopped"));
    terminal.press(&["q"]);
    eventually("the end of the page", || terminal.is_over().then_some(()));
}

#[test]
fn nobody_but_an_operator_sees_what_everybody_does() {
    let (host, _upstream, gate) = world();
    let refused = gate.tidegate_at(&host.client().uid(4242), &["top", "--json"]);
    assert_eq!(refused.code(), Some(3), "{refused:?}");
    let refused = gate.tidegate_at(&host.client().uid(4242), &["report", "--json"]);
    assert_eq!(refused.code(), Some(3), "{refused:?}");
}

#[test]
fn a_review_is_one_private_file_that_a_browser_shows_and_that_is_never_written_over() {
    let (host, upstream, gate) = world();
    traffic(&host, &upstream);
    let page = host.folder().join("review.html");
    let path = page.display().to_string();
    drop(gate.tidegate(&["report", "--since", "1h", "--output", &path]).success());
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    let again = gate.tidegate(&["report", "--since", "1h", "--output", &path]);
    assert_eq!(again.code(), Some(3), "{again:?}");
    drop(gate.tidegate(&["report", "--since", "1h", "--output", &path, "--force"]).success());

    let home = host.folder().join("browser");
    let mut browser = host.seat("gate").command("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--disable-component-update", "--disable-sync", "--dump-dom", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", home.display()))
        .arg(format!("file://{path}"));
    let shown = tidegate_tests::Finished::of(browser, std::time::Duration::from_secs(120)).success().text();
    for part in ["Operations by verdict", "a.cedar#no-secrets", "a.cedar#auditors-erase", "<svg", "cards"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}

#[test]
fn a_time_without_a_record_and_a_time_turned_round_are_said() {
    let (_host, _upstream, gate) = world();
    let turned = gate.tidegate(&["report", "--since", "1h", "--until", "2h", "--json"]);
    assert_eq!(turned.code(), Some(2), "{turned:?}");
    let empty = gate.tidegate(&["report", "--since", "2001-01-01", "--until", "2001-01-02", "--json"]);
    assert_eq!(empty.success().json()["events"], 0);
}
