//! The system calls of the attacks, as thin as they go. Every wait is bounded; nothing is retried.

use std::ffi::CString;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Longer than an answer takes on a busy machine, shorter than a kernel's first retries.
pub const PATIENCE: Duration = Duration::from_millis(900);

/// The answer of a call that gives a negative number for an error.
pub fn answer(number: i64) -> Result<i64> {
    if number < 0 { Err(Error::last_os_error()) } else { Ok(number) }
}

/// A descriptor that a call has just opened.
pub fn owned(number: i64) -> Result<OwnedFd> {
    let fd = answer(number)? as RawFd;
    // SAFETY: it was opened just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A raw system call.
pub fn call(number: i64, arguments: [u64; 6]) -> Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: pointers among the arguments are to live values of the callers, who know the call.
    answer(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(i64::from(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }))
}

/// A TCP socket for this address.
pub fn stream(to: SocketAddr) -> Result<OwnedFd> {
    socket(family(to), libc::SOCK_STREAM, 0)
}

/// The address family.
#[must_use]
pub fn family(of: SocketAddr) -> i32 {
    if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// A socket address as the kernel reads it: `sockaddr_in` or `sockaddr_in6`.
#[must_use]
pub fn sockaddr(of: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend((family(of) as u16).to_ne_bytes());
    bytes.extend(of.port().to_be_bytes());
    match of {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

/// setsockopt(2).
pub fn set(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: a live descriptor, and live bytes with their own length.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    answer(i64::from(done)).map(drop)
}

/// setsockopt(2) of a number.
pub fn set_number(fd: &OwnedFd, level: i32, name: i32, value: i32) -> Result<()> {
    set(fd, level, name, &value.to_ne_bytes())
}

/// bind(2).
pub fn bind(fd: &OwnedFd, at: &[u8]) -> Result<()> {
    // SAFETY: a live descriptor, and a live address with its own length.
    answer(i64::from(unsafe { libc::bind(fd.as_raw_fd(), at.as_ptr().cast(), at.len() as u32) })).map(drop)
}

/// connect(2), waiting for its end as long as we wait for anything.
pub fn connect(fd: &OwnedFd, to: &[u8]) -> Result<()> {
    set_blocking(fd, false)?;
    // SAFETY: a live descriptor, and a live address with its own length.
    let begun = unsafe { libc::connect(fd.as_raw_fd(), to.as_ptr().cast(), to.len() as u32) };
    match answer(i64::from(begun)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => await_connected(fd)?,
        other => drop(other?),
    }
    set_blocking(fd, true)
}

fn await_connected(fd: &OwnedFd) -> Result<()> {
    if !ready(fd, libc::POLLOUT) {
        return Err(Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let (mut code, mut length) = (0i32, 4u32);
    // SAFETY: a live descriptor, and live variables of the sizes they say.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut code).cast(),
            &raw mut length,
        )
    };
    answer(i64::from(done))?;
    if code == 0 { Ok(()) } else { Err(Error::from_raw_os_error(code)) }
}

/// Whether this comes about while we wait.
#[must_use]
pub fn ready(fd: &OwnedFd, what: i16) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: what, revents: 0 };
    // SAFETY: one live entry.
    unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) > 0 }
}

fn set_blocking(fd: &OwnedFd, blocking: bool) -> Result<()> {
    let mut no = i32::from(!blocking);
    // SAFETY: a live descriptor and a live number.
    answer(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut no) })).map(drop)
}

/// send(2).
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> Result<()> {
    // SAFETY: a live descriptor, and live bytes with their own length.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    answer(sent as i64).map(drop)
}

/// sendto(2).
pub fn send_to(fd: &OwnedFd, bytes: &[u8], to: &[u8], flags: i32) -> Result<()> {
    // SAFETY: a live descriptor, live bytes and a live address, each with its own length.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL,
            to.as_ptr().cast(),
            to.len() as u32,
        )
    };
    answer(sent as i64).map(drop)
}

/// Whatever comes until the other side ends, or nothing more comes.
pub fn hear(fd: &OwnedFd) -> Result<String> {
    let (mut heard, until) = (Vec::new(), Instant::now() + PATIENCE);
    let mut piece = [0u8; 512];
    while Instant::now() < until && ready(fd, libc::POLLIN) {
        // SAFETY: a live descriptor and a live buffer with its own length.
        let read = unsafe { libc::read(fd.as_raw_fd(), piece.as_mut_ptr().cast(), piece.len()) };
        match answer(read as i64) {
            Ok(0) => break,
            Ok(length) => heard.extend_from_slice(&piece[..length as usize]),
            Err(error) if heard.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    if heard.is_empty() {
        return Ok("no answer".to_owned());
    }
    Ok(String::from_utf8_lossy(&heard).trim_end().to_owned())
}

/// Says the token on a connection and hears the answer.
pub fn talk(fd: &OwnedFd, token: &str) -> Result<String> {
    send(fd, token.as_bytes())?;
    hear(fd)
}

/// Enough of a page-aligned memory that the kernel shares: a ring, a buffer.
pub struct Shared {
    at: *mut u8,
    length: usize,
}

impl Shared {
    /// mmap(2) of this descriptor at this offset, or of fresh memory.
    pub fn map(fd: Option<&OwnedFd>, length: usize, offset: i64) -> Result<Self> {
        let (number, flags) = match fd {
            Some(fd) => (fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE),
            None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE),
        };
        // SAFETY: a new mapping, at an address the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                number,
                offset,
            )
        };
        if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(Self { at: at.cast(), length }) }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.at as u64
    }

    /// Reads a number.
    #[must_use]
    pub fn get(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.length);
        // SAFETY: inside the mapping, aligned by its users; the kernel writes it, hence volatile.
        unsafe { self.at.add(offset).cast::<u32>().read_volatile() }
    }

    /// Writes bytes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: inside the mapping, which overlaps nothing of ours.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset), bytes.len()) };
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// bpf(2). `attributes` hold pointers to live values of the callers.
pub fn bpf(command: u64, attributes: &mut [u64; 16]) -> Result<i64> {
    let size = size_of_val(attributes) as u64;
    call(libc::SYS_bpf, [command, attributes.as_mut_ptr() as u64, size, 0, 0, 0])
}

/// A pinned object.
pub fn pinned(path: &str) -> Result<OwnedFd> {
    let path = text(path);
    let mut attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64;
    owned(bpf(7, &mut attributes)?)
}

/// A string as the kernel reads it.
#[must_use]
pub fn text(of: &str) -> CString {
    CString::new(of).expect("no attack names a path with a zero in it")
}
