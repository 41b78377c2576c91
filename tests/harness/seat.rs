//! A place where processes run: in which namespace, in which cgroup, as which user. A child is there before its first
//! instruction; one that cannot be put there never starts.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::{io, thread};

use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::client::Client;
use crate::dialer::Dialer;
use crate::process::{Finished, Process};
use crate::{PATIENCE, eventually};

/// A place where processes run.
#[derive(Clone)]
pub struct Seat {
    netns: PathBuf,
    cgroup: PathBuf,
    folder: PathBuf,
    uid: Option<u32>,
    login: Option<u32>,
    dialer: Arc<OnceLock<Dialer>>,
}

impl Seat {
    pub(crate) fn new(netns: PathBuf, cgroup: PathBuf, folder: PathBuf) -> Self {
        Self { netns, cgroup, folder, uid: None, login: None, dialer: Arc::default() }
    }

    /// The same place in another network namespace, by its file.
    #[must_use]
    pub fn at(netns: &Path, seat: &Self) -> Self {
        Self { netns: netns.to_owned(), dialer: Arc::default(), ..seat.clone() }
    }

    /// The same place as another user (and group), with no privilege.
    #[must_use]
    pub fn uid(&self, uid: u32) -> Self {
        Self { uid: Some(uid), dialer: Arc::default(), ..self.clone() }
    }

    /// The same place, logged in as this user (the audit login uid, which survives sudo and su).
    ///
    /// # Panics
    /// Where the kernel has no login uids (CONFIG_AUDIT): nobody could approve anything there either.
    #[must_use]
    pub fn login(&self, uid: u32) -> Self {
        assert!(Path::new("/proc/self/loginuid").exists(), "this kernel has no login uids (CONFIG_AUDIT)");
        Self { login: Some(uid), dialer: Arc::default(), ..self.clone() }
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its host's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that will run here. Starts in the host's folder, reads nothing.
    ///
    /// # Panics
    /// When the host is gone.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir(&self.folder);
        self.place(&mut command);
        command
    }

    /// Runs to the end, for at most [`PATIENCE`].
    ///
    /// # Panics
    /// When it cannot start, or takes longer.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        let mut command = self.command(program);
        command.args(arguments);
        Finished::of(command, PATIENCE)
    }

    /// Starts a program that stays; killed when dropped.
    ///
    /// # Panics
    /// When it cannot start.
    #[must_use]
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(command)
    }

    /// Runs a python program (the system's python, with requests and aiohttp) to the end. Arguments are `sys.argv[1:]`.
    ///
    /// # Panics
    /// As [`Seat::run`].
    #[must_use]
    pub fn python(&self, program: &str, arguments: &[&str]) -> Finished {
        self.run("/usr/bin/python3", &[&["-c", program][..], arguments].concat())
    }

    /// A raw connection made by a process of this seat, which is what the kernel and the gate see.
    ///
    /// # Errors
    /// What connect(2) said.
    pub fn connect(&self, to: SocketAddr) -> io::Result<Client> {
        self.dialer().connect(to, None).map(Client::new)
    }

    /// As [`Seat::connect`], from this local address.
    ///
    /// # Errors
    /// What bind(2) or connect(2) said.
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> io::Result<Client> {
        self.dialer().connect(to, Some(from)).map(Client::new)
    }

    /// The process behind [`Seat::connect`].
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        self.dialer.get_or_init(|| Dialer::start(self))
    }

    /// Runs a piece of the test inside the namespace (only that: cgroup and user stay the test's own).
    ///
    /// # Panics
    /// When it does.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let netns = self.open_netns();
        thread::scope(|scope| {
            let work = scope.spawn(move || {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the tests run as root");
                act()
            });
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Listens inside the namespace. Port 0 picks one.
    ///
    /// # Panics
    /// When the address is not free there.
    #[must_use]
    pub fn listen(&self, at: impl ToSocketAddrs + Send) -> TcpListener {
        self.inside(|| TcpListener::bind(at)).unwrap_or_else(|error| panic!("cannot listen: {error}"))
    }

    /// A TCP port of the namespace that is free now.
    ///
    /// # Panics
    /// When none is.
    #[must_use]
    pub fn free_port(&self) -> u16 {
        self.listen("[::]:0").local_addr().expect("a bound socket has an address").port()
    }

    /// Whether anything listens on this TCP port of the namespace. Looks; does not knock.
    #[must_use]
    pub fn is_listening(&self, port: u16) -> bool {
        const LISTEN: &str = "0A";
        let table = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let tables =
            self.inside(|| table("/proc/thread-self/net/tcp") + &table("/proc/thread-self/net/tcp6"));
        let port = format!(":{port:04X}");
        tables.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|columns| {
            matches!(columns[..], [_, local, _, state, ..] if local.ends_with(&port) && state == LISTEN)
        })
    }

    /// Waits until something listens on this port.
    ///
    /// # Panics
    /// When nothing does in time.
    pub fn await_listening(&self, port: u16) {
        eventually(&format!("a listener on port {port}"), || self.is_listening(port).then_some(()));
    }

    fn open_netns(&self) -> File {
        File::open(&self.netns).unwrap_or_else(|error| panic!("{}: {error}", self.netns.display()))
    }

    fn place(&self, command: &mut Command) {
        let netns = self.open_netns();
        let procs = File::options().write(true).open(self.cgroup.join("cgroup.procs"));
        let procs = procs.unwrap_or_else(|error| panic!("{}: {error}", self.cgroup.display()));
        let login = self.login.map(|uid| uid.to_string());
        let uid = self.uid;
        let enter = move || {
            rustix::io::write(&procs, b"0")?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            if let Some(login) = &login {
                rustix::io::write(
                    rustix::fs::open(
                        c"/proc/self/loginuid",
                        rustix::fs::OFlags::WRONLY,
                        rustix::fs::Mode::empty(),
                    )?,
                    login.as_bytes(),
                )?;
            }
            if let Some(uid) = uid {
                let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(group, group, group)?;
                rustix::thread::set_thread_res_uid(user, user, user)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec this makes system calls only; all it needs was opened and allocated before.
        #[expect(unsafe_code, reason = "std can put a child into no namespace and no cgroup")]
        unsafe {
            command.pre_exec(enter);
        }
    }
}
