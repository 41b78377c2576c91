//! What can go wrong between us and the kernel, said so that the operator knows what to do next.

use std::io;
use std::path::PathBuf;

/// A failure of the kernel layer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel has no type information, or not what we need of it.
    #[error(
        "this kernel's type information (BTF) is needed and not usable: {why}; boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian, Ubuntu, Fedora and RHEL kernels are)"
    )]
    NoBtf {
        /// What is missing.
        why: String,
    },
    /// bpffs is not there and could not be mounted.
    #[error(
        "{path} is no BPF file system and mounting one failed: {source}; run as root: mount -t bpf bpf /sys/fs/bpf"
    )]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No cgroup v2.
    #[error(
        "no cgroup v2 file system is mounted; boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NoCgroup2,
    /// A file or directory could not be used.
    #[error("{path}: {source}{}", hint(source))]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing is loaded there.
    #[error("nothing is loaded at {pins}; run `tidegate load`")]
    NotLoaded {
        /// Where.
        pins: PathBuf,
    },
    /// What is pinned there was made by another version.
    #[error(
        "{pins} holds kernel maps of layout {theirs}, this program has layout {ours}; they cannot be adopted. Plan a moment in which the host may be unprotected (or has no network), then run `tidegate unload` and `tidegate load`"
    )]
    OtherAbi {
        /// Where.
        pins: PathBuf,
        /// Their layout.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// What is pinned there stands somewhere else.
    #[error(
        "{pins} is loaded with another {what} ({theirs}, asked for {ours}); run `tidegate unload` first, or ask for the same"
    )]
    OtherPlace {
        /// Where.
        pins: PathBuf,
        /// Port, cgroup or namespace.
        what: &'static str,
        /// What is loaded.
        theirs: String,
        /// What was asked for.
        ours: String,
    },
    /// The built-in object could not be taken in.
    #[error("the kernel programs could not be prepared: {why}{}", source.as_ref().map_or("", hint))]
    Object {
        /// What failed.
        why: String,
        /// What the kernel said, where it was asked.
        source: Option<io::Error>,
    },
    /// The verifier, or a missing feature, refused one program.
    #[error("the kernel refused program {program}: {why}{}", source.as_ref().map_or("", hint))]
    Program {
        /// Which.
        program: String,
        /// What the verifier said (its last lines).
        why: String,
        /// What the kernel said, where it was asked.
        source: Option<io::Error>,
    },
    /// A program could not be attached.
    #[error("program {program} could not be attached: {source}{}", hint(source))]
    Link {
        /// Which.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("kernel map {map}: {source}{}", hint(source))]
    Map {
        /// Which.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// More rows than a map holds.
    #[error(
        "{rows} rows do not fit the kernel map {map} of {max}; name fewer addresses and ports, or wider blocks"
    )]
    TableFull {
        /// Which.
        map: &'static str,
        /// How many were asked for.
        rows: usize,
        /// How many it holds.
        max: u32,
    },
    /// A row that cannot be.
    #[error("{0}")]
    Row(String),
    /// The caller stands in another network namespace than the one that was loaded.
    #[error(
        "the enforcer runs in another network namespace than the one that was loaded; start it in that namespace, or load with --netns of this one"
    )]
    OtherNamespace,
}

impl KernelError {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(super) fn map(map: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Map { map, source }
    }
}

/// What to do about an error of the kernel that comes in many places.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; this needs root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (and CAP_SYS_ADMIN to mount bpffs)"
        }
        Some(libc::EINVAL) => {
            "; the kernel may be too old: 6.1 is the oldest that works, `tidegate doctor` says more"
        }
        Some(libc::ENOMEM) => "; there is not enough memory",
        _ => "",
    }
}
