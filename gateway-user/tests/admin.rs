//! The admin socket with real callers: each person is a child process under its own uid, voting with the real command.
//! Needs root, to become other people.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::admin::view::{DemandView, Reload, Status};
use tidegate::admin::{Admin, Socket, serve_metrics};
use tidegate::approval::{
    Change, DemandDraft, Desk, Durable, Electorate, Ledger, LedgerError, Outcome, Parts, Place, Said, Shown,
    ShownBody, Spool,
};
use tidegate::limits::ADMIN_CONNECTIONS_PER_USER_MAX;
use tidegate::notify::{Channel, Channels, Post};
use tidegate::operation::{EntryId, SessionId, Sha256, Subject, User};
use tidegate::policy::nouns::{Approval, Person};
use tidegate::policy::{Set, Shelf};
use tidegate::record::entry::{Event, Voted};
use tidegate::record::{self, RecordError, Recorder, StateOp};
use tidegate::store::keyfile;
use tidegate::store::keyring::Keyring;
use tidegate::telemetry::Metrics;

const ANN: u32 = 61001;
const BOB: u32 = 61002;
const CAT: u32 = 61003;
const STRANGER: u32 = 61009;
const GROUP: u32 = 61000;

const POLICY: &str = r#"
[[target]]
name = "react"
direction = "inbound"
ports = [8080]
require = "user"

[[operation]]
name = "change"
target = "react"
methods = ["PUT"]
paths = ["/v1/**"]

[[identity_provider]]
name = "corp"
issuer = "https://id.example"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "/nonexistent/jwks.json"

[[role]]
name = "dev"
groups = ["dev"]

[[role]]
name = "lead"

[[person]]
name = "ann"
subject = "corp/ann"
uid = 61001
roles = ["lead"]

[[person]]
name = "bob"
subject = "corp/bob"
uid = 61002
roles = ["lead"]

[[person]]
name = "cat"
subject = "corp/cat"
uid = 61003
roles = ["lead"]

[[approval]]
name = "leads"
approvers = ["lead"]
needed = 2
timeout = "10m"
"#;

const RULES: &str = r#"
@id("devs")
permit (principal in Role::"dev", action == Action::"change", resource == Target::"react");

@id("change")
@approval("leads")
forbid (principal, action == Action::"change", resource == Target::"react");
"#;

struct People(Arc<Set>);

impl Electorate for People {
    fn digest(&self) -> Sha256 {
        self.0.digest()
    }
    fn persons(&self) -> &[Person] {
        self.0.persons()
    }
    fn approval(&self, name: &str) -> Option<&Approval> {
        self.0.approval(name)
    }
    fn rule(&self, id: &str) -> Option<Sha256> {
        self.0.rule_digest(id)
    }
}

struct Store(Recorder);

/// The policy above names none.
struct NoChannels;

impl Channels for NoChannels {
    fn of_approval(&self, _approval: &str) -> Vec<String> {
        Vec::new()
    }
    fn channel(&self, _name: &str) -> Option<Box<dyn Channel>> {
        None
    }
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn kept(written: Result<record::Durable, RecordError>) -> Durable {
    Box::pin(async move {
        let durable = written.map_err(|error| LedgerError(error.to_string()))?;
        durable.await.map_err(|error| LedgerError(error.to_string()))
    })
}

impl Ledger for Store {
    fn write(&self, change: Change) -> Durable {
        let put = change.put.into_iter().map(|(key, bytes)| StateOp::Put(key.into(), bytes));
        let removed = change.remove.into_iter().map(|key| StateOp::Remove(key.into()));
        let said = change.said.map(event).into_iter().collect();
        kept(self.0.append_with(put.chain(removed).collect(), said))
    }
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let rows = self.0.scan(prefix.as_bytes()).map_err(|error| LedgerError(error.to_string()))?;
        Ok(rows.into_iter().map(|(key, value)| (String::from_utf8(key).unwrap(), value)).collect())
    }
}

fn event(said: Said) -> Event {
    match said {
        Said::Voted(vote) => Event::Voted(Voted {
            demand: vote.demand,
            entry: vote.entry,
            at: vote.at.as_microsecond(),
            person: vote.person,
            approve: vote.approve,
            comment: vote.comment,
        }),
        Said::CalledOff(off) => Event::CalledOff(record::entry::CalledOff {
            demand: off.demand,
            entry: off.entry,
            at: off.at.as_microsecond(),
            by: off.by,
            revoked: off.revoked,
        }),
    }
}

/// A gate's admin side on real policy files, a real record and a real socket.
struct Gate {
    dir: tempfile::TempDir,
    admin: Arc<Admin>,
    serving: tokio::task::JoinHandle<()>,
}

impl Gate {
    fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test becomes other people and needs root");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in
            [("policies", ""), ("run", ""), ("policies/a.toml", POLICY), ("policies/a.cedar", RULES)]
        {
            match name.contains('.') {
                true => std::fs::write(path.join(name), text).unwrap(),
                false => std::fs::create_dir(path.join(name)).unwrap(),
            }
        }
        chown(path.join("run"), None, Some(GROUP)).unwrap();
        std::fs::set_permissions(path.join("run"), std::fs::Permissions::from_mode(0o750)).unwrap();
        let admin = open(path);
        admin.register();
        let socket = Socket::bind(&path.join("run/admin.sock")).unwrap();
        let serving = tokio::spawn(socket.serve(Arc::clone(&admin)));
        Self { dir, admin, serving }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/admin.sock")
    }

    /// Another start on the same state, as after a kill.
    async fn restart(self) -> Self {
        self.serving.abort();
        let _ = self.serving.await;
        self.admin.recorder.close();
        drop(self.admin);
        let admin = open(self.dir.path());
        let socket = Socket::bind(&self.dir.path().join("run/admin.sock")).unwrap();
        let serving = tokio::spawn(socket.serve(Arc::clone(&admin)));
        Self { dir: self.dir, admin, serving }
    }

    async fn tidegate(&self, uid: u32, args: &[&str]) -> Output {
        command(uid, env!("CARGO_BIN_EXE_tidegate"))
            .arg("--admin-socket")
            .arg(self.socket())
            .args(args)
            .output()
            .await
            .unwrap()
    }

    async fn says(&self, uid: u32, args: &[&str]) -> (i32, String) {
        let output = self.tidegate(uid, args).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    async fn curl(&self, uid: u32, args: &[&str]) -> (String, String) {
        let output = command(uid, "curl")
            .args(["-s", "-w", "\n%{http_code} %{content_type}", "--unix-socket"])
            .arg(self.socket())
            .args(args)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    async fn hold(&self, name: &str) -> tidegate::approval::Waiting {
        let user = User {
            provider: "corp".into(),
            subject: name.into(),
            groups: Vec::new(),
            expires: 0,
            proof: tidegate::operation::Proof::default(),
        };
        let subject = Subject { user: Some(user), workload: None, peer: "192.0.2.1:1".parse().unwrap() };
        let body = ShownBody::of(9, "{\"a\":\u{1b}1}".into());
        let draft = DemandDraft {
            entry: EntryId::now(),
            session: SessionId::now(),
            subject: &subject,
            guard: None,
            reason: None,
            operations: vec!["change".into()],
            target: "react".into(),
            digest: Sha256::of(name.as_bytes()),
            rules: vec!["a.cedar#change".into()],
            message: None,
            approvals: vec!["leads".into()],
            shown: Shown {
                method: "PUT".into(),
                host: "react".into(),
                path: "/v1/x".into(),
                body: Some(body),
                ..Shown::default()
            },
        };
        match self.admin.desk.hold(draft, (self.admin.electorate)()).await.unwrap() {
            Place::Wait(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }
}

fn open(path: &Path) -> Arc<Admin> {
    let recorder = Recorder::open(&path.join("state")).unwrap();
    let shelf = Shelf::open(&path.join("policies"), &path.join("last-good")).unwrap();
    let keys = Keyring::open_or_make(&keyfile::Place::below(&path.join("state"))).unwrap();
    let store: Arc<dyn tidegate::approval::Ledger> = Arc::new(Store(recorder.clone()));
    let post = Post::open(store.clone(), Arc::new(jiff::Timestamp::now), Box::new(NoChannels)).unwrap();
    let desk = Desk::open(Parts {
        ledger: store,
        clock: Arc::new(jiff::Timestamp::now),
        spool: Spool::open(&path.join("state"), keys).unwrap(),
        listener: Arc::new(()),
    })
    .unwrap();
    let current = shelf.clone();
    Arc::new(Admin {
        weighed: Arc::default(),
        blocks: tidegate::block::Blocks::open(recorder.clone()).unwrap(),
        desk,
        post,
        shelf,
        electorate: Box::new(move || Arc::new(People(current.current()))),
        recorder,
        metrics: Metrics::new(),
        state: path.join("state"),
        kernel: Arc::new(|| vec![("redirected", 3)]),
        spaces: Arc::new(|| (2, 1)),
        coverage: Box::new(|| Err(std::io::Error::other("no kernel here"))),
        tally: tidegate::tally::Tally::default(),
        scrub: |text| text.replace("4111111111111111", "********").into(),
        signals: tidegate::signals::Signals::new(0).0,
        started: Instant::now(),
    })
}

fn command(uid: u32, program: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.uid(uid).gid(if uid == 0 { 0 } else { GROUP }).current_dir("/").stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn people_vote_as_whom_the_kernel_says_and_nobody_else_does() {
    let gate = Gate::start();
    let waiting = gate.hold("ann").await;
    let id = waiting.demand().to_string();
    let approve = ["approvals", "approve", &id];

    let (code, listed) = gate.says(BOB, &["approvals", "list"]).await;
    assert!(code == 0 && listed.contains(&id) && listed.contains("PUT /v1/x"), "{listed}");
    let (code, shown) = gate.says(BOB, &["approvals", "show", &id]).await;
    assert!(code == 0 && shown.contains("\\u{1b}1") && !shown.contains('\u{1b}'), "{shown}");

    let (code, said) = gate.says(STRANGER, &approve).await;
    assert!(code == 1 && said.contains("uid 61009"), "{said}");
    let (code, said) = gate.says(ANN, &approve).await;
    assert!(code == 1 && said.contains("ann is behind this request"), "{said}");
    let (code, said) = gate.says(0, &approve).await;
    assert!(code == 1 && said.contains("root is a shared account"), "{said}");

    let comment = ["--comment", "card 4111111111111111 is fine"];
    let (code, said) = gate.says(BOB, &[&approve[..], &comment[..]].concat()).await;
    assert!(code == 0 && said.contains("leads 1/2"), "{said}");
    let (code, said) = gate.says(BOB, &approve).await;
    assert!(code == 1 && said.contains("counts once"), "{said}");
    let (code, said) = gate.says(CAT, &approve).await;
    assert!(code == 0 && said.contains("approved"), "{said}");

    let Outcome::Approved(approved) = waiting.outcome().await else { panic!() };
    assert_eq!(approved.by(), ["bob", "cat"]);
    approved.spend(&*(gate.admin.electorate)()).await.unwrap();
    let (code, said) = gate.says(CAT, &["approvals", "reject", &id]).await;
    assert!(code == 1 && said.contains("no demand"), "{said}");

    let lines = record::read::Reader::open(&gate.dir.path().join("state")).unwrap().last(100).unwrap();
    let votes: Vec<_> = lines
        .into_iter()
        .filter_map(|line| match line.frame {
            record::frame::Frame::Event(Event::Voted(vote)) => Some((vote.person, vote.comment)),
            _ => None,
        })
        .collect();
    let comment = Some("card ******** is fine".to_owned());
    assert_eq!(votes, [("bob".to_owned(), comment), ("cat".to_owned(), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn demands_votes_and_grants_live_on_in_the_real_store() {
    let gate = Gate::start();
    let id = gate.hold("ann").await.demand().to_string();
    assert_eq!(gate.says(BOB, &["approvals", "approve", &id]).await.0, 0);
    let gate = gate.restart().await;
    let (code, said) = gate.says(BOB, &["approvals", "approve", &id]).await;
    assert!(code == 1 && said.contains("counts once"), "{said}");
    assert_eq!(gate.says(CAT, &["approvals", "approve", &id]).await.0, 0);
    let gate = gate.restart().await;
    let waiting = gate.hold("ann").await;
    assert_eq!(waiting.demand().to_string(), id);
    let Outcome::Approved(approved) = waiting.outcome().await else { panic!() };
    approved.spend(&*(gate.admin.electorate)()).await.unwrap();
    let gate = gate.restart().await;
    assert_ne!(gate.hold("ann").await.demand().to_string(), id, "a used grant came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_by_one_ends_it() {
    let gate = Gate::start();
    let waiting = gate.hold("ann").await;
    let id = waiting.demand().to_string();
    let (code, said) = gate.says(CAT, &["approvals", "reject", &id, "-m", "no"]).await;
    assert!(code == 0 && said.contains("rejected by cat"), "{said}");
    assert!(matches!(waiting.outcome().await, Outcome::Rejected { by, .. } if by == "cat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_read_nothing_and_only_operators_reload() {
    let gate = Gate::start();
    for path in ["/v1/status", "/v1/approvals", "/metrics"] {
        let url = format!("http://gate{path}");
        let (status, body) = gate.curl(STRANGER, &[&url]).await;
        assert_eq!(status, "403 application/problem+json", "{path}");
        assert!(!body.contains("redirected"), "{body}");
        assert!(gate.curl(BOB, &[&url]).await.0.starts_with("200"), "{path}");
    }
    let reload = ["-X", "POST", "http://gate/v1/policy/reload"];
    assert!(gate.curl(BOB, &reload).await.0.starts_with("403"));
    let read = |body: &str| serde_json::from_str::<Reload>(body).unwrap();
    let (_, same) = gate.curl(0, &reload).await;
    assert_eq!(read(&same).result, "same");
    std::fs::write(gate.dir.path().join("policies/b.toml"), "[[nonsense]]\n").unwrap();
    let (status, refused) = gate.curl(0, &reload).await;
    let refused = read(&refused);
    assert!(status.starts_with("200") && refused.result == "refused", "{refused:?}");
    assert!(refused.problems.unwrap().contains("b.toml"));
    let (_, status) = gate.curl(0, &["http://gate/v1/status"]).await;
    let status: Status = serde_json::from_str(&status).unwrap();
    assert!(status.policy.fault.unwrap().contains("b.toml") && status.record.up);
    assert_eq!(status.kernel["redirected"], 3);
    let (_, text) = gate.curl(0, &["http://gate/metrics"]).await;
    for line in [
        "tidegate_policy_fault 1",
        "tidegate_record_up 1",
        r#"tidegate_kernel_events_total{event="redirected"} 3"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_too_much_is_a_problem_and_no_vote() {
    let gate = Gate::start();
    let id = gate.hold("ann").await.demand().to_string();
    let url = format!("http://gate/v1/approvals/{id}/approve");
    for (body, status) in [
        (&*"x".repeat(65 * 1024), "413 application/problem+json"),
        ("not json", "400 application/problem+json"),
        (r#"{"comment": "a", "person": "cat"}"#, "400 application/problem+json"),
    ] {
        assert_eq!(gate.curl(BOB, &["-d", body, &url]).await.0, status);
    }
    assert!(gate.curl(BOB, &["http://gate/v1/approvals/nonsense"]).await.0.starts_with("404"));
    assert!(gate.curl(BOB, &[&url]).await.0.starts_with("405 application/problem+json"));
    let (_, body) = gate.curl(BOB, &["http://gate/v1/approvals"]).await;
    let listed: Vec<DemandView> = serde_json::from_str(&body).unwrap();
    assert!(listed.len() == 1 && listed[0].votes.is_empty() && listed[0].operation.body.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_not_there_is_exit_code_three() {
    let gate = Gate::start();
    gate.serving.abort();
    while gate.socket().exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (code, said) = gate.says(BOB, &["approvals", "list"]).await;
    assert!(code == 3 && said.contains("no enforcer runs there"), "{said}");
    let outsider = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["approvals", "show", "not-an-id"])
        .output()
        .await
        .unwrap();
    assert_eq!(outsider.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_callers_within_the_bound_keep_nobody_out() {
    let gate = Gate::start();
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(tokio::net::UnixStream::connect(gate.socket()).await.unwrap());
    }
    let (code, said) = gate.says(BOB, &["approvals", "list"]).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_cannot_keep_the_others_out_by_holding_connections() {
    use tokio::io::AsyncReadExt;

    let gate = Gate::start();
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(tokio::net::UnixStream::connect(gate.socket()).await.unwrap());
    }
    // One more than a user may have, and all after it, are let go; those before it stay.
    for refused in &mut held[ADMIN_CONNECTIONS_PER_USER_MAX..] {
        let read = tokio::time::timeout(Duration::from_secs(10), refused.read(&mut [0; 64])).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
    for kept in &held[..ADMIN_CONNECTIONS_PER_USER_MAX] {
        assert!(
            kept.try_read(&mut [0; 64]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        );
    }
    let (status, _) = gate.curl(0, &["http://gate/v1/status"]).await;
    assert_eq!(status, "429 application/problem+json");
    let (code, said) = gate.says(0, &["approvals", "list"]).await;
    assert!(code != 0 && said.contains("uid 0 has 16 connections here already"), "{said}");
    let (code, said) = gate.says(BOB, &["approvals", "list"]).await;
    assert_eq!(code, 0, "others come in: {said}");
    drop(held);
    while gate.says(0, &["approvals", "list"]).await.0 != 0 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_port_serves_metrics_and_nothing_else() {
    let gate = Gate::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    tokio::spawn(serve_metrics(port, gate.admin.metrics.clone()).await.unwrap());
    assert!(serve_metrics(port, gate.admin.metrics.clone()).await.is_err(), "the port is taken");
    for (path, status) in [("/metrics", "200"), ("/v1/status", "404"), ("/v1/approvals", "404")] {
        let url = format!("http://127.0.0.1:{port}{path}");
        let output =
            command(STRANGER, "curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output();
        assert_eq!(String::from_utf8(output.await.unwrap().stdout).unwrap(), status, "{path}");
    }
}

/// The readings that the record knows of, in order.
fn readings(gate: &Gate) -> Vec<record::entry::RecordRead> {
    let lines = record::read::Reader::open(&gate.dir.path().join("state")).unwrap().last(100).unwrap();
    let events = lines.into_iter().filter_map(|line| match line.frame {
        record::frame::Frame::Event(Event::RecordRead(reading)) => Some(reading),
        _ => None,
    });
    events.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_of_the_record_is_on_record_before_the_first_byte_is_shown() {
    let gate = Gate::start();
    let state = gate.dir.path().join("state").display().to_string();
    let search = ["--state", &state, "sessions", "search", "4111111111111111", "--user", "ann"];
    let (code, said) = gate.says(0, &search).await;
    assert!(code == 1 && said.contains("looked at 0 operations"), "{said}");
    assert_eq!(gate.says(0, &["--state", &state, "sessions", "list"]).await.0, 0);
    let (code, said) = gate.says(0, &["--state", &state, "sessions", "tail"]).await;
    assert!(code == 0 && said.contains("sessions search") && said.contains("--user ann"), "{said}");
    let found = readings(&gate);
    let commands: Vec<&str> = found.iter().map(|reading| reading.command.as_str()).collect();
    assert_eq!(commands, ["sessions search", "sessions list", "sessions tail"]);
    assert_eq!((found[0].uid, found[0].about.as_str()), (0, "\"********\" --user ann"), "no card gets in");
    assert_eq!(gate.says(0, &["--state", &state, "record", "verify"]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_operator_announces_a_reading_and_none_without_bound() {
    let gate = Gate::start();
    let url = "http://gate/v1/record/readings";
    let body = "{\"command\": \"sessions show\", \"about\": \"x\"}";
    assert!(gate.curl(BOB, &["-d", body, url]).await.0.starts_with("403 "));
    assert!(gate.curl(STRANGER, &["-d", body, url]).await.0.starts_with("403 "));
    assert!(gate.curl(0, &["-d", "no json", url]).await.0.starts_with("400 "));
    let long = format!("{{\"command\": \"x\", \"about\": \"{}\"}}", "a".repeat(4096));
    assert!(gate.curl(0, &["-d", &long, url]).await.0.starts_with("413 "));
    assert_eq!(readings(&gate), []);
    assert!(gate.curl(0, &["-d", body, url]).await.0.starts_with("200 "));
    assert_eq!(readings(&gate).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_announced_to_a_running_enforcer_is_not_read() {
    let gate = Gate::start();
    let state = gate.dir.path().join("state").display().to_string();
    let elsewhere = ["--admin-socket", "/nonexistent", "--state", &state, "sessions", "list"];
    let read = || command(0, env!("CARGO_BIN_EXE_tidegate")).args(elsewhere).output();
    let refused = read().await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(3), &b""[..]), "{said}");
    assert!(said.contains("nothing was read: an enforcer writes this record"), "{said}");
    gate.admin.recorder.close();
    let allowed = read().await.unwrap();
    let said = String::from_utf8(allowed.stderr).unwrap();
    assert!(allowed.status.code() == Some(0) && said.contains("not on record"), "{said}");
    let (code, said) = gate.says(0, &["--state", &state, "sessions", "list"]).await;
    assert!(code == 3 && said.contains("nothing was read"), "a gate that cannot write it down: {said}");
}
