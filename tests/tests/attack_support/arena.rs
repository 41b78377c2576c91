//! Where the attacks happen: a host with a gate, a container on it, the machine beyond with its own log. The programs are
//! attached to a cgroup that stands for the host's root, in every network namespace, as an operator would have them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidegate::kernel::{self, Block, GuardRow, Place, ServiceRow, Table, TargetRow};
use tidegate_attack::Way;
use tidegate_tests::{built, eventually};

use super::log::Log;
use super::table::Found;
use super::who::Who;
use crate::kernel_support::{PORT, World};

/// A port of the machine beyond that no target names.
const UNDECLARED: u16 = 8081;
/// A protected service of the host.
const SERVICE: u16 = 7001;
/// What stands for the gate's port where there is no gate.
const GATE_CONTROL: u16 = 15_999;
const SECRET: &str = "4e3c6a57c1d2";

/// A host under attack by one kind of attacker.
pub struct Arena<'a> {
    who: &'a Who,
    world: World,
    log: Log,
    cgroups: Cgroups,
    folder: tempfile::TempDir,
    helpers: Vec<Child>,
    gate: Option<Child>,
    container: String,
    attempts: u32,
    loaded: bool,
}

struct Cgroups {
    all: PathBuf,
    gate: PathBuf,
    helpers: PathBuf,
    attacker: PathBuf,
    elsewhere: PathBuf,
}

/// What an attacker said.
pub struct Said {
    token: String,
    pid: u32,
    line: String,
}

/// An attacker that has made its socket and waits.
pub struct Waiting {
    pub way: &'static Way,
    child: Child,
    token: String,
}

impl<'a> Arena<'a> {
    pub fn new(who: &'a Who) -> Self {
        let mut world = World::new();
        let all = world.cgroup("all");
        let mut below = |name: &str| world.cgroup_below(&all, name);
        let (gate, helpers, attacker, elsewhere) =
            (below("gate"), below("helpers"), below("attacker"), below("elsewhere"));
        let cgroups = Cgroups { all, gate, helpers, attacker, elsewhere };
        let log = world.beyond(Log::of_packets);
        let container = format!("{}-box", name_of(&world.host_path()));
        let folder = tempfile::tempdir().unwrap();
        let mut arena = Self {
            who,
            world,
            log,
            cgroups,
            folder,
            helpers: Vec::new(),
            gate: None,
            container,
            attempts: 0,
            loaded: false,
        };
        arena.build();
        arena
    }

    fn build(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for port in [PORT, UNDECLARED] {
            self.world.beyond(|| self.log.serve(SocketAddr::new([0u16; 8].into(), port)));
        }
        self.world.inside(|| {
            self.log.serve(SocketAddr::new([0u16; 8].into(), GATE_CONTROL));
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        let (host, beyond) = (name_of(&self.world.host_path()), self.beyond_name());
        let number = self.number();
        ip(&["netns", "add", &self.container]);
        ip(&["-n", &self.container, "link", "set", "lo", "up"]);
        let ends = ["type", "veth", "peer", "name", "tgout", "netns", &self.container];
        ip(&[&["-n", &host, "link", "add", "tgbox"][..], &ends].concat());
        for (netns, device, last) in [(&host, "tgbox", 1), (&self.container, "tgout", 2)] {
            ip(&["-n", netns, "addr", "add", &format!("198.19.{number}.{last}/24"), "dev", device]);
            ip(&["-n", netns, "addr", "add", &format!("fd19:{number:x}::{last}/64"), "dev", device, "nodad"]);
            ip(&["-n", netns, "link", "set", device, "up"]);
        }
        for (netns, via4, via6) in [
            (&beyond, self.world.here(0).ip(), self.world.here6(0).ip()),
            (&self.container, self.box_address(1), self.box_address6(1)),
        ] {
            ip(&["-n", netns, "route", "add", "default", "via", &via4.to_string()]);
            ip(&["-n", netns, "-6", "route", "add", "default", "via", &via6.to_string()]);
        }
        let relay = self.folder.path().join("relay").display().to_string();
        for helper in ["give", "relay"] {
            let mut command = self.attack(helper, false);
            // Outside of the guard, below the hooks.
            command.arg(format!("relay={relay}")).arg(format!("to={}", self.to()));
            let child = start(&self.world, &self.cgroups.helpers, command);
            self.helpers.push(child);
        }
        self.await_link();
    }

    /// A new cable loses its first packets.
    fn await_link(&mut self) {
        let way = tidegate_attack::find("udp4").unwrap();
        let way6 = tidegate_attack::find("udp6").unwrap();
        for way in [way, way6] {
            eventually("a packet through the new cables", || {
                (self.attempt(way) == Found::Reached).then_some(())
            });
        }
    }

    fn number(&self) -> u8 {
        match self.world.here(0).ip() {
            IpAddr::V4(v4) => v4.octets()[2],
            IpAddr::V6(_) => unreachable!("the world's addresses are IPv4"),
        }
    }

    fn beyond_name(&self) -> String {
        format!("{}-net", name_of(&self.world.host_path()))
    }

    fn box_address(&self, last: u8) -> IpAddr {
        [198, 19, self.number(), last].into()
    }

    fn box_address6(&self, last: u8) -> IpAddr {
        format!("fd19:{:x}::{last}", self.number()).parse().unwrap()
    }

    /// What this attacker is after.
    fn to(&self) -> SocketAddr {
        self.world.there(if self.who.guarded { UNDECLARED } else { PORT })
    }

    fn to6(&self) -> SocketAddr {
        self.world.there6(self.to().port())
    }

    fn place(&self) -> Place {
        // Below the root of cgroups an interface is looked at only where it is named.
        let uplinks = vec!["tgin".to_owned()];
        Place { cgroup: self.cgroups.all.clone(), only_netns: false, uplinks, ..self.world.place() }
    }

    fn table(&self) -> Table {
        let there = [self.world.there(0).ip(), self.world.there6(0).ip()].map(Block::from);
        let here = [self.world.here(0).ip(), self.world.here6(0).ip()].map(Block::from);
        let guards = self.who.guarded.then(|| GuardRow {
            name: "agent".into(),
            cgroups: vec![self.cgroups.attacker.clone()],
            ..GuardRow::default()
        });
        Table {
            targets: vec![TargetRow { name: "target".into(), blocks: there.to_vec(), ports: vec![PORT] }],
            services: vec![ServiceRow {
                name: "service".into(),
                blocks: here.to_vec(),
                ports: vec![SERVICE],
            }],
            guards: guards.into_iter().collect(),
            ..Table::default()
        }
    }

    /// Loads, and starts a gate that answers and forwards nothing: what arrives beyond went round it.
    pub fn load(&mut self) {
        kernel::load(&self.place(), &self.table()).unwrap();
        self.loaded = true;
        self.start_gate();
    }

    fn start_gate(&mut self) {
        let pins = self.world.pins();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-actor"));
        command
            .args(["serve", pins.to_str().unwrap(), "reply", self.cgroups.gate.to_str().unwrap()])
            .env("TIDEGATE_SECRET", SECRET);
        self.gate = Some(start(&self.world, Path::new("-"), command));
    }

    pub fn stop_gate(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            gate.kill().unwrap();
            gate.wait().unwrap();
        }
    }

    /// A gate as good as new.
    pub fn mend(&mut self) {
        self.stop_gate();
        drop(kernel::unload(&self.world.pins()));
        self.load();
    }

    /// The attacker's program with its rights, not yet its words.
    fn attack(&self, way: &str, as_who: bool) -> Command {
        let program =
            std::env::var_os("TIDEGATE_ATTACK").map_or_else(|| built("tidegate-attack"), PathBuf::from);
        let mut command = Command::new(program);
        command.arg(way);
        if as_who {
            command.arg(format!("uid={}", self.who.uid)).arg(format!("caps={:x}", self.who.capabilities));
            command.arg(format!("cgroup={}", self.cgroups.attacker.display()));
            if self.who.contained {
                command.arg(format!("netns=/run/netns/{}", self.container)).arg("hide=pins");
            }
        }
        command
    }

    fn words(&self, token: &str) -> Vec<String> {
        let (from, from6) = if self.who.contained {
            (self.box_address(2), self.box_address6(2))
        } else {
            (self.world.here(0).ip(), self.world.here6(0).ip())
        };
        let next = if self.who.contained {
            link_address(&name_of(&self.world.host_path()), "tgbox")
        } else {
            link_address(&self.beyond_name(), "tgout")
        };
        let port = if self.loaded { kernel::DEFAULT_PORT } else { GATE_CONTROL };
        let mut words = vec![
            format!("token={token}"),
            format!("to={}", self.to()),
            format!("to6={}", self.to6()),
            format!("from={}", SocketAddr::new(from, 0)),
            format!("from6={}", SocketAddr::new(from6, 0)),
            format!("device={}", if self.who.contained { "tgout" } else { "tgin" }),
            format!("mac={next}"),
            format!("port={port}"),
            format!("service={}", self.world.here(SERVICE)),
            format!("elsewhere={}", self.cgroups.elsewhere.display()),
            format!("othernetns=/run/netns/{}", self.container),
            format!("relay={}", self.folder.path().join("relay").display()),
            format!("pins={}", self.world.pins().display()),
        ];
        words.extend(self.gate.as_ref().map(|gate| format!("pid={}", gate.id())));
        words
    }

    fn token(&mut self) -> String {
        self.attempts += 1;
        format!("tg-{:03}-{:05}-{:04x}", self.number(), self.attempts, std::process::id() & 0xffff)
    }

    /// Tries one way, and looks what came of it.
    pub fn attempt(&mut self, way: &'static Way) -> Found {
        let token = self.token();
        self.log.clear();
        let mut command = self.attack(way.name, true);
        command.args(self.words(&token)).stdin(Stdio::null());
        let child = spawn(&self.world, command);
        self.judge(child, token)
    }

    /// Has an attacker make its socket, to use it after the load.
    pub fn begin(&mut self, way: &'static Way) -> Waiting {
        let token = self.token();
        let mut command = self.attack(way.name, true);
        command.args(self.words(&token)).arg("older=yes").stdin(Stdio::piped());
        let mut child = spawn(&self.world, command);
        let mut line = Vec::new();
        // One line, and not a byte more: what it says after is read later.
        let output = child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while std::io::Read::read(output, &mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Waiting { way, child, token }
    }

    /// Has it use its socket.
    pub fn go_on(&mut self, waiting: Waiting) -> Found {
        self.log.clear();
        let Waiting { mut child, token, .. } = waiting;
        // One that could not make its socket has ended, and said why.
        let _ = child.stdin.take().unwrap().write_all(b"go\n");
        self.judge(child, token)
    }

    fn judge(&mut self, child: Child, token: String) -> Found {
        let pid = child.id();
        let output = wait(child);
        let said = Said { token, pid, line: output };
        assert!(!said.line.contains("\"failed\""), "{}: {}", self.who.name, said.line);
        let machine = [self.world.there(0).ip(), self.world.there6(0).ip()];
        let came = || self.log.reached(&said.token, &machine, self.to().port());
        let patience = if said.line.contains("\"sent\"") { 250 } else { 30 };
        let until = Instant::now() + Duration::from_millis(patience);
        while !came() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        found(&said, came())
    }
}

fn found(said: &Said, came: bool) -> Found {
    let captured = said.line.contains(&format!("captured {}", said.token));
    if came || captured || said.line.contains(SECRET) || said.line.contains(" nobody") {
        return Found::Reached;
    }
    let of_the_gate = ["\"out ", "\"in "].iter().any(|way| said.line.contains(way));
    if of_the_gate && said.line.contains(&format!(" {} ", said.pid)) {
        return Found::Intercepted;
    }
    if of_the_gate {
        // The relay's own call, say: known as whoever made it.
        return Found::InterceptedAsAnother;
    }
    let number = said.line.split("\"errno\":").nth(1).and_then(|rest| rest.split(',').next());
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => Found::Refused(number),
        None => Found::Nothing,
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        for child in self.helpers.iter_mut().chain(self.gate.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.container]).status();
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn link_address(netns: &str, device: &str) -> String {
    let output = Command::new("ip").args(["-n", netns, "-o", "link", "show", device]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn spawn(world: &World, mut command: Command) -> Child {
    world.inside(|| command.stdout(Stdio::piped()).spawn().unwrap())
}

/// Starts a helper and waits until it says that it is ready.
fn start(world: &World, cgroup: &Path, mut command: Command) -> Child {
    let mut child = world.inside(|| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    if cgroup != Path::new("-") {
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// Its last line, or that it hung.
fn wait(mut child: Child) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            return "{\"hung\":true}".to_owned();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut output).unwrap();
    output
}
