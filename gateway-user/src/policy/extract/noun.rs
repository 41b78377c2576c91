//! Reads `[[extract]]` and what it says beside other nouns. Refuses an attribute that would hide another, or that has two
//! types, and calls that no operation is.

use std::collections::BTreeMap;

use super::is_single;
use crate::policy::declare::{Draft, Entry};
use crate::policy::document::{At, Fields};
use crate::policy::json_path;
use crate::policy::nouns::{AttributeType, Extract, Gives, OperationNoun, PathPart, Source};
use crate::policy::parse::Misread;
use crate::policy::problem::{Problem, did_you_mean};
use crate::wire::field::{FORWARDED, HOP_BY_HOP};

/// What `as` says of values that are calls.
pub(super) const CALLS: &str = "operation";
/// Names that `context` has, or may come to have, without any extract.
const TAKEN: [&str; 19] = [
    "address",
    "body_length",
    "budget",
    "call",
    "claims",
    "direction",
    "extract",
    "guard",
    "host",
    "hours",
    "method",
    "now",
    "path",
    "peer",
    "port",
    "query",
    "segments",
    "target",
    "workload",
];
/// Words of Cedar's own.
const CEDAR: [&str; 10] = ["true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"];
/// Reads one `[[extract]]`. `None` where it cannot be used; that is then reported.
pub(in crate::policy) fn read(fields: &Fields<'_>, target: Option<At<String>>) -> Option<Entry<Extract>> {
    let operations = fields.texts("operations");
    fields.distinct("operations", &operations);
    if !fields.has("from") {
        fields.need_text("from");
    }
    let from: Vec<At<Source>> =
        fields.one_or_more("from").iter().filter_map(|text| fields.parse(text, source)).collect();
    fields.distinct("from", &from);
    let gives = fields.need_text("as").and_then(|name| match name.value.as_str() {
        CALLS => Some(Gives::Calls),
        _ => {
            let name = fields.parse(&name, attribute)?;
            Some(Gives::Attribute(name.value, AttributeType::String))
        }
    });
    let types = [
        ("string", AttributeType::String),
        ("long", AttributeType::Long),
        ("bool", AttributeType::Bool),
        ("strings", AttributeType::Strings),
    ];
    let kind = fields.word("type", &types, &[]);
    fields.finish(&[]);
    let gives = match (gives?, kind) {
        (Gives::Attribute(name, default), kind) => {
            Gives::Attribute(name, kind.map_or(default, |kind| kind.value))
        }
        (Gives::Calls, None) => Gives::Calls,
        (Gives::Calls, Some(kind)) => {
            let problem = Problem::at(&kind.place, "calls are strings; `type` is for attributes");
            fields.report(problem.help("remove it"));
            return None;
        }
    };
    if let (Gives::Calls, Some(first)) = (&gives, operations.first()) {
        let problem =
            Problem::at(&first.place, "calls are looked for wherever an operation with `calls` may be");
        fields.report(problem.help("remove `operations`"));
    }
    several(fields, &gives, &from);
    let extract = Extract {
        target: target?.value,
        operations: operations.into_iter().map(|name| name.value).collect(),
        from: from.into_iter().map(|from| from.value).collect(),
        gives,
    };
    Some(Entry { noun: extract, at: fields.place().clone(), places: fields.places() })
}

/// One value is asked for, and several may come.
fn several(fields: &Fields<'_>, gives: &Gives, from: &[At<Source>]) {
    if matches!(gives, Gives::Calls | Gives::Attribute(_, AttributeType::Strings)) {
        return;
    }
    if let Some(second) = from.get(1) {
        let problem = Problem::at(&second.place, "one value cannot come from two places");
        fields.report(problem.help("take `type = \"strings\"`, or declare another attribute"));
    }
    for from in from {
        if let Source::Body(path) = &from.value
            && !is_single(&path.steps)
        {
            let problem = Problem::at(&from.place, format!("`{}` may lead to several values", path.text));
            fields.report(problem.help("take `type = \"strings\"`, or a path of names and indexes"));
        }
    }
}

fn refuse<T>(message: String, help: &str) -> Result<T, Misread> {
    Err(Misread { message, help: Some(help.to_owned()) })
}

/// `$.model`, `query.name`, `header.name`.
fn source(text: &str) -> Result<Source, Misread> {
    if text.starts_with('$') {
        let path = json_path::parse_exact(text).map_err(|message| Misread { message, help: None })?;
        return Ok(Source::Body(path));
    }
    if let Some(name) = text.strip_prefix("query.").filter(|name| !name.is_empty()) {
        return Ok(Source::Query(name.to_owned()));
    }
    let Some(name) = text.strip_prefix("header.") else {
        let help = "write a JSON path (`$.model`), `query.NAME` or `header.NAME`";
        return refuse(format!("`{}` is no part of a request", text.escape_debug()), help);
    };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return refuse(
            format!("`{}` is not the name of a header field", name.escape_debug()),
            "write header.x-tenant",
        );
    }
    let name = name.to_ascii_lowercase();
    let unseen = ["authorization", "cookie", "content-length", "expect", "host", "trailer"];
    if [&unseen[..], &HOP_BY_HOP, &FORWARDED].concat().contains(&name.as_str()) {
        let help = "it holds a credential, or is the gate's own: who asks is the principal, and `context.host` is there";
        return refuse(format!("rules cannot see the header `{name}`"), help);
    }
    Ok(Source::Header(name))
}

/// The name of an attribute.
fn attribute(text: &str) -> Result<String, Misread> {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !starts || !fits || text.len() > 64 || CEDAR.contains(&text) {
        return refuse(
            format!("`{}` cannot be the name of an attribute", text.escape_debug()),
            "write letters, digits and `_`, such as `model`; `context.model` is then its name in rules",
        );
    }
    if TAKEN.contains(&text) {
        return refuse(format!("`context.{text}` is something else"), "take another name");
    }
    Ok(text.to_owned())
}

/// Reports what extracts say that other nouns contradict.
pub(in crate::policy) fn check(draft: &Draft, report: &dyn Fn(Problem)) {
    let mut types: BTreeMap<&str, (AttributeType, &Entry<Extract>)> = BTreeMap::new();
    for (index, extract) in draft.extracts.iter().enumerate() {
        let declared: Vec<&Entry<OperationNoun>> = draft
            .operations
            .iter()
            .filter(|operation| operation.noun.target == extract.noun.target)
            .collect();
        known_operations(extract, &extract.noun.operations, &declared, report);
        let earlier = draft.extracts[..index].iter().filter(|e| e.noun.target == extract.noun.target);
        match &extract.noun.gives {
            Gives::Calls => {
                if declared.iter().all(|operation| operation.noun.calls.is_empty()) {
                    let target = &extract.noun.target;
                    let problem = Problem::at(
                        &extract.at,
                        format!("no operation of `{target}` says which `calls` it is"),
                    );
                    report(problem.help("give operations `calls = [\"name\", \"prefix.*\"]`"));
                }
                twice(extract, earlier.filter(|e| e.noun.gives == Gives::Calls), "calls", report);
            }
            Gives::Attribute(name, kind) => {
                captured(extract, name, (&declared, &draft.operations), report);
                let same = |e: &&Entry<Extract>| matches!(&e.noun.gives, Gives::Attribute(n, _) if n == name);
                twice(extract, earlier.filter(same), &format!("`context.{name}`"), report);
                let (first, place) = types.entry(name).or_insert((*kind, extract));
                if first != kind {
                    let problem =
                        Problem::at(extract.place("type"), format!("`context.{name}` has two types"));
                    report(
                        problem
                            .also(&place.at, "another type here")
                            .help("an attribute has one type everywhere"),
                    );
                }
            }
        }
    }
    for operation in draft.operations.iter().filter(|operation| !operation.noun.calls.is_empty()) {
        let target = &operation.noun.target;
        if !draft.extracts.iter().any(|e| e.noun.target == *target && e.noun.gives == Gives::Calls) {
            let problem = Problem::at(
                operation.place("calls"),
                format!("nothing says where calls stand on `{target}`"),
            );
            report(problem.help("declare an `[[extract]]` of that target with `as = \"operation\"`"));
        }
    }
}

/// Operations that narrow something must be the target's.
pub(in crate::policy) fn known_operations<T>(
    of: &Entry<T>,
    named: &[String],
    declared: &[&Entry<OperationNoun>],
    report: &dyn Fn(Problem),
) {
    let known = || declared.iter().map(|operation| operation.noun.name.as_str());
    for name in named.iter().filter(|name| !known().any(|known| known == name.as_str())) {
        let problem = Problem::at(
            of.place("operations"),
            format!("no `operation` of that target is called `{}`", name.escape_debug()),
        );
        report(problem.help_if(did_you_mean(name, known())));
    }
}

fn twice<'e>(
    extract: &Entry<Extract>,
    mut earlier: impl Iterator<Item = &'e Entry<Extract>>,
    what: &str,
    report: &dyn Fn(Problem),
) {
    if let Some(first) = earlier.next() {
        let problem = Problem::at(&extract.at, format!("two extracts of one target give {what}"));
        report(problem.also(&first.at, "first here").help("make one of them, whose `from` is a list"));
    }
}

fn captured(
    extract: &Entry<Extract>,
    name: &str,
    (declared, all): (&[&Entry<OperationNoun>], &[Entry<OperationNoun>]),
    report: &dyn Fn(Problem),
) {
    // Operations of one name are one action, on whichever target.
    let about: Vec<&str> = declared.iter().map(|operation| operation.noun.name.as_str()).collect();
    let operations = all.iter().filter(|operation| {
        let name = operation.noun.name.as_str();
        about.contains(&name) && extract.noun.is_about(name)
    });
    let is = |part: &PathPart| matches!(part, PathPart::Capture(capture) if capture == name);
    let catches =
        |operation: &&Entry<OperationNoun>| operation.noun.paths.iter().any(|path| path.parts.iter().any(is));
    if let Some(operation) = operations.into_iter().find(catches) {
        let problem = Problem::at(
            extract.place("as"),
            format!("`context.{name}` is a capture of an operation already"),
        );
        report(problem.also(operation.place("paths"), "here").help("rename one of them"));
    }
}
