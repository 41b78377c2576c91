//! Events and entries in words for people. Every captured part is escaped here.

use super::output::{Tone, escape_line, paint, quoted, time};
use super::{Context, Failure};
use crate::record::entry::{
    BodyEnd, Ending, Event, Head, Interrupted, Kept, KernelRefused, RecordRead, Refused, Side,
    SocketsDestroyed, Surged, Upkeep, Verdict,
};
use crate::record::frame::{About, Frame};
use crate::record::read::{EntryView, Line, Reader, Summary};

pub(super) fn who(found: &Summary) -> String {
    let both = [found.user.as_deref(), found.workload_key.as_deref()];
    let both: Vec<&str> = both.into_iter().flatten().collect();
    if both.is_empty() { "-".to_owned() } else { both.join(" via ") }
}

pub(super) fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Finished => "finished".to_owned(),
        Ending::Refused(why) => format!("refused: {why}"),
        Ending::ByClient(why) => format!("broken by the client: {why}"),
        Ending::ByUpstream(why) => format!("broken by the upstream: {why}"),
        Ending::ByGate(why) => format!("broken by the gate: {why}"),
    }
}

pub(super) fn field(context: &Context, name: &str, value: &str) -> Result<(), Failure> {
    context.out.line(format_args!("{} {}", paint(Tone::Dim, format_args!("{name:>9}")), escape_line(value)))
}

pub(super) fn show_entry(
    reader: &Reader,
    entry: &EntryView,
    with: bool,
    context: &Context,
) -> Result<(), Failure> {
    let intent = &entry.intent;
    let title = format!("{} {}", intent.verdict.name(), intent.head.line);
    context.out.line(paint(tone(intent.verdict), escape_line(&title)))?;
    if let Some(would) = intent.would {
        let text = format!("the target is only observed; this would be: {}", would.name());
        field(context, "OBSERVED", &text)?;
    }
    field(context, "entry", &intent.entry.to_string())?;
    field(context, "judged", &time(intent.at))?;
    let user = intent.user.as_ref().map(crate::operation::User::key);
    for (name, value) in [("user", &user), ("workload", &intent.workload), ("target", &intent.target)] {
        if let Some(value) = value {
            field(context, name, value)?;
        }
    }
    field(context, "is", &format!("{} {}", intent.kind, intent.operations.join(", ")))?;
    field(context, "reason", &intent.reason)?;
    for rule in &intent.rules {
        field(context, "rule", rule)?;
    }
    if let Some(policy) = intent.policy {
        field(context, "policy", &policy.to_string())?;
    }
    if let Some(claimed) = &entry.claimed {
        field(context, "credential", &format!("{} for {}", claimed.credential, claimed.target))?;
    }
    if let Some(demanded) = &entry.demanded {
        field(context, "demand", &format!("{} at {}", demanded.demand, time(demanded.at)))?;
        field(context, "digest", &demanded.digest.to_string())?;
    }
    for vote in &entry.votes {
        let word = if vote.approve { "approved" } else { "rejected" };
        let comment = vote.comment.as_deref().unwrap_or_default();
        field(context, "vote", &format!("{word} by {} at {} {comment}", vote.person, time(vote.at)))?;
    }
    for decided in &entry.decided {
        let text = format!("{} at {}: {}", decided.verdict.name(), time(decided.at), decided.reason);
        field(context, "then", &text)?;
    }
    head(context, ">", &intent.head)?;
    if with {
        body(reader, entry, Side::Request, context)?;
    }
    for responded in &entry.responded {
        head(context, "<", &responded.head)?;
    }
    if with {
        body(reader, entry, Side::Response, context)?;
    }
    show_end(entry, context)
}

fn show_end(entry: &EntryView, context: &Context) -> Result<(), Failure> {
    let Some(closed) = &entry.closed else { return field(context, "end", "not yet") };
    let masked = if entry.intent.would.is_some() { "to mask" } else { "masked" };
    for (name, count) in &closed.masks {
        field(context, masked, &format!("{count} by {name}"))?;
    }
    for name in &closed.rewrites {
        field(context, "rewritten", &format!("by {name}"))?;
    }
    field(context, "request", &body_end(&closed.request))?;
    field(context, "response", &body_end(&closed.response))?;
    let status = closed.status.map_or_else(String::new, |status| format!(", status {status}"));
    field(context, "end", &format!("{}{status}, {}", ending(&closed.ending), time(closed.at)))
}

fn body_end(end: &BodyEnd) -> String {
    let why = end.gap.map_or_else(String::new, |gap| format!(": {}", gap.words()));
    let cut = end.truncated_at.map_or_else(String::new, |at| format!(", record truncated at byte {at}{why}"));
    let coded = if end.decoded.is_identity() { String::new() } else { format!(" of {}", end.decoded) };
    format!("{} bytes{coded}, {} recorded{cut}", end.bytes, end.recorded)
}

pub(super) fn head(context: &Context, mark: &str, head: &Head) -> Result<(), Failure> {
    let mark = paint(Tone::Dim, format_args!("{mark:>9}"));
    let fields = head.fields.iter().map(|(name, value)| format!("{name}: {value}"));
    for line in std::iter::once(head.line.clone()).chain(fields).filter(|line| !line.is_empty()) {
        context.out.line(format_args!("{mark} {}", escape_line(&line)))?;
    }
    Ok(())
}

fn body(reader: &Reader, entry: &EntryView, side: Side, context: &Context) -> Result<(), Failure> {
    let bytes = reader.body(entry, side).map_err(|error| Failure::from_error(&error))?;
    if bytes.is_empty() {
        return Ok(());
    }
    match String::from_utf8(bytes) {
        Ok(text) => context.out.line(quoted(&text)),
        Err(error) => {
            let note = format!("({} bytes that are not text; --json shows them)", error.as_bytes().len());
            context.out.line(paint(Tone::Dim, note))
        }
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Allow => Tone::Good,
        Verdict::Hold => Tone::Warn,
        Verdict::Deny | Verdict::Refuse => Tone::Bad,
    }
}

pub(super) fn print(line: &Line, context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json_line(line);
    }
    let at = time(line.frame.at().unwrap_or(line.written));
    let (_, about) = line.frame.about();
    let (word, tone, text) = in_words(&line.frame);
    let id = match about {
        About::Session(id) => id.to_string(),
        About::Entry(id) => id.to_string(),
        About::Gate => String::new(),
    };
    let word = paint(tone, format_args!("{word:<8}"));
    context.out.line(format_args!("{at} {word} {id:36} {}", escape_line(&text)))
}

pub(super) fn in_words(frame: &Frame) -> (&'static str, Tone, String) {
    match frame {
        Frame::Event(event) => event_in_words(event),
        Frame::Body(body) => {
            ("body", Tone::Dim, format!("{} bytes of the {:?}", body.placed.length, body.side))
        }
        Frame::Put { key, bytes, .. } => {
            ("state", Tone::Dim, format!("{} ({bytes} bytes)", String::from_utf8_lossy(key)))
        }
        Frame::Removed { key } => ("state", Tone::Dim, format!("{} removed", String::from_utf8_lossy(key))),
    }
}

fn kept(kept: &Kept) -> String {
    let by = &kept.by;
    match &kept.what {
        Upkeep::SigningKey(key) => {
            format!("checkpoints are signed with key {} {} ({by})", key.number, key.public)
        }
        Upkeep::Rekeyed { generation, segments } => {
            format!("{segments} segments are sealed with generation {generation} ({by})")
        }
        Upkeep::Shed { lane, segments, bytes, why } => {
            let whose = if lane.is_empty() { String::new() } else { format!(" of {lane}") };
            format!("{} segments of bodies{whose}, {bytes} bytes, are gone: {why} ({by})", segments.len())
        }
        Upkeep::Pruned { from, to, events, why, .. } => {
            format!("commits {from} to {to}, {events} events, are gone: {why} ({by})")
        }
    }
}

fn event_in_words(event: &Event) -> (&'static str, Tone, String) {
    match event {
        Event::SessionOpened(event) => {
            let target = event.target.as_deref().unwrap_or("no target");
            ("open", Tone::Strong, format!("{} to {} ({target})", event.peer, event.destination))
        }
        Event::Intent(event) => {
            (event.verdict.name(), tone(event.verdict), format!("{}: {}", event.head.line, event.reason))
        }
        Event::Demanded(event) => ("demand", Tone::Warn, event.demand.to_string()),
        Event::Decided(event) => (event.verdict.name(), tone(event.verdict), event.reason.clone()),
        Event::Responded(event) => ("answer", Tone::Dim, event.head.line.clone()),
        Event::Body(event) => ("body", Tone::Dim, format!("{} bytes", event.bytes.len())),
        Event::EntryClosed(event) => ("end", Tone::Dim, ending(&event.ending)),
        Event::SessionClosed(event) => {
            ("close", Tone::Dim, format!("{} operations, {}", event.entries, ending(&event.ending)))
        }
        Event::Voted(event) => {
            let word = if event.approve { "approves" } else { "rejects" };
            ("vote", Tone::Warn, format!("{} {word}", event.person))
        }
        Event::CalledOff(event) => {
            let word = if event.revoked { "revokes the approval" } else { "withdraws it" };
            ("demand", Tone::Warn, format!("{} {word}", event.by))
        }
        Event::PolicyChanged(event) => match &event.refused {
            None => ("policy", Tone::Strong, format!("{} is in force", event.policy)),
            Some(why) => ("policy", Tone::Bad, format!("a reload was refused: {why}")),
        },
        Event::Started(event) => (
            "start",
            Tone::Strong,
            format!("tidegate {}, {} entries recovered", event.version, event.recovered),
        ),
        Event::RecordRead(event) => ("read", Tone::Strong, reading(event)),
        Event::Blocked(event) => {
            let until = event.until.map_or_else(String::new, |until| format!(" until {}", time(until)));
            ("block", Tone::Bad, format!("{} by {}{until}: {}", event.subject, event.by, event.reason))
        }
        Event::Unblocked(event) => (
            "unblock",
            Tone::Strong,
            match event.by.as_str() {
                "" => format!("{}: its time ran out", event.subject),
                by => format!("{} by {by}", event.subject),
            },
        ),
        Event::PolicyWeighed(event) => {
            let count = event.widened.len() as u64 + event.widened_left_out;
            (
                "policy",
                if count == 0 { Tone::Dim } else { Tone::Warn },
                format!(
                    "{} widens {count} of {} recorded operations and {} cases",
                    event.policy, event.judged, event.cases
                ),
            )
        }
        Event::Kept(event) => ("record", Tone::Strong, kept(event)),
        Event::Surged(event) => ("surge", Tone::Warn, surged(event)),
        Event::SocketsDestroyed(event) => ("cut", Tone::Warn, cut(event)),
        Event::KernelRefused(event) => ("refused", Tone::Warn, refused(event)),
        Event::CredentialClaimed(event) => {
            ("credential", Tone::Strong, format!("{} for {}", event.credential, event.target))
        }
        Event::Interrupted(event) => ("gap", Tone::Bad, interrupted(event)),
    }
}

fn cut(event: &SocketsDestroyed) -> String {
    let one = event.sockets.first().map_or_else(String::new, |one| {
        let process = one.process.as_deref().unwrap_or("a process that is gone");
        format!(": {process} to {}: {}", one.remote, one.why)
    });
    let count = event.sockets.len() as u64 + event.left_out;
    format!("{count} connections older than their protection{one}")
}

/// Refusals of one entry that are told in words; all stand in its JSON.
const REFUSED_TOLD_MAX: usize = 3;

fn refused(event: &KernelRefused) -> String {
    let KernelRefused { refusals, left_out, lost_so_far, .. } = event;
    let mut told: Vec<String> = refusals.iter().take(REFUSED_TOLD_MAX).map(refusal).collect();
    let rest = refusals.iter().skip(REFUSED_TOLD_MAX).map(|one| one.times).sum::<u64>();
    let numbers = [
        (rest, "more of other kinds"),
        (*left_out, "more that the entry leaves out"),
        (*lost_so_far, "since the load of which nothing else is known"),
    ];
    told.extend(
        numbers.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
    );
    told.join("; ")
}

fn refusal(one: &Refused) -> String {
    let process = one.process.as_deref().unwrap_or("a packet");
    let to = one.about.as_ref().or(one.to.as_ref()).map_or_else(String::new, |to| format!(" to {to}"));
    let protocol = one.protocol.as_ref().map_or_else(String::new, |protocol| format!(" ({protocol})"));
    let uid = one.uid.map_or_else(String::new, |uid| format!(", uid {uid}"));
    let guard = one.guard.as_ref().map_or_else(String::new, |guard| format!(", guard {guard}"));
    let times = if one.times == 1 { String::new() } else { format!(", {} times", one.times) };
    format!("{}: {process}{to}{protocol}{uid}{guard}{times}", one.reason)
}

fn surged(event: &Surged) -> String {
    let Surged { what, target, name, count, expected, subject, .. } = event;
    let by = subject.as_ref().map_or_else(String::new, |subject| format!(", mostly by {subject}"));
    format!("{what} {name} on {target}: {count} in a minute where {expected:.1} are usual{by}")
}

fn interrupted(event: &Interrupted) -> String {
    let Interrupted { since, reason, flows, operations, .. } = event;
    format!("no record since {}: {reason}; refused {flows} flows, {operations} operations", time(*since))
}

fn reading(event: &RecordRead) -> String {
    let person = event.person.as_ref().map_or_else(String::new, |person| format!("{person}, "));
    let login = event.login_uid.map_or_else(String::new, |login| format!(", logged in as uid {login}"));
    format!("{person}uid {}{login}: {} {}", event.uid, event.command, event.about)
}
