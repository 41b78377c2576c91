//! Whom a guarded process asks outside of its guard over a Unix socket is on record: which process, and which socket, refused
//! where this kernel can (BPF LSM), else as long as it is connected. Whom it may ask, and who is not guarded, is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::kernel::Found;
use tidegate::record::entry::{Event, Refused};
use tidegate::record::frame::Frame;
use tidegate_tests::{Builder, Gate, Host, Process, Seat, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
"#;

/// Binds each name given (`@`: abstract), as a stream that is accepted, one that is not (`deaf`), or for datagrams; stays.
const SERVE: &str = r#"
import os, socket, sys, threading
def serve(how, name):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if how == "datagram" else socket.SOCK_STREAM)
    server.bind("\0" + name[1:] if name.startswith("@") else name)
    if name.startswith("/"):
        os.chmod(name, 0o777)
    kept.append(server)
    if how != "datagram":
        server.listen(8)
    while how == "stream":
        kept.append(server.accept()[0])
kept = []
for how, name in zip(sys.argv[1::2], sys.argv[2::2]):
    threading.Thread(target=serve, args=(how, name), daemon=True).start()
print("serving", flush=True)
threading.Event().wait()
"#;

/// Connects to each, and stays.
const CALL: &str = r#"
import socket, sys, threading, time
kept = []
for how, name in zip(sys.argv[1::2], sys.argv[2::2]):
    while True:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if how == "datagram" else socket.SOCK_STREAM)
        try:
            one.connect("\0" + name[1:] if name.startswith("@") else name)
            break
        except PermissionError:
            break
        except OSError:
            one.close()
            time.sleep(0.05)
    kept.append(one)
print("connected", flush=True)
threading.Event().wait()
"#;

fn gate_on(host: &Host) -> Builder {
    let allowed = format!("\"{}\", \"@{}-allowed\"", socket(host, "allowed.sock"), host.name());
    let guard = format!(
        "[[guard]]\nname = \"agents\"\ncgroups = [\"/{}.slice/agent\"]\nunix_sockets = [{allowed}]\n",
        host.name()
    );
    let second = format!("[[guard]]\nname = \"others\"\ncgroups = [\"/{}.slice/other\"]\n", host.name());
    Gate::on(host).policy("a.toml", NOUNS).policy("guard.toml", &guard).policy("second.toml", &second)
}

/// Whether this kernel refuses it.
fn refuses() -> bool {
    let checks = tidegate::kernel::probe().checks;
    checks.iter().any(|check| check.name == "BPF LSM" && check.found == Found::Ok)
}

fn reason() -> &'static str {
    if refuses() { "refused_guard_unix_socket" } else { "unix_socket_outside" }
}

fn python(seat: &Seat, program: &str, words: &[&str], said: &str) -> Process {
    let mut process = seat.spawn("/usr/bin/python3", &[&["-c", program][..], words].concat());
    process.await_text(said);
    process
}

fn serve(seat: &Seat, how: &str, name: &str) -> Process {
    python(seat, SERVE, &[how, name], "serving")
}

fn call(seat: &Seat, how: &str, name: &str) -> Process {
    python(seat, CALL, &[how, name], "connected")
}

fn named(process: &Process) -> String {
    format!("python3[{}]", process.pid())
}

fn socket(host: &Host, name: &str) -> String {
    host.folder().join(name).to_str().unwrap().to_owned()
}

fn all(gate: &Gate) -> Vec<Refused> {
    let reason = reason();
    let lines = gate.record().last(10_000).unwrap().into_iter();
    lines
        .filter_map(|line| match line.frame {
            Frame::Event(Event::KernelRefused(event)) => Some(event.refusals),
            _ => None,
        })
        .flatten()
        .filter(|one| one.reason == reason)
        .collect()
}

/// What the record says of this process, once it says something.
fn told(gate: &Gate, process: &Process) -> Vec<Refused> {
    eventually(&format!("{} in the record", named(process)), || {
        let of_it = |one: &Refused| one.process == Some(named(process));
        Some(all(gate).into_iter().filter(of_it).collect::<Vec<_>>()).filter(|told| !told.is_empty())
    })
}

fn a_helper_outside_is_on_record(options: &[&str]) {
    let host = Host::new();
    let gate = options.iter().fold(gate_on(&host), |gate, option| gate.option_of_run(option)).start();
    let path = socket(&host, "helper.sock");
    let abstracted = format!("@{}-helper", host.name());
    for (how, name) in [("stream", &path), ("datagram", &abstracted)] {
        let _server = serve(&host.client(), how, name);
        let agent = call(&host.agent().uid(61_066), how, name);
        let told = told(&gate, &agent);
        let one = &told[0];
        assert_eq!((one.about.as_ref(), one.to.as_ref(), one.times), (Some(name), None, 1), "{one:?}");
        assert_eq!((one.guard.as_deref(), one.uid), (Some("agents"), Some(61_066)), "{one:?}");
        assert_eq!(one.cgroup, Some(format!("/{}.slice/agent", host.name())), "{one:?}");
        let program = std::fs::canonicalize("/usr/bin/python3").unwrap();
        assert_eq!(one.executable.as_deref(), program.to_str(), "{one:?}");
        let log = gate.log();
        let line =
            log.lines().find(|line| line.contains("outside of its guard") && line.contains(name.as_str()));
        assert!(refuses() || line.is_some_and(|line| line.contains("this kernel cannot refuse it")), "{log}");
    }
    let shown = gate.tidegate(&["sessions", "tail"]).success().text();
    assert!(shown.contains(reason()) && shown.contains(&path), "{shown}");
}

#[test]
fn a_guarded_process_that_is_connected_to_a_server_outside_is_on_record_with_the_sockets_name() {
    a_helper_outside_is_on_record(&[]);
}

#[test]
fn so_it_is_where_the_enforcer_has_no_privilege() {
    a_helper_outside_is_on_record(&["--user=61258"]);
}

#[test]
fn each_process_is_told_once_with_each_name_however_often_it_connects() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let (one, two) = (socket(&host, "one.sock"), socket(&host, "two.sock"));
    let _servers = (serve(&host.client(), "stream", &one), serve(&host.client(), "deaf", &two));
    let words = ["stream", &one, "stream", &one, "stream", &two, "stream", &one];
    let agent = python(&host.agent(), CALL, &words, "connected");
    eventually("both in the record", || (told(&gate, &agent).len() == 2).then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    let mut about: Vec<_> =
        told(&gate, &agent).into_iter().map(|one| (one.about.unwrap(), one.times)).collect();
    about.sort();
    let times = if refuses() { 3 } else { 1 };
    assert_eq!(about, [(one.clone(), times), (two, 1)], "also where nobody accepts it");
    let again = call(&host.agent(), "stream", &one);
    assert_eq!(told(&gate, &again).len(), 1, "another process is news");
}

#[test]
fn a_server_of_the_same_guard_is_not_told_and_one_of_another_guard_is() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let path = socket(&host, "own.sock");
    let deaf = socket(&host, "deaf.sock");
    let _servers = (serve(&host.seat("agent/deeper"), "stream", &path), serve(&host.agent(), "deaf", &deaf));
    let own = [call(&host.agent(), "stream", &path), call(&host.agent(), "stream", &deaf)];
    let caller = call(&host.client(), "stream", &path);
    let other = call(&host.seat("other"), "stream", &path);
    assert_eq!(told(&gate, &other)[0].guard.as_deref(), Some("others"));
    std::thread::sleep(Duration::from_secs(2));
    let told: Vec<_> = all(&gate).into_iter().filter_map(|one| one.process).collect();
    assert_eq!(told, [named(&other)], "{:?} {}", own.each_ref().map(named), named(&caller));
}

#[test]
fn names_that_policy_allows_to_a_guard_are_not_told_of_it_and_are_of_another_guard() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let abstracted = format!("@{}-allowed", host.name());
    let (path, other) = (socket(&host, "allowed.sock"), socket(&host, "other.sock"));
    let words = ["stream", &path, "datagram", &abstracted, "stream", &other];
    let _servers = python(&host.client(), SERVE, &words, "serving");
    let agent = python(&host.agent(), CALL, &words, "connected");
    let second = python(&host.seat("other"), CALL, &words, "connected");
    eventually("all of the other guard's", || (told(&gate, &second).len() == 3).then_some(()));
    let about: Vec<_> = told(&gate, &agent).into_iter().filter_map(|one| one.about).collect();
    assert_eq!(about, [other]);
}

#[test]
fn what_every_guard_may_say_to_the_host_is_not_told() {
    const OWN_RUN: &str =
        "mount -t tmpfs none /run && mkdir /run/systemd && chmod 755 /run && exec python3 -c \"$@\"";
    let host = Host::new();
    let gate = gate_on(&host).start();
    let seat = host.client();
    let words =
        ["-m", "sh", "-c", OWN_RUN, "sh", SERVE, "stream", "/run/systemd/notify", "stream", "/run/other"];
    let mut server = seat.spawn("/usr/bin/unshare", &words);
    server.await_text("serving");
    // By way of the server's own mounts; the name is what the server bound.
    let by =
        |name: &str| PathBuf::from(format!("/proc/{}/root{name}", server.pid())).to_str().unwrap().to_owned();
    let allowed = call(&host.agent(), "stream", &by("/run/systemd/notify"));
    let other = call(&host.agent(), "stream", &by("/run/other"));
    assert_eq!(told(&gate, &other)[0].about.as_deref(), Some("/run/other"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(all(&gate).iter().all(|one| one.process != Some(named(&allowed))));
    assert!(Path::new(&by("/run/systemd/notify")).exists(), "it is still connected");
}

#[test]
fn a_guarded_process_of_another_network_namespace_is_told_too() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let path = socket(&host, "helper.sock");
    let datagrams = socket(&host, "datagrams.sock");
    let _servers = (serve(&host.client(), "stream", &path), serve(&host.client(), "datagram", &datagrams));
    let words = ["-n", "/usr/bin/python3", "-c", CALL, "stream", &path, "datagram", &datagrams];
    let mut agent = host.agent().spawn("/usr/bin/unshare", &words);
    agent.await_text("connected");
    eventually("both in the record", || (told(&gate, &agent).len() == 2).then_some(()));
    let mut about: Vec<_> = told(&gate, &agent).into_iter().filter_map(|one| one.about).collect();
    about.sort();
    assert_eq!(about, [datagrams, path]);
}
