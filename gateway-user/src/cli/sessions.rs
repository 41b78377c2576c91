//! `tidegate sessions`.

use super::{Context, Failure};

/// List, show and follow recorded sessions.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List sessions.
    List,
}

/// Runs the command.
pub(super) fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
