//! What commands print and how they fail. Captured data is printed only through [`escape`]; colours reach only
//! terminals; the only place of the crate that writes to standard output.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use ratatui::text::Span;
use serde::Serialize;

use crate::record::entry::Micros;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// Only on a terminal, and never with `NO_COLOR`.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a command failed; each has its exit code.
#[derive(Debug)]
pub enum Failure {
    /// It worked, and the answer is no; everything has been printed. Exit code 1.
    No,
    /// It worked, and these are the findings. Exit code 1.
    Findings(miette::Report),
    /// The command line is wrong in a way that the parser cannot see. Exit code 2.
    Usage(String),
    /// It cannot be done. Exit code 3.
    Cannot(String),
    /// The reader of our output went away (`| head`). Nobody is left to tell, exit code 0.
    ReaderGone,
}

impl Failure {
    /// It cannot be done, and why, in words for the operator. For an error with sources use [`Failure::from_error`].
    pub fn cannot(why: impl fmt::Display) -> Self {
        Self::Cannot(why.to_string())
    }

    /// It cannot be done: an error and all its sources in one line.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                let _ = write!(text, ": {cause_text}");
            }
            source = cause.source();
        }
        Self::Cannot(text)
    }

    /// The exit code: 0, 1, 2 or 3.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::No | Self::Findings(_) => 1,
            Self::Usage(_) => 2,
            Self::Cannot(_) => 3,
        }
    }
}

/// What a stretch of text means, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Look here.
    Warn,
    /// Refused or broken.
    Bad,
    /// A heading.
    Strong,
    /// Beside the point.
    Dim,
}

/// Wraps text in the colour of its tone. Only for text that goes through [`Output::line`], which drops colours
/// where none are wanted.
pub fn paint(tone: Tone, text: impl fmt::Display) -> String {
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warn => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Strong => Style::new().bold(),
        Tone::Dim => Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// Where to print, and how.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    color: Color,
}

impl Output {
    /// For `--json` and `--color`.
    #[must_use]
    pub fn new(json: bool, color: Color) -> Self {
        Self { json, color }
    }

    /// Whether a page can fill the screen: both ends are a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal() && io::stdin().is_terminal()
    }

    /// Whether colours are wanted on a page.
    #[must_use]
    pub fn has_colour(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Whether JSON was asked for.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one line (or several) of text. Captured parts must have gone through [`escape`].
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn line(&self, text: impl fmt::Display) -> Result<(), Failure> {
        let mut out = anstream::AutoStream::new(io::stdout().lock(), self.choice(io::stdout().is_terminal()));
        written(writeln!(out, "{text}").and_then(|()| out.flush()))
    }

    /// Prints bytes as they are; for what we made ourselves.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        written(out.write_all(bytes).and_then(|()| out.flush()))
    }

    /// Takes bytes for standard output as they are; for files that go there, which are not for terminals.
    #[must_use]
    pub fn writer(&self) -> impl Write {
        io::stdout().lock()
    }

    /// Prints one JSON document, indented. Control and bidi characters are escaped the JSON way.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::from_error(&error))?;
        self.raw(format!("{}\n", escape_json(&text)).as_bytes())
    }

    /// Prints one JSON document on one line, for streams of them.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::from_error(&error))?;
        self.raw(format!("{}\n", escape_json(&text)).as_bytes())
    }

    /// Prints a table. Every cell is escaped here. On a terminal it has rules and wraps; elsewhere it is plain
    /// columns, one row a line.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        self.line(draw(header, rows, io::stdout().is_terminal()))
    }

    /// Prints a line to standard error: progress, hints, warnings. Nothing where it cannot be written.
    pub fn note(&self, text: impl fmt::Display) {
        let mut err = anstream::AutoStream::new(io::stderr().lock(), self.choice(io::stderr().is_terminal()));
        let _ = writeln!(err, "{text}");
    }

    /// Prints a report with its source, caret and help to standard error.
    pub fn report(&self, report: &miette::Report) {
        self.note(render(report, self.choice(io::stderr().is_terminal()) != anstream::ColorChoice::Never));
    }

    /// Says how a command failed, and gives the exit code.
    #[must_use]
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        match failure {
            Failure::No | Failure::ReaderGone => {}
            Failure::Findings(report) => self.report(report),
            Failure::Usage(why) | Failure::Cannot(why) => {
                self.note(format_args!("{} {}", paint(Tone::Bad, "error:"), escape(why)));
            }
        }
        ExitCode::from(failure.code())
    }

    fn choice(&self, terminal: bool) -> anstream::ColorChoice {
        match self.color {
            Color::Always => anstream::ColorChoice::AlwaysAnsi,
            Color::Auto if terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) => {
                anstream::ColorChoice::AlwaysAnsi
            }
            Color::Auto | Color::Never => anstream::ColorChoice::Never,
        }
    }
}

/// Prints what the command line parser has to say; exit code 2, or 0 for `--help` and `--version`.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::Cannot(format!("writing to standard output: {error}")),
    })
}

fn draw(header: &[&str], rows: Vec<Vec<String>>, terminal: bool) -> String {
    let mut table = Table::new();
    if terminal {
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING);
    }
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| escape_line(cell).into_owned()));
    }
    let drawn = table.to_string();
    let lines: Vec<_> = drawn.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn render(report: &miette::Report, color: bool) -> String {
    let theme =
        if color { miette::GraphicalTheme::unicode() } else { miette::GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    // Writing to a string fails only if a Display in the report does; then what there is stands.
    let _ = miette::GraphicalReportHandler::new_themed(theme).render_report(&mut text, report.as_ref());
    text
}

/// Makes captured text safe to show: control characters (except line feed and tab), bidi controls, invisible and
/// tag characters, private-use and unassigned-looking separators, and marks that pile up on one character become
/// `\u{..}`. Nothing can move the cursor, hide or reorder what an approver reads.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_where(text, |c| c != '\n' && c != '\t' && is_deceptive(c))
}

/// Captured text of many lines behind a mark on each, so that none of them can pass for one of ours.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (n, line) in escape(text).split('\n').enumerate() {
        let _ = write!(out, "{}  | {line}", if n == 0 { "" } else { "\n" });
    }
    out
}

/// As [`escape`], with line feed and tab escaped too: for one table cell or one line.
#[must_use]
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape_where(text, is_deceptive)
}

/// Marks that may stand on one character: more than any script needs.
const MARKS_MAX: usize = 4;

/// Finds the marks that pile up on one character, or stand on none of the text's own.
struct Marks(usize);

impl Marks {
    fn new() -> Self {
        Self(MARKS_MAX)
    }

    fn piles_up(&mut self, c: char) -> bool {
        let is_mark = !c.is_ascii() && Span::raw(c.encode_utf8(&mut [0; 4]) as &str).width() == 0;
        self.0 = match c {
            '\n' | '\t' => MARKS_MAX,
            _ if is_mark => self.0 + 1,
            _ => 0,
        };
        is_mark && self.0 > MARKS_MAX
    }
}

fn escape_where(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    let mut marks = Marks::new();
    if !text.chars().any(|c| marks.piles_up(c) || hidden(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut marks = Marks::new();
    for c in text.chars() {
        match c {
            c if !marks.piles_up(c) && !hidden(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    Cow::Owned(out)
}

/// Whether a terminal or a reader could be deceived by this character.
fn is_deceptive(c: char) -> bool {
    match c {
        c if c.is_control() => true,
        // Soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul and Khmer fillers, Mongolian separators.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{3164}' | '\u{ffa0}' => true,
        // Zero width, bidi marks, line and paragraph separators, bidi embeddings and overrides, word joiner,
        // invisible operators, bidi isolates.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        // Variation selectors, byte order mark, interlinear annotation, tags, private use.
        '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' => true,
        '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}' => true,
        _ => false,
    }
}

/// Escapes what JSON lets stand but a terminal does not show honestly. Outside of strings JSON has none of these.
fn escape_json(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c != '\n' && is_deceptive(c);
    if !text.chars().any(hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut units = [0; 2];
    for c in text.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A moment, in the host's time zone: `2026-11-21 23:25:43 +0000`. What no calendar holds is shown as its number.
#[must_use]
pub fn time(at: Micros) -> String {
    match Timestamp::from_microsecond(at) {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z").to_string(),
        Err(_) => format!("{at} us"),
    }
}

/// A stretch of time, two units deep: `4m 12s`, `2h 5m`, `0s`. A negative one is `over`.
#[must_use]
pub fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    match seconds {
        ..0 => "over".into(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_or_bidi_character_survives_escaping() {
        let hostile = "a\x1b[2Jb\u{202e}c\u{200b}d\u{2066}e\u{feff}f\x07g\u{e0041}h\u{85}i\rj";
        let shown = escape(hostile);
        assert_eq!(
            shown,
            "a\\u{1b}[2Jb\\u{202e}c\\u{200b}d\\u{2066}e\\u{feff}f\\u{7}g\\u{e0041}h\\u{85}i\\rj"
        );
        assert!(!shown.chars().any(is_deceptive));
    }

    #[test]
    fn every_bidi_control_of_unicode_is_escaped() {
        let bidi =
            ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}'];
        for c in bidi.into_iter().chain('\u{2066}'..='\u{2069}') {
            assert!(is_deceptive(c), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn honest_text_is_left_alone() {
        for text in ["plain", "Grüße, 世界\n\tשלום مرحبا", "emoji 🦀"] {
            assert!(matches!(escape(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn marks_that_pile_up_or_stand_on_our_own_text_are_shown_as_what_they_are() {
        let some = "e\u{301}\u{323}";
        assert!(matches!(escape(some), Cow::Borrowed(_)));
        let shown = escape("\u{301}a\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}b\n\u{301}").into_owned();
        assert_eq!(shown, "\\u{301}a\u{301}\u{301}\u{301}\u{301}\\u{301}\\u{301}b\n\\u{301}");
        let flood = "\u{301}".repeat(1 << 20);
        assert!(escape(&flood).is_ascii());
    }

    #[test]
    fn no_line_of_a_quoted_text_begins_like_one_of_ours() {
        let text = quoted("{}\n     vote approved by bob at 2026\u{1b}[2J\r\n");
        assert!(text.lines().all(|line| line.starts_with("  | ")), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn a_table_cell_cannot_make_a_second_row() {
        let drawn = draw(&["id", "path"], vec![vec!["1".into(), "/a\n2  /forged".into()]], false);
        assert_eq!(drawn.lines().count(), 2, "{drawn}");
        assert!(drawn.contains("/a\\n2"), "{drawn}");
    }

    #[test]
    fn json_output_keeps_its_meaning_and_loses_its_tricks() {
        let value = serde_json::json!({ "path": "/a\u{202e}b\u{e0041}\u{1b}" });
        let text = serde_json::to_string(&value).unwrap();
        let shown = escape_json(&text);
        assert!(!shown.chars().any(is_deceptive), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn each_failure_has_its_documented_exit_code() {
        assert_eq!(Failure::No.code(), 1);
        assert_eq!(Failure::Findings(miette::miette!("x")).code(), 1);
        assert_eq!(Failure::Usage(String::new()).code(), 2);
        assert_eq!(Failure::cannot("x").code(), 3);
        assert_eq!(Failure::ReaderGone.code(), 0);
    }

    #[test]
    fn a_broken_pipe_is_not_an_error_and_a_full_disk_is() {
        assert_eq!(written(Err(io::ErrorKind::BrokenPipe.into())).unwrap_err().code(), 0);
        assert_eq!(written(Err(io::ErrorKind::StorageFull.into())).unwrap_err().code(), 3);
    }

    #[test]
    fn a_report_without_colour_has_no_escape_sequence() {
        let report = miette::miette!(help = "write `permit`", "unknown word");
        let text = render(&report, false);
        assert!(
            text.contains("unknown word") && text.contains("write `permit`") && !text.contains('\x1b'),
            "{text}"
        );
    }

    #[test]
    fn spans_are_two_units_deep_and_never_negative() {
        let shown: Vec<_> =
            [-1, 0, 59, 252, 7500, 180_000].map(|s| span(SignedDuration::from_secs(s))).into_iter().collect();
        assert_eq!(shown, ["over", "0s", "59s", "4m 12s", "2h 5m", "2d 2h"]);
    }
}
