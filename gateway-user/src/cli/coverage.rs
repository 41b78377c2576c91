//! `tidegate coverage`: whether anything reaches past the gate, named, and whether every flow and byte is explained. Asks the
//! kernel itself, so that it also works while the enforcer is dead; then there is nobody to compare with.

use std::io;

use super::output::{Tone, escape_line, paint};
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::coverage::{Coverage, Past};
use crate::app;
use crate::kernel::Way;
use crate::tally::Reconciled;

/// Say what reaches past the gate: hooks that are missing, connections that did not come through it, and flows or bytes that
/// the kernel counted and the enforcer did not decode and record.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 1: a hook is missing, a connection reaches past the gate, or flows or bytes are unexplained.

Examples:
  sudo tidegate coverage
  sudo tidegate coverage --json | jq '.past[].process'
  sudo tidegate coverage --json | jq '.flows.gaps'")]
pub(super) struct Args {}

/// Runs the command.
pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let shelf = app::open_policy(&context.settings).map_err(|error| Failure::from_error(&error))?;
    let client = Client::new(&context.settings.admin_socket);
    let account = || match client.account() {
        Ok(account) => Ok(Some(account)),
        Err(ClientError::Unreachable { source, .. }) if is_nobody(&source) => Ok(None),
        Err(error) => Err(error.into()),
    };
    let found = app::coverage(&context.settings.pins, &shelf.current(), account)
        .map_err(|error| Failure::cannot(format!("what is covered cannot be found out: {error}")))?;
    if context.out.is_json() {
        context.out.json(&found)?;
    } else {
        show(&found, context)?;
    }
    if found.is_whole() { Ok(()) } else { Err(Failure::No) }
}

/// Whether nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn show(found: &Coverage, context: &Context) -> Result<(), Failure> {
    let names =
        ["redirected", "local_recorded", "handed_over", "steered", "exempt_connect", "refused_gate_down"];
    let counters = names
        .iter()
        .filter_map(|name| Some(vec![(*name).to_owned(), found.counters.get(*name)?.to_string()]))
        .collect();
    context.out.table(&["what the programs did", "times"], counters)?;
    context.out.line("")?;
    match found.hooks_missing.as_slice() {
        [] => context.out.line(format!("all {} hooks are attached", found.hooks))?,
        missing => {
            let count = format!("{} of {} hooks are missing:", missing.len(), found.hooks);
            let advice = "run `tidegate load` to attach them again, and find out who detached them";
            context.out.line(format!("{} {}; {advice}", paint(Tone::Bad, count), missing.join(", ")))?;
        }
    }
    if found.unseen > 0 {
        let text = format!("{} connections went past the connect hook since the load", found.unseen);
        context.out.line(format!("{}; the enforcer's log names them", paint(Tone::Bad, text)))?;
    }
    show_flows(&found.flows, context)?;
    if found.past.is_empty() {
        return context.out.line("no connection reaches past the gate now");
    }
    let count = found.past.len() as u64 + found.left_out;
    context.out.line(paint(Tone::Bad, format!("{count} connections past the gate:")))?;
    context.out.table(
        &["process", "uid", "unit or cgroup", "from", "to", "target or guard", "why"],
        found.past.iter().map(row).collect(),
    )
}

/// The flows by target and guard, and what is unexplained.
fn show_flows(flows: &Reconciled, context: &Context) -> Result<(), Failure> {
    let headings =
        ["target", "guard", "way", "came", "taken", "open", "recorded", "refused", "read", "written"];
    let lanes = flows.lanes.iter().map(|lane| {
        let refused = lane.never_came + lane.untaken + lane.refused.values().sum::<u64>();
        let numbers = [lane.came, lane.taken, lane.open, lane.recorded, refused, lane.read, lane.written];
        let names = [name(lane.target.as_deref()), name(lane.guard.as_deref()), way(lane.way)];
        names.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    });
    context.out.table(&headings, lanes.collect())?;
    for lane in &flows.lanes {
        let refused = lane.refused.iter().map(|(why, count)| (why.as_str(), *count));
        let ours = [
            ("refused by the kernel or given up before they came", lane.never_came),
            ("ended before the enforcer took them", lane.untaken),
            ("wait for the enforcer", lane.waiting),
            ("were taken by an enforcer before this one, and are not compared", lane.earlier),
            ("bytes came and were not read, because the connection was cut", lane.unread),
        ];
        for (why, count) in ours.into_iter().chain(refused).filter(|(_, count)| *count > 0) {
            context.out.line(format!(
                "{} {}: {count}: {why}",
                name(lane.target.as_deref()),
                way(lane.way)
            ))?;
        }
    }
    if !flows.compared {
        context.out.line("no enforcer runs, so what it took is not compared")?;
    }
    if flows.uncounted > 0 {
        let text = format!("{} flows found no room in the kernel's counts", flows.uncounted);
        context.out.line(format!("{}; see FLOWS in `tidegate status`", paint(Tone::Bad, text)))?;
    }
    let text = format!(
        "{} unexplained flows and {} unexplained bytes",
        flows.unexplained_flows, flows.unexplained_bytes
    );
    context.out.line(if flows.gaps.is_empty() { text } else { paint(Tone::Bad, text) })?;
    for gap in &flows.gaps {
        let (target, guard) = (name(gap.target.as_deref()), name(gap.guard.as_deref()));
        let (way, flows, bytes, why) = (way(Some(gap.way)), gap.flows, gap.bytes, gap.why.text());
        context
            .out
            .line(format!("target {target}, guard {guard}, {way}: {flows} flows, {bytes} bytes {why}"))?;
        for one in &gap.processes {
            let (command, place) = (escape_line(&one.command), name(one.cgroup.as_deref()));
            let bytes = one.bytes.map_or_else(|| "still open".to_owned(), |bytes| format!("{bytes} bytes"));
            let (pid, uid, to) = (one.pid, one.uid, &one.to);
            context.out.line(format!("  {command}[{pid}], uid {uid}, {place}, to {to}: {bytes}"))?;
        }
    }
    Ok(())
}

fn name(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| escape_line(text).into_owned())
}

fn way(way: Option<Way>) -> String {
    let text = match way {
        Some(Way::Outbound) => "outbound",
        Some(Way::Inbound) => "inbound",
        Some(Way::Past) => "past the gate",
        None => "-",
    };
    text.to_owned()
}

fn row(Past(one): &Past) -> Vec<String> {
    let text =
        |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| escape_line(text).into_owned());
    vec![
        text(one.process.as_ref()),
        one.uid.to_string(),
        text(one.unit.as_ref().or(one.cgroup.as_ref())),
        one.local.clone(),
        format!("{} {}", one.protocol, one.remote),
        text(one.target.as_ref().or(one.guard.as_ref())),
        one.why.clone(),
    ]
}
