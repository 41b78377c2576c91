//! The page as a person sees it: on a screen in memory, with answers and keys in whatever order they come.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyModifiers;

use super::*;
use crate::approval::ShownBody;

struct Screen {
    watch: Watch,
    terminal: Terminal<TestBackend>,
}

impl Screen {
    fn new(width: u16, height: u16) -> Self {
        let watch = Watch {
            colour: false,
            bell: false,
            queue: Ok(Vec::new()),
            known: BTreeSet::new(),
            rows: TableState::default(),
            selected: None,
            drawn: None,
            shown: None,
            ballot: None,
            vote: None,
            said: None,
        };
        Self { watch, terminal: Terminal::new(TestBackend::new(width, height)).unwrap() }
    }

    fn draw(&mut self) -> String {
        self.terminal.draw(|frame| self.watch.draw(frame)).unwrap();
        self.terminal.backend().to_string()
    }

    fn press(&mut self, code: KeyCode) {
        self.watch.key(KeyEvent::new(code, KeyModifiers::NONE));
    }

    fn queue(&mut self, demands: &[DemandView]) {
        self.watch.take(Answer::Queue { queue: Ok(demands.to_vec()), shown: None });
    }

    fn whole(&mut self, id: DemandId, demand: DemandView) {
        let whole = Box::new(Whole { demand, prior: None });
        let queue = self.watch.queue.clone();
        self.watch.take(Answer::Queue { queue, shown: Some((id, Ok(whole))) });
    }

    fn voted(&mut self) -> Option<DemandId> {
        match self.watch.question() {
            Some(Question::Vote(id, _)) => Some(id),
            _ => None,
        }
    }
}

fn demand(path: &str) -> (DemandId, DemandView) {
    let id = DemandId::now();
    let mut demand = crate::cli::approvals::tests::demand();
    demand.id = id.to_string();
    demand.operation.path = path.into();
    (id, demand)
}

#[test]
fn a_vote_is_about_the_demand_that_was_drawn_whatever_came_before_the_key() {
    let (mut screen, (one, first), (_, second)) = (Screen::new(120, 20), demand("/first"), demand("/second"));
    screen.queue(std::slice::from_ref(&first));
    screen.draw();
    // A queue in which another stands at its place, and the key before it was drawn.
    screen.queue(&[second.clone(), first.clone()]);
    screen.press(KeyCode::Char('a'));
    let page = screen.draw();
    assert!(page.contains("PUT /first?dry=1 on react, asked by user:corp/ann"), "{page}");
    screen.queue(std::slice::from_ref(&second));
    screen.draw();
    screen.press(KeyCode::Enter);
    assert_eq!(screen.voted(), Some(one));
}

#[test]
fn what_is_chosen_stays_chosen_when_others_come_before_it() {
    let (mut screen, (_, first), (two, second), (_, third)) =
        (Screen::new(120, 20), demand("/first"), demand("/second"), demand("/third"));
    screen.queue(&[first.clone(), second.clone()]);
    screen.draw();
    screen.press(KeyCode::Down);
    screen.draw();
    screen.queue(&[third.clone(), first.clone(), second.clone()]);
    let page = screen.draw();
    assert!(page.lines().any(|line| line.contains("> ") && line.contains("/second")), "{page}");
    screen.press(KeyCode::Char('r'));
    screen.press(KeyCode::Enter);
    assert_eq!(screen.voted(), Some(two));
}

#[test]
fn an_answer_about_another_demand_is_not_shown_and_nothing_unseen_is_voted_on() {
    let (mut screen, (one, first), (two, second)) =
        (Screen::new(120, 40), demand("/first"), demand("/second"));
    screen.queue(&[first.clone(), second.clone()]);
    screen.draw();
    screen.press(KeyCode::Enter);
    screen.draw();
    screen.press(KeyCode::Char('a'));
    assert!(screen.watch.ballot.is_none(), "it is not shown yet");
    // The page of the second, and then the late answer about the first.
    screen.press(KeyCode::Char('q'));
    screen.draw();
    screen.press(KeyCode::Down);
    screen.draw();
    screen.press(KeyCode::Enter);
    screen.whole(one, first);
    let page = screen.draw();
    assert!(!page.contains("/first") && page.contains("asking the gate"), "{page}");
    screen.whole(two, second);
    assert!(screen.draw().contains("/second"));
    screen.press(KeyCode::Char('a'));
    screen.press(KeyCode::Enter);
    assert_eq!(screen.voted(), Some(two));
}

#[test]
fn every_line_of_a_body_of_a_hundred_thousand_can_be_reached_and_the_page_says_that_there_are_more() {
    let (mut screen, (id, mut long)) = (Screen::new(120, 30), demand("/long"));
    let text = (0..100_000).map(|n| format!("line {n}\n")).collect::<String>() + "the very last one";
    let length = text.len() as u64;
    long.operation.body = Some(ShownBody { bytes: length, length, offset: 0, text, base64: false });
    screen.queue(std::slice::from_ref(&long));
    screen.draw();
    screen.press(KeyCode::Enter);
    screen.whole(id, long);
    let page = screen.draw();
    assert!(page.contains("more lines below, 0 above") && !page.contains("the very last one"), "{page}");
    screen.press(KeyCode::End);
    let page = screen.draw();
    assert!(page.contains("the very last one") && page.contains("-- 0 more lines below"), "{page}");
    screen.press(KeyCode::Up);
    let page = screen.draw();
    assert!(page.contains("line 99999") && page.contains("-- 1 more lines below"), "{page}");
}

#[test]
fn a_mebibyte_of_marks_is_drawn_at_once_and_hides_nothing() {
    let (mut screen, (id, mut marked)) = (Screen::new(120, 30), demand("/marks"));
    let text = "\u{301}".repeat(512 << 10) + "seen";
    let length = text.len() as u64;
    marked.operation.body = Some(ShownBody { bytes: length, length, offset: 0, text, base64: false });
    screen.queue(std::slice::from_ref(&marked));
    screen.draw();
    screen.press(KeyCode::Enter);
    screen.whole(id, marked);
    let begun = std::time::Instant::now();
    screen.draw();
    screen.press(KeyCode::End);
    assert!(screen.draw().contains("seen"));
    // Measuring a line anew for each of its characters took hours.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}

#[test]
fn what_a_vote_is_about_is_never_longer_than_its_place_and_says_where_it_is_cut() {
    let (mut screen, (_, long)) = (Screen::new(80, 20), demand(&format!("/{}", "x".repeat(1000))));
    screen.queue(std::slice::from_ref(&long));
    screen.draw();
    screen.press(KeyCode::Char('a'));
    let page = screen.draw();
    assert!(page.contains("... (cut)") && page.contains("APPROVE"), "{page}");
}
