//! Builds `tidegate` and hands the words over to it, privileged. Decides nothing itself: an installed package does the
//! same without cargo.

use anyhow::{Context, Result};
use xshell::cmd;

use crate::build::Build;
use crate::place;

/// Words for `tidegate`, after its own command.
#[derive(clap::Args, Debug)]
pub(crate) struct Words {
    #[command(flatten)]
    build: Build,
    /// Handed to `tidegate` as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Words {
    /// Builds, then runs `tidegate COMMAND WORDS...`.
    pub(crate) fn run(&self, command: &str) -> Result<()> {
        let program = self.build.run()?;
        let sh = place::shell()?;
        let mut line = place::privileged()?;
        line.push(program.display().to_string());
        line.push(command.to_owned());
        line.extend(self.words.iter().cloned());
        let (first, rest) = line.split_first().context("an empty command")?;
        Ok(cmd!(sh, "{first} {rest...}").run()?)
    }
}
