//! An enforcer that somebody has taken over: started by the real keeper in the place of the real one, confined as that
//! confines itself, it then tries what an attacker would. One line of JSON for each attempt, in `captive.jsonl` in its
//! state directory: what it tried, and what the system said. At last it does what operators want by way of admin, and more than they
//! want.
//!
//! The first time it runs it becomes itself again, as the keeper: `tidegate-captive tidegate OPTIONS run --user NAME`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use serde_json::json;
use tidegate::admin::verb::{Answer, Doing, Gate, Refusal, Verb};
use tidegate::admin::view::BlockView;
use tidegate::config::Settings;
use tidegate::keeper::Client;
use tidegate::operation::{DemandId, Direction, EntryId, SessionId};
use tidegate::record::entry::{
    Blocked, CalledOff, CredentialClaimed, Event, Head, Intent, RecordRead, SessionOpened, Started, Surged,
    Unblocked, Verdict, Voted,
};
use tidegate::record::{Durable, Order, Recorder};
use tidegate::{admin, app, cli, kernel};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--kept") {
        captive(&words).expect("a captive finds its state directory");
        return ExitCode::SUCCESS;
    }
    if words.first().is_some_and(|word| !word.starts_with('-')) {
        let failed = Command::new("/proc/self/exe").args(&words[1..]).exec();
        panic!("cannot become the keeper: {failed}");
    }
    cli::main()
}

fn option(words: &[String], name: &str) -> PathBuf {
    let at = words.iter().position(|word| word == name).expect("the harness gives it");
    PathBuf::from(&words[at + 1])
}

/// Where a test's target and what is not one are.
const TARGET: &str = "127.0.0.1:7001";
const ELSEWHERE: &str = "127.0.0.1:7999";

fn captive(words: &[String]) -> io::Result<()> {
    let (state, policies, pins) =
        (option(words, "--state"), option(words, "--policies"), option(words, "--pins"));
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let settings = Settings { state: state.clone(), policies: policies.clone(), ..Settings::default() };
    let keeper = getppid().expect("the keeper started it");
    // What it holds before: the control.
    let said = Arc::new(Mutex::new(File::create(state.join("enforcer/captive.jsonl"))?));
    let tell = move |attempt: &str, outcome: io::Result<()>| {
        let error = outcome.err().map(|error| error.to_string());
        let line = json!({"attempt": attempt, "error": error});
        writeln!(said.lock().expect("one at a time"), "{line}").expect("its own file");
    };
    let admin_socket = option(words, "--admin-socket");
    tell("call unshare(2) before it is confined", unshare(libc::CLONE_FS));
    kernel::confine(&app::reach(&settings), keeper)?;

    tell("write its own state", fs::write(state.join("enforcer/mine"), "x"));
    tell("list the record", fs::read_dir(state.join("record")).map(drop));
    tell("open the store", File::open(state.join("record/record.redb")).map(drop));
    tell("read the record's key", File::open(state.join("keys/record.key")).map(drop));
    tell("list the vault", fs::read_dir(state.join("vault")).map(drop));
    tell("open a credential in the vault", File::open(state.join("vault/api.sealed")).map(drop));
    tell("read the vault's key", File::open(state.join("vault/vault.key")).map(drop));
    tell(
        "put a record in the place of the record",
        fs::rename(state.join("record"), state.join("enforcer/r")),
    );
    tell("read /etc/shadow", File::open("/etc/shadow").map(drop));
    tell("read /root", fs::read_dir("/root").map(drop));
    tell("read a file in /tmp beside its own", fs::read_dir("/tmp").map(drop));
    tell("write the policy", fs::write(policies.join("open.cedar"), "permit (principal, action, resource);"));
    tell("take the admin socket away", fs::remove_file(&admin_socket));
    let beside = admin_socket.with_extension("mine");
    tell("listen beside the admin socket", std::os::unix::net::UnixListener::bind(beside).map(drop));
    tell("take a map by its pin", kernel::Gate::adopt(&pins).map(drop).map_err(io::Error::other));
    tell("start a program", Command::new("/bin/true").status().map(drop));
    tell("look into the keeper's memory", memory(keeper.as_raw_nonzero().get()));
    tell(
        "kill the keeper",
        kill_process(Pid::from_raw(keeper.as_raw_nonzero().get()).unwrap(), Signal::TERM)
            .map_err(io::Error::from),
    );
    tell("call unshare(2)", unshare(libc::CLONE_FS));
    tell("make a user namespace", unshare(libc::CLONE_NEWUSER));
    tell("become root", rustix::thread::set_thread_uid(rustix::process::Uid::ROOT).map_err(io::Error::from));
    tell("open a raw socket", raw_socket());
    tell("trace the keeper", trace(keeper.as_raw_nonzero().get()));
    tell("call bpf(2)", bpf());
    tell("connect a socket of its own", reach(TARGET));
    tell("connect a socket of its own to what is no target", reach(ELSEWHERE));
    with_keeper(line, Arc::new(tell))
}

/// Network namespaces that it tries.
const NAMESPACES: u64 = 1000;

/// Writes down what was tried, and what the system said.
type Tell = Arc<dyn Fn(&str, io::Result<()>) + Send + Sync>;

/// What it can get of the keeper.
fn with_keeper(line: std::os::fd::OwnedFd, tell: Tell) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::over(line)?;
        let listening = tokio::spawn(client.clone().listen());
        let exempt = client.exempt();
        let (target, elsewhere): (SocketAddr, SocketAddr) =
            (TARGET.parse().unwrap(), ELSEWHERE.parse().unwrap());
        let straight = async { exempt.socket(target).await?.connect(target).await.map(drop) };
        tell("connect a socket of the keeper's where it is for", straight.await);
        let aside = async { exempt.socket(target).await?.connect(elsewhere).await.map(drop) };
        tell("connect a socket of the keeper's elsewhere", aside.await);
        let again = async {
            let stream = exempt.socket(target).await?.connect(target).await?;
            redirect(&stream.into_std()?, elsewhere)
        };
        tell("connect a socket of the keeper's again, elsewhere", again.await);
        tell("get a socket to a place that is not declared", exempt.socket(elsewhere).await.map(drop));
        let in_another = async {
            let mut last = Err(io::Error::other("nothing was tried"));
            // Cookies are counted from one on.
            for space in 1..=NAMESPACES {
                last = exempt.socket_in(Some(space), target).await.map(drop);
                if last.is_ok() {
                    break;
                }
            }
            last
        };
        tell("get a socket in a network namespace that is not served", in_another.await);
        tell("be told the counters", client.count().await);
        let recorder = record(client.clone()).await?;
        let event = |what: Event| recorder.append(what).map_err(io::Error::other);
        tell("have something recorded", written(event(Event::Surged(surged()))).await);
        credentials(&client, &recorder, &tell).await;
        for (attempt, forged) in in_human_names() {
            tell(attempt, written(event(forged)).await);
        }
        let started = Started { at: 0, version: "captive".into(), recovered: 0 };
        tell("say what is the recorder's own", written(event(Event::Started(started))).await);
        let order = Order::Rekey { by: "captive".into() };
        tell("give the recorder an order", recorder.order(order).map(drop).map_err(io::Error::other));
        client.door().await?;
        tell("open the admin socket once more", client.door().await);
        let line = tokio::net::UnixStream::from_std({
            let line = admin_line(&client).await?;
            line.set_nonblocking(true)?;
            line
        })?;
        tell("the end", Ok(()));
        // Until the test is over: else the keeper starts the next one at once.
        admin::serve(line, Arc::new(Puppet { recorder, tell })).await?;
        drop(listening);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(())
    })
}

/// Credentials that it may have, since it says so in the record, and others.
async fn credentials(client: &Client, recorder: &Recorder, tell: &Tell) {
    let (session, at) = (SessionId::now(), now());
    let peer = || "127.0.0.1:1".to_owned();
    let opened = SessionOpened {
        session,
        at,
        direction: Direction::Outbound,
        peer: peer(),
        destination: TARGET.to_owned(),
        workload: None,
        guard: None,
        target: Some("api".into()),
    };
    let claim = |target: &str| CredentialClaimed {
        entry: EntryId::now(),
        at,
        target: target.into(),
        credential: "api".into(),
    };
    let intent = |claim: &CredentialClaimed| Intent {
        entry: claim.entry,
        session,
        at,
        target: Some("api".into()),
        kind: "http".into(),
        operations: Vec::new(),
        user: None,
        workload: None,
        verdict: Verdict::Allow,
        would: None,
        rules: Vec::new(),
        reason: "a captive says so".into(),
        policy: None,
        head: Head::default(),
    };
    let append = |events| recorder.append_all(events).map_err(io::Error::other);
    drop(written(append(vec![Event::SessionOpened(opened)])).await);
    let recorded = async |claim: &CredentialClaimed| {
        let events = vec![Event::Intent(Box::new(intent(claim))), Event::CredentialClaimed(claim.clone())];
        written(append(events)).await
    };
    let given = async |claim: CredentialClaimed| client.release(claim).await.map(drop);
    let (one, other, elsewhere) = (claim("api"), claim("api"), claim("elsewhere"));
    tell("get a credential that the record says nothing of", given(one.clone()).await);
    tell(
        "have a claim recorded without its entry",
        written(append(vec![Event::CredentialClaimed(one.clone())])).await,
    );
    tell("get a credential for a claim that was refused", given(one.clone()).await);
    drop(recorded(&one).await);
    tell("get a credential that the record says it gets", given(one.clone()).await);
    tell("get it a second time", given(one.clone()).await);
    drop(written(append(vec![Event::CredentialClaimed(one.clone())])).await);
    tell("get it for another claim of the same entry", given(one).await);
    drop(recorded(&other).await);
    tell(
        "get another credential than the record says",
        given(CredentialClaimed { at: at + 1, ..other }).await,
    );
    drop(recorded(&elsewhere).await);
    tell("get a credential for a target that does not get it", given(elsewhere).await);
}

/// A line to the recorder.
async fn record(keeper: Client) -> io::Result<Recorder> {
    let here = tokio::runtime::Handle::current();
    let open = move || Recorder::through(Box::new(move || here.block_on(keeper.record())));
    tokio::task::spawn_blocking(open).await.map_err(io::Error::other)?.map_err(io::Error::other)
}

async fn written(durable: io::Result<Durable>) -> io::Result<()> {
    durable?.await.map_err(io::Error::other)
}

/// A line to admin, which may yet be starting.
async fn admin_line(keeper: &Client) -> io::Result<std::os::unix::net::UnixStream> {
    for _ in 0..100 {
        match keeper.admin().await {
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            line => return line,
        }
    }
    keeper.admin().await
}

/// What an operator wants, done as he wants it, and in other ways.
struct Puppet {
    recorder: Recorder,
    tell: Tell,
}

impl Gate for Puppet {
    fn perform(self: Arc<Self>, verb: Verb) -> Doing {
        Box::pin(async move {
            let Verb::Block { subject, by, reason, until } = verb else {
                return Err(Refusal::unavailable("this enforcer was taken over"));
            };
            let until_micros = until.map(|until| until.as_microsecond());
            let wanted = Blocked {
                at: now(),
                subject: subject.to_string(),
                by: by.clone(),
                reason,
                until: until_micros,
            };
            let record = async |blocked: &Blocked| {
                written(self.recorder.append(Event::Blocked(blocked.clone())).map_err(io::Error::other)).await
            };
            let other = Blocked { subject: "uid:1".into(), ..wanted.clone() };
            (self.tell)("block somebody else than the operator wants", record(&other).await);
            let other = Blocked { by: "somebody".into(), ..wanted.clone() };
            (self.tell)("block as somebody else than the operator", record(&other).await);
            (self.tell)("block as the operator wants", record(&wanted).await);
            (self.tell)("block so once more", record(&wanted).await);
            let (subject, reason) = (wanted.subject, wanted.reason);
            let since = jiff::Timestamp::from_microsecond(wanted.at).expect("a time of this age");
            Ok(Answer::Block(BlockView { subject, since, by, reason, until, note: None }))
        })
    }
}

/// Events that say that a human did something.
fn in_human_names() -> Vec<(&'static str, Event)> {
    let (demand, entry, at, by) = (DemandId::now(), EntryId::now(), now(), || "ann".to_owned());
    let subject = || "uid:1".to_owned();
    let voted = |approve| Voted { demand, entry, at, person: by(), approve, comment: None };
    let (command, about) = ("captive".to_owned(), "captive".to_owned());
    vec![
        ("approve as a person", Event::Voted(voted(true))),
        ("reject as a person", Event::Voted(voted(false))),
        ("withdraw as a person", Event::CalledOff(CalledOff { demand, entry, at, by: by(), revoked: false })),
        ("revoke as a person", Event::CalledOff(CalledOff { demand, entry, at, by: by(), revoked: true })),
        (
            "block as a person",
            Event::Blocked(Blocked { at, subject: subject(), by: by(), reason: String::new(), until: None }),
        ),
        ("lift a block as a person", Event::Unblocked(Unblocked { at, subject: subject(), by: by() })),
        (
            "read the record as a person",
            Event::RecordRead(RecordRead { at, uid: 0, login_uid: None, person: Some(by()), command, about }),
        ),
    ]
}

fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// Something that no human did.
fn surged() -> Surged {
    let (what, target, name) = ("sessions".to_owned(), "-".to_owned(), "captive".to_owned());
    Surged { at: now(), what, target, name, subject: None, count: 1, expected: 1.0 }
}

fn memory(pid: i32) -> io::Result<()> {
    let mut byte = [0];
    File::open(Path::new("/proc").join(pid.to_string()).join("mem"))?.read(&mut byte).map(drop)
}

fn reach(to: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /captive HTTP/1.1\r\nHost: captive\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other(format!("answered {:?}", answer.lines().next().unwrap_or_default()))),
    }
}

fn raw_socket() -> io::Result<()> {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::TCP)).map(drop)
}

fn call(what: impl FnOnce() -> i64) -> io::Result<()> {
    if what() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "what it unshares may be what somebody else counts on")]
fn unshare(what: i32) -> io::Result<()> {
    // SAFETY: takes a number only; this program shares nothing that these flags part.
    call(|| unsafe { libc::unshare(what).into() })
}

#[expect(unsafe_code, reason = "no crate here has this call")]
fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    call(|| unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) })
}

#[expect(unsafe_code, reason = "no crate here has this call")]
fn bpf() -> io::Result<()> {
    let mut attributes = [0_u64; 16];
    // SAFETY: BPF_PROG_GET_NEXT_ID reads and writes at most these bytes.
    call(|| unsafe { libc::syscall(libc::SYS_bpf, 11, &raw mut attributes, size_of_val(&attributes)) })
}

/// Disconnects (connect(2) with AF_UNSPEC), then connects to another place.
#[expect(unsafe_code, reason = "std cannot disconnect")]
fn redirect(stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: the address outlives the call and is as long as said.
    call(|| unsafe {
        libc::connect(stream.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as u32).into()
    })?;
    socket2::SockRef::from(stream).connect(&to.into())
}
