//! A raw connection: the test decides every byte that goes out and sees every byte that comes back. Never waits for ever.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::PATIENCE;
use crate::message::{Reader, Response};

/// An open connection.
pub struct Client {
    stream: TcpStream,
    reader: Reader<TcpStream>,
}

impl Client {
    /// Takes over a connected socket.
    ///
    /// # Panics
    /// When the socket is broken already.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout on a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout on a socket");
        stream.set_nodelay(true).expect("an option on a socket");
        let reader = Reader::new(stream.try_clone().expect("another handle"));
        Self { stream, reader }
    }

    /// How long a read may take from now on; else [`PATIENCE`].
    ///
    /// # Panics
    /// When the socket is broken.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout on a socket");
    }

    /// What getpeername(2) says: the address the client dialled, if the gate is transparent.
    ///
    /// # Panics
    /// When the connection is gone.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().expect("the connection stands")
    }

    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends exactly these bytes.
    ///
    /// # Errors
    /// What the socket said.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that no more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).ok();
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// What the socket said, or `InvalidData` for an answer that is no HTTP.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        let request = request.as_ref();
        self.send(request)?;
        let method = request.split(|&byte| byte == b' ').next().unwrap_or_default();
        self.response(&String::from_utf8_lossy(method))
    }

    /// Sends a POST with this body and reads its answer.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn post(&mut self, host: &str, path: &str, body: &str) -> io::Result<Response> {
        let length = body.len();
        self.ask(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    /// Sends `GET path` with this host and reads the response; the connection stays open.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Response> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Reads a response to a request of this method.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        self.reader.response(method)
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// What the socket said, or `UnexpectedEof`.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.reader.exactly(count)
    }

    /// Reads until the peer closes.
    ///
    /// # Errors
    /// What the socket said: `ConnectionReset` where the peer broke off, `WouldBlock` where it keeps the line open.
    pub fn to_end(&mut self) -> io::Result<Vec<u8>> {
        self.reader.to_end()
    }

    /// Whether the peer has closed or reset, within this time, without saying another byte.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.set_patience(patience);
        let closed = match self.reader.to_end() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        self.set_patience(PATIENCE);
        closed
    }
}
