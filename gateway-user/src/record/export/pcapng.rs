//! A capture of what was recorded, for Wireshark and its kin: raw IP packets with TCP made up around the recorded
//! messages. Sequence numbers, checksums, sizes and order are right; the times are those of the record. The messages are
//! the recorded ones: masked, without chunks, and with the length of what the record holds.

mod blocks;
mod flow;
mod message;

use std::io::{self, Write};
use std::net::SocketAddr;

use self::blocks::Blocks;
use self::flow::{Flow, Way};
use super::{Whole, Writer};
use crate::record::entry::{Ending, SessionClosed, SessionOpened};
use crate::record::read::EntryView;

pub(super) struct Pcapng<'a> {
    blocks: Blocks<'a>,
    /// The connection being written; none where its session has no two addresses.
    flow: Option<Flow>,
}

impl<'a> Pcapng<'a> {
    pub(super) fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        Ok(Self { blocks: Blocks::begin(out)?, flow: None })
    }
}

impl Writer for Pcapng<'_> {
    fn opened(&mut self, opened: &SessionOpened) -> io::Result<()> {
        let ends = [&opened.peer, &opened.destination].map(|end| end.parse::<SocketAddr>());
        let [Ok(client), Ok(server)] = ends else {
            self.flow = None;
            return Ok(());
        };
        let flow = self.flow.insert(Flow::new(opened.session, client, server, opened.at));
        let target = opened.target.as_deref().unwrap_or("none");
        flow.open(&mut self.blocks, &format!("tidegate session {}; target {target}", opened.session))
    }

    fn entry(&mut self, whole: &Whole<'_>) -> io::Result<bool> {
        let Some(flow) = &mut self.flow else { return Ok(false) };
        let entry = whole.entry;
        let asked = message::request(whole);
        flow.until(entry.intent.at);
        let gap = whole.request.gap().map_or_else(String::new, |gap| format!("; {gap}"));
        let judged = format!("{}{gap}", judged(entry));
        let Some(asked) = asked else {
            // What was refused before it was a request has no bytes to show.
            let text = format!("{judged}; no request: {}", entry.intent.head.line);
            flow.send(&mut self.blocks, Way::Up, &[], &text)?;
            return Ok(true);
        };
        flow.send(&mut self.blocks, Way::Up, &asked, &judged)?;
        let answered = entry.responded.last().map(|responded| responded.at);
        flow.until(answered.or(entry.closed.as_ref().map(|closed| closed.at)).unwrap_or(entry.intent.at));
        if let Some(answer) = message::response(whole) {
            flow.send(&mut self.blocks, Way::Down, &answer, &ended(whole))?;
        }
        flow.until(entry.closed.as_ref().map_or(entry.intent.at, |closed| closed.at));
        Ok(true)
    }

    fn closed(&mut self, closed: Option<&SessionClosed>) -> io::Result<()> {
        let (Some(mut flow), Some(closed)) = (self.flow.take(), closed) else { return Ok(()) };
        flow.until(closed.at);
        match &closed.ending {
            Ending::Finished => flow.finish(&mut self.blocks, "the session ended as it should"),
            other => flow.reset(&mut self.blocks, &format!("the session ended: {}", ending(other))),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn judged(entry: &EntryView) -> String {
    let intent = &entry.intent;
    let mut text = format!("tidegate entry {}; verdict {}", intent.entry, intent.verdict.name());
    for decided in &entry.decided {
        text += &format!(", then {}", decided.verdict.name());
    }
    if !intent.rules.is_empty() {
        text += &format!("; rules {}", intent.rules.join(", "));
    }
    let user = intent.user.as_ref().map(crate::operation::User::key);
    for (name, value) in [("user", &user), ("workload", &intent.workload), ("target", &intent.target)] {
        if let Some(value) = value {
            text += &format!("; {name} {value}");
        }
    }
    text
}

fn ended(whole: &Whole<'_>) -> String {
    let mut text = format!("tidegate entry {}", whole.entry.intent.entry);
    if whole.entry.responded.is_empty() {
        text += "; the gate's own answer, whose fields and body are not recorded";
    }
    if let Some(closed) = &whole.entry.closed {
        for (name, count) in &closed.masks {
            text += &format!("; {count} values hidden by {name}");
        }
        text += &format!("; {}", ending(&closed.ending));
    }
    if let Some(gap) = whole.response.gap() {
        text += &format!("; {gap}");
    }
    text
}

fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Finished => "finished".to_owned(),
        Ending::Refused(why) => format!("refused: {why}"),
        Ending::ByClient(why) => format!("broken by the client: {why}"),
        Ending::ByUpstream(why) => format!("broken by the upstream: {why}"),
        Ending::ByGate(why) => format!("broken by the gate: {why}"),
    }
}
