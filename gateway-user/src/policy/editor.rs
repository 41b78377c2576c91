//! What an editor should know of `*.toml` files: every noun and key as a JSON Schema (draft 2020-12). Made from one table,
//! to which the reader is held by a test.
//!
//! Checks less than the reader does: names, places and what nouns say about each other are the reader's.

use serde_json::{Map, Value, json};

use super::nouns::Detector;

/// What stands under a key.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Flag,
    Whole(u64, u64),
    Texts,
    OneOrMore,
    Wholes(u64, u64),
    Word(&'static [&'static str]),
    Words(&'static [&'static str]),
    Detectors,
    /// A date or a moment; TOML's own are strings to whoever checks them.
    Moment,
    /// Plain values by name.
    Values,
    /// A number, also a fraction.
    Number(u64, u64),
    /// Any value.
    Any,
}

/// A key: its name, whether it is required, what stands under it, what it means.
type Key = (&'static str, bool, Kind, &'static str);

const UID_MAX: u64 = u32::MAX as u64 - 1;
const NAME: Key = ("name", true, Kind::Text, "unique name: A-Z a-z 0-9 . _ -");

const NOUNS: &[(&str, &str, &[Key])] = &[
    (
        "target",
        "something protected",
        &[
            NAME,
            (
                "direction",
                true,
                Kind::Word(&["inbound", "outbound"]),
                "a service of this host, or what this host calls",
            ),
            ("ports", true, Kind::Wholes(1, 65_535), "TCP ports"),
            ("addresses", false, Kind::Texts, "addresses or CIDR blocks"),
            ("hosts", false, Kind::Texts, "host names, or *. and a name"),
            ("protocol", false, Kind::Word(&["http"]), "what is spoken"),
            ("tls", false, Kind::Word(&["off"]), "TLS"),
            ("require", false, Kind::Word(&["user", "workload", "both", "peer"]), "who must be known"),
            ("forward_token", false, Kind::Flag, "whether the caller's token goes on"),
            ("labels", false, Kind::Texts, "key=value"),
            (
                "units",
                false,
                Kind::Texts,
                "inbound: systemd units it runs in, if in network namespaces of their own",
            ),
            ("containers", false, Kind::Texts, "inbound: container ids it runs in"),
            ("cgroups", false, Kind::Texts, "inbound: cgroups it runs in"),
            (
                "mode",
                false,
                Kind::Word(&["enforce", "observe"]),
                "observe: record what would happen, refuse nothing",
            ),
            ("until", false, Kind::Moment, "when observing ends; required with observe"),
        ],
    ),
    (
        "operation",
        "what a request on a target is",
        &[
            NAME,
            ("target", true, Kind::Text, "a target"),
            ("methods", false, Kind::Texts, "methods in upper case; absent: any"),
            ("paths", true, Kind::Texts, "path patterns: /v1/models/{model}/**"),
            ("calls", false, Kind::Texts, "names that an extract finds in the body: tools/call"),
        ],
    ),
    (
        "guard",
        "processes whose whole traffic is intercepted",
        &[
            NAME,
            ("units", false, Kind::Texts, "systemd units or slices"),
            ("containers", false, Kind::Texts, "container ids"),
            ("uids", false, Kind::Wholes(0, UID_MAX), "user ids"),
            ("cgroups", false, Kind::Texts, "paths below the cgroup v2 root"),
            ("dns", false, Kind::Texts, "servers that may be asked over UDP"),
            ("unix_sockets", false, Kind::Texts, "Unix sockets outside that may be connected to"),
        ],
    ),
    (
        "exempt",
        "processes that stay outside the gate",
        &[
            NAME,
            ("uids", true, Kind::Wholes(0, UID_MAX), "real user ids"),
            ("units", false, Kind::Texts, "systemd units or slices that they must be in besides"),
            ("reason", true, Kind::Text, "why"),
        ],
    ),
    (
        "role",
        "a name for whoever comes in by one of its ways",
        &[
            NAME,
            ("groups", false, Kind::Texts, "groups of a user"),
            ("provider", false, Kind::Text, "an identity provider"),
            ("claims", false, Kind::Values, "claims of a user's token"),
            ("max_token_life", false, Kind::Text, "tokens that live no longer: 15m"),
            ("key_sha256", false, Kind::OneOrMore, "digests of static keys"),
            ("key_header", false, Kind::Text, "the field those keys come in"),
            ("units", false, Kind::Texts, "systemd units of a process, or slices that hold it"),
            ("uids", false, Kind::Wholes(0, UID_MAX), "user ids of a process"),
            ("executables", false, Kind::Texts, "absolute paths or sha256:DIGEST; narrows units and uids"),
        ],
    ),
    (
        "person",
        "one human",
        &[
            NAME,
            ("subject", false, Kind::OneOrMore, "provider/sub"),
            ("uid", false, Kind::Whole(1, UID_MAX), "the uid they log in with"),
            ("roles", false, Kind::Texts, "roles they hold as an approver"),
            (
                "owns",
                false,
                Kind::Texts,
                "processes they answer for: unit:NAME, container:ID, uid:N, guard:NAME",
            ),
        ],
    ),
    (
        "identity_provider",
        "who vouches for users",
        &[
            NAME,
            ("issuer", true, Kind::Text, "iss, compared exactly"),
            ("audience", true, Kind::OneOrMore, "aud: one of these"),
            ("algorithms", true, Kind::Texts, "asymmetric signature algorithms"),
            ("jwks", true, Kind::Text, "an https:// URL or a file"),
            ("groups_claim", false, Kind::Text, "the claim that lists groups"),
        ],
    ),
    (
        "mask",
        "what is hidden, where, and how",
        &[
            NAME,
            ("targets", true, Kind::Texts, "targets"),
            ("on", false, Kind::Word(&["response", "request", "both"]), "in which messages"),
            ("find", false, Kind::Detectors, "detectors"),
            ("fields", false, Kind::Texts, "JSON paths or key names"),
            ("columns", false, Kind::Texts, "columns of tables"),
            ("headers", false, Kind::Texts, "header fields"),
            (
                "style",
                false,
                Kind::Word(&["stars", "keep-last-4", "keyed-hash", "drop"]),
                "what stands in the place",
            ),
        ],
    ),
    (
        "detector",
        "what masks may find, by its shape",
        &[
            NAME,
            ("pattern", true, Kind::Text, "a regular expression"),
            ("keywords", false, Kind::Texts, "words of which one must stand near"),
            ("min_entropy", false, Kind::Number(0, 8), "bits a character, at least"),
            ("match", true, Kind::Texts, "texts that it must find something in"),
            ("pass", true, Kind::Texts, "texts that it must find nothing in"),
        ],
    ),
    (
        "extract",
        "what rules see of a request beside its head",
        &[
            ("target", true, Kind::Text, "a target"),
            ("operations", false, Kind::Texts, "only for these operations"),
            ("from", true, Kind::OneOrMore, "a JSON path, query.NAME or header.NAME"),
            ("as", true, Kind::Text, "an attribute of the context, or calls"),
            ("type", false, Kind::Word(&["string", "long", "bool", "strings"]), "of the attribute"),
        ],
    ),
    (
        "rewrite",
        "what is changed on the way",
        &[
            NAME,
            ("targets", true, Kind::Texts, "targets"),
            ("operations", false, Kind::Texts, "only for these operations"),
            ("on", true, Kind::Word(&["request", "response"]), "which message"),
            ("header", false, Kind::Text, "a header field"),
            ("field", false, Kind::Text, "a member at the top of the JSON body"),
            ("set", false, Kind::Any, "its new value"),
            ("remove", false, Kind::Flag, "that it goes"),
        ],
    ),
    (
        "credential",
        "what the gate puts into requests, of its vault",
        &[
            NAME,
            ("targets", true, Kind::Texts, "targets that get it"),
            ("header", false, Kind::Text, "the header field; absent: authorization"),
            ("scheme", false, Kind::Word(&["bearer", "basic", "plain"]), "what stands before it"),
        ],
    ),
    (
        "approval",
        "who must say yes, and how many",
        &[
            NAME,
            ("approvers", true, Kind::Texts, "persons, or roles that persons hold"),
            ("needed", false, Kind::Whole(1, 100), "distinct persons"),
            ("timeout", false, Kind::Text, "from the demand to its expiry: 15m"),
            (
                "window",
                false,
                Kind::Text,
                "how long a yes lasts for the same subject and rules: 1h; absent: once",
            ),
            ("hold", false, Kind::Word(&["wait", "retry"]), "whether the client waits or asks again"),
            ("reason", false, Kind::Word(&["required", "optional"]), "whether the requester must say why"),
            ("comment", false, Kind::Word(&["required", "optional"]), "whether an approver must say why"),
            (
                "owner",
                false,
                Kind::Word(&["required", "optional"]),
                "whether somebody must own the asking process",
            ),
            ("on_timeout", false, Kind::Word(&["deny"]), "what silence means"),
            ("notify", false, Kind::Texts, "channels that hear of its demands"),
            (
                "on_unavailable",
                false,
                Kind::Word(&["deny", "safe-mode"]),
                "what happens while all those channels fail",
            ),
        ],
    ),
    (
        "notify",
        "a channel to people",
        &[
            NAME,
            ("kind", true, Kind::Word(&["webhook"]), "how they are told"),
            ("url", true, Kind::Text, "where to, https://"),
            ("secret", true, Kind::Text, "the file of the signing secret"),
        ],
    ),
    (
        "hours",
        "named hours of the week",
        &[
            NAME,
            ("zone", true, Kind::Text, "a name of the IANA time zone database"),
            (
                "days",
                false,
                Kind::Words(&["mon", "tue", "wed", "thu", "fri", "sat", "sun"]),
                "the days they begin on",
            ),
            ("from", true, Kind::Text, "the first minute in them: 09:00"),
            ("to", true, Kind::Text, "the first minute no longer in them: 17:00"),
        ],
    ),
];

/// The JSON Schema of `*.toml` files with nouns.
#[must_use]
pub fn toml_schema() -> Value {
    let nouns: Map<String, Value> = NOUNS
        .iter()
        .map(|(noun, about, keys)| {
            let required: Vec<&str> = keys.iter().filter(|key| key.1).map(|key| key.0).collect();
            let properties: Map<String, Value> =
                keys.iter().map(|key| (key.0.to_owned(), property(key))).collect();
            let table = json!({
                "type": "object",
                "additionalProperties": false,
                "required": required,
                "properties": properties,
            });
            ((*noun).to_owned(), json!({ "description": about, "type": "array", "items": table }))
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Nouns of a Tidegate policy directory",
        "type": "object",
        "additionalProperties": false,
        "properties": nouns,
    })
}

fn property((_, _, kind, about): &Key) -> Value {
    let list = |items: Value| json!({ "type": "array", "minItems": 1, "items": items });
    let text = || json!({ "type": "string" });
    let whole = |low: u64, high: u64| json!({ "type": "integer", "minimum": low, "maximum": high });
    let mut property = match *kind {
        Kind::Text | Kind::Moment => text(),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Whole(low, high) => whole(low, high),
        Kind::Texts => list(text()),
        Kind::OneOrMore => json!({ "anyOf": [text(), list(text())] }),
        Kind::Wholes(low, high) => list(whole(low, high)),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Words(words) => list(json!({ "enum": words })),
        Kind::Detectors => {
            list(json!({ "type": "string", "examples": Detector::ALL.map(Detector::name).to_vec() }))
        }
        Kind::Number(low, high) => json!({ "type": ["number", "integer"], "minimum": low, "maximum": high }),
        Kind::Any => json!({}),
        Kind::Values => {
            let plain = json!({ "type": ["string", "boolean", "integer"] });
            json!({ "type": "object", "minProperties": 1, "additionalProperties": { "anyOf": [plain, list(plain.clone())] } })
        }
    };
    property["description"] = json!(about);
    property
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::policy::declare;
    use crate::policy::document::asked_of;
    use crate::policy::files::Files;
    use crate::policy::problem::Problems;

    #[test]
    fn the_schema_has_every_key_that_the_reader_asks_for_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let bare: String = declare::BUILT.iter().map(|noun| format!("[[{noun}]]\n")).collect();
        fs::write(dir.path().join("a.toml"), bare).unwrap();
        let files = Files::read(dir.path()).unwrap();
        let asked = asked_of(|| drop(declare::read(&files, &RefCell::new(Problems::default()))));
        for noun in declare::BUILT {
            let (_, _, keys) = NOUNS
                .iter()
                .find(|(known, _, _)| *known == noun)
                .unwrap_or_else(|| panic!("`{noun}` is missing in the table of policy/editor.rs"));
            let known: BTreeSet<&str> = keys.iter().map(|key| key.0).collect();
            assert_eq!(asked.get(noun), Some(&known), "`{noun}` in policy/editor.rs and as it is read");
        }
        assert_eq!(NOUNS.len(), declare::BUILT.len());
    }

    /// Whether a value is what a schema of the kind made above says; else where it is not.
    fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let wrong = || Err(format!("{at}: {value} is not {schema}"));
        if let Some(any) = schema["anyOf"].as_array() {
            return if any.iter().any(|one| check(one, value, at).is_ok()) { Ok(()) } else { wrong() };
        }
        if let Some(words) = schema["enum"].as_array() {
            return if words.contains(value) { Ok(()) } else { wrong() };
        }
        let kind = match value {
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Null => "null",
        };
        let kinds = &schema["type"];
        if kinds.is_null() {
            return Ok(());
        }
        if *kinds != kind && !kinds.as_array().is_some_and(|kinds| kinds.contains(&json!(kind))) {
            return wrong();
        }
        match value {
            Value::Number(number) => {
                let (low, high) = (schema["minimum"].as_u64(), schema["maximum"].as_u64());
                let fits = number
                    .as_u64()
                    .is_some_and(|n| low.is_none_or(|low| low <= n) && high.is_none_or(|high| n <= high));
                if fits { Ok(()) } else { wrong() }
            }
            Value::Array(items) if items.is_empty() && schema["minItems"] == 1 => wrong(),
            Value::Array(items) => items.iter().try_for_each(|item| check(&schema["items"], item, at)),
            Value::Object(fields) => {
                for required in schema["required"].as_array().into_iter().flatten() {
                    if !fields.contains_key(required.as_str().unwrap()) {
                        return Err(format!("{at}: no {required}"));
                    }
                }
                fields.iter().try_for_each(|(key, value)| {
                    let known = schema["properties"].get(key);
                    let other = Some(&schema["additionalProperties"]).filter(|other| other.is_object());
                    match known.or(other) {
                        Some(schema) => check(schema, value, &format!("{at}.{key}")),
                        None => Err(format!("{at}: no key {key}")),
                    }
                })
            }
            _ => Ok(()),
        }
    }

    fn conforms(text: &str) -> Result<(), String> {
        let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
        check(&toml_schema(), &plain(toml::Value::Table(table)), "")
    }

    /// As a checker of JSON sees it: moments are strings.
    fn plain(value: toml::Value) -> Value {
        match value {
            toml::Value::Datetime(moment) => json!(moment.to_string()),
            toml::Value::Array(items) => items.into_iter().map(plain).collect(),
            toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, plain(value))).collect(),
            other => serde_json::to_value(other).unwrap(),
        }
    }

    fn nouns_below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                nouns_below(&path, found);
            } else if name.ends_with(".toml") && !name.ends_with(".cases.toml") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_file_of_nouns_that_ships_conforms_to_the_schema() {
        let mut found = Vec::new();
        nouns_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies"), &mut found);
        assert!(found.len() >= 4, "{found:?}");
        for path in found {
            conforms(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
        }
    }

    #[test]
    fn what_the_reader_refuses_by_its_shape_the_schema_refuses_too() {
        let target = "[[target]]\nname = \"t\"\ndirection = \"inbound\"\nports = [80]\n";
        conforms(target).unwrap();
        conforms(&format!("{target}mode = \"observe\"\nuntil = 2026-12-01\n")).unwrap();
        conforms("[[role]]\nname = \"r\"\nclaims = { a = [\"x\"], b = true }\nkey_sha256 = \"00\"\n")
            .unwrap();
        for wrong in [
            format!("{target}port = [80]\n"),
            target.replace("[80]", "[]"),
            target.replace("[80]", "[0]"),
            target.replace("[80]", "[70000]"),
            target.replace("[80]", "\"80\""),
            target.replace("inbound", "inwards"),
            target.replace("name = \"t\"\n", ""),
            target.replace("[[target]]", "[[targets]]"),
            target.replace("[[target]]", "[target]"),
            format!("{target}forward_token = 1\n"),
            "[[role]]\nname = \"r\"\nclaims = { a = 1.5 }\n".to_owned(),
        ] {
            assert!(conforms(&wrong).is_err(), "{wrong}");
        }
    }
}
