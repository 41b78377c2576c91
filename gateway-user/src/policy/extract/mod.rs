//! What `[[extract]]` takes out of a request for rules to look at: attributes, and the calls it carries. Pure.
//!
//! Refuses a request whose value has two readings; a value of another type is an attribute that is not there.

mod body;
pub(super) mod noun;
mod query;

#[cfg(test)]
mod tests;

use crate::limits::{EXTRACTED_TEXT_BYTES_MAX, EXTRACTED_VALUES_MAX};
use crate::operation::{Attribute, Extracted, HttpRequest};
use crate::wire::media_type::MediaType;

use self::body::{Found, Wanted};
use super::nouns::{AttributeType, Extract, Gives, JsonStep, Source};
use super::set::Set;

/// Why a request that rules depend on cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The HTTP status that fits: 400, 413 or 415.
    pub status: u16,
    /// What the client may be told.
    pub shown: &'static str,
    /// Why, in words for the operator.
    pub why: String,
}

impl Unread {
    fn new(status: u16, shown: &'static str, why: impl Into<String>) -> Self {
        Self { status, shown, why: why.into() }
    }

    fn twofold(why: impl Into<String>) -> Self {
        Self::new(400, "a part of the request that rules depend on has two readings", why)
    }
}

impl Set {
    /// The extracts that apply to a request, by what it is.
    fn extracts_for(&self, target: &str, method: &str, path: &str) -> Vec<&Extract> {
        let extracts = self.extracts_of(target);
        if extracts.is_empty() {
            return Vec::new();
        }
        let is: Vec<_> =
            self.classify(target, method, path).into_iter().map(|(operation, _)| operation).collect();
        if is.is_empty() && self.operations_declared(target).next().is_some() {
            // It is denied whatever it carries.
            return Vec::new();
        }
        let calls = is.iter().any(|operation| !operation.calls.is_empty());
        let applies = |extract: &&Extract| match extract.gives {
            Gives::Calls => calls,
            Gives::Attribute(..) => {
                extract.operations.is_empty()
                    || is.iter().any(|operation| extract.operations.contains(&operation.name))
            }
        };
        extracts.iter().filter(applies).collect()
    }

    /// Whether rules about this request depend on its body, so that it must be known whole before it is judged.
    #[must_use]
    pub fn reads_body(&self, target: &str, request: &HttpRequest) -> bool {
        request.body_length != Some(0)
            && self
                .extracts_for(target, &request.method, &request.path)
                .iter()
                .any(|extract| extract.from.iter().any(|from| matches!(from, Source::Body(_))))
    }

    /// Whether rules about this request may depend on more than its line and its length.
    #[must_use]
    pub fn looks_into(&self, target: &str, request: &HttpRequest) -> bool {
        let bodiless = request.body_length == Some(0);
        let extracts = self.extracts_for(target, &request.method, &request.path);
        let mut sources = extracts.iter().flat_map(|extract| &extract.from);
        sources.any(|from| !(bodiless && matches!(from, Source::Body(_))))
    }

    /// What the extracts of the target find in a request with this body.
    ///
    /// # Errors
    /// When a part that they look at has no single reading, or is larger than the bounds.
    pub fn extract(&self, target: &str, request: &HttpRequest, body: &[u8]) -> Result<Extracted, Unread> {
        let extracts = self.extracts_for(target, &request.method, &request.path);
        let mut out = Extracted::default();
        if extracts.is_empty() {
            return Ok(out);
        }
        let values = Values::read(&extracts, request, body)?;
        out.uncalled = values.uncalled;
        for extract in extracts {
            let mut found = Vec::new();
            for from in &extract.from {
                found.extend(values.of(from)?);
            }
            bounded(&found)?;
            match &extract.gives {
                Gives::Attribute(name, kind) => {
                    if *kind != AttributeType::Strings && found.len() > 1 {
                        return Err(Unread::twofold(format!(
                            "`{name}` stands in the request more than once"
                        )));
                    }
                    if let Some(value) = typed(*kind, &found) {
                        out.attributes.insert(name.clone(), value);
                    }
                }
                Gives::Calls => calls(found, &mut out),
            }
        }
        Ok(out)
    }

    /// The attributes that requests which are this operation (or `http`) may have.
    pub(super) fn attributes_of<'s>(
        &'s self,
        target: &str,
        action: &'s str,
    ) -> impl Iterator<Item = &'s str> {
        self.extracts_of(target).iter().filter_map(move |extract| match &extract.gives {
            Gives::Attribute(name, _) if extract.is_about(action) => Some(name.as_str()),
            Gives::Attribute(..) | Gives::Calls => None,
        })
    }
}

impl Extract {
    /// Whether requests that are this operation have it.
    pub(super) fn is_about(&self, operation: &str) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|name| name == operation)
    }
}

/// Whether a body with such a head can be read by rules.
///
/// # Errors
/// When it is called something else than JSON in UTF-8, or is compressed.
pub fn readable(request: &HttpRequest) -> Result<(), Unread> {
    let values = |wanted: &str| {
        let named = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| String::from_utf8_lossy(value).trim().to_ascii_lowercase()).collect::<Vec<_>>()
    };
    if let Some(coding) = values("content-encoding").iter().find(|coding| *coding != "identity") {
        return Err(Unread::new(
            415,
            "rules depend on this body: send it without Content-Encoding",
            format!("the body is in the coding `{}`, and rules depend on it", coding.escape_debug()),
        ));
    }
    let types = values("content-type");
    if let [only] = types.as_slice()
        && is_json(only)
    {
        return Ok(());
    }
    Err(Unread::new(
        415,
        "rules depend on this body: send it as application/json in UTF-8",
        format!("the body is called {:?}, and rules depend on it as JSON", types.join(", ")),
    ))
}

/// Whether a content type means one JSON text in UTF-8, whoever reads it.
fn is_json(content_type: &str) -> bool {
    let read = MediaType::read(content_type);
    let named = read.essence().is_some_and(|essence| {
        matches!(essence, "application/json" | "text/json" | "application/x-json")
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    });
    let in_utf8 = |charset: Option<&str>| {
        charset.is_none_or(|charset| {
            ["utf-8", "utf8", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
        })
    };
    named && read.parameter("charset").is_ok_and(in_utf8)
}

/// The values that the sources of some extracts lead to, each body path read once.
struct Values<'a> {
    request: &'a HttpRequest,
    by_path: Vec<(&'a str, Vec<Found>)>,
    uncalled: bool,
}

impl<'a> Values<'a> {
    fn read(extracts: &[&'a Extract], request: &'a HttpRequest, body: &[u8]) -> Result<Self, Unread> {
        let mut wanted: Vec<Wanted<'a>> = Vec::new();
        for extract in extracts {
            for from in &extract.from {
                if let Source::Body(path) = from {
                    wanted.push(Wanted { path, call: extract.gives == Gives::Calls });
                }
            }
        }
        let mut this = Self { request, by_path: Vec::new(), uncalled: false };
        if wanted.is_empty() || body.is_empty() {
            return Ok(this);
        }
        readable(request)?;
        let read = body::read(body, &wanted)?;
        this.uncalled = read.uncalled;
        this.by_path = wanted.iter().map(|wanted| wanted.path.text.as_str()).zip(read.found).collect();
        Ok(this)
    }

    fn of(&self, from: &Source) -> Result<Vec<Found>, Unread> {
        match from {
            Source::Body(path) => {
                let found = self.by_path.iter().find(|(text, _)| *text == path.text);
                Ok(found.map(|(_, found)| found.clone()).unwrap_or_default())
            }
            Source::Query(name) => query::values(self.request.query.as_deref().unwrap_or_default(), name),
            Source::Header(name) => {
                let fields = || self.request.headers.iter();
                let alike =
                    |field: &str| field.replace('_', "-").eq_ignore_ascii_case(&name.replace('_', "-"));
                if fields().any(|(field, _)| alike(field) && !field.eq_ignore_ascii_case(name)) {
                    return Err(Unread::twofold(format!("a header reads as `{name}` on some servers")));
                }
                let fields = fields().filter(|(field, _)| field.eq_ignore_ascii_case(name));
                let word = |(_, value): &(String, Vec<u8>)| match std::str::from_utf8(value) {
                    Ok(text) => Ok(Found::Word(text.trim_matches([' ', '\t']).to_owned())),
                    Err(_) => Err(Unread::twofold(format!("the header `{name}` is not UTF-8"))),
                };
                fields.map(word).collect()
            }
        }
    }
}

fn bounded(found: &[Found]) -> Result<(), Unread> {
    let texts = |found: &Found| match found {
        Found::Text(text) | Found::Word(text) => (1, text.len()),
        Found::Texts(texts) => (texts.len(), texts.iter().map(String::len).max().unwrap_or(0)),
        Found::Number(_) | Found::Bool(_) | Found::Other => (1, 0),
    };
    let count: usize = found.iter().map(|found| texts(found).0).sum();
    let longest = found.iter().map(|found| texts(found).1).max().unwrap_or(0);
    if count > EXTRACTED_VALUES_MAX || longest > EXTRACTED_TEXT_BYTES_MAX {
        return Err(Unread::new(
            413,
            "a part of the request that rules depend on is too large",
            format!(
                "{count} values, the longest of {longest} bytes; rules are given at most {EXTRACTED_VALUES_MAX} of \
                 {EXTRACTED_TEXT_BYTES_MAX} bytes"
            ),
        ));
    }
    Ok(())
}

/// The attribute of this type that the values found make; `None` where they make none.
fn typed(kind: AttributeType, found: &[Found]) -> Option<Attribute> {
    match (kind, found) {
        (_, []) => None,
        (AttributeType::Strings, found) => {
            let mut all: Vec<String> = Vec::new();
            for value in found {
                let texts = match value {
                    Found::Text(text) | Found::Word(text) => std::slice::from_ref(text),
                    Found::Texts(texts) => texts,
                    Found::Number(_) | Found::Bool(_) | Found::Other => return None,
                };
                for text in texts {
                    if !all.contains(text) {
                        all.push(text.clone());
                    }
                }
            }
            Some(Attribute::Strings(all))
        }
        (AttributeType::String, [Found::Text(text) | Found::Word(text)]) => {
            Some(Attribute::String(text.clone()))
        }
        (AttributeType::Long, [Found::Word(word)]) if !word.starts_with('+') => {
            word.parse().ok().map(Attribute::Long)
        }
        (AttributeType::Long, [Found::Number(written)]) => whole(written).map(Attribute::Long),
        (AttributeType::Bool, [Found::Bool(truth)]) => Some(Attribute::Bool(*truth)),
        (AttributeType::Bool, [Found::Word(word)]) => word.parse().ok().map(Attribute::Bool),
        _ => None,
    }
}

fn calls(found: Vec<Found>, out: &mut Extracted) {
    for value in found {
        match value {
            Found::Text(call) | Found::Word(call) if out.calls.contains(&call) => {}
            Found::Text(call) | Found::Word(call) => out.calls.push(call),
            _ => out.uncalled = true,
        }
    }
}

/// Puts values in the place of those that extracts would find, as long as they could.
pub(super) fn said(
    set: &Set,
    target: &str,
    said: &serde_json::Map<String, serde_json::Value>,
    out: &mut Extracted,
) -> Result<(), String> {
    use serde_json::Value;
    let texts = |value: &Value| match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    for (name, value) in said {
        let gives = set.extracts_of(target).iter().map(|extract| &extract.gives).find(|gives| match gives {
            Gives::Attribute(known, _) => known == name,
            Gives::Calls => name == noun::CALLS,
        });
        let wrong = || format!("`{name}` cannot be {value}");
        match gives {
            None => return Err(format!("no `extract` of `{target}` gives `{}`", name.escape_debug())),
            Some(Gives::Calls) => out.calls = texts(value).ok_or_else(wrong)?,
            Some(Gives::Attribute(_, kind)) => {
                let value = match kind {
                    AttributeType::String => value.as_str().map(|text| Attribute::String(text.to_owned())),
                    AttributeType::Long => value.as_i64().map(Attribute::Long),
                    AttributeType::Bool => value.as_bool().map(Attribute::Bool),
                    AttributeType::Strings => texts(value).map(Attribute::Strings),
                };
                out.attributes.insert(name.clone(), value.ok_or_else(wrong)?);
            }
        }
    }
    Ok(())
}

/// The whole number that a JSON number is: `12`, `1.20e1`. `None` for a fraction, and beyond 64 bits.
fn whole(written: &str) -> Option<i64> {
    let (sign, rest) = written.strip_prefix('-').map_or(("", written), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let after = after.trim_end_matches('0');
    let digits = [before, after].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let places = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(after.len()).ok()?)?;
    let (digits, zeros) = match usize::try_from(places) {
        Ok(zeros) => (digits, zeros),
        Err(_) => {
            let spare = digits.len() - digits.trim_end_matches('0').len();
            let cut = usize::try_from(places.checked_neg()?).ok().filter(|cut| *cut <= spare)?;
            (&digits[..digits.len() - cut], 0)
        }
    };
    // Nineteen digits are enough for 64 bits.
    if digits.len().checked_add(zeros)? > 19 {
        return None;
    }
    format!("{sign}{digits}{}", "0".repeat(zeros)).parse().ok()
}

/// Whether a call matches a pattern in which `*` stands for any characters.
pub(super) fn is_like(pattern: &str, call: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == call };
    let Some(mut rest) = call.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether a path leads to at most one value.
pub(super) fn is_single(steps: &[JsonStep]) -> bool {
    steps.iter().all(|step| matches!(step, JsonStep::Member(_) | JsonStep::Index(_)))
}
