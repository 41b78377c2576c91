//! The command line: parses, calls one function per command, prints, and turns the outcome into an exit code.
//!
//! Never decides anything itself, and never prints captured data unescaped.

mod approvals;
mod blocks;
mod coverage;
mod credential;
mod gate;
mod inspect;
mod manual;
mod mask;
mod notify;
pub mod output;
mod policy;
mod policy_log;
mod reading;
mod record;
mod rejudge;
mod replay;
mod report;
mod run;
mod screen;
mod sessions;
mod story;
mod suggest;
mod top;
mod upgrade;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Settings};
pub use output::{Failure, Output};

/// The epilogue of `tidegate --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  it worked, and the answer is yes
  1  it worked, and the answer is no: findings, a denied case, a broken record
  2  the command line is wrong
  3  it cannot be done: no permission, not running, I/O failed

Examples:
  tidegate policy check --policies ./policies     check files before they are live
  sudo tidegate load                              load and pin the programs: the gate is shut
  sudo tidegate run                               open it: judge, mask, hold and record
  tidegate status                                 programs, links, counters, health
  tidegate approvals list                         what waits for a human
  sudo tidegate block unit:agent.service          stop somebody or something now
  tidegate sessions tail -f                       what happens now";

/// Transparent interception gateway for AI agents: judge, mask, hold and record what an agent does.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command. Each is also an environment variable, `TIDEGATE_` and its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Print JSON instead of text and tables.
    #[arg(long, global = true, env = "TIDEGATE_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
    /// When to use colours. `auto`: only on a terminal, and never with NO_COLOR.
    #[arg(long, global = true, env = "TIDEGATE_COLOR", value_name = "WHEN", default_value = "auto")]
    color: output::Color,
    /// Directory of policy files (*.cedar, *.toml).
    #[arg(long, global = true, env = "TIDEGATE_POLICIES", value_name = "DIR", default_value = config::POLICIES)]
    policies: PathBuf,
    /// Directory of the record, keys and the last good policy.
    #[arg(long, global = true, env = "TIDEGATE_STATE", value_name = "DIR", default_value = config::STATE)]
    state: PathBuf,
    /// Directory below a BPF file system where programs, links and maps are pinned.
    #[arg(long, global = true, env = "TIDEGATE_PINS", value_name = "DIR", default_value = config::PINS)]
    pins: PathBuf,
    /// Directory of the cgroup v2 to attach to [default: the root of the mounted cgroup2].
    #[arg(long, global = true, env = "TIDEGATE_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Network namespace whose inbound traffic is steered.
    #[arg(long, global = true, env = "TIDEGATE_NETNS", value_name = "PATH", default_value = config::NETNS)]
    netns: PathBuf,
    /// Watch only sockets of that namespace, although the cgroup holds processes of others too.
    #[arg(long, global = true, env = "TIDEGATE_ONLY_NETNS")]
    only_netns: bool,
    /// Interface at which frames of packet sockets are looked at. May be repeated [default: every one that is up].
    #[arg(
        long = "uplink",
        global = true,
        env = "TIDEGATE_UPLINKS",
        value_name = "INTERFACE",
        value_delimiter = ','
    )]
    uplinks: Vec<String>,
    /// The gate's own TCP port.
    #[arg(long, global = true, env = "TIDEGATE_PORT", value_name = "N", default_value_t = config::PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Path of the admin socket.
    #[arg(long, global = true, env = "TIDEGATE_ADMIN_SOCKET", value_name = "PATH",
          default_value = config::ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// Also serve metrics, and nothing else, on this loopback port.
    #[arg(long, global = true, env = "TIDEGATE_METRICS_PORT", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    metrics_port: Option<u16>,
    /// Log filter: `info`, `tidegate=debug`, ... [default: RUST_LOG, else info].
    #[arg(long, global = true, env = "TIDEGATE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// File of the keys that recorded bodies are encrypted with [default: the systemd credential tidegate.record-key,
    /// else keys/record.key in the state directory].
    #[arg(long, global = true, env = "TIDEGATE_RECORD_KEY", value_name = "FILE")]
    record_key: Option<PathBuf>,
    /// File of the key that credentials of services are sealed with [default: the systemd credential tidegate.vault-key,
    /// else vault/vault.key in the state directory].
    #[arg(long, global = true, env = "TIDEGATE_VAULT_KEY", value_name = "FILE")]
    vault_key: Option<PathBuf>,
    /// Where systemd puts credentials.
    #[arg(long, global = true, env = "CREDENTIALS_DIRECTORY", value_name = "DIR", hide = true)]
    credentials: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    #[command(flatten)]
    Gate(gate::Command),
    Upgrade(upgrade::Args),
    Coverage(coverage::Args),
    Policy(policy::Args),
    Mask(mask::Args),
    Sessions(sessions::Args),
    Record(record::Args),
    Replay(Box<replay::Args>),
    Inspect(inspect::Args),
    Approvals(approvals::Args),
    Notify(notify::Args),
    Credential(credential::Args),
    Report(report::Args),
    Top(top::Args),
    Block(blocks::Block),
    Unblock(blocks::Unblock),
    Blocks(blocks::Blocks),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// What every command gets: the settings and where to print.
#[derive(Debug)]
pub struct Context {
    /// Where things are.
    pub settings: Settings,
    /// Where to print, and how.
    pub out: Output,
}

impl Context {
    fn new(global: Global) -> Self {
        let settings = Settings {
            policies: global.policies,
            state: global.state,
            pins: global.pins,
            cgroup: global.cgroup.unwrap_or_else(config::cgroup_root),
            netns: global.netns,
            only_netns: global.only_netns,
            uplinks: global.uplinks,
            port: global.port,
            admin_socket: global.admin_socket,
            metrics_port: global.metrics_port,
            log: global.log,
            record_key: global.record_key,
            vault_key: global.vault_key,
            credentials: global.credentials,
        };
        Self { settings, out: Output::new(global.json, global.color) }
    }
}

/// Runs the command line of this process and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let context = Context::new(cli.global);
    match dispatch(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => context.out.fail(&failure),
    }
}

fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args, context),
        Command::Gate(command) => gate::run(command, context),
        Command::Upgrade(args) => upgrade::run(&args, context),
        Command::Coverage(_) => coverage::run(context),
        Command::Policy(args) => policy::run(args, context),
        Command::Mask(args) => mask::run(args, context),
        Command::Sessions(args) => sessions::run(args, context),
        Command::Record(args) => record::run(args, context),
        Command::Replay(args) => replay::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Approvals(args) => approvals::run(args, context),
        Command::Notify(args) => notify::run(args, context),
        Command::Credential(args) => credential::run(args, context),
        Command::Report(args) => report::run(&args, context),
        Command::Top(args) => top::run(&args, context),
        Command::Block(args) => blocks::block(args, context),
        Command::Unblock(args) => blocks::unblock(&args, context),
        Command::Blocks(_) => blocks::list(context),
        Command::Completions(args) => manual::completions(&args, context),
        Command::Man(args) => manual::man(&args, context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_taken_before_and_after_the_command() {
        for line in [["tidegate", "--json", "doctor"], ["tidegate", "doctor", "--json"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(cli.global.json, "{line:?}");
        }
    }

    #[test]
    fn port_zero_and_unknown_options_are_refused() {
        for line in [["tidegate", "doctor", "--port=0"], ["tidegate", "doctor", "--force"]] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
