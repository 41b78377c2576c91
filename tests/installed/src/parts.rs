//! The agent's target, and agents that ask it once.

use std::fs::{File, OpenOptions, create_dir_all, read_to_string};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

/// The demo's CRM.
pub(crate) const TARGET: &str = "192.0.2.10:8800";
/// Something that no policy names, at the same place.
pub(crate) const UNNAMED: &str = "192.0.2.10:8899";
const NOTES: &str = "/var/lib/trial";
const PATIENCE: Duration = Duration::from_secs(10);

/// Adds a line to what this part has to say.
fn note(name: &str, line: &str) {
    create_dir_all(NOTES).unwrap();
    let mut file: File =
        OpenOptions::new().create(true).append(true).open(format!("{NOTES}/{name}.log")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// What a part has said, over all boots.
pub(crate) fn notes(name: &str) -> Vec<String> {
    let text = read_to_string(format!("{NOTES}/{name}.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Answers every request with a customer, and notes its first line.
pub(crate) fn serve() {
    let listeners = [TARGET, UNNAMED].map(|at| TcpListener::bind(at).unwrap());
    note("served", "starts");
    if let Some(manager) = std::env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", manager).unwrap();
    }
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                for stream in listener.incoming().flatten() {
                    thread::spawn(|| answer(stream));
                }
            });
        }
    });
}

fn answer(mut stream: TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    note("served", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
    let body = r#"{"name":"Ada","email":"ada@example.org"}"#;
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Asks once, and notes what came of it.
pub(crate) fn call(name: &str) {
    note(name, &asked(name).unwrap_or_else(|error| format!("refused: {error}")));
}

fn asked(name: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&TARGET.parse::<SocketAddr>().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /v1/customers/{name} HTTP/1.1\r\nHost: crm.example\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or("nothing").to_owned())
}
