//! One content coding being undone: takes input while it can, and fills a piece of output.
//!
//! Every step takes all input, or writes something, or fails: nothing waits for what will not come.

use bytes::{Buf, Bytes};
use flate2::{Crc, Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, Operation};

use super::{Coding, DecodeError};
use crate::limits::{GZIP_HEADER_BYTES_MAX, ZSTD_WINDOW_LOG_MAX};

/// One coding of a body.
pub(super) struct Layer {
    pub(super) coding: Coding,
    /// Bytes written so far.
    pub(super) made: u64,
    /// What the layer around this one made, not yet read.
    pub(super) between: Bytes,
    begun: bool,
    ended: bool,
    engine: Engine,
}

enum Engine {
    Gzip(Box<Gzip>),
    /// Not known yet whether with a zlib header: holds the first byte.
    Undecided(Option<u8>),
    Deflate(Box<Decompress>),
    Br(Box<Brotli>),
    Zstd(Zstd<'static>),
    /// The library gave no decoder.
    Broken,
}

type Alloc = brotli::enc::StandardAlloc;
type Brotli = brotli::BrotliState<Alloc, Alloc, Alloc>;

impl Layer {
    pub(super) fn new(coding: Coding) -> Self {
        let engine = match coding {
            Coding::Gzip => Engine::Gzip(Box::new(Gzip::new())),
            Coding::Deflate => Engine::Undecided(None),
            Coding::Br => {
                let (bytes, words, codes) = (Alloc::default(), Alloc::default(), Alloc::default());
                Engine::Br(Box::new(Brotli::new_strict(bytes, words, codes)))
            }
            Coding::Zstd => Zstd::new()
                .and_then(|mut zstd| {
                    zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map(|()| zstd)
                })
                .map_or(Engine::Broken, Engine::Zstd),
        };
        Self { coding, made: 0, between: Bytes::new(), begun: false, ended: false, engine }
    }

    /// Whether the coded stream has come to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.ended
    }

    /// Reads from `input` until `out` has something or `input` is empty; gives the bytes written.
    pub(super) fn step(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<usize, DecodeError> {
        loop {
            if self.ended {
                return if input.is_empty() { Ok(0) } else { Err(DecodeError::Trailing(self.coding)) };
            }
            if !self.begun && input.is_empty() {
                return Ok(0);
            }
            self.begun = true;
            let before = input.len();
            let made = self.once(input, out)?;
            self.made += made as u64;
            if made > 0 {
                return Ok(made);
            }
            if input.is_empty() && !self.ended {
                return Ok(0);
            }
            if input.len() == before && !self.ended {
                return Err(DecodeError::Damaged(self.coding, "it makes no progress"));
            }
        }
    }

    fn once(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<usize, DecodeError> {
        match &mut self.engine {
            Engine::Gzip(gzip) => {
                let made = gzip.once(input, out)?;
                self.ended = gzip.state == State::Ended;
                Ok(made)
            }
            Engine::Undecided(first) => {
                let Some(first) = *first else {
                    *first = Some(input.get_u8());
                    return Ok(0);
                };
                let Some(&second) = input.first() else { return Ok(0) };
                let check = u16::from_be_bytes([first, second]);
                let mut inflate = Decompress::new(first & 15 == 8 && check.is_multiple_of(31));
                let (_, made, ended) = inflate_once(&mut inflate, &[first], out, self.coding)?;
                self.ended = ended;
                self.engine = Engine::Deflate(Box::new(inflate));
                if made > 0 || ended { Ok(made) } else { self.once(input, out) }
            }
            Engine::Deflate(inflate) => {
                let (read, made, ended) = inflate_once(inflate, input, out, self.coding)?;
                input.advance(read);
                self.ended = ended;
                Ok(made)
            }
            Engine::Br(state) => {
                let (made, ended) = brotli_once(state, input, out)?;
                self.ended = ended;
                Ok(made)
            }
            Engine::Zstd(zstd) => {
                let status = zstd.run_on_buffers(input, out).map_err(|_| {
                    DecodeError::Damaged(self.coding, "its data, window or checksum is wrong")
                })?;
                input.advance(status.bytes_read);
                self.ended = status.remaining == 0;
                Ok(status.bytes_written)
            }
            Engine::Broken => Err(DecodeError::Damaged(self.coding, "no decoder could be made")),
        }
    }
}

/// Gives what it read and wrote, and whether the stream ended.
fn inflate_once(
    inflate: &mut Decompress,
    input: &[u8],
    out: &mut [u8],
    coding: Coding,
) -> Result<(usize, usize, bool), DecodeError> {
    let (read, made) = (inflate.total_in(), inflate.total_out());
    let status = inflate
        .decompress(input, out, FlushDecompress::None)
        .map_err(|_| DecodeError::Damaged(coding, "its data or its checksum is wrong"))?;
    let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
    Ok((moved(inflate.total_in(), read), moved(inflate.total_out(), made), status == Status::StreamEnd))
}

fn brotli_once(state: &mut Brotli, input: &mut Bytes, out: &mut [u8]) -> Result<(usize, bool), DecodeError> {
    let (mut left, mut read) = (input.len(), 0);
    let (mut room, mut made, mut total) = (out.len(), 0, 0);
    let result = brotli::BrotliDecompressStream(
        &mut left, &mut read, input, &mut room, &mut made, out, &mut total, state,
    );
    input.advance(read);
    match result {
        brotli::BrotliResult::ResultSuccess => Ok((made, true)),
        brotli::BrotliResult::NeedsMoreInput | brotli::BrotliResult::NeedsMoreOutput => Ok((made, false)),
        brotli::BrotliResult::ResultFailure => {
            Err(DecodeError::Damaged(Coding::Br, "its data or its window is wrong"))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reads the header.
    Header,
    Data,
    /// Reads checksum and length.
    Trailer,
    Ended,
}

/// A gzip member (RFC 1952): one, with the right checksum and length.
struct Gzip {
    state: State,
    held: Vec<u8>,
    inflate: Decompress,
    crc: Crc,
}

impl Gzip {
    fn new() -> Self {
        Self { state: State::Header, held: Vec::new(), inflate: Decompress::new(false), crc: Crc::new() }
    }

    fn once(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<usize, DecodeError> {
        let damaged = |what| DecodeError::Damaged(Coding::Gzip, what);
        match self.state {
            State::Header => {
                let before = self.held.len();
                self.held.extend_from_slice(&input[..input.len().min(GZIP_HEADER_BYTES_MAX + 1 - before)]);
                match header(&self.held).map_err(damaged)? {
                    Some(long) => {
                        input.advance(long - before);
                        self.held.clear();
                        self.state = State::Data;
                    }
                    None if self.held.len() > GZIP_HEADER_BYTES_MAX => {
                        return Err(damaged("its header is too long"));
                    }
                    None => input.clear(),
                }
                Ok(0)
            }
            State::Data => {
                let (read, made, ended) = inflate_once(&mut self.inflate, input, out, Coding::Gzip)?;
                input.advance(read);
                self.crc.update(&out[..made]);
                if ended {
                    self.state = State::Trailer;
                }
                Ok(made)
            }
            State::Trailer => {
                let more = input.split_to(input.len().min(8 - self.held.len()));
                self.held.extend_from_slice(&more);
                if let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(self.held.as_slice()) {
                    let (sum, amount) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                    if (sum, amount) != (self.crc.sum(), self.crc.amount()) {
                        return Err(damaged("its checksum or its length is wrong"));
                    }
                    self.state = State::Ended;
                }
                Ok(0)
            }
            State::Ended => Ok(0),
        }
    }
}

/// Where the header ends, if it is whole.
fn header(held: &[u8]) -> Result<Option<usize>, &'static str> {
    const FIXED: usize = 10;
    let start = [0x1F, 0x8B, 8];
    if held.iter().zip(start).any(|(&byte, wanted)| byte != wanted) {
        return Err("it does not begin as gzip does");
    }
    let Some(&flags) = held.get(3) else { return Ok(None) };
    if flags & 0xE0 != 0 {
        return Err("its header has flags that nobody defined");
    }
    let mut at = FIXED;
    if flags & 4 != 0 {
        let Some(&[low, high]) = held.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let Some(rest) = held.get(at..) else { return Ok(None) };
            let Some(end) = rest.iter().position(|&b| b == 0) else { return Ok(None) };
            at += end + 1;
        }
    }
    if flags & 2 != 0 {
        let Some(&[low, high]) = held.get(at..at + 2) else { return Ok(None) };
        let mut crc = Crc::new();
        crc.update(&held[..at]);
        if crc.sum() & 0xFFFF != u32::from(u16::from_le_bytes([low, high])) {
            return Err("its header's checksum is wrong");
        }
        at += 2;
    }
    Ok((held.len() >= at).then_some(at))
}
