//! What the kernel is told of a policy set: addresses, services and guards as rows. A unit or container that is not
//! there has no cgroup yet, and is looked for again.

use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::{Block, ExemptRow, GuardRow, ServiceRow, Table, TargetRow};
use crate::operation::Direction;
use crate::policy::Set;
use crate::policy::nouns::{Exempt, Guard};

/// Levels below the cgroup root that are searched. systemd nests user services seven deep.
const DEPTH_MAX: usize = 10;
/// Directories looked at in one search.
const DIRECTORIES_MAX: usize = 50_000;

/// The kernel's table for this set, with the cgroups as they are now, and what guards name that is not there.
///
/// # Errors
/// The cgroups cannot all be read. What was published before must then stand: a search that failed finds nobody to
/// guard.
pub fn of(set: &Set, cgroup_root: &Path) -> io::Result<(Table, Vec<String>)> {
    let mut table = Table::default();
    for target in set.targets() {
        let blocks =
            target.addresses.iter().map(|b| Block { address: b.address, prefix: b.prefix }).collect();
        let (name, ports) = (target.name.clone(), target.ports.clone());
        match target.direction {
            Direction::Outbound => table.targets.push(TargetRow { name, blocks, ports }),
            Direction::Inbound => table.services.push(ServiceRow { name, blocks, ports }),
        }
    }
    let exempts: Vec<Guard> = set.exempts().iter().map(where_it_runs).collect();
    let services: Vec<Guard> = set.targets().iter().filter_map(|target| target.runs.clone()).collect();
    let mut named = set.guards().iter().chain(&exempts).chain(&services);
    let directories = match named.any(|g| !g.units.is_empty() || !g.containers.is_empty()) {
        true => directories(cgroup_root)?,
        false => Vec::new(),
    };
    table.guards = set.guards().iter().map(|guard| row(guard, cgroup_root, &directories)).collect();
    table.exempts = set
        .exempts()
        .iter()
        .zip(&exempts)
        .map(|(exempt, place)| ExemptRow {
            name: exempt.name.clone(),
            uids: exempt.uids.clone(),
            cgroups: (!exempt.units.is_empty()).then(|| row(place, cgroup_root, &directories).cgroups),
        })
        .collect();
    table.service_cgroups =
        services.iter().flat_map(|service| row(service, cgroup_root, &directories).cgroups).collect();
    Ok((table, set.guards().iter().flat_map(|guard| absent(guard, cgroup_root, &directories)).collect()))
}

/// The units of an exemption, to be looked for like a guard's.
fn where_it_runs(exempt: &Exempt) -> Guard {
    Guard { name: exempt.name.clone(), units: exempt.units.clone(), ..Guard::default() }
}

/// What a guard names and nothing answers to, in words.
fn absent(guard: &Guard, root: &Path, directories: &[PathBuf]) -> Vec<String> {
    let only = |units: &[String], containers: &[String]| Guard {
        units: units.to_vec(),
        containers: containers.to_vec(),
        ..guard.clone()
    };
    let units = guard.units.iter().filter(|unit| {
        let one = only(std::slice::from_ref(unit), &[]);
        !directories.iter().any(|directory| is_unit(&one, directory))
    });
    let containers = guard.containers.iter().filter(|id| {
        let one = only(&[], std::slice::from_ref(id));
        !directories.iter().any(|directory| is_container(&one, directory))
    });
    let cgroups = guard.cgroups.iter().filter(|path| !root.join(path.trim_start_matches('/')).is_dir());
    let name = &guard.name;
    units
        .map(|unit| format!("guard {name}: no unit {unit} is there yet"))
        .chain(containers.map(|id| format!("guard {name}: no container {id} is there yet")))
        .chain(cgroups.map(|path| format!("guard {name}: no cgroup {path} is there yet")))
        .collect()
}

fn row(guard: &Guard, root: &Path, directories: &[PathBuf]) -> GuardRow {
    let named =
        directories.iter().filter(|directory| is_unit(guard, directory) || is_container(guard, directory));
    let listed = guard.cgroups.iter().map(|path| root.join(path.trim_start_matches('/')));
    GuardRow {
        name: guard.name.clone(),
        cgroups: listed.chain(named.map(|directory| root.join(directory))).collect(),
        uids: guard.uids.clone(),
        dns: guard.dns.clone(),
        unix_sockets: guard.unix_sockets.clone(),
        own: false,
    }
}

/// A unit of the system's own manager: only slices stand above it. Below a service or a scope anybody to whom the
/// subtree was delegated may name a directory as they like.
fn is_unit(guard: &Guard, directory: &Path) -> bool {
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return false };
    let above = directory.parent().into_iter().flat_map(Path::components);
    guard.units.iter().any(|unit| unit == name)
        && above
            .into_iter()
            .all(|part| part.as_os_str().to_str().is_some_and(|part| part.ends_with(".slice")))
}

/// A container engine's directory for the container: its id, or its id between the engine's name and `.scope`.
fn is_container(guard: &Guard, directory: &Path) -> bool {
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return false };
    let id = name.strip_suffix(".scope").and_then(|name| name.rsplit('-').next()).unwrap_or(name);
    id.len() == 64
        && id.bytes().all(|b| b.is_ascii_hexdigit())
        && guard.containers.iter().any(|wanted| id.starts_with(wanted.as_str()))
}

/// Every cgroup below `root`, breadth first, bounded; relative to it. One that goes away meanwhile is passed over.
fn directories(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut level = vec![PathBuf::new()];
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for directory in level {
            let entries = match std::fs::read_dir(root.join(&directory)) {
                Ok(entries) => entries,
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && !directory.as_os_str().is_empty() =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    next.push(directory.join(entry.file_name()));
                }
            }
            if found.len() + next.len() > DIRECTORIES_MAX {
                return Err(io::Error::other("there are more cgroups than are searched for guarded units"));
            }
        }
        found.extend(next.iter().cloned());
        level = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(units: &[&str], containers: &[&str]) -> Guard {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Guard { name: "agent".into(), units: owned(units), containers: owned(containers), ..Guard::default() }
    }

    #[test]
    fn a_unit_is_found_in_the_systems_own_tree() {
        let guard = guard(&["react-worker.service", "agents.slice"], &[]);
        for path in
            ["system.slice/react-worker.service", "agents.slice", "a.slice/a-b.slice/react-worker.service"]
        {
            assert!(is_unit(&guard, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_directory_that_somebody_named_like_the_unit_is_not_the_unit() {
        let guard = guard(&["react-worker.service"], &[]);
        for path in [
            "user.slice/user-1000.slice/user@1000.service/app.slice/react-worker.service",
            "system.slice/other.service/react-worker.service",
            "docker/react-worker.service",
            "react-worker.service/sub",
        ] {
            assert!(!is_unit(&guard, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_search_that_fails_is_not_an_empty_one() {
        assert!(directories(Path::new("/nonexistent/cgroup")).is_err());
    }

    #[test]
    fn what_a_guard_names_and_nothing_answers_to_is_said() {
        let guard = guard(&["react-worker.service", "agents.slice"], &[]);
        let there = [PathBuf::from("agents.slice")];
        let missing = absent(&guard, Path::new("/nonexistent"), &there);
        assert_eq!(missing, ["guard agent: no unit react-worker.service is there yet"]);
    }

    #[test]
    fn a_container_is_known_by_its_whole_id_only() {
        let id = "0123456789ab".to_owned() + &"c".repeat(52);
        let guard = guard(&[], &["0123456789ab"]);
        for path in [
            format!("system.slice/docker-{id}.scope"),
            format!("docker/{id}"),
            format!("kubepods.slice/x/cri-containerd-{id}.scope"),
        ] {
            assert!(is_container(&guard, Path::new(&path)), "{path}");
        }
        for path in [
            format!("x/{id}0"),
            format!("x/evil{id}"),
            "x/0123456789ab".to_owned(),
            format!("x/{}", "f".repeat(64)),
        ] {
            assert!(!is_container(&guard, Path::new(&path)), "{path}");
        }
    }
}
