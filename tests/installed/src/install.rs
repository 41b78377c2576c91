//! The first boot: nothing is installed at its beginning.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::Promise;
use super::parts::{TARGET, UNNAMED, notes};
use super::world::{
    POLICIES, READ, about, agent, anybody, eventually, keeper_and_enforcer, number, property, read, run,
    until_enforced,
};

/// Bounds on what `systemd-analyze security` says of the units, from 0 (safe) to 10.
const EXPOSURE: [(&str, f64); 2] = [("tidegate.service", 4.5), ("tidegate-gate.service", 4.0)];
/// The watchdog, hurried: the packaged one waits for longer than an upgrade may take.
const HURRIED: &str = "[Service]\nWatchdogSec=20s\n";

pub(crate) fn promises() -> &'static [Promise] {
    &[
        ("control_without_the_package_every_agent_gets_through", control),
        ("the_package_installs_where_there_is_no_rust", installs),
        ("directories_have_their_owners_and_modes", modes),
        ("the_first_policies_are_sound_and_only_observe", first_policies),
        ("systemd_hears_ready_from_an_open_gate", open_and_ready),
        ("what_reads_the_network_has_no_capability_and_no_word_with_systemd", enforcer_is_confined),
        ("the_units_are_hardened", hardened),
        ("the_demos_policy_is_enforced", enforced),
        ("an_agent_does_not_reach_what_no_target_names", unnamed),
        ("a_reload_of_a_broken_policy_leaves_the_gate_enforcing", broken_reload),
        ("a_hung_enforcer_is_refused_and_restarted_by_the_watchdog", watchdog),
        ("a_killed_keeper_is_refused_until_systemd_has_brought_it_back", killed),
        ("stopping_the_unit_leaves_the_gate_shut", stopped),
        ("an_agent_with_the_packages_drop_in_does_not_start_without_the_programs", no_programs_no_agent),
    ]
}

fn control() {
    for name in ["early", "ordinary"] {
        let said = eventually(name, || notes(name).pop());
        assert_eq!(said, "HTTP/1.1 200 OK", "{name}");
    }
}

fn installs() {
    for tool in ["rustc", "cargo", "rustup"] {
        assert!(!run(&format!("command -v {tool}")).ok, "{tool} is here");
    }
    let said = run("TIDEGATE_PACKAGE=/trial/0.deb /trial/provision.sh").success();
    assert!(!said.contains("does not run"), "{said}");
    assert!(read("tidegate --version").starts_with("tidegate "));
    assert!(read("zcat /usr/share/man/man1/tidegate-run.1.gz").contains("tidegate"));
}

fn modes() {
    for (path, expected) in [
        ("/usr/bin/tidegate", "root:root 755"),
        ("/etc/tidegate/policies", "root:tidegate 750"),
        ("/var/lib/tidegate", "root:root 711"),
        ("/var/lib/tidegate/last-good", "root:root 700"),
        ("/var/lib/tidegate/enforcer", "tidegate:tidegate 700"),
        ("/var/lib/tidegate/record", "tidegate-record:tidegate-record 700"),
        ("/var/lib/tidegate/keys", "tidegate-record:tidegate-record 700"),
        ("/run/tidegate", "root:tidegate 750"),
        ("/run/tidegate/admin.sock", "root:tidegate 660"),
    ] {
        assert_eq!(about(path), expected, "{path}");
    }
    for name in ["tidegate", "tidegate-record", "tidegate-admin"] {
        let account = read(&format!("getent passwd {name}"));
        assert!(account.ends_with("nologin"), "{account}");
    }
}

fn first_policies() {
    let checked = run("tidegate policy check").success();
    assert!(checked.contains("only OBSERVED until"), "{checked}");
    let tried = run(&format!("tidegate policy test {POLICIES}")).success();
    assert!(tried.contains("3 cases, 0 failed"), "{tried}");
}

fn open_and_ready() {
    assert_eq!(property("tidegate.service", "ActiveState"), "active");
    assert_eq!(property("tidegate-gate.service", "ActiveState"), "active");
    assert_eq!(property("tidegate.service", "StatusText"), "the gate is open");
    assert_eq!(property("tidegate.service", "NRestarts"), "0");
    assert_eq!(property("tidegate.service", "WatchdogUSec"), "1min 30s");
    let last = || number("tidegate.service", "WatchdogTimestampMonotonic");
    let before = last();
    eventually("another beat", || (last() > before).then_some(()));
    run("tidegate status").success();
}

fn enforcer_is_confined() {
    let (keeper, enforcer) = keeper_and_enforcer();
    let status = fs::read_to_string(format!("/proc/{enforcer}/status")).unwrap();
    let uid = read("id --user tidegate");
    for line in [&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"), "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    let heard = |pid: u64| read(&format!("tr '\\0' '\\n' </proc/{pid}/environ"));
    assert!(heard(keeper).contains("NOTIFY_SOCKET="), "the control: the keeper has it");
    assert!(!heard(enforcer).contains("NOTIFY_SOCKET="), "{}", heard(enforcer));
}

fn hardened() {
    for (unit, bound) in EXPOSURE {
        let said = run(&format!("systemd-analyze security --no-pager {unit}")).success();
        let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        println!("{line}");
        let level: f64 =
            line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
        assert!(level <= bound, "{unit}: {level} is more than {bound}:\n{said}");
    }
}

fn enforced() {
    fs::write("/etc/tidegate/id.keys.json", "{\"keys\":[]}").unwrap();
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    fs::write("/etc/hosts", format!("{hosts}\n192.0.2.10 crm.example\n127.0.0.1 localhost\n")).unwrap();
    run(&format!("cp /trial/policies/* {POLICIES}/")).success();
    run("systemctl reload tidegate.service").success();
    until_enforced();
    let allowed = agent(READ);
    assert!(allowed.starts_with("200") && allowed.contains("Ada"), "{allowed}");
    assert!(!allowed.contains("ada@example.org"), "the address is masked: {allowed}");
    let denied = agent(&format!("--request DELETE {READ}"));
    assert!(denied.starts_with("403") && denied.contains("never deletes a customer"), "{denied}");
    let denied = anybody(READ);
    assert!(denied.starts_with("403"), "{denied}");
    assert!(!notes("served").iter().any(|line| line.starts_with("DELETE")), "no byte of it came");
}

fn unnamed() {
    let there = format!("http://{UNNAMED}/");
    let control = anybody(&there);
    assert!(control.starts_with("200"), "the control: {control}");
    let refused = agent(&there);
    assert!(!refused.starts_with("200") && !refused.contains("Ada"), "{refused}");
}

fn broken_reload() {
    let broken = format!("{POLICIES}/broken.toml");
    fs::write(&broken, "[[target]]\nname = ").unwrap();
    run("systemctl reload tidegate.service").success();
    sleep(Duration::from_secs(3));
    assert!(agent(READ).starts_with("200"));
    assert!(agent(&format!("--request DELETE {READ}")).starts_with("403"));
    assert_eq!(property("tidegate.service", "ActiveState"), "active");
    fs::remove_file(broken).unwrap();
    run("systemctl reload tidegate.service").success();
    until_enforced();
}

fn watchdog() {
    let folder = "/etc/systemd/system/tidegate.service.d";
    fs::create_dir_all(folder).unwrap();
    fs::write(format!("{folder}/hurried.conf"), HURRIED).unwrap();
    run("systemctl daemon-reload && systemctl restart tidegate.service").success();
    until_enforced();
    sleep(Duration::from_secs(25));
    assert_eq!(
        property("tidegate.service", "NRestarts"),
        "0",
        "the control: a gate that beats is left alone"
    );
    let (_, enforcer) = keeper_and_enforcer();
    run(&format!("kill -STOP {enforcer}")).success();
    // Ten seconds after its last beat the kernel refuses; ten more, and systemd starts it anew.
    eventually("refused", || agent(&format!("--max-time 2 {READ}")).starts_with("000").then_some(()));
    eventually("restarted", || (property("tidegate.service", "NRestarts") == "1").then_some(()));
    until_enforced();
    assert_ne!(keeper_and_enforcer().1, enforcer);
    fs::remove_dir_all(folder).unwrap();
    run("systemctl daemon-reload && systemctl restart tidegate.service").success();
    until_enforced();
}

fn killed() {
    let (keeper, _) = keeper_and_enforcer();
    let before = notes("served").len();
    run(&format!("kill -KILL {keeper}")).success();
    let refused = agent(READ);
    assert!(!refused.starts_with("200"), "{refused}");
    assert_eq!(notes("served").len(), before);
    until_enforced();
    assert_ne!(keeper_and_enforcer().0, keeper);
}

fn stopped() {
    run("systemctl stop tidegate.service").success();
    let before = notes("served").len();
    for said in [agent(READ), anybody(READ), agent(&format!("http://{UNNAMED}/"))] {
        assert!(said.starts_with("000"), "{said}");
    }
    assert_eq!(notes("served").len(), before);
    assert_eq!(property("tidegate-gate.service", "ActiveState"), "active");
    run("systemctl start tidegate.service").success();
    until_enforced();
}

fn no_programs_no_agent() {
    let folder = "/etc/systemd/system/early-agent.service.d";
    fs::create_dir_all(folder).unwrap();
    fs::copy("/usr/share/doc/tidegate/examples/agent.conf", format!("{folder}/tidegate.conf")).unwrap();
    run("systemctl stop early-agent.service tidegate.service tidegate-gate.service && tidegate unload")
        .success();
    let kept = "/var/lib/tidegate/last-good";
    run(&format!("mv {POLICIES} /etc/tidegate/away && mv {kept} /var/lib/away")).success();
    run(&format!("mkdir {POLICIES} && systemctl daemon-reload")).success();
    let before = notes("early").len();
    let said = run("systemctl start early-agent.service");
    assert!(!said.ok && said.text.contains("dependency"), "{}", said.text);
    assert_eq!(notes("early").len(), before, "it did not run");
    assert_eq!(property("tidegate-gate.service", "Result"), "exit-code");
    run(&format!("rm -rf {POLICIES} {kept}")).success();
    run(&format!("mv /etc/tidegate/away {POLICIES} && mv /var/lib/away {kept}")).success();
    run("systemctl start early-agent.service").success();
    assert_eq!(notes("early").len(), before + 1, "the control: with them it does");
    let said = notes("early").pop().unwrap();
    assert!(said.starts_with("refused"), "{TARGET}: {said}");
    run("systemctl start tidegate.service").success();
    until_enforced();
}
