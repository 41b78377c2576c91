//! `tidegate policy`: checks, tests and explains policy files. Needs no privilege and no running gate.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::output::{Tone, escape, escape_line, paint};
use super::{Context, Failure};
use crate::operation::Sha256;
use crate::policy::files::Files;
use crate::policy::{
    Answer, Decision, Explanation, Meets, Met, Nearest, Problems, Question, Sample, Set, cases, cedar_json,
    toml_schema, without_cases,
};

/// Rules that `--why-not` shows.
const NEAREST: usize = 3;

const CHECK_EXAMPLES: &str = "\
Examples:
  tidegate policy check                     the directory in use
  tidegate policy check ./policies          another one, before it is live
  tidegate policy check ./policies --json   for a pipeline: every finding with file, line, column and help

Exit codes: 0 no finding, 1 findings, 2 wrong command line";

const TEST_EXAMPLES: &str = "\
Examples:
  tidegate policy test ./policies           every case in *.cases.toml, one line each

Exit codes: 0 all pass, 1 one failed or the files have findings, 2 wrong command line";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  tidegate policy schema ./policies > tidegate.cedarschema                         for rules, as Cedar writes it
  tidegate policy schema ./policies --format json > tidegate.cedarschema.json      for rules, as Cedar's JSON
  tidegate policy schema --format toml > tidegate.schema.json                      for the nouns in *.toml";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  tidegate policy explain --target react --method GET --path /v1/runs/7 --user ann --groups analysts
  tidegate policy explain ./policies --target crm --method POST --path /orders --unit react-worker.service
  tidegate policy explain --why-not --target react --method POST --path /v1/runs --user ann
  tidegate policy explain --target react --method PATCH --path /v1/models/m1 --user eve --groups ml --approved ml-leads
  tidegate policy explain --target llm --method POST --path /v1/chat --unit a.service --body '{\"model\":\"small\"}'

Exit codes: 0 allowed, 1 held or denied (or the files have findings), 2 wrong command line";

/// Check, test and explain policy files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate policy check --policies ./policies\n  tidegate policy test")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the files of a policy directory and run its cases: every mistake at once, each with its place.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Place),
    /// Run the cases of a policy directory and say how each went.
    #[command(after_help = TEST_EXAMPLES)]
    Test(Place),
    /// Explain one decision: the rules that matched, and those that nearly did.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Box<Explain>),
    Diff(super::rejudge::Diff),
    Suggest(super::suggest::Args),
    Log(super::policy_log::Args),
    /// Print the schema that the nouns of a policy directory make for its rules, or the one of the nouns themselves.
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema(SchemaOf),
}

#[derive(Debug, clap::Args)]
struct SchemaOf {
    #[command(flatten)]
    place: Place,
    /// What for: Cedar's own notation or its JSON, for rules; a JSON Schema, for the nouns in *.toml.
    #[arg(long, value_enum, default_value_t = Format::Cedar)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Cedar's schema in its own notation.
    Cedar,
    /// The same as Cedar's JSON.
    Json,
    /// A JSON Schema (draft 2020-12) of the *.toml files; the same for every directory.
    Toml,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The directory [default: the one in use, see --policies].
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Explain {
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

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Check(place) => check(&place.dir(context), context),
        Command::Test(place) => test(&place.dir(context), context),
        Command::Explain(explain) => explain.run(context),
        Command::Diff(args) => super::rejudge::diff(&args, context),
        Command::Suggest(args) => super::suggest::run(&args, context),
        Command::Log(args) => super::policy_log::run(&args, context),
        Command::Schema(of) => schema(&of, context),
    }
}

impl Place {
    fn dir(&self, context: &Context) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| context.settings.policies.clone())
    }
}

/// Nouns and rules; findings are printed and end the command.
pub(super) fn read(dir: &Path, context: &Context) -> Result<(Files, Set), Failure> {
    let files = Files::read(dir).or_else(|problems| findings(&problems, context))?;
    let set = without_cases(&files).or_else(|problems| findings(&problems, context))?;
    if !context.out.is_json() {
        for note in set.notes() {
            context.out.note(format_args!("{} {}", paint(Tone::Warn, "note:"), escape(note)));
        }
    }
    Ok((files, set))
}

fn findings<T>(problems: &Problems, context: &Context) -> Result<T, Failure> {
    if context.out.is_json() {
        context.out.json(&json!({ "ok": false, "problems": problems.plain() }))?;
    } else {
        context.out.note(problems.render(true).trim_end());
        let found =
            if problems.len() == 1 { "1 finding".to_owned() } else { format!("{} findings", problems.len()) };
        context.out.note(paint(Tone::Bad, found));
    }
    Err(Failure::No)
}

fn check(dir: &Path, context: &Context) -> Result<(), Failure> {
    let (files, set) = read(dir, context)?;
    let results = cases::run(&files, &set).or_else(|problems| findings(&problems, context))?;
    let mut failed = Problems::default();
    results.iter().filter_map(|result| result.problem.clone()).for_each(|problem| failed.push(problem));
    if !failed.is_empty() {
        return findings(&failed, context);
    }
    let notices = set.notices(Timestamp::now());
    if context.out.is_json() {
        return context.out.json(&json!({
            "ok": true,
            "digest": set.digest().to_string(),
            "files": files.all.iter().map(|file| &file.name).collect::<Vec<_>>(),
            "notes": set.notes(),
            "notices": notices,
            "targets": set.targets().len(),
            "rules": set.rules_count(),
            "cases": results.len(),
        }));
    }
    context.out.line(format_args!(
        "{} {}: {} files, {} targets, {} rules, {} cases",
        paint(Tone::Good, "ok"),
        escape(&dir.display().to_string()),
        files.all.len(),
        set.targets().len(),
        set.rules_count(),
        results.len()
    ))?;
    for notice in &notices {
        context.out.note(super::gate::told(notice));
    }
    context.out.line(format_args!("digest {}", set.digest()))
}

fn test(dir: &Path, context: &Context) -> Result<(), Failure> {
    let (files, set) = read(dir, context)?;
    let results = cases::run(&files, &set).or_else(|problems| findings(&problems, context))?;
    let failed = results.iter().filter(|result| result.problem.is_some()).count();
    if context.out.is_json() {
        let all: Vec<Value> = results
            .iter()
            .map(|result| {
                json!({
                    "name": result.name,
                    "place": result.place.to_string(),
                    "passed": result.problem.is_none(),
                    "problem": result.problem.as_ref().map(ToString::to_string),
                    "verdict": result.decision.answer.word(),
                    "rules": result.decision.rules,
                })
            })
            .collect();
        context.out.json(&json!({ "ok": failed == 0, "failed": failed, "cases": all }))?;
    } else {
        for result in &results {
            let (tone, word) =
                if result.problem.is_some() { (Tone::Bad, "FAILED") } else { (Tone::Good, "passed") };
            context.out.line(format_args!("{} {}", paint(tone, word), escape_line(&result.name)))?;
        }
        let mut drawn = Problems::default();
        results.iter().filter_map(|result| result.problem.clone()).for_each(|problem| drawn.push(problem));
        if !drawn.is_empty() {
            context.out.note(drawn.render(true).trim_end());
        }
        context.out.line(format_args!("{} cases, {failed} failed", results.len()))?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::No) }
}

fn schema(of: &SchemaOf, context: &Context) -> Result<(), Failure> {
    if of.format == Format::Toml {
        return context.out.json(&toml_schema());
    }
    let (_, set) = read(&of.place.dir(context), context)?;
    if of.format == Format::Json {
        let schema = cedar_json(set.schema()).map_err(Failure::cannot)?;
        return context.out.json(&schema);
    }
    if context.out.is_json() {
        return context.out.json(&json!({ "schema": set.schema(), "digest": set.digest().to_string() }));
    }
    context.out.line(set.schema().trim_end())
}

impl Explain {
    fn run(self, context: &Context) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::output::{Color, Output};
    use super::*;
    use crate::config::Settings;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The exit code of `tidegate policy ...`, 0 for success.
    fn code(words: &[&str]) -> u8 {
        let Ok(line) = Line::try_parse_from([&["policy"], words].concat()) else { return 2 };
        let context = Context { settings: Settings::default(), out: Output::new(true, Color::Never) };
        run(line.args, &context).map_or_else(|failure| failure.code(), |()| 0)
    }

    fn shipped(name: &str) -> String {
        format!("{}/../policies/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn sound_files_are_exit_code_0() {
        for command in ["check", "test", "schema"] {
            assert_eq!(code(&[command, &shipped("examples")]), 0, "{command}");
        }
        assert_eq!(code(&["schema", &shipped("examples"), "--format", "json"]), 0);
        assert_eq!(code(&["schema", "--format", "toml"]), 0);
    }

    #[test]
    fn findings_are_exit_code_1_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.toml"), "[[target]]\n").unwrap();
        let broken = dir.path().to_str().unwrap();
        for command in ["check", "test", "schema"] {
            assert_eq!(code(&[command, broken]), 1, "{command}");
            assert_eq!(code(&[command, "/nonexistent"]), 1, "{command}");
        }
        assert_eq!(code(&["explain", broken, "--target", "a"]), 1);
    }

    #[test]
    fn a_failed_case_is_exit_code_1() {
        let dir = tempfile::tempdir().unwrap();
        let target = "[[target]]\nname = \"t\"\ndirection = \"inbound\"\nports = [1]\n";
        let case =
            "[[case]]\nname = \"c\"\ntarget = \"t\"\nmethod = \"GET\"\npath = \"/\"\nexpect = \"allow\"\n";
        std::fs::write(dir.path().join("a.toml"), target).unwrap();
        std::fs::write(dir.path().join("a.cases.toml"), case).unwrap();
        for command in ["check", "test"] {
            assert_eq!(code(&[command, dir.path().to_str().unwrap()]), 1, "{command}");
        }
    }

    #[test]
    fn only_an_allowed_operation_is_explained_with_exit_code_0() {
        let examples = shipped("examples");
        let explain = |words: &[&str]| code(&[&["explain", &examples, "--target", "react"], words].concat());
        let engineer = ["--user", "eve", "--groups", "x,ml-engineers"];
        let change = [&["--method", "PUT", "--path", "/v1/models/m"], engineer.as_slice()].concat();
        assert_eq!(explain(&[&["--method", "GET", "--path", "/v1/runs/7"], engineer.as_slice()].concat()), 0);
        assert_eq!(explain(&change), 1);
        assert_eq!(explain(&[change.as_slice(), &["--approved", "ml-leads"]].concat()), 0);
        assert_eq!(explain(&["--method", "GET", "--path", "/v1//runs"]), 2);
        assert_eq!(explain(&["--method", "GET"]), 2);
        assert_eq!(explain(&["--groups", "x"]), 2);
    }
}
