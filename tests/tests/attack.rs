//! Every way round the gate, by everybody who may try it: before the load, to show that the way is open, and after it. What
//! stands open is what `docs/THREAT_MODEL.md` says stands open, and nothing else.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod attack_support;
mod kernel_support;

use std::path::Path;
use std::sync::Mutex;

use attack_support::arena::Arena;
use attack_support::table::{self, Found, Sheet, row};
use attack_support::who::{WHO, Who};
use tidegate_attack::{Control, WAYS, Way};

/// Worlds at a time: most of an attack is waiting.
const AT_A_TIME: usize = 4;

#[test]
fn no_way_is_open_that_the_threat_model_does_not_name() {
    let (sheet, faults) = (Mutex::new(Sheet::new()), Mutex::new(Vec::new()));
    let chosen = std::env::var("TIDEGATE_ATTACKERS").unwrap_or_default();
    let who: Vec<&Who> = WHO
        .iter()
        .filter(|who| chosen.is_empty() || chosen.split(',').any(|name| name == who.name))
        .collect();
    let next = Mutex::new(who.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(who) = { next.lock().unwrap().next() } {
                    let (found, wrong) = attack_as(who);
                    faults.lock().unwrap().extend(wrong);
                    for (row, cell) in found {
                        sheet.lock().unwrap().entry(row).or_default().insert(who.name, cell);
                    }
                }
            });
        }
    });
    let (sheet, mut faults) = (sheet.into_inner().unwrap(), faults.into_inner().unwrap());
    print!("{}", table::json(&sheet));
    match std::env::var_os("TIDEGATE_WRITE_ATTACKS") {
        // Only looked at, for a run on another kernel to write down.
        Some(folder) if folder.is_empty() => {}
        Some(folder) => table::write(&sheet, Path::new(&folder)),
        None => faults.extend(table::not_allowed(&sheet)),
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What one attacker finds, and what its control run should have found and did not.
fn attack_as(who: &Who) -> (Vec<(String, Found)>, Vec<String>) {
    let mut arena = Arena::new(who);
    let (mut sheet, mut faults) = (Vec::new(), Vec::new());
    // A way is tried where it is open without the gate, and where it makes no sense without one.
    let mut tried: Vec<&'static Way> = Vec::new();
    for way in WAYS {
        match control(&mut arena, who, way) {
            Ok(None) => tried.push(way),
            Ok(Some(why_not)) => {
                sheet.push((row(way.name, false), why_not));
                sheet.extend(way.ages.then(|| (row(way.name, true), why_not)));
            }
            Err(fault) => faults.push(fault),
        }
    }
    let older: Vec<_> = tried.iter().filter(|way| way.ages).map(|way| arena.begin(way)).collect();
    arena.load();
    for waiting in older {
        let row = row(waiting.way.name, true);
        sheet.push((row, arena.go_on(waiting)));
    }
    for way in tried {
        if way.name == "gate-port-bind" {
            arena.stop_gate();
        }
        sheet.push((row(way.name, false), arena.attempt(way)));
        if way.harms {
            arena.mend();
        }
    }
    (sheet, faults)
}

/// Whether a way is open without the gate; if not, why it need not be.
fn control(arena: &mut Arena, who: &Who, way: &'static Way) -> Result<Option<Found>, String> {
    if way.control == Control::CannotArrive {
        return Ok(None);
    }
    if way.of_host && who.contained {
        return Ok(Some(Found::Elsewhere));
    }
    match arena.attempt(way) {
        Found::Reached => Ok(None),
        _ if !who.has(way.needs) => Ok(Some(Found::NoRight)),
        Found::Refused(_) if way.control == Control::MayBeMissing => Ok(Some(Found::NotThere)),
        other => Err(format!("`{}` by {} does not work without a gate: {other:?}", way.name, who.name)),
    }
}
