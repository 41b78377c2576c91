//! A page that fills the terminal: takes keys, asks again every second, and leaves the terminal as it was, whatever
//! happens. What a page draws must have gone through [`super::output::escape_line`].

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};

use super::Failure;
use super::output::Tone;

/// Between two looks at the keyboard. Short enough that nobody notices.
const LOOK: Duration = Duration::from_millis(50);
/// Between two questions to the gate.
const ASK: Duration = Duration::from_secs(1);

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Stay,
    /// Ask the gate now.
    Ask,
    /// Leave the page.
    Leave,
}

/// A page.
pub(super) trait Page {
    /// What it asks the gate.
    type Question: Send + 'static;
    /// What it gets.
    type Answer: Send + 'static;

    /// What to ask now; `None` while nothing is to be asked.
    fn question(&mut self) -> Option<Self::Question>;

    /// Takes an answer. `true` rings the terminal's bell.
    fn take(&mut self, answer: Self::Answer) -> bool;

    /// Takes a key that is not one of those that leave.
    fn key(&mut self, key: KeyEvent) -> Next;

    /// Draws it.
    fn draw(&mut self, frame: &mut Frame<'_>);
}

/// Shows a page until it is left. `ask` runs on a thread of its own, so that a gate that hangs hangs no key.
///
/// # Errors
/// The terminal cannot be used.
pub(super) fn show<P: Page>(
    page: &mut P,
    ask: impl Fn(P::Question) -> P::Answer + Send + 'static,
) -> Result<(), Failure> {
    let (questions, asked) = sync_channel(1);
    let (answered, answers) = sync_channel(1);
    std::thread::spawn(move || answer(&asked, &answered, ask));
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::cannot(format!("this terminal cannot be used: {error}")))?;
    let left = serve(page, &mut terminal, &questions, &answers);
    ratatui::restore();
    left
}

fn answer<Q, A>(asked: &Receiver<Q>, answered: &SyncSender<A>, ask: impl Fn(Q) -> A) {
    while let Ok(question) = asked.recv() {
        if answered.send(ask(question)).is_err() {
            return;
        }
    }
}

fn serve<P: Page>(
    page: &mut P,
    terminal: &mut ratatui::DefaultTerminal,
    questions: &SyncSender<P::Question>,
    answers: &Receiver<P::Answer>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::cannot(format!("the terminal went away: {error}"));
    let (mut since, mut waiting, mut changed) = (ASK, false, true);
    loop {
        if since >= ASK
            && !waiting
            && let Some(question) = page.question()
        {
            // Nobody answers only where the thread has died of a panic that has been shown.
            waiting = questions.send(question).is_ok();
            since = Duration::ZERO;
        }
        if changed {
            terminal.draw(|frame| page.draw(frame)).map_err(failed)?;
            changed = false;
        }
        match answers.recv_timeout(if waiting { LOOK } else { Duration::ZERO }) {
            Ok(answer) => {
                if page.take(answer) {
                    ring();
                }
                (waiting, changed) = (false, true);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if event::poll(if waiting { Duration::ZERO } else { LOOK }).map_err(failed)? {
            changed = true;
            match pressed(event::read().map_err(failed)?).map(|key| page.pressed(key)) {
                Some(Next::Leave) => return Ok(()),
                Some(Next::Ask) => since = ASK,
                Some(Next::Stay) | None => {}
            }
        }
        since = since.saturating_add(LOOK);
    }
}

trait Pressed: Page {
    /// Control-C leaves every page, whatever it shows.
    fn pressed(&mut self, key: KeyEvent) -> Next {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Next::Leave,
            _ => self.key(key),
        }
    }
}

impl<P: Page> Pressed for P {}

fn pressed(event: Event) -> Option<KeyEvent> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(key),
        _ => None,
    }
}

fn ring() {
    use std::io::Write as _;
    // A terminal without a bell is no reason to stop.
    let _ = std::io::stderr().write_all(b"\x07");
}

/// The style of a tone; without colour where none is wanted.
pub(super) fn style(tone: Tone, colour: bool) -> Style {
    let plain = match tone {
        Tone::Strong | Tone::Bad => Style::new().add_modifier(Modifier::BOLD),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
        Tone::Good | Tone::Warn => Style::new(),
    };
    match tone {
        _ if !colour => plain,
        Tone::Good => plain.fg(Color::Green),
        Tone::Warn => plain.fg(Color::Yellow),
        Tone::Bad => plain.fg(Color::Red),
        Tone::Strong | Tone::Dim => plain,
    }
}
