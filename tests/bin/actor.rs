//! The other processes of the kernel tests: a gate that answers with what the kernel said, and callers that must be
//! processes of their own (in a cgroup, under a uid). Does what its arguments say, prints one line per result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/kernel_support/calls.rs"]
mod calls;
#[path = "../tests/kernel_support/deeds.rs"]
mod deeds;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidegate::kernel::{Gate, identify};

static NEVER: AtomicBool = AtomicBool::new(false);
/// Set when our input closes.
static ENOUGH: AtomicBool = AtomicBool::new(false);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The arguments live as long as the process.
    let words: Vec<&'static str> = arguments.leak().iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", pins, how, cgroup] => serve(Path::new(pins), how, cgroup),
        ["late", cgroup, address] => late(cgroup, address.parse().unwrap()),
        ["fake", address] => fake(address.parse().unwrap()),
        ["call", cgroup, uid, calls @ ..] => call(cgroup, uid, calls),
        ["deed", cgroup, deed, what] => {
            enter(cgroup);
            println!("{}", deeds::outcome(deed, what));
        }
        ["deed-as", uid, deed, what] => {
            calls::become_user(uid.parse().unwrap());
            println!("{}", deeds::outcome(deed, what));
        }
        ["deed-with-few-rights", deed, what] => {
            calls::keep_few_rights();
            println!("{}", deeds::outcome(deed, what));
        }
        ["deed-between", cgroup, at] => {
            enter(cgroup);
            let _listener = std::os::unix::net::UnixListener::bind(at).unwrap();
            println!("{}", deeds::outcome("unix", at));
        }
        ["probe", uid] => {
            calls::become_user(uid.parse().unwrap());
            for check in tidegate::kernel::probe().checks {
                println!("{}: {:?}", check.name, check.found);
            }
        }
        ["give", cgroup] => give(cgroup),
        ["keep", cgroup, address] => keep(cgroup, address.parse().unwrap()),
        ["answer", cgroup, address] => answer(cgroup, address.parse().unwrap()),
        ["dangle", cgroup, times, how, addresses @ ..] => {
            dangle(cgroup, times.parse().unwrap(), how, addresses);
        }
        ["flood", threads, times, addresses @ ..] => {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            println!("{}", calls::flood(threads.parse().unwrap(), times.parse().unwrap(), addresses, &NEVER));
        }
        ["storm", threads, addresses @ ..] => {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            thread::spawn(|| {
                let _ = std::io::stdin().read(&mut [0]);
                ENOUGH.store(true, Ordering::Relaxed);
            });
            println!("{}", calls::flood(threads.parse().unwrap(), usize::MAX, addresses, &ENOUGH));
        }
        other => panic!("unknown: {other:?}"),
    }
}

/// A gate. `reply` answers every connection with a line about it; `forward` dials what was dialled and relays;
/// `forward-as-nobody` does so without any right; `forget` dials without marking its socket.
fn serve(pins: &Path, how: &'static str, cgroup: &str) {
    enter(cgroup);
    let gate = Arc::new(Gate::adopt(pins).unwrap());
    let listeners = gate.listen().unwrap();
    let heartbeat = gate.heartbeat().unwrap();
    thread::spawn(move || {
        while heartbeat.beat().is_ok() {
            thread::sleep(tidegate::limits::HEARTBEAT_EVERY);
        }
    });
    if how == "forward-as-nobody" {
        calls::become_user(65_534);
    }
    for (tag, listener) in listeners
        .outbound
        .into_iter()
        .map(|l| ("out", l))
        .chain(listeners.inbound.into_iter().map(|l| ("in", l)))
    {
        let gate = Arc::clone(&gate);
        thread::spawn(move || accept(&gate, tag, &listener, how));
    }
    println!("ready");
    // Until the test closes our input, or kills us.
    let _ = std::io::stdin().read(&mut [0]);
}

fn accept(gate: &Arc<Gate>, tag: &'static str, listener: &TcpListener, how: &'static str) {
    listener.set_nonblocking(false).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let seen = identify(&connection).unwrap();
        let local = connection.local_addr().unwrap();
        if how == "reply" {
            let answer = match &seen {
                Some(seen) => format!(
                    "{tag} {} {} {} {} {} {} {} {:?}\n",
                    seen.original,
                    seen.tgid,
                    seen.uid,
                    seen.guard,
                    seen.executable_inode,
                    seen.executable_device,
                    seen.started,
                    seen.login
                ),
                None => format!("{tag} {local} nobody\n"),
            };
            let _ = connection.write_all(answer.as_bytes());
            // Closing over unread bytes would be a reset, and the answer lost.
            let _ = connection.shutdown(std::net::Shutdown::Write);
            let _ = connection.set_read_timeout(Some(std::time::Duration::from_millis(300)));
            while connection.read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
            continue;
        }
        let to = seen.map_or(local, |seen| seen.original);
        let gate = Arc::clone(gate);
        thread::spawn(move || match how {
            "forget" => forget(connection, to),
            _ => relay(&gate, connection, to),
        });
    }
}

fn relay(gate: &Gate, mut client: TcpStream, to: SocketAddr) {
    let socket = calls::stream_socket(to);
    gate.exempt(&socket).unwrap();
    if socket.connect(&to.into()).is_err() {
        return;
    }
    let mut upstream: TcpStream = socket.into();
    let (mut back, mut forth) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut forth, &mut upstream);
        let _ = upstream.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut back, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Dials as if it were anybody, and says what came of it.
fn forget(mut client: TcpStream, to: SocketAddr) {
    let answer = match TcpStream::connect(to) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => "refused by the kernel".to_owned(),
        other => format!("{other:?}"),
    };
    let _ = client.write_all(answer.as_bytes());
}

/// Makes its sockets, waits for a word, then uses them.
fn late(cgroup: &str, to: SocketAddr) {
    enter(cgroup);
    let (stream, other) = (calls::stream_socket(to), calls::stream_socket(to));
    let datagram = UdpSocket::bind("0.0.0.0:0").unwrap();
    println!("made");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    for done in [
        stream.connect(&to.into()),
        datagram.send_to(b"out", to).map(drop),
        other.bind(&any.into()),
        UdpSocket::bind(any).map(drop),
    ] {
        println!("{}", done.map_or_else(|error| format!("refused: {error}"), |()| "done".to_owned()));
    }
}

/// Somebody who wants to be taken for the gate.
fn fake(address: SocketAddr) {
    match TcpListener::bind(address) {
        Err(error) => println!("refused {error}"),
        Ok(_) => println!("bound"),
    }
}

/// Enters a cgroup and a uid (`raw:UID` keeps CAP_NET_RAW), then makes each call (`how address`) and prints its outcome.
fn call(cgroup: &str, uid: &str, calls: &[&str]) {
    enter(cgroup);
    match uid.strip_prefix("raw:") {
        Some(uid) => calls::become_user_with_net_raw(uid.parse().unwrap()),
        None if uid == "-" => {}
        None => calls::become_user(uid.parse().unwrap()),
    }
    for pair in calls.chunks(2) {
        println!("{}", calls::outcome(pair[0], pair[1]));
    }
}

/// Starts connects as nobody, in turn to each address, and holds them, come what may, until our input closes.
fn dangle(cgroup: &str, times: usize, how: &str, addresses: &[&str]) {
    enter(cgroup);
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let all = rustix::process::Rlimit { current: maximum, maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let held: Vec<_> =
        addresses.iter().cycle().take(times).map(|to| (calls::odd_socket(how, *to), *to)).collect();
    calls::become_user(65_534);
    println!("{}", held.iter().filter(|(socket, to)| calls::begins(socket, *to)).count());
    let _ = std::io::stdin().read(&mut [0]);
}

fn enter(cgroup: &str) {
    if cgroup != "-" {
        std::fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string()).unwrap();
    }
}

/// Makes a socket in a cgroup and gives it to whoever is at the other end of our standard input.
fn give(cgroup: &str) {
    use std::os::fd::AsFd;
    enter(cgroup);
    calls::give_socket(&std::io::stdin().as_fd().try_clone_to_owned().unwrap().into());
}

/// One connection, made before entering the cgroup's guard; a word in, what came back out.
fn keep(cgroup: &str, address: SocketAddr) {
    enter(cgroup);
    let stream = TcpStream::connect(address).unwrap();
    for line in std::io::stdin().lines() {
        match calls::echo(&stream, line.unwrap().as_bytes()) {
            Some(back) => println!("echo {}", String::from_utf8(back).unwrap()),
            None => println!("nothing"),
        }
    }
}

/// A server in a cgroup.
fn answer(cgroup: &str, address: SocketAddr) {
    enter(cgroup);
    let listener = TcpListener::bind(address).unwrap();
    println!("ready");
    for connection in listener.incoming() {
        let _ = connection.unwrap().write_all(b"real\n");
    }
}
