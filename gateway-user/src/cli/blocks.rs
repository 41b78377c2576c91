//! `tidegate block`, `unblock` and `blocks`: stops a user, a unit or a target now, without a policy file. Says when it
//! could not, and what stands instead.

use jiff::Timestamp;

use super::output::{Tone, escape_line, paint, time};
use super::when::coming;
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::view::{BlockAsked, BlockView, UnblockAsked};
use crate::block::Subject;

const BLOCK_HELP: &str = "\
SUBJECT is one of
  user:PROVIDER/SUBJECT   a user, by identity provider and `sub`
  unit:NAME.service       the processes of a systemd unit; of a .slice: of everything in it
  container:ID            the processes of a container: 12 to 64 digits of its id
  uid:N                   the processes of a user of this host
  target:NAME             a target, whoever asks

It works at once and before any rule. What has begun may end within 10 seconds; idle connections are closed, what waits
for approval ends, and everything else is refused with 403. It lasts until `tidegate unblock`, also over restarts and
whatever becomes of the policy. Only root and the gate's own user may block.

Examples:
  sudo tidegate block user:corp/eve --reason 'account taken over' --until 8h
  sudo tidegate block unit:react-worker.service --reason 'runs wild'
  sudo tidegate block target:crm --until 2030-01-01

Exit codes: 0 blocked, and kept; 1 refused; 2 wrong command line; 3 no enforcer answers";

/// Block a user, a unit or a target, at once.
#[derive(Debug, clap::Args)]
#[command(after_help = BLOCK_HELP)]
pub(super) struct Block {
    /// Whom or what.
    subject: Subject,
    /// Why. Stands in the entry of everything that is refused by it.
    #[arg(long, short = 'm', value_name = "TEXT")]
    reason: Option<String>,
    /// When it ends by itself: how long from now (`90m`, `8h`, `2d`) or a time (`2030-01-01`, `2030-01-01T12:00:00Z`).
    #[arg(long, value_name = "DURATION|DATE", value_parser = coming)]
    until: Option<Timestamp>,
}

/// Lift a block.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo tidegate unblock user:corp/eve\n\n\
                        Exit codes: 0 lifted, and that is kept; 1 it was not blocked; 3 no enforcer answers")]
pub(super) struct Unblock {
    /// Whom or what, as `tidegate blocks` lists it.
    subject: Subject,
}

/// List the blocks in force: whom, by whom, since when, until when, why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate blocks\n  tidegate blocks --json")]
pub(super) struct Blocks;

pub(super) fn block(args: Block, context: &Context) -> Result<(), Failure> {
    let asked = BlockAsked { subject: args.subject.to_string(), reason: args.reason, until: args.until };
    let blocked = client(context).block(&asked).map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&blocked);
    }
    let until = blocked.until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
    let subject = escape_line(&blocked.subject);
    context.out.line(format_args!("{} {subject}{until}", paint(Tone::Bad, "blocked")))?;
    if let Some(note) = &blocked.note {
        context.out.note(format_args!("{} {}", paint(Tone::Warn, "note:"), escape_line(note)));
    }
    Ok(())
}

pub(super) fn unblock(args: &Unblock, context: &Context) -> Result<(), Failure> {
    let asked = UnblockAsked { subject: args.subject.to_string() };
    let lifted = client(context).unblock(&asked).map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&lifted);
    }
    let was = format!("was blocked by {} since {}", lifted.by, moment(lifted.since));
    let subject = escape_line(&lifted.subject);
    context.out.line(format_args!("{} {subject}: it {}", paint(Tone::Good, "unblocked"), escape_line(&was)))
}

pub(super) fn list(context: &Context) -> Result<(), Failure> {
    let blocks = client(context).blocks().map_err(|error| failure(&error, context))?;
    if context.out.is_json() {
        return context.out.json(&blocks);
    }
    if blocks.is_empty() {
        context.out.note("nothing is blocked");
        return Ok(());
    }
    let row = |block: &BlockView| {
        let until = block.until.map_or_else(|| "unblocked".to_owned(), moment);
        vec![block.subject.clone(), block.by.clone(), moment(block.since), until, block.reason.clone()]
    };
    context.out.table(&["subject", "by", "since", "until", "reason"], blocks.iter().map(row).collect())
}

fn client(context: &Context) -> Client {
    Client::new(&context.settings.admin_socket)
}

fn moment(at: Timestamp) -> String {
    time(at.as_microsecond())
}

/// A block that is refused is an answer; a gate that does not answer, or cannot keep it, is none.
fn failure(error: &ClientError, context: &Context) -> Failure {
    match error {
        ClientError::Refused(problem) if problem.status < 500 => super::approvals::refused(problem, context),
        ClientError::Unreachable { .. } => Failure::cannot(format!(
            "nothing was changed: {error}. While no enforcer runs the gate is shut and nobody gets through; \
             start it (`sudo tidegate run`) and ask again, or write a `forbid` rule before you start it. Blocks that \
             were made earlier are in force again when it starts"
        )),
        error => Failure::from_error(error),
    }
}
