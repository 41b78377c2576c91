//! Mistakes about time: what ends at no moment, hours that nobody could keep, hours that nobody declared.

use jiff::Timestamp;

use super::*;

const OFFICE: &str = "[[hours]]\nname = \"office\"\nzone = \"Europe/Berlin\"\ndays = [\"mon\", \"fri\"]\nfrom = \"09:00\"\nto = \"17:00\"\n";

#[test]
fn hours_that_are_none_are_refused() {
    let wrong = [
        ("zone = \"Europe/Berlin\"", "zone = \"Europe/Berlim\"", "b.toml:3:8", "Europe/Berlin"),
        ("zone = \"Europe/Berlin\"\n", "", "b.toml:1:1", "no `zone`"),
        ("\"mon\"", "\"monday\"", "b.toml:4:9", "no day of the week"),
        ("\"fri\"", "\"mon\"", "b.toml:4:16", "twice"),
        ("09:00", "9:00", "b.toml:5:8", "no time of day"),
        ("to = \"17:00\"", "to = \"25:00\"", "b.toml:6:6", "no time of day"),
        ("to = \"17:00\"", "to = \"09:00\"", "b.toml:6:6", "end as they begin"),
        ("to = ", "till = ", "b.toml:1:1", "no `to`"),
    ];
    for (old, new, place, says) in wrong {
        let text = OFFICE.replacen(old, new, 1);
        let found = mistakes(&[("a.toml", NOUNS), ("b.toml", &text)]);
        let line = found.first().unwrap_or_else(|| panic!("{new} is taken"));
        assert!(line.starts_with(&format!("{place}: ")) && line.contains(says), "{found:#?}");
    }
    let twice = format!("{OFFICE}{OFFICE}");
    added_mistake(&twice, "b.toml:8:8", &["two `hours`s", "first here: b.toml:2:8"]);
}

#[test]
fn a_misspelt_name_of_hours_in_a_rule_is_refused_where_it_stands() {
    let rule = |condition: &str| {
        format!("permit (principal, action == Action::\"read\", resource)\nwhen {{ {condition} }};")
    };
    let check =
        |condition: &str| mistakes(&[("a.toml", NOUNS), ("b.toml", OFFICE), ("r.cedar", &rule(condition))]);
    assert_eq!(check("context.hours.contains(\"office\")"), Vec::<String>::new());
    for (condition, place) in [
        ("context.hours.contains(\"ofice\")", "r.cedar:2:31: "),
        ("context.hours.containsAny([\"office\", \"offise\"])", "r.cedar:2:45: "),
        ("!context.hours.containsAll([\"officer\"])", "r.cedar:2:36: "),
    ] {
        let found = check(condition);
        assert_eq!(found.len(), 1, "{condition}: {found:?}");
        assert!(found[0].starts_with(place) && found[0].contains("did you mean `office`?"), "{found:?}");
    }
    let unclear = check("context.hours.contains(context.method)");
    assert!(unclear.len() == 1 && unclear[0].contains("which hours this rule means"), "{unclear:?}");
    assert!(!check("context.hours.contains(1)").is_empty());
}

#[test]
fn an_end_that_is_no_moment_is_refused() {
    for wrong in ["", "2026-13-01", "next week", "2026-12-01T09:00:00"] {
        rule_mistake(
            &format!("@until(\"{wrong}\")\npermit (principal, action, resource);"),
            "r.cedar:1:1",
            &["neither a date nor a moment", "2026-12-01"],
        );
    }
}

#[test]
fn what_has_ended_is_listed_and_the_end_of_a_forbid_warned_about() {
    let rules = "@id(\"p\") @until(\"2026-12-01\") permit (principal, action, resource);\n\
                 @id(\"f\") @until(\"2026-12-02\") forbid (principal, action, resource);\n\
                 @id(\"always\") permit (principal, action, resource);\n";
    let dir = directory(&[("a.toml", NOUNS), ("r.cedar", rules)]);
    let set = read(dir.path()).unwrap();
    let told = |at: &str| -> Vec<(String, bool, String)> {
        let notices = set.notices(at.parse::<Timestamp>().unwrap());
        notices.into_iter().map(|notice| (notice.about, notice.warning, notice.name)).collect()
    };
    let line =
        |about: &str, warning: bool, name: &str| (about.to_owned(), warning, format!("r.cedar#{name}"));
    assert_eq!(told("2026-11-30T00:00:00Z"), [line("ends", true, "f"), line("ends", false, "p")]);
    assert_eq!(told("2026-12-01T00:00:00Z"), [line("ends", true, "f"), line("ended", false, "p")]);
    assert_eq!(told("2026-12-02T00:00:00Z"), [line("ended", true, "f"), line("ended", false, "p")]);
    let text = &set.notices("2026-12-02T00:00:00Z".parse().unwrap())[0].text;
    assert!(text.contains("forbids nothing") && text.ends_with("/r.cedar:2:1)"), "{text}");
}

fn observing(text: &str) -> Vec<String> {
    let nouns = NOUNS.replacen("ports = [80]", &format!("ports = [80]\n{text}"), 1);
    mistakes(&[("a.toml", &nouns)])
}

#[test]
fn an_observed_target_without_an_end_in_reach_is_refused() {
    let in_days = |days: i64| (Timestamp::now() + jiff::SignedDuration::from_hours(24 * days)).to_string();
    assert_eq!(observing(&format!("mode = \"observe\"\nuntil = \"{}\"", in_days(89))), Vec::<String>::new());
    let (past, far) = (in_days(-1), in_days(91));
    for (text, place, says) in [
        ("mode = \"observe\"".to_owned(), "a.toml:12:8: ", "has no end"),
        (
            "mode = \"observe\"\nuntil = 2020-01-01".to_owned(),
            "a.toml:13:9: ",
            "is over; observed by this: a.toml:12:8",
        ),
        (format!("mode = \"observe\"\nuntil = \"{past}\""), "a.toml:13:9: ", "is over"),
        (format!("mode = \"observe\"\nuntil = \"{far}\""), "a.toml:13:9: ", "90 days at most"),
        ("mode = \"observe\"\nuntil = \"soon\"".to_owned(), "a.toml:13:9: ", "neither a date nor a moment"),
        ("until = 2099-01-01".to_owned(), "a.toml:12:9: ", "a target that is enforced"),
        (
            "mode = \"enforce\"\nuntil = 2099-01-01".to_owned(),
            "a.toml:13:9: ",
            "enforced by this: a.toml:12:8",
        ),
        ("mode = \"watch\"".to_owned(), "a.toml:12:8: ", "`watch` is no `mode`"),
    ] {
        let found = observing(&text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(place) && found[0].contains(says), "{text}: {found:#?}");
    }
}

#[test]
fn what_is_only_observed_is_said_loudly_and_ends_by_itself() {
    let until = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let nouns =
        NOUNS.replacen("ports = [80]", &format!("ports = [80]\nmode = \"observe\"\nuntil = \"{until}\""), 1);
    let dir = directory(&[("a.toml", &nouns)]);
    let set = read(dir.path()).unwrap();
    let notices = set.notices(Timestamp::now());
    assert_eq!(notices.len(), 1);
    assert!(notices[0].warning && notices[0].about == "observe" && notices[0].text.contains("OBSERVED"));
    let target = set.target("crm").unwrap();
    assert!(target.is_observed(until - jiff::SignedDuration::from_nanos(1)));
    assert!(!target.is_observed(until), "enforced from that moment on");
    assert!(set.notices(until).is_empty());
}

#[test]
fn files_that_were_in_force_are_taken_up_again_after_an_observation_ended() {
    let nouns = NOUNS.replacen("ports = [80]", "ports = [80]\nmode = \"observe\"\nuntil = 2020-01-01", 1);
    let dir = directory(&[("a.toml", &nouns)]);
    let files = Files { read_at: None, ..Files::read(dir.path()).unwrap() };
    let set = read_files(&files).unwrap();
    assert!(!set.target("crm").unwrap().is_observed(Timestamp::now()), "it is enforced");
    assert!(read(dir.path()).is_err());
}
