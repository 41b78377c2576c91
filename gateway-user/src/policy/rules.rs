//! The rules of all `*.cedar` files: parsed one file at a time, named, and validated strictly against the schema.
//!
//! Refuses annotations it does not know, names that no file declares, and rules that can never match.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, Schema, ValidationMode,
    ValidationWarning, Validator,
};
use jiff::Timestamp;
use miette::Diagnostic;

use super::attributes;
use super::declare::Draft;
use super::files::{FileKind, Files, PolicyFile};
use super::hours;
use super::lex::{Statement, excess, statements};
use super::parse;
use super::problem::{Place, Problem, Problems, did_you_mean};
use super::when;

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// `file#id`.
    pub id: String,
    /// The rule, under that id.
    pub policy: Policy,
    /// The approval that lifts it. Only a forbid has one.
    pub approval: Option<String>,
    /// What the client is told when it denies.
    pub message: Option<String>,
    /// From when on it is as if it were not there.
    pub until: Option<Timestamp>,
    /// Where it stands.
    pub place: Place,
    /// Whether Cedar and its names are right. Where they are not, that is already reported, and that it never matches is
    /// no second mistake.
    pub sound: bool,
}

impl Rule {
    /// Whether it permits.
    pub(super) fn permits(&self) -> bool {
        self.policy.effect() == Effect::Permit
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self, at: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= at)
    }

    /// Whether its action constraint names this action itself, not a group it is in.
    pub(super) fn names_action(&self, action: &str) -> bool {
        match self.policy.action_constraint() {
            ActionConstraint::Any => false,
            ActionConstraint::Eq(uid) => is_action(&uid, action),
            ActionConstraint::In(uids) => uids.iter().any(|uid| is_action(uid, action)),
        }
    }

    /// Whether its action constraint lets this action through. `request` is the group of all but `open` and `reveal`.
    pub(super) fn covers_action(&self, action: &str) -> bool {
        let grouped = !matches!(action, "open" | "reveal");
        match self.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => is_action(&uid, action),
            ActionConstraint::In(uids) => {
                uids.iter().any(|uid| is_action(uid, action) || (grouped && is_action(uid, "request")))
            }
        }
    }
}

fn is_action(uid: &EntityUid, action: &str) -> bool {
    let id: &str = uid.id().as_ref();
    id == action
}

/// Reads the rules of all files against a schema. Without one (the nouns could not be read) only their syntax is checked.
pub(super) fn read(
    files: &Files,
    (text, schema): (&str, Option<&Schema>),
    draft: &Draft,
    problems: &RefCell<Problems>,
) -> Vec<Arc<Rule>> {
    let names = Names::of(draft);
    let context = attributes::known(text);
    let mut ids: BTreeMap<String, Place> = BTreeMap::new();
    let mut rules = Vec::new();
    for file in files.of(FileKind::Rules) {
        let Some(set) = parse_file(file, problems) else { continue };
        if let Some(schema) = schema {
            let context = &context;
            let mut read = File { file, names: &names, context, ids: &mut ids, problems, found: Vec::new() };
            read.rules(&set, schema);
            rules.append(&mut read.found);
        }
    }
    rules
}

fn parse_file(file: &PolicyFile, problems: &RefCell<Problems>) -> Option<PolicySet> {
    if let Some((span, what)) = excess(file.source.text()) {
        let problem = Problem::at(&file.source.place(span), what);
        problems.borrow_mut().push(problem.help("make several rules of it, or put names into a set"));
        return None;
    }
    match PolicySet::from_str(file.source.text()) {
        Ok(set) => Some(set),
        Err(errors) => {
            for error in errors.iter() {
                problems.borrow_mut().push(of_cedar(file, error, 0..0));
            }
            None
        }
    }
}

/// What Cedar says, at the place where it says it; at `else_at` where it names none.
fn of_cedar(file: &PolicyFile, error: &dyn Diagnostic, else_at: std::ops::Range<usize>) -> Problem {
    let label = error.labels().and_then(|mut labels| labels.next());
    let span = label.as_ref().map_or(else_at, |label| label.offset()..label.offset() + label.len());
    let message = error.to_string();
    let message = message.split_once(", ").map_or(message.as_str(), |(head, tail)| {
        // Cedar starts with "for policy `policy3`, ..."; the caret says which policy.
        if head.starts_with("for policy `") { tail } else { message.as_str() }
    });
    let problem =
        Problem::at(&file.source.place(span), message).help_if(error.help().map(|help| help.to_string()));
    match label.as_ref().and_then(|label| label.label()) {
        Some(text) => problem.label(text),
        None => problem,
    }
}

/// Names that rules may use, by entity type.
struct Names<'a>(BTreeMap<&'static str, BTreeSet<&'a str>>);

impl<'a> Names<'a> {
    fn of(draft: &'a Draft) -> Self {
        let labels = draft.targets.iter().flat_map(|entry| entry.noun.labels.iter().map(String::as_str));
        Self(BTreeMap::from([
            ("Target", draft.targets.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Role", draft.roles.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Guard", draft.guards.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Mask", draft.masks.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Approval", draft.approvals.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Hours", draft.hours.iter().map(|entry| entry.noun.name.as_str()).collect()),
            ("Label", labels.collect()),
        ]))
    }

    fn missing(&self, kind: &str, name: &str) -> Option<Option<String>> {
        let known = self.0.get(kind)?;
        (!known.contains(name)).then(|| did_you_mean(name, known.iter().copied()))
    }
}

/// One file while its rules are read.
struct File<'a> {
    file: &'a PolicyFile,
    names: &'a Names<'a>,
    /// The attributes that `context` has for some action.
    context: &'a BTreeSet<String>,
    ids: &'a mut BTreeMap<String, Place>,
    problems: &'a RefCell<Problems>,
    found: Vec<Arc<Rule>>,
}

impl File<'_> {
    fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn place(&self, span: &std::ops::Range<usize>) -> Place {
        self.file.source.place(span.clone())
    }

    fn rules(&mut self, set: &PolicySet, schema: &Schema) {
        let statements = statements(self.file.source.text());
        let verdict = Validator::new(schema.clone()).validate(set, ValidationMode::Strict);
        let mut unsound: BTreeSet<String> = BTreeSet::new();
        let span = |id: &str| {
            let index = id.strip_prefix("policy").and_then(|index| index.parse::<usize>().ok());
            index.and_then(|index| statements.get(index)).map_or(0..0, |statement| statement.span.clone())
        };
        for error in verdict.validation_errors() {
            let id = error.policy_id().to_string();
            self.report(of_cedar(self.file, error, span(&id)));
            unsound.insert(id);
        }
        for (index, statement) in statements.iter().enumerate() {
            let id = format!("policy{index}");
            let policy = set.policy(&PolicyId::new(&id)).filter(|_| !unsound.contains(&id));
            if policy.is_some_and(|policy| !self.attributes(policy, statement)) {
                unsound.insert(id);
            }
        }
        let nowhere =
            |warning: &&ValidationWarning| matches!(warning, ValidationWarning::InvalidActionApplication(_));
        let nowhere: BTreeSet<_> = verdict
            .validation_warnings()
            .filter(nowhere)
            .map(|warning| warning.policy_id().to_string())
            .collect();
        for warning in verdict.validation_warnings() {
            let id = warning.policy_id().to_string();
            // That a rule never matches is no second mistake, where it has an error or no action at all.
            let known = matches!(warning, ValidationWarning::ImpossiblePolicy(_)) && nowhere.contains(&id);
            if !unsound.contains(&id) && !known {
                self.report(of_cedar(self.file, warning, span(&id)));
            }
        }
        unsound.extend(verdict.validation_warnings().map(|warning| warning.policy_id().to_string()));
        for (index, statement) in statements.iter().enumerate() {
            let id = format!("policy{index}");
            let sound = self.literals(statement) && !unsound.contains(&id);
            match set.policy(&PolicyId::new(id)) {
                Some(policy) => self.rule(index, policy, statement, sound),
                None => self.report(
                    Problem::at(&self.place(&statement.span), "templates are not rules")
                        .help("name the principal and the resource instead of ?principal and ?resource"),
                ),
            }
        }
    }

    fn rule(&mut self, index: usize, policy: &Policy, statement: &Statement, sound: bool) {
        let place = self.place(&statement.span);
        self.annotations(policy, statement);
        let sound = self.hours(policy, statement) && sound;
        let id = match policy.annotation("id") {
            Some(id) => self.id(id, statement),
            None => format!("policy{index}"),
        };
        let id = format!("{}#{id}", self.file.name);
        self.found.push(Arc::new(Rule {
            policy: policy.new_id(PolicyId::new(&id)),
            id,
            approval: policy.annotation("approval").map(str::to_owned),
            message: policy.annotation("message").map(str::to_owned),
            until: policy.annotation("until").and_then(|text| when::end(text).ok()),
            place,
            sound,
        }));
    }

    fn id(&mut self, id: &str, statement: &Statement) -> String {
        let at = self.annotation_place(statement, "id");
        if let Err(misread) = parse::name(id) {
            self.report(Problem::at(&at, misread.message).help_if(misread.help));
        }
        if let Some(first) = self.ids.get(id) {
            let twice = Problem::at(&at, format!("there are two rules with the id `{}`", id.escape_debug()));
            self.report(twice.also(first, "first here").help("rename one of them"));
        } else {
            self.ids.insert(id.to_owned(), at);
        }
        id.to_owned()
    }

    fn annotation_place(&self, statement: &Statement, name: &str) -> Place {
        let found = statement.annotations.iter().find(|(found, _)| found == name);
        self.place(found.map_or(&statement.span, |(_, span)| span))
    }

    fn annotations(&self, policy: &Policy, statement: &Statement) {
        for (name, value) in policy.annotations() {
            let at = self.annotation_place(statement, name);
            match name {
                "id" => {}
                "message" if value.is_empty() => self.report(Problem::at(&at, "`@message` says nothing")),
                "message" => {}
                "approval" => self.approval(policy, value, &at),
                "until" => {
                    if let Err(misread) = when::end(value) {
                        self.report(Problem::at(&at, misread.message).help_if(misread.help));
                    }
                }
                _ => {
                    let unknown = Problem::at(&at, format!("there is no annotation `@{name}`"));
                    self.report(unknown.help_if(did_you_mean(name, ["id", "approval", "message", "until"])));
                }
            }
        }
    }

    fn approval(&self, policy: &Policy, name: &str, at: &Place) {
        if policy.effect() == Effect::Permit {
            self.report(
                Problem::at(at, "`@approval` on a `permit` holds nothing")
                    .help("an approval lifts a `forbid`: write the rule that needs lifting as one"),
            );
        }
        if let Some(near) = self.names.missing("Approval", name) {
            self.report(
                Problem::at(at, format!("no `approval` is called `{}`", name.escape_debug())).help_if(near),
            );
        }
    }

    /// Every attribute of `context` that a rule asks for must be one: to Cedar, `has` with a misspelt name is a plain no.
    fn attributes(&self, policy: &Policy, statement: &Statement) -> bool {
        let mut known = true;
        for name in attributes::asked(policy) {
            if !self.context.contains(&name) {
                let what = format!("`context` never has `{}`", name.escape_debug());
                let near = did_you_mean(&name, self.context.iter().map(String::as_str));
                self.report(Problem::at(&self.place(&statement.span), what).help_if(near));
                known = false;
            }
        }
        known
    }

    /// Every name that `context.hours` is compared with must be declared.
    fn hours(&self, policy: &Policy, statement: &Statement) -> bool {
        let Some(names) = hours::named(policy) else {
            let unclear =
                Problem::at(&self.place(&statement.span), "it cannot be told which hours this rule means");
            self.report(unclear.help(
                "write their names out: context.hours.contains(\"office\"), .containsAny([\"office\", \"night\"])",
            ));
            return false;
        };
        let mut known = true;
        for name in names {
            let Some(near) = self.names.missing("Hours", &name) else { continue };
            let quoted = format!("\"{name}\"");
            let found = self.file.source.text()[statement.span.clone()].find(&quoted);
            let span = found.map_or(statement.span.clone(), |at| {
                statement.span.start + at..statement.span.start + at + quoted.len()
            });
            let unknown = format!("no `hours` are called `{}`", name.escape_debug());
            self.report(Problem::at(&self.place(&span), unknown).help_if(near));
            known = false;
        }
        known
    }

    /// Every role, target, guard, label and mask that a rule names must be declared: Cedar itself cannot know them.
    fn literals(&self, statement: &Statement) -> bool {
        let mut known = true;
        for span in &statement.literals {
            let Ok(uid) = EntityUid::from_str(&self.file.source.text()[span.clone()]) else { continue };
            let (kind, name): (String, &str) = (uid.type_name().to_string(), uid.id().as_ref());
            if let Some(near) = self.names.missing(&kind, name) {
                let what = match kind.as_str() {
                    "Label" => format!("no target has the label `{}`", name.escape_debug()),
                    kind => format!("no `{}` is called `{}`", kind.to_lowercase(), name.escape_debug()),
                };
                self.report(Problem::at(&self.place(span), what).help_if(near));
                known = false;
            }
        }
        known
    }
}
