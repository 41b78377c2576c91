//! A world per test: a network namespace with the gate and its callers, another behind a veth with the real servers, the
//! programs attached to the root cgroup but minding this namespace alone. All of it goes when the value is dropped.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test program uses another part")]

pub mod calls;
pub mod outside;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tidegate::kernel::{self, Block, GuardRow, Options, Place, ServiceRow, Table, TargetRow};

pub const PORT: u16 = 8080;

pub struct World {
    number: u8,
    gates: Vec<Child>,
    cgroups: Vec<PathBuf>,
    _number_lock: File,
}

impl World {
    pub fn new() -> Self {
        let (number, lock) = free_number();
        let world = Self { number, gates: Vec::new(), cgroups: Vec::new(), _number_lock: lock };
        world.tear_down();
        let (host, net) = (world.host_name(), world.net_name());
        for name in [&host, &net] {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&["-n", &host, "link", "add", "tgin", "type", "veth", "peer", "name", "tgout", "netns", &net]);
        for (name, device, last) in [(&host, "tgin", 1), (&net, "tgout", 2)] {
            ip(&["-n", name, "addr", "add", &format!("198.18.{number}.{last}/24"), "dev", device]);
            ip(&["-n", name, "addr", "add", &format!("fd18:{number:x}::{last}/64"), "dev", device, "nodad"]);
            ip(&["-n", name, "link", "set", device, "up"]);
        }
        world
    }

    fn host_name(&self) -> String {
        format!("tg-k{}", self.number)
    }

    fn net_name(&self) -> String {
        format!("tg-k{}-net", self.number)
    }

    pub fn host_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.host_name())
    }

    pub fn pins(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/tg-k{}", self.number))
    }

    pub fn place(&self) -> Place {
        Place {
            pins: self.pins(),
            cgroup: kernel::cgroup2_root().unwrap(),
            netns: self.host_path(),
            port: kernel::DEFAULT_PORT,
            only_netns: true,
            uplinks: Vec::new(),
            sealed: Vec::new(),
            secret: Vec::new(),
        }
    }

    /// An address of the host: where protected services stand.
    pub fn here(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(198, 18, self.number, 1).into(), port)
    }

    pub fn here6(&self, port: u16) -> SocketAddr {
        format!("[fd18:{:x}::1]:{port}", self.number).parse().unwrap()
    }

    /// The machine beyond: where targets stand.
    pub fn there(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(198, 18, self.number, 2).into(), port)
    }

    pub fn there6(&self, port: u16) -> SocketAddr {
        format!("[fd18:{:x}::2]:{port}", self.number).parse().unwrap()
    }

    /// The machine beyond is a target on [`PORT`].
    pub fn target(&self) -> Table {
        let blocks = vec![Block::from(self.there(0).ip()), Block::from(self.there6(0).ip())];
        Table {
            targets: vec![TargetRow { name: "target".into(), blocks, ports: vec![PORT] }],
            ..Table::default()
        }
    }

    /// This host's [`PORT`] is protected.
    pub fn service(&self) -> Table {
        let blocks = [self.here(0).ip(), self.here6(0).ip(), [127, 0, 0, 1].into()].map(Block::from).to_vec();
        Table {
            services: vec![ServiceRow { name: "service".into(), blocks, ports: vec![PORT] }],
            ..Table::default()
        }
    }

    /// Every address's [`PORT`] is a protected service, should it be this host's.
    pub fn service_everywhere(&self) -> Table {
        Table {
            services: vec![ServiceRow { name: "service".into(), blocks: vec![], ports: vec![PORT] }],
            ..Table::default()
        }
    }

    /// Gives the host one more address.
    pub fn add_address(&self, address: &str) {
        ip(&["-n", &self.host_name(), "addr", "add", address, "dev", "lo"]);
    }

    /// One more way to the machine beyond, by this interface.
    pub fn add_uplink(&self, name: &str) {
        let (host, net, there) = (self.host_name(), self.net_name(), format!("{name}-out"));
        ip(&["-n", &host, "link", "add", name, "type", "veth", "peer", "name", &there, "netns", &net]);
        ip(&["-n", &host, "link", "set", name, "up"]);
        ip(&["-n", &net, "link", "set", &there, "up"]);
    }

    /// Forgets the neighbours of the host: the next packet asks for them anew.
    pub fn forget_neighbours(&self) {
        for family in ["-4", "-6"] {
            ip(&["-n", &self.host_name(), family, "neigh", "flush", "dev", "tgin"]);
        }
    }

    /// What lies here is reached by way of the machine beyond, which knows nothing of it.
    pub fn route_beyond(&self, block: &str) {
        let via = self.there(0).ip().to_string();
        ip(&["-n", &self.host_name(), "route", "add", block, "via", &via]);
    }

    /// Somebody without privilege starts connects and holds them while the value lives. `how` as [`calls::begin_connect`].
    pub fn dangle(&self, times: usize, how: &str, to: &[String]) -> Dangling {
        self.inside(|| Dangling::start(Path::new("-"), times, how, to))
    }

    /// The same from this cgroup.
    pub fn dangle_in(&self, cgroup: &Path, times: usize, how: &str, to: &[String]) -> Dangling {
        self.inside(|| Dangling::start(cgroup, times, how, to))
    }

    /// The same on the machine beyond, from this cgroup.
    pub fn dangle_beyond(&self, cgroup: &Path, times: usize, to: SocketAddr) -> Dangling {
        self.beyond(|| Dangling::start(cgroup, times, "plain", &[to.to_string()]))
    }

    pub fn guard(&self, cgroups: Vec<PathBuf>, uids: Vec<u32>, dns: Vec<SocketAddr>) -> Table {
        Table {
            guards: vec![GuardRow { name: "agent".into(), cgroups, uids, dns, ..GuardRow::default() }],
            ..Table::default()
        }
    }

    pub fn load(&self, table: &Table) {
        kernel::load(&self.place(), table).unwrap();
    }

    pub fn load_small(&self, table: &Table, map: &str, max: u32) {
        let options = Options { max_entries: vec![(map.to_owned(), max)], ..Options::default() };
        kernel::load_with(&self.place(), table, &options).unwrap();
    }

    /// Runs this on a thread inside the host's namespace.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.host_path(), act)
    }

    /// Runs this on a thread in the namespace beyond.
    pub fn beyond<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&Path::new("/run/netns").join(self.net_name()), act)
    }

    /// A server beyond that answers "real".
    pub fn real_server(&self, at: SocketAddr) {
        self.beyond(|| answer_real(at));
    }

    /// A server beyond that echoes.
    pub fn echo_server(&self, at: SocketAddr) {
        self.beyond(|| answer_echo(at));
    }

    /// A service on the host that echoes.
    pub fn echo_service(&self, at: SocketAddr) {
        self.inside(|| answer_echo(at));
    }

    /// Somebody who had the gate's port first.
    pub fn real_server_on_host(&self, port: u16) {
        self.inside(|| {
            answer_real(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
            answer_real(SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port));
        });
    }

    /// These addresses are targets on [`PORT`].
    pub fn target_at(&self, addresses: &[IpAddr]) -> Table {
        let blocks = addresses.iter().copied().map(Block::from).collect();
        Table {
            targets: vec![TargetRow { name: "target".into(), blocks, ports: vec![PORT] }],
            ..Table::default()
        }
    }

    /// A process in this cgroup with one connection, which says what it is told to.
    pub fn keep_alive(&self, cgroup: &Path, to: SocketAddr) -> Keeper {
        let mut child = self.actor(&["keep", cgroup.to_str().unwrap(), &to.to_string()], Stdio::piped());
        let output = BufReader::new(child.stdout.take().unwrap());
        Keeper { child, output }
    }

    /// A process in this cgroup that serves "real" until the world ends.
    pub fn answering_actor(&mut self, cgroup: &Path, at: SocketAddr) {
        let mut child = self.actor(&["answer", cgroup.to_str().unwrap(), &at.to_string()], Stdio::piped());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.gates.push(child);
    }

    /// A service on the host that answers "real".
    pub fn real_service(&self, at: SocketAddr) {
        self.inside(|| answer_real(at));
    }

    /// One call from this process inside the host's namespace.
    pub fn call(&self, how: &str, to: SocketAddr) -> String {
        self.inside(|| calls::outcome(how, &to.to_string()))
    }

    /// Starts a gate and waits until it listens. `how`: reply or forward.
    pub fn gate(&mut self, how: &str) -> usize {
        self.gate_in(how, Path::new("-"))
    }

    /// The same, in this cgroup.
    pub fn gate_in(&mut self, how: &str, cgroup: &Path) -> usize {
        let pins = self.pins();
        let arguments = ["serve", pins.to_str().unwrap(), how, cgroup.to_str().unwrap()];
        let mut child = self.actor(&arguments, Stdio::piped());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.gates.push(child);
        self.gates.len() - 1
    }

    pub fn gate_pid(&self, index: usize) -> u32 {
        self.gates[index].id()
    }

    /// Stops its every thread (SIGSTOP), or lets them go on.
    pub fn freeze(&self, index: usize, frozen: bool) {
        let pid = rustix::process::Pid::from_child(&self.gates[index]);
        let signal = if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self, index: usize) {
        self.gates[index].kill().unwrap();
        self.gates[index].wait().unwrap();
    }

    /// Starts the actor inside the host's namespace.
    pub fn actor(&self, arguments: &[&str], stdin: Stdio) -> Child {
        self.inside(|| {
            Command::new(env!("CARGO_BIN_EXE_tidegate-actor"))
                .args(arguments)
                .stdin(stdin)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
    }

    /// What an actor prints, line by line.
    pub fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.actor(arguments, Stdio::null()).wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// A cgroup of our own, by this name.
    pub fn cgroup(&mut self, name: &str) -> PathBuf {
        let path = kernel::cgroup2_root().unwrap().join(format!("tg-k{}-{name}", self.number));
        fs::create_dir(&path).unwrap();
        self.cgroups.push(path.clone());
        path
    }

    /// A cgroup below one of ours.
    pub fn cgroup_below(&mut self, above: &Path, name: &str) -> PathBuf {
        let path = above.join(name);
        fs::create_dir(&path).unwrap();
        self.cgroups.push(path.clone());
        path
    }

    pub fn counter(&self, name: &str) -> u64 {
        kernel::status(&self.pins()).unwrap().counters[name]
    }

    /// Waits until a counter has grown.
    pub fn wait_for_more(&self, name: &str) {
        let (before, until) = (self.counter(name), Instant::now() + Duration::from_secs(10));
        while self.counter(name) == before {
            assert!(Instant::now() < until, "{name} stays {before}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn fill(&self, name: &str) -> usize {
        let status = kernel::status(&self.pins()).unwrap();
        status.maps.iter().find(|map| map.name == name).unwrap().entries
    }

    fn tear_down(&self) {
        match kernel::unload(&self.pins()) {
            Ok(_) | Err(kernel::KernelError::NotLoaded { .. }) => {}
            Err(error) => eprintln!("unload: {error}"),
        }
        for name in [self.host_name(), self.net_name()] {
            if Path::new("/run/netns").join(&name).exists() {
                let _ = Command::new("ip").args(["netns", "del", &name]).status();
            }
        }
    }
}

/// A process that keeps one connection.
pub struct Keeper {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Keeper {
    /// Has it send a word; what came back.
    pub fn say(&mut self, word: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that holds connects.
pub struct Dangling {
    process: Child,
    /// How many were not refused at once.
    pub begun: usize,
}

impl Dangling {
    fn start(cgroup: &Path, times: usize, how: &str, to: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate-actor"))
            .args(["dangle", cgroup.to_str().unwrap(), &times.to_string(), how])
            .args(to)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process: child, begun: line.trim().parse().unwrap() }
    }
}

impl Drop for Dangling {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for gate in &mut self.gates {
            let _ = gate.kill();
            let _ = gate.wait();
        }
        self.tear_down();
        for cgroup in self.cgroups.iter().rev() {
            let until = Instant::now() + Duration::from_secs(2);
            while fs::remove_dir(cgroup).is_err() && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn free_number() -> (u8, File) {
    for number in 1..=200u8 {
        let path = format!("/tmp/tidegate-kernel-test.{number}.lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return (number, file);
        }
    }
    panic!("200 worlds are in use");
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn within<T: Send>(netns: &Path, act: impl FnOnce() -> T + Send) -> T {
    let file = File::open(netns).unwrap();
    thread::scope(|scope| {
        scope
            .spawn(move || {
                use std::os::fd::AsFd;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Echoes until the test process ends.
fn answer_echo(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut back = connection.try_clone().unwrap();
                let _ = std::io::copy(&mut &connection, &mut back);
            });
        }
    });
}

/// Serves until the test process ends.
fn answer_real(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut connection = connection;
            thread::spawn(move || {
                let _ = connection.write_all(b"real\n");
            });
        }
    });
}

/// The answer of a gate: way, dialled, process.
pub fn is_gate_answer(answer: &str, way: &str, to: SocketAddr, tgid: u32) -> bool {
    let to = SocketAddr::new(IpAddr::to_canonical(&to.ip()), to.port());
    answer.starts_with(&format!("{way} {to} {tgid} "))
}
