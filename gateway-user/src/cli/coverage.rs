//! `tidegate coverage`: whether anything reaches past the gate, named. Asks the kernel itself, so that it also works while
//! the enforcer is dead.

use super::output::{Tone, escape_line, paint};
use super::{Context, Failure};
use crate::admin::coverage::{Coverage, Past};
use crate::app;

/// Say what reaches past the gate: hooks that are missing, and connections that did not come through it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 1: a hook is missing, or a connection reaches past the gate.

Examples:
  sudo tidegate coverage
  sudo tidegate coverage --json | jq '.past[].process'")]
pub(super) struct Args {}

/// Runs the command.
pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let shelf = app::open_policy(&context.settings).map_err(|error| Failure::from_error(&error))?;
    let found = app::coverage(&context.settings.pins, &shelf.current())
        .map_err(|error| Failure::cannot(format!("what is covered cannot be found out: {error}")))?;
    if context.out.is_json() {
        context.out.json(&found)?;
    } else {
        show(&found, context)?;
    }
    if found.is_whole() { Ok(()) } else { Err(Failure::No) }
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
