//! The shelf on real directories: a broken one never comes into force, and a reader never sees half of two sets.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

fn nouns(label: &str) -> String {
    format!("[[target]]\nname = \"t\"\ndirection = \"inbound\"\nports = [1]\nlabels = [\"state={label}\"]\n")
}

fn rules(label: &str) -> String {
    format!("@id(\"r\") permit (principal, action, resource in Label::\"state={label}\");\n")
}

fn write(dir: &Path, label: &str) {
    fs::write(dir.join("a.toml"), nouns(label)).unwrap();
    fs::write(dir.join("b.cedar"), rules(label)).unwrap();
}

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("policies")).unwrap();
        write(&root.path().join("policies"), "one");
        Self { root }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("policies")
    }

    fn open(&self) -> Result<Shelf, NoPolicy> {
        Shelf::open(&self.dir(), &self.root.path().join("state/last-good"))
    }
}

fn label(shelf: &Shelf) -> String {
    shelf.current().targets()[0].labels[0].clone()
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_broken_file_leaves_the_old_set_in_force_and_says_where() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    let seen = shelf.subscribe();
    fs::write(bench.dir().join("c.toml"), "[[target]]\nnam = \"x\"\n").unwrap();
    assert!(matches!(shelf.reload(), Reloaded::Refused { .. }));
    assert_eq!(label(&shelf), "state=one");
    assert!(shelf.fault().unwrap().contains("c.toml:2:1"), "{:?}", shelf.fault());
    assert!(seen.has_changed().unwrap());
    fs::remove_file(bench.dir().join("c.toml")).unwrap();
    assert!(matches!(shelf.reload(), Reloaded::Same));
    assert_eq!(shelf.fault(), None);
}

#[test]
fn a_failed_case_leaves_the_old_set_in_force() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    let case = "[[case]]\nname = \"c\"\nas = { uid = 5 }\ntarget = \"t\"\nmethod = \"GET\"\npath = \"/\"\nexpect = \"deny\"\n";
    fs::write(bench.dir().join("c.cases.toml"), case).unwrap();
    assert!(matches!(shelf.reload(), Reloaded::Refused { .. }));
    assert!(shelf.fault().unwrap().contains("c.cases.toml:7:10"), "{:?}", shelf.fault());
}

#[test]
fn a_start_with_a_broken_directory_goes_on_with_the_last_good_set_and_says_so() {
    let bench = Bench::new();
    drop(bench.open().unwrap());
    fs::write(bench.dir().join("b.cedar"), "permit").unwrap();
    let shelf = bench.open().unwrap();
    assert_eq!(label(&shelf), "state=one");
    assert!(shelf.fault().unwrap().contains("b.cedar:1:"), "{:?}", shelf.fault());
    fs::remove_dir_all(bench.dir()).unwrap();
    assert!(bench.open().unwrap().fault().unwrap().contains("cannot be read"));
}

#[test]
fn a_start_without_any_good_set_is_refused() {
    let bench = Bench::new();
    fs::write(bench.dir().join("b.cedar"), "permit").unwrap();
    let refused = bench.open().unwrap_err().to_string();
    assert!(refused.contains("b.cedar") && refused.contains("last good"), "{refused}");
}

#[test]
fn a_last_good_set_that_somebody_changed_is_not_used() {
    let bench = Bench::new();
    drop(bench.open().unwrap());
    let kept = bench.root.path().join("state/last-good/current");
    fs::write(kept.join("b.cedar"), rules("one") + "permit (principal, action, resource);").unwrap();
    fs::remove_dir_all(bench.dir()).unwrap();
    assert!(bench.open().unwrap_err().last_good.contains("not what was kept"));
}

#[test]
fn only_the_newest_good_set_is_kept() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    write(&bench.dir(), "two");
    assert!(matches!(shelf.reload(), Reloaded::Changed { .. }));
    let kept = bench.root.path().join("state/last-good");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);
    assert_eq!(last_good::load(&kept).unwrap().digest(), shelf.current().digest());
}

#[test]
fn a_changed_file_is_in_force_by_itself() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    shelf.watch().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let old = shelf.current();
    write(&bench.dir(), "two");
    eventually("the change is in force", || label(&shelf) == "state=two");
    assert_eq!(old.targets()[0].labels, ["state=one"], "a set in use never changes");
}

#[test]
fn a_directory_that_goes_and_comes_back_is_followed() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    shelf.watch().unwrap();
    fs::remove_dir_all(bench.dir()).unwrap();
    eventually("its absence is a fault", || shelf.fault().is_some());
    assert_eq!(label(&shelf), "state=one");
    fs::create_dir(bench.dir()).unwrap();
    write(&bench.dir(), "two");
    eventually("it is followed again", || label(&shelf) == "state=two" && shelf.fault().is_none());
    write(&bench.dir(), "three");
    eventually("and again", || label(&shelf) == "state=three");
}

#[test]
fn a_config_map_swap_never_mixes_two_states() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("policies");
    for (data, label) in [("..one", "one"), ("..two", "two")] {
        fs::create_dir_all(dir.join(data)).unwrap();
        write(&dir.join(data), label);
    }
    let swap = |to: &str| {
        let next = dir.join("..data.new");
        std::os::unix::fs::symlink(to, &next).unwrap();
        fs::rename(next, dir.join("..data")).unwrap();
    };
    swap("..one");
    for name in ["a.toml", "b.cedar"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    }
    let shelf = Shelf::open(&dir, &root.path().join("last-good")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                swap(["..two", "..one"][turn % 2]);
                std::thread::sleep(Duration::from_millis(7));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut changes = 0;
        for _ in 0..60 {
            match shelf.reload() {
                Reloaded::Changed { .. } => changes += 1,
                Reloaded::Same => {}
                // A mix of the two has a rule about a label that no target has.
                Reloaded::Refused { problems } => {
                    stop.store(true, Ordering::Relaxed);
                    panic!("two states were mixed: {problems}");
                }
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(changes > 0, "the swap was never seen");
    });
}

#[test]
fn no_operation_is_judged_by_a_mixture_of_two_sets() {
    use crate::policy::{Answer, Question, Sample};
    // In each state one method is permitted and the other forbidden, and in the other state it is the other way round.
    let state = |label: &str, permitted: &str| {
        format!(
            "@id(\"{label}-permit\") permit (principal, action in Action::\"request\", resource) when {{ context.method == \"{permitted}\" }};\n\
             @id(\"{label}-forbid\") forbid (principal, action in Action::\"request\", resource) unless {{ context.method == \"{permitted}\" }};\n"
        )
    };
    let bench = Bench::new();
    let put = |label: &str, permitted: &str| {
        fs::write(bench.dir().join("a.toml"), nouns(label)).unwrap();
        fs::write(bench.dir().join("b.cedar"), state(label, permitted)).unwrap();
    };
    put("one", "GET");
    let shelf = bench.open().unwrap();
    let one = shelf.current().digest();
    put("two", "POST");
    shelf.reload();
    let two = shelf.current().digest();
    assert_ne!(one, two);
    let (stop, judged) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    let judge = || {
        while !stop.load(Ordering::Relaxed) {
            let set = shelf.current();
            let (label, permitted) = if set.digest() == one { ("one", "GET") } else { ("two", "POST") };
            assert!(set.digest() == one || set.digest() == two, "a set that nobody wrote");
            for method in ["GET", "POST"] {
                let (method, path) = (Some(method.to_owned()), Some("/".to_owned()));
                let sample = Sample { uid: Some(1), target: "t".into(), method, path, ..Sample::default() };
                let (subject, operation) = sample.stage(&set).unwrap();
                let asked = Question { subject: &subject, guard: None, operation: &operation, approved: &[] };
                let decision = set.recall(jiff::Timestamp::now(), &asked);
                let allowed = sample.method.as_deref() == Some(permitted);
                let (answer, rule) =
                    if allowed { (Answer::Allow, "permit") } else { (Answer::Deny, "forbid") };
                assert_eq!(
                    (&decision.answer, &decision.rules),
                    (&answer, &vec![format!("b.cedar#{label}-{rule}")])
                );
                judged.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let judges: Vec<_> = (0..3).map(|_| scope.spawn(judge)).collect();
        for turn in 0..20 {
            let (label, permitted) = [("one", "GET"), ("two", "POST")][turn % 2];
            put(label, permitted);
            shelf.reload();
        }
        stop.store(true, Ordering::Relaxed);
        judges.into_iter().for_each(|judge| judge.join().unwrap());
    });
    assert!(judged.load(Ordering::Relaxed) > 0);
}

#[test]
fn readers_see_whole_sets_while_it_is_replaced() {
    let bench = Bench::new();
    let shelf = bench.open().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let set = shelf.current();
                    let label = set.targets()[0].labels[0].strip_prefix("state=").unwrap().to_owned();
                    assert_eq!(set.rule("b.cedar#r").unwrap().policy.to_string(), rules(&label).trim());
                }
            });
        }
        for turn in 0..20 {
            write(&bench.dir(), ["two", "one"][turn % 2]);
            shelf.reload();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
