//! A question in Cedar's words: who asks, as what, about what, under which circumstances. Built directly, not from JSON.
//!
//! A user gets no role of the process and the process none of the user: each is matched by its own ways only.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};

use crate::operation::{Attribute, Direction, HttpRequest, Kind, Operation, Subject, User, Workload};

use super::nouns::{ExecutableMatch, Require, Role, Target};
use super::set::{Captures, Set, segments};
use super::when::Season;

/// Why nobody stands as the principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nobody {
    /// The target requires a user and none is proven.
    User,
    /// The target requires a local process and none is known.
    Workload,
}

/// Who asks, once the target has said whom it admits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Principal<'a> {
    /// A user.
    User(&'a User),
    /// A process.
    Workload(&'a Workload),
    /// Only an address.
    Peer(IpAddr),
}

/// The principal that a target wants to see of a subject.
pub(super) fn principal<'a>(target: &Target, subject: &'a Subject) -> Result<Principal<'a>, Nobody> {
    let user = subject.user.as_ref().map(Principal::User).ok_or(Nobody::User);
    let workload = subject.workload.as_deref().map(Principal::Workload).ok_or(Nobody::Workload);
    match target.require {
        Require::User => user,
        Require::Workload => workload,
        Require::Both => workload.and(user),
        Require::Peer => Ok(workload.unwrap_or(Principal::Peer(subject.peer.ip().to_canonical()))),
        Require::Unstated if target.direction == Direction::Inbound && subject.workload.is_none() => user,
        Require::Unstated => workload,
    }
}

impl Set {
    /// Who a target takes this subject for, as rules name it, and the roles that one has; `None` where nobody may ask.
    #[must_use]
    pub fn principal_of(&self, target: &Target, subject: &Subject) -> Option<(String, Vec<String>)> {
        let principal = principal(target, subject).ok()?;
        let roles = principal.roles(self.roles()).into_iter().map(str::to_owned).collect();
        Some((principal.uid().to_string(), roles))
    }
}

impl Principal<'_> {
    pub(super) fn uid(&self) -> EntityUid {
        match self {
            Self::User(user) => uid(&TYPES.user, &format!("{}/{}", user.provider, user.subject)),
            Self::Workload(workload) => uid(&TYPES.workload, &workload.key()),
            Self::Peer(address) => uid(&TYPES.peer, &address.to_string()),
        }
    }

    /// The roles it has.
    pub(super) fn roles<'r>(&self, roles: &'r [Role]) -> Vec<&'r str> {
        let has = |role: &&Role| match self {
            Self::User(user) => user_has(role, user),
            Self::Workload(workload) => workload_has(role, workload),
            Self::Peer(_) => false,
        };
        roles.iter().filter(has).map(|role| role.name.as_str()).collect()
    }
}

/// A role is a user's by the key that was shown; or by a token, of which everything is asked that the role names: one of
/// its groups, all of its claims, the provider, a short life.
fn user_has(role: &Role, user: &User) -> bool {
    if let Some(key) = &user.proof.key {
        return role.keys.contains(key);
    }
    let named = !role.groups.is_empty() || !role.claims.is_empty() || role.provider.is_some();
    let provider = role.provider.as_ref().is_none_or(|provider| *provider == user.provider);
    let group = role.groups.is_empty() || role.groups.iter().any(|group| user.groups.contains(group));
    let claims = role.claims.iter().all(|wanted| {
        let shown = user.proof.claims.iter().filter(|(path, _)| *path == wanted.path);
        shown.flat_map(|(_, values)| values).any(|value| wanted.any.contains(value))
    });
    let life = role.max_token_life.is_none_or(|most| {
        let life = user.proof.life.and_then(|life| u64::try_from(life).ok());
        life.is_some_and(|life| life <= most.as_secs())
    });
    named && provider && group && claims && life
}

/// A role is a process's by unit or uid, narrowed to executables where some are named.
fn workload_has(role: &Role, workload: &Workload) -> bool {
    let unit = workload.units().any(|unit| role.units.iter().any(|named| named == unit));
    let uid = role.uids.contains(&workload.uid);
    let program = role.executables.is_empty()
        || workload.executable.as_ref().is_some_and(|running| {
            role.executables.iter().any(|named| match named {
                ExecutableMatch::Path(path) => *path == running.path,
                ExecutableMatch::Digest(digest) => *digest == running.sha256,
            })
        });
    (unit || uid) && program
}

/// The entity types of the schema, parsed once: Cedar's parser is slower than a whole decision.
struct Types {
    user: EntityTypeName,
    workload: EntityTypeName,
    peer: EntityTypeName,
    role: EntityTypeName,
    unit: EntityTypeName,
    container: EntityTypeName,
    guard: EntityTypeName,
    target: EntityTypeName,
    label: EntityTypeName,
    mask: EntityTypeName,
    direction: EntityTypeName,
    action: EntityTypeName,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| Types {
    user: type_name("User"),
    workload: type_name("Workload"),
    peer: type_name("Peer"),
    role: type_name("Role"),
    unit: type_name("Unit"),
    container: type_name("Container"),
    guard: type_name("Guard"),
    target: type_name("Target"),
    label: type_name("Label"),
    mask: type_name("Mask"),
    direction: type_name("Direction"),
    action: type_name("Action"),
});

#[expect(clippy::expect_used, reason = "called with plain identifiers only")]
fn type_name(kind: &str) -> EntityTypeName {
    kind.parse().expect("a plain identifier is a type name")
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(value: impl Into<String>) -> RestrictedExpression {
    RestrictedExpression::new_string(value.into())
}

fn address(value: IpAddr) -> RestrictedExpression {
    RestrictedExpression::new_ip(value.to_canonical().to_string())
}

/// Whom and what the question is about, in entities that Cedar can walk.
pub(super) struct Asked<'a> {
    pub(super) set: &'a Set,
    pub(super) target: &'a Target,
    pub(super) subject: &'a Subject,
    pub(super) principal: Principal<'a>,
    pub(super) guard: Option<&'a str>,
    pub(super) operation: &'a Operation,
    pub(super) season: &'a Season,
}

impl Asked<'_> {
    /// The entities of this question: principal, process, target with labels, action with its group.
    pub(super) fn entities(&self, action: &str) -> Result<Entities, String> {
        let mut all = Vec::with_capacity(4);
        match self.principal {
            Principal::User(user) => all.push(self.user(user)?),
            Principal::Peer(at) => {
                all.push(entity(self.principal.uid(), [("address", address(at))], HashSet::new())?)
            }
            Principal::Workload(_) => {}
        }
        if let Some(workload) = &self.subject.workload {
            all.push(self.workload(workload)?);
        }
        let labels = self.target.labels.iter().map(|label| uid(&TYPES.label, label)).collect();
        all.push(Entity::new_no_attrs(uid(&TYPES.target, &self.target.name), labels));
        let group =
            if matches!(action, "open" | "reveal") { None } else { Some(uid(&TYPES.action, "request")) };
        all.push(Entity::new_no_attrs(uid(&TYPES.action, action), group.into_iter().collect()));
        Entities::from_entities(all, None).map_err(|error| error.to_string())
    }

    fn roles(&self, principal: &Principal<'_>) -> impl Iterator<Item = EntityUid> {
        principal.roles(self.set.roles()).into_iter().map(|role| uid(&TYPES.role, role))
    }

    fn user(&self, user: &User) -> Result<Entity, String> {
        let groups = RestrictedExpression::new_set(user.groups.iter().map(text));
        let attributes =
            [("provider", text(&user.provider)), ("subject", text(&user.subject)), ("groups", groups)];
        let principal = Principal::User(user);
        entity(principal.uid(), attributes, self.roles(&principal).collect())
    }

    fn workload(&self, workload: &Workload) -> Result<Entity, String> {
        let principal = Principal::Workload(workload);
        let mut parents: HashSet<EntityUid> = self.roles(&principal).collect();
        parents.extend(workload.units().map(|unit| uid(&TYPES.unit, unit)));
        parents.extend(workload.container.as_ref().map(|id| uid(&TYPES.container, id)));
        parents.extend(self.guard.map(|guard| uid(&TYPES.guard, guard)));
        let mut attributes = vec![("uid", RestrictedExpression::new_long(i64::from(workload.uid)))];
        let login = workload.login_uid.map(|login| RestrictedExpression::new_long(i64::from(login)));
        attributes.extend(login.map(|login| ("login_uid", login)));
        let named = [("image", &workload.image), ("pod", &workload.pod)];
        attributes.extend(named.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?)))));
        if let Some(program) = &workload.executable {
            let fields = [
                ("path".to_owned(), text(&program.path)),
                ("sha256".to_owned(), text(program.sha256.to_string())),
            ];
            let record = RestrictedExpression::new_record(fields).map_err(|error| error.to_string())?;
            attributes.push(("executable", record));
        }
        entity(principal.uid(), attributes, parents)
    }

    /// The question whether `action` may be done to the target.
    pub(super) fn request(&self, action: &str, captures: &Captures<'_>) -> Result<Request, String> {
        let mut context = self.circumstances();
        match &self.operation.kind {
            Kind::Http(request) => {
                http(request, &mut context)?;
                let attributes = self.set.attributes_of(&self.target.name, action);
                let found = attributes.filter_map(|name| request.extracted.attributes.get_key_value(name));
                context.extend(found.map(|(name, value)| (name.clone(), attribute(value))));
            }
            Kind::Open { address: to, port } => {
                context.push(("address".to_owned(), address(*to)));
                context.push(("port".to_owned(), RestrictedExpression::new_long(i64::from(*port))));
            }
        }
        context.extend(captures.iter().map(|(name, value)| ((*name).to_owned(), text(value.clone()))));
        self.ask(action, uid(&TYPES.target, &self.target.name), context)
    }

    /// The question whether the principal may see what a mask hides.
    pub(super) fn reveal(&self, mask: &str) -> Result<Request, String> {
        let mut context = self.circumstances();
        let target = RestrictedExpression::new_entity_uid(uid(&TYPES.target, &self.target.name));
        context.push(("target".to_owned(), target));
        self.ask("reveal", uid(&TYPES.mask, mask), context)
    }

    fn ask(
        &self,
        action: &str,
        resource: EntityUid,
        context: Vec<(String, RestrictedExpression)>,
    ) -> Result<Request, String> {
        let context = Context::from_pairs(context).map_err(|error| error.to_string())?;
        Request::new(self.principal.uid(), uid(&TYPES.action, action), resource, context, None)
            .map_err(|error| error.to_string())
    }

    fn peer(&self) -> RestrictedExpression {
        let peer = self.subject.peer.ip();
        let kept = self.set.memo.addresses.get_or(peer.to_string().into_bytes(), || Ok(address(peer)));
        kept.map_or_else(|never: Infallible| match never {}, |kept| (*kept).clone())
    }

    fn circumstances(&self) -> Vec<(String, RestrictedExpression)> {
        let direction = match self.operation.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let entity = RestrictedExpression::new_entity_uid;
        let mut context = vec![
            ("peer".to_owned(), self.peer()),
            ("direction".to_owned(), entity(uid(&TYPES.direction, direction))),
            ("hours".to_owned(), RestrictedExpression::new_set(self.season.hours.iter().map(text))),
        ];
        context.extend(self.guard.map(|guard| ("guard".to_owned(), entity(uid(&TYPES.guard, guard)))));
        let workload = self.subject.workload.as_ref();
        context.extend(
            workload.map(|workload| ("workload".to_owned(), entity(Principal::Workload(workload).uid()))),
        );
        context
    }
}

fn entity(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = (&'static str, RestrictedExpression)>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, String> {
    let attributes: HashMap<String, RestrictedExpression> =
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid, attributes, parents).map_err(|error| error.to_string())
}

fn attribute(value: &Attribute) -> RestrictedExpression {
    match value {
        Attribute::String(value) => text(value),
        Attribute::Long(value) => RestrictedExpression::new_long(*value),
        Attribute::Bool(value) => RestrictedExpression::new_bool(*value),
        Attribute::Strings(values) => RestrictedExpression::new_set(values.iter().map(text)),
    }
}

fn http(request: &HttpRequest, context: &mut Vec<(String, RestrictedExpression)>) -> Result<(), String> {
    let segments = segments(&request.path).ok_or("the path does not start with `/`")?;
    context.push(("method".to_owned(), text(&request.method)));
    context.push(("host".to_owned(), text(&request.host)));
    context.push(("path".to_owned(), text(&request.path)));
    context.push(("segments".to_owned(), RestrictedExpression::new_set(segments.into_iter().map(text))));
    context.extend(request.query.as_ref().map(|query| ("query".to_owned(), text(query))));
    let length = request.body_length.map(|length| i64::try_from(length).unwrap_or(i64::MAX));
    context.extend(length.map(|length| ("body_length".to_owned(), RestrictedExpression::new_long(length))));
    Ok(())
}
