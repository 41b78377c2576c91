//! What extracts take out of requests, and every way in which a request could be read twice.

use std::path::Path;

use super::*;
use crate::limits::JSON_DEPTH_MAX;
use crate::policy::files::Files;
use crate::policy::read_files;

const NOUNS: &str = r#"
[[target]]
name = "llm"
direction = "outbound"
ports = [80]
addresses = ["10.0.0.1"]

[[extract]]
target = "llm"
from = "$.model"
as = "model"

[[extract]]
target = "llm"
from = "$.limits.max"
type = "long"
as = "limit"

[[extract]]
target = "llm"
from = "$.stream"
type = "bool"
as = "stream"

[[extract]]
target = "llm"
from = ["$.tools[*].name", "$.tags", "query.tag"]
type = "strings"
as = "tools"

[[extract]]
target = "llm"
from = "query.dry run"
type = "bool"
as = "dry_run"

[[extract]]
target = "llm"
from = "header.x-cost"
type = "long"
as = "cost"
"#;

fn set() -> Set {
    set_of(&[("a.toml", NOUNS)]).unwrap()
}

fn set_of(files: &[(&str, &str)]) -> Result<Set, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let of = |dir: &Path| read_files(&Files::read(dir)?);
    of(dir.path()).map_err(|problems| problems.render(false))
}

fn request(query: Option<&str>, fields: &[(&str, &str)]) -> HttpRequest {
    let mut headers = vec![("Content-Type".to_owned(), b"application/json".to_vec())];
    headers.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())));
    HttpRequest {
        method: "POST".into(),
        host: "llm".into(),
        path: "/v1/chat".into(),
        query: query.map(str::to_owned),
        headers,
        body_length: None,
        extracted: Extracted::default(),
    }
}

fn extract(body: &str) -> Result<Vec<(String, Attribute)>, Unread> {
    extract_bytes(body.as_bytes())
}

fn extract_bytes(body: &[u8]) -> Result<Vec<(String, Attribute)>, Unread> {
    set().extract("llm", &request(None, &[]), body).map(|found| found.attributes.into_iter().collect())
}

#[test]
fn values_become_attributes_of_their_type() {
    let found = extract(
        r#" {"mod\u0065l": "small", "limits": {"max": 12, "min": 1}, "stream": false,
             "tools": [{"name": "a"}, {"name": "b", "x": {"name": "no"}}, {"name": "a"}], "tags": ["t"]} "#,
    );
    let texts = |list: &[&str]| Attribute::Strings(list.iter().map(|&text| text.to_owned()).collect());
    let expected = [
        ("limit".to_owned(), Attribute::Long(12)),
        ("model".to_owned(), Attribute::String("small".into())),
        ("stream".to_owned(), Attribute::Bool(false)),
        ("tools".to_owned(), texts(&["a", "b", "t"])),
    ];
    assert_eq!(found.unwrap(), expected);
}

#[test]
fn a_value_of_another_type_is_no_attribute() {
    for body in [
        "{}",
        "[]",
        "1",
        r#"{"model": 1, "limits": {"max": "12"}, "stream": 0, "tags": "x", "tools": [{"name": 1}]}"#,
        r#"{"model": null, "limits": [12], "stream": "true"}"#,
        r#"{"model": ["small"], "limits": {"max": 1.5}}"#,
        r#"{"limits": {"max": 9223372036854775808}}"#,
        r#"{"tags": ["a", 1]}"#,
        r#"[{"model": "small"}]"#,
        r#"{"x": {"model": "small"}}"#,
    ] {
        assert_eq!(extract(body).unwrap(), [], "{body}");
    }
}

#[test]
fn whole_numbers_are_taken_however_they_are_written() {
    for (written, number) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("0e99999999999999999999", Some(0)),
        ("0.000", Some(0)),
        ("7", Some(7)),
        ("-7.0", Some(-7)),
        ("1e3", Some(1000)),
        ("10.50e1", Some(105)),
        ("1200e-2", Some(12)),
        ("1200e-3", None),
        ("1.5", None),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("1e19", None),
        ("1e999999999999999999999", None),
        ("1e-999999999999999999999", None),
    ] {
        assert_eq!(whole(written), number, "{written}");
    }
}

#[test]
fn a_body_with_two_readings_is_refused() {
    let deep = |depth: usize| [&b"[".repeat(depth)[..], &b"]".repeat(depth)].concat();
    let bodies: [&[u8]; 16] = [
        br#"{"model": "a", "model": "b"}"#,
        br#"{"model": "a", "m\u006fdel": "b"}"#,
        br#"{"model": "a", "Model": "b"}"#,
        br#"{"MODEL": "b"}"#,
        "{\"ſtream\": true}".as_bytes(),
        br#"{"limits": {"max": 1}, "limits": {"max": 2}}"#,
        br#"{"x": {"y": 1, "y": 2}}"#,
        br#"{"model": "a"} {"model": "b"}"#,
        br#"{"model": "a"}x"#,
        br#"{"model": "a""#,
        br#"{"model": "\ud800"}"#,
        br#"{"model": "a\u0000b"}"#,
        b"{\"model\": \"\xff\"}",
        b"\xef\xbb\xbf{\"model\": \"a\"}",
        b"model=a",
        &deep(JSON_DEPTH_MAX + 1),
    ];
    for body in bodies {
        let refused = extract_bytes(body).unwrap_err();
        assert_eq!(refused.status, 400, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(extract_bytes(&deep(JSON_DEPTH_MAX)).unwrap(), []);
}

#[test]
fn a_body_that_is_called_something_else_than_json_is_refused() {
    let of = |fields: &[(&str, &str)]| {
        let mut request = request(None, &[]);
        request.headers = fields.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        set().extract("llm", &request, b"{}").map_err(|unread| unread.status)
    };
    for name in
        ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/vnd.api+json", "text/json"]
    {
        assert!(of(&[("content-type", name)]).is_ok(), "{name}");
    }
    assert!(of(&[("content-type", "application/json"), ("content-encoding", "Identity")]).is_ok());
    for name in [
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data",
        "application/json; charset=utf-16",
        "application/json; charset=utf-7",
        "application/json, text/plain",
        "application/x-www-form-urlencoded, application/a+json",
        "application/x-www-form-urlencoded application/a+json",
        "application/json; charset=utf-8; charset=latin1",
        "application/json; x=\"",
        "",
    ] {
        assert_eq!(of(&[("content-type", name)]), Err(415), "{name}");
    }
    assert_eq!(of(&[]), Err(415));
    assert_eq!(of(&[("content-type", "application/json"), ("content-type", "text/plain")]), Err(415));
    assert_eq!(of(&[("content-type", "application/json"), ("content-encoding", "gzip")]), Err(415));
}

#[test]
fn a_body_of_nothing_has_no_attributes_whatever_it_is_called() {
    let mut request = request(None, &[]);
    request.headers.clear();
    assert_eq!(set().extract("llm", &request, b"").unwrap(), Extracted::default());
}

#[test]
fn parameters_and_header_fields_are_read_once() {
    let of = |query: Option<&str>, fields: &[(&str, &str)]| {
        let found = set().extract("llm", &request(query, fields), b"");
        found.map(|found| found.attributes.into_iter().collect::<Vec<_>>()).map_err(|unread| unread.status)
    };
    let dry = Ok(vec![("dry_run".to_owned(), Attribute::Bool(true))]);
    assert_eq!(of(Some("a=b&dry+run=true"), &[]), dry);
    assert_eq!(of(Some("%64ry%20run=%74rue&"), &[]), dry);
    assert_eq!(of(Some("dry+run=1"), &[]), Ok(vec![]));
    assert_eq!(of(Some("dry+run=true&dry%20run=false"), &[]), Err(400));
    assert_eq!(of(Some("dry+run=%zz"), &[]), Err(400));
    for alike in ["Dry+Run=false", "dry+run[]=false", "dry_run=false", "dry.run=false", "x=1;dry+run=false"] {
        assert_eq!(of(Some(&format!("dry+run=true&{alike}")), &[]), Err(400), "{alike}");
    }
    assert_eq!(of(Some("dry+run=true&dry=false"), &[]), dry);
    assert_eq!(of(Some("dry+run=%ff"), &[]), Err(400));
    assert_eq!(of(Some("dry%00run=true"), &[]), Err(400));
    assert_eq!(of(None, &[("X-Cost", " 12 ")]), Ok(vec![("cost".to_owned(), Attribute::Long(12))]));
    assert_eq!(of(None, &[("x-cost", "+12")]), Ok(vec![]));
    assert_eq!(of(None, &[("x-cost", "1"), ("X-COST", "2")]), Err(400));
    assert_eq!(of(None, &[("x-cost", "1"), ("x_cost", "2")]), Err(400));
}

#[test]
fn what_is_too_large_for_a_rule_is_refused_and_not_passed_over() {
    let text = |bytes: usize| format!(r#"{{"model": "{}"}}"#, "m".repeat(bytes));
    assert_eq!(extract(&text(EXTRACTED_TEXT_BYTES_MAX)).unwrap().len(), 1);
    assert_eq!(extract(&text(EXTRACTED_TEXT_BYTES_MAX + 1)).unwrap_err().status, 413);
    let many = |count: usize| format!(r#"{{"tags": [{}]}}"#, vec!["\"t\""; count].join(","));
    assert_eq!(extract(&many(EXTRACTED_VALUES_MAX)).unwrap().len(), 1);
    assert_eq!(extract(&many(EXTRACTED_VALUES_MAX + 1)).unwrap_err().status, 413);
}

#[test]
fn a_star_stands_for_any_characters() {
    for (pattern, call) in [
        ("a", "a"),
        ("*", ""),
        ("*", "x"),
        ("a*", "a"),
        ("a*c", "abc"),
        ("a*c", "ac"),
        ("*b*", "abc"),
        ("a*b*c", "a1b2c"),
    ] {
        assert!(is_like(pattern, call), "{pattern} {call}");
    }
    for (pattern, call) in [
        ("a", "A"),
        ("a", "ab"),
        ("a*", "b"),
        ("a*c", "ab"),
        ("ab*bc", "abc"),
        ("*b", "ba"),
        ("a*b*c", "acb"),
    ] {
        assert!(!is_like(pattern, call), "{pattern} {call}");
    }
}

const CALLS: &str = r#"
[[target]]
name = "rpc"
direction = "outbound"
ports = [80]
addresses = ["10.0.0.1"]

[[operation]]
name = "health"
target = "rpc"
methods = ["GET"]
paths = ["/health"]

[[operation]]
name = "look"
target = "rpc"
paths = ["/rpc"]
calls = ["balance", "list.*"]

[[operation]]
name = "pay"
target = "rpc"
paths = ["/rpc"]
calls = ["transfer"]

[[extract]]
target = "rpc"
from = ["$.method", "$[*].method"]
as = "operation"
"#;

const CALL_RULES: &str = r#"
permit (principal, action in [Action::"look", Action::"health"], resource == Target::"rpc");
@id("pay") permit (principal, action == Action::"pay", resource == Target::"rpc")
when { context.call == "transfer" && principal is Workload && principal.uid == 7 };
"#;

/// A case with this body expects this.
fn case(name: usize, uid: u32, body: &str, expect: &str) -> String {
    format!(
        "[[case]]\nname = \"{name}\"\nas = {{ uid = {uid} }}\ntarget = \"rpc\"\nmethod = \"POST\"\npath = \"/rpc\"\n\
         body = '{body}'\nexpect = \"{expect}\"\n"
    )
}

#[test]
fn each_call_of_a_batch_is_judged_and_the_strictest_verdict_wins() {
    let cases = [
        (1, r#"{"method": "balance"}"#, "allow"),
        (1, r#"{"method": "list.all", "params": {"method": "transfer"}}"#, "allow"),
        (1, r#"{"method": "transfer"}"#, "deny"),
        (7, r#"{"method": "transfer"}"#, "allow"),
        (7, r#"[{"method": "transfer"}, {"method": "balance"}]"#, "allow"),
        (1, r#"[{"method": "balance"}, {"method": "transfer"}]"#, "deny"),
        (1, r#"[{"method": "balance"}, {"method": "unknown"}]"#, "deny"),
        (1, r#"[{"method": "balance"}, {"id": 1}]"#, "deny"),
        (1, r#"[{"method": "balance"}, {"method": 1}]"#, "deny"),
        (1, r#"{"method": ["balance"]}"#, "deny"),
        (7, r#"[[{"method": "transfer"}], {"method": "balance"}]"#, "deny"),
        (7, r#"["transfer", {"method": "balance"}]"#, "deny"),
        (1, "{}", "deny"),
        (1, "[]", "deny"),
        (1, r#""balance""#, "deny"),
    ];
    let text: String =
        cases.iter().enumerate().map(|(n, (uid, body, expect))| case(n, *uid, body, expect)).collect();
    set_of(&[("a.toml", CALLS), ("a.cedar", CALL_RULES), ("a.cases.toml", &text)]).unwrap();
}

#[test]
fn a_request_that_carries_no_call_where_it_should_is_denied() {
    let case = "[[case]]\nname = \"a\"\nas = { uid = 1 }\ntarget = \"rpc\"\nmethod = \"POST\"\npath = \"/rpc\"\nexpect = \"deny\"\n\
                [[case]]\nname = \"b\"\nas = { uid = 1 }\ntarget = \"rpc\"\nmethod = \"GET\"\npath = \"/health\"\nexpect = \"allow\"\n\
                [[case]]\nname = \"c\"\nas = { uid = 1 }\ntarget = \"rpc\"\nmethod = \"POST\"\npath = \"/rpc\"\nexpect = \"allow\"\n\
                extract = { operation = [\"balance\", \"list.x\"] }\n";
    set_of(&[("a.toml", CALLS), ("a.cedar", CALL_RULES), ("a.cases.toml", case)]).unwrap();
}

#[test]
fn only_requests_with_calls_wait_for_their_body() {
    let set = set_of(&[("a.toml", CALLS), ("a.cedar", CALL_RULES)]).unwrap();
    let reads = |method: &str, path: &str, length: Option<u64>| {
        let (method, path) = (method.to_owned(), path.to_owned());
        set.reads_body("rpc", &HttpRequest { method, path, body_length: length, ..request(None, &[]) })
    };
    assert!(reads("POST", "/rpc", None) && reads("POST", "/rpc", Some(1)));
    assert!(!reads("POST", "/rpc", Some(0)));
    assert!(!reads("GET", "/health", None));
    assert!(!reads("POST", "/elsewhere", None), "it is denied without");
}

#[test]
fn mistakes_are_found_at_load() {
    let target =
        "[[target]]\nname = \"t\"\ndirection = \"outbound\"\nports = [80]\naddresses = [\"10.0.0.1\"]\n";
    let extract = |lines: &str| format!("{target}[[extract]]\ntarget = \"t\"\n{lines}\n");
    for (lines, said) in [
        ("from = \"$.a\"", "has no `as`"),
        ("as = \"a\"", "has no `from`"),
        ("from = \"body.a\"\nas = \"a\"", "is no part of a request"),
        ("from = \"$.a[*]\"\nas = \"a\"", "may lead to several values"),
        ("from = \"$..a\"\nas = \"a\"", "may lead to several values"),
        ("from = [\"$.a\", \"$.b\"]\nas = \"a\"", "one value cannot come from two places"),
        ("from = \"$.a\"\nas = \"path\"", "is something else"),
        ("from = \"$.a\"\nas = \"a-b\"", "cannot be the name"),
        ("from = \"$.a\"\nas = \"if\"", "cannot be the name"),
        ("from = \"$.a\"\nas = \"a\"\ntype = \"int\"", "is no `type`"),
        ("from = \"$.a\"\nas = \"operation\"", "says which `calls`"),
        ("from = \"$.a\"\nas = \"operation\"\ntype = \"string\"", "calls are strings"),
        ("from = \"header.authorization\"\nas = \"a\"", "rules cannot see"),
        ("from = \"header.X-Forwarded-For\"\nas = \"a\"", "rules cannot see"),
        ("from = \"$.a\"\nas = \"a\"\noperations = [\"nothing\"]", "no `operation` of that target"),
        (
            "from = \"$.a\"\nas = \"a\"\n[[extract]]\ntarget = \"t\"\nfrom = \"$.b\"\nas = \"a\"",
            "two extracts",
        ),
        ("from = \"$.a\"\nas = \"a\"\nwhy = 1", "has no key `why`"),
    ] {
        let problems = set_of(&[("a.toml", &extract(lines))]).unwrap_err();
        assert!(problems.contains(said), "{lines}\n{problems}");
    }
    let called =
        format!("{target}[[operation]]\nname = \"o\"\ntarget = \"t\"\npaths = [\"/\"]\ncalls = [\"x\"]\n");
    assert!(set_of(&[("a.toml", &called)]).unwrap_err().contains("nothing says where calls stand"));
    let caught = extract(
        "from = \"$.a\"\nas = \"a\"\n[[operation]]\nname = \"o\"\ntarget = \"t\"\npaths = [\"/{a}\"]",
    );
    assert!(set_of(&[("a.toml", &caught)]).unwrap_err().contains("is a capture"));
}

#[test]
fn a_rule_must_spell_an_attribute_right_and_ask_whether_it_is_there() {
    let rule = |condition: &str| {
        let text = format!(
            "permit (principal, action == Action::\"http\", resource == Target::\"llm\") when {{ {condition} }};"
        );
        set_of(&[("a.toml", NOUNS), ("a.cedar", &text)])
    };
    rule("context has model && context.model == \"small\"").unwrap();
    rule("context has limit && context.limit < 9 && !(context has stream && context.stream)").unwrap();
    rule("context has tools && context.tools.contains(\"a\")").unwrap();
    for (wrong, said) in [
        ("context.model == \"small\"", "optional"),
        ("context has modle && context.modle == \"small\"", "never has `modle`"),
        ("!(context has modle) || context.method == \"GET\"", "never has `modle`"),
        ("context has model && context.model == 1", "type"),
    ] {
        let problems = rule(wrong).unwrap_err();
        assert!(problems.contains(said), "{wrong}\n{problems}");
    }
}

#[test]
fn rules_see_what_was_extracted_and_answers_are_not_mixed_up() {
    let rules = r#"permit (principal, action == Action::"http", resource == Target::"llm")
        when { context has model && context.model like "small*" };"#;
    let case = |n: usize, body: &str, expect: &str| case(n, 1, body, expect).replace("rpc", "llm");
    let cases = [
        case(1, r#"{"model": "small-1"}"#, "allow"),
        case(2, r#"{"model": "large"}"#, "deny"),
        case(3, "{}", "deny"),
        case(4, r#"{"model": ["small-1"]}"#, "deny"),
    ];
    let set = set_of(&[("a.toml", NOUNS), ("a.cedar", rules), ("a.cases.toml", &cases.concat())]).unwrap();
    // The same question but for its body, twice each, so that the second answer comes from memory.
    let subject =
        crate::operation::Subject { user: None, workload: None, peer: "10.0.0.9:1".parse().unwrap() };
    for (body, allowed) in [(r#"{"model": "small"}"#, true), (r#"{"model": "large"}"#, false)].repeat(2) {
        let mut sample = crate::policy::Sample { uid: Some(1), target: "llm".into(), ..Default::default() };
        (sample.method, sample.path, sample.body) =
            (Some("POST".into()), Some("/".into()), Some(body.into()));
        sample.body_length = Some(7);
        let (staged, operation) = sample.stage(&set).unwrap();
        let subject = crate::operation::Subject { workload: staged.workload, ..subject.clone() };
        let asked =
            crate::policy::Question { subject: &subject, guard: None, operation: &operation, approved: &[] };
        let decision = set.recall(jiff::Timestamp::UNIX_EPOCH, &asked);
        assert_eq!(decision.answer == crate::policy::Answer::Allow, allowed, "{body}");
    }
}
