//! The calls that no safe crate offers: bpf(2) on links, pins and maps, and two socket options.
//!
//! Every pointer handed to the kernel comes from a slice or a C string that outlives the call. Nothing here decides.
#![allow(
    unsafe_code,
    reason = "the one place of the library that talks to the kernel without a safe wrapper"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const MAP_NEXT: libc::c_int = 4;
const OBJECT_PIN: libc::c_int = 6;
const OBJECT_GET: libc::c_int = 7;
const PROGRAM_BY_ID: libc::c_int = 13;
const OBJECT_INFO: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// The argument of bpf(2): a union that all fields here fit into.
#[repr(C, align(8))]
struct Attributes([u8; 64]);

impl Attributes {
    fn none() -> Self {
        Self([0; 64])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn descriptor(self, at: usize, fd: BorrowedFd<'_>) -> Self {
        // Descriptors are never negative while borrowed.
        self.word(at, fd.as_raw_fd().unsigned_abs())
    }

    fn call(mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: 64 bytes of our own; the pointers inside were taken from live slices by the callers below, which
        // keep them borrowed until this returns.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
    }

    fn open(self, command: libc::c_int) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the command answers with a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Attaches a program to a cgroup or a network namespace.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    Attributes::none().descriptor(0, program).descriptor(4, to).word(8, attach_type).open(LINK_CREATE)
}

/// Attaches a program to the kernel function that it was loaded for.
pub(super) fn link_create_anywhere(program: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    Attributes::none().descriptor(0, program).word(8, attach_type).open(LINK_CREATE)
}

/// Attaches a program to an interface of the caller's network namespace, behind those that are there.
pub(super) fn link_create_at(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    Attributes::none().descriptor(0, program).word(4, interface).word(8, attach_type).open(LINK_CREATE)
}

/// Puts another program under a link, atomically: no packet and no call sees neither.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    Attributes::none().descriptor(0, link).descriptor(4, program).call(LINK_UPDATE).map(drop)
}

/// Detaches now. (Closing the last descriptor detaches some time later.)
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    Attributes::none().descriptor(0, link).call(LINK_DETACH).map(drop)
}

/// Gives an object a name in bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    Attributes::none().long(0, path.as_ptr() as u64).descriptor(8, object).call(OBJECT_PIN).map(drop)
}

/// Opens an object by its name in bpffs.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    Attributes::none().long(0, path.as_ptr() as u64).open(OBJECT_GET)
}

/// Opens a program by its id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    Attributes::none().word(0, id).open(PROGRAM_BY_ID)
}

/// Describes a link, map or program; what the kernel does not know stays zero.
pub(super) fn info<const N: usize>(object: BorrowedFd<'_>) -> io::Result<Info<N>> {
    let mut info = [0u8; N];
    Attributes::none()
        .descriptor(0, object)
        .word(4, N as u32)
        .long(8, info.as_mut_ptr() as u64)
        .call(OBJECT_INFO)?;
    Ok(Info(info))
}

/// The first bytes of one of the kernel's `bpf_*_info` structures.
pub(super) struct Info<const N: usize>([u8; N]);

impl<const N: usize> Info<N> {
    /// The 32-bit field at a byte offset; 0 beyond the end.
    pub(super) fn word(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    /// The text at a byte offset, up to its first zero, at most this long.
    pub(super) fn text(&self, at: usize, most: usize) -> &[u8] {
        let bytes = self.0.get(at..at + most).unwrap_or_default();
        bytes.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The 64-bit field at a byte offset; 0 beyond the end.
    pub(super) fn long(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }
}

/// A map that was pinned. Keys and values go as bytes whose lengths are checked against the map once, here.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
    id: u32,
    key: usize,
    value: usize,
    max: u32,
}

impl RawMap {
    /// Opens a pinned map; refuses one whose keys or values have other sizes than these.
    pub(super) fn open(path: &Path, key: usize, value: usize) -> io::Result<Self> {
        let fd = get(path)?;
        let info: Info<80> = info(fd.as_fd())?;
        let (has_key, has_value) = (info.word(8) as usize, info.word(12) as usize);
        if (has_key, has_value) != (key, value) {
            let text =
                format!("has keys of {has_key} and values of {has_value} bytes, not {key} and {value}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { fd, id: info.word(4), key, value, max: info.word(16) })
    }

    /// Its number in the kernel.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Its descriptor.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How many entries it can hold.
    pub(super) fn max(&self) -> u32 {
        self.max
    }

    /// Inserts or replaces.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key.len() == self.key && value.len() == self.value)?;
        Attributes::none()
            .descriptor(0, self.fd.as_fd())
            .long(8, address(key))
            .long(16, address(value))
            .call(MAP_UPDATE)
            .map(drop)
    }

    /// Removes; it is no error if there is nothing.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<()> {
        self.check(key.len() == self.key)?;
        let done = Attributes::none().descriptor(0, self.fd.as_fd()).long(8, address(key)).call(MAP_DELETE);
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// The value of a key. Per-CPU maps give `cpus` values in a row.
    pub(super) fn lookup(&self, key: &[u8], cpus: usize) -> io::Result<Option<Vec<u8>>> {
        self.check(key.len() == self.key)?;
        let mut value = vec![0u8; self.value.next_multiple_of(if cpus > 1 { 8 } else { 1 }) * cpus];
        let found = Attributes::none()
            .descriptor(0, self.fd.as_fd())
            .long(8, address(key))
            .long(16, value.as_mut_ptr() as u64)
            .call(MAP_LOOKUP);
        match found {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All keys, in no order. Keys that come or go meanwhile may be missed or doubled.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // A map that others write to can make the walk start again; twice its size is the end of patience.
        while keys.len() <= 2 * self.max as usize {
            let mut next = vec![0u8; self.key];
            let from = keys.last().map_or(0, |key| address(key));
            let step = Attributes::none()
                .descriptor(0, self.fd.as_fd())
                .long(8, from)
                .long(16, next.as_mut_ptr() as u64)
                .call(MAP_NEXT);
            match step {
                Ok(_) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    fn check(&self, fits: bool) -> io::Result<()> {
        if fits { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
    }
}

/// Has a routing socket answer what was asked and not the whole table.
pub(super) fn netlink_strict(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: four bytes of a live integer.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user namespace that owns another namespace.
pub(super) fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `NS_GET_USERNS`: `_IO(0xb7, 1)`.
    const GET_USER_NAMESPACE: libc::Ioctl = 0xb701;
    // SAFETY: takes no argument, and answers with a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), GET_USER_NAMESPACE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// CLOCK_MONOTONIC in nanoseconds: the kernel programs' clock.
pub(super) fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// CLOCK_BOOTTIME in nanoseconds: the time of what the kernel programs tell.
#[must_use]
pub fn since_boot() -> u64 {
    clock(libc::CLOCK_BOOTTIME)
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one live structure. Both clocks always exist; failing, it leaves zero, which is long past.
    unsafe { libc::clock_gettime(which, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// getsockopt(2) of any level and name. Gives how many bytes were written.
pub(super) fn socket_option(fd: BorrowedFd<'_>, level: i32, name: i32, into: &mut [u8]) -> io::Result<usize> {
    let mut length = into.len() as libc::socklen_t;
    // SAFETY: `length` bytes of a live slice.
    let done =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, into.as_mut_ptr().cast(), &raw mut length) };
    if done == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}
