//! What was recorded, asked again: another directory says what it would change, a change of policy says what it widens,
//! rules are proposed out of what was seen, and a denial names the rule that came nearest.

use std::path::PathBuf;
use std::sync::LazyLock;

use tidegate::record::entry::{Event, FileChange, PolicyChanged, PolicyWeighed, Verdict};
use tidegate::record::frame::Frame;
use tidegate_tests::{Gate, Host, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
"#;

const READS: &str = r#"@id("reads") permit (principal, action == Action::"http", resource == Target::"api")
when { context.method == "GET" };
"#;

const ALL: &str = r#"@id("all") permit (principal, action == Action::"http", resource == Target::"api");
"#;

const CASES: &str = "[[case]]\nname = \"nobody posts\"\ntarget = \"api\"\nas = { uid = 1 }\nmethod = \"POST\"\npath = \"/x\"\nexpect = \"VERDICT\"\n";

const HOST: &str = "127.0.0.1:7001";

struct World {
    host: Host,
    gate: Gate,
    _upstream: Upstream,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), HOST);
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", READS).start();
        Self { host, gate, _upstream: upstream }
    }

    fn curl(&self, words: &[&str], path: &str) -> u16 {
        let url = format!("http://{HOST}{path}");
        let status = self.host.client().curl(&[words, &[&url]].concat()).status;
        let _ = self.gate.entry_of(&format!("{path} HTTP"));
        status
    }

    fn directory(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.host.folder().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.join(name), text).unwrap());
        dir
    }
}

/// With a read that was allowed and a write that was denied on record.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let world = World::new();
    assert_eq!(world.curl(&[], "/items/1"), 200);
    assert_eq!(world.curl(&[], "/items/2"), 200);
    assert_eq!(world.curl(&["--data", "x"], "/items/3"), 403);
    world
});

#[test]
fn diff_tells_what_another_directory_would_decide_differently_and_how_often() {
    let other = WORLD.directory("diff", &[("a.toml", NOUNS), ("b.cedar", ALL)]).display().to_string();
    let told = WORLD.gate.tidegate(&["policy", "diff", &other, "--since", "1h"]);
    assert_eq!(told.code(), Some(1), "{}{}", told.text(), told.errors());
    for word in ["deny -> allow", "POST /items/3", "b.cedar#all", "1 of 3"] {
        assert!(told.text().contains(word), "{word} in\n{}", told.text());
    }
    let told = WORLD.gate.tidegate(&["policy", "diff", &other, "--json"]).json();
    let differences = told["differences"].as_array().unwrap();
    assert_eq!((differences.len(), told["judged"].as_u64()), (1, Some(3)), "{told}");
    assert_eq!(
        (differences[0]["before"].as_str(), differences[0]["times"].as_u64()),
        (Some("deny"), Some(1))
    );
    let same = WORLD.directory("same", &[("a.toml", NOUNS), ("z.cedar", READS)]).display().to_string();
    let told = WORLD.gate.tidegate(&["policy", "diff", &same]).success().text();
    assert!(told.contains("0 of 3"), "{told}");
    let broken =
        WORLD.directory("broken", &[("a.toml", NOUNS), ("z.cedar", "permit (")]).display().to_string();
    assert_eq!(WORLD.gate.tidegate(&["policy", "diff", &broken]).code(), Some(1));
}

#[test]
fn replay_against_a_directory_compares_it_with_what_was_recorded() {
    let none = "forbid (principal, action == Action::\"http\", resource == Target::\"api\");\n";
    let other = WORLD.directory("none", &[("a.toml", NOUNS), ("b.cedar", none)]).display().to_string();
    let told = WORLD.gate.tidegate(&["replay", "--against", &other, "--since", "7d"]);
    assert_eq!(told.code(), Some(1), "{}", told.errors());
    assert!(told.text().contains("allow -> deny") && told.text().contains("GET /items/1"), "{}", told.text());
    assert!(!told.text().contains("/items/3"), "that was denied then as well: {}", told.text());
    let own = WORLD.gate.policies().display().to_string();
    drop(WORLD.gate.tidegate(&["replay", "--against", &own]).success());
    let none_yet = WORLD.gate.tidegate(&["replay", "--against", &own, "--since", "2126-01-01"]).success();
    assert!(none_yet.text().contains("0 of 0"), "{}", none_yet.text());
}

#[test]
fn what_is_suggested_passes_the_checks_and_allows_what_was_allowed_alone() {
    let into = WORLD.host.folder().join("suggested");
    let words = ["policy", "suggest", "--since", "1h", "--into", &into.display().to_string()];
    let told = WORLD.gate.tidegate(&words).success();
    assert!(told.errors().contains("denied"), "what was left out is said: {}", told.errors());
    std::fs::write(into.join("nouns.toml"), NOUNS).unwrap();
    let dir = into.display().to_string();
    drop(WORLD.gate.tidegate(&["policy", "check", &dir]).success());
    let told = WORLD.gate.tidegate(&["replay", "--against", &dir, "--json"]).json();
    assert_eq!(told["differences"].as_array().unwrap().len(), 0, "{told}");
    let explain = |method: &str, path: &str| {
        let words =
            ["policy", "explain", &dir, "--target", "api", "--method", method, "--path", path, "--uid", "0"];
        WORLD.gate.tidegate(&words).code()
    };
    assert_eq!(
        (explain("GET", "/items/77"), explain("GET", "/never"), explain("POST", "/items/3")),
        (Some(0), Some(1), Some(1))
    );
    let again = WORLD.gate.tidegate(&words);
    assert_eq!(again.code(), Some(3), "what is there is not overwritten");
}

#[test]
fn why_not_names_the_part_of_the_nearest_rule_that_failed() {
    let words = [
        "policy",
        "explain",
        "--why-not",
        "--target",
        "api",
        "--method",
        "POST",
        "--path",
        "/x",
        "--uid",
        "7",
    ];
    let told = WORLD.gate.tidegate(&words);
    assert_eq!(told.code(), Some(1));
    assert!(
        told.text().contains("a.cedar#reads") && told.text().contains("context.method == \"GET\""),
        "{}",
        told.text()
    );
    let told = WORLD.gate.tidegate(&[&words[..], &["--json"]].concat()).json();
    assert_eq!(told["nearest"][0]["rule"], "a.cedar#reads", "{told}");
}

fn changes(gate: &Gate) -> (Vec<PolicyChanged>, Vec<PolicyWeighed>) {
    let (mut changed, mut weighed) = (Vec::new(), Vec::new());
    for line in gate.record().last(10_000).unwrap() {
        match line.frame {
            Frame::Event(Event::PolicyChanged(event)) => changed.push(event),
            Frame::Event(Event::PolicyWeighed(event)) => weighed.push(event),
            _ => {}
        }
    }
    (changed, weighed)
}

#[test]
fn a_reload_is_an_entry_with_author_digests_files_and_what_it_widens() {
    let mut world = World::new();
    assert_eq!(world.curl(&["--data", "x"], "/items/9"), 403);
    let first = changes(&world.gate).0.pop().unwrap();
    assert_eq!(first.before, None);
    world.gate.write_policy("b.cedar", ALL);
    let weighed = eventually("the weighing", || changes(&world.gate).1.pop());
    let changed = changes(&world.gate).0.pop().unwrap();
    assert_eq!(
        (changed.before, weighed.before, weighed.policy),
        (Some(first.policy), first.policy, changed.policy)
    );
    let [file] = changed.files.as_slice() else { panic!("{changed:?}") };
    assert_eq!((file.name.as_str(), file.change, file.uid), ("b.cedar", FileChange::Added, Some(0)));
    assert!(
        file.owner.as_deref() == Some("root") && file.modified.is_some() && file.after.is_some(),
        "{file:?}"
    );
    let [widened] = weighed.widened.as_slice() else { panic!("{weighed:?}") };
    assert_eq!((widened.before, widened.after, widened.times), (Verdict::Deny, Verdict::Allow, 1));
    assert_eq!(widened.operation, "POST /items/9");
    let log = world.gate.tidegate(&["policy", "log"]).success().text();
    for word in ["b.cedar", "root", "added", "POST /items/9", "would now be let through"] {
        assert!(log.contains(word), "{word} in\n{log}");
    }
    let status = world.gate.tidegate(&["status"]);
    assert!(status.text().contains("widens"), "{}", status.text());
    assert!(world.gate.log().contains("widens"), "{}", world.gate.log());
    // A case says the same without any recorded operation.
    world.gate.remove_policy("b.cedar");
    world.gate.write_policy("a.cases.toml", &CASES.replace("VERDICT", "deny"));
    eventually("the case in force", || {
        let (changed, weighed) = changes(&world.gate);
        let there = changed.last()?.files.iter().any(|file| file.name == "a.cases.toml");
        (there && weighed.last()?.policy == changed.last()?.policy).then_some(())
    });
    // What changes while no enforcer runs is told by the next.
    world.gate.stop();
    world.gate.write_policy("c.cedar", "// nothing\n");
    world.gate.start();
    eventually("what changed meanwhile", || {
        let changed = changes(&world.gate).0.pop()?;
        let there = changed.files.iter().any(|file| file.name == "c.cedar");
        (there && changed.before.is_some() && changed.before != Some(changed.policy)).then_some(())
    });
    world.gate.write_policy("broken.cedar", "permit (");
    let refused =
        eventually("the refusal", || changes(&world.gate).0.pop().filter(|event| event.refused.is_some()));
    assert!(refused.files.iter().any(|file| file.name == "broken.cedar"), "{refused:?}");
    drop(world.gate.tidegate(&["record", "verify"]).success());
}
