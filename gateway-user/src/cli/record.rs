//! `tidegate record`.

use super::{Context, Failure};

/// Verify the record.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Verify the hash chain of the whole record.
    Verify,
}

/// Runs the command.
pub(super) fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
