//! Reads `[[rewrite]]`, and says which apply to a request. Refuses to touch what frames a message, names its parties, or
//! says how its body is read.

use std::sync::Arc;

use super::declare::{Draft, Entry};
use super::document::{At, Fields};
use super::extract::noun::known_operations;
use super::nouns::{Part, Rewrite, Side};
use super::parse::Misread;
use super::problem::Problem;
use super::set::Set;
use crate::wire::field::{FORWARDED, HOP_BY_HOP, REASON};

/// Fields that no rewrite may touch, and why not.
const UNTOUCHED: [(&str, &str); 19] = [
    ("accept-encoding", "the gate asks for what it can read"),
    ("authorization", "it proves who asks; what the target gets of it says `forward_token`"),
    ("content-encoding", "it says how the body is read"),
    ("content-length", "it frames the message"),
    ("content-range", "it says which part of a body this is"),
    ("content-type", "it says how the body is read"),
    ("expect", "it frames the message"),
    ("host", "it names the target"),
    ("trailer", "it frames the message"),
    ("range", "it says which part of a body is asked for"),
    ("if-range", "it says which part of a body is asked for"),
    ("x-http-method", "some servers obey it instead of the request line"),
    ("x-http-method-override", "some servers obey it instead of the request line"),
    ("x-method-override", "some servers obey it instead of the request line"),
    ("x-original-url", "some servers obey it instead of the request line"),
    ("x-rewrite-url", "some servers obey it instead of the request line"),
    (REASON, "it is said to whoever must approve"),
    ("via", "it frames the message"),
    ("www-authenticate", "it says how to prove who asks"),
];

/// Reads one `[[rewrite]]`. `None` where it cannot be used; that is then reported.
pub(super) fn read(fields: &Fields<'_>, name: &At<String>, targets: Vec<String>) -> Option<Entry<Rewrite>> {
    let operations = fields.texts("operations");
    fields.distinct("operations", &operations);
    if !fields.has("on") {
        fields.need_text("on");
    }
    let on = fields.word("on", &[("request", Side::Request), ("response", Side::Response)], &[]);
    let header_name = fields.text("header").and_then(|text| fields.parse(&text, header));
    let field = fields.text("field");
    let set = fields.json("set");
    let remove = fields.boolean("remove");
    fields.finish(&["query", "path", "status"]);
    if fields.has("header") == fields.has("field") {
        let what = if fields.has("field") { "a header and a field" } else { "nothing" };
        let problem = Problem::at(fields.place(), format!("this rewrite changes {what}"));
        fields.report(problem.help("give it either `header` or `field`"));
    }
    if let Some(no) = remove.as_ref().filter(|remove| !remove.value) {
        fields.report(Problem::at(&no.place, "`remove = false` removes nothing").help("remove the key"));
    }
    if fields.has("set") == fields.has("remove") {
        let what = if fields.has("set") { "`set` and `remove`" } else { "neither `set` nor `remove`" };
        let problem = Problem::at(fields.place(), format!("this rewrite has {what}"));
        fields.report(problem.help("write `set = VALUE`, or `remove = true`"));
    }
    let part = match (header_name, field) {
        (Some(header), _) => {
            value(fields, set.as_ref());
            Part::Header(header.value)
        }
        (None, field) => Part::Field(field?.value),
    };
    let rewrite = Rewrite {
        name: name.value.clone(),
        targets,
        operations: operations.into_iter().map(|name| name.value).collect(),
        on: on?.value,
        part,
        set: set.map(|set| set.value),
    };
    Some(Entry { noun: rewrite, at: name.place.clone(), places: fields.places() })
}

/// A header field's name.
pub(super) fn header(text: &str) -> Result<String, Misread> {
    let refuse = |message: String, help: &str| Err(Misread { message, help: Some(help.to_owned()) });
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > 256 || !text.bytes().all(token) {
        let help = "write it without the colon: x-tenant";
        return refuse(format!("`{}` is not the name of a header field", text.escape_debug()), help);
    }
    let name = text.to_ascii_lowercase();
    let twin = name.replace('_', "-");
    let listed = UNTOUCHED.iter().find(|(untouched, _)| *untouched == twin).map(|(_, why)| *why);
    let why = if HOP_BY_HOP.contains(&twin.as_str()) {
        Some("it ends at the gate")
    } else if FORWARDED.contains(&twin.as_str()) {
        Some("the gate itself says for whom it forwards")
    } else {
        listed
    };
    match why {
        Some(why) => refuse(format!("the header `{name}` is not for a policy file to write"), why),
        None => Ok(name),
    }
}

/// What a header field is set to.
fn value(fields: &Fields<'_>, set: Option<&At<serde_json::Value>>) {
    let Some(set) = set else { return };
    let visible = |text: &str| {
        text.len() <= 4096 && text.bytes().all(|b| (0x20..0x7F).contains(&b)) && text.trim() == text
    };
    if !set.value.as_str().is_some_and(visible) {
        let problem = Problem::at(&set.place, "this cannot be the value of a header field");
        fields.report(problem.help("write a string of visible ASCII characters, at most 4096 of them"));
    }
}

/// Reports what rewrites say that other nouns contradict.
pub(super) fn check(draft: &Draft, report: &dyn Fn(Problem)) {
    for (index, rewrite) in draft.rewrites.iter().enumerate() {
        let noun = &rewrite.noun;
        let declared: Vec<_> = draft
            .operations
            .iter()
            .filter(|operation| noun.targets.contains(&operation.noun.target))
            .collect();
        known_operations(rewrite, &noun.operations, &declared, report);
        let meets = |other: &&Entry<Rewrite>| {
            let other = &other.noun;
            let shared = other.operations.iter().any(|name| noun.operations.contains(name));
            other.on == noun.on
                && other.part == noun.part
                && other.targets.iter().any(|target| noun.targets.contains(target))
                && (shared || other.operations.is_empty() || noun.operations.is_empty())
        };
        if let Some(first) = draft.rewrites[..index].iter().find(meets) {
            let text = format!("`{}` and `{}` rewrite the same thing", noun.name, first.noun.name);
            report(Problem::at(&rewrite.at, text).also(&first.at, "first here").help("make them one"));
        }
    }
}

impl Set {
    /// The rewrites of messages of one side that belong to this request.
    #[must_use]
    pub fn rewrites_for(&self, target: &str, method: &str, path: &str, on: Side) -> Vec<Arc<Rewrite>> {
        let mut found: Vec<Arc<Rewrite>> = self
            .rewrites()
            .iter()
            .filter(|rewrite| rewrite.on == on && rewrite.targets.iter().any(|name| name == target))
            .cloned()
            .collect();
        if found.iter().any(|rewrite| !rewrite.operations.is_empty()) {
            let is = self.classify(target, method, path);
            found.retain(|rewrite| {
                rewrite.operations.is_empty()
                    || is.iter().any(|(operation, _)| rewrite.operations.contains(&operation.name))
            });
        }
        found
    }
}
