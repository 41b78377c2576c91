//! `tidegate approvals watch`: the queue on a page that an on-call engineer can keep open: what waits, the whole of one
//! demand, how it differs from the last one approved like it, and the keys to decide. Whose vote it is, the kernel says.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState, Wrap};

use super::diff::{Change, changes};
use super::{describe, line, needs, plain};
use crate::admin::client::{Client, ClientError};
use crate::admin::view::{BallotView, DemandView, PriorView};
use crate::cli::output::{Tone, escape_line, span};
use crate::cli::screen::{self, Next, Page, style};
use crate::cli::{Context, Failure};
use crate::limits::COMMENT_BYTES_MAX;
use crate::operation::DemandId;

/// What is at the foot of each page.
const QUEUE_KEYS: &str =
    "up/down move   enter shows   a approves   o approves once   r rejects   b bell   q leaves";
const DETAIL_KEYS: &str =
    "up/down scroll   d difference   a approves   o approves once   r rejects   q back to the queue";
const BALLOT_KEYS: &str = "enter votes   esc does not";
/// What goes before a decision that is about to be made.
const NO_COMMENT: &str = "without a word";

/// Shows the page until it is left.
pub(super) fn run(client: Client, context: &Context) -> Result<(), Failure> {
    if !context.out.is_terminal() {
        return Err(Failure::cannot("`approvals watch` needs a terminal; `approvals list` prints"));
    }
    let mut watch = Watch {
        colour: context.out.has_colour(),
        bell: true,
        queue: Err("asking the gate ...".into()),
        known: BTreeSet::new(),
        rows: TableState::default(),
        shown: None,
        ballot: None,
        vote: None,
        said: None,
    };
    screen::show(&mut watch, move |question| Answer::to(question, &client))
}

/// What the page asks.
#[derive(Debug, Clone)]
enum Question {
    /// The queue, and one demand in full.
    Queue(Option<DemandId>),
    Vote(DemandId, Ballot),
}

/// What a person is about to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ballot {
    approve: bool,
    once: bool,
    comment: String,
}

enum Answer {
    Queue { queue: Result<Vec<DemandView>, String>, shown: Option<Result<Box<Whole>, String>> },
    Voted(Result<String, String>),
}

/// A demand in full, and the last one approved like it.
struct Whole {
    demand: DemandView,
    prior: Option<PriorView>,
}

impl Answer {
    fn to(question: Question, client: &Client) -> Self {
        let failed = |error: ClientError| error.to_string();
        match question {
            Question::Queue(id) => {
                let shown = id.map(|id| {
                    let demand = client.demand(id).map_err(failed)?;
                    let prior = client.prior(id).map_err(failed)?;
                    Ok(Box::new(Whole { demand, prior }))
                });
                Self::Queue { queue: client.demands().map_err(failed), shown }
            }
            Question::Vote(id, ballot) => {
                let comment = Some(ballot.comment).filter(|comment| !comment.is_empty());
                let said = BallotView { comment, once: ballot.once };
                let voted = client.vote(id, ballot.approve, &said);
                Self::Voted(voted.map(|voted| plain(&super::outcome(&voted))).map_err(failed))
            }
        }
    }
}

struct Watch {
    colour: bool,
    bell: bool,
    queue: Result<Vec<DemandView>, String>,
    /// Demands that have been rung for.
    known: BTreeSet<String>,
    rows: TableState,
    shown: Option<Detail>,
    /// Being written.
    ballot: Option<(DemandId, Ballot)>,
    /// Written, and not sent yet.
    vote: Option<(DemandId, Ballot)>,
    /// What became of the last vote.
    said: Option<Result<String, String>>,
}

/// The page of one demand.
struct Detail {
    id: DemandId,
    whole: Option<Result<Box<Whole>, String>>,
    difference: bool,
    scroll: u16,
}

impl Page for Watch {
    type Question = Question;
    type Answer = Answer;

    fn question(&mut self) -> Option<Question> {
        Some(match self.vote.take() {
            Some((id, ballot)) => Question::Vote(id, ballot),
            None => Question::Queue(self.shown.as_ref().map(|detail| detail.id)),
        })
    }

    fn take(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::Voted(said) => {
                self.said = Some(said);
                false
            }
            Answer::Queue { queue, shown } => {
                if let (Some(detail), Some(whole)) = (&mut self.shown, shown) {
                    detail.whole = Some(whole);
                }
                let ids: BTreeSet<String> = queue
                    .iter()
                    .flatten()
                    .filter(|demand| demand.state == "pending")
                    .map(|d| d.id.clone())
                    .collect();
                let first = self.queue.is_err();
                let new = ids.difference(&self.known).next().is_some();
                if queue.is_ok() {
                    self.known = ids;
                }
                self.queue = queue;
                // What waited already when the page was opened is on the screen anyway.
                self.bell && new && !first
            }
        }
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        if self.ballot.is_some() {
            return self.write(key.code);
        }
        self.said = None;
        match key.code {
            KeyCode::Char('a') => self.begin(true, false),
            KeyCode::Char('o') => self.begin(true, true),
            KeyCode::Char('r') => self.begin(false, false),
            KeyCode::Char('b') => self.bell = !self.bell,
            code => match &mut self.shown {
                None => return self.queue_key(code),
                Some(detail) => {
                    if detail.key(code) == Next::Leave {
                        self.shown = None;
                    }
                }
            },
        }
        Next::Stay
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(3)])
                .areas(frame.area());
        self.draw_head(frame, head);
        match &self.shown {
            Some(detail) => detail.draw(frame, body, self.colour),
            None => self.draw_queue(frame, body),
        }
        self.draw_foot(frame, foot);
    }
}

impl Watch {
    fn queue_key(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Leave,
            KeyCode::Down | KeyCode::Char('j') => self.rows.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.rows.select_previous(),
            KeyCode::Home => self.rows.select_first(),
            KeyCode::End => self.rows.select_last(),
            KeyCode::Enter => {
                self.shown =
                    self.selected().map(|id| Detail { id, whole: None, difference: false, scroll: 0 });
                return Next::Ask;
            }
            _ => {}
        }
        Next::Stay
    }

    fn selected(&self) -> Option<DemandId> {
        let queue = self.queue.as_ref().ok()?;
        let at = self.rows.selected().unwrap_or(0).min(queue.len().saturating_sub(1));
        queue.get(at)?.id.parse().ok()
    }

    /// A vote is never cast by one key: what is about to be decided stands there until it is confirmed.
    fn begin(&mut self, approve: bool, once: bool) {
        let id = self.shown.as_ref().map(|detail| detail.id).or_else(|| self.selected());
        self.ballot = id.map(|id| (id, Ballot { approve, once, comment: String::new() }));
    }

    fn write(&mut self, code: KeyCode) -> Next {
        let Some((_, ballot)) = &mut self.ballot else { return Next::Stay };
        match code {
            KeyCode::Esc => self.ballot = None,
            KeyCode::Enter => {
                self.vote = self.ballot.take();
                return Next::Ask;
            }
            KeyCode::Backspace => {
                ballot.comment.pop();
            }
            KeyCode::Char(c) if ballot.comment.len() + c.len_utf8() <= COMMENT_BYTES_MAX => {
                ballot.comment.push(c)
            }
            _ => {}
        }
        Next::Stay
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let waiting = self.queue.iter().flatten().filter(|demand| demand.state == "pending").count();
        let bell = if self.bell { "bell on" } else { "bell off" };
        let text = format!(" Approvals: {waiting} wait   {bell}");
        let strong = style(Tone::Strong, self.colour).add_modifier(Modifier::REVERSED);
        frame.render_widget(Paragraph::new(text).style(strong), area);
    }

    fn draw_queue(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let queue = match &self.queue {
            Ok(queue) => queue,
            Err(why) => {
                let text = Paragraph::new(escape_line(why).into_owned()).wrap(Wrap { trim: true });
                return frame.render_widget(text.style(style(Tone::Bad, self.colour)), area);
            }
        };
        if queue.is_empty() {
            let text = Paragraph::new("Nothing waits. This page shows what comes.");
            return frame.render_widget(text.style(style(Tone::Dim, self.colour)), area);
        }
        if self.rows.selected().is_none_or(|at| at >= queue.len()) {
            self.rows.select(Some(self.rows.selected().unwrap_or(0).min(queue.len() - 1)));
        }
        let now = Timestamp::now();
        let rows = queue.iter().map(|demand| {
            let left = demand.ends.duration_since(now);
            let tone = match demand.state.as_str() {
                "pending" if left.as_secs() < 60 => Some(Tone::Bad),
                "pending" => None,
                _ => Some(Tone::Dim),
            };
            let cells = [
                span(left),
                demand.target.clone(),
                line(demand),
                demand.asker.key.clone(),
                needs(&demand.approvals, &demand.state),
                demand.message.clone().unwrap_or_default(),
            ];
            let cells = cells.iter().map(|cell| escape_line(cell).into_owned()).collect::<Vec<_>>();
            Row::new(cells).style(tone.map_or_else(Style::new, |tone| style(tone, self.colour)))
        });
        let widths = [2, 3, 8, 6, 5, 6].map(Constraint::Fill);
        let header = Row::new(["left", "target", "operation", "asked by", "needs", "message"]);
        let table = Table::new(rows.collect::<Vec<_>>(), widths)
            .header(header.style(style(Tone::Strong, self.colour)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .highlight_symbol("> ");
        frame.render_stateful_widget(table, area, &mut self.rows);
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let (title, text, tone) = match (&self.ballot, &self.said) {
            (Some((id, ballot)), _) => {
                let word = match (ballot.approve, ballot.once) {
                    (true, false) => "APPROVE",
                    (true, true) => "APPROVE ONCE",
                    (false, _) => "REJECT",
                };
                let comment = if ballot.comment.is_empty() { NO_COMMENT } else { &ballot.comment };
                (BALLOT_KEYS, format!("{word} {id}, comment: {}", escape_line(comment)), Tone::Warn)
            }
            (None, Some(Ok(said))) => ("", escape_line(said).into_owned(), Tone::Good),
            (None, Some(Err(why))) => ("", format!("refused: {}", escape_line(why)), Tone::Bad),
            (None, None) if self.shown.is_some() => ("", DETAIL_KEYS.to_owned(), Tone::Dim),
            (None, None) => ("", QUEUE_KEYS.to_owned(), Tone::Dim),
        };
        let text = Paragraph::new(text).style(style(tone, self.colour)).wrap(Wrap { trim: true });
        frame.render_widget(text.block(Block::bordered().title(title)), area);
    }
}

impl Detail {
    fn key(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Left => return Next::Leave,
            KeyCode::Char('d') => {
                self.difference = !self.difference;
                self.scroll = 0;
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(20),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(20),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        Next::Stay
    }

    fn draw(&self, frame: &mut Frame<'_>, area: Rect, colour: bool) {
        let text = match &self.whole {
            None => Text::raw("asking the gate ..."),
            Some(Err(why)) => Text::styled(escape_line(why).into_owned(), style(Tone::Bad, colour)),
            Some(Ok(whole)) if self.difference => difference(whole, colour),
            Some(Ok(whole)) => Text::raw(plain(&describe(&whole.demand))),
        };
        let lines = wrapped(text, usize::from(area.width));
        let last = lines.len().saturating_sub(usize::from(area.height));
        let first = usize::from(self.scroll).min(last);
        let shown: Vec<_> = lines.into_iter().skip(first).take(usize::from(area.height)).collect();
        frame.render_widget(Paragraph::new(shown), area);
    }
}

/// The lines of a text, none wider than the page: a long payload is shown to its last character.
fn wrapped(text: Text<'static>, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for line in text.lines {
        let (style, whole) = (text.style.patch(line.style), line.to_string());
        let mut part = String::new();
        for c in whole.chars() {
            if Line::raw(format!("{part}{c}")).width() > width.max(2) {
                lines.push(Line::styled(std::mem::take(&mut part), style));
            }
            part.push(c);
        }
        lines.push(Line::styled(part, style));
    }
    lines
}

/// How a demand differs from the last one that was approved like it.
fn difference(whole: &Whole, colour: bool) -> Text<'static> {
    let Some(prior) = &whole.prior else {
        return Text::raw("Nothing like it was approved before: the same target, operations and rules.");
    };
    let ago = span(Timestamp::now().duration_since(prior.at).max(SignedDuration::ZERO));
    let title = format!(
        "Against {}, asked by {}, approved by {} {ago} ago",
        prior.id,
        prior.asker,
        prior.by.join(", ")
    );
    let mut lines =
        vec![Line::styled(escape_line(&title).into_owned(), style(Tone::Strong, colour)), Line::default()];
    for (change, text) in
        changes(&super::laid_out(&prior.operation), &super::laid_out(&whole.demand.operation))
    {
        let (mark, tone) = match change {
            Change::Same => (" ", None),
            Change::Gone => ("-", Some(Tone::Bad)),
            Change::New => ("+", Some(Tone::Good)),
        };
        let style = tone.map_or_else(Style::new, |tone| style(tone, colour));
        lines.push(Line::styled(format!("{mark} {text}"), style));
    }
    Text::from(lines)
}
