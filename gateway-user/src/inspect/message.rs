//! HTTP/1 messages in one direction of a connection: heads, bodies without their chunks, ends. No I/O. What is no message
//! ends it, with the reason.

use crate::limits::{CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX, TRAILER_BYTES_MAX};

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Bytes(u64),
    /// Chunks until the last.
    Chunked,
    /// Until the connection ends.
    ToEnd,
    /// None, and another head follows that belongs to the same request (1xx).
    Interim,
}

/// What is done with the messages.
pub trait Handler {
    /// A head, with the empty line after it.
    ///
    /// # Errors
    /// Why it is none; nothing after it is read.
    fn head(&mut self, head: &[u8]) -> Result<Length, String>;
    /// The next bytes of its body.
    fn body(&mut self, bytes: &[u8]);
    /// The message is whole.
    fn end(&mut self);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Head,
    Data(u64),
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    ToEnd,
}

/// Follows the messages of one direction.
#[derive(Debug)]
pub struct Messages {
    expect: Expect,
    pending: Vec<u8>,
    broken: Option<String>,
}

impl Default for Messages {
    fn default() -> Self {
        Self { expect: Expect::Head, pending: Vec::new(), broken: None }
    }
}

impl Messages {
    /// Takes the next bytes.
    pub fn push(&mut self, mut input: &[u8], handler: &mut dyn Handler) {
        while !input.is_empty() && self.broken.is_none() {
            match self.step(input, handler) {
                Ok(taken) => input = &input[taken..],
                Err(why) => {
                    self.broken = Some(why);
                    self.pending = Vec::new();
                }
            }
        }
    }

    /// Why it is no longer followed.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Nothing more comes. Whether that was at the end of a message.
    pub fn finish(&mut self, handler: &mut dyn Handler) -> bool {
        if self.expect == Expect::ToEnd && self.broken.is_none() {
            self.expect = Expect::Head;
            handler.end();
        }
        self.broken.is_none() && self.expect == Expect::Head && self.pending.is_empty()
    }

    fn step(&mut self, input: &[u8], handler: &mut dyn Handler) -> Result<usize, String> {
        match self.expect {
            Expect::Head => self.head(input, handler),
            Expect::Data(left) => {
                let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                handler.body(&input[..taken]);
                self.after_data(left - taken as u64, handler);
                Ok(taken)
            }
            Expect::Chunk(left) => {
                let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                handler.body(&input[..taken]);
                let left = left - taken as u64;
                self.expect = if left == 0 { Expect::ChunkEnd } else { Expect::Chunk(left) };
                Ok(taken)
            }
            Expect::ToEnd => {
                handler.body(input);
                Ok(input.len())
            }
            Expect::ChunkLine | Expect::ChunkEnd | Expect::Trailer => self.line(input, handler),
        }
    }

    fn after_data(&mut self, left: u64, handler: &mut dyn Handler) {
        self.expect = if left == 0 { Expect::Head } else { Expect::Data(left) };
        if left == 0 {
            handler.end();
        }
    }

    fn head(&mut self, input: &[u8], handler: &mut dyn Handler) -> Result<usize, String> {
        let before = self.pending.len();
        let room = (HEAD_BYTES_MAX + 1).saturating_sub(before);
        self.pending.extend_from_slice(&input[..input.len().min(room)]);
        let from = before.saturating_sub(3);
        let found = self.pending[from..].windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = found.map(|at| from + at + 4) else {
            return match self.pending.len() > HEAD_BYTES_MAX {
                true => Err("a head is too large".into()),
                false => Ok(input.len().min(room)),
            };
        };
        self.pending.truncate(end);
        let head = std::mem::take(&mut self.pending);
        self.expect = match handler.head(&head)? {
            Length::Bytes(0) => {
                handler.end();
                Expect::Head
            }
            Length::Bytes(length) => Expect::Data(length),
            Length::Chunked => Expect::ChunkLine,
            Length::ToEnd => Expect::ToEnd,
            Length::Interim => Expect::Head,
        };
        Ok(end - before)
    }

    fn line(&mut self, input: &[u8], handler: &mut dyn Handler) -> Result<usize, String> {
        let taken = input.iter().position(|&b| b == b'\n').map_or(input.len(), |at| at + 1);
        let max = if self.expect == Expect::Trailer { TRAILER_BYTES_MAX } else { CHUNK_LINE_BYTES_MAX };
        if self.pending.len() + taken > max {
            return Err("a line between chunks is too long".into());
        }
        self.pending.extend_from_slice(&input[..taken]);
        if self.pending.last() != Some(&b'\n') {
            return Ok(taken);
        }
        let line = std::mem::take(&mut self.pending);
        let line = line.trim_ascii();
        self.expect = match self.expect {
            Expect::ChunkLine => match chunk_size(line)? {
                0 => Expect::Trailer,
                size => Expect::Chunk(size),
            },
            Expect::ChunkEnd if line.is_empty() => Expect::ChunkLine,
            Expect::ChunkEnd => return Err("a chunk does not end where its size says".into()),
            Expect::Trailer if line.is_empty() => {
                handler.end();
                Expect::Head
            }
            other => other,
        };
        Ok(taken)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, String> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let text = std::str::from_utf8(&line[..digits]).unwrap_or_default();
    let size = (1..=15).contains(&digits).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    size.ok_or_else(|| "a chunk size is not a hexadecimal number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<String>);

    impl Handler for Kept {
        fn head(&mut self, head: &[u8]) -> Result<Length, String> {
            let text = String::from_utf8_lossy(head).into_owned();
            self.0.push(format!("head {}", text.lines().next().unwrap_or_default()));
            Ok(match () {
                () if text.contains("chunked") => Length::Chunked,
                () if text.contains(" 100 ") => Length::Interim,
                () if text.contains("Length: 3") => Length::Bytes(3),
                () if text.contains("bad") => return Err("bad".into()),
                () => Length::ToEnd,
            })
        }
        fn body(&mut self, bytes: &[u8]) {
            let text = String::from_utf8_lossy(bytes).into_owned();
            match self.0.last_mut().filter(|last| last.starts_with("body ")) {
                Some(last) => last.push_str(&text),
                None => self.0.push(format!("body {text}")),
            }
        }
        fn end(&mut self) {
            self.0.push("end".into());
        }
    }

    const ALL: &[u8] =
        b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nLength: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nchunked\r\n\r\n\
        2;x=y\r\nde\r\n1\r\nf\r\n0\r\nT: u\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest";

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let whole = [
            "head HTTP/1.1 100 C",
            "head HTTP/1.1 200 OK",
            "body abc",
            "end",
            "head HTTP/1.1 200 OK",
            "body def",
            "end",
            "head HTTP/1.1 200 OK",
            "body rest",
            "end",
        ];
        for size in 1..=ALL.len() {
            let (mut messages, mut kept) = (Messages::default(), Kept::default());
            ALL.chunks(size).for_each(|part| messages.push(part, &mut kept));
            assert!(messages.finish(&mut kept), "{:?}", messages.broken());
            assert_eq!(kept.0, whole, "cut at every {size}");
        }
    }

    #[test]
    fn what_is_no_message_ends_it_with_a_reason() {
        for bad in [
            "bad\r\n\r\nmore",
            "chunked\r\n\r\nxyz\r\n",
            "chunked\r\n\r\n1\r\nabc\r\n",
            "chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            let (mut messages, mut kept) = (Messages::default(), Kept::default());
            messages.push(bad.as_bytes(), &mut kept);
            assert!(messages.broken().is_some() && !messages.finish(&mut kept), "{bad}");
        }
        let (mut messages, mut kept) = (Messages::default(), Kept::default());
        messages.push(&vec![b'a'; HEAD_BYTES_MAX + 1], &mut kept);
        assert!(messages.broken().is_some());
        let (mut messages, mut kept) = (Messages::default(), Kept::default());
        messages.push(b"Length: 3\r\n\r\nab", &mut kept);
        assert!(!messages.finish(&mut kept), "it ends in the middle");
    }
}
