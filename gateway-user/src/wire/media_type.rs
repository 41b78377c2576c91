//! The value of a Content-Type field (RFC 9110 section 8.3.1), read in one way or not at all.

use super::field::is_token;

/// A media type and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: Option<String>,
    /// Names in lower case with their values; `None` where they cannot be read.
    parameters: Option<Vec<(String, String)>>,
}

/// A parameter that is written twice and differs, or parameters that cannot be read: what follows could mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclear;

impl MediaType {
    /// Reads a field value.
    #[must_use]
    pub fn read(value: &str) -> Self {
        let (essence, rest) = value.find(';').map_or((value, ""), |at| value.split_at(at));
        let essence = essence.trim_matches([' ', '\t']);
        let whole = essence
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_token(kind.as_bytes()) && is_token(subtype.as_bytes()));
        Self { essence: whole.then(|| essence.to_ascii_lowercase()), parameters: parameters(rest) }
    }

    /// `type/subtype` in lower case; `None` where it is not two tokens, so that readers may take different parts of it.
    #[must_use]
    pub fn essence(&self) -> Option<&str> {
        self.essence.as_deref()
    }

    /// Whether its parameters can be read.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.parameters.is_some()
    }

    /// The value of a parameter; `None` where there is none.
    ///
    /// # Errors
    /// [`Unclear`].
    pub fn parameter(&self, name: &str) -> Result<Option<&str>, Unclear> {
        let all = self.parameters.as_ref().ok_or(Unclear)?;
        let mut named = all.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = named.next();
        if named.any(|other| Some(other) != first) { Err(Unclear) } else { Ok(first) }
    }

    /// The same with another value for a parameter, as a field value; `None` where it could not be read.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Option<String> {
        let mut written = self.essence.clone()?;
        for (found, old) in self.parameters.as_ref()? {
            let value = if found == name { value } else { old };
            let value = match is_token(value.as_bytes()) {
                true => value.to_owned(),
                false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
            };
            written.push_str(&format!("; {found}={value}"));
        }
        Some(written)
    }
}

/// Reads `;name=value` again and again. Values without quotes may hold what a token may not, as far as nobody could end
/// them earlier: boundaries are often written so.
fn parameters(mut rest: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let blank = |text: &str| text.len() - text.trim_start_matches([' ', '\t']).len();
    loop {
        rest = &rest[blank(rest)..];
        if rest.is_empty() {
            return Some(found);
        }
        rest = rest.strip_prefix(';')?;
        rest = &rest[blank(rest)..];
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        if !is_token(name.as_bytes()) {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = after.find([';', ' ', '\t']).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                let plain = |b: u8| b.is_ascii_graphic() && !b"\",\\".contains(&b);
                if !value.bytes().all(plain) {
                    return None;
                }
                (value.to_owned(), after)
            }
        };
        found.push((name.to_ascii_lowercase(), value));
        rest = after;
    }
}

/// What stands before the closing quote, and what after it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_with_their_parameters() {
        let read = MediaType::read("Multipart/Form-Data ; Boundary=\"a;b\\\"c\"; charset=UTF-8;");
        assert_eq!(read.essence(), Some("multipart/form-data"));
        assert_eq!(read.parameter("boundary"), Ok(Some("a;b\"c")));
        assert_eq!(read.parameter("charset"), Ok(Some("UTF-8")));
        assert_eq!(read.parameter("header"), Ok(None));
        let again = read.with("charset", "utf-8").unwrap();
        assert_eq!(again, "multipart/form-data; boundary=\"a;b\\\"c\"; charset=utf-8");
        assert_eq!(MediaType::read(&again).parameter("boundary"), Ok(Some("a;b\"c")));
        assert_eq!(
            MediaType::read("multipart/mixed; boundary==_Part/1").parameter("boundary"),
            Ok(Some("=_Part/1"))
        );
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_not_read() {
        for essence in [
            "",
            "json",
            "application/x-www-form-urlencoded, application/a+json",
            "application/x-www-form-urlencoded application/a+json",
            "a/b/c",
            "/json",
            "text/",
            "te\"xt/json",
        ] {
            assert_eq!(MediaType::read(essence).essence(), None, "{essence:?}");
        }
        for parameters in [
            "a/b; boundary=\"x",
            "a/b; boundary=\"x\"y",
            "a/b; boundary = x",
            "a/b; boundary=x, y",
            "a/b; boundary=x y",
            "a/b; boundary",
            "a/b; bound\u{e4}ry=x",
        ] {
            assert_eq!(MediaType::read(parameters).parameter("boundary"), Err(Unclear), "{parameters:?}");
        }
        let twice = MediaType::read("a/b; boundary=A; x=\"; boundary=A\"; boundary=B");
        assert_eq!(twice.parameter("boundary"), Err(Unclear));
        assert_eq!(MediaType::read("a/b; boundary=A; boundary=A").parameter("boundary"), Ok(Some("A")));
    }
}
