//! JSON paths of masks and extracts: a subset of RFC 9535 that names values, never computes.
//!
//! Refuses filters, slices, unions and negative indexes instead of hiding something else than was meant.

use super::nouns::{JsonPath, JsonStep};

/// Steps of one path. Deeper documents are reached with `..name`.
const STEPS_MAX: usize = 64;

/// Reads `$.a.b`, `$["a"]`, `$.a[0]`, `$.a[*]`, `$.*`, `$..name`.
///
/// # Errors
/// What is wrong, in words, when it is anything else.
pub(super) fn parse(text: &str) -> Result<JsonPath, String> {
    let mut path = parse_exact(text)?;
    for step in path.steps.iter_mut().filter(|step| **step == JsonStep::Element) {
        *step = JsonStep::Any;
    }
    Ok(path)
}

/// The same, but `[*]` is any element of an array, and no member of an object.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn parse_exact(text: &str) -> Result<JsonPath, String> {
    let Some(mut rest) = text.strip_prefix('$') else {
        return Err("a JSON path starts with `$`".to_owned());
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, tail) = step(rest)?;
        steps.push(step);
        rest = tail;
    }
    match steps.len() {
        0 => Err("`$` alone is the whole document; name a value in it".to_owned()),
        1..=STEPS_MAX => Ok(JsonPath { text: text.to_owned(), steps }),
        _ => Err(format!("a JSON path has at most {STEPS_MAX} steps")),
    }
}

fn step(rest: &str) -> Result<(JsonStep, &str), String> {
    if let Some(tail) = rest.strip_prefix("..") {
        if tail.starts_with(['[', '*']) {
            return Err("after `..` a name is needed: `$..name`".to_owned());
        }
        let (name, tail) = member(tail)?;
        return Ok((JsonStep::Descendant(name), tail));
    }
    if let Some(tail) = rest.strip_prefix('.') {
        if let Some(tail) = tail.strip_prefix('*') {
            return Ok((JsonStep::Any, tail));
        }
        let (name, tail) = member(tail)?;
        return Ok((JsonStep::Member(name), tail));
    }
    let Some(inner) = rest.strip_prefix('[') else {
        return Err(format!(
            "`{}` is no step; write `.name`, `[\"name\"]`, `[0]` or `[*]`",
            rest.escape_debug()
        ));
    };
    bracket(inner)
}

fn bracket(inner: &str) -> Result<(JsonStep, &str), String> {
    if let Some(quote) = inner.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let (name, tail) = quoted(&inner[1..], quote)?;
        let tail = tail.strip_prefix(']').ok_or("`]` is missing after the quoted name")?;
        return Ok((JsonStep::Member(name), tail));
    }
    let (inside, tail) = inner.split_once(']').ok_or("`]` is missing")?;
    if inside == "*" {
        return Ok((JsonStep::Element, tail));
    }
    let canonical = inside == "0" || !inside.starts_with('0');
    match inside.parse() {
        Ok(index) if canonical && inside.bytes().all(|b| b.is_ascii_digit()) => {
            Ok((JsonStep::Index(index), tail))
        }
        _ => Err(format!(
            "`[{}]` is not supported; write `[0]`, `[*]` or `[\"name\"]` (no slices, filters, unions or negative indexes)",
            inside.escape_debug()
        )),
    }
}

fn member(text: &str) -> Result<(String, &str), String> {
    let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || !c.is_ascii();
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    if end == 0 {
        return Err("a name is missing after the dot".to_owned());
    }
    Ok((text[..end].to_owned(), &text[end..]))
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((name, &text[at + c.len_utf8()..])),
            '\\' => match chars.next() {
                Some((_, c)) if c == quote || c == '\\' || c == '/' => name.push(c),
                _ => return Err("in a quoted name only \\\\, \\/ and the quote can be escaped".to_owned()),
            },
            c => name.push(c),
        }
    }
    Err("the quoted name does not end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supported_steps_are_read() {
        let member = |name: &str| JsonStep::Member(name.to_owned());
        let path = parse(r#"$.items[*]["card no"][0].*..ssn"#).unwrap();
        let descendant = JsonStep::Descendant("ssn".to_owned());
        let steps = [
            member("items"),
            JsonStep::Any,
            member("card no"),
            JsonStep::Index(0),
            JsonStep::Any,
            descendant,
        ];
        assert_eq!(path.steps, steps);
        assert_eq!(parse(r"$['a\'b']").unwrap().steps, [member("a'b")]);
    }

    #[test]
    fn what_would_compute_is_refused() {
        for wrong in [
            "",
            "a",
            "$",
            "$.",
            "$a",
            "$..",
            "$..*",
            "$..[0]",
            "$[",
            "$[]",
            "$[-1]",
            "$[01]",
            "$[1:2]",
            "$[0,1]",
            "$[?@.a]",
            "$['a'",
            "$['a",
            "$[\"a\\n\"]",
            "$.a b",
            "$[+1]",
            "$[99999999999999999999]",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
