//! A process makes a socket of a family that no cgroup hook knows. Guarded ones get none that carries bytes off the host.

use aya_ebpf::programs::LsmContext;
use gateway_ebpf::abi::Counter;
use gateway_ebpf::choose;

use crate::look;
use crate::report::{To, refused};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[inline(always)]
pub(crate) fn socket_create(ctx: &LsmContext) -> i32 {
    // socket_create(family, type, protocol, kern)
    let (family, protocol, kern): (i32, i32, i32) = (ctx.arg(0), ctx.arg(2), ctx.arg(3));
    if kern != 0 || !choose::is_off_host_family(family) {
        return ALLOW;
    }
    let guard = look::current_guard();
    if guard == 0 {
        return ALLOW;
    }
    refused(ctx, Counter::GuardSocket, &To { address: &[0; 16], port: 0, protocol: protocol as u32, guard });
    DENY
}
