//! `tidegate approvals`: shows what waits for people, in full and with nothing hidden, and votes. Whose vote it is, the
//! kernel says; this command cannot.

mod diff;
mod lines;
mod watch;

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::output::{Tone, escape, escape_line, paint, span, time};
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::view::{BallotView, DemandView, GrantView, Problem, ShareView, Voted};
use crate::approval::{Asker, Shown};
use crate::operation::DemandId;

/// List, show and decide what waits for a human.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate approvals list\n  tidegate approvals --help")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what waits, oldest first.
    #[command(
        after_help = "Examples:\n  tidegate approvals list\n  tidegate approvals list --json | jq '.[].id'"
    )]
    List,
    /// Keep the queue on a page of the terminal: what waits, each in full, how it differs from the last one approved, and
    /// the keys to decide.
    #[command(after_help = "\
The bell rings for what comes. A vote is cast with Enter, after what it is stands on the page; whose vote it is, your
login decides, as for `approve`.

Examples:
  tidegate approvals watch
  tidegate approvals watch --color never")]
    Watch,
    /// Show one demand in full: the operation, who asks, which rule, the votes, the time left.
    #[command(after_help = "Example:\n  tidegate approvals show 019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11")]
    Show {
        /// Its id, from `list`.
        id: DemandId,
    },
    /// Approve one demand, as the person you are logged in as.
    #[command(after_help = "\
Your login decides who you are: sudo and su vote as the login behind them, root cannot vote, and nobody can vote on
their own request. Exit code 1: the vote does not count, and why.

Example:
  tidegate approvals approve 019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11 --comment 'checked with the model team'")]
    Approve(Ballot),
    /// Reject one demand; one rejection ends it.
    #[command(after_help = "\
Example:
  tidegate approvals reject 019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11 --comment 'not during the freeze'")]
    Reject(Ballot),
    /// Take a demand back that is not decided yet. For its requester, root and the gate's own user.
    #[command(after_help = "\
An approver who does not want it rejects it. It is recorded who took it back.

Example:
  tidegate approvals withdraw 019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11")]
    Withdraw {
        /// Its id, from `list`.
        id: DemandId,
    },
    /// Take back what was approved: an unused grant or a window. For its approvers, its requester and operators.
    #[command(after_help = "\
What runs already goes on; the next operation is held again. It is recorded who took it back.

Example:
  tidegate approvals revoke 019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11")]
    Revoke {
        /// Its id, from `list`.
        id: DemandId,
    },
}

#[derive(Debug, clap::Args)]
struct Ballot {
    /// Its id, from `list`.
    id: DemandId,
    /// Why. Goes into the record.
    #[arg(long, short = 'm', value_name = "TEXT")]
    comment: Option<String>,
    /// For this one run only, also where approval would open a window.
    #[arg(long)]
    once: bool,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = Client::new(&context.settings.admin_socket);
    match args.command {
        Command::List => list(&client, context),
        Command::Watch => watch::run(client, context),
        Command::Show { id } => {
            let demand = client.demand(id).map_err(|error| failure(&error, context))?;
            if context.out.is_json() {
                context.out.json(&demand)
            } else {
                context.out.line(describe(&demand))
            }
        }
        Command::Approve(ballot) => vote(&client, ballot, true, context),
        Command::Reject(ballot) => vote(&client, ballot, false, context),
        Command::Withdraw { id } => call_off(&client, id, false, context),
        Command::Revoke { id } => call_off(&client, id, true, context),
    }
}

fn call_off(client: &Client, id: DemandId, revoke: bool, context: &Context) -> Result<(), Failure> {
    let ended = client.call_off(id, revoke).map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&ended);
    }
    let word = if revoke { "revoked" } else { "withdrawn" };
    context.out.line(format!("{word} by {}", escape_line(&ended.by)))
}

fn list(client: &Client, context: &Context) -> Result<(), Failure> {
    let demands = client.demands().map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&demands);
    }
    if demands.is_empty() {
        context.out.note("nothing waits for approval");
        return Ok(());
    }
    let rows = demands.iter().map(|demand| {
        vec![
            demand.id.clone(),
            demand.target.clone(),
            line(demand),
            demand.asker.key.clone(),
            needs(&demand.approvals, &demand.state),
            left(demand),
        ]
    });
    context.out.table(&["id", "target", "operation", "asked by", "needs", "left"], rows.collect())
}

fn vote(client: &Client, ballot: Ballot, approve: bool, context: &Context) -> Result<(), Failure> {
    let said = BallotView { comment: ballot.comment, once: ballot.once };
    let voted = client.vote(ballot.id, approve, &said).map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&voted);
    }
    context.out.line(outcome(&voted))
}

fn outcome(voted: &Voted) -> String {
    let person = escape_line(&voted.person);
    match voted.standing.as_str() {
        "approved" => format!("{} by {person}", paint(Tone::Good, "approved")),
        "rejected" => format!("{} by {person}", paint(Tone::Bad, "rejected")),
        _ => format!("{person} approves; still needed: {}", escape_line(&needs(&voted.approvals, "pending"))),
    }
}

/// A vote that does not count or a demand that is not there is an answer; a gate that cannot be asked is none. A gate
/// that says no because it cannot keep records is a failure too.
fn failure(error: &ClientError, context: &Context) -> Failure {
    match error {
        ClientError::Refused(problem) if problem.status < 500 => refused(problem, context),
        error => Failure::from_error(error),
    }
}

/// Says why the gate said no.
pub(super) fn refused(problem: &Problem, context: &Context) -> Failure {
    if context.out.is_json() {
        if let Err(failure) = context.out.json(problem) {
            return failure;
        }
    } else {
        context.out.note(format_args!("{} {}", paint(Tone::Bad, "refused:"), escape(&problem.detail)));
    }
    Failure::No
}

/// Method, path and query on one line.
fn line(demand: &DemandView) -> String {
    let operation = &demand.operation;
    let place = if operation.path.is_empty() { &operation.host } else { &operation.path };
    match &operation.query {
        Some(query) => format!("{} {place}?{query}", operation.method),
        None => format!("{} {place}", operation.method),
    }
}

fn needs(shares: &[ShareView], state: &str) -> String {
    match state {
        "granted" => return "nothing: approved, not used yet".into(),
        "window" => return "nothing: approved for a window".into(),
        _ => {}
    }
    let share = |share: &ShareView| match share.needed {
        Some(needed) => format!("{} {}/{needed}", share.approval, share.voters.len()),
        None => format!("{} (void: the policy changed)", share.approval),
    };
    shares.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn left(demand: &DemandView) -> String {
    span(SignedDuration::from_secs(demand.seconds_left))
}

fn moment(at: Timestamp) -> String {
    time(at.as_microsecond())
}

/// Everything an approver must see. Every part that came from outside is escaped here.
fn describe(demand: &DemandView) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{} {value}", paint(Tone::Strong, format_args!("{name:<10}")));
    };
    field("demand", &escape_line(&demand.id));
    field("state", &escape_line(&demand.state));
    field("left", &format!("{} (until {})", left(demand), moment(demand.ends)));
    field("held", &moment(demand.created));
    field("target", &escape_line(&demand.target));
    field("goes to", &escape_line(&demand.operation.to));
    field("asked by", &asker(&demand.asker));
    if demand.asker.process.is_some() {
        let owners = demand.owners.join(", ");
        field(
            "owned by",
            &escape_line(if owners.is_empty() { "nobody that the policy names" } else { &owners }),
        );
    }
    field(
        "reason",
        &demand
            .reason
            .as_deref()
            .map_or("none given".into(), |reason| format!("\"{}\"", escape_line(reason))),
    );
    field("rules", &escape_line(&demand.rules.join(", ")));
    if let Some(message) = &demand.message {
        field("message", &escape_line(message));
    }
    field("grants", &grants(&demand.grant));
    field("client", if demand.hold == "retry" { "was told to ask again" } else { "waits, or asks again" });
    field("needs", &escape_line(&needs(&demand.approvals, &demand.state)));
    for vote in &demand.votes {
        let comment = vote.comment.as_deref().map(|comment| format!(": {comment}")).unwrap_or_default();
        let said = format!("{} at {}{comment}", vote.person, moment(vote.at));
        field("approved", &escape_line(&said));
    }
    field("entry", &escape_line(&demand.entry));
    field("session", &escape_line(&demand.session));
    field("digest", &escape_line(&demand.digest));
    text.push('\n');
    text.push_str(&operation(demand));
    text
}

fn grants(grant: &GrantView) -> String {
    match grant.seconds {
        Some(seconds) => format!(
            "everything this subject asks under the same rules on this target, for {}",
            span(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
        ),
        None => "exactly this, once".into(),
    }
}

fn asker(asker: &Asker) -> String {
    let mut text = asker.key.clone();
    if let Some(process) = &asker.process {
        let _ = write!(text, ", process {} ({}) of uid {}", process.pid, process.command, process.uid);
        if let Some(login) = process.login_uid.filter(|login| *login != process.uid) {
            let _ = write!(text, ", logged in as uid {login}");
        }
        if let Some(path) = &process.executable {
            let _ = write!(text, ", running {path}");
        }
        if process.key != asker.key {
            let _ = write!(text, ", in {}", process.key);
        }
    }
    let _ = write!(text, ", from {}", asker.peer);
    escape_line(&text).into_owned()
}

/// Levels of nesting that a line of JSON is moved in by: deeper ones would be all space.
const INDENT_MAX: usize = 16;

/// Text without colours.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// The request line by line, with a JSON body laid out member by member, for comparing. Every line is escaped.
fn laid_out(operation: &Shown) -> Vec<String> {
    let query = operation.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut lines = vec![format!(
        "{} {}{query} (host {}, to {})",
        operation.method, operation.path, operation.host, operation.to
    )];
    lines.extend(operation.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if let Some(body) = &operation.body {
        lines.push(String::new());
        match serde_json::from_str::<serde::de::IgnoredAny>(&body.text) {
            Ok(_) => lines.extend(members(&body.text)),
            Err(_) => lines.extend(body.text.split('\n').map(str::to_owned)),
        }
    }
    lines.iter().map(|line| escape_line(line).into_owned()).collect()
}

/// JSON line by line. Nothing but the space between its parts is changed: a name that stands twice, the order of names,
/// and the digits of a number stay as they will be sent.
fn members(json: &str) -> Vec<String> {
    let (mut lines, mut line, mut depth) = (Vec::new(), String::new(), 0_usize);
    let (mut text, mut escaped) = (false, false);
    let mut next = |line: &mut String, depth: usize| {
        let indent = " ".repeat(2 * depth.min(INDENT_MAX));
        let whole = std::mem::replace(line, indent);
        // Between the brackets of what is empty stands nothing.
        if !whole.trim_ascii().is_empty() {
            lines.push(whole);
        }
    };
    for c in json.chars() {
        if text {
            line.push(c);
            (text, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                line.push(c);
                depth += 1;
                next(&mut line, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                next(&mut line, depth);
                line.push(c);
            }
            ',' => {
                line.push(c);
                next(&mut line, depth);
            }
            ':' => line.push_str(": "),
            c => {
                text = c == '"';
                line.push(c);
            }
        }
    }
    lines.push(line);
    lines
}

/// The request as it would run, indented, so that no line of it can pass for one of ours.
fn operation(demand: &DemandView) -> String {
    let operation = &demand.operation;
    let mut lines = vec![format!("{} (host {})", line(demand), operation.host)];
    lines.extend(operation.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    let mut shown: Vec<String> = lines.iter().map(|line| escape_line(line).into_owned()).collect();
    if let Some(body) = &operation.body {
        let kind = if body.base64 { ", not text, shown as base64" } else { "" };
        shown.push(String::new());
        shown.push(paint(Tone::Dim, format_args!("body, {} bytes{kind}:", body.bytes)));
        shown.extend(escape(&body.text).split('\n').map(str::to_owned));
    }
    shown.iter().map(|line| format!("  | {line}\n")).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::{Process, ShownBody};

    pub(super) fn demand() -> DemandView {
        let process = Process {
            key: "unit:agent.service".into(),
            pid: 77,
            uid: 1000,
            login_uid: Some(1004),
            command: "py\u{202e}thon".into(),
            executable: Some("/usr/bin/python3".into()),
            units: vec!["agent.service".into()],
            container: None,
        };
        DemandView {
            id: "019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11".into(),
            entry: "e".into(),
            session: "s".into(),
            state: "pending".into(),
            grant: GrantView { kind: "window".into(), seconds: Some(3600) },
            hold: "wait".into(),
            owners: vec!["olga".into()],
            reason: Some("spring\u{202e} release".into()),
            operations: vec!["model-update".into()],
            asker: Asker {
                key: "user:corp/ann".into(),
                user: Some(("corp".into(), "ann".into())),
                peer: "127.0.0.1:9".into(),
                process: Some(process),
                guard: None,
            },
            target: "react".into(),
            digest: "d".into(),
            rules: vec!["a.cedar#models".into()],
            message: Some("needs a lead".into()),
            approvals: vec![ShareView {
                approval: "leads".into(),
                needed: Some(2),
                voters: vec!["bob".into()],
            }],
            created: Timestamp::UNIX_EPOCH,
            ends: Timestamp::UNIX_EPOCH,
            seconds_left: 252,
            operation: Shown {
                method: "PUT".into(),
                host: "react".into(),
                to: "192.0.2.7:8001".into(),
                path: "/v1/models/a".into(),
                query: Some("dry=1".into()),
                headers: vec![("X-Note".into(), "a\r\ndemand     forged".into())],
                body: Some(ShownBody {
                    bytes: 40,
                    length: 40,
                    offset: 0,
                    text: "{\"a\":1}\n\u{1b}[2Jdemand     forged\u{2066}".into(),
                    base64: false,
                }),
            },
            votes: Vec::new(),
        }
    }

    #[test]
    fn an_approver_sees_all_of_it() {
        let text = describe(&demand());
        for part in [
            "019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11",
            "4m 12s",
            "user:corp/ann",
            "192.0.2.7:8001",
            "process 77",
            "uid 1000",
            "logged in as uid 1004",
            "/usr/bin/python3",
            "unit:agent.service",
            "a.cedar#models",
            "needs a lead",
            "leads 1/2",
            "olga",
            "spring",
            "for 1h",
            "PUT /v1/models/a?dry=1",
            "X-Note: ",
            "body, 40 bytes",
            "{\"a\":1}",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn captured_data_moves_no_cursor_reorders_nothing_and_forges_no_line() {
        let text = describe(&demand());
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2066}']), "{text:?}");
        assert!(
            text.contains("\\u{202e}") && text.contains("\\u{2066}") && text.contains("\\u{1b}[2J"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("demand")).count(), 1, "{text}");
    }

    #[test]
    fn what_is_compared_is_what_will_be_sent_and_not_what_a_reader_makes_of_it() {
        let json = |text: &str| members(text).join("\n");
        assert_eq!(
            json("{\"a\":1, \"b\":[true,{}]}"),
            "{\n  \"a\": 1,\n  \"b\": [\n    true,\n    {\n    }\n  ]\n}"
        );
        for (one, other) in [
            ("{\"amount\":10}", "{\"amount\":1000000,\"amount\":10}"),
            ("[18446744073709551616]", "[18446744073709551617]"),
            ("[1.0]", "[1]"),
            ("{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}"),
        ] {
            assert_ne!(json(one), json(other), "{one}");
        }
        let strings = "[\"a\\\"],{ \", \"b\\\\\", \"c  d\"]";
        assert_eq!(json(strings), "[\n  \"a\\\"],{ \",\n  \"b\\\\\",\n  \"c  d\"\n]");
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(json(&deep).len() < 1000 * 2 * (2 * INDENT_MAX + 2));
    }

    #[test]
    fn a_demand_whose_rules_changed_says_so() {
        let void = ShareView { approval: "leads".into(), needed: None, voters: Vec::new() };
        assert_eq!(needs(&[void], "pending"), "leads (void: the policy changed)");
    }
}
