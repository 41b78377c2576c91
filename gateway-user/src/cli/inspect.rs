//! `tidegate inspect`: what the gate would have said to captured traffic. Enforces nothing and writes nothing.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::output::{Tone, escape_line, paint};
use super::policy;
use super::{Context, Failure};
use crate::identity::token::Verifier;
use crate::inspect::flow::{Operation, Report};
use crate::inspect::packet::Skip;
use crate::inspect::verdict::Judging;
use crate::inspect::{Summary, inspect};
use crate::kernel::Exempt;
use crate::operation::Workload;

const HELP: &str = "\
Reads pcap and pcapng, with packets of Ethernet (also with VLAN tags), Linux cooked v1 and v2, loopback or raw IP. Puts TCP
together, screens requests as the gate does, judges each with the policy directory as of the time of its packet, and applies
the masks to its answer. The process behind a connection is in no capture: targets that require one get `unknown` unless
--uid or --unit says whom to take for it. Host names are not looked up. Where bytes were sent twice and differently the
first are read, and that is said.

Examples:
  tidegate inspect capture.pcapng
  tidegate inspect capture.pcap --policies ./policies --unit react-worker.service
  tidegate inspect capture.pcapng --json

Exit codes: 0 all of it was read, 1 something was passed over (it is named), 2 wrong command line, 3 no capture, no
permission, or no policy";

/// Show what the gate would have said to captured traffic: verdicts, rules, masks. Enforces nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The capture.
    file: PathBuf,
    /// Take the process behind every connection to have this user id.
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Take it to belong to this systemd unit.
    #[arg(long, value_name = "NAME")]
    unit: Option<String>,
    /// Take it to be held by this guard.
    #[arg(long, value_name = "NAME")]
    guard: Option<String>,
}

#[derive(Serialize)]
struct Whole {
    flows: Vec<Report>,
    #[serde(flatten)]
    summary: Summary,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let file = File::open(&args.file)
        .map_err(|error| Failure::cannot(format!("{}: {error}", args.file.display())))?;
    let (_, set) = policy::read(&context.settings.policies, context)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::cannot(format!("cannot start the runtime: {error}")))?;
    let verifier = Verifier::new(set.providers(), Exempt::new(|_| Ok(())));
    let verify =
        |token: &str, at| runtime.block_on(verifier.verify(token, at)).map_err(|error| error.to_string());
    let judging = Judging { set: &set, verify: &verify, workload: workload(args), guard: args.guard.clone() };
    let mut flows = Vec::new();
    let mut gaps = false;
    let read = inspect(file, &judging, |report| {
        gaps |= !report.skipped.is_empty();
        if context.out.is_json() {
            flows.push(report);
            return Ok(());
        }
        tell(&report, context)
    });
    let summary = read.map_err(|error| Failure::from_error(&error))??;
    let is_whole = !gaps && summary.is_whole();
    if context.out.is_json() {
        context.out.json(&Whole { flows, summary })?;
    } else {
        summarise(&summary, context)?;
    }
    if is_whole { Ok(()) } else { Err(Failure::No) }
}

/// The process that is taken to have asked, where one is named.
fn workload(args: &Args) -> Option<Arc<Workload>> {
    (args.uid.is_some() || args.unit.is_some()).then(|| {
        Arc::new(Workload {
            pid: 0,
            started: 0,
            uid: args.uid.unwrap_or(u32::MAX),
            login_uid: None,
            command: String::new(),
            cgroup: None,
            unit: args.unit.clone(),
            container: None,
            image: None,
            pod: None,
            executable: None,
            parents: Vec::new(),
        })
    })
}

fn tell(report: &Report, context: &Context) -> Result<(), Failure> {
    let title = format!("{} to {} from {}", report.client, report.server, report.at);
    context.out.line(paint(Tone::Strong, title))?;
    for operation in &report.operations {
        show(operation, context)?;
    }
    for skipped in &report.skipped {
        context.out.line(format_args!("  {} {}", paint(Tone::Warn, "not read:"), escape_line(skipped)))?;
    }
    Ok(())
}

fn show(operation: &Operation, context: &Context) -> Result<(), Failure> {
    let judged = &operation.judged;
    let tone = match judged.verdict {
        "allow" => Tone::Good,
        "hold" | "unknown" => Tone::Warn,
        _ => Tone::Bad,
    };
    let status = operation.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    context.out.line(format_args!(
        "  {} {} ({status})",
        paint(tone, format_args!("{:<7}", judged.verdict)),
        escape_line(&judged.line)
    ))?;
    let mut more = vec![judged.reason.clone()];
    more.extend(judged.user.iter().map(|user| format!("user {user}")));
    more.extend(operation.masks.iter().map(|(mask, count)| format!("{count} values hidden by {mask}")));
    more.extend(operation.unmaskable.iter().map(|why| format!("the answer would be stopped: {why}")));
    if !operation.whole {
        more.push("not captured to its end".to_owned());
    }
    for text in more {
        context.out.line(format_args!("          {}", escape_line(&text)))?;
    }
    Ok(())
}

fn summarise(summary: &Summary, context: &Context) -> Result<(), Failure> {
    context.out.line(format_args!("{} packets, {} connections", summary.packets, summary.connections))?;
    for (skip, count) in &summary.passed_over {
        let why = match skip {
            Skip::LinkType => "have a link type that is not read here",
            Skip::NoIp => "are no IP",
            Skip::NoTcp => "are no TCP",
            Skip::Fragment => "are parts of fragmented packets, which are not put together",
            Skip::Malformed => "contradict themselves or end early",
            Skip::CutShort => "were captured only in part (tcpdump -s 0 captures all)",
        };
        context.out.line(paint(Tone::Warn, format_args!("passed over: {count} packets {why}")))?;
    }
    if summary.let_go > 0 {
        let text = format!("let go before their end: {} connections, too many at once", summary.let_go);
        context.out.line(paint(Tone::Warn, text))?;
    }
    if let Some(why) = &summary.broken {
        context.out.line(paint(Tone::Warn, format_args!("not read to its end: {}", escape_line(why))))?;
    }
    Ok(())
}
