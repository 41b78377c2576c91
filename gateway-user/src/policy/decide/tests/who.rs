//! Who is judged: the principal the target requires, with its own roles and no one else's.

use super::*;

#[test]
fn each_target_gets_the_principal_it_requires_or_refuses() {
    let require = |word: &str, direction: &str| {
        let target = format!(
            "[[target]]\nname = \"t\"\ndirection = \"{direction}\"\nports = [9]\naddresses = [\"10.9.0.1\"]\n"
        );
        let line = if word.is_empty() { String::new() } else { format!("require = \"{word}\"\n") };
        set_of(&format!("{NOUNS}\n{target}{line}"), PERMIT)
    };
    let user = |sample: &mut Sample| sample.user = Some("ann".into());
    let process = |sample: &mut Sample| sample.uid = Some(1);
    let both = |sample: &mut Sample| {
        user(sample);
        process(sample);
    };
    let nobody = |_: &mut Sample| {};
    type Row<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Sample), Result<&'a str, Cause>);
    let cases: [Row<'_>; 18] = [
        ("user", "inbound", &nobody, Err(Cause::NoUser)),
        ("user", "inbound", &process, Err(Cause::NoUser)),
        ("user", "inbound", &both, Ok("User")),
        ("workload", "inbound", &user, Err(Cause::NoWorkload)),
        ("workload", "inbound", &both, Ok("Workload")),
        ("both", "inbound", &nobody, Err(Cause::NoWorkload)),
        ("both", "inbound", &user, Err(Cause::NoWorkload)),
        ("both", "inbound", &process, Err(Cause::NoUser)),
        ("both", "inbound", &both, Ok("User")),
        ("peer", "inbound", &nobody, Ok("Peer")),
        ("peer", "inbound", &user, Ok("Peer")),
        ("peer", "inbound", &both, Ok("Workload")),
        ("", "inbound", &nobody, Err(Cause::NoUser)),
        ("", "inbound", &user, Ok("User")),
        ("", "inbound", &both, Ok("Workload")),
        ("", "outbound", &nobody, Err(Cause::NoWorkload)),
        ("", "outbound", &user, Err(Cause::NoWorkload)),
        ("", "outbound", &process, Ok("Workload")),
    ];
    for (word, direction, who, expected) in cases {
        let set = require(word, direction);
        let mut sample = Sample { uid: None, ..request("t", "GET", "/") };
        who(&mut sample);
        let decision = ask(&set, &sample, &[]);
        match expected {
            Ok(kind) => {
                assert_eq!(decision.answer, Answer::Allow, "{word} {direction} {decision:?}");
                assert!(
                    decision.reason.contains(&format!(" for {kind}::")),
                    "{word} {direction} {}",
                    decision.reason
                );
            }
            Err(cause) => {
                assert_eq!((decision.answer, decision.cause), (Answer::Deny, cause), "{word} {direction}")
            }
        }
    }
}

#[test]
fn a_user_gets_no_role_of_the_process_and_the_process_none_of_the_user() {
    let nouns = NOUNS.replace("ports = [81]", "ports = [81]\nrequire = \"both\"");
    let set = set_of(&nouns, "permit (principal in Role::\"one\", action, resource == Target::\"plain\");");
    let mut sample = request("plain", "GET", "/");
    sample.user = Some("ann".into());
    assert_eq!(ask(&set, &sample, &[]).cause, Cause::NoRule, "uid 1 has the role, the user has not");
    sample.groups = vec!["one".into()];
    sample.uid = Some(7);
    assert_eq!(ask(&set, &sample, &[]).answer, Answer::Allow);
    let process = "permit (principal, action, resource == Target::\"plain\")\n\
                   when { context has workload && context.workload in Role::\"one\" };";
    assert_eq!(
        ask(&set_of(&nouns, process), &sample, &[]).cause,
        Cause::NoRule,
        "the user has the role, uid 7 has not"
    );
}

#[test]
fn a_role_by_provider_is_no_role_at_another() {
    let nouns = format!(
        "{}\n{}",
        NOUNS.replace("ports = [81]", "ports = [81]\nrequire = \"user\""),
        r#"
[[identity_provider]]
name = "guests"
issuer = "https://guests.example.com"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "guests.json"
"#
    );
    let set =
        set_of(&nouns, "permit (principal in Role::\"corp-staff\", action, resource == Target::\"plain\");");
    let mut sample = request("plain", "GET", "/");
    (sample.user, sample.provider) = (Some("ann".into()), Some("corp".into()));
    assert_eq!(ask(&set, &sample, &[]).answer, Answer::Allow);
    sample.provider = Some("guests".into());
    assert_eq!(ask(&set, &sample, &[]).answer, Answer::Deny);
}

#[test]
fn the_executable_narrows_and_units_below_a_service_are_not_believed() {
    let set = set("permit (principal in Role::\"two\", action, resource == Target::\"plain\");");
    let allowed = |unit: Option<&str>, cgroup: Option<&str>, executable: Option<&str>| {
        let mut sample = request("plain", "GET", "/");
        sample.uid = Some(7);
        sample.unit = unit.map(str::to_owned);
        sample.cgroup = cgroup.map(str::to_owned);
        sample.executable = executable.map(str::to_owned);
        ask(&set, &sample, &[]).answer == Answer::Allow
    };
    let two = Some("/bin/two");
    assert!(allowed(Some("two.service"), None, two));
    assert!(allowed(Some("x.service"), Some("/two.slice/x.service"), two));
    assert!(!allowed(Some("two.service"), None, None), "an executable that is not established is none");
    assert!(!allowed(Some("two.service"), None, Some("/bin/three")));
    assert!(!allowed(Some("x.service"), None, two));
    let delegated = "/user.slice/user-7.slice/user@7.service/two.slice/two.service";
    assert!(!allowed(Some("user@7.service"), Some(delegated), two));
}

#[test]
fn a_remote_peer_is_known_by_its_canonical_address() {
    let nouns = NOUNS.replace("ports = [81]", "ports = [81]\nrequire = \"peer\"");
    let set =
        set_of(&nouns, "permit (principal == Peer::\"192.0.2.9\", action, resource == Target::\"plain\");");
    let mapped = Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped();
    let sample = Sample { uid: None, peer: Some(IpAddr::V6(mapped)), ..request("plain", "GET", "/") };
    assert_eq!(ask(&set, &sample, &[]).answer, Answer::Allow);
}
