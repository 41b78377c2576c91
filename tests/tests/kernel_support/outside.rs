//! A world with a guard, and what its processes get who try something with what is outside of it: refused and counted where this
//! kernel runs LSM programs. Where it runs none, the posture says so.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tidegate::kernel::{self, Found, GuardRow, Table};

use super::World;

/// As the kernel says it: of processes by the second.
pub const REFUSED: [&str; 2] = ["Operation not permitted (os error 1)", "Permission denied (os error 13)"];
pub const DONE: &str = "done";

/// A world with a guard, and a directory of the gate's own.
pub struct Outside {
    pub world: World,
    pub agent: PathBuf,
    pub own: tempfile::TempDir,
    /// Whether this kernel keeps what is guarded from what is outside.
    pub kept: bool,
}

impl Outside {
    pub fn new() -> Self {
        Self::with(|agent| {
            vec![GuardRow { name: "agent".into(), cgroups: vec![agent], ..GuardRow::default() }]
        })
    }

    pub fn with(guards: impl FnOnce(PathBuf) -> Vec<GuardRow>) -> Self {
        let mut world = World::new();
        let agent = world.cgroup("agent");
        let own = tempfile::tempdir().unwrap();
        fs::write(own.path().join("policy.toml"), "here").unwrap();
        fs::write(own.path().join("secret"), "secret").unwrap();
        let place = kernel::Place {
            sealed: vec![own.path().to_owned()],
            secret: vec![own.path().join("secret")],
            ..world.place()
        };
        let table = Table { guards: guards(agent.clone()), ..Table::default() };
        let report = kernel::load(&place, &table).unwrap();
        let posture = kernel::probe().checks.into_iter().find(|check| check.name == "BPF LSM").unwrap();
        let kept = report.no_lsm.is_none();
        assert_eq!(
            kept,
            posture.found == Found::Ok,
            "the load and the posture agree: {:?} {posture:?}",
            report.no_lsm
        );
        assert!(kept || posture.means.contains("docker.sock"), "{posture:?}");
        Self { world, agent, own, kept }
    }

    pub fn file(&self, name: &str) -> String {
        self.own.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn does(&self, cgroup: &Path, deed: &str, what: &str) -> String {
        let words = ["deed", cgroup.to_str().unwrap(), deed, what];
        self.world.lines(&words).pop().unwrap()
    }

    /// What somebody guarded gets, as root.
    pub fn guarded(&self, deed: &str, what: &str) -> String {
        self.does(&self.agent, deed, what)
    }

    pub fn neighbour(&self, deed: &str, what: &str) -> String {
        self.does(Path::new("-"), deed, what)
    }

    /// The same with this as its standard input.
    pub fn with_input(&self, cgroup: &Path, deed: &str, input: OwnedFd) -> String {
        let words = ["deed", cgroup.to_str().unwrap(), deed, "-"];
        let output = self.world.actor(&words, input.into()).wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Refused and counted where this kernel can; a neighbour is not.
    pub fn is_kept_from(&self, deed: &str, what: &str, counter: &str) {
        let before = self.world.counter(counter);
        let answer = self.guarded(deed, what);
        let refused = REFUSED.iter().any(|how| answer.contains(how));
        if self.kept {
            assert!(refused, "{deed} {what}: {answer}");
            assert!(self.world.counter(counter) > before, "{deed} {what}: {counter}");
        } else {
            assert!(!refused, "{deed} {what}: {answer}");
            assert_eq!(self.world.counter(counter), before);
        }
    }
}
