//! The gate itself: its port, its process, its programs and maps. What succeeds ends in a connection to the destination,
//! or in a secret that only the gate knows.

use std::fs;
use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use super::stream;
use crate::Aim;
use crate::sys::{self, sockaddr};

pub(crate) fn port(aim: &Aim, host: &str) -> Result<String> {
    let host: IpAddr = host.parse().map_err(Error::other)?;
    let to = SocketAddr::new(host, aim.number("port") as u16);
    let socket = sys::stream(to)?;
    sys::connect(&socket, &sockaddr(to))?;
    sys::talk(&socket, aim.token())
}

fn listener(at: SocketAddr) -> Result<OwnedFd> {
    let socket = sys::stream(at)?;
    for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
        sys::set_number(&socket, libc::SOL_SOCKET, option, 1)?;
    }
    sys::bind(&socket, &sockaddr(at))?;
    // SAFETY: a live descriptor.
    sys::answer(i64::from(unsafe { libc::listen(socket.as_raw_fd(), 8) }))?;
    Ok(socket)
}

/// Listens there, has somebody call, and says whether the call came to us.
fn capture(aim: &Aim, at: SocketAddr, callers: &[SocketAddr]) -> Result<String> {
    let listener = listener(at)?;
    let mut heard = Err(Error::other("nobody was called"));
    for &to in callers {
        let token = aim.token().to_owned();
        let caller = thread::spawn(move || {
            let socket = sys::stream(to)?;
            sys::connect(&socket, &sockaddr(to))?;
            sys::talk(&socket, &token)
        });
        if sys::ready(&listener, libc::POLLIN) {
            // SAFETY: a live descriptor; nobody asks for the address.
            let got =
                unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
            let got = sys::owned(i64::from(got))?;
            return Ok(format!("captured {}", sys::hear(&got)?));
        }
        heard = caller.join().unwrap_or_else(|_| Err(Error::other("the caller panicked")));
    }
    heard
}

/// While nobody holds it: whoever dials a target comes here, if it works.
pub(crate) fn bind_port(aim: &Aim) -> Result<String> {
    // Without a gate its port stands open on another number, which is taken.
    let port =
        if aim.get("pid").is_empty() && aim.number("port") == 15_999 { 15_998 } else { aim.number("port") };
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port as u16);
    capture(aim, at, &[aim.to(), at])
}

pub(crate) fn listen(aim: &Aim) -> Result<String> {
    let service = aim.address("service");
    capture(aim, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), service.port()), &[service])
}

fn signal(aim: &Aim, number: i32) -> Result<()> {
    // In the control run there is no gate to signal.
    if let Ok(pid) = aim.get("pid").parse::<i32>() {
        // SAFETY: plain numbers; the process was named by whoever started us.
        sys::answer(i64::from(unsafe { libc::kill(pid, number) }))?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

pub(crate) fn kill(aim: &Aim) -> Result<String> {
    signal(aim, libc::SIGKILL)?;
    stream::plain(aim, aim.to())
}

pub(crate) fn stop(aim: &Aim) -> Result<String> {
    signal(aim, libc::SIGSTOP)?;
    stream::plain(aim, aim.to())
}

/// Where the gate's environment lies in its memory, which holds the secret.
fn environment(pid: u32) -> Result<(u64, usize)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // env_start and env_end are fields 50 and 51 of all; the third is the first here. Zeros: we may not know.
    let (start, end) = (number(47), number(48));
    if start == 0 { Err(Error::from_raw_os_error(libc::EACCES)) } else { Ok((start, (end - start) as usize)) }
}

fn secret_in(memory: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(memory).into_owned();
    let found = text.split('\0').find_map(|variable| variable.strip_prefix("TIDEGATE_SECRET="));
    found.map(|secret| format!("secret {secret}")).ok_or_else(|| Error::other("no secret there"))
}

pub(crate) fn memory(aim: &Aim) -> Result<String> {
    let pid = aim.number("pid");
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let (start, length) = environment(pid)?;
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, start)?;
    secret_in(&bytes)
}

pub(crate) fn ptrace(aim: &Aim) -> Result<String> {
    let pid = aim.number("pid");
    let ptrace = |request: u32, address: u64| {
        // SAFETY: the process was named by whoever started us; nothing of ours is written.
        unsafe { libc::ptrace(request, pid as i32, address, std::ptr::null_mut::<u8>()) }
    };
    sys::answer(ptrace(libc::PTRACE_ATTACH, 0))?;
    // SAFETY: waits for the process we have just attached to.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), libc::__WALL) };
    let (start, length) = environment(pid)?;
    let words = (start..start + length as u64).step_by(8).map(|at| ptrace(libc::PTRACE_PEEKDATA, at));
    let bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
    ptrace(libc::PTRACE_DETACH, 0);
    secret_in(&bytes)
}

/// Sets the mark of the gate's own sockets on one of ours, then uses it.
fn dial_exempt(aim: &Aim, map: &OwnedFd) -> Result<String> {
    let socket = sys::stream(aim.to())?;
    let (key, value) = (socket.as_raw_fd().to_ne_bytes(), 1u32.to_ne_bytes());
    let mut attributes = [0; 16];
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = key.as_ptr() as u64;
    attributes[2] = value.as_ptr() as u64;
    sys::bpf(2, &mut attributes)?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    sys::talk(&socket, aim.token())
}

pub(crate) fn exempt(aim: &Aim) -> Result<String> {
    dial_exempt(aim, &sys::pinned(&format!("{}/maps/EXEMPT", aim.get("pins")))?)
}

/// The name of a map: where `bpf_map_info` has it.
fn map_name(map: &OwnedFd) -> Result<String> {
    let mut info = [0u8; 128];
    let mut attributes = [0; 16];
    attributes[0] = map.as_raw_fd() as u64 | (info.len() as u64) << 32;
    attributes[1] = info.as_mut_ptr() as u64;
    sys::bpf(15, &mut attributes)?;
    let name = &info[24..40];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Every map of that name on this machine: a mark that another gate reads does no harm to it.
pub(crate) fn exempt_by_id(aim: &Aim) -> Result<String> {
    let mut id = 0;
    let mut heard = Err(Error::other("no such map"));
    loop {
        let mut attributes = [0; 16];
        attributes[0] = id;
        match sys::bpf(12, &mut attributes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return heard,
            other => drop(other?),
        }
        id = attributes[0] >> 32;
        let mut attributes = [0; 16];
        attributes[0] = id;
        let map = sys::owned(sys::bpf(14, &mut attributes)?)?;
        if map_name(&map)? == "EXEMPT" && !matches!(&heard, Ok(answer) if answer.starts_with("real")) {
            heard = dial_exempt(aim, &map);
        }
    }
}

pub(crate) fn descriptors(aim: &Aim) -> Result<String> {
    let pid = u64::from(aim.number("pid"));
    let gate = sys::owned(sys::call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0])?)?;
    let mut heard = Err(Error::other("no map among them"));
    for number in 3..64 {
        let taken = sys::call(libc::SYS_pidfd_getfd, [gate.as_raw_fd() as u64, number, 0, 0, 0, 0]);
        match taken {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error),
            Ok(taken) => {
                let taken = sys::owned(taken)?;
                if map_name(&taken).is_ok_and(|name| name == "EXEMPT") {
                    heard = dial_exempt(aim, &taken);
                }
            }
        }
    }
    heard
}

fn links(aim: &Aim) -> Result<Vec<String>> {
    let entries = fs::read_dir(format!("{}/links", aim.get("pins")))?;
    Ok(entries.flatten().map(|entry| entry.path().display().to_string()).collect())
}

pub(crate) fn detach(aim: &Aim) -> Result<String> {
    // Some kinds of links cannot be detached by anybody; the others then may be.
    let (mut detached, mut refused) = (0, None);
    for link in links(aim)? {
        let done = sys::pinned(&link).and_then(|link| {
            let mut attributes = [0; 16];
            attributes[0] = link.as_raw_fd() as u64;
            sys::bpf(34, &mut attributes)
        });
        match done {
            Ok(_) => detached += 1,
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if detached == 0 => Err(error),
        _ => stream::plain(aim, aim.to()),
    }
}

pub(crate) fn unpin(aim: &Aim) -> Result<String> {
    for link in links(aim)? {
        fs::remove_file(link)?;
    }
    // The kernel takes the last reference away a moment later.
    thread::sleep(Duration::from_millis(200));
    stream::plain(aim, aim.to())
}

pub(crate) fn umount(aim: &Aim) -> Result<String> {
    // SAFETY: one thread, plain flags.
    sys::answer(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    let (root, bpffs) = (sys::text("/"), sys::text("/sys/fs/bpf"));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: live strings; the namespace is our own, so nobody else's mounts change.
    unsafe {
        let none = std::ptr::null();
        sys::answer(i64::from(libc::mount(none, root.as_ptr(), none, private, none.cast())))?;
        sys::answer(i64::from(libc::umount2(bpffs.as_ptr(), libc::MNT_DETACH)))?;
    }
    stream::plain(aim, aim.to())
}
