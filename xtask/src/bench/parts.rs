//! What is measured: an upstream reached directly, through nginx, and through the gate with everything on. Refuses to
//! measure a gate that does not mask, or a proxy that answers something else than the upstream does.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::host::{Host, Program};

/// The upstream's own port; nginx's; the ports that the gates protect, where the same upstream listens too.
const PORTS: [u16; 4] = [9000, 9001, 9002, 9003];
/// Ways to the upstream.
pub(super) const WAYS: usize = 5;
/// Rules on the target, of which one permits.
const RULES: usize = 100;
/// Bytes of the answer's body.
const BODY_BYTES: usize = 1024;
/// What a mask must take out of the body.
const SECRETS: [&str; 2] = ["4111 1111 1111 1111", "ada.lovelace@example.com"];

/// The programs.
pub(super) struct Parts {
    /// Empty once they are being taken down.
    gates: Vec<Program>,
    nginx: Program,
    _upstream: Program,
    tidegate: PathBuf,
    host: Host,
}

/// The gates, each with a cgroup and files of its own.
const GATES: [Gate; 2] = [
    Gate { name: "gated", protected: PORTS[2], own: 15001, run: &[] },
    // A user that no account has, and the two after it.
    Gate { name: "apart", protected: PORTS[3], own: 15002, run: &["--user=61234"] },
];

/// How a gate is set up.
struct Gate {
    name: &'static str,
    protected: u16,
    own: u16,
    run: &'static [&'static str],
}

/// One of the ways to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Nginx,
    Gate,
    /// The gate, each request for another account: none looks like one before it.
    Varied,
    /// A gate in four processes, as another user each.
    Apart,
}

impl Way {
    pub(super) const ALL: [Self; WAYS] = [Self::Direct, Self::Nginx, Self::Gate, Self::Varied, Self::Apart];

    /// What the way is called in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Gate => "gate",
            Self::Varied => "gate varied",
            Self::Apart => "gate apart",
        }
    }

    /// Where a request of this way goes.
    pub(super) fn url(self) -> String {
        let port = match self {
            Self::Direct => PORTS[0],
            Self::Nginx => PORTS[1],
            Self::Gate | Self::Varied => PORTS[2],
            Self::Apart => PORTS[3],
        };
        format!("http://127.0.0.1:{port}/accounts/7.json")
    }

    /// The cgroup of this way's clients. Only the gate's own are below its programs, so that the others carry nothing.
    pub(super) fn client(self) -> &'static str {
        match self {
            Self::Gate | Self::Varied => "gated/client",
            Self::Apart => "apart/client",
            Self::Direct | Self::Nginx => "client",
        }
    }
}

impl Parts {
    /// Starts everything on this host.
    pub(super) fn start(host: Host, tidegate: &Path) -> Result<Self> {
        let served = host.folder().join("served/accounts");
        fs::create_dir_all(&served)?;
        fs::write(served.join("7.json"), body())?;
        let [direct, nginx, gate, apart] = PORTS;
        // One file for all accounts.
        let root = format!(
            "root {}; default_type application/json; location / {{ try_files /accounts/7.json =404; }}",
            host.folder().join("served").display()
        );
        let around = host.cores().around;
        let upstream = start_nginx(&host, "upstream", around, &[direct, gate, apart], "", &root)?;
        let pool = format!(
            "upstream up {{ server 127.0.0.1:{direct}; keepalive 64; keepalive_requests 1000000000; }}"
        );
        let pass =
            "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        let nginx = start_nginx(&host, "nginx", host.cores().proxy, &[nginx], &pool, pass)?;
        let gates = GATES.iter().map(|gate| gate.start(&host, tidegate)).collect::<Result<_>>()?;
        let parts = Self { gates, nginx, _upstream: upstream, tidegate: tidegate.to_owned(), host };
        parts.check()?;
        Ok(parts)
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// The processes that carry this way.
    pub(super) fn carrier(&self, way: Way) -> Option<&Program> {
        match way {
            Way::Direct => None,
            Way::Nginx => Some(&self.nginx),
            Way::Gate | Way::Varied => self.gates.first(),
            Way::Apart => self.gates.last(),
        }
    }

    /// Bytes that the first gate's record has on disk.
    pub(super) fn recorded_bytes(&self) -> u64 {
        size(&self.host.folder().join("gated-state"))
    }

    /// Every way answers, and the gate's answer is masked.
    fn check(&self) -> Result<()> {
        for way in Way::ALL {
            let around = self.host.cores().around;
            let url = way.url();
            let said = self
                .host
                .run(way.client(), around, &["curl", "-sS", "--fail-with-body", "--max-time", "20", &url])
                .with_context(|| format!("{}: the gate's log:\n{}", way.name(), self.gate_log()))?;
            let shown = SECRETS.iter().filter(|secret| said.contains(**secret)).count();
            let gated = !matches!(way, Way::Direct | Way::Nginx);
            let expected = if gated { 0 } else { SECRETS.len() };
            if shown != expected || !said.contains("\"account\":7") {
                bail!("{} answered something else than it should:\n{said}", way.name());
            }
        }
        Ok(())
    }

    fn gate_log(&self) -> String {
        let log =
            |gate: &Gate| fs::read_to_string(self.host.folder().join(format!("{}-gate.log", gate.name)));
        GATES.iter().filter_map(|gate| log(gate).ok()).collect()
    }

    fn unload(&self) -> Result<()> {
        for gate in &GATES {
            let words = gate.words(&self.host, &self.tidegate, &["unload"])?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.host.run(&gate.group(), self.host.cores().around, &words)?;
        }
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.gates.clear();
        if let Err(error) = self.unload() {
            // The pins go with the host all the same.
            eprintln!("the gate's programs were not unloaded in an orderly way: {error:#}");
        }
    }
}

fn start_nginx(
    host: &Host,
    name: &str,
    core: usize,
    ports: &[u16],
    beside: &str,
    server: &str,
) -> Result<Program> {
    let folder = host.folder().join(name);
    fs::create_dir_all(&folder)?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
    let listen: String = ports.iter().map(|port| format!("listen 127.0.0.1:{port};\n")).collect();
    let text = format!(
        "user root; worker_processes 1; daemon off; pid nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=16;\n\
         {temporary} {beside}\nserver {{ {listen} {server} }} }}\n"
    );
    fs::write(folder.join("nginx.conf"), text)?;
    let nginx = crate::place::command("nginx").context("nginx is missing")?;
    let (nginx, prefix) = (nginx.display().to_string(), folder.display().to_string());
    let mut program = host.start(name, core, &[&nginx, "-e", "stderr", "-p", &prefix, "-c", "nginx.conf"])?;
    program.await_ready(|| folder.join("nginx.pid").exists())?;
    Ok(program)
}

impl Gate {
    fn group(&self) -> String {
        format!("{}/gate", self.name)
    }

    fn words(&self, host: &Host, tidegate: &Path, command: &[&str]) -> Result<Vec<String>> {
        let own = |what: &str| host.folder().join(format!("{}-{what}", self.name));
        let options = [
            ("--policies", own("policies")),
            ("--state", own("state")),
            ("--pins", host.pins().join(self.name)),
            ("--cgroup", host.cgroup(self.name)?),
            ("--admin-socket", own("admin.sock")),
            ("--port", PathBuf::from(self.own.to_string())),
        ];
        let options =
            options.into_iter().flat_map(|(name, value)| [name.to_owned(), value.display().to_string()]);
        let command = command.iter().map(|word| (*word).to_owned());
        Ok([tidegate.display().to_string()].into_iter().chain(options).chain(command).collect())
    }

    fn start(&self, host: &Host, tidegate: &Path) -> Result<Program> {
        let own = |what: &str| host.folder().join(format!("{}-{what}", self.name));
        fs::create_dir_all(own("policies"))?;
        fs::write(own("policies").join("bench.toml"), nouns(self.protected))?;
        fs::write(own("policies").join("bench.cedar"), rules())?;
        let words = self.words(host, tidegate, &[&["run"], self.run].concat())?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut gate = host.start(&self.group(), host.cores().proxy, &words)?;
        let socket = own("admin.sock");
        gate.await_ready(|| UnixStream::connect(&socket).is_ok())?;
        Ok(gate)
    }
}

/// One target, its operation, a mask with every style of work, and a role for each rule that asks for one.
fn nouns(protected: u16) -> String {
    let roles: String =
        (0..RULES).map(|n| format!("[[role]]\nname = \"team-{n}\"\nuids = [{}]\n\n", 20_000 + n)).collect();
    format!(
        "[[target]]\nname = \"service\"\ndirection = \"inbound\"\nports = [{protected}]\nrequire = \"workload\"\n\n\
         [[operation]]\nname = \"read\"\ntarget = \"service\"\nmethods = [\"GET\"]\npaths = [\"/accounts/{{account}}\"]\n\n\
         [[mask]]\nname = \"personal\"\ntargets = [\"service\"]\nfind = [\"card\", \"email\", \"api-key\"]\n\n{roles}"
    )
}

/// [`RULES`] rules that all are about this one operation on this one target: half permit (one of them this caller),
/// half forbid by role, path or length, none of them this request.
fn rules() -> String {
    let scope = "action == Action::\"read\", resource == Target::\"service\"";
    let rule = |n: usize| match n % 4 {
        _ if n == 0 => format!("permit (principal is Workload, {scope});\n"),
        0 | 2 => format!("permit (principal in Role::\"team-{n}\", {scope});\n"),
        1 => format!(
            "forbid (principal in Role::\"team-{n}\", {scope}) when {{ context.path like \"/private-{n}/*\" }};\n"
        ),
        _ => format!("forbid (principal, {scope}) when {{ context.account == \"account-{n}\" }};\n"),
    };
    (0..RULES).map(rule).collect()
}

/// A JSON document of [`BODY_BYTES`] with a card number and an e-mail address in it.
fn body() -> String {
    let start = format!(
        "{{\"account\":7,\"owner\":{{\"name\":\"Ada Lovelace\",\"email\":\"{}\",\"card\":\"{}\"}},\"orders\":[",
        SECRETS[1], SECRETS[0]
    );
    let mut text = start;
    for order in 1000.. {
        let item = format!("{{\"id\":{order},\"state\":\"shipped\",\"total\":\"129.90\",\"items\":3}},");
        if text.len() + item.len() + 32 > BODY_BYTES {
            break;
        }
        text.push_str(&item);
    }
    let fill = BODY_BYTES - text.len() - "\"\"]}".len();
    format!("{text}\"{}\"]}}", "n".repeat(fill))
}

fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|item| size(&item.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_as_long_as_it_says_and_holds_what_must_be_masked() {
        let body = body();
        assert_eq!(body.len(), BODY_BYTES);
        assert!(SECRETS.iter().all(|secret| body.contains(secret)));
        assert!(body.starts_with('{') && body.ends_with("]}"));
    }

    #[test]
    fn every_rule_is_about_the_measured_operation() {
        let rules = rules();
        assert_eq!(rules.lines().count(), RULES);
        assert!(rules.lines().all(|rule| rule.contains("Action::\"read\", resource == Target::\"service\"")));
        let for_us = rules.lines().filter(|rule| rule.starts_with("permit (principal is Workload"));
        assert_eq!(for_us.count(), 1, "one rule lets the measured client in");
    }
}
