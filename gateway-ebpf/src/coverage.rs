//! What nobody decided: a connection whose SYN is about to leave for a target, or from a guarded process, and that the
//! connect hook did not see. It says so; whether the packet leaves is the egress hook's to decide.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockOpsContext;
use gateway_ebpf::abi::{Config, Counter, Refusal, Tuple};
use gateway_ebpf::choose;

use crate::report::count;
use crate::{EVENTS, MARKS, flows, look};

/// A socket without a record dials.
#[inline(always)]
pub(crate) fn unseen(ctx: &SockOpsContext, config: &Config, socket: *mut c_void, tuple: &Tuple) {
    if look::out_of_scope(config, tuple.netns) {
        return;
    }
    let (to, port) = (&tuple.destination, tuple.destination_port);
    let guard = MARKS.get(socket).map_or(0, |mark| mark.guard);
    let guard = if look::in_force(guard) { guard } else { 0 };
    let target = look::target(to, port);
    let ours = target != 0 || (guard != 0 && !look::is_dns(guard, to, port));
    if !ours {
        return;
    }
    count(Counter::Unseen);
    flows::passing(ctx, socket, tuple, (guard, target));
    let Some(mut entry) = EVENTS.reserve::<Refusal>(0) else {
        count(Counter::EventLost);
        return;
    };
    let (tgid, comm) = look::current_task();
    entry.write(Refusal {
        // SAFETY: reads the clock.
        at: unsafe { helper::bpf_ktime_get_boot_ns() },
        cgroup: 0,
        counter: Counter::Unseen as u32,
        tgid,
        uid: 0,
        guard,
        comm,
        address: *to,
        port,
        protocol: choose::TCP as u16,
        zero: 0,
    });
    entry.submit(0);
}
