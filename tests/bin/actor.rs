//! The other processes of the kernel tests: a gate that answers with what the kernel said, and callers that must be
//! processes of their own (in a cgroup, under a uid). Does what its arguments say, prints one line per result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/kernel_support/calls.rs"]
mod calls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tidegate::kernel::{Gate, identify};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", pins, how] => serve(Path::new(pins), how),
        ["fake", address] => fake(address.parse().unwrap()),
        ["call", cgroup, uid, calls @ ..] => call(cgroup, uid, calls),
        ["flood", threads, times, addresses @ ..] => {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            println!("{}", calls::flood(threads.parse().unwrap(), times.parse().unwrap(), addresses));
        }
        other => panic!("unknown: {other:?}"),
    }
}

/// A gate. `reply` answers every connection with a line about it; `forward` dials what was dialled and relays.
fn serve(pins: &Path, how: &str) {
    let gate = Arc::new(Gate::adopt(pins).unwrap());
    let listeners = gate.listen().unwrap();
    let forward = how == "forward";
    for (tag, listener) in listeners
        .outbound
        .into_iter()
        .map(|l| ("out", l))
        .chain(listeners.inbound.into_iter().map(|l| ("in", l)))
    {
        let gate = Arc::clone(&gate);
        thread::spawn(move || accept(&gate, tag, &listener, forward));
    }
    println!("ready");
    // Until the test closes our input, or kills us.
    let _ = std::io::stdin().read(&mut [0]);
}

fn accept(gate: &Arc<Gate>, tag: &'static str, listener: &TcpListener, forward: bool) {
    listener.set_nonblocking(false).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let seen = identify(&connection).unwrap();
        let local = connection.local_addr().unwrap();
        if !forward {
            let answer = match &seen {
                Some(seen) => format!(
                    "{tag} {} {} {} {} {} {} {}\n",
                    seen.original,
                    seen.tgid,
                    seen.uid,
                    seen.guard,
                    seen.executable_inode,
                    seen.executable_device,
                    seen.started
                ),
                None => format!("{tag} {local} nobody\n"),
            };
            let _ = connection.write_all(answer.as_bytes());
            continue;
        }
        let to = seen.map_or(local, |seen| seen.original);
        let gate = Arc::clone(gate);
        thread::spawn(move || relay(&gate, connection, to));
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

/// Somebody who wants to be taken for the gate.
fn fake(address: SocketAddr) {
    match TcpListener::bind(address) {
        Err(error) => println!("refused {error}"),
        Ok(_) => println!("bound"),
    }
}

/// Enters a cgroup and a uid, then makes each call (`how address`) and prints its outcome.
fn call(cgroup: &str, uid: &str, calls: &[&str]) {
    if cgroup != "-" {
        std::fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string()).unwrap();
    }
    if uid != "-" {
        calls::become_user(uid.parse().unwrap());
    }
    for pair in calls.chunks(2) {
        println!("{}", calls::outcome(pair[0], pair[1]));
    }
}
