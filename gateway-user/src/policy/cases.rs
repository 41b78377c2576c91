//! Cases: sample operations with the verdict expected, run at every load.
//!
//! Refuses a policy set that does not do what its own cases say.

use std::cell::RefCell;

use jiff::Timestamp;

use crate::operation::Sha256;

use super::decide::{Answer, Decision, Question};
use super::document::{At, Fields, tables};
use super::files::{FileKind, Files};
use super::parse::{self, Misread};
use super::problem::{Place, Problem, Problems, did_you_mean};
use super::sample::Sample;
use super::set::Set;
use super::words;

/// One case as it went.
#[derive(Debug)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Who asks for what in it.
    pub sample: Sample,
    /// When it is asked.
    pub at: Timestamp,
    /// The approvals granted in it.
    pub approved: Vec<String>,
    /// What the set decided.
    pub decision: Decision,
    /// What was expected and did not happen; `None` when the case passed.
    pub problem: Option<Problem>,
}

/// What a case expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Allow,
    Hold,
    Deny,
}

impl Expected {
    fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Allow => Self::Allow,
            Answer::Hold { .. } => Self::Hold,
            Answer::Deny => Self::Deny,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Deny => "deny",
        }
    }
}

struct Case {
    name: At<String>,
    sample: Sample,
    at: Timestamp,
    approved: Vec<String>,
    expect: At<Expected>,
    rule: Option<At<String>>,
    approvals: Vec<At<String>>,
    masks: Option<Vec<At<String>>>,
}

/// Runs every case of these files against their set.
///
/// # Errors
/// Every case that cannot be read. A case that is read and fails is no error here, but in its result.
pub fn run(files: &Files, set: &Set) -> Result<Vec<CaseResult>, Problems> {
    let problems = RefCell::new(Problems::default());
    let mut results: Vec<CaseResult> = Vec::new();
    for file in files.of(FileKind::Cases) {
        let other = |name: &str, place: &Place| {
            Problem::at(place, format!("a file of cases has no `{name}`")).help("it has `[[case]]`s only")
        };
        tables(&file.source, &problems, &["case"], other, |_, fields| {
            if let Some(case) = read_case(fields, set) {
                if let Some(first) = results.iter().find(|first| first.name == case.name.value) {
                    let twice = Problem::at(&case.name.place, "there are two cases with this name");
                    fields.report(twice.also(&first.place, "first here"));
                }
                results.extend(run_case(case, set, fields));
            }
        });
    }
    let mut problems = problems.into_inner();
    problems.sort();
    if problems.is_empty() { Ok(results) } else { Err(problems) }
}

fn read_case(fields: &Fields<'_>, set: &Set) -> Option<Case> {
    let name = fields.need_text("name");
    let known = |key: &'static str, names: Vec<&str>| {
        let text = fields.text(key)?;
        declared(fields, &text, key, &names);
        Some(text)
    };
    let target = if fields.has("target") {
        known("target", set.targets().iter().map(|target| target.name.as_str()).collect())
    } else {
        fields.need_text("target")
    };
    let mut sample = subject(fields, set);
    sample.target = target.map(|target| target.value).unwrap_or_default();
    let open = fields.boolean("open").is_some_and(|open| open.value);
    if !open {
        sample.method =
            fields.need_text("method").and_then(|text| fields.parse(&text, parse::method)).map(value);
        sample.path = fields.need_text("path").and_then(|text| fields.parse(&text, parse::path)).map(value);
    }
    let readable = open || (sample.method.is_some() && sample.path.is_some());
    sample.query = fields.text("query").map(value);
    sample.host = fields.text("host").map(|host| host.value.to_ascii_lowercase());
    sample.body_length = fields.number("body_length", 0, i64::MAX as u64).map(value);
    sample.headers = headers(fields);
    sample.body = fields.text("body").map(value);
    sample.extract = fields.json("extract").and_then(|said| match said.value {
        serde_json::Value::Object(said) => Some(said),
        _ => {
            fields.report(Problem::at(&said.place, "`extract` is a table: { model = \"small\" }"));
            None
        }
    });
    let at = fields.moment("at").map_or_else(|| Timestamp::UNIX_EPOCH, value);
    let approvals: Vec<&str> = set.approvals().iter().map(|approval| approval.name.as_str()).collect();
    let named = |key: &'static str| {
        let list = fields.texts(key);
        list.iter().for_each(|name| declared(fields, name, "approval", &approvals));
        list
    };
    let words = [("allow", Expected::Allow), ("hold", Expected::Hold), ("deny", Expected::Deny)];
    if !fields.has("expect") {
        fields.need_text("expect");
    }
    let case = Case {
        name: name?,
        sample,
        at,
        approved: named("approved").into_iter().map(value).collect(),
        approvals: named("approvals"),
        expect: fields.word("expect", &words, &[])?,
        rule: fields.text("rule"),
        masks: fields.maybe_empty("masks"),
    };
    fields.finish(&["budget"]);
    readable.then_some(case)
}

/// `headers = { x-tenant = "acme" }`.
fn headers(fields: &Fields<'_>) -> Vec<(String, String)> {
    let Some(said) = fields.json("headers") else { return Vec::new() };
    let pair =
        |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let pairs = said.value.as_object().and_then(|table| table.iter().map(pair).collect());
    pairs.unwrap_or_else(|| {
        fields.report(Problem::at(&said.place, "`headers` is a table of strings: { x-tenant = \"acme\" }"));
        Vec::new()
    })
}

fn value<T>(at: At<T>) -> T {
    at.value
}

fn declared(fields: &Fields<'_>, name: &At<String>, noun: &str, known: &[&str]) {
    if !known.contains(&name.value.as_str()) {
        let unknown =
            Problem::at(&name.place, format!("no `{noun}` is called `{}`", name.value.escape_debug()));
        fields.report(unknown.help_if(did_you_mean(&name.value, known.iter().copied())));
    }
}

/// `as = { user = "alice", groups = ["ml"] }`, `as = { unit = "react-worker.service", uid = 990 }`.
fn subject(fields: &Fields<'_>, set: &Set) -> Sample {
    let Some(who) = fields.table("as") else { return Sample::default() };
    let provider = who.text("provider");
    if let Some(provider) = &provider {
        let known: Vec<&str> = set.providers().iter().map(|provider| provider.name.as_str()).collect();
        declared(fields, provider, "identity_provider", &known);
    }
    let guard = who.text("guard");
    if let Some(guard) = &guard {
        declared(
            fields,
            guard,
            "guard",
            &set.guards().iter().map(|guard| guard.name.as_str()).collect::<Vec<_>>(),
        );
    }
    let uid = |key: &'static str| {
        who.number(key, 0, u64::from(u32::MAX)).and_then(|uid| u32::try_from(uid.value).ok())
    };
    let refused = |message: &str| Misread { message: message.to_owned(), help: None };
    let digest = |text: &str| {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        Sha256::from_hex(hex).ok_or_else(|| refused("this is not a SHA-256 digest"))
    };
    let peer = |text: &str| text.parse().map_err(|_| refused("this is not an address"));
    let sample = Sample {
        user: who.text("user").map(value),
        groups: who.texts("groups").into_iter().map(value).collect(),
        provider: provider.map(value),
        claims: who.json_values("claims").into_iter().map(|(path, values)| (path.value, values)).collect(),
        token_life: who
            .text("token_life")
            .and_then(|text| who.parse(&text, parse::duration))
            .and_then(|life| i64::try_from(life.value.as_secs()).ok()),
        key: who.text("key_sha256").and_then(|text| who.parse(&text, words::key_digest)).map(value),
        unit: who.text("unit").map(value),
        container: who.text("container").map(value),
        image: who.text("image").map(value),
        pod: who.text("pod").map(value),
        uid: uid("uid"),
        login_uid: uid("login_uid"),
        executable: who.text("executable").map(value),
        sha256: who.text("sha256").and_then(|text| who.parse(&text, digest)).map(value),
        cgroup: who.text("cgroup").map(value),
        guard: guard.map(value),
        peer: who.text("peer").and_then(|text| who.parse(&text, peer)).map(value),
        ..Sample::default()
    };
    who.finish(&[]);
    let token = !sample.groups.is_empty() || !sample.claims.is_empty() || sample.token_life.is_some();
    if sample.user.is_none() && (token || sample.provider.is_some()) {
        let problem =
            Problem::at(who.place(), "only a `user` has `groups`, `claims`, a `token_life` and a `provider`");
        fields.report(problem.help("name the `user`"));
    }
    sample
}

fn run_case(case: Case, set: &Set, fields: &Fields<'_>) -> Option<CaseResult> {
    let (subject, operation) = match case.sample.stage(set) {
        Ok(staged) => staged,
        Err(why) => {
            // An unknown target is reported where it is named.
            if set.target(&case.sample.target).is_some() {
                fields.report(Problem::at(&case.name.place, why));
            }
            return None;
        }
    };
    let guard = case.sample.guard.as_deref();
    let question = Question { subject: &subject, guard, operation: &operation, approved: &case.approved };
    let decision = set.decide(case.at, &question);
    let problem = difference(&case, &decision);
    let Case { name, sample, at, approved, .. } = case;
    Some(CaseResult { name: name.value, place: name.place, sample, at, approved, decision, problem })
}

fn difference(case: &Case, decision: &Decision) -> Option<Problem> {
    let name = case.name.value.escape_debug();
    let got = Expected::of(&decision.answer);
    let failed = |at: &Place, what: String| {
        Some(
            Problem::at(at, format!("the case `{name}` {what}"))
                .label("expected here")
                .help(decision.reason.clone()),
        )
    };
    if got != case.expect.value {
        return failed(
            &case.expect.place,
            format!("expects {}, and is: {}", case.expect.value.word(), got.word()),
        );
    }
    if let Some(rule) = &case.rule {
        let is = |id: &String| {
            *id == rule.value || id.split_once('#').is_some_and(|(_, short)| short == rule.value)
        };
        if !decision.rules.iter().any(is) {
            let by = if decision.rules.is_empty() { "no rule".to_owned() } else { decision.rules.join(", ") };
            return failed(
                &rule.place,
                format!("is decided by {by}, not by `{}`", rule.value.escape_debug()),
            );
        }
    }
    if let (Some(first), Answer::Hold { approvals }) = (case.approvals.first(), &decision.answer)
        && !same(&case.approvals, approvals.iter().map(String::as_str))
    {
        return failed(&first.place, format!("needs the approval of {}", approvals.join(", ")));
    }
    match &case.masks {
        Some(masks) if !same(masks, decision.masks.iter().map(|mask| mask.name.as_str())) => {
            let names: Vec<&str> = decision.masks.iter().map(|mask| mask.name.as_str()).collect();
            let at = masks.first().map_or(&case.name.place, |mask| &mask.place);
            failed(at, format!("is masked by: {}", names.join(", ")))
        }
        _ => None,
    }
}

fn same<'a>(wanted: &[At<String>], got: impl Iterator<Item = &'a str>) -> bool {
    let mut wanted: Vec<&str> = wanted.iter().map(|name| name.value.as_str()).collect();
    let mut got: Vec<&str> = got.collect();
    wanted.sort_unstable();
    got.sort_unstable();
    wanted == got
}
