//! The texts that a language model sends piece by piece, put together as a reader does and searched as one.
//!
//! Knows the streams of chat completions, completions and responses (OpenAI and what speaks like it), of messages
//! (Anthropic) and of generated content (Gemini). A text to which nothing is added for a while has ended.

use std::collections::VecDeque;

use serde_json::Value;

use crate::mask::plan::Compiled;
use crate::mask::window::{Counts, Window};

/// Events without another piece of a text, after which the text has ended.
const QUIET_EVENTS_MAX: u64 = 32;
/// Texts of one stream at once. Beyond, the one that was quiet longest has ended.
const TEXTS_MAX: usize = 64;
/// Texts that one event adds to, and entries of its lists: an answer in 128 variants (the most that is offered) with a
/// call of a tool in each.
const PIECES_MAX: usize = 256;
/// What a marker of a piece begins with: no UTF-8 has this byte.
const MARK: u8 = 0xFF;
const MARK_BYTES: usize = 9;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Texts {
    open: Vec<Open>,
    /// Events that have a piece of some text, in order.
    events: VecDeque<Pieces>,
    next: u64,
}

/// A text of which more may come.
#[derive(Debug)]
struct Open {
    key: String,
    window: Window,
    /// The event that has what comes out next.
    at: u64,
    /// Its pieces in events before this one are decided.
    decided: u64,
    touched: u64,
}

/// An event and its pieces.
#[derive(Debug)]
struct Pieces {
    number: u64,
    value: Value,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    key: String,
    pointer: String,
    text: Vec<u8>,
    decided: bool,
}

/// An event has pieces of more texts than any model sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooMany;

impl Texts {
    /// Takes the data of the next event; gives its number.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn add(&mut self, plan: &Compiled, data: &[u8], counts: &mut Counts) -> Result<u64, TooMany> {
        self.next += 1;
        let number = self.next;
        let value = if plan.set.is_empty() || !may_have_pieces(data) {
            None
        } else {
            serde_json::from_slice::<Value>(data).ok()
        };
        let found = value.as_ref().map(pieces).transpose()?.unwrap_or_default();
        let ends = data.trim_ascii() == b"[DONE]" || value.as_ref().is_some_and(ends_texts);
        if let Some(value) = value.filter(|_| !found.is_empty()) {
            let texts: Vec<(String, String)> = found
                .iter()
                .map(|(key, pointer)| {
                    let text = value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                    (key.clone(), text.to_owned())
                })
                .collect();
            let empty = |(key, pointer)| Piece { key, pointer, text: Vec::new(), decided: false };
            let pieces = found.into_iter().map(empty).collect();
            self.events.push_back(Pieces { number, value, pieces });
            for (key, text) in texts {
                self.push(plan, &key, text.as_bytes(), number, counts);
            }
        }
        let quiet: Vec<usize> = (0..self.open.len())
            .filter(|&at| ends || number - self.open[at].touched > QUIET_EVENTS_MAX)
            .collect();
        for at in quiet.into_iter().rev() {
            self.end_one(plan, at, counts);
        }
        Ok(number)
    }

    fn push(&mut self, plan: &Compiled, key: &str, text: &[u8], number: u64, counts: &mut Counts) {
        let at = match self.open.iter().position(|open| open.key == key) {
            Some(at) => at,
            None => {
                if self.open.len() == TEXTS_MAX {
                    let quietest = (0..self.open.len()).min_by_key(|&at| self.open[at].touched).unwrap_or(0);
                    self.end_one(plan, quietest, counts);
                }
                let window = Window::default();
                self.open.push(Open {
                    key: key.to_owned(),
                    window,
                    at: number,
                    decided: number,
                    touched: number,
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        open.touched = number;
        let mut mark = [MARK; MARK_BYTES];
        mark[1..].copy_from_slice(&number.to_be_bytes());
        open.window.push_escaped(b"", &mark);
        open.window.push(text);
        let mut out = Vec::new();
        open.window.drain(plan, plan.set, true, &mut out, counts);
        let settled = open.window.is_settled();
        self.came_out(at, &out, settled);
    }

    /// Hands what a window let go to the events that have it.
    fn came_out(&mut self, at: usize, out: &[u8], all: bool) {
        let open = &mut self.open[at];
        let mut rest = out;
        loop {
            let end = rest.iter().position(|&b| b == MARK).unwrap_or(rest.len());
            if let Some(piece) = piece_of(&mut self.events, open.at, &open.key) {
                piece.text.extend_from_slice(&rest[..end]);
            }
            let Some(mark) = rest.get(end + 1..end + MARK_BYTES).and_then(|mark| mark.try_into().ok()) else {
                break;
            };
            open.at = u64::from_be_bytes(mark);
            decide(&mut self.events, open, open.at);
            rest = &rest[end + MARK_BYTES..];
        }
        if all {
            decide(&mut self.events, open, u64::MAX);
        }
    }

    fn end_one(&mut self, plan: &Compiled, at: usize, counts: &mut Counts) {
        let mut out = Vec::new();
        self.open[at].window.drain(plan, plan.set, false, &mut out, counts);
        self.came_out(at, &out, true);
        self.open.swap_remove(at);
    }

    /// Every text ends.
    pub(super) fn end(&mut self, plan: &Compiled, counts: &mut Counts) {
        while !self.open.is_empty() {
            self.end_one(plan, self.open.len() - 1, counts);
        }
    }

    /// Whether nothing that follows changes what this event says.
    pub(super) fn is_decided(&self, number: u64) -> bool {
        let event = self.events.front().filter(|event| event.number == number);
        event.is_none_or(|event| event.pieces.iter().all(|piece| piece.decided))
    }

    /// What the data of this event became, where that is not what it was. Events are taken in order.
    pub(super) fn take(&mut self, number: u64) -> Option<Vec<u8>> {
        if self.events.front()?.number != number {
            return None;
        }
        let Pieces { mut value, pieces, .. } = self.events.pop_front()?;
        let mut changed = false;
        for piece in pieces {
            let Some(place) = value.pointer_mut(&piece.pointer) else { continue };
            let text = String::from_utf8_lossy(&piece.text).into_owned();
            if place.as_str() != Some(text.as_str()) {
                *place = Value::String(text);
                changed = true;
            }
        }
        changed.then(|| serde_json::to_vec(&value).unwrap_or_default())
    }
}

fn piece_of<'e>(events: &'e mut VecDeque<Pieces>, number: u64, key: &str) -> Option<&'e mut Piece> {
    let at = events.binary_search_by_key(&number, |event| event.number).ok()?;
    events[at].pieces.iter_mut().find(|piece| piece.key == key)
}

/// The pieces of this text before this event are decided. Looks at each event once for each of its texts.
fn decide(events: &mut VecDeque<Pieces>, open: &mut Open, before: u64) {
    let last = events.back().map_or(0, |event| event.number + 1);
    let from = events.partition_point(|event| event.number < open.decided);
    let until = events.partition_point(|event| event.number < before);
    for event in events.range_mut(from..until.max(from)) {
        let pieces = event.pieces.iter_mut();
        pieces.filter(|piece| piece.key == open.key).for_each(|piece| piece.decided = true);
    }
    open.decided = open.decided.max(before.min(last));
}

fn may_have_pieces(data: &[u8]) -> bool {
    data.trim_ascii_start().first() == Some(&b'{')
        && [&b"\"delta\""[..], b"\"choices\"", b"\"candidates\""]
            .iter()
            .any(|word| data.windows(word.len()).any(|window| window == *word))
}

/// The pieces of texts in an event: which text, and where the piece stands.
fn pieces(value: &Value) -> Result<Vec<(String, String)>, TooMany> {
    let entries = |list: &Value| list.as_array().map_or(0, Vec::len);
    let nested = |lists: &Value, inner: fn(&Value) -> &Value| {
        list(lists).take(PIECES_MAX).map(|(_, outer)| entries(inner(outer))).max().unwrap_or(0)
    };
    let most = entries(&value["choices"])
        .max(entries(&value["candidates"]))
        .max(nested(&value["choices"], |choice| &choice["delta"]["tool_calls"]))
        .max(nested(&value["candidates"], |candidate| &candidate["content"]["parts"]));
    if most > PIECES_MAX {
        return Err(TooMany);
    }
    let mut found = Vec::new();
    let mut add = |key: String, pointer: String| {
        let is_new = found.iter().all(|(known, _)| *known != key);
        if is_new && value.pointer(&pointer).is_some_and(Value::is_string) {
            found.push((key, pointer));
        }
    };
    for (n, choice) in list(&value["choices"]) {
        let of = choice["index"].as_u64().unwrap_or(n);
        for field in ["content", "reasoning_content", "reasoning", "refusal"] {
            add(format!("choice {of} {field}"), format!("/choices/{n}/delta/{field}"));
        }
        add(format!("choice {of} text"), format!("/choices/{n}/text"));
        add(format!("choice {of} call"), format!("/choices/{n}/delta/function_call/arguments"));
        for (m, call) in list(&choice["delta"]["tool_calls"]) {
            let tool = call["index"].as_u64().unwrap_or(m);
            let pointer = format!("/choices/{n}/delta/tool_calls/{m}/function/arguments");
            add(format!("choice {of} tool {tool}"), pointer);
        }
    }
    for (n, candidate) in list(&value["candidates"]) {
        for (m, _) in list(&candidate["content"]["parts"]) {
            add(format!("candidate {n} {m}"), format!("/candidates/{n}/content/parts/{m}/text"));
        }
    }
    let block = &value["index"];
    for field in ["text", "partial_json", "thinking"] {
        add(format!("block {block} {field}"), format!("/delta/{field}"));
    }
    let (kind, item) = (&value["type"], &value["item_id"]);
    let (output, content) = (&value["output_index"], &value["content_index"]);
    add(format!("{kind} {item} {output} {content}"), "/delta".to_owned());
    if found.len() > PIECES_MAX { Err(TooMany) } else { Ok(found) }
}

fn list(value: &Value) -> impl Iterator<Item = (u64, &Value)> {
    (0..).zip(value.as_array().into_iter().flatten())
}

/// Whether an event says that what was sent so far is whole.
fn ends_texts(value: &Value) -> bool {
    let kind = value["type"].as_str().unwrap_or_default();
    let finished =
        |(_, choice): (u64, &Value)| !choice["finish_reason"].is_null() || !choice["finishReason"].is_null();
    kind.ends_with("_stop")
        || kind.ends_with(".done")
        || list(&value["choices"]).chain(list(&value["candidates"])).any(finished)
}
