//! A server that does what the test says, byte by byte and pause by pause, and keeps every byte it was sent. Reads
//! nothing it is told not to, so that "not one byte reached it" can be proven.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::message::{Reader, Request};
use crate::{Seat, eventually};

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server.
pub struct Upstream {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    closing: AtomicBool,
    handler: Box<Handler>,
    queue: Mutex<VecDeque<Answer>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: Vec<Connection>,
    requests: Vec<Request>,
}

struct Connection {
    peer: SocketAddr,
    received: Vec<u8>,
    /// Until it is over.
    stream: Option<TcpStream>,
}

/// What the server does for one request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    at_head: Vec<Step>,
    then: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    Silence,
    Reset,
    Close,
}

impl Answer {
    /// A whole response with a length.
    #[must_use]
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = if body.is_empty() && matches!(status, 204 | 304) {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        Self::head(status, headers, &length).raw(body)
    }

    /// 200 with this JSON.
    #[must_use]
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::new(200, &[("Content-Type", "application/json")], body)
    }

    /// The head of a chunked response; [`Answer::chunk`]s and [`Answer::last_chunk`] follow.
    #[must_use]
    pub fn chunked(status: u16, headers: &[(&str, &str)]) -> Self {
        Self::head(status, headers, "Transfer-Encoding: chunked\r\n")
    }

    /// Exactly these bytes, whatever they are.
    #[must_use]
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::default().raw(bytes)
    }

    /// Nothing, ever: the request is read and the line stays open.
    #[must_use]
    pub fn silence() -> Self {
        Self::default().then(Step::Silence)
    }

    /// One chunk.
    #[must_use]
    pub fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.raw([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    /// The end of the chunks, with trailer fields.
    #[must_use]
    pub fn last_chunk(self, trailers: &[(&str, &str)]) -> Self {
        self.raw(format!("0\r\n{}\r\n", lines(trailers)))
    }

    /// More bytes.
    #[must_use]
    pub fn raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Send(bytes.as_ref().to_vec()))
    }

    /// A pause.
    #[must_use]
    pub fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    /// Breaks off with RST.
    #[must_use]
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Closes in an orderly way.
    #[must_use]
    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    /// Sends an interim response (100, 102, 103) as soon as the head is there, before the body is read. Only for
    /// answers given by [`Upstream::next`]: a handler is asked when the body is there.
    #[must_use]
    pub fn interim(mut self, status: u16, headers: &[(&str, &str)]) -> Self {
        self.at_head
            .push(Step::Send(format!("HTTP/1.1 {status} Interim\r\n{}\r\n", lines(headers)).into_bytes()));
        self
    }

    /// Answers as soon as the head is there, reads no body, and closes. Only for answers given by [`Upstream::next`].
    #[must_use]
    pub fn early(mut self) -> Self {
        self.at_head.append(&mut self.then);
        self.at_head.push(Step::Close);
        self
    }

    /// A head with nothing after it; `framing` is one more line.
    fn head(status: u16, headers: &[(&str, &str)], framing: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 {status} Answer\r\n{}{framing}\r\n", lines(headers)))
    }

    fn then(mut self, step: Step) -> Self {
        self.then.push(step);
        self
    }
}

fn lines(fields: &[(&str, &str)]) -> String {
    fields.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect()
}

impl Upstream {
    /// Listens at this seat (`127.0.0.1:0` picks a port) and answers 200 with `{"ok":true}`, unless told otherwise.
    ///
    /// # Panics
    /// When the address is not free there.
    #[must_use]
    pub fn start(seat: &Seat, at: &str) -> Self {
        Self::answering(seat, at, |request| match request.method.as_str() {
            "HEAD" => Answer::head(200, &[("Content-Type", "application/json")], "Content-Length: 11\r\n"),
            _ => Answer::json(br#"{"ok":true}"#),
        })
    }

    /// As [`Upstream::start`], answering what this says. Queued answers ([`Upstream::next`]) go first.
    ///
    /// # Panics
    /// When the address is not free there.
    #[must_use]
    pub fn answering(
        seat: &Seat,
        at: &str,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = seat.listen(at);
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Shared {
            closing: AtomicBool::new(false),
            handler: Box::new(handler),
            queue: Mutex::default(),
            seen: Mutex::default(),
        };
        let upstream = Self { address, listener, shared: Arc::new(shared) };
        let (accepting, shared) =
            (upstream.listener.try_clone().expect("another handle"), Arc::clone(&upstream.shared));
        thread::spawn(move || accept(&accepting, &shared));
        upstream
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request that comes gets this answer.
    pub fn next(&self, answer: Answer) {
        lock(&self.shared.queue).push_back(answer);
    }

    /// Requests whose head has come, in order; bodies where they are complete.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.seen).requests.clone()
    }

    /// Waits until so many requests have come.
    ///
    /// # Panics
    /// When they do not come in time.
    #[must_use]
    pub fn await_requests(&self, count: usize) -> Vec<Request> {
        eventually(&format!("{count} requests at {}", self.address), || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
    }

    /// Connections that were ever made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.shared.seen).connections.len()
    }

    /// Where they came from.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        lock(&self.shared.seen).connections.iter().map(|connection| connection.peer).collect()
    }

    /// Every byte of every connection, in the order of the connections.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        lock(&self.shared.seen)
            .connections
            .iter()
            .flat_map(|connection| connection.received.clone())
            .collect()
    }

    /// Every byte, connection by connection.
    #[must_use]
    pub fn received_by_connection(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.seen).connections.iter().map(|connection| connection.received.clone()).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).ok();
        for connection in &lock(&self.shared.seen).connections {
            connection.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Both));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.closing.load(Ordering::SeqCst) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let Ok(kept) = stream.try_clone() else { continue };
        stream.set_nodelay(true).ok();
        let mut seen = lock(&shared.seen);
        let number = seen.connections.len();
        seen.connections.push(Connection { peer, received: Vec::new(), stream: Some(kept) });
        drop(seen);
        let shared = Arc::clone(shared);
        // What a client may do to a server, it may do here: the test sees it in what was received.
        thread::spawn(move || {
            serve(&stream, number, &shared).ok();
            lock(&shared.seen).connections[number].stream = None;
        });
    }
}

/// Keeps what it reads.
struct Tap<'a> {
    stream: &'a TcpStream,
    number: usize,
    shared: &'a Shared,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        lock(&self.shared.seen).connections[self.number].received.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

fn serve(stream: &TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    let mut reader = Reader::new(Tap { stream, number, shared });
    while let Some(mut request) = reader.request_head()? {
        // Its answer is settled before a test can see it: what is queued after that is for the next one.
        let queued = lock(&shared.queue).pop_front();
        let at = {
            let mut seen = lock(&shared.seen);
            seen.requests.push(request.clone());
            seen.requests.len() - 1
        };
        let answer = match &queued {
            Some(answer) => answer,
            // Its body is read first, so that the handler sees the whole request.
            None => &Answer::default(),
        };
        perform(&answer.at_head, stream)?;
        reader.body(&mut request)?;
        lock(&shared.seen).requests[at] = request.clone();
        let answer = queued.unwrap_or_else(|| (shared.handler)(&request));
        perform(&answer.then, stream)?;
    }
    Ok(())
}

/// Performs the steps. A step that ends the connection is an error, so that nothing follows it.
fn perform(steps: &[Step], mut stream: &TcpStream) -> io::Result<()> {
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Pause(time) => thread::sleep(*time),
            Step::Silence => {
                while stream.peek(&mut [0]).is_ok_and(|read| read > 0) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Step::Reset => {
                socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Step::Close => {
                stream.shutdown(Shutdown::Both)?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
    Ok(())
}
