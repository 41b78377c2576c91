//! What the demo prints. Commands' own output is printed as it came, never changed.

use std::io::{Write, stdout};

use anyhow::{Context, Result};

/// Where the demo is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    colour: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const CYAN: &str = "36;1";
const TITLE: &str = "30;46;1";

impl Screen {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// A heading across the screen, and what it is about.
    pub(super) fn title(self, text: &str, lead: &str) -> Result<()> {
        put(&format!("\n{}\n{}\n", self.paint(TITLE, &format!("  {text:<98}")), self.dim(lead)))
    }

    /// Words of explanation, before or between commands.
    pub(super) fn aside(self, text: &str) -> Result<()> {
        put(&format!("\n{}\n", self.dim(text)))
    }

    /// A command, after the prompt of whoever types it.
    pub(super) fn command(self, prompt: &str, command: &str) -> Result<()> {
        put(&format!("{} {}\n", self.paint(CYAN, prompt), self.paint(BOLD, command)))
    }

    /// What a command printed.
    pub(super) fn output(self, text: &str) -> Result<()> {
        put(text)?;
        if text.is_empty() || text.ends_with('\n') { Ok(()) } else { put("\n") }
    }

    /// A promise that was checked and kept.
    pub(super) fn kept(self, promise: &str) -> Result<()> {
        put(&format!("{}\n", self.paint(GREEN, &format!("  \u{2713} {promise}"))))
    }

    fn dim(self, text: &str) -> String {
        let lines: Vec<String> =
            text.trim_end().lines().map(|line| self.paint(DIM, &format!("# {line}"))).collect();
        lines.join("\n")
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.trim_end().to_owned() }
    }
}

fn put(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("nobody reads the output any more")
}
