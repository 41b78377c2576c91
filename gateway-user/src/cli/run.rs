//! `tidegate run`.

use super::{Context, Failure};

/// Enforce, in the foreground.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Runs the command.
pub(super) fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
