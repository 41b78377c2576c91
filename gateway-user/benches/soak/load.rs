//! Makes entries as a busy gate would, and remembers of each what lists must find. Writes through the recorder alone.

use std::collections::{HashMap, HashSet, VecDeque};

use tidegate::operation::{DemandId, Direction, EntryId, Proof, SessionId, Sha256, User, Workload};
use tidegate::record::entry::{
    BodyEnd, BodyStretch, Decided, Demanded, Ending, EntryClosed, Event, Head, Intent, Micros, Responded,
    SessionClosed, SessionOpened, Side, Verdict, Voted,
};
use tidegate::record::read::Filter;
use tidegate::record::{Durable, RecordError, Recorder, StateOp};

/// Connections at once: as many callers share one commit.
pub(crate) const CONNECTIONS: usize = 128;
/// Entries of a connection that an agent keeps open.
const LONG_SESSION: u32 = 5_000;
const USERS: u16 = 300;
const UNITS: u16 = 40;
const TARGETS: u16 = 12;
/// Entries after which the container behind one connection is another one.
const CONTAINER_ENTRIES: usize = 4_000;
/// One entry in so many is of the user whom nobody else knows.
const RARE: u64 = 20_000;
/// The user whom nothing is ever denied, and who asks often.
const TAME: u16 = 0;
/// The number of the rare user.
const SELDOM: u16 = USERS;

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// What an index knows of one frame.
#[derive(Clone, Copy)]
struct Mark {
    session: u32,
    user: u16,
    workload: u16,
    target: u8,
    open: bool,
    verdict: Verdict,
}

/// What was written, in the order it was.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) sessions: Vec<SessionId>,
    marks: Vec<Mark>,
    pub(crate) entries: u64,
    pub(crate) bodies: u64,
    /// Some entries, spread over the whole.
    pub(crate) samples: Vec<EntryId>,
}

fn user_name(user: u16) -> String {
    match user {
        TAME => "ann".to_owned(),
        SELDOM => "seldom".to_owned(),
        other => format!("user-{other:03}"),
    }
}

fn workload_key(workload: u16) -> String {
    if workload < UNITS {
        format!("unit:worker-{workload:02}.service")
    } else {
        format!("container:{workload:064x}")
    }
}

fn target_name(target: u8) -> String {
    format!("target-{target:02}")
}

impl Model {
    /// The sessions that a list must show, the one with the newest match first, at most `most`.
    pub(crate) fn expected(&self, filter: &Filter, most: usize) -> Vec<SessionId> {
        let no_condition = filter.user.is_none()
            && filter.workload.is_none()
            && filter.target.is_none()
            && filter.kind.is_none()
            && filter.verdict.is_none();
        if no_condition {
            return self.sessions.iter().rev().take(most).copied().collect();
        }
        // By the whole key, or by the name alone.
        let is = |asked: &Option<String>, start: &str, name: &str| {
            asked.as_ref().is_none_or(|asked| asked == name || asked.strip_prefix(start) == Some(name))
        };
        // Names are made once for each value, not for each mark.
        let users: HashSet<u16> =
            (0..=SELDOM).filter(|user| is(&filter.user, "user:corp/", &user_name(*user))).collect();
        let targets: Vec<bool> =
            (0..TARGETS).map(|target| is(&filter.target, "", &target_name(target as u8))).collect();
        let mut workloads: HashMap<u16, bool> = HashMap::new();
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        for mark in self.marks.iter().rev() {
            let fits = filter.verdict.is_none_or(|verdict| verdict == mark.verdict)
                && filter.kind.as_deref().is_none_or(|kind| (kind == "open") == mark.open)
                && targets[usize::from(mark.target)]
                && users.contains(&mark.user)
                && *workloads.entry(mark.workload).or_insert_with(|| {
                    let key = workload_key(mark.workload);
                    let (start, name) = key.split_once(':').unwrap_or(("", &key));
                    is(&filter.workload, &format!("{start}:"), name)
                });
            if fits && seen.insert(mark.session) {
                found.push(self.sessions[mark.session as usize]);
                if found.len() == most {
                    break;
                }
            }
        }
        found
    }
}

/// One client's flow through the gate.
struct Connection {
    session: SessionId,
    number: u32,
    left: u32,
    carried: u64,
    user: u16,
    workload: u16,
    target: u8,
    open: bool,
}

/// An entry whose end is not written yet.
struct UnderWay {
    entry: EntryId,
    connection: usize,
    mark: Mark,
    status: u16,
    held: Option<DemandId>,
    body: usize,
}

/// Writes entries in rounds, as many at once as there are connections.
pub(crate) struct Load {
    dice: Dice,
    connections: Vec<Option<Connection>>,
    under_way: VecDeque<UnderWay>,
    pub(crate) model: Model,
    text: Vec<u8>,
}

fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        let words = ["run", "agent", "status", "result", "token", "cost", "step", "thought", "tool", "query"];
        let mut dice = Dice::new(seed);
        let mut text = Vec::new();
        while text.len() < 64 * 1024 {
            let word = words[dice.below(words.len() as u64) as usize];
            text.extend_from_slice(format!("{{\"{word}\":\"{:x}\"}},", dice.below(1 << 40)).as_bytes());
        }
        let connections = (0..CONNECTIONS).map(|_| None).collect();
        Self { dice, connections, under_way: VecDeque::new(), model: Model::default(), text }
    }

    /// Each connection asks once, and what was asked before ends. Gives how many entries were begun.
    ///
    /// # Errors
    /// The record does not take it.
    pub(crate) fn round(&mut self, recorder: &Recorder) -> Result<u64, RecordError> {
        let mut waiting: Vec<Durable> = Vec::with_capacity(CONNECTIONS * 2);
        let before = std::mem::take(&mut self.under_way);
        for ended in before {
            self.end(&ended, recorder, &mut waiting)?;
        }
        for at in 0..CONNECTIONS {
            self.ask(at, recorder, &mut waiting)?;
        }
        waiting.into_iter().try_for_each(Durable::wait)?;
        Ok(CONNECTIONS as u64)
    }

    /// Ends everything.
    ///
    /// # Errors
    /// The record does not take it.
    pub(crate) fn finish(&mut self, recorder: &Recorder) -> Result<(), RecordError> {
        let mut waiting = Vec::new();
        for ended in std::mem::take(&mut self.under_way) {
            self.end(&ended, recorder, &mut waiting)?;
        }
        for connection in self.connections.iter_mut().filter_map(Option::take) {
            waiting.push(recorder.append(closed(&connection))?);
        }
        waiting.into_iter().try_for_each(Durable::wait)
    }

    fn connect(&mut self, at: usize, events: &mut Vec<Event>) {
        let dice = &mut self.dice;
        let left = match dice.below(100) {
            0 if at.is_multiple_of(16) => LONG_SESSION,
            0..40 => 1,
            40..80 => 2 + dice.below(9) as u32,
            _ => 11 + dice.below(90) as u32,
        };
        let user = match dice.below(10) {
            0 => TAME,
            _ => {
                1 + (dice.below(u64::from(USERS) - 1) * dice.below(u64::from(USERS)) / u64::from(USERS))
                    as u16
            }
        };
        // A tenth runs in containers, which come and go.
        let workload = match dice.below(10) {
            0 => UNITS + (self.model.marks.len() / CONTAINER_ENTRIES) as u16 + dice.below(4) as u16,
            _ => dice.below(u64::from(UNITS)) as u16,
        };
        let connection = Connection {
            session: SessionId::now(),
            number: self.model.sessions.len() as u32,
            left,
            carried: 0,
            user,
            workload,
            target: dice.below(u64::from(TARGETS)) as u8,
            open: dice.below(50) == 0,
        };
        self.model.sessions.push(connection.session);
        events.push(opened(&connection, dice));
        self.connections[at] = Some(connection);
    }

    fn ask(&mut self, at: usize, recorder: &Recorder, waiting: &mut Vec<Durable>) -> Result<(), RecordError> {
        let mut events = Vec::new();
        if self.connections[at].is_none() {
            self.connect(at, &mut events);
        }
        let Some(connection) = self.connections[at].as_mut() else { return Ok(()) };
        (connection.left, connection.carried) = (connection.left - 1, connection.carried + 1);
        let dice = &mut self.dice;
        let user = if dice.below(RARE) == 0 { SELDOM } else { connection.user };
        let verdict = match dice.below(100) {
            0..2 => Verdict::Hold,
            2..6 if user != TAME => Verdict::Deny,
            6 => Verdict::Refuse,
            _ => Verdict::Allow,
        };
        let mark = Mark {
            session: connection.number,
            user,
            workload: connection.workload,
            target: connection.target,
            open: connection.open,
            verdict,
        };
        let entry = EntryId::now();
        events.push(intent(entry, connection.session, mark, dice));
        self.model.marks.push(mark);
        if self.model.entries.is_multiple_of(997) {
            self.model.samples.push(entry);
        }
        self.model.entries += 1;
        let mut state = Vec::new();
        let held = (verdict == Verdict::Hold).then(DemandId::now);
        if let Some(demand) = held {
            let digest = Sha256::of(entry.0.as_bytes());
            events.push(Event::Demanded(Demanded { entry, at: now(), demand, digest }));
            state.push(StateOp::Put(state_key(demand), entry.to_string().into_bytes()));
        }
        let body = match dice.below(1000) {
            0..300 => 100 + dice.below(1500) as usize,
            300 => 64 * 1024,
            _ => 0,
        };
        let body = if verdict == Verdict::Allow { body } else { 0 };
        let status = if verdict == Verdict::Allow { 200 } else { 403 };
        self.under_way.push_back(UnderWay { entry, connection: at, mark, status, held, body });
        waiting.push(recorder.append_with(state, events)?);
        Ok(())
    }

    fn end(
        &mut self,
        ended: &UnderWay,
        recorder: &Recorder,
        waiting: &mut Vec<Durable>,
    ) -> Result<(), RecordError> {
        let (entry, at) = (ended.entry, now());
        let (mut state, mut events) = (Vec::new(), Vec::new());
        if let Some(demand) = ended.held {
            let approve = self.dice.below(3) > 0;
            let verdict = if approve { Verdict::Allow } else { Verdict::Deny };
            // The user whom nothing is denied has friends among those who are asked.
            let verdict = if ended.mark.user == TAME { Verdict::Allow } else { verdict };
            let person = "dora".to_owned();
            events.push(Event::Voted(Voted { demand, entry, at, person, approve, comment: None }));
            let reason = if approve { "approved by dora" } else { "rejected by dora" }.to_owned();
            events.push(Event::Decided(Decided { entry, at, verdict, reason, policy: None }));
            self.model.marks.push(Mark { verdict, ..ended.mark });
            state.push(StateOp::Remove(state_key(demand)));
        }
        if ended.status == 200 {
            let fields = vec![("Content-Type".to_owned(), "application/json".to_owned())];
            let head = Head { line: "HTTP/1.1 200 OK".to_owned(), fields };
            events.push(Event::Responded(Responded { entry, at, status: 200, head }));
        }
        if ended.body > 0 {
            let from = self.dice.below((self.text.len() - ended.body) as u64 + 1) as usize;
            let bytes = self.text[from..from + ended.body].to_vec();
            events.push(Event::Body(BodyStretch { entry, side: Side::Response, bytes }));
            self.model.bodies += 1;
        }
        let bytes = ended.body as u64;
        events.push(Event::EntryClosed(EntryClosed {
            entry,
            at,
            status: Some(ended.status),
            request: BodyEnd::default(),
            response: BodyEnd { bytes, recorded: bytes, ..BodyEnd::default() },
            masks: Vec::new(),
            ending: if ended.status == 200 { Ending::Finished } else { Ending::Refused("denied".to_owned()) },
            rewrites: Vec::new(),
        }));
        if self.connections[ended.connection].as_ref().is_some_and(|connection| connection.left == 0)
            && let Some(connection) = self.connections[ended.connection].take()
        {
            events.push(closed(&connection));
        }
        waiting.push(recorder.append_with(state, events)?);
        Ok(())
    }
}

fn state_key(demand: DemandId) -> Vec<u8> {
    format!("demand/{demand}").into_bytes()
}

fn opened(connection: &Connection, dice: &mut Dice) -> Event {
    let unit = workload_key(connection.workload);
    let (unit, container) = match unit.split_once(':') {
        Some(("unit", name)) => (Some(name.to_owned()), None),
        Some((_, name)) => (None, Some(name.to_owned())),
        None => (None, None),
    };
    let workload = Workload {
        pid: 1000 + dice.below(60_000) as u32,
        started: dice.below(1 << 50),
        uid: 1000,
        login_uid: None,
        command: "python3".to_owned(),
        cgroup: None,
        unit,
        container,
        image: None,
        pod: None,
        executable: None,
        parents: Vec::new(),
    };
    Event::SessionOpened(SessionOpened {
        session: connection.session,
        at: now(),
        direction: Direction::Outbound,
        peer: format!("192.0.2.7:{}", 1024 + dice.below(60_000)),
        destination: "192.0.2.1:8080".to_owned(),
        workload: Some(workload),
        guard: None,
        target: Some(target_name(connection.target)),
    })
}

fn intent(entry: EntryId, session: SessionId, mark: Mark, dice: &mut Dice) -> Event {
    let rule = format!("rules.cedar#rule-{:02}", dice.below(30));
    let fields = [("Host", "target.example"), ("Accept", "application/json"), ("User-Agent", "agent/1.4")];
    Event::Intent(Box::new(Intent {
        entry,
        session,
        at: now(),
        target: Some(target_name(mark.target)),
        kind: if mark.open { "open" } else { "http" }.to_owned(),
        operations: vec!["read-run".to_owned()],
        user: Some(User {
            provider: "corp".to_owned(),
            subject: user_name(mark.user),
            groups: vec!["staff".to_owned()],
            expires: 0,
            proof: Proof::default(),
        }),
        workload: Some(workload_key(mark.workload)),
        verdict: mark.verdict,
        would: None,
        reason: format!("decided by {rule}"),
        rules: vec![rule],
        policy: None,
        head: Head {
            line: format!("GET /v1/runs/{:x} HTTP/1.1", dice.below(1 << 32)),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        },
    }))
}

fn closed(connection: &Connection) -> Event {
    Event::SessionClosed(SessionClosed {
        session: connection.session,
        at: now(),
        entries: connection.carried,
        ending: Ending::Finished,
    })
}
