//! Values out of a whole JSON body, by path. Refuses a body that two readers could read differently: a name twice in one
//! object, a name that differs from a wanted one only in case, half a surrogate pair, and whatever is not JSON.

use std::collections::HashSet;

use crate::json::{Event, Kind, Scanner};
use crate::limits::JSON_DEPTH_MAX;

use super::Unread;
use crate::policy::nouns::{JsonPath, JsonStep};

/// A value that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A string.
    Text(String),
    /// Text from a place that has no types: a header field, a parameter.
    Word(String),
    /// A number, as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// An array of strings.
    Texts(Vec<String>),
    /// Anything else.
    Other,
}

/// A path to follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'p> {
    pub(super) path: &'p JsonPath,
    /// Whether every object it could lead into must have its last name: a call among others that does not say what it is
    /// could be any.
    pub(super) call: bool,
}

/// What was found: by path, and whether a call is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) found: Vec<Vec<Found>>,
    pub(super) uncalled: bool,
}

/// Reads a whole body.
///
/// # Errors
/// When it has no single reading.
pub(super) fn read(body: &[u8], wanted: &[Wanted<'_>]) -> Result<Read, Unread> {
    let mut scanner = Scanner::new(JSON_DEPTH_MAX);
    let mut reader = Reader::new(body, wanted);
    let wrong = |why: String| {
        Unread::new(400, "the request body is not JSON with one reading, and rules depend on it", why)
    };
    for (at, &byte) in body.iter().enumerate() {
        let read = scanner.push(byte, &mut |event| reader.take(at, event));
        read.map_err(|error| wrong(format!("the request body is not JSON: {error}")))?;
        if scanner.is_odd() {
            return Err(wrong(format!("half a surrogate pair or a NUL in a string before byte {at}")));
        }
        if let Some(why) = reader.twofold.take() {
            return Err(wrong(why));
        }
    }
    let read = scanner.finish(&mut |event| reader.take(body.len(), event));
    read.map_err(|error| wrong(format!("the request body is not JSON: {error}")))?;
    Ok(Read { found: reader.found, uncalled: reader.uncalled })
}

/// A step of a path that the children of a container may match: the path's index, and the step's.
type Open = (usize, usize);

struct Frame {
    object: bool,
    index: u64,
    names: HashSet<String>,
    open: Vec<Open>,
    /// Whether this object should say a call, and did.
    call: Option<bool>,
}

/// A value that has begun.
struct Begun {
    start: usize,
    kind: Kind,
    hits: Vec<usize>,
}

struct Reader<'a> {
    body: &'a [u8],
    wanted: &'a [Wanted<'a>],
    frames: Vec<Frame>,
    values: Vec<Begun>,
    /// What the value that comes next is: steps open in it, and paths that end at it.
    next: Vec<Open>,
    hits: Vec<usize>,
    name_start: usize,
    found: Vec<Vec<Found>>,
    uncalled: bool,
    twofold: Option<String>,
}

/// What leads from a container to its child.
#[derive(Clone, Copy)]
enum Edge<'e> {
    Name(&'e str),
    Index(u64),
}

impl<'a> Reader<'a> {
    fn new(body: &'a [u8], wanted: &'a [Wanted<'a>]) -> Self {
        Self {
            body,
            wanted,
            frames: Vec::new(),
            values: Vec::new(),
            next: (0..wanted.len()).map(|path| (path, 0)).collect(),
            hits: Vec::new(),
            name_start: 0,
            found: vec![Vec::new(); wanted.len()],
            uncalled: false,
            twofold: None,
        }
    }

    fn take(&mut self, at: usize, event: Event) {
        match event {
            Event::NameBegins => self.name_start = at,
            Event::NameEnds => self.name(at),
            Event::ValueBegins(kind) => self.begin(at, kind),
            Event::ValueEnds { with_this } => self.end(at + usize::from(with_this)),
            Event::Colon | Event::Comma => {}
        }
    }

    fn name(&mut self, at: usize) {
        let name = text(&self.body[self.name_start..=at]);
        let Some(frame) = self.frames.last_mut() else { return };
        let alike = frame.open.iter().find_map(|&(path, step)| match &self.wanted[path].path.steps[step] {
            JsonStep::Member(wanted) | JsonStep::Descendant(wanted)
                if *wanted != name && folded(wanted) == folded(&name) =>
            {
                Some(wanted)
            }
            _ => None,
        });
        if let Some(wanted) = alike {
            self.twofold = Some(format!(
                "the name `{}` at byte {at} differs from `{wanted}` only in case, and some readers take it for that",
                name.escape_debug()
            ));
        }
        self.child(Edge::Name(&name));
        let Some(frame) = self.frames.last_mut() else { return };
        if !frame.names.insert(name) {
            self.twofold = Some(format!("an object has a name twice, at byte {at}"));
        }
    }

    /// A child of the innermost container comes next.
    fn child(&mut self, edge: Edge<'_>) {
        let Some(frame) = self.frames.last_mut() else { return };
        self.next.clear();
        for &(path, step) in &frame.open {
            let steps = &self.wanted[path].path.steps;
            let descends = matches!(steps[step], JsonStep::Descendant(_));
            if descends && !self.next.contains(&(path, step)) {
                self.next.push((path, step));
            }
            if !leads(&steps[step], edge) {
                continue;
            }
            if step + 1 < steps.len() {
                if !self.next.contains(&(path, step + 1)) {
                    self.next.push((path, step + 1));
                }
                continue;
            }
            if let Some(said) = frame.call.as_mut().filter(|_| self.wanted[path].call) {
                *said = true;
            }
            if !self.hits.contains(&path) {
                self.hits.push(path);
            }
        }
    }

    fn begin(&mut self, at: usize, kind: Kind) {
        if let Some(frame) = self.frames.last_mut().filter(|frame| !frame.object) {
            let index = frame.index;
            frame.index += 1;
            self.child(Edge::Index(index));
        }
        self.values.push(Begun { start: at, kind, hits: std::mem::take(&mut self.hits) });
        self.uncalled |= !matches!(kind, Kind::Object | Kind::Null) && self.hides_call();
        if matches!(kind, Kind::Object | Kind::Array) {
            let object = kind == Kind::Object;
            let open = std::mem::take(&mut self.next);
            let says_call = |&(path, step): &Open| {
                let steps = &self.wanted[path].path.steps;
                self.wanted[path].call
                    && step + 1 == steps.len()
                    && matches!(steps[step], JsonStep::Member(_))
            };
            let call = (object && open.iter().any(says_call)).then_some(false);
            self.frames.push(Frame { object, index: 0, names: HashSet::new(), open, call });
        }
    }

    /// Whether the value that begins, which is no object, stands where one should say a call and leads to none.
    fn hides_call(&self) -> bool {
        let calls = || self.next.iter().filter(|(path, _)| self.wanted[*path].call);
        let step = |&(path, step): &Open| &self.wanted[path].path.steps[step];
        let ends = |open: &&Open| open.1 + 1 == self.wanted[open.0].path.steps.len();
        calls().filter(ends).any(|open| matches!(step(open), JsonStep::Member(_)))
            && calls().all(|open| matches!(step(open), JsonStep::Member(_)))
    }

    fn end(&mut self, end: usize) {
        let Some(value) = self.values.pop() else { return };
        if matches!(value.kind, Kind::Object | Kind::Array) {
            let frame = self.frames.pop();
            self.uncalled |= frame.is_some_and(|frame| frame.call == Some(false));
        }
        if value.hits.is_empty() {
            return;
        }
        let written = &self.body[value.start..end];
        let found = match value.kind {
            Kind::Text => Found::Text(text(written)),
            Kind::Number => Found::Number(String::from_utf8_lossy(written).into_owned()),
            Kind::True => Found::Bool(true),
            Kind::False => Found::Bool(false),
            Kind::Array => serde_json::from_slice(written).map_or(Found::Other, Found::Texts),
            Kind::Object | Kind::Null => Found::Other,
        };
        for path in value.hits {
            self.found[path].push(found.clone());
        }
    }
}

fn leads(step: &JsonStep, edge: Edge<'_>) -> bool {
    match (step, edge) {
        (JsonStep::Member(wanted) | JsonStep::Descendant(wanted), Edge::Name(name)) => wanted == name,
        (JsonStep::Index(wanted), Edge::Index(index)) => *wanted == index,
        (JsonStep::Element, Edge::Index(_)) | (JsonStep::Any, _) => true,
        _ => false,
    }
}

/// What a string says, quotes included in `written`. The scanner has found it whole, and its pairs too.
fn text(written: &[u8]) -> String {
    serde_json::from_slice(written).unwrap_or_default()
}

/// A name as readers see it that pass over case.
fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}
