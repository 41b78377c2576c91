//! `tidegate run`: the enforcer, in the foreground.

use super::{Context, Failure};
use crate::{app, telemetry};

/// Load the programs if need be, and enforce in the foreground until SIGTERM or Ctrl-C. SIGHUP reads the policy again.
///
/// When it ends, however it ends, the programs stay loaded and the gate is shut: `tidegate unload` takes them away.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo tidegate run\n  sudo tidegate run --policies ./policies/demo --state /tmp/tidegate --metrics-port 9464"
)]
pub(super) struct Args {
    /// Have the kernel programs log what they do, into this log. Costs time on every connect.
    #[arg(long)]
    kernel_log: bool,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    telemetry::log(context.settings.log.as_deref()).map_err(|error| Failure::cannot(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::cannot(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(app::run(context.settings.clone(), args.kernel_log));
    // Flows that outlived the drain end here, and close their entries as they are dropped.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome.map_err(|error| Failure::cannot(error.to_string()))
}
