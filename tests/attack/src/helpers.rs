//! Processes outside of any guard that do somebody a favour: pass a socket on, or dial for whoever asks.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::Aim;
use crate::sys::{self, sockaddr};

/// Gives, to everyone who asks at `relay=PATH.give`, a socket: `fresh`, or `connected` to the destination.
pub fn give(aim: &Aim) {
    for stream in listen(&format!("{}.give", aim.get("relay"))) {
        let mut wanted = [0; 16];
        let Ok(length) = (&stream).read(&mut wanted) else { continue };
        let Ok(socket) = sys::stream(aim.to()) else { continue };
        // A refused connect gives a socket that is not connected: the taker will see.
        if &wanted[..length] == b"connected" {
            let _ = sys::connect(&socket, &sockaddr(aim.to()));
        }
        let _ = pass(&stream, &socket);
    }
}

/// Dials the destination for everyone who connects to `relay=PATH`.
pub fn relay(aim: &Aim) {
    for mut caller in listen(aim.get("relay")) {
        let Ok(mut upstream) = TcpStream::connect_timeout(&aim.to(), sys::PATIENCE) else { continue };
        let mut piece = [0; 512];
        let said = caller.read(&mut piece).unwrap_or(0);
        let _ = upstream.set_read_timeout(Some(sys::PATIENCE));
        let _ = upstream.write_all(&piece[..said]);
        let heard = upstream.read(&mut piece).unwrap_or(0);
        let _ = caller.write_all(&piece[..heard]);
    }
}

fn listen(path: &str) -> impl Iterator<Item = UnixStream> {
    use std::os::unix::fs::PermissionsExt;
    let listener = UnixListener::bind(path).expect("the test made a folder for it");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    println!("ready");
    std::iter::from_fn(move || listener.accept().ok().map(|(stream, _)| stream))
}

/// A control message with one descriptor: length, level, type, descriptor, padding.
const CONTROL: usize = 24;

fn pass(over: &UnixStream, socket: &OwnedFd) -> Result<()> {
    let mut control = [0u8; CONTROL];
    control[..8].copy_from_slice(&20u64.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    control[16..20].copy_from_slice(&socket.as_raw_fd().to_ne_bytes());
    let mut byte = *b"x";
    message(over, &mut byte, &mut control, |fd, message| {
        // SAFETY: a message of live buffers.
        unsafe { libc::sendmsg(fd, message, 0) }
    })
}

fn message(
    over: &UnixStream,
    byte: &mut [u8; 1],
    control: &mut [u8; CONTROL],
    act: impl Fn(i32, *mut libc::msghdr) -> isize,
) -> Result<()> {
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all zeros are a valid empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    sys::answer(act(over.as_raw_fd(), &raw mut message) as i64).map(drop)
}

/// Takes a socket of this kind from [`give`].
pub(crate) fn take(aim: &Aim, kind: &str) -> Result<OwnedFd> {
    let mut giver = UnixStream::connect(format!("{}.give", aim.get("relay")))?;
    giver.write_all(kind.as_bytes())?;
    let (mut byte, mut control) = ([0], [0; CONTROL]);
    message(&giver, &mut byte, &mut control, |fd, message| {
        // SAFETY: a message of live buffers.
        unsafe { libc::recvmsg(fd, message, libc::MSG_CMSG_CLOEXEC) }
    })?;
    let number = i32::from_ne_bytes([control[16], control[17], control[18], control[19]]);
    if number <= 2 {
        return Err(std::io::Error::other("no socket was given"));
    }
    // SAFETY: it came with the message just now and is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
