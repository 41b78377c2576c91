//! Saying what happened: a counter always, an event for refusals while the ring has room, a log line where the loader
//! asked for it. Decides nothing.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helper;
use aya_log_ebpf::debug;
use gateway_ebpf::abi::{Address, Attempt, Counter, Refusal, UNIX_NAME_BYTES};

use crate::{COUNTS, EVENTS};

/// 1: write log lines. Patched by the loader; the verifier then removes the other branch.
#[unsafe(no_mangle)]
static LOG: u32 = 0;

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot; a program is not preempted by another run on the same slot for long enough to
        // matter for a statistic.
        unsafe { *value += 1 }
    }
}

/// Where a refused flow or packet wanted to go.
pub(crate) struct To<'a> {
    pub(crate) address: &'a Address,
    pub(crate) port: u16,
    pub(crate) protocol: u32,
    pub(crate) guard: u32,
}

/// A refusal in the context of the process that asked.
#[inline(always)]
pub(crate) fn refused<C: EbpfContext>(ctx: &C, counter: Counter, to: &To<'_>) {
    event(counter, to, true);
    // SAFETY: read-only data, patched before load, hence volatile.
    if unsafe { core::ptr::read_volatile(&LOG) } != 0 {
        debug!(ctx, "refused {} port {} protocol {}", counter as u32, to.port, to.protocol);
    }
}

/// A packet dropped, in nobody's context.
#[inline(always)]
pub(crate) fn dropped(counter: Counter, to: &To<'_>) {
    event(counter, to, false);
}

#[inline(always)]
fn event(counter: Counter, to: &To<'_>, task: bool) {
    count(counter);
    let Some(mut entry) = EVENTS.reserve::<Refusal>(0) else {
        count(Counter::EventLost);
        return;
    };
    entry.write(refusal(counter, to, task));
    entry.submit(0);
}

#[inline(always)]
fn refusal(counter: Counter, to: &To<'_>, task: bool) -> Refusal {
    // SAFETY: helpers that read the current task or the clock; `comm` is 16 bytes of our own.
    unsafe {
        let mut comm = [0u8; 16];
        if task {
            helper::bpf_get_current_comm(comm.as_mut_ptr().cast(), 16);
        }
        Refusal {
            at: helper::bpf_ktime_get_boot_ns(),
            cgroup: if task { helper::bpf_get_current_cgroup_id() } else { 0 },
            counter: counter as u32,
            tgid: if task { (helper::bpf_get_current_pid_tgid() >> 32) as u32 } else { 0 },
            uid: if task { helper::bpf_get_current_uid_gid() as u32 } else { 0 },
            guard: to.guard,
            comm,
            address: *to.address,
            port: to.port,
            protocol: to.protocol as u16,
            zero: 0,
        }
    }
}

/// What a guarded process tried with something outside of its guard.
pub(crate) struct Tried<'a> {
    pub(crate) guard: u32,
    /// The other process; 0: none.
    pub(crate) other: u32,
    /// The signal, command or family.
    pub(crate) number: u32,
    pub(crate) name: &'a [u8; UNIX_NAME_BYTES],
}

/// An attempt that is refused.
#[inline(always)]
pub(crate) fn attempted(counter: Counter, tried: &Tried<'_>) {
    count(counter);
    let Some(mut entry) = EVENTS.reserve::<Attempt>(0) else {
        count(Counter::EventLost);
        return;
    };
    let to = To { address: &[0; 16], port: 0, protocol: 0, guard: tried.guard };
    let attempt = entry.as_mut_ptr();
    // SAFETY: room for one attempt, which the ring just gave; every byte of it is written.
    unsafe {
        (&raw mut (*attempt).refusal).write(refusal(counter, &to, true));
        (&raw mut (*attempt).other).write(tried.other);
        (&raw mut (*attempt).number).write(tried.number);
        (&raw mut (*attempt).name).write(*tried.name);
        (&raw mut (*attempt).zero).write(0);
    }
    entry.submit(0);
}
