//! `tidegate policy`: checks, tests and explains policy files. Needs no privilege and no running gate.

mod explain;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use self::explain::Explain;
use super::output::{Tone, escape, escape_line, paint};
use super::{Context, Failure};
use crate::policy::cases::CaseResult;
use crate::policy::files::Files;
use crate::policy::{Problems, Set, cedar_json, toml_schema, tried, without_cases};

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
    #[command(after_help = explain::EXAMPLES)]
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
    show_notes(&set, context);
    Ok((files, set))
}

/// Reads a directory as the gate does, the safe mode included, and runs its cases; findings are shown and end the command.
fn try_out(dir: &Path, context: &Context) -> Result<(Files, Set, Vec<CaseResult>), Failure> {
    let files = Files::read(dir).or_else(|problems| findings(&problems, context))?;
    let (set, results) = tried(&files).or_else(|problems| findings(&problems, context))?;
    show_notes(&set, context);
    Ok((files, set, results))
}

fn show_notes(set: &Set, context: &Context) {
    if !context.out.is_json() {
        for note in set.notes() {
            context.out.note(format_args!("{} {}", paint(Tone::Warn, "note:"), escape(note)));
        }
    }
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
    let (files, set, results) = try_out(dir, context)?;
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
            "files": files.every().map(|file| &file.name).collect::<Vec<_>>(),
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
        files.every().count(),
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
    let (_, _, results) = try_out(dir, context)?;
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
            assert_eq!(code(&[command, &shipped("examples/react-and-crm")]), 0, "{command}");
        }
        assert_eq!(code(&["schema", &shipped("examples/react-and-crm"), "--format", "json"]), 0);
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
    fn a_safe_mode_that_the_gate_would_refuse_is_a_finding() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let place = dir.path().to_str().unwrap().to_owned();
        let both = || ["check", "test"].map(|command| code(&[command, &place]));
        let target = "[[target]]\nname = \"t\"\ndirection = \"inbound\"\nports = [1]\nrequire = \"peer\"\n";
        let asked = "[[person]]\nname = \"ada\"\nuid = 1001\n[[notify]]\nname = \"hook\"\nkind = \"webhook\"\n\
                     url = \"https://hooks.example.com/x\"\nsecret = \"/etc/hook.secret\"\n[[approval]]\nname = \"a\"\n\
                     approvers = [\"ada\"]\nnotify = [\"hook\"]\non_unavailable = \"safe-mode\"\n";
        write("a.toml", &format!("{target}{asked}"));
        let permit = "permit (principal, action == Action::\"http\", resource == Target::\"t\");\n";
        let held = "@id(\"h\") @approval(\"a\") forbid (principal, action, resource == Target::\"t\");\n";
        write("a.cedar", &format!("{permit}{held}"));
        std::fs::create_dir(dir.path().join("safe-mode")).unwrap();
        write("safe-mode/a.cedar", permit);
        assert_eq!(both(), [0, 0]);
        let case =
            "[[case]]\nname = \"c\"\ntarget = \"t\"\nmethod = \"GET\"\npath = \"/\"\nexpect = \"deny\"\n";
        write("safe-mode/a.cases.toml", case);
        assert_eq!(both(), [1, 1], "a case of the safe mode fails");
        std::fs::remove_file(dir.path().join("safe-mode/a.cases.toml")).unwrap();
        write("safe-mode/a.cedar", held);
        assert_eq!(both(), [1, 1], "nobody can be asked there");
    }

    #[test]
    fn only_an_allowed_operation_is_explained_with_exit_code_0() {
        let examples = shipped("examples/react-and-crm");
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
