//! `[[credential]]`: which target gets which credential of the vault, and in which header field. What it is stands in no file.
//!
//! Refuses a second credential for a target, and a field that frames a message or that something else writes.

use std::sync::Arc;

use super::declare::{Draft, Entry};
use super::document::{At, Fields};
use super::nouns::{Block, Credential, Part, Scheme, Side, Target};
use super::problem::Problem;
use super::rewrites;
use super::set::Set;
use crate::operation::Direction;
use crate::wire::field::is_twin;

/// The field that HTTP has for it (RFC 9110 section 11.6.2).
const AUTHORIZATION: &str = "authorization";

/// Reads one `[[credential]]`. `None` where it cannot be used; that is then reported.
pub(super) fn read(
    fields: &Fields<'_>,
    name: &At<String>,
    targets: Vec<String>,
) -> Option<Entry<Credential>> {
    let written = fields.has("header");
    let header = fields.text("header").and_then(|text| {
        fields.parse(&text, |text| match text.eq_ignore_ascii_case(AUTHORIZATION) {
            true => Ok(AUTHORIZATION.to_owned()),
            false => rewrites::header(text),
        })
    });
    let schemes = [("bearer", Scheme::Bearer), ("basic", Scheme::Basic), ("plain", Scheme::Plain)];
    let scheme = fields.word("scheme", &schemes, &[]);
    fields.finish(&["query", "cookie", "mint", "lifetime"]);
    let header = match (header, written) {
        (Some(header), _) => header.value,
        (None, false) => AUTHORIZATION.to_owned(),
        (None, true) => return None,
    };
    let usual = if header == AUTHORIZATION { Scheme::Bearer } else { Scheme::Plain };
    let scheme = scheme.map_or(usual, |scheme| scheme.value);
    let credential = Credential { name: name.value.clone(), targets, header, scheme };
    Some(Entry { noun: credential, at: name.place.clone(), places: fields.places() })
}

/// Reports what credentials say that other nouns contradict.
pub(super) fn check(draft: &Draft, report: &dyn Fn(Problem)) {
    for (index, credential) in draft.credentials.iter().enumerate() {
        let noun = &credential.noun;
        let shares =
            |targets: &[String]| targets.iter().find(|target| noun.targets.contains(target)).cloned();
        for first in &draft.credentials[..index] {
            if let Some(target) = shares(&first.noun.targets) {
                let text = format!("`{}` and `{}` are both for `{target}`", noun.name, first.noun.name);
                let problem = Problem::at(&credential.at, text).also(&first.at, "first here");
                report(problem.help("a target gets one credential: take the target out of one of them"));
            }
        }
        for rewrite in &draft.rewrites {
            let same = match &rewrite.noun.part {
                Part::Header(header) => rewrite.noun.on == Side::Request && is_twin(header, &noun.header),
                Part::Field(_) => false,
            };
            if let Some(target) = shares(&rewrite.noun.targets).filter(|_| same) {
                let text = format!(
                    "`{}` and the rewrite `{}` both write the header `{}` of what `{target}` gets",
                    noun.name, rewrite.noun.name, noun.header
                );
                report(Problem::at(&credential.at, text).also(&rewrite.at, "the rewrite"));
            }
        }
        let forwards = |target: &&Entry<Target>| {
            let is_said = target.noun.forward_token && target.places.contains_key("forward_token");
            is_said && noun.header == AUTHORIZATION && noun.targets.contains(&target.noun.name)
        };
        for target in draft.targets.iter().filter(|target| noun.targets.contains(&target.noun.name)) {
            one_server(credential, target, report);
        }
        if let Some(target) = draft.targets.iter().find(forwards) {
            let text =
                format!("`{}` gets the caller's own token, and a credential in its place", target.noun.name);
            let problem =
                Problem::at(target.place("forward_token"), text).also(&credential.at, "the credential");
            report(problem.help("take `forward_token` out, or name another header for the credential"));
        }
    }
}

/// Reports a target that may be anybody's server: what is put into its requests would be theirs.
fn one_server(credential: &Entry<Credential>, target: &Entry<Target>, report: &dyn Fn(Problem)) {
    let refuse = |key: &str, what: String, help: &str| {
        let problem = Problem::at(target.place(key), what).also(&credential.at, "the credential");
        report(problem.help(help));
    };
    let noun = &target.noun;
    let is_one = |block: &Block| block.prefix == if block.address.is_ipv4() { 32 } else { 128 };
    if noun.direction == Direction::Inbound {
        let what = format!("`{}` gets a credential, and is a service of this host", noun.name);
        refuse("direction", what, "credentials are for what this host calls: outbound targets");
    }
    if !noun.addresses.iter().all(is_one) {
        let what = format!("`{}` gets a credential, and is every address of a block", noun.name);
        refuse("addresses", what, "name the addresses of its servers, one by one");
    }
    if noun.hosts.iter().any(|host| host.starts_with("*.")) {
        let what = format!("`{}` gets a credential, and is every name below another", noun.name);
        refuse("hosts", what, "name its hosts, one by one: some of the others may be anybody's");
    }
}

/// The targets as they are with these credentials: what gets one is not sent the caller's own token, unless its file says so.
pub(super) fn targets(targets: Vec<Entry<Target>>, credentials: &[Entry<Credential>]) -> Vec<Target> {
    let fitted = |mut target: Entry<Target>| {
        let gets = credentials.iter().any(|credential| credential.noun.targets.contains(&target.noun.name));
        if gets && !target.places.contains_key("forward_token") {
            target.noun.forward_token = false;
        }
        target.noun
    };
    targets.into_iter().map(fitted).collect()
}

impl Set {
    /// The credential that a target gets, if it gets one.
    #[must_use]
    pub fn credential_of(&self, target: &str) -> Option<&Arc<Credential>> {
        self.credentials().iter().find(|credential| credential.targets.iter().any(|name| name == target))
    }
}
