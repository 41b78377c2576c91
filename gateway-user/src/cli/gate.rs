//! `tidegate gate`.

use super::{Context, Failure};

/// What loads, unloads and shows the kernel side.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Load and pin the kernel programs: the gate is shut until the enforcer runs.
    Load,
    /// Remove everything that `load` pinned.
    Unload,
    /// Show programs, links, map fill, counters and the enforcer's health.
    Status,
    /// Say what this kernel supports and which protection is reduced.
    Doctor,
}

/// Runs the command.
pub(super) fn run(_args: Command, _context: &Context) -> Result<(), Failure> {
    Err(Failure::cannot("this command is not part of this build"))
}
