//! Who attacks, with which rights.

use tidegate_attack::Needs;

/// One kind of attacker.
pub(crate) struct Who {
    /// Its column.
    pub(crate) name: &'static str,
    /// In the threat model's words.
    pub(crate) about: &'static str,
    pub(crate) uid: u32,
    pub(crate) capabilities: u64,
    /// In a guard, and after what no target names; else outside of every guard, and after a target.
    pub(crate) guarded: bool,
    /// In a network namespace of its own, with an uplink through the host.
    pub(crate) contained: bool,
}

const ALL: u64 = u64::MAX;
const SETUID: u64 = 1 << 7;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
/// What container engines leave to root in a container, without CAP_NET_RAW.
const CONTAINED: u64 = 0xa804_25fb & !NET_RAW;

/// All of them.
pub(crate) const WHO: &[Who] = &[
    Who::new("root", "root of the host", 0, ALL),
    Who::new(
        "root, few rights",
        "uid 0 with a container's capabilities, CAP_NET_RAW not among them",
        0,
        CONTAINED,
    ),
    Who::new("user", "uid 1000", 1000, 0),
    Who::new("user, raw", "uid 1000 with CAP_NET_RAW", 1000, NET_RAW),
    Who { guarded: true, ..Who::new("guarded root", "root in a guard's cgroup", 0, ALL) },
    Who { guarded: true, ..Who::new("guarded user", "uid 1000 in a guard's cgroup", 1000, 0) },
    Who {
        contained: true,
        ..Who::new("container", "root in a container, with CAP_NET_RAW", 0, CONTAINED | NET_RAW)
    },
    Who {
        contained: true,
        guarded: true,
        ..Who::new("guarded container", "the same in a guard's cgroup", 0, CONTAINED | NET_RAW)
    },
];

impl Who {
    const fn new(name: &'static str, about: &'static str, uid: u32, capabilities: u64) -> Self {
        Self { name, about, uid, capabilities, guarded: false, contained: false }
    }

    /// Whether it has what an attempt needs.
    pub(crate) fn has(&self, needs: Needs) -> bool {
        let needed = match needs {
            Needs::Nothing => 0,
            Needs::NetRaw => NET_RAW,
            Needs::NetAdmin => NET_ADMIN,
            Needs::SetUid => SETUID,
            Needs::Root => SYS_ADMIN,
        };
        self.capabilities & needed == needed
    }
}
