//! Members set and removed in every place of an object, wherever the network cuts it; the rest byte for byte.

use super::*;
use crate::policy::nouns::Side;

fn plan(changes: &[(&str, Option<serde_json::Value>)]) -> Plan {
    let rewrite = |(name, set): &(&str, Option<serde_json::Value>)| {
        Arc::new(Rewrite {
            name: format!("r-{name}"),
            targets: vec!["t".into()],
            operations: Vec::new(),
            on: Side::Request,
            part: Part::Field((*name).into()),
            set: set.clone(),
        })
    };
    Plan::new(&changes.iter().map(rewrite).collect::<Vec<_>>())
}

fn header(name: &str, set: Option<&str>) -> Plan {
    Plan::new(&[Arc::new(Rewrite {
        name: "h".into(),
        targets: vec!["t".into()],
        operations: Vec::new(),
        on: Side::Request,
        part: Part::Header(name.into()),
        set: set.map(serde_json::Value::from),
    })])
}

/// The same in one piece and cut in two at every place, and byte by byte.
fn everywhere(plan: &Plan, body: &str) -> Result<(String, Vec<String>), RewriteError> {
    let cut = |sizes: &[usize]| {
        let (mut json, mut out, mut rest) = (plan.body(), Vec::new(), body.as_bytes());
        for &size in sizes {
            let (piece, tail) = rest.split_at(size.min(rest.len()));
            json.push(piece, &mut out)?;
            rest = tail;
        }
        json.push(rest, &mut out)?;
        json.finish(&mut out)?;
        Ok((String::from_utf8(out).unwrap(), json.applied()))
    };
    let whole = cut(&[]);
    for at in 0..=body.len() {
        assert_eq!(cut(&[at]), whole, "cut at {at}");
    }
    assert_eq!(cut(&vec![1; body.len()]), whole, "byte by byte");
    whole
}

fn assert_becomes(plan: &Plan, body: &str, expected: &str) {
    assert_eq!(everywhere(plan, body).unwrap().0, expected, "{body}");
    assert!(serde_json::from_str::<serde_json::Value>(expected).is_ok());
}

#[test]
fn a_member_is_removed_wherever_it_stands() {
    let plan = plan(&[("x", None)]);
    assert_becomes(&plan, r#"{"x":1}"#, "{}");
    assert_becomes(&plan, r#"{"x":1,"a":2}"#, r#"{"a":2}"#);
    assert_becomes(&plan, r#"{"a":2,"x":"1"}"#, r#"{"a":2}"#);
    assert_becomes(&plan, r#"{"a":2,"x":[1,{"x":3}],"b":3}"#, r#"{"a":2,"b":3}"#);
    assert_becomes(&plan, r#"{"x":1,"x":2,"a":{"x":3},"x":4}"#, r#"{"a":{"x":3}}"#);
    assert_becomes(&plan, "{ \"x\" : 1 ,\n \"a\" : 2.50 , \"x\":null }\n", "{\n \"a\" : 2.50 }\n");
    assert_becomes(&plan, r#"{"\u0078":1,"X":2,"a":"\u0078"}"#, r#"{"a":"\u0078"}"#);
    assert_becomes(&plan, "{}", "{}");
}

#[test]
fn a_member_is_set_in_place_and_added_where_it_is_missing() {
    let plan = plan(&[("x", Some(serde_json::json!({"y": "é\""}))), ("z", None)]);
    let set = r#"{"y":"é\""}"#;
    assert_becomes(&plan, "{}", &format!(r#"{{"x":{set}}}"#));
    assert_becomes(&plan, r#"{"a":[1]}"#, &format!(r#"{{"a":[1],"x":{set}}}"#));
    for value in ["1", "-1.5e3", "\"s\"", "true", "null", "{}", "[[]]", "{\"x\":{\"x\":1}}"] {
        assert_becomes(&plan, &format!(r#"{{"x":{value}}}"#), &format!(r#"{{"x":{set}}}"#));
        let (body, expected) =
            (format!(r#"{{"a":1,"x": {value} , "b":2}}"#), format!(r#"{{"a":1,"x": {set} , "b":2}}"#));
        assert_becomes(&plan, &body, &expected);
    }
    assert_becomes(&plan, r#"{"x":1,"x":2}"#, &format!(r#"{{"x":{set},"x":{set}}}"#));
    assert_becomes(&plan, r#"{"z":1}"#, &format!(r#"{{"x":{set}}}"#));
    // A reader that passes over case must not find another, and one that does not must find it.
    assert_becomes(&plan, r#"{"X":1}"#, &format!(r#"{{"x":{set}}}"#));
}

#[test]
fn which_rewrites_made_a_difference_is_told() {
    let plan = plan(&[("a", None), ("b", Some(true.into()))]);
    assert_eq!(everywhere(&plan, r#"{"c":1}"#).unwrap().1, ["r-b"]);
    assert_eq!(everywhere(&plan, r#"{"A":1,"b":false}"#).unwrap().1, ["r-a", "r-b"]);
}

#[test]
fn what_is_no_object_is_refused_and_nothing_of_it_follows() {
    let plan = plan(&[("x", None)]);
    for wrong in
        ["[]", "1", "\"x\"", "null", "<html>", "{\"a\":1", "{\"a\":1}}", "{\"a\":1} {}", "{\"a\":\"\u{1}\"}"]
    {
        assert!(everywhere(&plan, wrong).is_err(), "{wrong}");
    }
    assert_eq!(everywhere(&plan, "").unwrap().0, "");
    let mut json = plan.body();
    let mut out = Vec::new();
    json.push(b"{\"a\":}", &mut out).unwrap_err();
    let so_far = out.clone();
    json.push(b"1}", &mut out).unwrap_err();
    assert_eq!(out, so_far);
}

#[test]
fn a_name_without_end_is_not_held_without_bound() {
    let plan = plan(&[("x", None)]);
    let max = crate::limits::REWRITE_HOLD_BACK_BYTES_MAX;
    let body = |name: usize| format!("{{\"{}\":1}}", "n".repeat(name));
    assert!(plan.whole(body(max - 2).as_bytes()).is_ok());
    assert_eq!(plan.whole(body(max - 1).as_bytes()), Err(RewriteError::TooLong));
}

#[test]
fn both_forms_of_a_head_are_changed_alike() {
    let heads: [&[(&str, &str)]; 5] = [
        &[],
        &[("x-a", "1")],
        &[("X_A", "1"), ("x-a", "2"), ("b", "3")],
        &[("x-a", "set")],
        &[("x-a", "set"), ("x-a", "set")],
    ];
    for plan in [header("x-a", Some("set")), header("x-a", None)] {
        for head in heads {
            let mut list: Vec<(String, String)> =
                head.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let mut map = HeaderMap::new();
            for (name, value) in head {
                map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_static(value));
            }
            let applied = plan.list(&mut list, |_, value| value.to_owned());
            assert_eq!(applied, plan.headers(&mut map), "{head:?}");
            let mut left: Vec<_> =
                map.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
            left.sort();
            list.sort();
            assert_eq!(list, left);
        }
    }
}
