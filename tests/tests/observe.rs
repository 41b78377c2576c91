//! A target that is only observed: everything goes through as if there were no gate, everything is written down with what
//! would have become of it, and at its end it is enforced by itself. And static keys, which callers already send.

use std::time::Duration;

use tidegate::record::entry::{Side, Verdict};
use tidegate_tests::{Answer, Gate, Host, Upstream};

const HOST: &str = "127.0.0.1:7001";
const CARD: &str = "4111 1111 1111 1111";
const KEY: &str = "correct-horse-battery-staple";

fn nouns(mode: &str) -> String {
    format!(
        r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
{mode}

[[operation]]
name = "read"
target = "api"
methods = ["GET"]
paths = ["/**"]

[[operation]]
name = "write"
target = "api"
methods = ["POST"]
paths = ["/**"]

[[mask]]
name = "cards"
targets = ["api"]
find = ["card"]

[[person]]
name = "ada"
uid = 1001

[[approval]]
name = "lead"
approvers = ["ada"]
"#
    )
}

const RULES: &str = r#"
permit (principal, action == Action::"write", resource == Target::"api");
@approval("lead")
forbid (principal, action == Action::"write", resource == Target::"api");
"#;

fn post(body: &str) -> String {
    format!("POST /w HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_observed_target_refuses_holds_and_masks_nothing_until_it_is_enforced_by_itself() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    // Long enough for a busy machine to ask three times before it ends.
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(40);
    let mode = format!("mode = \"observe\"\nuntil = \"{until}\"");
    let gate = Gate::on(&host).policy("a.toml", &nouns(&mode)).policy("a.cedar", RULES).start();

    let mut client = host.client().connect(HOST.parse().unwrap()).unwrap();
    client.set_patience(Duration::from_secs(60));
    upstream.next(Answer::json(format!("{{\"card\":\"{CARD}\"}}")));
    let read = client.get(HOST, "/r").unwrap();
    assert_eq!(
        (read.status, read.text().contains(CARD)),
        (200, true),
        "denied and masked, if it were enforced"
    );
    assert_eq!(client.ask(post("x")).unwrap().status, 200, "held, if it were enforced");

    let (read, written) = (gate.entry_of("GET /r "), gate.entry_of("POST /w "));
    assert_eq!((read.intent.verdict, read.intent.would), (Verdict::Allow, Some(Verdict::Deny)));
    assert_eq!((written.intent.verdict, written.intent.would), (Verdict::Allow, Some(Verdict::Hold)));
    assert!(read.intent.reason.contains("no rule permits"), "{}", read.intent.reason);
    let body = gate.recorded_body(&read, Side::Response);
    assert!(!body.contains(CARD) && body.contains("********"), "the record's own copy is masked: {body}");
    let closed = read.closed.as_ref().unwrap();
    assert_eq!((closed.masks.as_slice(), closed.response.masked), (&[("cards".to_owned(), 1)][..], 0));

    for (words, says) in [
        (&["status"][..], "OBSERVED until"),
        (&["doctor"], "OBSERVED until"),
        (&["policy", "check"], "OBSERVED until"),
        (
            &["policy", "explain", "--target", "api", "--method", "GET", "--path", "/r", "--uid", "1"],
            "OBSERVED until",
        ),
        (&["sessions", "list"], "would-deny 1"),
        (&["sessions", "show", &read.intent.session.to_string()], "OBSERVED"),
    ] {
        let said = gate.tidegate(words);
        let text = said.text() + &String::from_utf8_lossy(&said.stderr);
        assert!(text.contains(says), "{words:?}: {text}");
    }
    let listed = |verdict: &str| gate.tidegate(&["sessions", "list", "--verdict", verdict]).success().text();
    let session = read.intent.session.to_string();
    assert!(listed("would-deny").contains(&session) && listed("would-hold").contains(&session));
    assert!(!listed("would-refuse").contains(&session), "nothing would have been refused");
    assert!(gate.log().contains("OBSERVED"), "{}", gate.log());
    let metrics = gate.admin("GET", "/metrics", "").text();
    assert!(
        metrics.contains("tidegate_observed_operations_total{target=\"api\",would=\"deny\"} 1"),
        "{metrics}"
    );

    // The same connection, the same files, no reload.
    let late = until + jiff::SignedDuration::from_secs(30);
    while client.get(HOST, "/r").unwrap().status != 403 {
        assert!(jiff::Timestamp::now() < late, "it is not enforced");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(jiff::Timestamp::now() >= until, "not before its end");
    assert_eq!(
        gate.tidegate(&["policy", "check"]).status.code(),
        Some(1),
        "whoever loads it again is told that it is over"
    );
}

#[test]
fn a_malformed_message_is_refused_on_an_observed_target_too() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let mode = format!("mode = \"observe\"\nuntil = \"{until}\"");
    let gate = Gate::on(&host).policy("a.toml", &nouns(&mode)).policy("a.cedar", RULES).start();
    let mut client = host.client().connect(HOST.parse().unwrap()).unwrap();
    let twice = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.ask(twice).unwrap().status, 400);
    assert!(upstream.requests().is_empty());
    assert_eq!(gate.entries().len(), 1);
}

#[test]
fn a_static_key_opens_what_its_role_may_and_is_written_nowhere() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let digest = tidegate::operation::Sha256::of(KEY.as_bytes());
    let role =
        format!("\n[[role]]\nname = \"batch\"\nkey_sha256 = \"{digest}\"\nkey_header = \"x-caller\"\n");
    let nouns = nouns("require = \"user\"\nforward_token = false") + &role;
    let rules =
        "permit (principal in Role::\"batch\", action == Action::\"read\", resource == Target::\"api\");";
    let gate = Gate::on(&host).policy("a.toml", &nouns).policy("a.cedar", rules).start();
    let ask = |key: &str| {
        let mut client = host.client().connect(HOST.parse().unwrap()).unwrap();
        client.ask(format!("GET /r HTTP/1.1\r\nHost: {HOST}\r\nX-Caller: {key}\r\n\r\n")).unwrap().status
    };
    assert_eq!((ask("wrong"), ask(KEY)), (401, 200));
    let sent = upstream.requests();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("x-caller"), None, "it does not go on");
    let entry =
        gate.entries_of("GET /r ").into_iter().find(|entry| entry.intent.verdict == Verdict::Allow).unwrap();
    let user = entry.intent.user.as_ref().unwrap();
    assert_eq!((user.provider.as_str(), user.subject.as_str()), ("key", digest.to_string().as_str()));
    for entry in gate.entries_of("GET /r ") {
        let text = format!("{entry:?}");
        assert!(!text.contains(KEY) && !text.contains("wrong"), "{text}");
    }
    assert!(!gate.log().contains(KEY));
}
