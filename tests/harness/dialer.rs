//! Connections made by a process that really sits where the test says, handed to the test as sockets. The kernel's
//! hooks, and so the gate, see that process; the test reads and writes whatever bytes it likes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Mutex;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process::Process;
use crate::seat::Seat;
use crate::{PATIENCE, built};

/// A helper process that opens sockets on request.
pub struct Dialer {
    process: Process,
    line: Mutex<UnixStream>,
}

impl Dialer {
    pub(crate) fn start(seat: &Seat) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout on a socket");
        let mut command = seat.command(built("tidegate-dialer"));
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        Self { process: Process::start(command), line: Mutex::new(ours) }
    }

    /// The process that connects.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Connects by TCP.
    ///
    /// # Errors
    /// What bind(2) or connect(2) said there.
    pub fn connect(&self, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
        let from = from.map_or_else(String::new, |from| from.to_string());
        self.ask(&format!("tcp {to} {from}")).map(TcpStream::from)
    }

    /// Opens a TCP socket that is not connected yet: whoever connects it uses a socket of another cgroup.
    ///
    /// # Errors
    /// What socket(2) said there.
    pub fn open(&self, to: SocketAddr) -> io::Result<Socket> {
        self.ask(&format!("open {to}")).map(Socket::from)
    }

    /// Opens a UDP socket, connected to this address.
    ///
    /// # Errors
    /// What socket(2) or connect(2) said there.
    pub fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        self.ask(&format!("udp {to}")).map(UdpSocket::from)
    }

    fn ask(&self, request: &str) -> io::Result<OwnedFd> {
        let line = self.line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sendmsg(
            line.as_fd(),
            &[IoSlice::new(request.as_bytes())],
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        )?;
        let mut answer = [0; 4];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let received = recvmsg(
            line.as_fd(),
            &mut [IoSliceMut::new(&mut answer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes != answer.len() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the dialer is gone"));
        }
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        socket.ok_or_else(|| io::Error::from_raw_os_error(i32::from_ne_bytes(answer)))
    }
}

/// The helper's whole life: answers requests on standard input until the test is gone.
///
/// # Errors
/// When standard input is no socket.
pub fn serve() -> io::Result<()> {
    let stdin = io::stdin();
    let mut request = [0; 256];
    loop {
        let read = rustix::io::read(stdin.as_fd(), &mut request)?;
        if read == 0 {
            return Ok(());
        }
        let outcome = std::str::from_utf8(&request[..read]).map_err(io::Error::other).and_then(open);
        let code = outcome.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EINVAL));
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let sockets = outcome.iter().map(AsFd::as_fd).collect::<Vec<_>>();
        if !sockets.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&sockets));
        }
        sendmsg(stdin.as_fd(), &[IoSlice::new(&i32::to_ne_bytes(code))], &mut control, SendFlags::NOSIGNAL)?;
    }
}

fn open(request: &str) -> io::Result<Socket> {
    let mut words = request.split_whitespace();
    let (what, to, from) = (words.next(), words.next(), words.next());
    let parse = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let to = parse(to.unwrap_or_default())?;
    let (kind, protocol) =
        if what == Some("udp") { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    if let Some(from) = from {
        socket.bind(&parse(from)?.into())?;
    }
    if what != Some("open") {
        socket.connect(&to.into())?;
    }
    Ok(socket)
}
