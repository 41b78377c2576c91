//! What is handed out, what is folded, and what is never lost.

use super::*;
use crate::keeper::message::{Answer, pack, unpack};
use crate::keeper::older::for_one_message;
use crate::limits::{EVENT_BYTES_MAX, SOCKETS_DESTROYED_TOLD_MAX};
use crate::record::entry::DestroyedSocket;

fn denial(port: u16) -> Denial {
    Denial {
        reason: "refused_gate_port_dialled",
        to: ([127, 0, 0, 1], port).into(),
        about: None,
        protocol: 6,
        tgid: 7,
        uid: 1000,
        cgroup: 42,
        command: "curl".into(),
        guard: 0,
        at: 1,
    }
}

fn told(denial: &Denial, at: Micros) -> Refused {
    Refused {
        reason: denial.reason.into(),
        to: Some(denial.to.to_string()),
        about: None,
        protocol: protocol(denial.protocol),
        process: Some("curl[7]".into()),
        executable: None,
        unit: None,
        cgroup: None,
        uid: Some(denial.uid),
        guard: None,
        first: at,
        last: at,
        times: 1,
    }
}

fn take(waiting: &mut Waiting, denial: &Denial, at: Micros) {
    waiting.batch.take(denial, at, |_| told(denial, at));
}

/// The next entry, of refusals.
fn next(
    waiting: &mut Waiting,
    recorded: Option<u64>,
    lost: Option<u64>,
    at: Micros,
) -> Option<(u64, KernelRefused)> {
    let (number, event) = waiting.next(recorded, lost, at)?;
    match *event {
        Event::KernelRefused(event) => Some((number, event)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cut_is_handed_out_until_it_is_recorded_and_before_what_was_refused() {
    let mut waiting = Waiting::default();
    take(&mut waiting, &denial(1), 1);
    let cut = SocketsDestroyed { at: 1, sockets: Vec::new(), left_out: 3 };
    waiting.cuts.push_back(cut.clone());
    let first = waiting.next(None, Some(0), 2).unwrap();
    assert_eq!(*first.1, Event::SocketsDestroyed(cut));
    assert_eq!(waiting.next(None, Some(0), 3), Some(first.clone()), "a new enforcer asks");
    assert_eq!(next(&mut waiting, Some(first.0), Some(0), 4).unwrap().1.refusals.len(), 1);
}

#[test]
fn alike_refusals_are_one_with_a_number_and_with_the_first_and_the_last_time() {
    let mut waiting = Waiting::default();
    for at in 1..=10_000 {
        take(&mut waiting, &Denial { at: at as u64, ..denial(15001) }, at);
    }
    let (number, event) = next(&mut waiting, None, None, 10_001).unwrap();
    assert_eq!((number, event.at, event.left_out, event.refusals.len()), (1, 10_001, 0, 1));
    let one = &event.refusals[0];
    assert_eq!((one.times, one.first, one.last), (10_000, 1, 10_000));
}

#[test]
fn what_differs_in_anything_but_the_time_is_told_apart() {
    let mut waiting = Waiting::default();
    let all = [
        denial(1),
        denial(2),
        Denial { reason: "refused_guard_datagram", ..denial(1) },
        Denial { tgid: 8, ..denial(1) },
        Denial { uid: 0, ..denial(1) },
        Denial { command: "wget".into(), ..denial(1) },
        Denial { guard: 9, ..denial(1) },
        Denial { protocol: 262, ..denial(1) },
        Denial { about: Some("signal 9 to 1".into()), ..denial(1) },
    ];
    for one in &all {
        take(&mut waiting, one, 1);
    }
    assert_eq!(next(&mut waiting, None, None, 2).unwrap().1.refusals.len(), all.len());
}

#[test]
fn beyond_the_bound_there_is_a_number_and_no_count_is_lost() {
    let mut waiting = Waiting::default();
    let max = KERNEL_REFUSED_TOLD_MAX as u16;
    for port in 1..=max {
        take(&mut waiting, &denial(port), 1);
    }
    assert_eq!((waiting.batch.refusals.len(), waiting.batch.left_out), (KERNEL_REFUSED_TOLD_MAX, 0));
    for port in 1..=max + 1 {
        take(&mut waiting, &denial(port), 2);
    }
    take(&mut waiting, &denial(max + 1), 3);
    assert_eq!(waiting.not_recorded(), u64::from(max) * 2 + 2);
    let event = next(&mut waiting, None, None, 4).unwrap().1;
    assert_eq!((event.refusals.len(), event.left_out), (KERNEL_REFUSED_TOLD_MAX, 2));
    assert!(event.refusals.iter().all(|one| one.times == 2));
}

#[test]
fn the_same_is_handed_out_until_it_is_recorded_and_what_comes_meanwhile_waits() {
    let mut waiting = Waiting::default();
    assert_eq!(next(&mut waiting, None, Some(0), 1), None);
    take(&mut waiting, &denial(1), 1);
    let first = next(&mut waiting, None, Some(0), 2).unwrap();
    take(&mut waiting, &denial(2), 3);
    assert_eq!(next(&mut waiting, None, Some(0), 4), Some(first.clone()), "a new enforcer asks");
    let second = next(&mut waiting, Some(first.0), Some(0), 5).unwrap();
    assert_eq!((second.0, second.1.refusals[0].to.as_deref()), (first.0 + 1, Some("127.0.0.1:2")));
    assert_eq!(next(&mut waiting, Some(first.0), Some(0), 6), Some(second.clone()), "of another one");
    assert_eq!(next(&mut waiting, Some(second.0), Some(0), 7), None);
    assert_eq!(waiting.not_recorded(), 0);
}

#[test]
fn what_the_kernel_had_no_room_to_tell_is_told_as_a_number_and_once() {
    let mut waiting = Waiting::default();
    let (number, event) = next(&mut waiting, None, Some(5), 1).unwrap();
    assert_eq!((event.refusals.len(), event.left_out, event.lost_so_far), (0, 0, 5));
    assert_eq!(next(&mut waiting, Some(number), Some(5), 2), None);
    assert_eq!(next(&mut waiting, Some(number), None, 3), None, "the counters could not be read");
}

#[test]
fn the_fullest_entry_is_one_message_and_one_event() {
    let long = bounded(&"é".repeat(5000));
    assert!(long.len() <= KERNEL_REFUSED_TEXT_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'));
    assert_eq!(bounded(&"x".repeat(KERNEL_REFUSED_TEXT_BYTES_MAX)).len(), KERNEL_REFUSED_TEXT_BYTES_MAX);
    let one = Refused {
        process: Some(format!("{}[4294967295]", "\u{1f}".repeat(15).escape_debug())),
        about: Some(long.clone()),
        executable: Some(long.clone()),
        unit: Some(long.clone()),
        cgroup: Some(long.clone()),
        guard: Some(long),
        first: Micros::MAX,
        last: Micros::MAX,
        times: u64::MAX,
        ..told(&denial(65535), 1)
    };
    let refusals = vec![one; KERNEL_REFUSED_TOLD_MAX];
    let event = KernelRefused { at: Micros::MAX, refusals, left_out: u64::MAX, lost_so_far: u64::MAX };
    let event = Event::KernelRefused(event);
    assert!(event.weight() <= EVENT_BYTES_MAX);
    let answer = Answer::Unrecorded(Some((u64::MAX, Box::new(event))));
    assert_eq!(unpack(&pack(1, &answer).unwrap()), Some((1, answer)));
}

#[test]
fn the_fullest_entry_of_what_was_cut_is_one_message_and_one_event_too() {
    let long = "x".repeat(5000);
    let name = "n".repeat(64);
    let one = for_one_message(DestroyedSocket {
        protocol: "udplite".into(),
        local: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into(),
        remote: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into(),
        uid: u32::MAX,
        process: Some(format!("{}[4294967295]", "\u{1f}".repeat(15).escape_debug())),
        cgroup: Some(long.clone()),
        unit: Some(long),
        target: Some(name.clone()),
        guard: Some(name),
        why: "the gate does not stand in this connection of a protected service".into(),
        failed: Some(std::io::Error::from_raw_os_error(84).to_string()),
    });
    let sockets = vec![one; SOCKETS_DESTROYED_TOLD_MAX];
    let event = Event::SocketsDestroyed(SocketsDestroyed { at: Micros::MAX, sockets, left_out: u64::MAX });
    assert!(event.weight() <= EVENT_BYTES_MAX);
    let answer = Answer::Unrecorded(Some((u64::MAX, Box::new(event))));
    assert_eq!(unpack(&pack(1, &answer).unwrap()), Some((1, answer)));
}
