//! The nouns of all `*.toml` files, each read by itself: keys, types, shapes.
//!
//! Refuses by name what the design has and this version has not. What nouns say about each other is `check`'s.

mod approvals;
mod time;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use crate::operation::{Direction, Sha256};

use super::document::{At, Fields, not_yet, tables};
use super::files::{FileKind, Files};
use super::nouns::{
    Approval, ClaimMatch, Credential, DetectorNoun, Exempt, Extract, Guard, IdentityProvider, Mask, Notify,
    On, OperationNoun, Owned, Person, Protocol, Require, Rewrite, Role, Style, Target,
};
use super::parse::{self, Misread};
use super::problem::{Place, Problem, Problems, did_you_mean};
use super::when::Hours;
use super::{credentials, detectors, extract, json_path, rewrites, schema, words};

/// A noun, where its name stands, and where each of its keys' values stands.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    /// The noun.
    pub noun: T,
    /// Its name's place.
    pub at: Place,
    /// Its values' places.
    pub places: BTreeMap<String, Place>,
}

impl<T> Entry<T> {
    /// Where the value of a key stands; the name where it is not written.
    pub(super) fn place(&self, key: &str) -> &Place {
        self.places.get(key).unwrap_or(&self.at)
    }
}

/// What a name in a file should be the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A `[[target]]`.
    Target,
    /// A `[[role]]`.
    Role,
    /// A `[[role]]` or a `[[person]]`.
    Approver,
    /// An `[[identity_provider]]`.
    Provider,
    /// A `[[guard]]`.
    Guard,
    /// A `[[notify]]`.
    Notify,
}

/// Everything declared, not yet checked against each other.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Targets.
    pub targets: Vec<Entry<Target>>,
    /// Operations.
    pub operations: Vec<Entry<OperationNoun>>,
    /// Guards.
    pub guards: Vec<Entry<Guard>>,
    /// Exemptions.
    pub exempts: Vec<Entry<Exempt>>,
    /// Roles.
    pub roles: Vec<Entry<Role>>,
    /// Persons.
    pub persons: Vec<Entry<Person>>,
    /// Identity providers.
    pub providers: Vec<Entry<IdentityProvider>>,
    /// Masks.
    pub masks: Vec<Entry<Mask>>,
    /// Detectors.
    pub detectors: Vec<Entry<DetectorNoun>>,
    /// What masks find: the mask's place among them, and the name it gives.
    pub finds: Vec<(usize, At<String>)>,
    /// Approvals.
    pub approvals: Vec<Entry<Approval>>,
    /// Extracts.
    pub extracts: Vec<Entry<Extract>>,
    /// Rewrites.
    pub rewrites: Vec<Entry<Rewrite>>,
    /// Credentials.
    pub credentials: Vec<Entry<Credential>>,
    /// Where people hear of demands.
    pub notifies: Vec<Entry<Notify>>,
    /// Hours.
    pub hours: Vec<Entry<Hours>>,
    /// Names used, and what they should name.
    pub references: Vec<(Wanted, At<String>)>,
    /// Whether a file was no TOML at all: what it declares is then missing here, and nothing else is wrong with that.
    pub broken: bool,
    /// When the files were read; `None` where they were in force before.
    pub read_at: Option<Timestamp>,
}

pub(super) const BUILT: [&str; 15] = [
    "target",
    "operation",
    "guard",
    "exempt",
    "role",
    "person",
    "identity_provider",
    "mask",
    "detector",
    "approval",
    "extract",
    "rewrite",
    "credential",
    "hours",
    "notify",
];
const LATER: [&str; 2] = ["budget", "witness"];

/// Reads all noun files.
pub(super) fn read(files: &Files, problems: &RefCell<Problems>) -> Draft {
    let mut draft = Draft { read_at: files.read_at, ..Draft::default() };
    for file in files.of(FileKind::Nouns) {
        let whole = tables(&file.source, problems, &BUILT, other_noun, |noun, fields| {
            draft.entry(noun, fields, &files.home);
        });
        draft.broken |= !whole;
    }
    detectors::resolve(&mut draft, problems);
    draft
}

fn other_noun(name: &str, place: &Place) -> Problem {
    if LATER.contains(&name) {
        return not_yet(place, &format!("`[[{name}]]`"));
    }
    let problem = Problem::at(place, format!("there is no noun `{name}`"));
    match name {
        "case" => problem.help("cases stand in files named *.cases.toml"),
        _ => problem.help_if(did_you_mean(name, BUILT.iter().chain(&LATER).copied())),
    }
}

impl Draft {
    fn entry(&mut self, noun: &str, fields: &Fields<'_>, home: &Path) {
        if noun == "extract" {
            let target = fields.need_text("target");
            self.references.extend(target.iter().map(|target| (Wanted::Target, target.clone())));
            return self.extracts.extend(extract::noun::read(fields, target));
        }
        let name = fields.need_text("name").and_then(|text| fields.parse(&text, parse::name));
        // A noun without a usable name is still read, so that its other mistakes are reported too.
        let name = name.unwrap_or_else(|| At { value: String::new(), place: fields.place().clone() });
        match noun {
            "target" => self.targets.extend(target(fields, &name, self.read_at)),
            "operation" => {
                let operation = self.operation(fields, &name);
                self.operations.push(entry(operation, name, fields));
            }
            "guard" => self.guards.push(guard(fields, name)),
            "exempt" => self.exempts.extend(exempt(fields, name)),
            "notify" => self.notifies.extend(approvals::notify(fields, name, home)),
            "role" => {
                let role = self.role(fields, &name);
                self.roles.push(entry(role, name, fields));
            }
            "person" => {
                let person = self.person(fields, &name);
                self.persons.push(entry(person, name, fields));
            }
            "identity_provider" => self.providers.extend(provider(fields, name, home)),
            "mask" => {
                let mask = self.mask(fields, &name);
                self.masks.push(entry(mask, name, fields));
            }
            "rewrite" => {
                let targets = fields.need_texts("targets");
                fields.distinct("targets", &targets);
                let targets = self.names(Wanted::Target, targets);
                self.rewrites.extend(rewrites::read(fields, &name, targets));
            }
            "credential" => {
                let targets = fields.need_texts("targets");
                fields.distinct("targets", &targets);
                let targets = self.names(Wanted::Target, targets);
                self.credentials.extend(credentials::read(fields, &name, targets));
            }
            "detector" => self.detectors.push(detectors::read(fields, name)),
            "hours" => self.hours.extend(time::hours(fields, name)),
            _ => {
                let approval = self.approval(fields, &name);
                self.approvals.push(entry(approval, name, fields));
            }
        }
    }

    fn names(&mut self, wanted: Wanted, names: Vec<At<String>>) -> Vec<String> {
        self.references.extend(names.iter().map(|name| (wanted, name.clone())));
        values(names)
    }

    fn operation(&mut self, fields: &Fields<'_>, name: &At<String>) -> OperationNoun {
        if schema::GENERAL.contains(&name.value.as_str()) {
            let taken = format!("`{}` is an action of its own", name.value);
            fields.report(Problem::at(&name.place, taken).help("give the operation another name"));
        }
        let target = fields.need_text("target").into_iter().collect();
        let methods = fields.parsed("methods", parse::method);
        fields.distinct("methods", &methods);
        if !fields.has("paths") {
            fields.need_texts("paths");
        }
        let paths = fields.parsed("paths", parse::path_pattern);
        fields.distinct("paths", &paths);
        let calls = fields.parsed("calls", parse::call);
        fields.distinct("calls", &calls);
        fields.finish(&["hosts", "headers", "query", "body"]);
        OperationNoun {
            name: name.value.clone(),
            target: self.names(Wanted::Target, target).pop().unwrap_or_default(),
            methods: values(methods),
            paths: values(paths),
            calls: values(calls),
        }
    }

    fn role(&mut self, fields: &Fields<'_>, name: &At<String>) -> Role {
        let provider = fields.text("provider").into_iter().collect();
        let max_token_life =
            fields.text("max_token_life").and_then(|text| fields.parse(&text, parse::duration));
        let keys = fields.one_or_more("key_sha256");
        let keys: Vec<At<Sha256>> =
            keys.iter().filter_map(|text| fields.parse(text, words::key_digest)).collect();
        fields.distinct("key_sha256", &keys);
        let key_header = fields.text("key_header").and_then(|text| fields.parse(&text, words::key_header));
        let role = Role {
            name: name.value.clone(),
            groups: values(fields.texts("groups")),
            provider: self.names(Wanted::Provider, provider).pop(),
            claims: claims(fields),
            max_token_life: max_token_life.map(|life| life.value),
            keys: values(keys),
            key_header: key_header.as_ref().map(|header| header.value.clone()),
            units: values(fields.parsed("units", words::unit)),
            uids: uids(fields),
            executables: values(fields.parsed("executables", words::executable)),
        };
        fields.finish(&["containers"]);
        narrowing(&role, fields);
        let process = role.units.is_empty() && role.uids.is_empty();
        if process && !role.executables.is_empty() {
            let places = fields.places();
            let place = places.get("executables").unwrap_or(&name.place);
            fields.report(
                Problem::at(place, "`executables` alone says nothing: every script is the same interpreter")
                    .help("it narrows `units` or `uids`; add one of them"),
            );
        }
        role
    }

    fn person(&mut self, fields: &Fields<'_>, name: &At<String>) -> Person {
        let subjects = fields.one_or_more("subject");
        let mut pairs = Vec::new();
        for text in subjects {
            let Some((provider, subject)) =
                text.value.split_once('/').filter(|(_, subject)| !subject.is_empty())
            else {
                let wrong =
                    Problem::at(&text.place, format!("`{}` is no subject", text.value.escape_debug()));
                fields.report(wrong.help("write \"identity_provider/sub\""));
                continue;
            };
            self.references
                .push((Wanted::Provider, At { value: provider.to_owned(), place: text.place.clone() }));
            pairs.push((provider.to_owned(), subject.to_owned()));
        }
        let uid = fields.number("uid", 0, u64::from(u32::MAX) - 1);
        if let Some(root) = uid.as_ref().filter(|uid| uid.value == 0) {
            let shared = Problem::at(&root.place, "uid 0 is nobody's own: root is shared, and cannot vote");
            fields.report(shared.help("give the uid this person logs in with"));
        }
        let roles = fields.texts("roles");
        let owned = fields.parsed("owns", words::owned);
        for one in &owned {
            if let Owned::Guard(guard) = &one.value {
                let place = one.place.clone();
                self.references.push((Wanted::Guard, At { value: guard.clone(), place }));
            }
        }
        fields.finish(&["slack", "email", "pagerduty"]);
        Person {
            name: name.value.clone(),
            subjects: pairs,
            uid: uid.and_then(|uid| u32::try_from(uid.value).ok()),
            roles: self.names(Wanted::Role, roles),
            owns: values(owned),
        }
    }

    fn mask(&mut self, fields: &Fields<'_>, name: &At<String>) -> Mask {
        let targets = fields.need_texts("targets");
        fields.distinct("targets", &targets);
        let ways = [("response", On::Response), ("request", On::Request), ("both", On::Both)];
        let on = fields.word("on", &ways, &[]);
        let find = fields.texts("find");
        fields.distinct("find", &find);
        self.finds.extend(find.into_iter().map(|name| (self.masks.len(), name)));
        let (mut paths, mut keys) = (Vec::new(), Vec::new());
        for field in fields.texts("fields") {
            if field.value.starts_with('$') {
                let path =
                    |text: &str| json_path::parse(text).map_err(|message| Misread { message, help: None });
                paths.extend(fields.parse(&field, path));
            } else if field.value.is_empty()
                || field.value.contains(['[', ']', '*'])
                || field.value.contains("..")
            {
                let wrong = format!("`{}` is neither a key name nor a JSON path", field.value.escape_debug());
                fields.report(
                    Problem::at(&field.place, wrong).help("a JSON path starts with `$`: `$.items[*].card`"),
                );
            } else {
                keys.push(field);
            }
        }
        let later = ["token", "reversible-token"];
        let styles = [
            ("stars", Style::Stars),
            ("keep-last-4", Style::KeepLast4),
            ("keyed-hash", Style::KeyedHash),
            ("drop", Style::Drop),
        ];
        let style = fields.word("style", &styles, &later);
        let columns = fields.parsed("columns", words::column);
        fields.distinct("columns", &columns);
        let headers = fields.parsed("headers", words::masked_header);
        fields.distinct("headers", &headers);
        if !["find", "fields", "columns", "headers"].iter().any(|key| fields.has(key)) {
            fields.report(
                Problem::at(&name.place, "this mask finds nothing")
                    .help("give it `find` (detectors), `fields`, `columns` or `headers`"),
            );
        }
        fields.finish(&[]);
        Mask {
            name: name.value.clone(),
            targets: self.names(Wanted::Target, targets),
            find: Vec::new(),
            declared: Vec::new(),
            paths: values(paths),
            keys: values(keys),
            columns: values(columns),
            headers: values(headers),
            on: on.map_or(On::Response, |on| on.value),
            style: style.map_or(Style::Stars, |style| style.value),
        }
    }
}

fn entry<T>(noun: T, name: At<String>, fields: &Fields<'_>) -> Entry<T> {
    Entry { noun, at: name.place, places: fields.places() }
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

/// What a role asks of a token's claims.
fn claims(fields: &Fields<'_>) -> Vec<ClaimMatch> {
    let claims = fields.json_values("claims");
    claims.into_iter().map(|(path, any)| ClaimMatch { path: path.value, any }).collect()
}

/// Reports keys that narrow a way in which is not there.
fn narrowing(role: &Role, fields: &Fields<'_>) {
    let token = !role.groups.is_empty() || !role.claims.is_empty() || role.provider.is_some();
    let places = fields.places();
    let alone = |key: &str, what: &str, help: &str| {
        let place = places.get(key).unwrap_or_else(|| fields.place());
        fields.report(Problem::at(place, what).help(help));
    };
    if role.max_token_life.is_some() && !token {
        let help = "it narrows `groups`, `claims` or `provider`; add one of them";
        alone("max_token_life", "`max_token_life` alone names nobody's token", help);
    }
    if role.key_header.is_some() && role.keys.is_empty() {
        alone("key_header", "`key_header` alone names no key", "add `key_sha256`, or remove it");
    }
}

fn uids(fields: &Fields<'_>) -> Vec<u32> {
    let uids = fields.numbers("uids", 0, u64::from(u32::MAX) - 1);
    uids.into_iter().filter_map(|uid| u32::try_from(uid.value).ok()).collect()
}

fn target(fields: &Fields<'_>, name: &At<String>, now: Option<Timestamp>) -> Option<Entry<Target>> {
    let directions = [("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];
    if !fields.has("direction") {
        fields.need_text("direction");
    }
    let direction = fields.word("direction", &directions, &[]);
    if !fields.has("ports") {
        fields.report(Problem::at(fields.place(), "this `target` has no `ports`"));
    }
    let ports = fields.numbers("ports", 1, u64::from(u16::MAX));
    fields.distinct("ports", &ports);
    let addresses = fields.parsed("addresses", parse::block);
    let hosts = fields.parsed("hosts", parse::host);
    let later = [
        "https",
        "h2",
        "http2",
        "grpc",
        "tcp",
        "postgres",
        "mysql",
        "ssh",
        "rdp",
        "kubernetes",
        "mcp",
        "websocket",
    ];
    fields.word("protocol", &[("http", ())], &later);
    fields.word(
        "tls",
        &[("off", ())],
        &["terminate", "intercept", "passthrough", "pass-through", "on", "upstream"],
    );
    let requires = [
        ("user", Require::User),
        ("workload", Require::Workload),
        ("both", Require::Both),
        ("peer", Require::Peer),
    ];
    let require = fields.word("require", &requires, &[]);
    let forward_token = fields.boolean("forward_token");
    let labels = fields.parsed("labels", words::label);
    fields.distinct("labels", &labels);
    let observed_until = time::observed(fields, now);
    let runs = runs(fields, name, direction.as_ref().map(|direction| direction.value));
    fields.finish(&["transparent", "http", "upstream", "timeouts"]);
    let target = Target {
        name: name.value.clone(),
        direction: direction?.value,
        ports: ports.iter().filter_map(|port| u16::try_from(port.value).ok()).collect(),
        addresses: values(addresses),
        hosts: values(hosts),
        protocol: Protocol::Http,
        require: require.map_or(Require::Unstated, |require| require.value),
        forward_token: forward_token.is_none_or(|forward| forward.value),
        labels: values(labels),
        runs,
        observed_until,
    };
    Some(entry(target, name.clone(), fields))
}

/// The keys that say in whose processes a service runs.
const RUNS: [&str; 3] = ["units", "containers", "cgroups"];

/// Where a service runs, so that its network namespaces are found.
fn runs(fields: &Fields<'_>, name: &At<String>, direction: Option<Direction>) -> Option<Guard> {
    let runs = Guard {
        name: name.value.clone(),
        units: values(fields.parsed("units", words::unit)),
        containers: values(fields.parsed("containers", words::container)),
        cgroups: values(fields.parsed("cgroups", words::cgroup)),
        ..Guard::default()
    };
    let written = RUNS.into_iter().find(|key| fields.has(key))?;
    if direction == Some(Direction::Outbound) {
        let places = fields.places();
        let place = places.get(written).unwrap_or(&name.place);
        fields.report(
            Problem::at(place, format!("`{written}` says where a service runs, and this target is outbound"))
                .help("whose calls are intercepted is said by `[[guard]]`"),
        );
    }
    Some(runs)
}

fn guard(fields: &Fields<'_>, name: At<String>) -> Entry<Guard> {
    let guard = Guard {
        name: name.value.clone(),
        units: values(fields.parsed("units", words::unit)),
        containers: values(fields.parsed("containers", words::container)),
        uids: uids(fields),
        cgroups: values(fields.parsed("cgroups", words::cgroup)),
        dns: values(fields.parsed("dns", |text| parse::server(text, 53))),
        unix_sockets: values(fields.parsed("unix_sockets", words::unix_socket)),
    };
    fields.finish(&["networks", "namespaces", "udp"]);
    if !["units", "containers", "uids", "cgroups"].iter().any(|key| fields.has(key)) {
        fields.report(
            Problem::at(&name.place, "this guard holds no process")
                .help("give it `units`, `containers`, `uids` or `cgroups`"),
        );
    }
    entry(guard, name, fields)
}

/// Never by unit alone: whoever enters its cgroup would be exempt.
fn exempt(fields: &Fields<'_>, name: At<String>) -> Option<Entry<Exempt>> {
    let reason = fields.need_text("reason");
    if let Some(empty) = reason.as_ref().filter(|reason| reason.value.trim().is_empty()) {
        fields.report(Problem::at(&empty.place, "`reason` is empty").help("say why it stays outside"));
    }
    let uids = uids(fields);
    let units = values(fields.parsed("units", words::unit));
    fields.finish(&[]);
    if uids.is_empty() {
        fields.report(
            Problem::at(&name.place, "this exemption names no user")
                .help("give it `uids`: a unit counts only together with a uid"),
        );
    }
    if uids.contains(&0) && units.is_empty() && !fields.has("units") {
        fields.report(
            Problem::at(&name.place, "this exemption names root wherever it is")
                .help("give it `units` besides: nearly everything of a host runs as root"),
        );
    }
    if fields.has("units") && units.is_empty() {
        // That it is empty was reported; without it they would be exempt everywhere.
        return None;
    }
    let exempt = Exempt { name: name.value.clone(), uids, units, reason: reason?.value };
    Some(entry(exempt, name, fields))
}

fn provider(fields: &Fields<'_>, name: At<String>, home: &Path) -> Option<Entry<IdentityProvider>> {
    let issuer = fields.need_text("issuer");
    if let Some(empty) = issuer.as_ref().filter(|issuer| issuer.value.is_empty()) {
        fields.report(Problem::at(&empty.place, "`issuer` is empty"));
    }
    if !fields.has("audience") {
        fields.need_texts("audience");
    }
    let audience = fields.one_or_more("audience");
    if !fields.has("algorithms") {
        fields.need_texts("algorithms");
    }
    let algorithms = fields.parsed("algorithms", words::algorithm);
    let jwks =
        fields.need_text("jwks").and_then(|text| fields.parse(&text, |text| words::key_set(text, home)));
    let groups_claim = fields.text("groups_claim");
    fields.finish(&["leeway", "introspection", "client_id", "client_secret", "max_token_life"]);
    let provider = IdentityProvider {
        name: name.value.clone(),
        issuer: issuer?.value,
        audience: values(audience),
        algorithms: values(algorithms),
        jwks: jwks?.value,
        groups_claim: groups_claim.map_or_else(|| "groups".to_owned(), |claim| claim.value),
        claims: Vec::new(),
    };
    Some(entry(provider, name, fields))
}
