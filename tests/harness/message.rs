//! A small, patient reader of HTTP/1.1, for the test's own ends of the wire. Keeps every byte; independent of the gate's
//! own parser, so that a mistake in one is not a mistake in both.

use std::io::{self, Read};

/// Header or trailer fields in order: name, value.
pub type Fields = Vec<(String, String)>;

/// A request as an upstream received it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// As it stood in the request line: `/v1/runs?limit=1`.
    pub target: String,
    /// Fields in order, case kept.
    pub headers: Fields,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Fields,
}

/// A response as a client received it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Interim responses that came before it: status and fields.
    pub interim: Vec<(u16, Fields)>,
    /// Its status code.
    pub status: u16,
    /// Fields in order, case kept.
    pub headers: Fields,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
    /// The sizes of its chunks, where it was chunked.
    pub chunks: Vec<usize>,
    /// Trailer fields.
    pub trailers: Fields,
}

impl Request {
    /// The first field of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }
}

impl Response {
    /// The first field of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Reads messages off a stream, one after the other.
pub struct Reader<R> {
    stream: R,
    kept: Vec<u8>,
}

/// How a body is framed.
enum Framing {
    Length(usize),
    Chunked,
    ToEnd,
}

struct Head {
    line: String,
    fields: Fields,
}

impl<R: Read> Reader<R> {
    /// Nothing is read yet.
    pub fn new(stream: R) -> Self {
        Self { stream, kept: Vec::new() }
    }

    /// Bytes that came and were not asked for.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.kept
    }

    /// Reads a request head; `None` when the peer is done. The body waits until [`Reader::body`].
    ///
    /// # Errors
    /// What the stream said, or `InvalidData` for what is no head.
    pub fn request_head(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.head()? else { return Ok(None) };
        let mut words = head.line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(Some(Request { method, target, headers: head.fields, ..Request::default() }))
    }

    /// Reads the body that belongs to this head.
    ///
    /// # Errors
    /// What the stream said, or `UnexpectedEof`.
    pub fn body(&mut self, request: &mut Request) -> io::Result<()> {
        let framing = match framing(&request.headers)? {
            Some(framing) => framing,
            None => Framing::Length(0),
        };
        (request.body, request.trailers) = self.framed(&framing, &mut Vec::new())?;
        Ok(())
    }

    /// Reads a response to a request of this method, interim ones included.
    ///
    /// # Errors
    /// What the stream said, `UnexpectedEof`, or `InvalidData` for what is no response.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            let head = self.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = head.line.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5)?.parse().ok());
            response.status = status.ok_or_else(|| invalid(&head.line))?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                response.headers = head.fields;
                break;
            }
            response.interim.push((response.status, head.fields));
        }
        let without_body = method == "HEAD" || matches!(response.status, 101 | 204 | 304);
        let framing = match framing(&response.headers)? {
            _ if without_body => Framing::Length(0),
            Some(framing) => framing,
            None => Framing::ToEnd,
        };
        (response.body, response.trailers) = self.framed(&framing, &mut response.chunks)?;
        Ok(response)
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// What the stream said, or `UnexpectedEof`.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.kept.len() < count {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.kept.drain(..count).collect())
    }

    /// Reads until the peer is done.
    ///
    /// # Errors
    /// What the stream said.
    pub fn to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.kept))
    }

    fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(at) = find(&self.kept, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more()? {
                return if self.kept.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        };
        let bytes: Vec<u8> = self.kept.drain(..end).collect();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Head { line, fields: fields(lines)? }))
    }

    fn framed(&mut self, framing: &Framing, chunks: &mut Vec<usize>) -> io::Result<(Vec<u8>, Fields)> {
        match framing {
            Framing::Length(length) => Ok((self.exactly(*length)?, Vec::new())),
            Framing::ToEnd => Ok((self.to_end()?, Vec::new())),
            Framing::Chunked => self.chunked(chunks),
        }
    }

    fn chunked(&mut self, chunks: &mut Vec<usize>) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid(&line))?;
            if size == 0 {
                break;
            }
            chunks.push(size);
            body.extend(self.exactly(size)?);
            self.exactly(2)?;
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((body, trailers));
            }
            trailers.extend(fields(std::iter::once(line.as_str()))?);
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.kept, b"\r\n") {
                let bytes: Vec<u8> = self.kept.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&bytes[..at]).into_owned());
            }
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let read = self.stream.read(&mut piece)?;
        self.kept.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }
}

fn framing(headers: &[(String, String)]) -> io::Result<Option<Framing>> {
    if field(headers, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(Some(Framing::Chunked));
    }
    match field(headers, "content-length") {
        None => Ok(None),
        Some(length) => {
            length.parse().map(|length| Some(Framing::Length(length))).map_err(|_| invalid(length))
        }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> io::Result<Fields> {
    let lines = lines.filter(|line| !line.is_empty());
    let split = lines.map(|line| line.split_once(':').ok_or_else(|| invalid(line)));
    split.map(|pair| pair.map(|(name, value)| (name.to_owned(), value.trim().to_owned()))).collect()
}

fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes.windows(sought.len()).position(|window| window == sought)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what:?}"))
}
