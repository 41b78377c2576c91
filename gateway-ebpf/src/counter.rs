//! Every outcome of every hook: what the programs count, and what refusals are called.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Every outcome of every hook. Counted per CPU.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $variant,)* }
        /// All counters with their names, in the order of their index.
        pub const COUNTERS: &[(Counter, &str)] = &[$((Counter::$variant, $name),)*];
    };
}
counters! {
    /// A connect was rewritten to the gate.
    Redirected = "redirected",
    /// A connect to a protected service here was recorded.
    LocalRecorded = "local_recorded",
    /// The gate's own connect to somewhere protected.
    ExemptConnect = "exempt_connect",
    /// A guarded process asked a declared DNS server.
    DnsAllowed = "dns_allowed",
    /// A record went over to the gate's accepted socket.
    HandedOver = "handed_over",
    /// A connection to a protected port was given to the gate.
    Steered = "steered",
    /// The gate's connection was let through to the real service.
    SteerExempt = "steer_exempt",
    /// The gate asked for a record and got it.
    RecordRead = "record_read",
    /// Refused: the gate's port was dialled directly.
    GatePortDialled = "refused_gate_port_dialled",
    /// Refused: somebody tried to bind the gate's port.
    GatePortBound = "refused_gate_port_bound",
    /// Refused: the gate dialled a protected place with a socket it had not exempted.
    LoopBroken = "refused_loop",
    /// Refused: a socket of the gate's own was connected to another place than it was made for.
    BoundElsewhere = "refused_bound_elsewhere",
    /// Refused: a datagram (or anything but TCP) connect to a target.
    TargetDatagram = "refused_target_datagram",
    /// Refused: a guarded process used anything but TCP, beyond its declared DNS.
    GuardDatagram = "refused_guard_datagram",
    /// Refused: a guarded process asked for a socket of a kind that is never let out.
    GuardSocket = "refused_guard_socket",
    /// Refused: the socket could not be freed from its interface (SO_BINDTODEVICE).
    DeviceBound = "refused_device_bound",
    /// Refused: the identity record could not be kept on the socket.
    RecordFailed = "refused_record_failed",
    /// Refused: the guard's mark could not be kept on the socket.
    MarkFailed = "refused_mark_failed",
    /// The hand-over map had no room to make: the connection is dropped.
    TupleFailed = "refused_tuples_full",
    /// The map of the gate's own connections was full: its connection is dropped.
    AllowedFailed = "refused_allowed_full",
    /// Refused: the programs' own settings could not be read.
    ConfigFailed = "refused_config_failed",
    /// Refused: a connection reached the gate's port without a record.
    NoRecord = "refused_no_record",
    /// Refused: nobody listens behind a protected port.
    GateDown = "refused_gate_down",
    /// Dropped: a packet to a target from a socket that did not come through the gate.
    TargetPacket = "dropped_target_packet",
    /// Dropped: a packet of a guarded process that is neither its TCP nor its DNS.
    GuardPacket = "dropped_guard_packet",
    /// Dropped: a packet of a protected service on a connection older than its protection.
    StalePacket = "dropped_stale_packet",
    /// Dropped: a packet of a connection whose record was lost.
    LostPacket = "dropped_lost_packet",
    /// Dropped: a packet that could not be read.
    UnreadablePacket = "dropped_unreadable_packet",
    /// The gate asked for a record of a socket that has none.
    RecordMissing = "record_missing",
    /// A refusal that the telemetry ring had no room for.
    EventLost = "event_lost",
    /// Refused: the gate's heartbeat is past its deadline.
    HeartbeatLost = "refused_heartbeat",
    /// Refused: a datagram for a protected service, which is protected over TCP alone.
    ServiceDatagram = "refused_service_datagram",
    /// Dropped at an uplink: a frame to a target that did not come from the gate, whatever made it.
    TargetFrame = "dropped_target_frame",
    /// Dropped at an uplink: a frame of a guarded process's packet socket.
    GuardFrame = "dropped_guard_frame",
    /// Dropped at an uplink: a frame made by hand, or of nobody's, whose destination cannot be read.
    UnreadableFrame = "dropped_unreadable_frame",
    /// A connection to a target, or of a guarded process, that the connect hook did not see was about to begin.
    Unseen = "unseen",
    /// A connect of an exempt process went straight to a target or a protected service.
    Exempted = "exempted_connect",
    /// Dropped: the connection stood by an exemption that is over.
    ExemptionOver = "dropped_exemption_over",
    /// A flow that could not be counted: no room or no memory for its row.
    FlowUncounted = "flow_uncounted",
    /// Refused: a connect that belongs to the gate, in a network namespace where the gate does not listen.
    NoListener = "refused_no_listener",
    /// Refused: a guarded process called bpf(2), or root without the right to programs opened what is pinned or detached it.
    GuardBpf = "refused_guard_bpf",
    /// Refused: a guarded process looked into one outside of its guard, as ptrace(2) does.
    GuardTrace = "refused_guard_trace",
    /// Refused: a guarded process sent the gate a signal.
    GuardSignal = "refused_guard_signal",
    /// Refused: a guarded process mounted something over what is the gate's, or unmounted it.
    GuardMount = "refused_guard_mount",
    /// Refused: a guarded process changed files of the gate's, or root without the right to programs its pins.
    GuardFile = "refused_guard_file",
    /// Refused: a guarded process left its cgroup, or changed one outside of it.
    GuardCgroup = "refused_guard_cgroup",
    /// Refused: a guarded process talked to a Unix socket outside of its guard.
    GuardUnix = "refused_guard_unix_socket",
    /// Refused: a guarded process was passed a socket made outside of its guard.
    GuardPassed = "refused_guard_passed_socket",
    /// Refused: a guarded process reached for the kernel itself, or for a disk below its files.
    GuardKernel = "refused_guard_kernel",
}
/// Entries of the counter map: room for counters that a later version adds.
pub const COUNTERS_MAX: u32 = 64;
const _: () = assert!(COUNTERS.len() <= COUNTERS_MAX as usize);
