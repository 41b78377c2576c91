//! Roles by what a user showed: claims, a short life, a static key. Most of these are not had.

use super::*;
use crate::operation::Sha256;

const ROLES: &str = r#"
[[target]]
name = "api"
direction = "inbound"
ports = [82]
require = "user"

[[role]]
name = "ml"
claims = { department = ["ml", "research"], mfa = true }

[[role]]
name = "brief"
groups = ["ops"]
max_token_life = "15m"

[[role]]
name = "level"
claims = { level = 3 }
provider = "corp"

[[role]]
name = "batch"
key_sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
"#;

/// Whether the user has the role.
fn has(role: &str, who: impl Fn(&mut Sample)) -> bool {
    let rule = format!(
        "permit (principal in Role::\"{role}\", action == Action::\"http\", resource == Target::\"api\");"
    );
    let set = set_of(&format!("{NOUNS}{ROLES}"), &rule);
    let mut sample = Sample { uid: None, user: Some("ann".into()), ..request("api", "GET", "/") };
    who(&mut sample);
    ask(&set, &sample, &[]).answer == Answer::Allow
}

fn claims(sample: &mut Sample, claims: &[(&str, &str)]) {
    sample.claims =
        claims.iter().map(|(path, value)| ((*path).to_owned(), vec![(*value).to_owned()])).collect();
}

#[test]
fn every_claim_that_a_role_names_must_be_there_with_one_of_its_values() {
    assert!(has("ml", |sample| claims(sample, &[("department", "\"ml\""), ("mfa", "true")])));
    assert!(has("ml", |sample| claims(sample, &[("mfa", "true"), ("department", "\"research\"")])));
    for wrong in [
        &[("department", "\"ml\"")][..],
        &[("mfa", "true")],
        &[("department", "\"sales\""), ("mfa", "true")],
        &[("department", "\"ml\""), ("mfa", "false")],
        // The text is not the truth value.
        &[("department", "\"ml\""), ("mfa", "\"true\"")],
        &[],
    ] {
        assert!(!has("ml", |sample| claims(sample, wrong)), "{wrong:?}");
    }
    assert!(has("level", |sample| claims(sample, &[("level", "3")])));
    assert!(!has("level", |sample| claims(sample, &[("level", "\"3\"")])));
}

#[test]
fn a_token_that_lives_longer_than_the_role_allows_does_not_give_it() {
    let with = |life: Option<i64>, group: &str| {
        let group = group.to_owned();
        has("brief", move |sample| (sample.token_life, sample.groups) = (life, vec![group.clone()]))
    };
    assert!(with(Some(900), "ops"));
    assert!(!with(Some(901), "ops"));
    assert!(!with(None, "ops"), "nobody knows how long it lives");
    assert!(!with(Some(-1), "ops"));
    assert!(!with(Some(900), "dev"));
}

#[test]
fn a_static_key_has_its_roles_and_no_others() {
    let key = Sha256::of(b"secret");
    assert_eq!(key.to_string(), "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b");
    let shown = |key: Sha256| move |sample: &mut Sample| (sample.user, sample.key) = (None, Some(key));
    assert!(has("batch", shown(key)));
    assert!(!has("batch", shown(Sha256::of(b"Secret"))));
    assert!(!has("batch", |_| {}));
    for role in ["ml", "brief", "level", "corp-staff", "one"] {
        assert!(!has(role, shown(key)), "{role}");
    }
}

#[test]
fn memory_of_a_decision_tells_one_proof_from_another() {
    let rules = "permit (principal in Role::\"brief\", action == Action::\"http\", resource == Target::\"api\");\n\
                 permit (principal in Role::\"ml\", action == Action::\"http\", resource == Target::\"api\");";
    let set = set_of(&format!("{NOUNS}{ROLES}"), rules);
    let sample = Sample {
        uid: None,
        user: Some("ann".into()),
        groups: vec!["ops".into()],
        ..request("api", "GET", "/")
    };
    // `ask` also recalls, twice each.
    for (life, answer) in [(60, Answer::Allow), (6000, Answer::Deny), (60, Answer::Allow)] {
        assert_eq!(ask(&set, &Sample { token_life: Some(life), ..sample.clone() }, &[]).answer, answer);
    }
    for (mfa, answer) in [("false", Answer::Deny), ("true", Answer::Allow)] {
        let mut sample = sample.clone();
        claims(&mut sample, &[("department", "\"ml\""), ("mfa", mfa)]);
        assert_eq!(ask(&set, &sample, &[]).answer, answer);
    }
}
