//! Rules that depend on what a request carries, and messages that are changed on their way: what is judged, approved and
//! recorded is what is sent, byte for byte, and what cannot be read once is not sent at all.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate::record::entry::{Side, Verdict};
use tidegate::record::read::EntryView;
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Answer, Client, Gate, Host, Response, Seat, Upstream, eventually};

const REQUESTER: u32 = 1001;
const LEAD: u32 = 1002;
const HELD_BODY_BYTES_MAX: usize = 1024 * 1024;

const NOUNS: &str = r#"
[[target]]
name = "llm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7101]

[[operation]]
name = "chat"
target = "llm"
methods = ["POST"]
paths = ["/chat/**"]

[[operation]]
name = "upload"
target = "llm"
methods = ["PUT"]
paths = ["/files/**"]

[[operation]]
name = "look"
target = "llm"
paths = ["/rpc/**"]
calls = ["balance", "list.*"]

[[operation]]
name = "pay"
target = "llm"
paths = ["/rpc/**"]
calls = ["transfer"]

[[extract]]
target = "llm"
operations = ["chat"]
from = "$.model"
as = "model"

[[extract]]
target = "llm"
operations = ["chat"]
from = "$.max_tokens"
as = "tokens"
type = "long"

[[extract]]
target = "llm"
operations = ["upload"]
from = "header.x-tenant"
as = "tenant"

[[extract]]
target = "llm"
from = ["$.method", "$[*].method"]
as = "operation"

[[target]]
name = "changed"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7102]

[[operation]]
name = "send"
target = "changed"
methods = ["POST", "PUT"]
paths = ["/send/**"]

[[operation]]
name = "bulk"
target = "changed"
methods = ["POST"]
paths = ["/bulk/**"]

[[operation]]
name = "ask"
target = "changed"
methods = ["GET"]
paths = ["/ask/**"]

[[rewrite]]
name = "tenant"
targets = ["changed"]
on = "request"
header = "x-tenant"
set = "acme"

[[rewrite]]
name = "no-debug"
targets = ["changed"]
on = "request"
header = "x-debug"
remove = true

[[rewrite]]
name = "no-stream"
targets = ["changed"]
on = "request"
field = "stream"
set = false

[[rewrite]]
name = "no-admin"
targets = ["changed"]
on = "request"
field = "admin"
remove = true

[[rewrite]]
name = "no-server"
targets = ["changed"]
on = "response"
header = "server"
remove = true

[[rewrite]]
name = "no-internals"
targets = ["changed"]
operations = ["ask"]
on = "response"
field = "internals"
remove = true

[[rewrite]]
name = "notice"
targets = ["changed"]
operations = ["ask"]
on = "response"
field = "notice"
set = "through the gate"

[[extract]]
target = "changed"
operations = ["send"]
from = "$.plan"
as = "plan"

[[role]]
name = "lead"

[[person]]
name = "rita"
uid = 1001

[[person]]
name = "lea"
uid = 1002
roles = ["lead"]

[[approval]]
name = "one-lead"
approvers = ["lead"]
"#;

/// A target that is only observed.
fn watched() -> String {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    format!(
        r#"
[[target]]
name = "watched"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7103]
mode = "observe"
until = "{until}"

[[extract]]
target = "watched"
from = "$.size"
as = "size"

[[rewrite]]
name = "watched-debug"
targets = ["watched"]
on = "request"
header = "x-debug"
remove = true
"#
    )
}

const RULES: &str = r#"
permit (principal, action in [Action::"look", Action::"upload"], resource == Target::"llm");
@id("small") permit (principal, action == Action::"chat", resource == Target::"llm")
when { context has model && context.model like "small*" && (if context has tokens then context.tokens <= 1000 else true) };
@id("large") @approval("one-lead") forbid (principal, action == Action::"chat", resource == Target::"llm")
when { context has model && context.model == "small-but-dear" };
@id("others") @message("your tenant is acme") forbid (principal, action == Action::"upload", resource == Target::"llm")
unless { context has tenant && context.tenant == "acme" };
permit (principal, action == Action::"http", resource == Target::"watched") when { context has size && context.size == "s" };
permit (principal, action in [Action::"send", Action::"bulk", Action::"ask"], resource == Target::"changed");
@id("risky") @approval("one-lead") forbid (principal, action == Action::"send", resource == Target::"changed")
when { context has plan && context.plan == "risky" };
"#;

struct World {
    _host: Host,
    gate: Gate,
    llm: Upstream,
    changed: Upstream,
    watched: Upstream,
    requester: Seat,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let llm = Upstream::start(&host.client(), "127.0.0.1:7101");
    let changed = Upstream::start(&host.client(), "127.0.0.1:7102");
    let watched_upstream = Upstream::start(&host.client(), "127.0.0.1:7103");
    let gate =
        Gate::on(&host).policy("a.toml", NOUNS).policy("b.toml", &watched()).policy("a.cedar", RULES).start();
    let requester = host.client().login(REQUESTER);
    World { _host: host, gate, llm, changed, watched: watched_upstream, requester }
});

/// One test at a time: an answer that one has waiting at an upstream is for its own request.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unique(kind: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{kind}/n{}x", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn client(upstream: &Upstream) -> Client {
    WORLD.requester.connect(upstream.address()).unwrap()
}

/// The host of the target that this path is for.
fn host(path: &str) -> &'static str {
    if path.starts_with("/watched/") {
        return "127.0.0.1:7103";
    }
    let changed = ["/send/", "/bulk/", "/ask/"].iter().any(|kind| path.starts_with(kind));
    if changed { "127.0.0.1:7102" } else { "127.0.0.1:7101" }
}

const JSON: &str = "Content-Type: application/json\r\n";

fn post(path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\n{fields}Content-Length: {}\r\n\r\n",
        host(path),
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn ask(upstream: &Upstream, request: impl AsRef<[u8]>) -> Response {
    let mut client = client(upstream);
    client.send(request).unwrap();
    client.response("POST").unwrap()
}

fn reached(upstream: &Upstream, path: &str) -> usize {
    upstream.requests().iter().filter(|request| request.target.contains(path)).count()
}

fn one_entry(path: &str) -> EntryView {
    WORLD.gate.entry_of(path)
}

fn rewrites(entry: &EntryView) -> Vec<String> {
    entry.closed.as_ref().map(|closed| closed.rewrites.clone()).unwrap_or_default()
}

/// Refused with this status, nothing sent, and one entry of it.
fn refused(upstream: &Upstream, path: &str, request: impl AsRef<[u8]>, status_wanted: u16) -> EntryView {
    let response = ask(upstream, request);
    assert_eq!(response.status, status_wanted, "{path}: {}", response.text());
    assert_eq!(reached(upstream, path), 0, "{path}");
    let entry = one_entry(path);
    assert_eq!((status(&entry), fault(&entry)), (Some(status_wanted), "refused"), "{path}");
    entry
}

#[test]
fn a_request_is_allowed_or_denied_by_what_its_body_says() {
    let _turn = turn();
    let path = unique("chat");
    let body = "{ \"max_tokens\" : 1e3,\n\t\"model\": \"small-1\", \"text\": \"\\u00e9\" }\n";
    let response = ask(&WORLD.llm, post(&path, JSON, body));
    assert_eq!(response.status, 200, "{}", response.text());
    let got = WORLD.llm.requests().into_iter().find(|request| request.target == path).unwrap();
    assert_eq!(got.body, body.as_bytes(), "it is forwarded byte for byte");
    let entry = one_entry(&path);
    assert_eq!(
        (entry.intent.verdict, WORLD.gate.recorded_body(&entry, Side::Request)),
        (Verdict::Allow, body.into())
    );
    for denied in [
        r#"{"model":"large"}"#,
        r#"{"model":["small-1"]}"#,
        r#"{"x":{"model":"small-1"}}"#,
        r#"{"model":"small-1","max_tokens":1001}"#,
        "{}",
        "",
    ] {
        let path = unique("chat");
        let entry = refused(&WORLD.llm, &path, post(&path, JSON, denied), 403);
        assert_eq!(entry.intent.verdict, Verdict::Deny);
        assert_eq!(
            WORLD.gate.recorded_body(&entry, Side::Request),
            denied,
            "the record shows what was denied"
        );
    }
}

#[test]
fn curl_is_allowed_and_denied_by_its_body_in_chunks_and_with_expect_too() {
    let _turn = turn();
    let run = |body: &str, more: &[&str]| {
        let path = unique("chat");
        let url = format!("http://127.0.0.1:7101{path}");
        let mut words =
            vec!["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: application/json"];
        words.extend(more);
        words.extend(["--data-binary", body, &url]);
        WORLD.requester.run("curl", &words).text()
    };
    let expect = ["-H", "Expect: 100-continue"];
    for more in [&[][..], &expect, &["-H", "Transfer-Encoding: chunked"]] {
        assert_eq!(run(r#"{"model":"small-2"}"#, more), "200", "{more:?}");
        assert_eq!(run(r#"{"model":"huge"}"#, more), "403", "{more:?}");
    }
}

#[test]
fn a_body_with_two_readings_is_refused_and_recorded() {
    let _turn = turn();
    for body in [
        &br#"{"model":"small","model":"large"}"#[..],
        br#"{"model":"small","mod\u0065l":"large"}"#,
        br#"{"model":"small","Model":"large"}"#,
        br#"{"model":"small"}{"model":"large"}"#,
        br#"{"model":"small"} x"#,
        br#"{"model":"small\ud800"}"#,
        b"{\"model\":\"small\xff\"}",
        b"model=small",
        &b"[".repeat(10_000),
    ] {
        let path = unique("chat");
        let entry = refused(&WORLD.llm, &path, post(&path, JSON, body), 400);
        assert_eq!(entry.intent.verdict, Verdict::Refuse);
        assert_eq!(entry.intent.target.as_deref(), Some("llm"));
    }
}

#[test]
fn a_body_that_is_called_something_else_is_refused_before_a_byte_of_it_is_asked_for() {
    let _turn = turn();
    let body = r#"{"model":"small","x":"&model=large"}"#;
    for fields in [
        "",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json; charset=utf-16\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        let path = unique("chat");
        drop(refused(&WORLD.llm, &path, post(&path, fields, body), 415));
        let path = unique("chat");
        let request = post(&path, &format!("{fields}Expect: 100-continue\r\n"), body);
        let mut client = client(&WORLD.llm);
        client.send(&request[..request.len() - body.len()]).unwrap();
        assert_eq!(client.exactly(12).unwrap(), b"HTTP/1.1 415", "no 100 came first");
    }
}

#[test]
fn a_body_at_the_bound_is_judged_and_one_byte_more_is_refused() {
    let _turn = turn();
    let body = |bytes: usize| {
        let frame = r#"{"model":"small","pad":""}"#;
        format!(r#"{{"model":"small","pad":"{}"}}"#, "p".repeat(bytes - frame.len()))
    };
    let path = unique("chat");
    assert_eq!(ask(&WORLD.llm, post(&path, JSON, body(HELD_BODY_BYTES_MAX))).status, 200);
    let path = unique("chat");
    let large = post(&path, JSON, body(HELD_BODY_BYTES_MAX + 1));
    let mut client = client(&WORLD.llm);
    client.send(&large[..400]).unwrap();
    assert_eq!(client.response("POST").unwrap().status, 413);
    assert_eq!((reached(&WORLD.llm, &path), status(&one_entry(&path))), (0, Some(413)));
}

#[test]
fn a_client_that_leaves_while_it_sends_leaves_one_entry_and_nothing_is_sent() {
    let _turn = turn();
    let path = unique("chat");
    let request = post(&path, JSON, r#"{"model":"small-1"}"#);
    let mut client = client(&WORLD.llm);
    client.send(&request[..request.len() - 1]).unwrap();
    drop(client);
    let entry = one_entry(&path);
    assert_eq!((entry.intent.verdict, reached(&WORLD.llm, &path)), (Verdict::Refuse, 0));
    assert!(matches!(fault(&entry), "client" | "refused"), "{entry:?}");
}

#[test]
fn every_call_of_a_batch_is_judged_and_one_denied_call_denies_it() {
    let _turn = turn();
    for (body, wanted) in [
        (r#"{"method":"balance"}"#, 200),
        (r#"[{"method":"balance"},{"method":"list.all"}]"#, 200),
        (r#"{"method":"balance","params":{"method":"transfer"}}"#, 200),
        (r#"{"method":"transfer"}"#, 403),
        (r#"[{"method":"balance"},{"method":"transfer"}]"#, 403),
        (r#"[{"method":"balance"},{"method":"unknown"}]"#, 403),
        (r#"[{"method":"balance"},{"id":1}]"#, 403),
        (r#"[]"#, 403),
        (r#"{"method":"balance","method":"transfer"}"#, 400),
        (r#"{"method":"balance","METHOD":"transfer"}"#, 400),
    ] {
        let path = unique("rpc");
        let response = ask(&WORLD.llm, post(&path, JSON, body));
        assert_eq!(response.status, wanted, "{body}: {}", response.text());
        assert_eq!(reached(&WORLD.llm, &path), usize::from(wanted == 200), "{body}");
    }
}

#[test]
fn an_extracted_header_decides_and_the_body_streams_on() {
    let _turn = turn();
    let put = |tenant: &str| {
        let path = unique("files");
        let head = format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:7101\r\n{tenant}");
        let body = "x".repeat(HELD_BODY_BYTES_MAX + 10);
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut client = client(&WORLD.llm);
        // What is denied is answered while it is still being sent.
        let _ = client.send(request);
        client.response("PUT").unwrap().status
    };
    assert_eq!(put("X-Tenant: acme\r\n"), 200, "larger than what rules may look into, which they do not");
    assert_eq!(put("X-Tenant: other\r\n"), 403);
    assert_eq!(put("X-Tenant: acme\r\nX-Tenant: other\r\n"), 400);
    assert_eq!(put(""), 403);
}

#[test]
fn a_body_that_takes_its_time_is_judged_by_the_policy_of_its_end() {
    let _turn = turn();
    let path = unique("chat");
    let request = post(&path, JSON, r#"{"model":"small-1","text":"slow"}"#);
    let (first, rest) = request.split_at(request.len() - 10);
    let mut client = client(&WORLD.llm);
    client.send(first).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let before = WORLD.gate.status()["policy"]["digest"].clone();
    let segment = path.rsplit('/').next().unwrap();
    let forbid = format!(
        "@id(\"closed\") forbid (principal, action == Action::\"chat\", resource == Target::\"llm\")\n\
         when {{ context.segments.contains(\"{segment}\") }};\n"
    );
    WORLD.gate.write_policy("closed.cedar", &forbid);
    let _ = WORLD.gate.await_status("the new rule", |status| status["policy"]["digest"] != before);
    client.send(rest).unwrap();
    assert_eq!(client.response("POST").unwrap().status, 403);
    assert_eq!(reached(&WORLD.llm, &path), 0, "nothing of it was sent");
    let entry = one_entry(&path);
    assert_eq!(
        (entry.intent.verdict, entry.intent.rules.as_slice()),
        (Verdict::Deny, &["closed.cedar#closed".to_owned()][..])
    );
}

#[test]
fn what_a_rewrite_sets_is_not_taken_away_by_connection_nor_by_a_trailer() {
    let _turn = turn();
    let path = unique("send");
    let fields = format!("{JSON}Connection: x-tenant\r\nX-Tenant: other\r\n");
    let response = ask(&WORLD.changed, post(&path, &fields, r#"{"a":1}"#));
    assert_eq!(response.status, 200, "{}", response.text());
    let sent = |path: &str| WORLD.changed.requests().into_iter().find(|request| request.target == path);
    assert_eq!(sent(&path).unwrap().header("x-tenant"), Some("acme"));

    let path = unique("bulk");
    let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{JSON}", host(&path));
    let chunked = "Trailer: X-Tenant, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\
                   X-Tenant: other\r\nX-Sum: 9\r\n\r\n";
    assert_eq!(ask(&WORLD.changed, format!("{head}{chunked}")).status, 200);
    let got = eventually("the whole request", || sent(&path).filter(|got| !got.trailers.is_empty()));
    let names: Vec<String> = got.trailers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert_eq!(names, ["x-sum"], "what nobody judged passes, what was set does not come again");
}

#[test]
fn a_path_that_is_no_operation_is_recorded_without_what_detectors_find_in_it() {
    let _turn = turn();
    let path = format!("{}/ann@example.com", unique("nowhere"));
    let first = path.trim_end_matches("ann@example.com").to_owned();
    assert_eq!(ask(&WORLD.llm, post(&path, "", "")).status, 403);
    let entry = one_entry(&first);
    assert!(entry.intent.reason.contains("is none of the operations"), "{}", entry.intent.reason);
    assert!(!format!("{entry:?}").contains("ann@example.com"), "{entry:?}");
}

#[test]
fn a_body_that_was_read_for_a_rule_is_what_people_approve() {
    let _turn = turn();
    let path = unique("chat");
    let body = r#"{"model":"small-but-dear","text":"once"}"#;
    let mut client = client(&WORLD.llm);
    client.send(post(&path, JSON, body)).unwrap();
    let demand = demand(&path);
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains("small-but-dear") && reached(&WORLD.llm, &path) == 0, "{shown}");
    drop(WORLD.gate.tidegate_as(LEAD, &["approvals", "approve", &demand]).success());
    assert_eq!(client.response("POST").unwrap().status, 200);
    let got = WORLD.llm.requests().into_iter().find(|request| request.target == path).unwrap();
    assert_eq!(got.body, body.as_bytes());
    assert_eq!(WORLD.gate.recorded_body(&one_entry(&path), Side::Request), body);
}

fn demand(path: &str) -> String {
    eventually(&format!("a demand for {path}"), || {
        let listed = WORLD.gate.tidegate(&["--json", "approvals", "list"]).success().json();
        let list = listed.as_array().or_else(|| listed["demands"].as_array()).cloned().unwrap_or_default();
        let found = list.into_iter().find(|demand| demand.to_string().contains(path))?;
        found["id"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_request_is_rewritten_before_it_is_judged_sent_and_recorded() {
    let _turn = turn();
    let path = unique("send");
    let fields = format!("{JSON}X-Debug: 1\r\nX_Tenant: evil\r\nx-tenant: other\r\nDigest: sha-256=x\r\n");
    let body = r#"{ "admin": true, "a": 1.50, "stream" : true , "Admin": 1 }"#;
    assert_eq!(ask(&WORLD.changed, post(&path, &fields, body)).status, 200);
    let got = WORLD.changed.requests().into_iter().find(|request| request.target == path).unwrap();
    let expected = r#"{ "a": 1.50, "stream" : false }"#;
    assert_eq!(String::from_utf8_lossy(&got.body).replace("  ", " "), expected);
    let length = got.body.len().to_string();
    assert_eq!(got.header("content-length"), Some(length.as_str()));
    let tenants: Vec<_> =
        got.headers.iter().filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-tenant").collect();
    assert_eq!(tenants.len(), 1, "{tenants:?}");
    assert_eq!(got.header("x-tenant"), Some("acme"));
    assert_eq!((got.header("x-debug"), got.header("digest")), (None, None));
    let entry = one_entry(&path);
    let shown = format!("{:?}", entry.intent.head.fields).to_lowercase();
    assert!(shown.contains("acme") && !shown.contains("evil") && !shown.contains("x-debug"), "{shown}");
    assert!(shown.contains(&format!("\"{length}\"")), "the length that was sent: {shown}");
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Request).as_bytes(), got.body);
    let applied = rewrites(&entry);
    for name in ["no-admin", "no-debug", "no-stream", "tenant"] {
        assert!(applied.iter().any(|applied| applied == name), "{name} is not in {applied:?}");
    }
    let told = WORLD.gate.tidegate(&["sessions", "show", &entry.intent.session.to_string()]).success().text();
    assert!(told.contains("no-admin"), "a policy author sees which rewrites applied:\n{told}");
}

#[test]
fn what_people_approve_is_the_rewritten_request() {
    let _turn = turn();
    let path = unique("send");
    let body = r#"{"plan":"risky","admin":true}"#;
    let mut client = client(&WORLD.changed);
    client.send(post(&path, JSON, body)).unwrap();
    let demand = demand(&path);
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains("acme") && shown.contains("stream") && !shown.contains("admin"), "{shown}");
    drop(WORLD.gate.tidegate_as(LEAD, &["approvals", "approve", &demand]).success());
    assert_eq!(client.response("POST").unwrap().status, 200);
    let got = WORLD.changed.requests().into_iter().find(|request| request.target == path).unwrap();
    assert_eq!(got.body, br#"{"plan":"risky","stream":false}"#);
}

#[test]
fn a_request_that_cannot_be_rewritten_is_refused() {
    let _turn = turn();
    for (body, fields, wanted) in [
        ("[1]", JSON, 400),
        ("{\"a\":1", JSON, 400),
        ("<a/>", JSON, 400),
        ("{}", "Content-Type: text/plain\r\n", 415),
        ("{}", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415),
    ] {
        let path = unique("send");
        drop(refused(&WORLD.changed, &path, post(&path, fields, body), wanted));
    }
}

#[test]
fn an_answer_is_rewritten_whatever_its_chunks_and_its_lengths_are_right() {
    let _turn = turn();
    let document = r#"{"a":1, "internals":{"host":"db-7"} ,"b":[{"internals":1}]}"#;
    let expected = r#"{"a":1,"b":[{"internals":1}],"notice":"through the gate"}"#;
    let head = [("Content-Type", "application/json"), ("Server", "x/1"), ("ETag", "\"1\"")];
    let mut client = client(&WORLD.changed);
    for size in [1, 2, 5, 13, 4096] {
        let path = unique("ask");
        let chunks = document.as_bytes().chunks(size);
        WORLD.changed.next(chunks.fold(Answer::chunked(200, &head), Answer::chunk).last_chunk(&[]));
        let response = client.get(host(&path), &path).unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, expected), "chunks of {size}");
        assert_eq!((response.header("server"), response.header("etag")), (None, None));
    }
    let path = unique("ask");
    WORLD.changed.next(Answer::new(200, &head, document));
    let response = client.get(host(&path), &path).unwrap();
    assert_eq!(response.text(), expected);
    let entry = one_entry(&path);
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Response), expected);
    let applied = rewrites(&entry);
    for name in ["no-server", "no-internals", "notice"] {
        assert!(applied.iter().any(|applied| applied == name), "{name} is not in {applied:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_rewritten_is_not_passed_on() {
    let _turn = turn();
    for answer in [
        Answer::new(200, &[("Content-Type", "text/html")], "<html>db-7"),
        Answer::json("[\"db-7\"]"),
        Answer::new(200, &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")], "db-7"),
    ] {
        let path = unique("ask");
        WORLD.changed.next(answer);
        let response = client(&WORLD.changed).get(host(&path), &path).unwrap();
        assert_eq!((response.status, response.text().contains("db-7")), (502, false));
        assert_eq!(fault(&one_entry(&path)), "upstream");
    }
}

#[test]
fn an_upload_too_long_to_be_known_whole_is_rewritten_as_it_streams() {
    let _turn = turn();
    let path = unique("bulk");
    let pad = "p".repeat(HELD_BODY_BYTES_MAX);
    let request = post(&path, JSON, format!(r#"{{"admin":true,"pad":"{pad}"}}"#));
    assert_eq!(ask(&WORLD.changed, request).status, 200);
    let got = WORLD.changed.requests().into_iter().find(|request| request.target == path).unwrap();
    assert!(got.body == format!(r#"{{"pad":"{pad}","stream":false}}"#).as_bytes());
    assert_eq!((got.header("content-length"), got.header("transfer-encoding")), (None, Some("chunked")));
    let applied = rewrites(&one_entry(&path));
    assert!(applied.iter().any(|name| name == "no-admin"), "{applied:?}");
}

#[test]
fn an_upload_that_turns_out_not_to_be_json_never_ends_at_the_target() {
    let _turn = turn();
    let path = unique("bulk");
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:7102\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    let response = ask(&WORLD.changed, format!("{head}7\r\n{{\"a\":1,\r\n1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(response.status, 400, "{}", response.text());
    let whole =
        WORLD.changed.requests().into_iter().any(|request| request.target == path && request.body.len() > 6);
    assert!(!whole);
    assert_eq!(fault(&one_entry(&path)), "client");
}

#[test]
fn on_an_observed_target_nothing_is_refused_or_rewritten_for_what_a_body_says() {
    let _turn = turn();
    let chunks = |path: &str, body: &str| {
        let host = host(path);
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{JSON}X-Debug: 1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
        .into_bytes()
    };
    let whole = |path: &str, body: &str| post(path, &format!("{JSON}X-Debug: 1\r\n"), body);
    let plain = |path: &str, body: &str| post(path, "X-Debug: 1\r\n", body);
    type Form<'a> = &'a dyn Fn(&str, &str) -> Vec<u8>;
    let sent: [(Form<'_>, &str, Verdict); 5] = [
        (&whole, r#"{"size":"s"}"#, Verdict::Allow),
        (&whole, r#"{"size":"xl"}"#, Verdict::Deny),
        (&whole, r#"{"size":"s","size":"xl"}"#, Verdict::Refuse),
        (&plain, r#"{"size":"s"}"#, Verdict::Refuse),
        (&chunks, r#"{"size":"s"}"#, Verdict::Refuse),
    ];
    for (form, body, would) in sent {
        let path = unique("watched");
        assert_eq!(ask(&WORLD.watched, form(&path, body)).status, 200, "{body}");
        let got = WORLD.watched.requests().into_iter().find(|request| request.target == path).unwrap();
        assert_eq!((got.body.as_slice(), got.header("x-debug")), (body.as_bytes(), Some("1")));
        let entry = one_entry(&path);
        assert_eq!((entry.intent.verdict, entry.intent.would), (Verdict::Allow, Some(would)), "{body}");
        assert!(rewrites(&entry).is_empty());
    }
}
