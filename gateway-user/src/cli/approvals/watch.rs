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
use super::lines::{cut, wrapped};
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
/// Lines of what a vote is about.
const ABOUT_LINES: u16 = 2;
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
        selected: None,
        drawn: None,
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
    /// What about: as it was drawn when they began.
    about: String,
    approve: bool,
    once: bool,
    comment: String,
}

/// The demand that a person can see is chosen, or is shown in full.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Drawn {
    id: DemandId,
    about: String,
}

impl Drawn {
    fn of(demand: &DemandView) -> Option<Self> {
        let id = demand.id.parse().ok()?;
        let about = format!("{} on {}, asked by {}", line(demand), demand.target, demand.asker.key);
        Some(Self { id, about: escape_line(&about).into_owned() })
    }
}

/// The demand that was asked for in full, and what came.
type Asked = (DemandId, Result<Box<Whole>, String>);

enum Answer {
    Queue { queue: Result<Vec<DemandView>, String>, shown: Option<Asked> },
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
                let whole = |id| {
                    let demand = client.demand(id).map_err(failed)?;
                    let prior = client.prior(id).map_err(failed)?;
                    Ok(Box::new(Whole { demand, prior }))
                };
                let shown = id.map(|id| (id, whole(id)));
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
    /// The demand that is chosen in the queue, wherever it stands.
    selected: Option<String>,
    /// What the last page that was drawn is about. Nobody votes on anything else.
    drawn: Option<Drawn>,
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
    scroll: usize,
    /// The lines of what is shown, for a page of this width.
    lines: Option<(usize, Vec<Line<'static>>)>,
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
                // What was asked before the page was turned is about another demand.
                if let (Some(detail), Some((id, whole))) = (&mut self.shown, shown)
                    && detail.id == id
                {
                    (detail.whole, detail.lines) = (Some(whole), None);
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
        let about = if self.ballot.is_some() { ABOUT_LINES } else { 0 };
        let heights =
            [Constraint::Length(1), Constraint::Min(0), Constraint::Length(about), Constraint::Length(3)];
        let [head, body, about, foot] = Layout::vertical(heights).areas(frame.area());
        self.draw_head(frame, head);
        self.drawn = match &mut self.shown {
            Some(detail) => {
                detail.draw(frame, body, self.colour);
                detail.whole.as_ref().and_then(|whole| Drawn::of(&whole.as_ref().ok()?.demand))
            }
            None => {
                self.draw_queue(frame, body);
                self.chosen().and_then(Drawn::of)
            }
        };
        if let Some((_, ballot)) = &self.ballot {
            let text = Text::styled(ballot.about.clone(), style(Tone::Strong, self.colour));
            let lines = wrapped(text, usize::from(about.width));
            frame.render_widget(Paragraph::new(cut(lines, usize::from(about.height))), about);
        }
        self.draw_foot(frame, foot);
    }
}

impl Watch {
    fn queue_key(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Leave,
            KeyCode::Down | KeyCode::Char('j') => self.choose(|at, _| at.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.choose(|at, _| at.saturating_sub(1)),
            KeyCode::Home => self.choose(|_, _| 0),
            KeyCode::End => self.choose(|_, last| last),
            KeyCode::Enter => {
                self.shown = self.drawn.take().map(|drawn| Detail::of(drawn.id));
                return Next::Ask;
            }
            _ => {}
        }
        Next::Stay
    }

    /// Chooses the demand at another place of the queue, told by where the one that is chosen stands and the last place.
    fn choose(&mut self, place: impl FnOnce(usize, usize) -> usize) {
        let Ok(queue) = &self.queue else { return };
        let last = queue.len().saturating_sub(1);
        let at = place(self.place(queue), last).min(last);
        self.selected = queue.get(at).map(|demand| demand.id.clone());
        self.rows.select(Some(at));
    }

    /// Where the chosen demand stands. Where it is gone, what took its place is chosen.
    fn place(&self, queue: &[DemandView]) -> usize {
        let chosen = |demand: &DemandView| self.selected.as_ref() == Some(&demand.id);
        let before = || self.rows.selected().unwrap_or(0).min(queue.len().saturating_sub(1));
        queue.iter().position(chosen).unwrap_or_else(before)
    }

    fn chosen(&self) -> Option<&DemandView> {
        let queue = self.queue.as_ref().ok()?;
        queue.iter().find(|demand| self.selected.as_ref() == Some(&demand.id))
    }

    /// A vote is never cast by one key: what is about to be decided stands there until it is confirmed. It is about what
    /// was drawn, whatever has come since.
    fn begin(&mut self, approve: bool, once: bool) {
        let ballot = |about: String| Ballot { about, approve, once, comment: String::new() };
        self.ballot = self.drawn.clone().map(|drawn| (drawn.id, ballot(drawn.about)));
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
        let at = self.place(queue);
        self.selected = queue.get(at).map(|demand| demand.id.clone());
        self.rows.select(Some(at));
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
    fn of(id: DemandId) -> Self {
        Self { id, whole: None, difference: false, scroll: 0, lines: None }
    }

    fn key(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Left => return Next::Leave,
            KeyCode::Char('d') => {
                self.difference = !self.difference;
                (self.scroll, self.lines) = (0, None);
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(20),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(20),
            KeyCode::Home => self.scroll = 0,
            // As far as there is anything, which is found out when it is drawn.
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        Next::Stay
    }

    fn draw(&mut self, frame: &mut Frame<'_>, area: Rect, colour: bool) {
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        if self.lines.as_ref().is_none_or(|(of, _)| *of != width) {
            self.lines = Some((width, wrapped(self.text(colour), width)));
        }
        let lines = self.lines.as_ref().map(|(_, lines)| lines.as_slice()).unwrap_or_default();
        // Where not all of it fits, the last line says so.
        let room = if lines.len() > height { height.saturating_sub(1) } else { height };
        self.scroll = self.scroll.min(lines.len().saturating_sub(room));
        let mut shown: Vec<_> = lines.iter().skip(self.scroll).take(room).cloned().collect();
        if room < height {
            let below = lines.len() - self.scroll - shown.len();
            let text = format!(
                "-- {below} more lines below, {} above; space goes on, end goes to the end --",
                self.scroll
            );
            shown.push(Line::styled(text, style(Tone::Warn, colour)));
        }
        frame.render_widget(Paragraph::new(shown), area);
    }

    fn text(&self, colour: bool) -> Text<'static> {
        match &self.whole {
            None => Text::raw("asking the gate ..."),
            Some(Err(why)) => Text::styled(escape_line(why).into_owned(), style(Tone::Bad, colour)),
            Some(Ok(whole)) if self.difference => difference(whole, colour),
            Some(Ok(whole)) => Text::raw(plain(&describe(&whole.demand))),
        }
    }
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

#[cfg(test)]
mod tests;
