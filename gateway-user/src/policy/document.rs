//! One TOML file as tables whose every key must be asked for. Reports every mistake in it, each with its place.
//!
//! A key that nobody asked for is an error: unknown, or known and not built yet. No key is ever passed over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parse::Misread;
use super::problem::{Place, Problem, Problems, Source, did_you_mean};
use super::when;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

/// One table being read: `[[target]]` with its keys.
pub(super) struct Fields<'a> {
    source: &'a Arc<Source>,
    noun: &'a str,
    table: &'a DeTable<'a>,
    place: Place,
    asked: RefCell<Vec<&'static str>>,
    problems: &'a RefCell<Problems>,
}

/// Calls `each` with the name and the fields of every table in every `[[array]]` at the top of a file. What else stands
/// at the top is given to `other`. `false` when the file is no TOML at all.
pub(super) fn tables(
    source: &Arc<Source>,
    problems: &RefCell<Problems>,
    known: &[&str],
    other: impl Fn(&str, &Place) -> Problem,
    mut each: impl FnMut(&str, &Fields<'_>),
) -> bool {
    let (root, errors) = DeTable::parse_recoverable(source.text());
    for error in &errors {
        let place = source.place(error.span().unwrap_or(0..0));
        problems.borrow_mut().push(Problem::at(&place, format!("this is not TOML: {}", error.message())));
    }
    if !errors.is_empty() {
        return false;
    }
    for (key, value) in root.get_ref() {
        let at = source.place(key.span());
        let name: &str = key.get_ref();
        if !known.contains(&name) {
            problems.borrow_mut().push(other(name, &at));
            continue;
        }
        let Some(array) = value.get_ref().as_array() else {
            let problem = Problem::at(&at, format!("`{name}` is not a list of tables"));
            problems.borrow_mut().push(problem.help(format!("write `[[{name}]]`")));
            continue;
        };
        for entry in array {
            let Some(table) = entry.get_ref().as_table() else {
                let place = source.place(entry.span());
                problems.borrow_mut().push(Problem::at(&place, format!("this is not a table of `{name}`")));
                continue;
            };
            let place = source.place(entry.span());
            let asked = RefCell::default();
            each(name, &Fields { source, noun: name, table, place, asked, problems });
        }
    }
    true
}

impl<'a> Fields<'a> {
    /// Where the table stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Reports a mistake.
    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The places of all values, by key.
    pub(super) fn places(&self) -> BTreeMap<String, Place> {
        let place = |value: &Spanned<DeValue<'_>>| self.source.place(value.span());
        self.table.iter().map(|(key, value)| (key.get_ref().to_string(), place(value))).collect()
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    fn missing(&self, key: &str) {
        self.report(Problem::at(&self.place, format!("this `{}` has no `{key}`", self.noun)));
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let place = self.source.place(value.span());
        let found = value.get_ref().type_str();
        self.report(Problem::at(&place, format!("`{key}` is {wanted}, not {}", article(found))).label(found));
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Option<At<String>> {
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text.to_owned(), place: self.source.place(value.span()) }),
            None => {
                self.wrong_type(key, value, wanted);
                None
            }
        }
    }

    /// A string, if the key is there.
    pub(super) fn text(&self, key: &'static str) -> Option<At<String>> {
        let value = self.get(key)?;
        self.text_of(key, value, "a string")
    }

    /// A string that must be there.
    pub(super) fn need_text(&self, key: &'static str) -> Option<At<String>> {
        if !self.has(key) {
            self.asked.borrow_mut().push(key);
            self.missing(key);
            return None;
        }
        self.text(key)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &'static str) -> Option<At<bool>> {
        let value = self.get(key)?;
        match value.get_ref().as_bool() {
            Some(truth) => Some(At { value: truth, place: self.source.place(value.span()) }),
            None => {
                self.wrong_type(key, value, "true or false");
                None
            }
        }
    }

    /// A whole number from `low` to `high`.
    pub(super) fn number(&self, key: &'static str, low: u64, high: u64) -> Option<At<u64>> {
        let value = self.get(key)?;
        self.number_of(key, value, low, high)
    }

    /// A number between two whole ones, in thousandths: `3.5` gives 3500.
    pub(super) fn thousandths(&self, key: &'static str, low: u32, high: u32) -> Option<At<u32>> {
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type(key, value, "a number");
                return None;
            }
        };
        let place = self.source.place(value.span());
        match number.filter(|number| (f64::from(low)..=f64::from(high)).contains(number)) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between two bounds of 32 bits"
            )]
            Some(number) => Some(At { value: (number * 1000.0).round() as u32, place }),
            None => {
                self.report(Problem::at(&place, format!("`{key}` goes from {low} to {high}")));
                None
            }
        }
    }

    fn number_of(&self, key: &str, value: &Spanned<DeValue<'_>>, low: u64, high: u64) -> Option<At<u64>> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let place = self.source.place(value.span());
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (low..=high).contains(&number) => Some(At { value: number, place }),
            _ => {
                self.report(Problem::at(&place, format!("`{key}` goes from {low} to {high}")));
                None
            }
        }
    }

    fn list(&self, key: &'static str) -> Option<Vec<&'a Spanned<DeValue<'a>>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list");
            return None;
        };
        if array.is_empty() {
            let place = self.source.place(value.span());
            self.report(
                Problem::at(&place, format!("`{key}` is empty")).help("name something, or remove the key"),
            );
        }
        Some(array.iter().collect())
    }

    /// A list of strings; empty where the key is missing. An empty list in the file is a mistake.
    pub(super) fn texts(&self, key: &'static str) -> Vec<At<String>> {
        let wanted = "a list of strings";
        let list = self.list(key).unwrap_or_default();
        list.into_iter().filter_map(|value| self.text_of(key, value, wanted)).collect()
    }

    /// A list of strings that may be empty; `None` where the key is missing.
    pub(super) fn maybe_empty(&self, key: &'static str) -> Option<Vec<At<String>>> {
        match self.table.get(key).and_then(|value| value.get_ref().as_array()) {
            Some(list) if list.is_empty() => {
                self.asked.borrow_mut().push(key);
                Some(Vec::new())
            }
            _ => self.has(key).then(|| self.texts(key)),
        }
    }

    /// A list of strings, or a single string that means a list of one.
    pub(super) fn one_or_more(&self, key: &'static str) -> Vec<At<String>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(_)) => self.text(key).into_iter().collect(),
            _ => self.texts(key),
        }
    }

    /// A list of strings that must be there.
    pub(super) fn need_texts(&self, key: &'static str) -> Vec<At<String>> {
        if !self.has(key) {
            self.missing(key);
        }
        self.texts(key)
    }

    /// A value of any type that JSON has, too.
    pub(super) fn json(&self, key: &'static str) -> Option<At<serde_json::Value>> {
        let value = self.get(key)?;
        let found = as_json(value.get_ref());
        if found.is_none() {
            self.wrong_type(key, value, "a string, a number, true, false, or a list or table of them");
        }
        Some(At { value: found?, place: self.source.place(value.span()) })
    }

    /// A list of whole numbers from `low` to `high`.
    pub(super) fn numbers(&self, key: &'static str, low: u64, high: u64) -> Vec<At<u64>> {
        let list = self.list(key).unwrap_or_default();
        list.into_iter().filter_map(|value| self.number_of(key, value, low, high)).collect()
    }

    /// A moment, as TOML writes it or as a string: `2026-12-01T09:00:00Z`.
    pub(super) fn moment(&self, key: &'static str) -> Option<At<jiff::Timestamp>> {
        let value = self.get(key)?;
        let place = self.source.place(value.span());
        let text = match value.get_ref() {
            DeValue::Datetime(moment) => moment.to_string(),
            DeValue::String(text) => text.to_string(),
            _ => {
                self.wrong_type(key, value, "a moment");
                return None;
            }
        };
        match text.parse() {
            Ok(value) => Some(At { value, place }),
            Err(_) => {
                let wrong = Problem::at(&place, format!("`{}` is not a moment", text.escape_debug()));
                self.report(wrong.help("write it with its offset from UTC: 2026-12-01T09:00:00Z"));
                None
            }
        }
    }

    /// An end: a date or a moment, as TOML writes it or as a string.
    pub(super) fn end(&self, key: &'static str) -> Option<At<jiff::Timestamp>> {
        let value = self.get(key)?;
        let place = self.source.place(value.span());
        let text = match value.get_ref() {
            DeValue::Datetime(moment) => moment.to_string(),
            DeValue::String(text) => text.to_string(),
            _ => {
                self.wrong_type(key, value, "a date or a moment");
                return None;
            }
        };
        self.parse(&At { value: text, place }, when::end)
    }

    /// A table of values by name: each a text, a truth value, a whole number, or a list of those, given as JSON.
    pub(super) fn json_values(&self, key: &'static str) -> Vec<(At<String>, Vec<String>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return Vec::new();
        };
        if table.is_empty() {
            let place = self.source.place(value.span());
            self.report(
                Problem::at(&place, format!("`{key}` is empty")).help("name something, or remove the key"),
            );
        }
        let mut all = Vec::new();
        for (name, value) in table {
            let at = At { value: name.get_ref().to_string(), place: self.source.place(name.span()) };
            let wanted = value.get_ref().as_array().map_or_else(|| vec![value], |list| list.iter().collect());
            let texts: Vec<String> = wanted.iter().filter_map(|value| json(value.get_ref())).collect();
            if texts.is_empty() || texts.len() < wanted.len() {
                self.wrong_type(
                    &at.value,
                    value,
                    "a string, true or false, a whole number, or a list of these",
                );
                continue;
            }
            all.push((at, texts));
        }
        all
    }

    /// A table inside this one.
    pub(super) fn table(&self, key: &'static str) -> Option<Fields<'a>> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        let place = self.source.place(value.span());
        let (source, problems) = (self.source, self.problems);
        Some(Fields { source, noun: key, table, place, asked: RefCell::default(), problems })
    }

    /// A list of strings, each read by `parse`; what it refuses is reported at its place.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Misread>,
    ) -> Vec<At<T>> {
        self.texts(key).into_iter().filter_map(|text| self.parse(&text, &parse)).collect()
    }

    /// Reads one string by `parse`; what it refuses is reported at its place.
    pub(super) fn parse<T>(
        &self,
        text: &At<String>,
        parse: impl Fn(&str) -> Result<T, Misread>,
    ) -> Option<At<T>> {
        match parse(&text.value) {
            Ok(value) => Some(At { value, place: text.place.clone() }),
            Err(misread) => {
                self.report(Problem::at(&text.place, misread.message).help_if(misread.help));
                None
            }
        }
    }

    /// Reports values that stand twice in a list.
    pub(super) fn distinct<T: PartialEq>(&self, key: &str, list: &[At<T>]) {
        for (index, item) in list.iter().enumerate() {
            if let Some(first) = list[..index].iter().find(|earlier| earlier.value == item.value) {
                let twice = Problem::at(&item.place, format!("this stands twice in `{key}`"));
                self.report(twice.also(&first.place, "first here"));
            }
        }
    }

    /// Reports every key that was not asked for; those in `later` as not supported yet.
    pub(super) fn finish(&self, later: &[&str]) {
        let asked = self.asked.borrow();
        #[cfg(test)]
        ASKED.with_borrow_mut(|all| {
            all.entry(self.noun.to_owned()).or_default().extend(asked.iter().copied());
        });
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if asked.contains(&name) {
                continue;
            }
            let place = self.source.place(key.span());
            let problem = if later.contains(&name) {
                not_yet(&place, &format!("`{name}` of `{}`", self.noun))
            } else {
                Problem::at(&place, format!("`{}` has no key `{name}`", self.noun))
                    .help_if(did_you_mean(name, asked.iter().copied()))
            };
            self.report(problem);
        }
    }

    /// Refuses a value of a key that is not built yet.
    pub(super) fn refuse_value(&self, key: &str, value: &At<String>) {
        self.report(not_yet(&value.place, &format!("{key} = \"{}\"", value.value.escape_debug())));
    }

    /// One of some words; what is known and not built yet is refused as that.
    pub(super) fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, place: text.place });
        }
        if later.contains(&text.value.as_str()) {
            self.refuse_value(key, &text);
            return None;
        }
        let problem = Problem::at(&text.place, format!("`{}` is no `{key}`", text.value.escape_debug()));
        self.report(problem.help_if(did_you_mean(&text.value, words.iter().map(|(word, _)| *word))));
        None
    }
}

#[cfg(test)]
type AskedKeys = BTreeMap<String, std::collections::BTreeSet<&'static str>>;

#[cfg(test)]
thread_local! {
    static ASKED: RefCell<AskedKeys> = RefCell::default();
}

/// The keys of each noun that are asked for while `read` runs on this thread.
#[cfg(test)]
pub(super) fn asked_of(read: impl FnOnce()) -> AskedKeys {
    ASKED.take();
    read();
    ASKED.take()
}

/// A plain value as JSON.
fn json(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => serde_json::to_string(text.as_ref()).ok(),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        _ => None,
    }
}

/// The refusal of what the design has and this version has not.
pub(super) fn not_yet(place: &Place, what: &str) -> Problem {
    Problem::at(place, format!("{what} is not supported yet"))
        .help("remove it: a control that is not honoured must not look as if it were")
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// `None` for a moment, and for a number that JSON cannot write.
fn as_json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    use serde_json::Value;
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.into(),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?)?.into(),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|item| as_json(item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let member = |(key, item): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Some((key.to_string(), as_json(item.get_ref())?))
            };
            Value::Object(table.iter().map(member).collect::<Option<_>>()?)
        }
        DeValue::Datetime(_) => return None,
    })
}
