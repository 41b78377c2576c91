//! `tidegate notify`: how channels to people do, what nobody took, and trying again. Sends nothing itself; the gate does.

use super::output::{Tone, escape, escape_line, paint, time};
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};

/// See and mend how people are told of what waits.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate notify list\n  tidegate notify dead")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every channel and how it does.
    #[command(after_help = "Examples:\n  tidegate notify list")]
    List,
    /// List messages that nobody took, the oldest first.
    #[command(after_help = "Examples:\n  tidegate notify dead\n  tidegate notify dead --json | jq '.[].why'")]
    Dead,
    /// Try a message again that nobody took.
    #[command(after_help = "\
Example:
  tidegate notify retry msg_019ab2c48f1e7d63b7a55f2f0c6f4c11_requested")]
    Retry {
        /// Its id, from `dead`.
        id: String,
    },
    /// Send a test through one channel now, and say what became of it.
    #[command(
        after_help = "Exit code 1: it was not taken, and why.\n\nExample:\n  tidegate notify test on-call"
    )]
    Test {
        /// The name of the `[[notify]]`.
        name: String,
    },
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = Client::new(&context.settings.admin_socket);
    match args.command {
        Command::List => list(&client, context),
        Command::Dead => dead(&client, context),
        Command::Retry { id } => {
            let resent = client.resend(&id).map_err(|error| failure(&error, context))?;
            match context.out.is_json() {
                true => context.out.json(&resent),
                false => context.out.line(format!("{} is tried again", escape_line(&id))),
            }
        }
        Command::Test { name } => {
            let tested = client.test_channel(&name).map_err(|error| failure(&error, context))?;
            match context.out.is_json() {
                true => context.out.json(&tested),
                false => context.out.line(format!("{} took it", escape_line(&tested.channel))),
            }
        }
    }
}

fn list(client: &Client, context: &Context) -> Result<(), Failure> {
    let channels = client.channels().map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&channels);
    }
    if channels.is_empty() {
        context.out.note("the policy names no channel ([[notify]])");
        return Ok(());
    }
    let rows = channels.iter().map(|channel| {
        let state = if channel.failing { "fails" } else { "works, as far as is known" };
        let taken = channel.taken.map_or_else(|| "-".into(), |at| time(at.as_microsecond()));
        let fault = channel.fault.clone().unwrap_or_default();
        vec![channel.name.clone(), state.into(), channel.waiting.to_string(), taken, fault]
    });
    context.out.table(&["channel", "state", "waiting", "taken last", "fault"], rows.collect())
}

fn dead(client: &Client, context: &Context) -> Result<(), Failure> {
    let dead = client.dead().map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&dead);
    }
    if dead.is_empty() {
        context.out.note("every message was taken, or is still tried");
        return Ok(());
    }
    let rows = dead.iter().map(|message| {
        vec![
            message.id.clone(),
            message.channel.clone(),
            message.event.clone(),
            time(message.at.as_microsecond()),
            message.why.clone(),
        ]
    });
    context.out.table(&["id", "channel", "event", "given up", "why"], rows.collect())
}

/// What the gate refuses is an answer; a gate that cannot be asked is none.
fn failure(error: &ClientError, context: &Context) -> Failure {
    match error {
        ClientError::Refused(problem) if problem.status < 500 => {
            if context.out.is_json() {
                return context.out.json(problem).err().unwrap_or(Failure::No);
            }
            context.out.note(format_args!("{} {}", paint(Tone::Bad, "refused:"), escape(&problem.detail)));
            Failure::No
        }
        error => Failure::from_error(error),
    }
}
