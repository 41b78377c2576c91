//! `tidegate policy`.

use super::{Context, Failure};

/// Check, test and explain policy files.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the files of a policy directory.
    Check,
}

/// Runs the command.
pub(super) fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
