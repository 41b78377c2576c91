//! One policy set: the nouns, and the rules indexed by target and action. Never changes once it is made.
//!
//! Refuses rules that no operation could ever reach.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cedar_policy::{EntityUid, ResourceConstraint};
use jiff::Timestamp;

use crate::operation::{Direction, Sha256};

use super::check::may_approve;
use super::credentials;
use super::declare::{Draft, Entry};
use super::memo::{Memo, Sight};
use super::nouns::{
    Approval, Credential, DetectorNoun, Exempt, Extract, Guard, IdentityProvider, Mask, Notify,
    OnUnavailable, OperationNoun, PathPart, PathPattern, Person, Rewrite, Role, Source, Target,
};
use super::problem::{Problem, Problems};
use super::rules::Rule;
use super::scope::Half;
use super::when::{Hours, Season};

/// The rules that can match one action on one thing, parted by effect, so that one question to each half says which
/// rules match.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    pub(super) permits: Half,
    pub(super) forbids: Half,
}

/// A whole policy directory, checked.
#[derive(Debug)]
pub struct Set {
    digest: Sha256,
    schema: String,
    notes: Vec<String>,
    targets: Vec<Target>,
    operations: Vec<OperationNoun>,
    extracts: HashMap<String, Vec<Extract>>,
    rewrites: Vec<Arc<Rewrite>>,
    credentials: Vec<Arc<Credential>>,
    guards: Vec<Guard>,
    exempts: Vec<Exempt>,
    roles: Vec<Role>,
    persons: Vec<Person>,
    providers: Vec<IdentityProvider>,
    approvals: Vec<Approval>,
    notifies: Vec<Notify>,
    /// The same nouns under the rules for when approvers cannot be reached.
    safe: Option<Box<Set>>,
    masks: HashMap<String, Vec<Arc<Mask>>>,
    detectors: Vec<Arc<DetectorNoun>>,
    rules: HashMap<String, Arc<Rule>>,
    by_target: HashMap<String, HashMap<String, Slot>>,
    by_mask: HashMap<String, Slot>,
    sights: HashMap<String, Sight>,
    hours: Vec<Hours>,
    /// The season asked about last.
    season: ArcSwapOption<Season>,
    pub(super) memo: Memo,
}

impl Set {
    /// Indexes a checked directory. Reports rules that can never match, and those that would never be asked.
    pub(super) fn index(
        draft: Draft,
        rules: Vec<Arc<Rule>>,
        about: (Sha256, String, Vec<String>),
        problems: &RefCell<Problems>,
    ) -> Self {
        fn nouns<T>(entries: Vec<Entry<T>>) -> Vec<T> {
            entries.into_iter().map(|entry| entry.noun).collect()
        }
        let (digest, schema, notes) = about;
        let targets = credentials::targets(draft.targets, &draft.credentials);
        let mut set = Self {
            digest,
            schema,
            notes,
            targets,
            operations: nouns(draft.operations),
            extracts: HashMap::new(),
            rewrites: nouns(draft.rewrites).into_iter().map(Arc::new).collect(),
            credentials: nouns(draft.credentials).into_iter().map(Arc::new).collect(),
            guards: nouns(draft.guards),
            exempts: nouns(draft.exempts),
            roles: nouns(draft.roles),
            persons: nouns(draft.persons),
            providers: nouns(draft.providers),
            approvals: nouns(draft.approvals),
            notifies: nouns(draft.notifies),
            safe: None,
            masks: HashMap::new(),
            detectors: nouns(draft.detectors).into_iter().map(Arc::new).collect(),
            rules: HashMap::new(),
            by_target: HashMap::new(),
            by_mask: HashMap::new(),
            sights: HashMap::new(),
            hours: nouns(draft.hours),
            season: ArcSwapOption::empty(),
            memo: Memo::default(),
        };
        let mut claims: Vec<String> =
            set.roles.iter().flat_map(|role| &role.claims).map(|claim| claim.path.clone()).collect();
        claims.sort_unstable();
        claims.dedup();
        set.providers.iter_mut().for_each(|provider| provider.claims.clone_from(&claims));
        let masks: Vec<Arc<Mask>> = draft.masks.into_iter().map(|entry| Arc::new(entry.noun)).collect();
        for extract in nouns(draft.extracts) {
            set.extracts.entry(extract.target.clone()).or_default().push(extract);
        }
        set.index_rules(&rules, &masks, problems);
        for target in &set.targets {
            let here = masks.iter().filter(|mask| mask.targets.contains(&target.name));
            set.masks.insert(target.name.clone(), here.cloned().collect());
            let about = rules.iter().filter(|rule| is_about(rule, target)).map(|rule| &rule.policy);
            set.sights.insert(target.name.clone(), Sight::of(about));
        }
        set.rules = rules.into_iter().map(|rule| (rule.id.clone(), rule)).collect();
        set
    }

    fn index_rules(&mut self, rules: &[Arc<Rule>], masks: &[Arc<Mask>], problems: &RefCell<Problems>) {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        for target in &self.targets {
            let mut slots = HashMap::new();
            for action in self.actions(target) {
                let here = rules.iter().filter(|rule| rule.covers_action(&action) && is_about(rule, target));
                let here: Vec<&Arc<Rule>> = here.collect();
                reached.extend(here.iter().map(|rule| rule.id.as_str()));
                slots.insert(action, slot(&here));
            }
            self.by_target.insert(target.name.clone(), slots);
        }
        for mask in masks {
            let here: Vec<&Arc<Rule>> =
                rules.iter().filter(|rule| rule.covers_action("reveal") && reveals(rule, mask)).collect();
            reached.extend(here.iter().map(|rule| rule.id.as_str()));
            self.by_mask.insert(mask.name.clone(), slot(&here));
        }
        for rule in rules {
            if let Some(problem) = self.misplaced(rule, reached.contains(rule.id.as_str())) {
                problems.borrow_mut().push(problem);
            }
        }
    }

    /// The actions that are ever asked about a target.
    fn actions(&self, target: &Target) -> Vec<String> {
        let mut actions: Vec<String> =
            self.operations_declared(&target.name).map(|op| op.name.clone()).collect();
        if actions.is_empty() {
            actions.push("http".to_owned());
        }
        actions.push("open".to_owned());
        actions
    }

    fn misplaced(&self, rule: &Rule, reached: bool) -> Option<Problem> {
        let declaring = self
            .targets
            .iter()
            .find(|target| is_about(rule, target) && self.operations_declared(&target.name).next().is_some());
        if let Some(target) = declaring.filter(|_| rule.names_action("http")) {
            let text =
                format!("`{}` declares operations, so Action::\"http\" is never asked about it", target.name);
            return Some(Problem::at(&rule.place, text).help(
                "name the operations, or write `action in Action::\"request\"` for all of them; \
                 a rule about other targets must name those",
            ));
        }
        if rule.approval.is_some() && rule.names_action("reveal") {
            let text = "`@approval` on `reveal` is not supported yet";
            return Some(Problem::at(&rule.place, text).help("forbid it outright, or permit it to fewer"));
        }
        if reached || !rule.sound {
            return None;
        }
        let text = "this rule can never match: none of its actions exists on any of its targets or masks";
        let elsewhere: Vec<String> = self
            .operations
            .iter()
            .filter(|op| rule.names_action(&op.name))
            .map(|op| format!("`{}` is declared for `{}`", op.name, op.target))
            .collect();
        let problem = Problem::at(&rule.place, text);
        Some(if elsewhere.is_empty() { problem } else { problem.help(elsewhere.join(", ")) })
    }

    /// Its digest: the same files give the same one.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The Cedar schema its rules were checked against.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// What was passed over when it was read, one sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The detectors it declares.
    #[must_use]
    pub fn detectors(&self) -> &[Arc<DetectorNoun>] {
        &self.detectors
    }

    /// Its targets.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// One target.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == name)
    }

    /// The target that a connection to this address belongs to. At most one does.
    #[must_use]
    pub fn target_at(&self, direction: Direction, to: SocketAddr) -> Option<&Target> {
        self.targets.iter().find(|target| {
            target.direction == direction && target.ports.contains(&to.port()) && is_at(target, to.ip())
        })
    }

    /// The outbound target that a guarded process reaches by this name: an exact one, else the one with the longest
    /// `*.` pattern.
    #[must_use]
    pub fn target_named(&self, host: &str, port: u16) -> Option<&Target> {
        let host = host.to_ascii_lowercase();
        let outbound = self.targets.iter().filter(|target| target.direction == Direction::Outbound);
        let fits = |pattern: &String| match pattern.strip_prefix('*') {
            Some(end) => (host.len() > end.len() && host.ends_with(end)).then_some(end.len()),
            None => (*pattern == host).then_some(usize::MAX),
        };
        outbound
            .filter(|target| target.ports.contains(&port))
            .filter_map(|target| target.hosts.iter().filter_map(fits).max().map(|rank| (rank, target)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, target)| target)
    }

    /// Its guards.
    #[must_use]
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Who stays outside the gate.
    #[must_use]
    pub fn exempts(&self) -> &[Exempt] {
        &self.exempts
    }

    /// Its roles.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Its persons.
    #[must_use]
    pub fn persons(&self) -> &[Person] {
        &self.persons
    }

    /// Its identity providers.
    #[must_use]
    pub fn providers(&self) -> &[IdentityProvider] {
        &self.providers
    }

    /// Takes in the rules for when approvers cannot be reached.
    ///
    /// # Errors
    /// They ask for approval themselves, or no approval ever turns to them.
    pub(super) fn arm(&mut self, safe: Self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for rule in safe.rules.values().filter(|rule| rule.approval.is_some()) {
            let text = "`@approval` in safe-mode/, where nobody can be asked";
            problems.push(Problem::at(&rule.place, text).help("forbid it outright, or remove the rule"));
        }
        if !self.approvals.iter().any(|approval| approval.on_unavailable == OnUnavailable::SafeMode) {
            let text = "safe-mode/ is there, and no approval has `on_unavailable = \"safe-mode\"`";
            problems.push(Problem::whole(text).help("remove the directory, or name it in an approval"));
        }
        if !problems.is_empty() {
            problems.sort();
            return Err(problems);
        }
        self.safe = Some(Box::new(safe));
        Ok(())
    }

    /// Whether nothing refers to rules that are not there.
    ///
    /// # Errors
    /// An approval turns to a safe mode that has no rules.
    pub(super) fn is_whole(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let wanting =
            self.approvals.iter().filter(|approval| approval.on_unavailable == OnUnavailable::SafeMode);
        for approval in wanting {
            let text = format!(
                "`{}` turns to safe-mode/ when nobody can be asked, and there is none",
                approval.name
            );
            problems.push(
                Problem::whole(text).help("make the directory, with rules in *.cedar, or write \"deny\""),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The rules for when approvers cannot be reached, over the same nouns.
    #[must_use]
    pub fn safe_mode(&self) -> Option<&Self> {
        self.safe.as_deref()
    }

    /// Where people hear of demands.
    #[must_use]
    pub fn notifies(&self) -> &[Notify] {
        &self.notifies
    }

    /// Its approvals.
    #[must_use]
    pub fn approvals(&self) -> &[Approval] {
        &self.approvals
    }

    /// One approval.
    #[must_use]
    pub fn approval(&self, name: &str) -> Option<&Approval> {
        self.approvals.iter().find(|approval| approval.name == name)
    }

    /// Whether this person is among those who may grant this approval.
    #[must_use]
    pub fn may_approve(&self, person: &Person, approval: &Approval) -> bool {
        may_approve(person, approval)
    }

    /// The person who logs in with this uid.
    #[must_use]
    pub fn person_with_uid(&self, uid: u32) -> Option<&Person> {
        self.persons.iter().find(|person| person.uid == Some(uid))
    }

    /// Its hours.
    #[must_use]
    pub fn hours(&self) -> &[Hours] {
        &self.hours
    }

    /// The stretch of time around a moment in which nothing that a decision depends on changes by itself.
    pub(super) fn season(&self, at: Timestamp) -> Arc<Season> {
        if let Some(known) = self.season.load_full().filter(|known| known.holds(at)) {
            return known;
        }
        let ends = self.rules.values().filter_map(|rule| rule.until);
        let season = Arc::new(Season::at(at, ends, &self.hours));
        self.season.store(Some(Arc::clone(&season)));
        season
    }

    /// Whether some role is had by a static key.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.roles.iter().any(|role| !role.keys.is_empty())
    }

    /// Digests of static keys, each with the header field it comes in; `None`: as a bearer token.
    pub fn keys(&self) -> impl Iterator<Item = (Option<&str>, &Sha256)> {
        self.roles.iter().flat_map(|role| role.keys.iter().map(|key| (role.key_header.as_deref(), key)))
    }

    /// The header fields that static keys come in, lower case, each once.
    #[must_use]
    pub fn key_headers(&self) -> BTreeSet<&str> {
        self.roles.iter().filter_map(|role| role.key_header.as_deref()).collect()
    }

    /// The header fields that extracts of a target look at, in lower case.
    #[must_use]
    pub fn headers_looked_at(&self, target: &str) -> Vec<String> {
        let sources = self.extracts_of(target).iter().flat_map(|extract| &extract.from);
        let header = |source: &Source| match source {
            Source::Header(name) => Some(name.clone()),
            Source::Body(_) | Source::Query(_) => None,
        };
        sources.filter_map(header).collect()
    }

    /// All masks of a target, in the order of their files.
    #[must_use]
    pub fn masks_of(&self, target: &str) -> &[Arc<Mask>] {
        self.masks.get(target).map_or(&[], Vec::as_slice)
    }

    /// The extracts of a target.
    #[must_use]
    pub fn extracts_of(&self, target: &str) -> &[Extract] {
        self.extracts.get(target).map_or(&[], Vec::as_slice)
    }

    /// All rewrites, in the order of their files.
    pub(super) fn rewrites(&self) -> &[Arc<Rewrite>] {
        &self.rewrites
    }

    /// All credentials, in the order of their files.
    #[must_use]
    pub fn credentials(&self) -> &[Arc<Credential>] {
        &self.credentials
    }

    /// The operations a target declares.
    pub fn operations_declared<'a>(&'a self, target: &str) -> impl Iterator<Item = &'a OperationNoun> {
        self.operations.iter().filter(move |operation| operation.target == target)
    }

    /// The declared operations that a request is, with what the captures caught; once for each pattern that matches, so
    /// that no rule about a capture is missed. Empty where it is none of them, and where the target declares none.
    #[must_use]
    pub fn classify<'a>(
        &'a self,
        target: &str,
        method: &str,
        path: &str,
    ) -> Vec<(&'a OperationNoun, Captures<'a>)> {
        let operations = self.operations_declared(target).filter(|op| op.has_method(method));
        let mut found = Vec::new();
        for operation in operations {
            for caught in operation.paths.iter().filter_map(|pattern| pattern.catch(path)) {
                if !found.contains(&(operation, caught.clone())) {
                    found.push((operation, caught));
                }
            }
        }
        found
    }

    /// How many rules it has.
    #[must_use]
    pub fn rules_count(&self) -> usize {
        self.rules.len()
    }

    /// Digest of a rule's text, by its id `file#id`: whether it is still the rule that was asked.
    #[must_use]
    pub fn rule_digest(&self, id: &str) -> Option<Sha256> {
        Some(Sha256::of(self.rule(id)?.policy.to_string().as_bytes()))
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    pub(super) fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.get(id)
    }

    pub(super) fn slot(&self, target: &str, action: &str) -> Option<&Slot> {
        self.by_target.get(target)?.get(action)
    }

    /// Whether a rule about this target may look at the query.
    #[must_use]
    pub fn looks_at_query(&self, target: &str) -> bool {
        self.sight(target).query
    }

    /// What the rules about this target look at.
    pub(super) fn sight(&self, target: &str) -> Sight {
        self.sights.get(target).copied().unwrap_or_default()
    }

    pub(super) fn mask_slot(&self, mask: &str) -> Option<&Slot> {
        self.by_mask.get(mask)
    }
}

/// What a pattern's captures caught: name and segment, as sent.
pub type Captures<'a> = Vec<(&'a str, String)>;

impl OperationNoun {
    fn has_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|declared| declared == method)
    }
}

impl PathPattern {
    /// What the captures catch, where the pattern matches the whole path. Segments are compared byte for byte; a capture
    /// takes one segment that is not empty; `**` takes all that remain, also none.
    #[must_use]
    pub fn catch(&self, path: &str) -> Option<Captures<'_>> {
        let mut segments = segments(path)?.into_iter();
        let mut caught = Vec::new();
        for part in &self.parts {
            match part {
                PathPart::Rest => return Some(caught),
                PathPart::Literal(text) => {
                    segments.next().filter(|segment| segment == text)?;
                }
                PathPart::Capture(name) => {
                    let segment = segments.next().filter(|segment| !segment.is_empty())?;
                    caught.push((name.as_str(), segment.to_owned()));
                }
            }
        }
        segments.next().is_none().then_some(caught)
    }
}

/// The segments of a path; none for `/`. `None` for what is no path.
pub(super) fn segments(path: &str) -> Option<Vec<&str>> {
    match path.strip_prefix('/')? {
        "" => Some(Vec::new()),
        rest => Some(rest.split('/').collect()),
    }
}

fn is_at(target: &Target, address: IpAddr) -> bool {
    let everywhere = target.direction == Direction::Inbound && target.addresses.is_empty();
    everywhere || target.addresses.iter().any(|block| block.contains(address))
}

fn slot(rules: &[&Arc<Rule>]) -> Slot {
    let half = |permits: bool| {
        Half::of(rules.iter().filter(|rule| rule.permits() == permits).map(|rule| rule.policy.clone()))
    };
    Slot { permits: half(true), forbids: half(false) }
}

pub(super) fn is_about(rule: &Rule, target: &Target) -> bool {
    let within = |uid: &EntityUid| {
        let name: &str = uid.id().as_ref();
        match uid.type_name().to_string().as_str() {
            "Target" => name == target.name,
            "Label" => target.labels.iter().any(|label| label == name),
            _ => false,
        }
    };
    match rule.policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(kind) => kind.to_string() == "Target",
        ResourceConstraint::Eq(uid) => uid.type_name().to_string() == "Target" && within(&uid),
        ResourceConstraint::In(uid) => within(&uid),
        ResourceConstraint::IsIn(kind, uid) => kind.to_string() == "Target" && within(&uid),
    }
}

fn reveals(rule: &Rule, mask: &Mask) -> bool {
    let this = |uid: &EntityUid| {
        let name: &str = uid.id().as_ref();
        uid.type_name().to_string() == "Mask" && name == mask.name
    };
    match rule.policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(kind) => kind.to_string() == "Mask",
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => this(&uid),
        ResourceConstraint::IsIn(kind, uid) => kind.to_string() == "Mask" && this(&uid),
    }
}
