//! `tidegate approvals`.

use super::{Context, Failure};

/// List, show and decide what waits for a human.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Approve one demand.
    Approve,
}

/// Runs the command.
pub(super) fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
