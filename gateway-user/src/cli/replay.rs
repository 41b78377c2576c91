//! `tidegate replay`: a recorded session as it happened, with its timing. Shows what the record holds, escaped; sends
//! nothing to anybody.

mod keys;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use self::keys::{Key, Keys};
use super::output::{Tone, escape_line, paint, quoted};
use super::reading::{self, asked};
use super::record::quiet_engine;
use super::story::{head, in_words};
use super::{Context, Failure, rejudge};
use crate::operation::{EntryId, SessionId};
use crate::record::entry::{Event, Micros, Side};
use crate::record::export::Text;
use crate::record::frame::Frame;
use crate::record::read::Reader;

const EXAMPLES: &str = "\
Examples:
  tidegate replay 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d              as fast as it happened
  tidegate replay 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d --speed 4    four times as fast
  tidegate replay 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d --no-wait --json
  tidegate replay --against ./policies --since 7d                   which verdicts would change

Keys on a terminal: space pauses and goes on, Enter goes to the next event, q ends.

With --against each recorded operation is asked as it was, at its own time: its head, its user's claims, its process as it
was known then. What the record does not hold in full (masked values, tokens nobody looked at) is counted, never guessed.

Exit codes: 0 it was shown, or everything is decided as it was; 1 something is not (or the files have findings); 2 wrong
command line; 3 it cannot be done (no such session)";

/// Show a recorded session, or one operation of it, as it happened, with its timing; or ask another policy directory about
/// what was recorded.
///
/// Nothing is sent anywhere. The time of a body is that of its stretches on disk, milliseconds after they went by.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Id of a session or of an entry.
    #[arg(required_unless_present = "against", conflicts_with = "against")]
    id: Option<Uuid>,
    /// So many times as fast as it happened.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = speed, conflicts_with = "against")]
    speed: f64,
    /// All at once.
    #[arg(long, conflicts_with_all = ["speed", "against"])]
    no_wait: bool,
    /// The policy directory to ask about the recorded operations: a table of the verdicts that change.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    #[command(flatten)]
    span: rejudge::Span,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (0.01..=10_000.0).contains(speed));
    speed.ok_or_else(|| "a speed is a number from 0.01 to 10000".to_owned())
}

/// One event with the time since the first, for programs.
#[derive(Serialize)]
struct Step<'a> {
    offset_us: Micros,
    #[serde(flatten)]
    frame: &'a Frame,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Text>,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    match (&args.against, args.id) {
        (Some(dir), _) => rejudge::against(dir, &args.span, context),
        (None, Some(id)) => play(id, args, context),
        (None, None) => Err(Failure::Usage("name a session, or a directory with --against".into())),
    }
}

fn play(id: Uuid, args: &Args, context: &Context) -> Result<(), Failure> {
    quiet_engine();
    let reader = reading::open("replay", &asked([("", Some(id.to_string()))]), context)?;
    let (session, only) = match reader.entry(EntryId(id))? {
        Some(entry) => (entry.intent.session, Some(EntryId(id))),
        None => (SessionId(id), None),
    };
    let mut stage = Stage {
        context,
        reader: &reader,
        speed: args.speed,
        keys: if args.no_wait { None } else { Some(Keys::open()) },
        first: None,
        last: 0,
        tails: HashMap::new(),
        pending: Vec::new(),
    };
    let there = reader.frames(session, |written, frame| {
        if only.is_some_and(|entry| frame.about().1 != crate::record::frame::About::Entry(entry)) {
            return Ok(ControlFlow::Continue(()));
        }
        stage.take(written, frame)
    })?;
    // Whether somebody had seen enough makes no difference any more.
    let _ = stage.release(Micros::MIN)?;
    if there { Ok(()) } else { Err(Failure::cannot(format!("no session and no entry has the id {}", id))) }
}

/// Where it is shown.
struct Stage<'a> {
    context: &'a Context,
    reader: &'a Reader,
    speed: f64,
    /// None where nothing waits.
    keys: Option<Keys>,
    first: Option<Micros>,
    /// When the last event was.
    last: Micros,
    /// The beginning of a character at the end of a stretch.
    tails: HashMap<(EntryId, Side), Vec<u8>>,
    /// Stretches since the last event with a time of its own, and when they were written.
    pending: Vec<(Micros, Frame)>,
}

impl Stage<'_> {
    /// A stretch says no time of its own. It went by before it was written, and before the event that follows it.
    fn take(&mut self, written: Micros, frame: &Frame) -> Result<ControlFlow<()>, Failure> {
        let Some(at) = frame.at() else {
            self.pending.push((written, frame.clone()));
            return Ok(ControlFlow::Continue(()));
        };
        match self.release(at)? {
            ControlFlow::Continue(()) => self.play(at, frame),
            over @ ControlFlow::Break(()) => Ok(over),
        }
    }

    /// Plays the stretches that wait, none of them later than this.
    fn release(&mut self, latest: Micros) -> Result<ControlFlow<()>, Failure> {
        for (written, frame) in std::mem::take(&mut self.pending) {
            if self.play(written.min(latest), &frame)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn play(&mut self, at: Micros, frame: &Frame) -> Result<ControlFlow<()>, Failure> {
        let first = *self.first.get_or_insert(at);
        let gap = if self.last == 0 { 0 } else { at.saturating_sub(self.last).max(0) };
        self.last = self.last.max(at);
        if let Some(keys) = &mut self.keys {
            let wait = Duration::from_micros(gap.unsigned_abs()).div_f64(self.speed);
            if keys.wait(wait, self.context) == Key::End {
                return Ok(ControlFlow::Break(()));
            }
        }
        let offset = self.last - first;
        if self.context.out.is_json() {
            let bytes = match frame {
                Frame::Body(body) => Some(Text::of(self.reader.stretch(body)?)),
                _ => None,
            };
            self.context.out.json_line(&Step { offset_us: offset, frame, bytes })?;
        } else {
            self.show(offset, frame)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn show(&mut self, offset: Micros, frame: &Frame) -> Result<(), Failure> {
        let out = &self.context.out;
        let (word, tone, text) = in_words(frame);
        let seconds = offset as f64 / 1_000_000.0;
        let word = paint(tone, format_args!("{word:<8}"));
        out.line(format_args!("{seconds:>+10.3} s  {word} {}", escape_line(&text)))?;
        match frame {
            Frame::Event(Event::Intent(intent)) => head(self.context, ">", &intent.head),
            Frame::Event(Event::Responded(responded)) => head(self.context, "<", &responded.head),
            Frame::Body(body) => {
                let bytes = self.reader.stretch(body)?;
                let tail = self.tails.remove(&(body.entry, body.side)).unwrap_or_default();
                let (shown, tail) = text_of([tail, bytes].concat());
                self.tails.insert((body.entry, body.side), tail);
                match shown {
                    Ok(text) => out.line(quoted(&text)),
                    Err(bytes) => {
                        out.line(paint(Tone::Dim, format_args!("({bytes} bytes that are not text)")))
                    }
                }
            }
            _ => Ok(()),
        }
    }
}

/// The text of a stretch, and the beginning of the character that it ends in; or how many bytes it has, where they are
/// no text.
fn text_of(mut bytes: Vec<u8>) -> (Result<String, usize>, Vec<u8>) {
    let whole = match std::str::from_utf8(&bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return (Err(bytes.len()), Vec::new()),
    };
    let tail = bytes.split_off(whole);
    (String::from_utf8(bytes).map_err(|error| error.as_bytes().len()), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_stretch_is_shown_whole_and_bytes_are_counted() {
        assert_eq!(text_of(b"a\xc3".to_vec()), (Ok("a".into()), b"\xc3".to_vec()));
        assert_eq!(text_of(b"\xc3\xa9".to_vec()), (Ok("é".into()), Vec::new()));
        assert_eq!(text_of(b"a\xff\xfeb".to_vec()), (Err(4), Vec::new()));
    }

    #[test]
    fn a_speed_is_a_number_within_reason() {
        assert_eq!(speed("4"), Ok(4.0));
        for bad in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
