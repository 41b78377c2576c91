//! Changes messages as `[[rewrite]]`s say: header fields, and members at the top level of a JSON body while it streams.
//!
//! Every other byte is passed on unchanged, and the result does not depend on where the body was cut. Refuses a body that
//! is no JSON object: what cannot be changed does not go on as it was.

mod json;

#[cfg(test)]
mod tests;

pub use json::Json;

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::json::NotJson;
use crate::policy::nouns::{Part, Rewrite};
use crate::wire::field::is_twin;

/// Why a body cannot be rewritten. Nothing of it may follow what has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It is not JSON.
    #[error("a rewrite applies to the body, and it is not JSON: {0}")]
    NotJson(NotJson),
    /// It is another JSON value than an object.
    #[error("a rewrite of a member applies to the body, and it is not a JSON object")]
    NotObject,
    /// A name and the white space around it are longer than the bound.
    #[error(
        "a member of the JSON body stands behind more than {max} bytes of name and white space",
        max = crate::limits::REWRITE_HOLD_BACK_BYTES_MAX
    )]
    TooLong,
}

/// What is done to messages of one side. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    headers: Arc<[Header]>,
    fields: Arc<[Field]>,
}

/// A change of a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    rewrite: String,
    name: String,
    set: Option<String>,
}

/// A change of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    rewrite: String,
    name: String,
    /// The name as readers see it that pass over case.
    folded: String,
    /// The new value, as JSON.
    set: Option<String>,
}

impl Plan {
    /// Does what these rewrites say.
    #[must_use]
    pub fn new(rewrites: &[Arc<Rewrite>]) -> Self {
        let (mut headers, mut fields) = (Vec::new(), Vec::new());
        for rewrite in rewrites {
            let by = rewrite.name.clone();
            match &rewrite.part {
                Part::Header(name) => {
                    let set = rewrite.set.as_ref().and_then(|set| set.as_str()).map(str::to_owned);
                    headers.push(Header { rewrite: by, name: name.clone(), set });
                }
                Part::Field(name) => fields.push(Field {
                    rewrite: by,
                    name: name.clone(),
                    folded: folded(name),
                    set: rewrite.set.as_ref().map(ToString::to_string),
                }),
            }
        }
        Self { headers: headers.into(), fields: fields.into() }
    }

    /// Whether it changes bodies.
    #[must_use]
    pub fn has_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The header fields that it sets or removes, in lower case.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.headers.iter().map(|header| header.name.to_ascii_lowercase()).collect()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.fields.is_empty()
    }

    /// Changes fields as the engine keeps them; gives the rewrites that made a difference.
    pub fn headers(&self, fields: &mut HeaderMap) -> Vec<String> {
        let mut applied = Vec::new();
        for header in self.headers.iter() {
            let same: Vec<HeaderName> =
                fields.keys().filter(|name| header.is(name.as_str())).cloned().collect();
            let value = header.set.as_deref().and_then(|set| HeaderValue::from_str(set).ok());
            let as_wished = match (&value, same.as_slice()) {
                (None, []) => true,
                (Some(value), [only]) => fields.get_all(only).iter().eq([value]),
                _ => false,
            };
            if as_wished {
                continue;
            }
            for name in same {
                fields.remove(name);
            }
            if let (Some(value), Ok(name)) = (value, HeaderName::try_from(header.name.as_str())) {
                fields.insert(name, value);
            }
            applied.push(header.rewrite.clone());
        }
        applied
    }

    /// Changes fields as the screen read them; gives the rewrites that made a difference.
    pub fn list<V>(&self, fields: &mut Vec<(String, V)>, value: impl Fn(&str, &str) -> V) -> Vec<String>
    where
        V: PartialEq,
    {
        let mut applied = Vec::new();
        for header in self.headers.iter() {
            let wished = header.set.as_deref().map(|set| value(&header.name, set));
            let same = || fields.iter().filter(|(name, _)| header.is(name));
            let as_wished = match &wished {
                None => same().next().is_none(),
                Some(wished) => same().map(|(_, value)| value).eq([wished]),
            };
            if as_wished {
                continue;
            }
            fields.retain(|(name, _)| !header.is(name));
            fields.extend(wished.map(|wished| (header.name.clone(), wished)));
            applied.push(header.rewrite.clone());
        }
        applied
    }

    /// Starts on one body.
    #[must_use]
    pub fn body(&self) -> Json {
        Json::new(Arc::clone(&self.fields))
    }

    /// Rewrites a whole body; gives the rewrites that made a difference, too.
    ///
    /// # Errors
    /// See [`RewriteError`].
    pub fn whole(&self, body: &[u8]) -> Result<(Vec<u8>, Vec<String>), RewriteError> {
        let mut json = self.body();
        let mut out = Vec::with_capacity(body.len());
        json.push(body, &mut out)?;
        json.finish(&mut out)?;
        Ok((out, json.applied()))
    }
}

impl Header {
    /// Whether a field is this one, also as servers read it to which `_` is `-`.
    fn is(&self, name: &str) -> bool {
        is_twin(&self.name, name)
    }
}

/// A name as readers see it that pass over case.
fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}
