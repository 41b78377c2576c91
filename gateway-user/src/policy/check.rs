//! What nouns say about each other: names used and never declared, names declared twice, claims that collide.
//!
//! Refuses what can never work, such as an approval that nobody can grant, before anyone waits for it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::operation::{Direction, KEY_PROVIDER};

use super::declare::{Draft, Entry, Wanted};
use super::nouns::{Approval, Exempt, Guard, Person, Role, Target};
use super::problem::{Place, Problem, Problems, did_you_mean};
use super::{credentials, extract, rewrites};

/// Reports every mistake between nouns.
pub(super) fn check(draft: &Draft, problems: &RefCell<Problems>) {
    let report = |problem| problems.borrow_mut().push(problem);
    unique("target", names(&draft.targets, |n| &n.name), &report);
    unique("guard", names(&draft.guards, |n| &n.name), &report);
    unique("exempt", names(&draft.exempts, |n| &n.name), &report);
    unique("role", names(&draft.roles, |n| &n.name), &report);
    unique("person", names(&draft.persons, |n| &n.name), &report);
    unique("identity_provider", names(&draft.providers, |n| &n.name), &report);
    unique("mask", names(&draft.masks, |n| &n.name), &report);
    unique("detector", names(&draft.detectors, |n| &n.name), &report);
    unique("approval", names(&draft.approvals, |n| &n.name), &report);
    unique("credential", names(&draft.credentials, |n| &n.name), &report);
    unique("rewrite", names(&draft.rewrites, |n| &n.name), &report);
    extract::noun::check(draft, &report);
    rewrites::check(draft, &report);
    credentials::check(draft, &report);
    unique("notify", names(&draft.notifies, |n| &n.name), &report);
    unique("hours", names(&draft.hours, |n| &n.name), &report);
    for target in &draft.targets {
        let operations = draft.operations.iter().filter(|op| op.noun.target == target.noun.name);
        unique("operation", operations.map(|op| (op.noun.name.as_str(), &op.at)).collect(), &report);
    }
    references(draft, &report);
    for provider in draft.providers.iter().filter(|provider| provider.noun.name == KEY_PROVIDER) {
        let taken = format!("`{KEY_PROVIDER}` is what vouches for static keys");
        report(Problem::at(&provider.at, taken).help("give the provider another name"));
    }
    for target in &draft.targets {
        whereabouts(target, &report);
    }
    collisions(&draft.targets, &report);
    shared_hosts(&draft.targets, &report);
    guards(&draft.guards, &report);
    exempts(&draft.exempts, &draft.guards, &report);
    for role in &draft.roles {
        way_in(role, &draft.persons, &report);
    }
    one_human_each(&draft.persons, &report);
    for approval in &draft.approvals {
        grantable(approval, draft, &report);
    }
}

type Report<'a> = &'a dyn Fn(Problem);

fn names<T>(entries: &[Entry<T>], name: impl Fn(&T) -> &String) -> Vec<(&str, &Place)> {
    entries.iter().map(|entry| (name(&entry.noun).as_str(), &entry.at)).collect()
}

fn unique(noun: &str, names: Vec<(&str, &Place)>, report: Report<'_>) {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for (name, at) in names {
        if name.is_empty() {
            continue;
        }
        if let Some(earlier) = first.get(name) {
            let twice =
                Problem::at(at, format!("there are two `{noun}`s called `{name}`")).label("second here");
            report(twice.also(earlier, "first here").help("rename one of them"));
        } else {
            first.insert(name, at);
        }
    }
}

fn references(draft: &Draft, report: Report<'_>) {
    let targets: BTreeSet<&str> = draft.targets.iter().map(|entry| entry.noun.name.as_str()).collect();
    let roles: BTreeSet<&str> = draft.roles.iter().map(|entry| entry.noun.name.as_str()).collect();
    let persons: BTreeSet<&str> = draft.persons.iter().map(|entry| entry.noun.name.as_str()).collect();
    let providers: BTreeSet<&str> = draft.providers.iter().map(|entry| entry.noun.name.as_str()).collect();
    let guards: BTreeSet<&str> = draft.guards.iter().map(|entry| entry.noun.name.as_str()).collect();
    let notifies: BTreeSet<&str> = draft.notifies.iter().map(|entry| entry.noun.name.as_str()).collect();
    let either: BTreeSet<&str> = roles.union(&persons).copied().collect();
    for (wanted, name) in &draft.references {
        let (known, noun) = match wanted {
            Wanted::Target => (&targets, "`target`"),
            Wanted::Role => (&roles, "`role`"),
            Wanted::Approver => (&either, "`role` or `person`"),
            Wanted::Provider => (&providers, "`identity_provider`"),
            Wanted::Guard => (&guards, "`guard`"),
            Wanted::Notify => (&notifies, "`notify`"),
        };
        let text = name.value.as_str();
        if !known.contains(text) {
            let unknown = Problem::at(&name.place, format!("no {noun} is called `{}`", text.escape_debug()));
            report(unknown.help_if(did_you_mean(text, known.iter().copied())));
        } else if *wanted == Wanted::Approver && roles.contains(text) && persons.contains(text) {
            let both =
                Problem::at(&name.place, format!("`{text}` is a `role` and a `person`; which one approves?"));
            report(both.help("rename one of them"));
        }
    }
}

fn whereabouts(target: &Entry<Target>, report: Report<'_>) {
    let outbound = target.noun.direction == Direction::Outbound;
    if outbound && !target.places.contains_key("addresses") && !target.places.contains_key("hosts") {
        let nowhere =
            Problem::at(&target.at, format!("the outbound target `{}` is nowhere", target.noun.name));
        report(nowhere.help("give it `addresses`, `hosts` or both"));
    }
}

fn collisions(targets: &[Entry<Target>], report: Report<'_>) {
    for (index, later) in targets.iter().enumerate() {
        for earlier in &targets[..index] {
            if later.noun.direction != earlier.noun.direction {
                continue;
            }
            let shared: Vec<u16> =
                later.noun.ports.iter().filter(|port| earlier.noun.ports.contains(port)).copied().collect();
            let Some(port) = shared.first() else { continue };
            let Some(place) = common_place(&later.noun, &earlier.noun) else { continue };
            let key = if later.places.contains_key("addresses") { "addresses" } else { "ports" };
            report(
                Problem::at(
                    later.place(key),
                    format!(
                        "`{}` and `{}` both claim port {port} of {place}",
                        later.noun.name, earlier.noun.name
                    ),
                )
                .also(&earlier.at, "claimed first here")
                .help("a connection belongs to one target: part their ports or addresses, or make them one"),
            );
        }
    }
}

/// What both targets claim, in words.
fn common_place(a: &Target, b: &Target) -> Option<String> {
    let everywhere = |target: &Target| target.direction == Direction::Inbound && target.addresses.is_empty();
    match (everywhere(a), everywhere(b)) {
        (true, true) => Some("every local address".to_owned()),
        (true, false) => b.addresses.first().map(|block| format!("{}/{}", block.address, block.prefix)),
        (false, true) => a.addresses.first().map(|block| format!("{}/{}", block.address, block.prefix)),
        (false, false) => a.addresses.iter().find_map(|mine| {
            let theirs = b.addresses.iter().find(|theirs| mine.overlaps(theirs))?;
            let narrow = if mine.prefix >= theirs.prefix { mine } else { theirs };
            Some(format!("{}/{}", narrow.address, narrow.prefix))
        }),
    }
}

fn shared_hosts(targets: &[Entry<Target>], report: Report<'_>) {
    let mut first: BTreeMap<(&str, u16), &Entry<Target>> = BTreeMap::new();
    for target in targets {
        for host in &target.noun.hosts {
            for port in &target.noun.ports {
                let earlier = *first.entry((host, *port)).or_insert(target);
                if !std::ptr::eq(earlier, target) {
                    let (mine, theirs) = (&target.noun.name, &earlier.noun.name);
                    let both = format!("`{mine}` and `{theirs}` both claim {host}:{port}");
                    report(
                        Problem::at(target.place("hosts"), both)
                            .also(earlier.place("hosts"), "claimed first here"),
                    );
                }
            }
        }
    }
}

fn guards(guards: &[Entry<Guard>], report: Report<'_>) {
    let mut first: BTreeMap<(&str, String), &Entry<Guard>> = BTreeMap::new();
    for guard in guards {
        let noun = &guard.noun;
        let uids: Vec<String> = noun.uids.iter().map(u32::to_string).collect();
        let claims: [(&'static str, &[String]); 4] = [
            ("units", &noun.units),
            ("containers", &noun.containers),
            ("uids", &uids),
            ("cgroups", &noun.cgroups),
        ];
        for (key, names) in claims {
            for name in names {
                let earlier = *first.entry((key, name.clone())).or_insert(guard);
                if std::ptr::eq(earlier, guard) {
                    continue;
                }
                let both = format!("`{}` and `{}` both hold `{name}`", noun.name, earlier.noun.name);
                report(
                    Problem::at(guard.place(key), both)
                        .also(earlier.place(key), "held first here")
                        .help("a process has one guard: make them one"),
                );
            }
        }
    }
}

/// What is guarded is not exempt.
fn exempts(exempts: &[Entry<Exempt>], guards: &[Entry<Guard>], report: Report<'_>) {
    for exempt in exempts {
        for guard in guards {
            let uids = exempt.noun.uids.iter().filter(|uid| guard.noun.uids.contains(uid));
            let units = exempt.noun.units.iter().filter(|unit| guard.noun.units.contains(unit));
            let shared =
                uids.map(|uid| ("uids", uid.to_string())).chain(units.map(|unit| ("units", unit.clone())));
            for (key, name) in shared {
                let both =
                    format!("`{}` exempts `{name}`, which `{}` guards", exempt.noun.name, guard.noun.name);
                report(
                    Problem::at(exempt.place(key), both)
                        .also(guard.place(key), "guarded here")
                        .help("take it out of one of them"),
                );
            }
        }
    }
}

fn way_in(role: &Entry<Role>, persons: &[Entry<Person>], report: Report<'_>) {
    let noun = &role.noun;
    let written = [
        "groups",
        "provider",
        "claims",
        "key_sha256",
        "units",
        "uids",
        "executables",
        "max_token_life",
        "key_header",
    ];
    let held = persons.iter().any(|person| person.noun.roles.contains(&noun.name));
    if !held && !written.iter().any(|key| role.places.contains_key(*key)) {
        let closed = Problem::at(&role.at, format!("nobody can have the role `{}`", noun.name));
        report(closed.help("give it `groups`, `claims`, `provider`, `key_sha256`, `units` or `uids`, or give it to a `person`"));
    }
}

fn one_human_each(persons: &[Entry<Person>], report: Report<'_>) {
    let mut uids: BTreeMap<u32, &Entry<Person>> = BTreeMap::new();
    let mut subjects: BTreeMap<&(String, String), &Entry<Person>> = BTreeMap::new();
    let shared = |person: &Entry<Person>, key: &str, earlier: &Entry<Person>, what: String| {
        let both = format!("`{}` and `{}` share {what}", person.noun.name, earlier.noun.name);
        report(
            Problem::at(person.place(key), both)
                .also(earlier.place(key), "first here")
                .help("a `person` is one human, so that one human votes once"),
        );
    };
    for person in persons {
        if let Some(uid) = person.noun.uid {
            let earlier = *uids.entry(uid).or_insert(person);
            if !std::ptr::eq(earlier, person) {
                shared(person, "uid", earlier, format!("the uid {uid}"));
            }
        }
        for subject in &person.noun.subjects {
            let earlier = *subjects.entry(subject).or_insert(person);
            if !std::ptr::eq(earlier, person) {
                shared(person, "subject", earlier, format!("the subject {}/{}", subject.0, subject.1));
            }
        }
    }
}

fn grantable(approval: &Entry<Approval>, draft: &Draft, report: Report<'_>) {
    let noun = &approval.noun;
    let may = |person: &&Entry<Person>| may_approve(&person.noun, noun);
    let voters: BTreeSet<&str> = draft
        .persons
        .iter()
        .filter(may)
        .filter(|person| person.noun.uid.is_some())
        .map(|person| person.noun.name.as_str())
        .collect();
    if voters.len() < noun.needed as usize {
        let who = voters.iter().copied().collect::<Vec<_>>().join(", ");
        let who = if who.is_empty() { "nobody".to_owned() } else { who };
        let (needed, name) = (noun.needed, &noun.name);
        report(
            Problem::at(
                approval.place("approvers"),
                format!(
                    "`{name}` needs {needed} distinct person(s), and only {} can grant it: {who}",
                    voters.len()
                ),
            )
            .help("a person votes by login `uid`, and approves when named here or holding a role named here"),
        );
    }
}

/// Whether a person is among those who may grant an approval.
pub(super) fn may_approve(person: &Person, approval: &Approval) -> bool {
    approval.approvers.iter().any(|name| *name == person.name || person.roles.contains(name))
}
