//! What is wrong with a policy directory, and exactly where: file, line, column, caret, and what to do about it.
//!
//! Collects every mistake before anyone is told, and never shows a file it could not read as an empty one.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

/// One file of a policy directory, as problems show it.
#[derive(Debug)]
pub struct Source {
    path: String,
    text: NamedSource<String>,
}

impl Source {
    /// A file's text under the path that problems name it by.
    #[must_use]
    pub fn new(path: String, text: String) -> Arc<Self> {
        Arc::new(Self { text: NamedSource::new(path.clone(), text), path })
    }

    /// The path that problems name it by.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.inner()
    }

    /// The place of these bytes in it.
    #[must_use]
    pub fn place(self: &Arc<Self>, span: Range<usize>) -> Place {
        let end = span.end.min(self.text().len());
        Place { source: Arc::clone(self), span: span.start.min(end)..end }
    }
}

/// A stretch of a policy file.
#[derive(Debug, Clone)]
pub struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

impl Place {
    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.source.path()
    }

    /// Line and column of its first character, both counted from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text().as_bytes()[..self.span.start];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        (line, column)
    }

    fn label(&self, text: &str) -> LabeledSpan {
        LabeledSpan::new(Some(text.to_owned()), self.span.start, self.span.len())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.path())
    }
}

/// One mistake.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    place: Option<Place>,
    label: String,
    also: Vec<(Place, String)>,
    help: Option<String>,
}

impl Problem {
    /// A mistake at a place, labelled `here`.
    #[must_use]
    pub fn at(place: &Place, message: impl Into<String>) -> Self {
        let label = "here".to_owned();
        Self { message: message.into(), place: Some(place.clone()), label, also: Vec::new(), help: None }
    }

    /// A mistake of the directory as a whole.
    #[must_use]
    pub fn whole(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, label: String::new(), also: Vec::new(), help: None }
    }

    /// Says under the caret what is seen there.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Shows a second place, in the same file or another.
    #[must_use]
    pub fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.also.push((place.clone(), label.into()));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says what to do, where there is something to say.
    #[must_use]
    pub fn help_if(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where it is wrong; `None` for the directory as a whole.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn elsewhere(&self) -> impl Iterator<Item = &(Place, String)> {
        let home = self.place.as_ref().map(|place| Arc::as_ptr(&place.source));
        self.also.iter().filter(move |(place, _)| Some(Arc::as_ptr(&place.source)) != home)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message)?,
            None => f.write_str(&self.message)?,
        }
        for (place, label) in &self.also {
            write!(f, "; {label}: {place}")?;
        }
        match &self.help {
            Some(help) => write!(f, " (help: {help})"),
            None => Ok(()),
        }
    }
}

/// A problem as `miette` draws it: the message alone, because the place is drawn as a caret.
struct Drawn<'a> {
    problem: &'a Problem,
    elsewhere: Vec<Elsewhere<'a>>,
}

struct Elsewhere<'a> {
    place: &'a Place,
    label: &'a str,
}

macro_rules! plain_error {
    ($name:ident, $show:expr) => {
        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($show(self))
            }
        }
        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl std::error::Error for $name<'_> {}
    };
}
plain_error!(Drawn, |drawn: &Self| drawn.problem.message.as_str());
plain_error!(Elsewhere, |other: &Self| other.label);

impl Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.problem.place.as_ref().map(|place| &place.source.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.problem.place.as_ref()?;
        let same = self.problem.also.iter().filter(|(other, _)| Arc::ptr_eq(&other.source, &place.source));
        let first = place.label(&self.problem.label);
        Some(Box::new(std::iter::once(first).chain(same.map(|(other, label)| other.label(label)))))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.elsewhere.iter().map(|other| other as &dyn Diagnostic)))
    }
}

impl Diagnostic for Elsewhere<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(miette::Severity::Advice)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.place.source.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(self.place.label("here"))))
    }
}

/// Every mistake of a policy directory. Shown plainly, one line each; [`Problems::render`] draws them.
#[derive(Debug, Clone, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each of them, by file and place.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Sorts them by file and place, so that the same directory always reads the same.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| key(a).cmp(&key(b)));
    }

    /// Draws each with its lines, carets and help, in colour where `colour` says so.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let mut out = String::new();
        for problem in &self.0 {
            let elsewhere = problem
                .elsewhere()
                .map(|(place, label)| Elsewhere { place, label: label.as_str() })
                .collect();
            if handler.render_report(&mut out, &Drawn { problem, elsewhere }).is_err() {
                // The handler fails only where a span lies outside its file; the plain line is still true.
                let _ = writeln!(out, "{problem}");
            }
            out.push('\n');
        }
        out
    }

    /// The same, for `--json`.
    #[must_use]
    pub fn plain(&self) -> Vec<PlainProblem> {
        self.0.iter().map(PlainProblem::of).collect()
    }
}

fn key(problem: &Problem) -> (&str, usize, &str) {
    let (path, start) = problem.place.as_ref().map_or(("", 0), |place| (place.path(), place.span.start));
    (path, start, &problem.message)
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A problem as data.
#[derive(Debug, Serialize)]
pub struct PlainProblem {
    /// The file, where there is one.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl PlainProblem {
    fn of(problem: &Problem) -> Self {
        let at = problem.place.as_ref().map(Place::line_column);
        Self {
            file: problem.place.as_ref().map(|place| place.path().to_owned()),
            line: at.map(|(line, _)| line),
            column: at.map(|(_, column)| column),
            message: problem.message.clone(),
            help: problem.help.clone(),
        }
    }
}

/// `did you mean ...?` for the nearest of the names, if one is near enough; else the names there are.
#[must_use]
pub fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    if wrong.len() > NAME_COMPARED_BYTES_MAX {
        return None;
    }
    let near =
        known.iter().map(|name| (distance(&wrong.to_lowercase(), &name.to_lowercase()), *name)).min().filter(
            |(distance, name)| *distance <= 1.max(name.chars().count().max(wrong.chars().count()) / 3),
        );
    match near {
        Some((_, name)) => Some(format!("did you mean `{name}`?")),
        None if known.is_empty() => None,
        None if known.len() > NAMES_SHOWN_MAX => None,
        None => Some(format!("there is: {}", known.join(", "))),
    }
}

/// Bytes of a name that is compared with others. Longer ones are no misspelling.
const NAME_COMPARED_BYTES_MAX: usize = 128;
/// Names listed in a help line. More would hide the help.
const NAMES_SHOWN_MAX: usize = 24;

/// Edits (insert, remove, replace, swap of neighbours) that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let source = Source::new("a.toml".into(), "é = 1\nnäme = 2\n".into());
        let at = source.text().find('2').unwrap();
        assert_eq!(source.place(at..at + 1).to_string(), "a.toml:2:8");
        assert_eq!(source.place(0..1).to_string(), "a.toml:1:1");
    }

    #[test]
    fn a_span_beyond_the_file_is_no_panic() {
        let source = Source::new("a.toml".into(), "x".into());
        assert_eq!(source.place(10..20).to_string(), "a.toml:1:2");
        let mut problems = Problems::default();
        problems.push(Problem::at(&source.place(10..20), "late"));
        assert!(problems.render(false).contains("late"));
    }

    #[test]
    fn a_problem_in_two_files_shows_both() {
        let one = Source::new("one.toml".into(), "name = \"a\"\n".into());
        let two = Source::new("two.toml".into(), "\nname = \"a\"\n".into());
        let mut problems = Problems::default();
        problems.push(
            Problem::at(&two.place(8..11), "twice").also(&one.place(7..10), "first here").help("rename"),
        );
        let drawn = problems.render(false);
        for part in ["two.toml:2:8", "one.toml:1:8", "twice", "first here", "rename"] {
            assert!(drawn.contains(part), "{part} is missing in {drawn}");
        }
        assert_eq!(problems.to_string(), "two.toml:2:8: twice; first here: one.toml:1:8 (help: rename)");
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        assert_eq!(did_you_mean("raect", ["react", "crm"]).unwrap(), "did you mean `react`?");
        assert_eq!(did_you_mean("Analyst", ["analyst"]).unwrap(), "did you mean `analyst`?");
        assert_eq!(did_you_mean("zebra", ["react", "crm"]).unwrap(), "there is: crm, react");
        assert_eq!(did_you_mean("x", []), None);
    }
}
