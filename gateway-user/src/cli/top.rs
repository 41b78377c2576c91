//! `tidegate top`: what happens now, in the last hour, minute by minute: sessions, masks, approvals, rules. Asks the
//! running gate; changes nothing.

use jiff::{SignedDuration, Timestamp};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState, Tabs};

use super::output::{Tone, escape_line, span, time};
use super::screen::{self, Next, Page, style};
use super::{Context, Failure};
use crate::admin::client::Client;
use crate::admin::view::{DemandView, SignalsView};
use crate::signals::{Kind, RateView, View};

/// Show what happens now: live sessions, masks that fire, approvals, and the rules that decide.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys:
  1 2 3 4, Tab   sessions, masks, approvals, rules
  up, down       move
  p              stop and go on
  q              leave

A rate is a surge where it is far above what is usual; what is usual is learned from the last half hour. Where the
output is no terminal, or with --once, everything is printed once.

Examples:
  tidegate top --once
  tidegate top
  tidegate top --json | jq '.surges'")]
pub(super) struct Args {
    /// Print everything once and end.
    #[arg(long)]
    once: bool,
}

const VIEWS: [&str; 4] = ["1 Sessions", "2 Masks", "3 Approvals", "4 Rules"];

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let client = Client::new(&context.settings.admin_socket);
    if context.out.is_json() || args.once || !context.out.is_terminal() {
        let now = Now::ask(&client).map_err(Failure::Cannot)?;
        return if context.out.is_json() { context.out.json(&now.signals) } else { once(&now, context) };
    }
    let mut top = Top {
        now: Err("asking the gate ...".into()),
        view: 0,
        rows: TableState::default(),
        paused: false,
        colour: context.out.has_colour(),
    };
    screen::show(&mut top, move |()| Now::ask(&client))
}

/// What the gate said last.
struct Now {
    signals: SignalsView,
    demands: Vec<DemandView>,
}

impl Now {
    fn ask(client: &Client) -> Result<Self, String> {
        let failed = |error: crate::admin::client::ClientError| error.to_string();
        Ok(Self { signals: client.signals().map_err(failed)?, demands: client.demands().map_err(failed)? })
    }
}

fn once(now: &Now, context: &Context) -> Result<(), Failure> {
    for (view, title) in VIEWS.iter().enumerate() {
        let listing = listing(view, now);
        context.out.line(format_args!("{}: {}", &title[2..], escape_line(&listing.note)))?;
        if !listing.rows.is_empty() {
            let rows = listing.rows.into_iter().map(|(_, cells)| cells).collect();
            context.out.table(&listing.header, rows)?;
        }
        context.out.line("")?;
    }
    Ok(())
}

struct Top {
    now: Result<Now, String>,
    view: usize,
    rows: TableState,
    paused: bool,
    colour: bool,
}

impl Page for Top {
    type Question = ();
    type Answer = Result<Now, String>;

    fn question(&mut self) -> Option<()> {
        (!self.paused).then_some(())
    }

    fn take(&mut self, answer: Self::Answer) -> bool {
        self.now = answer;
        false
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Leave,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                return Next::Ask;
            }
            KeyCode::Char(digit @ '1'..='4') => self.turn_to(digit as usize - '1' as usize),
            KeyCode::Tab | KeyCode::Right => self.turn_to((self.view + 1) % VIEWS.len()),
            KeyCode::BackTab | KeyCode::Left => self.turn_to((self.view + VIEWS.len() - 1) % VIEWS.len()),
            KeyCode::Down | KeyCode::Char('j') => self.rows.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.rows.select_previous(),
            KeyCode::Home => self.rows.select_first(),
            KeyCode::End => self.rows.select_last(),
            _ => {}
        }
        Next::Stay
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(frame.area());
        self.draw_head(frame, head);
        let now = match &self.now {
            Ok(now) => now,
            Err(why) => {
                let text =
                    Paragraph::new(escape_line(why).into_owned()).wrap(ratatui::widgets::Wrap { trim: true });
                return frame.render_widget(text.style(style(Tone::Bad, self.colour)), body);
            }
        };
        let [charts, note, rows] =
            Layout::vertical([Constraint::Length(5), Constraint::Length(1), Constraint::Min(0)]).areas(body);
        draw_charts(self.view, &now.signals.signals, frame, charts, self.colour);
        let listing = listing(self.view, now);
        frame.render_widget(
            Paragraph::new(escape_line(&listing.note).into_owned()).style(style(Tone::Dim, self.colour)),
            note,
        );
        let table = table(listing, self.colour);
        frame.render_stateful_widget(table, rows, &mut self.rows);
    }
}

impl Top {
    fn turn_to(&mut self, view: usize) {
        self.view = view;
        self.rows = TableState::default();
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let [tabs, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(44)]).areas(area);
        let strong = style(Tone::Strong, self.colour).add_modifier(ratatui::style::Modifier::REVERSED);
        frame.render_widget(Tabs::new(VIEWS).select(self.view).highlight_style(strong), tabs);
        let mut text = Vec::new();
        if let Ok(now) = &self.now {
            let surging = now.signals.signals.rates.iter().filter(|rate| rate.surging).count();
            if surging > 0 {
                text.push(Span::styled(format!("{surging} surging  "), style(Tone::Bad, self.colour)));
            }
        }
        text.push(Span::raw(if self.paused { "stopped (p goes on)  " } else { "" }));
        text.push(Span::styled("q leaves", style(Tone::Dim, self.colour)));
        frame.render_widget(Paragraph::new(Line::from(text).right_aligned()), right);
    }
}

fn draw_charts(view: usize, seen: &View, frame: &mut Frame<'_>, area: Rect, colour: bool) {
    let charts: [(&str, Kind, Option<&str>, Tone); 2] = match view {
        1 => [
            ("values masked", Kind::Masked, None, Tone::Warn),
            ("operations", Kind::Operations, None, Tone::Good),
        ],
        2 => [
            ("holds asked", Kind::Approvals, Some("asked"), Tone::Warn),
            ("holds refused", Kind::Approvals, Some("refused"), Tone::Bad),
        ],
        _ => [
            ("operations allowed", Kind::Operations, Some("allow"), Tone::Good),
            ("denied", Kind::Operations, Some("deny"), Tone::Bad),
        ],
    };
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(area);
    for ((title, kind, name, tone), half) in charts.into_iter().zip(halves) {
        let counts = seen.steps(kind, name);
        let title = format!(
            "{title}: {} now, {} in the hour",
            counts.last().unwrap_or(&0),
            counts.iter().sum::<u64>()
        );
        let chart = Sparkline::default()
            .data(counts)
            .style(style(tone, colour))
            .block(Block::bordered().title(title));
        frame.render_widget(chart, half);
    }
}

fn table(listing: Listing, colour: bool) -> Table<'static> {
    let plain = |tone: Option<Tone>| tone.map_or_else(Style::new, |tone| style(tone, colour));
    let rows = listing.rows.into_iter().map(|(tone, cells)| {
        let cells = cells.into_iter().map(|cell| Cell::from(escape_line(&cell).into_owned()));
        Row::new(cells.collect::<Vec<_>>()).style(plain(tone))
    });
    let widths: Vec<Constraint> = listing.widths.iter().map(|share| Constraint::Fill(*share)).collect();
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(Row::new(listing.header).style(style(Tone::Strong, colour)))
        .row_highlight_style(Style::new().add_modifier(ratatui::style::Modifier::REVERSED))
}

/// A view as a table. Cells are not escaped yet.
struct Listing {
    note: String,
    header: Vec<&'static str>,
    widths: Vec<u16>,
    rows: Vec<(Option<Tone>, Vec<String>)>,
}

fn listing(view: usize, now: &Now) -> Listing {
    match view {
        0 => sessions(&now.signals.signals),
        1 => masks(&now.signals.signals),
        2 => approvals(&now.signals.signals, &now.demands),
        _ => rules(&now.signals),
    }
}

fn sessions(seen: &View) -> Listing {
    let age = |at: i64| span(SignedDuration::from_micros(seen.now.saturating_sub(at)));
    let rows = seen.live.iter().map(|live| {
        let tone = match live.verdict.as_deref() {
            Some("deny" | "refuse") => Some(Tone::Bad),
            Some("hold") => Some(Tone::Warn),
            _ => None,
        };
        let cells = vec![
            age(live.opened),
            live.who.clone().unwrap_or_else(|| live.peer.clone()),
            live.target.clone().unwrap_or_else(|| "-".into()),
            live.operations.to_string(),
            live.verdict.clone().unwrap_or_default(),
            live.line.clone().unwrap_or_default(),
        ];
        (tone, cells)
    });
    Listing {
        note: format!("{} sessions run; {}", seen.live.len(), last_surge(seen)),
        header: vec!["age", "who", "target", "ops", "last", "operation"],
        widths: vec![2, 6, 3, 1, 2, 10],
        rows: rows.collect(),
    }
}

fn last_surge(seen: &View) -> String {
    seen.surges.first().map_or_else(
        || "no surge in the hour".to_owned(),
        |surge| {
            let who = surge.subject.as_deref().unwrap_or("-");
            format!(
                "last surge {}: {} {} on {} by {who}, {} where {:.1} are usual",
                time(surge.at),
                surge.kind.name(),
                surge.name,
                surge.target,
                surge.count,
                surge.expected
            )
        },
    )
}

fn masks(seen: &View) -> Listing {
    let mut masks: Vec<&RateView> = seen.rates.iter().filter(|rate| rate.kind == Kind::Masked).collect();
    masks.sort_by_key(|rate| std::cmp::Reverse((rate.surging, rate.counts.iter().sum::<u64>())));
    let rows = masks.into_iter().map(|rate| {
        let cells = vec![
            rate.name.clone(),
            rate.target.clone(),
            rate.counts.last().unwrap_or(&0).to_string(),
            format!("{:.1}", rate.expected),
            rate.counts.iter().sum::<u64>().to_string(),
            if rate.surging { "surge".into() } else { String::new() },
            named(&rate.subjects),
        ];
        (rate.surging.then_some(Tone::Bad), cells)
    });
    Listing {
        note: "values hidden, by mask and target: this minute, what is usual in a minute, and the hour"
            .into(),
        header: vec!["mask", "target", "minute", "usual", "hour", "", "who"],
        widths: vec![4, 4, 2, 2, 2, 2, 8],
        rows: rows.collect(),
    }
}

fn approvals(seen: &View, demands: &[DemandView]) -> Listing {
    let now = Timestamp::now();
    let rows = demands.iter().map(|demand| {
        let left = demand.ends.duration_since(now);
        let needs = demand.approvals.iter().map(|share| {
            format!("{} {}/{}", share.approval, share.voters.len(), share.needed.unwrap_or_default())
        });
        let cells = vec![
            demand.id.clone(),
            demand.asker.key.clone(),
            demand.target.clone(),
            format!("{} {}", demand.operation.method, demand.operation.path),
            needs.collect::<Vec<_>>().join(", "),
            span(left),
        ];
        ((left.as_secs() < 60).then_some(Tone::Warn), cells)
    });
    let held = &seen.approvals;
    let seconds = |some: Option<u64>| {
        some.map_or_else(
            || "-".into(),
            |s| span(SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX))),
        )
    };
    Listing {
        note: format!(
            "{} wait; since the start {} asked, {} released, {} refused; half end within {}, 95 of 100 within {}; votes: {}",
            demands.len(),
            held.asked,
            held.released,
            held.refused,
            seconds(held.median_seconds),
            seconds(held.slow_seconds),
            named(&held.voters)
        ),
        header: vec!["demand", "asked by", "target", "operation", "needs", "left"],
        widths: vec![6, 5, 3, 7, 4, 2],
        rows: rows.collect(),
    }
}

fn rules(now: &SignalsView) -> Listing {
    let hit = now.signals.rules.iter().map(|rule| {
        let cells = vec![
            rule.rule.clone(),
            rule.allowed.to_string(),
            rule.held.to_string(),
            rule.denied.to_string(),
            named(&rule.subjects),
        ];
        ((rule.denied > 0).then_some(Tone::Bad), cells)
    });
    let unused = now.unused.iter().map(|broad| {
        let cells = vec![
            broad.rule.clone(),
            "0".into(),
            String::new(),
            String::new(),
            format!("unused: {}", broad.permits),
        ];
        (Some(Tone::Dim), cells)
    });
    Listing {
        note: format!(
            "rules that decided since the start, then {} permits that allowed nothing",
            now.unused.len()
        ),
        header: vec!["rule", "allowed", "held", "denied", "on whom"],
        widths: vec![5, 2, 2, 2, 10],
        rows: hit.chain(unused).collect(),
    }
}

fn named(names: &[(String, u64)]) -> String {
    names.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
