//! Mistakes in rules: a name nobody declared, a wrong type, and what could never match are refused where they stand.

use super::*;

#[test]
fn names_in_rules_that_no_file_declares_are_refused_with_the_near_one() {
    let names = [
        (
            "permit (principal in Role::\"anlyst\", action == Action::\"read\", resource);",
            22,
            "did you mean `analyst`?",
        ),
        ("permit (principal, action, resource == Target::\"raect\");", 40, "did you mean `react`?"),
        ("permit (principal, action, resource in Label::\"environment=stagin\");", 40, "environment=staging"),
        (
            "permit (principal, action == Action::\"reveal\", resource == Mask::\"card\");",
            60,
            "did you mean `cards`?",
        ),
        (
            "permit (principal, action == Action::\"raed\", resource == Target::\"react\");",
            30,
            "Action::\"read\"",
        ),
        (
            "permit (principal in Guard::\"agnet\", action == Action::\"http\", resource == Target::\"crm\");",
            22,
            "agent",
        ),
    ];
    for (rule, column, says) in names {
        rule_mistake(rule, &format!("r.cedar:1:{column}"), &[says]);
    }
    let conditions =
        "permit (principal, action == Action::\"read\", resource)\nwhen { principal in Role::\"analysts\" };";
    rule_mistake(conditions, "r.cedar:2:21", &["no `role` is called `analysts`", "did you mean `analyst`?"]);
}

#[test]
fn units_containers_and_users_are_free_names() {
    let rules = "permit (principal == User::\"corp/ann\", action == Action::\"read\", resource == Target::\"react\");\n\
                 permit (principal in Unit::\"a.service\", action == Action::\"read\", resource == Target::\"react\");\n\
                 permit (principal in Container::\"0123\", action == Action::\"read\", resource == Target::\"react\");";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("r.cedar", rules)]), Vec::<String>::new());
}

#[test]
fn annotations_are_checked() {
    let with = |annotation: &str| format!("{annotation} forbid (principal, action, resource);");
    rule_mistake(
        &with("@aproval(\"leads\")"),
        "r.cedar:1:1",
        &["no annotation `@aproval`", "did you mean `approval`?"],
    );
    rule_mistake(&with("@approval(\"leeds\")"), "r.cedar:1:1", &["no `approval`", "did you mean `leads`?"]);
    rule_mistake(&with("@id(\"a b\")"), "r.cedar:1:1", &["not a name"]);
    rule_mistake(&with("@message(\"\")"), "r.cedar:1:1", &["says nothing"]);
    rule_mistake(
        "@approval(\"leads\") permit (principal, action, resource);",
        "r.cedar:1:1",
        &["on a `permit`"],
    );
    let reveal = "@approval(\"leads\") forbid (principal, action == Action::\"reveal\", resource);";
    rule_mistake(reveal, "r.cedar:1:1", &["not supported yet"]);
}

#[test]
fn one_rule_id_in_two_files_shows_both_places() {
    let rule = "@id(\"x\") forbid (principal, action, resource);";
    let files = [("a.toml", NOUNS), ("r.cedar", rule), ("s.cedar", &format!("\n{rule}"))];
    only(&files, "s.cedar:2:1", &["two rules with the id `x`", "first here: r.cedar:1:1"]);
}

#[test]
fn rules_are_typed() {
    let typed = [
        ("context.methd == \"GET\"", "attribute `methd`"),
        ("context.method == 7", "String"),
        ("context.body_length > 10", "optional attribute `body_length`"),
        ("context.thin == \"a\"", "did you mean `thing`?"),
        ("context.guard == Guard::\"agent\"", "optional attribute `guard`"),
        ("principal.groups.contains(\"a\")", "groups"),
    ];
    for (condition, says) in typed {
        let rule =
            format!("forbid (principal, action == Action::\"read\", resource)\nwhen {{ {condition} }};");
        let found = mistakes(&[("a.toml", NOUNS), ("r.cedar", &rule)]);
        assert!(!found.is_empty(), "{condition} is accepted");
        assert!(found.iter().all(|line| line.starts_with("r.cedar:2:8: ")), "{found:#?}");
        assert!(found.iter().any(|line| line.contains(says)), "{found:#?} do not say {says}");
    }
}

#[test]
fn a_rule_that_can_never_match_is_refused() {
    let never = [
        "permit (principal, action == Action::\"read\", resource == Target::\"crm\");",
        "permit (principal, action == Action::\"read\", resource == Mask::\"cards\");",
        "permit (principal, action == Action::\"reveal\", resource == Target::\"react\");",
        "permit (principal, action == Action::\"request\", resource == Target::\"react\");",
        "permit (principal is Target, action, resource);",
        "permit (principal is Peer in Role::\"analyst\", action, resource);",
        "permit (principal, action, resource) when { false };",
        "permit (principal, action == Action::\"read\", resource) when { context.direction == Direction::\"up\" };",
    ];
    for rule in never {
        let found = mistakes(&[("a.toml", NOUNS), ("r.cedar", rule)]);
        assert_eq!(found.len(), 1, "{rule}: {found:#?}");
        assert!(found[0].starts_with("r.cedar:1:"), "{found:#?}");
    }
}

#[test]
fn the_general_action_is_refused_where_operations_are_declared() {
    for scope in [
        "resource == Target::\"react\"",
        "resource",
        "resource in Label::\"environment=staging\"",
        "resource is Target",
    ] {
        for effect in ["permit", "forbid"] {
            let rule = format!("{effect} (principal, action == Action::\"http\", {scope});");
            rule_mistake(&rule, "r.cedar:1:1", &["`react` declares operations", "Action::\"request\""]);
        }
    }
    let listed = "permit (principal, action in [Action::\"read\", Action::\"http\"], resource);";
    rule_mistake(listed, "r.cedar:1:1", &["`react` declares operations"]);
    let fine = "permit (principal, action, resource);\npermit (principal, action in Action::\"request\", resource);\n\
                permit (principal, action == Action::\"http\", resource == Target::\"crm\");";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("r.cedar", fine)]), Vec::<String>::new());
}

#[test]
fn templates_and_deceptive_text_are_refused() {
    let template = "permit (principal == ?principal, action, resource);";
    let found = mistakes(&[("a.toml", NOUNS), ("r.cedar", template)]);
    assert!(found.iter().any(|line| line.starts_with("r.cedar:1:1: templates are not rules")), "{found:#?}");
    let bidi =
        "forbid (principal, action == Action::\"read\", resource) when { context.path == \"/a\u{202e}b\" };";
    let found = mistakes(&[("a.toml", NOUNS), ("r.cedar", bidi)]);
    assert!(found.len() == 1 && found[0].starts_with("r.cedar:1:"), "{found:#?}");
}

#[test]
fn a_rule_too_deep_or_too_long_is_refused_before_cedar_recurses_on_it() {
    let rule = |condition: &str| format!("permit (principal, action, resource) when {{ {condition} }};");
    let deep = rule(&format!("{}true{}", "(".repeat(5_000), ")".repeat(5_000)));
    rule_mistake(&deep, "r.cedar:1:108", &["64 brackets"]);
    let long = rule(&vec!["true"; 30_000].join(" && "));
    only(&[("a.toml", NOUNS), ("r.cedar", &long)], "r.cedar:1:2098", &["512 operators"]);
    let dots = rule(&format!("principal{}", ".x".repeat(10_000)));
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("r.cedar", &dots)]).len(), 1);
}
