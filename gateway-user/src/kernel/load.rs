//! Loading and unloading: all or nothing, and never an open window in between.
//!
//! A first load attaches everything or leaves nothing. A load over an existing one adopts its maps and swaps the programs
//! under the pinned links; when that fails, the old programs stay.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::programs::Program;
use aya::{Ebpf, EbpfError, EbpfLoader};
use gateway_ebpf::abi::{ABI, Config, FLAG_ONLY_NETNS, Plain};
use serde::Serialize;

use super::links::{self, HOOKS};
use super::pins::{self, Pins};
use super::raw::{self, RawMap};
use super::tables::{self, Published, Tables};
use super::{KernelError, OBJECT, Place, Table, btf, lsm, own, sockets, uplinks};

/// Maps that outlive the loader. (`AYA_LOGS` and read-only data live as long as the programs.)
pub(super) const PINNED_MAPS: &[&str] = &[
    "CONFIG",
    "GATE",
    "HEARTBEAT",
    "TARGETS",
    "SERVICES",
    "SPACES",
    "OWN",
    "GUARDING",
    "GUARDS",
    "GUARD_CGROUPS",
    "GUARD_UIDS",
    "DNS",
    "UNIX_ALLOWED",
    "SEALED",
    "TUPLES",
    "ALLOWED",
    "LISTENING",
    "RECORDS",
    "MARKS",
    "EXEMPT",
    "BOUND",
    "EXEMPTING",
    "EXEMPT_CALLERS",
    "FREED",
    "FLOWS",
    "FLOW",
    "PASSERS",
    "COUNTS",
    "EVENTS",
];

/// Lines of a verifier's complaint that are passed on; the last ones say what was wrong.
const VERIFIER_LINES: usize = 8;

/// The program at sk_lookup.
const STEER: &str = "tg_steer";

/// How to load, beyond where.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Let the programs write log lines (read them with [`KernelLog`]). Costs time on every refusal.
    pub log: bool,
    /// Other sizes for maps, by name. Only a first load can set them.
    pub max_entries: Vec<(String, u32)>,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Links made.
    pub made: usize,
    /// Links whose program was swapped in place.
    pub updated: usize,
    /// What the tables hold now.
    pub table: Published,
    /// Why guarded processes are not kept from what is outside of their guard by LSM programs; `None`: they are.
    pub no_lsm: Option<String>,
    /// What each program cost the kernel's verifier, in instructions looked at. It looks at a million at most.
    pub verified: Vec<(&'static str, u32)>,
}

/// What an unload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UnloadReport {
    /// Links detached.
    pub links: usize,
    /// Maps let go.
    pub maps: usize,
}

/// Loads, or updates in place, with usual sizes and no logging.
///
/// # Errors
/// See [`load_with`].
pub fn load(place: &Place, table: &Table) -> Result<LoadReport, KernelError> {
    load_with(place, table, &Options::default())
}

/// Loads the programs, publishes the table, attaches and pins everything; or, where that was done before, adopts the maps,
/// publishes the table and swaps the programs in place.
///
/// # Errors
/// Where a feature, a file or a right is missing, by name; then nothing has changed, except that an update may have
/// published the (also wanted) table.
pub fn load_with(place: &Place, table: &Table, options: &Options) -> Result<LoadReport, KernelError> {
    let wanted = config(place)?;
    let pins = Pins::make(&place.pins)?;
    match pins.config()? {
        Some(found) => {
            same_place(&pins, &found, &wanted)?;
            attach(&pins, place, table, options, &wanted)
        }
        None => {
            // Whatever an interrupted first load left is of no use: nothing of it was attached with settings.
            pins.remove()?;
            let pins = Pins::make(&place.pins)?;
            match attach(&pins, place, table, options, &wanted) {
                Ok(report) => Ok(report),
                Err(error) => {
                    if let Err(left) = pins.remove() {
                        tracing::error!(error = %left, "cleaning up after a failed load failed too");
                    }
                    Err(error)
                }
            }
        }
    }
}

/// Detaches everything pinned there and lets it go. Protected flows are then no longer intercepted.
///
/// # Errors
/// Where nothing is loaded there, or something could not be removed.
pub fn unload(pins: &Path) -> Result<UnloadReport, KernelError> {
    let (links, maps) = Pins::open(pins)?.remove()?;
    Ok(UnloadReport { links, maps })
}

/// The programs' log lines, as they come. Poll the descriptor; call [`KernelLog::pass_on`] when it is readable.
pub struct KernelLog {
    readable: OwnedFd,
    flush: Box<dyn FnMut() + Send>,
}

impl KernelLog {
    /// Opens the log of the programs loaded there; they write only if they were loaded with [`Options::log`].
    ///
    /// # Errors
    /// Where nothing is loaded there.
    pub fn open(pins: &Path) -> Result<Self, KernelError> {
        pins::config(pins)?;
        let path = pins::link_path(pins, "tg_connect4");
        let link = raw::get(&path).map_err(KernelError::file(&path))?;
        let info: raw::Info<32> = raw::info(link.as_fd()).map_err(KernelError::file(&path))?;
        let mut logger = aya_log::EbpfLogger::init_from_id(info.word(8))
            .map_err(|error| KernelError::Object { why: chain(&error), source: os_error(&error) })?;
        let readable = logger.as_fd().try_clone_to_owned().map_err(KernelError::file(&path))?;
        Ok(Self { readable, flush: Box::new(move || logger.flush()) })
    }

    /// Hands every line that waits to the process's logger.
    pub fn pass_on(&mut self) {
        (self.flush)();
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// The settings that belong to a place.
fn config(place: &Place) -> Result<Config, KernelError> {
    if place.port == 0 {
        return Err(KernelError::Row("the gate's port must not be 0".to_owned()));
    }
    Ok(Config {
        abi: ABI,
        gate_port: place.port,
        flags: if place.only_netns { FLAG_ONLY_NETNS } else { 0 },
        netns: sockets::netns_cookie(&place.netns)?,
        netns_inode: pins::inode(&place.netns)?,
        cgroup: pins::inode(&place.cgroup)?,
    })
}

fn same_place(pins: &Pins, found: &Config, wanted: &Config) -> Result<(), KernelError> {
    let differs = |what, theirs: String, ours: String| {
        Err(KernelError::OtherPlace { pins: pins.root().to_path_buf(), what, theirs, ours })
    };
    if found.gate_port != wanted.gate_port {
        return differs("port", found.gate_port.to_string(), wanted.gate_port.to_string());
    }
    if found.cgroup != wanted.cgroup {
        return differs("cgroup", format!("id {}", found.cgroup), format!("id {}", wanted.cgroup));
    }
    if found.netns != wanted.netns {
        let name = |config: &Config| format!("net:[{}]", config.netns_inode);
        return differs("network namespace", name(found), name(wanted));
    }
    if found.flags != wanted.flags {
        return differs("scope", found.flags.to_string(), wanted.flags.to_string());
    }
    Ok(())
}

/// Everything after the decision whether this is a first load. The order: programs (most can fail there), settings,
/// table, links.
fn attach(
    pins: &Pins,
    place: &Place,
    table: &Table,
    options: &Options,
    config: &Config,
) -> Result<LoadReport, KernelError> {
    let rows = tables::resolve(table, place.port)?;
    let own = own::addresses(&place.netns)?;
    let Programs { hooks, at_uplinks, lsm, verified } = programs(pins, options)?;
    let uplinks = if uplinks::supported() { uplinks::wanted(place)? } else { Vec::new() };
    let settings =
        RawMap::open(&pins.map("CONFIG"), 4, size_of::<Config>()).map_err(KernelError::map("CONFIG"))?;
    settings.update(&0u32.to_ne_bytes(), config.bytes()).map_err(KernelError::map("CONFIG"))?;
    let tables = Tables::open(pins.root())?;
    tables.publish_own(0, &own)?;
    let table = tables.publish(rows)?;
    uplinks::keep(pins, &at_uplinks)?;
    let attached = links::attach(pins, place, &hooks, (&uplinks, &at_uplinks))?;
    let no_lsm = lsm::attach(pins, place, lsm);
    if let Some(why) = &no_lsm {
        tracing::info!(
            why,
            "guarded processes are not kept from what is outside of their guard: see `tidegate doctor`"
        );
    }
    Ok(LoadReport { made: attached.made, updated: attached.updated, table, no_lsm, verified })
}

/// What was loaded.
struct Programs {
    hooks: Vec<OwnedFd>,
    at_uplinks: Vec<OwnedFd>,
    /// Optional: many kernels have none.
    lsm: Vec<(&'static str, Result<OwnedFd, String>)>,
    verified: Vec<(&'static str, u32)>,
}

/// Loads every program (nothing is attached yet): those of [`HOOKS`] in that order, and those for uplinks.
fn programs(pins: &Pins, options: &Options) -> Result<Programs, KernelError> {
    let mut offsets = btf::offsets()?;
    let outside = btf::outside();
    let missing = outside.as_ref().err().map(KernelError::to_string);
    offsets.extend(outside.unwrap_or_default());
    let log = u32::from(options.log);
    let mut loader = EbpfLoader::new();
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    loader.override_global("LOG", &log, true);
    for (name, max) in &options.max_entries {
        loader.map_max_entries(name, *max);
    }
    for name in PINNED_MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| prepare_error(&error))?;
    let hooks = HOOKS.iter().map(|hook| program(&mut object, hook.program)).collect::<Result<_, _>>()?;
    let at_uplinks =
        uplinks::PROGRAMS.iter().map(|name| program(&mut object, name)).collect::<Result<_, _>>()?;
    let names = HOOKS.iter().map(|hook| hook.program).chain(uplinks::PROGRAMS.iter().copied());
    let verified = names.filter_map(|name| Some((name, cost(&object, name)?))).collect();
    Ok(Programs { hooks, at_uplinks, lsm: lsm::load(&mut object, missing.as_deref()), verified })
}

/// How many instructions the verifier looked at; `None` where the kernel does not say (before 5.16).
fn cost(object: &Ebpf, name: &str) -> Option<u32> {
    object.program(name)?.info().ok()?.verified_instruction_count()
}

/// The program that steers in the namespace with this cookie, over the maps of what is loaded.
pub(super) fn steer_for(root: &Path, cookie: u64) -> Result<OwnedFd, KernelError> {
    // Without a load this would make the maps anew.
    pins::config(root)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("SPACE", &cookie, true);
    for name in PINNED_MAPS {
        loader.map_pin_path(name, pins::map_path(root, name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| prepare_error(&error))?;
    program(&mut object, STEER)
}

fn program(object: &mut Ebpf, name: &str) -> Result<OwnedFd, KernelError> {
    let refused = |error: &(dyn std::error::Error + 'static)| KernelError::Program {
        program: name.to_owned(),
        why: last_lines(&chain(error)),
        source: os_error(error),
    };
    let program = object.program_mut(name).ok_or_else(|| KernelError::Object {
        why: format!("the built-in object has no program {name}; build again with `cargo xtask build`"),
        source: None,
    })?;
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSysctl(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Ok(()),
    }
    .map_err(|error| refused(&error))?;
    let fd = program.fd().map_err(|error| refused(&error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused(&error))
}

fn prepare_error(error: &EbpfError) -> KernelError {
    KernelError::Object { why: last_lines(&chain(error)), source: os_error(error) }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n")
}

/// The kernel's answer at the bottom of an error, so that its hint can be given.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<std::io::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(code) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(std::io::Error::from_raw_os_error(code));
        }
        next = cause.source();
    }
    None
}
