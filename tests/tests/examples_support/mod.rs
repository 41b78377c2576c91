//! A site where an example policy is in force, and the example as it was taken there. Fakes no clock, no user and no
//! provider: what the files say is what is tried.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::Value;
use tidegate_tests::{Answered, Finished, Gate, Host, Oidc, Upstream, eventually, workspace};

/// The service that the examples protect, and the CRM that they let agents call, where their files say.
pub(crate) const SERVICE: &str = "127.0.0.1:8080";
pub(crate) const CRM: &str = "10.20.0.10:9000";
/// The identity provider of all examples, and the audience of its tokens.
pub(crate) const ISSUER: &str = "https://id.example.com";
pub(crate) const AUDIENCE: &str = "tidegate";
pub(crate) const WORKER: &str = "system.slice/react-worker.service";
pub(crate) const OTHER_UNIT: &str = "system.slice/cron.service";
/// Who may approve in the examples, by the uids they log in with.
pub(crate) const ADA: u32 = 1001;
pub(crate) const GRACE: u32 = 1002;
pub(crate) const THIRD: u32 = 1003;

pub(crate) fn examples() -> PathBuf {
    workspace().join("policies/examples")
}

/// An example as it was taken: a copy of its files.
pub(crate) struct Taken(pub(crate) Vec<(String, String)>);

impl Taken {
    pub(crate) fn of(example: &str) -> Self {
        let files = fs::read_dir(examples().join(example)).unwrap().map(|file| file.unwrap().path());
        Self(files.map(|path| (name_of(&path), fs::read_to_string(path).unwrap())).collect())
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.0.iter().any(|(_, file)| file.contains(text))
    }

    /// Writes this for that, wherever it stands.
    pub(crate) fn write(&mut self, old: &str, new: &str) {
        assert!(self.says(old), "the example does not say `{old}` any more");
        self.0.iter_mut().for_each(|(_, text)| *text = text.replace(old, new));
    }

    /// The identity provider of the site.
    pub(crate) fn write_provider(&mut self, issuer: &str, jwks: &str, real: &Oidc) {
        self.write(jwks, &real.jwks_uri());
        self.write(&format!("\"{issuer}\""), &format!("\"{}\"", real.issuer()));
    }

    /// Other hours than the example's. Nobody can wait for a Monday, and no clock is faked: whole days are named, far
    /// enough from now that none begins or ends during a test. Cases about the hours as they were go.
    pub(crate) fn write_hours(&mut self, last: bool) {
        self.0.retain(|(name, text)| !(name.ends_with(".cases.toml") && text.contains("\nat = ")));
        self.write("zone = \"Europe/Berlin\"", "zone = \"UTC\"");
        let today = Timestamp::now().to_zoned(TimeZone::UTC);
        let far = (today + SignedDuration::from_hours(72)).strftime("%a").to_string().to_lowercase();
        let all = r#"["mon", "tue", "wed", "thu", "fri", "sat", "sun"]"#.to_owned();
        let days = if last { all } else { format!("[\"{far}\"]") };
        self.write(r#"["mon", "tue", "wed", "thu", "fri"]"#, &days);
        self.write("from = \"08:00\"", "from = \"00:00\"");
        self.write("to = \"18:00\"", "to = \"24:00\"");
    }

    /// The file that says this.
    pub(crate) fn file_with(&self, text: &str) -> &(String, String) {
        self.0.iter().find(|(_, file)| file.contains(text)).unwrap()
    }
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A site where an example is in force.
pub(crate) struct Site {
    pub(crate) gate: Gate,
    pub(crate) service: Upstream,
    pub(crate) crm: Upstream,
    pub(crate) oidc: Option<Oidc>,
    pub(crate) host: Host,
}

impl Site {
    /// With these users at the provider, by name, and the claims of their tokens.
    pub(crate) fn of(example: &str, users: &Value) -> Self {
        Self::with(example, users, |_, _| {})
    }

    /// As [`Site::of`], with something more written into the example.
    pub(crate) fn with(example: &str, users: &Value, write: impl FnOnce(&Host, &mut Taken)) -> Self {
        let host = Host::new();
        host.add_address("10.20.0.10".parse().unwrap());
        let (service, crm) =
            (Upstream::start(&host.seat("service"), SERVICE), Upstream::start(&host.seat("crm"), CRM));
        let mut taken = Taken::of(example);
        let oidc = taken.says(ISSUER).then(|| {
            let real = Oidc::knowing(&host.client(), AUDIENCE, users);
            taken.write_provider(ISSUER, &format!("{ISSUER}/.well-known/jwks.json"), &real);
            real
        });
        write(&host, &mut taken);
        let builder = Gate::on(&host);
        let gate = taken.0.iter().fold(builder, |builder, (name, text)| builder.policy(name, text)).start();
        Self { gate, service, crm, oidc, host }
    }

    /// Puts a changed file in force.
    pub(crate) fn change(&self, (name, text): &(String, String)) {
        let digest = |status: &Value| status["policy"]["digest"].as_str().unwrap().to_owned();
        let before = digest(&self.gate.status());
        self.gate.write_policy(name, text);
        let _ = self.gate.await_status("the changed files", |status| digest(status) != before);
    }

    /// curl, as this user.
    pub(crate) fn user(&self, user: &str, method: &str, path: &str) -> Answered {
        self.bearer(&self.oidc.as_ref().unwrap().token_of(user), method, path, &[])
    }

    pub(crate) fn bearer(&self, token: &str, method: &str, path: &str, more: &[&str]) -> Answered {
        let (url, token) = (format!("http://{SERVICE}{path}"), format!("Authorization: Bearer {token}"));
        self.host.client().curl(&[&["-X", method, "-H", &token, &url][..], more].concat())
    }

    /// Python requests, as a process of this unit.
    pub(crate) fn unit(&self, unit: &str, method: &str, path: &str) -> Answered {
        self.host.seat(unit).requests(method, &format!("http://{CRM}{path}"), &[], "")
    }

    /// What has arrived at the service and at the CRM.
    pub(crate) fn arrived(&self) -> usize {
        self.service.received().len() + self.crm.received().len()
    }

    /// Asks what must be refused with 403, and gives what the client was told.
    pub(crate) fn refused(&self, ask: impl FnOnce() -> Answered) -> String {
        let before = self.arrived();
        let answered = ask();
        assert_eq!((answered.status, self.arrived()), (403, before), "{}", answered.body);
        answered.body
    }

    /// Asks what must go through, once.
    pub(crate) fn allowed(&self, ask: impl FnOnce() -> Answered) -> String {
        let requests = || self.service.requests().len() + self.crm.requests().len();
        let before = requests();
        let answered = ask();
        assert_eq!((answered.status, requests()), (200, before + 1), "{}", answered.body);
        answered.body
    }

    /// Asks what must wait, has it decided meanwhile, and gives the answer. While it waits, nothing arrives.
    pub(crate) fn held(
        &self,
        path: &str,
        ask: impl FnOnce() -> Answered + Send,
        decide: impl FnOnce(&str),
    ) -> u16 {
        let before = self.arrived();
        std::thread::scope(|scope| {
            let asked = scope.spawn(ask);
            let demand = eventually(&format!("a demand for {path}"), || self.demand(path));
            assert_eq!(self.arrived(), before, "{path} arrived while it waits");
            decide(&demand);
            asked.join().unwrap().status
        })
    }

    /// The demand for this path that still waits for votes.
    pub(crate) fn demand(&self, path: &str) -> Option<String> {
        let listed = self.gate.tidegate(&["--json", "approvals", "list"]).success().json();
        let waits = |demand: &&Value| demand["state"] == "pending" && demand.to_string().contains(path);
        Some(listed.as_array()?.iter().find(waits)?["id"].as_str()?.to_owned())
    }

    pub(crate) fn vote(&self, uid: u32, word: &str, demand: &str) -> Finished {
        self.gate.tidegate_as(uid, &["approvals", word, demand, "--comment", "seen"])
    }

    pub(crate) fn votes(&self, uid: u32, word: &str, demand: &str) {
        drop(self.vote(uid, word, demand).success());
    }

    pub(crate) fn cannot_vote(&self, uid: u32, demand: &str) {
        let before = self.arrived();
        let vote = self.vote(uid, "approve", demand);
        assert_eq!(vote.code(), Some(1), "{}{}", vote.text(), vote.errors());
        assert_eq!(self.arrived(), before, "{uid} cannot vote");
    }
}
