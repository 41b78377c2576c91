//! `tidegate policy explain`: one decision, the rules that matched, and those that nearly did.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Place, read};
use crate::cli::output::{Tone, escape_line, paint};
use crate::cli::{Context, Failure};
use crate::operation::Sha256;
use crate::policy::{Answer, Decision, Explanation, Meets, Met, Nearest, Question, Sample};

/// Rules that `--why-not` shows.
const NEAREST: usize = 3;

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate policy explain --target react --method GET --path /v1/runs/7 --user ann --groups analysts
  tidegate policy explain ./policies --target crm --method POST --path /orders --unit react-worker.service
  tidegate policy explain --why-not --target react --method POST --path /v1/runs --user ann
  tidegate policy explain --target react --method PATCH --path /v1/models/m1 --user eve --groups ml --approved ml-leads
  tidegate policy explain --target llm --method POST --path /v1/chat --unit a.service --body '{\"model\":\"small\"}'

Exit codes: 0 allowed, 1 held or denied (or the files have findings), 2 wrong command line";

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    place: Place,
    /// The target.
    #[arg(long)]
    target: String,
    /// The method. Without method and path the question is opening the connection.
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// The path, without the query.
    #[arg(long, requires = "method")]
    path: Option<String>,
    /// The query, without the `?`.
    #[arg(long)]
    query: Option<String>,
    /// The host name in the request.
    #[arg(long)]
    host: Option<String>,
    /// Length of the body in bytes.
    #[arg(long, value_name = "BYTES")]
    body_length: Option<u64>,
    /// The body of the request, as JSON; what extracts find in it is judged.
    #[arg(long, requires = "path", conflicts_with_all = ["extract", "body_length"])]
    body: Option<String>,
    /// A header field of the request. May be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header, requires = "path")]
    headers: Vec<(String, String)>,
    /// What extracts find, instead of a body: a JSON object of attributes, and of calls as "operation".
    #[arg(long, value_name = "JSON", value_parser = object, requires = "path")]
    extract: Option<serde_json::Map<String, Value>>,
    /// Subject of the user who asks.
    #[arg(long)]
    user: Option<String>,
    /// Groups of the user, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "user")]
    groups: Vec<String>,
    /// A claim of the user's token, such as department=ml; several times for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim, requires = "user")]
    claim: Vec<(String, String)>,
    /// Seconds from the token's issue to its end.
    #[arg(long, value_name = "SECONDS", requires = "user")]
    token_life: Option<i64>,
    /// Digest of the static key that is shown instead of a user's token, in hexadecimal.
    #[arg(long, value_name = "DIGEST", value_parser = digest, conflicts_with = "user")]
    key_sha256: Option<Sha256>,
    /// The identity provider that vouches for the user [default: the only one].
    #[arg(long, requires = "user")]
    provider: Option<String>,
    /// systemd unit of the process that asks.
    #[arg(long)]
    unit: Option<String>,
    /// Container id of the process that asks.
    #[arg(long)]
    container: Option<String>,
    /// Image of that container.
    #[arg(long)]
    image: Option<String>,
    /// Uid of the Kubernetes pod of the process that asks.
    #[arg(long)]
    pod: Option<String>,
    /// User id of the process that asks.
    #[arg(long)]
    uid: Option<u32>,
    /// Executable of the process that asks.
    #[arg(long, value_name = "PATH")]
    executable: Option<String>,
    /// Digest of that executable, in hexadecimal.
    #[arg(long, value_name = "DIGEST", value_parser = digest, requires = "executable")]
    sha256: Option<Sha256>,
    /// Cgroup of the process that asks. (`--cgroup` is where the programs are attached.)
    #[arg(long, value_name = "PATH")]
    in_cgroup: Option<String>,
    /// The guard that holds the process.
    #[arg(long)]
    guard: Option<String>,
    /// Where the flow comes from.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Approvals already granted, separated by commas.
    #[arg(long, value_delimiter = ',')]
    approved: Vec<String>,
    /// Show the permits that came nearest and which part of each did not hold.
    #[arg(long)]
    why_not: bool,
    /// When it is asked, such as 2026-12-01T09:00:00Z [default: now].
    #[arg(long)]
    at: Option<Timestamp>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn object(text: &str) -> Result<serde_json::Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("this is no JSON object: {error}"))
}

/// A claim with a value as JSON: true, false and whole numbers are themselves, all else is a text.
fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let plain = value == "true" || value == "false" || value.parse::<i64>().is_ok();
    let value = if plain { value.to_owned() } else { json!(value).to_string() };
    Ok((name.to_owned(), value))
}

fn digest(text: &str) -> Result<Sha256, String> {
    Sha256::from_hex(text).ok_or_else(|| "a SHA-256 digest has 64 hexadecimal digits".to_owned())
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (_, set) = read(&self.place.dir(context), context)?;
        let why_not = self.why_not;
        let (at, approved) = (self.at.unwrap_or_else(Timestamp::now), self.approved.clone());
        let sample = self.sample();
        if set.target(&sample.target).is_none() {
            return Err(Failure::cannot(format!(
                "no target is called {:?} in this directory",
                sample.target
            )));
        }
        let (subject, operation) = sample.stage(&set).map_err(Failure::Usage)?;
        let guard = sample.guard.as_deref();
        let question = Question { subject: &subject, guard, operation: &operation, approved: &approved };
        let explanation = set.explain(at, &question);
        let observed = set.target(&operation.target).and_then(|target| target.observed_until);
        let observed = observed.filter(|until| at < *until);
        let nearest = if why_not { set.nearest(at, &question, NEAREST) } else { Vec::new() };
        if context.out.is_json() {
            let mut json = as_json(&explanation);
            json["observed_until"] = json!(observed.map(|until| until.to_string()));
            if why_not {
                json["nearest"] = json!(nearest);
            }
            context.out.json(&json)?;
        } else {
            if let Some(until) = observed {
                context.out.line(format_args!(
                    "{} only OBSERVED until {until}: what follows is what would be decided; everything goes through",
                    paint(Tone::Bad, "warning:")
                ))?;
            }
            print(&explanation, context)?;
            nearest.iter().try_for_each(|near| show_near(near, context))?;
            if why_not && nearest.is_empty() {
                context.out.note("no rule can be held against this question");
            }
        }
        if explanation.decision.answer == Answer::Allow { Ok(()) } else { Err(Failure::No) }
    }

    fn sample(self) -> Sample {
        Sample {
            user: self.user,
            groups: self.groups,
            claims: self.claim.into_iter().map(|(name, value)| (name, vec![value])).collect(),
            token_life: self.token_life,
            key: self.key_sha256,
            provider: self.provider,
            unit: self.unit,
            container: self.container,
            image: self.image,
            pod: self.pod,
            uid: self.uid,
            login_uid: None,
            executable: self.executable,
            sha256: self.sha256,
            cgroup: self.in_cgroup,
            guard: self.guard,
            peer: self.peer,
            target: self.target,
            method: self.method,
            path: self.path,
            query: self.query,
            host: self.host,
            body_length: self.body_length,
            headers: self.headers,
            body: self.body,
            extract: self.extract,
        }
    }
}

/// One permit that nearly matched, part by part.
fn show_near(near: &Nearest, context: &Context) -> Result<(), Failure> {
    let (rule, place) = (escape_line(&near.rule), escape_line(&near.place));
    let (holds, parts) = (near.holds, near.parts.len());
    context.out.line(format_args!("\n{rule} at {place}: {holds} of {parts} parts hold"))?;
    for part in &near.parts {
        let (tone, word) = match part.meets {
            Meets::Holds => (Tone::Good, "holds"),
            Meets::Fails => (Tone::Bad, "FAILS"),
            Meets::Errs => (Tone::Warn, "cannot be evaluated alone"),
        };
        let text = match part.part {
            "when" | "unless" | "until" => format!("{} {}", part.part, part.text),
            _ => part.text.clone(),
        };
        context.out.line(format_args!("  {} {}", paint(tone, word), escape_line(&text)))?;
    }
    Ok(())
}

fn as_json(explanation: &Explanation) -> Value {
    let decision = &explanation.decision;
    let approvals = match &decision.answer {
        Answer::Hold { approvals } => approvals.as_slice(),
        Answer::Allow | Answer::Deny => &[],
    };
    json!({
        "verdict": decision.answer.word(),
        "approvals": approvals,
        "reason": decision.reason,
        "shown": decision.shown,
        "principal": explanation.principal,
        "roles": explanation.roles,
        "operations": decision.operations,
        "rules": decision.rules,
        "masks": masks(decision),
        "considered": explanation.considered,
    })
}

fn masks(decision: &Decision) -> Vec<&str> {
    decision.masks.iter().map(|mask| mask.name.as_str()).collect()
}

fn print(explanation: &Explanation, context: &Context) -> Result<(), Failure> {
    let decision = &explanation.decision;
    let tone = match decision.answer {
        Answer::Allow => Tone::Good,
        Answer::Hold { .. } => Tone::Warn,
        Answer::Deny => Tone::Bad,
    };
    let mut text = format!("{}: {}\n", paint(tone, decision.answer.word()), escape_line(&decision.reason));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<11} {}", escape_line(value));
        }
    };
    line("principal", explanation.principal.as_deref().unwrap_or_default());
    line("roles", &explanation.roles.join(", "));
    line("operations", &decision.operations.join(", "));
    line("masks", &masks(decision).join(", "));
    line("client sees", decision.shown.as_deref().unwrap_or_default());
    line("advice", decision.cause.advice().unwrap_or_default());
    context.out.line(text.trim_end())?;
    if explanation.considered.is_empty() {
        return Ok(());
    }
    let rows = explanation.considered.iter().map(|rule| {
        let lifted_by = rule.approval.clone().unwrap_or_default();
        vec![
            words(rule.met).to_owned(),
            rule.effect.to_owned(),
            rule.rule.clone(),
            lifted_by,
            rule.place.clone(),
        ]
    });
    context.out.line("")?;
    context.out.table(&["rule is", "effect", "rule", "lifted by", "at"], rows.collect())
}

fn words(met: Met) -> &'static str {
    match met {
        Met::Decided => "deciding",
        Met::Matched => "matching",
        Met::Lifted => "lifted",
        Met::ConditionsFalse => "near: conditions false",
        Met::OtherPrincipal => "near: other principal",
        Met::Failed => "failing",
        Met::Ended => "ended",
    }
}
