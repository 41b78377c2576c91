//! `tidegate sessions`: lists, shows, follows, searches and exports what was recorded. Never prints captured data unescaped.

mod export;
mod filters;
mod search;

use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use self::filters::Filters;
use super::output::time;
use super::reading::{self, asked};
use super::record::quiet_engine;
use super::story::{ending, field, print, show_entry, who};
use super::{Context, Failure};
use crate::limits::{LIST_PATIENCE, LIST_TIME};
use crate::operation::{EntryId, SessionId};
use crate::record::RecordError;
use crate::record::entry::Side;
use crate::record::export::Text;
use crate::record::list::{Cursor, Page};
use crate::record::read::{EntryView, Filter, Reader, SessionView, Summary};
use crate::store::StoreError;

/// Between two looks at the record.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// List, show, follow, search and export recorded sessions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate sessions list\n  tidegate sessions tail -f")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Tail(Tail),
    Search(search::Args),
    Export(export::Args),
}

/// List sessions, newest first. Every filter given must hold for one and the same operation of a session.
///
/// An answer comes within about two seconds, however long the record is. Where that is too short to look at everything,
/// or there are more than the limit, it says from which place in the record to go on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate sessions list --verdict deny --since 1h\n  \
                        tidegate sessions list --user ann --target react --since 2026-11-21 --until 2026-11-22\n  \
                        tidegate sessions list --workload react-worker.service --json\n  \
                        tidegate sessions list --verdict deny --before 81734.12")]
struct List {
    #[command(flatten)]
    filters: Filters,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on from this place to what is older. The list before says which.
    #[arg(long, value_name = "PLACE")]
    before: Option<Cursor>,
}

/// Show one session, or one entry, as it happened.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate sessions show 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d            the session, heads of each operation\n  \
                        tidegate sessions show 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d --bodies   and every recorded body"
)]
struct Show {
    /// Id of a session or of an entry.
    id: Uuid,
    /// Show bodies too. Always shown for a single entry.
    #[arg(long)]
    bodies: bool,
}

/// Print the last events, and with -f those that follow.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate sessions tail -f\n  tidegate sessions tail -n 100 --json")]
struct Tail {
    /// Go on printing what happens, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// So many events to begin with.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    quiet_engine();
    match args.command {
        Command::List(args) => list(&args, context),
        Command::Show(args) => show(&args, context),
        Command::Tail(args) => tail(&args, context),
        Command::Search(args) => search::run(&args, context),
        Command::Export(args) => export::run(&args, context),
    }
}

fn list(args: &List, context: &Context) -> Result<(), Failure> {
    let limit = Some(args.limit.to_string()).filter(|_| args.limit != 50);
    let before = args.before.map(|before| before.to_string());
    let about = asked(args.filters.asked().into_iter().chain([("limit", limit), ("before", before)]));
    let reader = reading::open("sessions list", &about, context)?;
    let filter = Filter { limit: args.limit, ..args.filters.filter() };
    let page = pages(&reader, &filter, args.before).map_err(|error| Failure::from_error(&error))?;
    let found = &page.sessions;
    if context.out.is_json() {
        context.out.json(found)?;
    } else if !found.is_empty() {
        let header = ["session", "opened", "from", "who", "target", "ops", "verdicts", "end"];
        context.out.table(&header, found.iter().map(row).collect())?;
    } else if page.next.is_none() {
        context.out.note("no session matches");
    }
    match page.next {
        Some(next) if page.in_time => {
            context.out.note(format_args!("not everything was looked at in time; go on with --before {next}"))
        }
        Some(next) => context.out.note(format_args!("there are more; go on with --before {next}")),
        None => {}
    }
    Ok(())
}

/// One page after the other, until there are as many sessions as were asked for, or nobody would wait any longer.
fn pages(reader: &Reader, filter: &Filter, before: Option<Cursor>) -> Result<Page, RecordError> {
    let begun = Instant::now();
    let mut whole = reader.page(filter, before, LIST_TIME)?;
    while whole.in_time && whole.sessions.len() < filter.limit && begun.elapsed() < LIST_PATIENCE {
        let filter = Filter { limit: filter.limit - whole.sessions.len(), ..filter.clone() };
        let page = reader.page(&filter, whole.next, LIST_TIME)?;
        (whole.next, whole.in_time) = (page.next, page.in_time);
        let known =
            |found: &Summary| whole.sessions.iter().any(|one| one.opened.session == found.opened.session);
        let new: Vec<Summary> = page.sessions.into_iter().filter(|found| !known(found)).collect();
        whole.sessions.extend(new);
    }
    whole.sessions.sort_by_key(|found| std::cmp::Reverse((found.opened.at, found.opened.session)));
    Ok(whole)
}

fn row(found: &Summary) -> Vec<String> {
    let verdicts = found.verdicts.iter().map(|(verdict, count)| format!("{verdict} {count}"));
    vec![
        found.opened.session.to_string(),
        time(found.opened.at),
        found.opened.peer.clone(),
        who(found),
        found.opened.target.clone().unwrap_or_else(|| found.opened.destination.clone()),
        found.entries.to_string(),
        verdicts.collect::<Vec<_>>().join(", "),
        found.closed.as_ref().map_or_else(|| "open".to_owned(), |closed| ending(&closed.ending)),
    ]
}

/// What `show --json` prints of an operation.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a EntryView,
    #[serde(skip_serializing_if = "Option::is_none")]
    bodies: Option<Bodies>,
}

#[derive(Serialize)]
struct Bodies {
    request: Text,
    response: Text,
}

fn show(args: &Show, context: &Context) -> Result<(), Failure> {
    let with = args.bodies.then(String::new);
    let about = asked([("", Some(args.id.to_string())), ("bodies", with)]);
    let reader = reading::open("sessions show", &about, context)?;
    let failed = |error: RecordError| Failure::from_error(&error);
    if let Some(session) = reader.session(SessionId(args.id)).map_err(failed)? {
        return show_session(&reader, &session, args.bodies, context);
    }
    let Some(entry) = reader.entry(EntryId(args.id)).map_err(failed)? else {
        return Err(Failure::cannot(format!("no session and no entry has the id {}", args.id)));
    };
    if context.out.is_json() {
        let bodies = Some(bodies(&reader, &entry)?);
        return context.out.json(&Shown { entry: &entry, bodies });
    }
    show_entry(&reader, &entry, true, context)
}

fn bodies(reader: &Reader, entry: &EntryView) -> Result<Bodies, Failure> {
    let body = |side| reader.body(entry, side).map(Text::of).map_err(|error| Failure::from_error(&error));
    Ok(Bodies { request: body(Side::Request)?, response: body(Side::Response)? })
}

fn show_session(
    reader: &Reader,
    session: &SessionView,
    with: bool,
    context: &Context,
) -> Result<(), Failure> {
    if context.out.is_json() {
        let mut entries = Vec::new();
        for entry in &session.entries {
            let bodies = if with { Some(bodies(reader, entry)?) } else { None };
            entries.push(serde_json::to_value(Shown { entry, bodies }).map_err(|e| Failure::from_error(&e))?);
        }
        return context.out.json(&serde_json::json!({ "session": &session.summary, "entries": entries }));
    }
    let found = &session.summary;
    let mut lines = vec![
        ("session", found.opened.session.to_string()),
        ("opened", time(found.opened.at)),
        ("from", found.opened.peer.clone()),
        ("to", found.opened.destination.clone()),
        ("target", found.opened.target.clone().unwrap_or_else(|| "none".to_owned())),
        ("who", who(found)),
    ];
    if let Some(workload) = &found.opened.workload {
        let program = workload.executable.as_ref().map_or("unknown program", |program| program.path.as_str());
        lines.push((
            "process",
            format!("{} (pid {}, uid {}), {program}", workload.command, workload.pid, workload.uid),
        ));
    }
    let contained = found
        .opened
        .workload
        .as_ref()
        .map(|one| [("container", &one.container), ("image", &one.image), ("pod", &one.pod)]);
    for (name, value) in contained.into_iter().flatten() {
        lines.extend(value.clone().map(|value| (name, value)));
    }
    if let Some(closed) = &found.closed {
        lines.push(("closed", format!("{}, {}", time(closed.at), ending(&closed.ending))));
    }
    for (name, value) in lines {
        field(context, name, &value)?;
    }
    for entry in &session.entries {
        context.out.line("")?;
        show_entry(reader, entry, with, context)?;
    }
    Ok(())
}

fn tail(args: &Tail, context: &Context) -> Result<(), Failure> {
    let failed = |error: RecordError| Failure::from_error(&error);
    let follow = args.follow.then(String::new);
    let about = asked([("lines", Some(args.lines.to_string())), ("follow", follow)]);
    let mut reader = Some(reading::open("sessions tail", &about, context)?);
    let mut next = 0;
    if let Some(reader) = &reader {
        next = reader.end().map_err(failed)?;
        for line in reader.last(args.lines).map_err(failed)? {
            print(&line, context)?;
        }
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        // A record that nobody closed is only looked at for a moment: the enforcer must be able to start.
        reader = reader.filter(|reader| !reader.is_recovered());
        if reader.is_none() {
            std::thread::sleep(FOLLOW_EVERY * 5);
        }
        let current = match reader.take() {
            Some(current) => current,
            None => match super::record::reader(context) {
                Ok(current) => current,
                // The enforcer is just taking it over.
                Err(RecordError::Store(StoreError::InUse)) => continue,
                Err(error) => return Err(failed(error)),
            },
        };
        match current.follow(next) {
            Ok(Some((lines, after))) => {
                next = after;
                lines.iter().try_for_each(|line| print(line, context))?;
            }
            Ok(None) => std::thread::sleep(FOLLOW_EVERY),
            Err(error) => return Err(failed(error)),
        }
        reader = Some(current);
    }
}
