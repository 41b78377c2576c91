//! The Cedar schema of a policy directory, generated from its nouns, so that a misspelt name or attribute is an
//! error when the rules are loaded.
//!
//! Gives no attribute that the gate does not compute.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cedar_policy::SchemaFragment;

use super::nouns::{AttributeType, Extract, Gives, OperationNoun, PathPart};

/// The entities and the general actions: the same for every directory.
const FIXED: &str = r#"// Who asks. A user never has the roles of a process, nor a process those of a user.
entity User in [Role] {
  provider: String, // the [[identity_provider]] that vouched
  subject: String,
  groups: Set<String>,
};
entity Workload in [Role, Unit, Container, Guard] {
  uid: Long,
  login_uid?: Long,
  image?: String, // of its container, as the runtime's own files name it
  pod?: String, // the uid of its Kubernetes pod
  executable?: { path: String, sha256: String },
};
entity Peer { address: ipaddr };

// What they have, or are part of.
entity Role;
entity Unit;
entity Container;
entity Guard;

// What it is about.
entity Target in [Label];
entity Label;
entity Mask;
entity Direction enum ["inbound", "outbound"];

type Request = {
  peer: ipaddr,
  direction: Direction,
  guard?: Guard,
  workload?: Workload,
  hours: Set<String>, // names of the [[hours]] that last now
  method: String, // as sent
  host: String, // lower case, no port
  path: String, // as sent; canonical
  segments: Set<String>, // of the path
  query?: String, // as sent, without the `?`
  body_length?: Long, // bytes; absent when chunked
  // What extracts find, on targets without operations.
};

type Opening = {
  peer: ipaddr,
  direction: Direction,
  guard?: Guard,
  workload?: Workload,
  hours: Set<String>,
  address: ipaddr, // where to
  port: Long,
};

type Reveal = {
  peer: ipaddr,
  direction: Direction,
  guard?: Guard,
  workload?: Workload,
  hours: Set<String>,
  target: Target, // whose answers the mask would hide
};

// Every HTTP request, whatever it is: `action in Action::"request"`.
action "request";

// A request on a target that declares no operations.
action "http" in ["request"] appliesTo {
  principal: [User, Workload, Peer],
  resource: [Target],
  context: Request,
};

// Opening a connection.
action "open" appliesTo {
  principal: [User, Workload, Peer],
  resource: [Target],
  context: Opening,
};

// Seeing what a mask hides.
action "reveal" appliesTo {
  principal: [User, Workload, Peer],
  resource: [Mask],
  context: Reveal,
};
"#;

/// Where in it the attributes go that extracts give to requests without operations.
const EXTRACTED: &str = "  // What extracts find, on targets without operations.\n";

/// Actions that every directory has. No operation may be called so.
pub(super) const GENERAL: [&str; 4] = ["request", "http", "open", "reveal"];

/// The schema in Cedar's own notation. Operations without a name of their own are left out.
pub(super) fn text<'a>(
    operations: impl IntoIterator<Item = &'a OperationNoun>,
    extracts: &[&Extract],
) -> String {
    let mut by_name: BTreeMap<&str, Vec<&OperationNoun>> = BTreeMap::new();
    let named = |operation: &&OperationNoun| {
        !operation.name.is_empty() && !GENERAL.contains(&operation.name.as_str())
    };
    for operation in operations.into_iter().filter(named) {
        by_name.entry(&operation.name).or_default().push(operation);
    }
    let declaring: BTreeSet<&str> =
        by_name.values().flatten().map(|operation| operation.target.as_str()).collect();
    let anywhere = extracts.iter().filter(|extract| !declaring.contains(extract.target.as_str()));
    let mut out = FIXED.replace(EXTRACTED, &attributes(anywhere, "  "));
    for (name, declared) in by_name {
        let _ = write!(out, "\n// {}\naction \"{name}\" in [\"request\"] appliesTo {{\n", about(&declared));
        out.push_str("  principal: [User, Workload, Peer],\n  resource: [Target],\n  context: {\n");
        out.push_str("    peer: ipaddr, direction: Direction, guard?: Guard, workload?: Workload, hours: Set<String>,\n");
        out.push_str("    method: String, host: String, path: String, segments: Set<String>,\n");
        out.push_str("    query?: String, body_length?: Long,\n");
        for (capture, always) in captures(&declared) {
            let optional = if always { "" } else { "?" };
            let _ = writeln!(out, "    \"{capture}\"{optional}: String,");
        }
        let here = |extract: &&&Extract| {
            extract.is_about(name) && declared.iter().any(|operation| operation.target == extract.target)
        };
        out.push_str(&attributes(extracts.iter().filter(here), "    "));
        out.push_str("  },\n};\n");
    }
    out
}

/// The attributes that extracts give, one line each. Any of them may be missing in a request.
fn attributes<'a>(extracts: impl Iterator<Item = &'a &'a Extract>, indent: &str) -> String {
    let named: BTreeMap<&str, &str> = extracts
        .filter_map(|extract| match &extract.gives {
            Gives::Attribute(name, kind) => Some((name.as_str(), kind.cedar())),
            Gives::Calls => None,
        })
        .collect();
    named.into_iter().fold(String::new(), |mut out, (name, kind)| {
        let _ = writeln!(out, "{indent}\"{name}\"?: {kind},");
        out
    })
}

impl AttributeType {
    fn cedar(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::Long => "Long",
            Self::Bool => "Bool",
            Self::Strings => "Set<String>",
        }
    }
}

/// The same schema as Cedar's JSON.
///
/// # Errors
/// What Cedar says, where it cannot.
pub fn cedar_json(text: &str) -> Result<serde_json::Value, String> {
    let (fragment, _) = SchemaFragment::from_cedarschema_str(text).map_err(|error| error.to_string())?;
    fragment.to_json_value().map_err(|error| error.to_string())
}

fn about(declared: &[&OperationNoun]) -> String {
    let one = |operation: &&OperationNoun| {
        let methods = if operation.methods.is_empty() { "*".to_owned() } else { operation.methods.join("|") };
        let paths: Vec<&str> = operation.paths.iter().map(|path| path.text.as_str()).collect();
        format!("{}: {methods} {}", operation.target, paths.join(" "))
    };
    declared.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Captures of an operation's name, and whether every pattern of that name has them.
fn captures<'a>(declared: &[&'a OperationNoun]) -> BTreeMap<&'a str, bool> {
    let patterns: Vec<BTreeSet<&str>> = declared
        .iter()
        .flat_map(|&operation| operation.paths.iter().map(move |pattern| (operation, pattern)))
        .map(|(operation, pattern)| {
            let capture = |part: &'a PathPart| match part {
                PathPart::Capture(name) => Some(name.as_str()),
                PathPart::Literal(_) | PathPart::Rest => None,
            };
            let called = (!operation.calls.is_empty()).then_some("call");
            pattern.parts.iter().filter_map(capture).chain(called).collect()
        })
        .collect();
    let all: BTreeSet<&str> = patterns.iter().flatten().copied().collect();
    all.into_iter().map(|name| (name, patterns.iter().all(|pattern| pattern.contains(name)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::path_pattern;

    fn operation(name: &str, target: &str, paths: &[&str]) -> OperationNoun {
        OperationNoun {
            name: name.into(),
            target: target.into(),
            methods: vec!["GET".into()],
            paths: paths.iter().map(|path| path_pattern(path).unwrap()).collect(),
            calls: Vec::new(),
        }
    }

    #[test]
    fn cedar_reads_what_is_generated() {
        let operations =
            [operation("read", "a", &["/v1/{x}", "/v1/{x}/{y}"]), operation("read", "b", &["/{x}/**"])];
        let text = text(&operations, &[]);
        assert!(text.contains("    \"x\": String,"), "{text}");
        assert!(text.contains("    \"y\"?: String,"), "{text}");
        drop(cedar_policy::Schema::from_cedarschema_str(&text).unwrap());
        drop(cedar_policy::Schema::from_cedarschema_str(&super::text([], &[])).unwrap());
        drop(cedar_policy::Schema::from_json_value(cedar_json(&text).unwrap()).unwrap());
    }

    #[test]
    fn no_capture_and_no_name_breaks_the_schema() {
        let words = ["in", "if", "true", "has", "like", "is", "then", "__cedar", "set", "long", "_"];
        let operations: Vec<OperationNoun> = words
            .iter()
            .flat_map(|word| {
                [operation(word, "a", &[&format!("/{{{word}}}")]), operation("http", "a", &["/x"])]
            })
            .collect();
        drop(cedar_policy::Schema::from_cedarschema_str(&text(&operations, &[])).unwrap());
    }
}
