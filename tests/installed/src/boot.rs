//! The second boot, with the package there from its beginning; then what becomes of it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Promise;
use super::parts::notes;
use super::world::{
    AGENT, POLICIES, READ, agent, anybody, keeper_and_enforcer, number, on_record, property, read, run,
    until_enforced,
};

/// What is left of the package, but for what this trial brought and the journal.
const TRACES: &str = "find / -xdev \\( -path /trial -o -path /proc -o -path /var/log \\) -prune -o \
    \\( -iname '*tidegate*' -o -name 'agents.slice*' \\) -print; \
    find /run /sys/fs/bpf /sys/fs/cgroup /tmp -iname '*tidegate*' -o -name 'agents.slice*'; \
    ls -A /sys/fs/bpf; getent passwd tidegate; getent group tidegate; \
    systemctl list-unit-files --no-legend 'tidegate*' 'agents*'; \
    systemctl list-units --all --no-legend --state=active,failed 'tidegate*' 'agents*'; \
    dpkg-query --show tidegate 2>/dev/null; ps -e 2>/dev/null | grep tidegat[e]$";

pub(crate) fn promises() -> &'static [Promise] {
    &[
        ("the_programs_are_loaded_before_the_network_and_before_any_agent", order),
        ("no_agent_of_this_boot_got_through_before_the_gate_was_open", refused_at_boot),
        ("after_the_boot_the_demos_policy_is_enforced", enforced),
        ("an_upgrade_goes_on_in_the_same_process_and_refuses_nobody", upgrade),
        ("an_upgrade_that_would_not_take_the_policy_says_so_and_changes_nothing", refused_upgrade),
        ("a_stopped_gate_stays_shut_over_an_upgrade", stopped_upgrade),
        ("removing_ends_the_agents_and_keeps_the_state", removed),
        ("installed_again_it_goes_on_with_its_record", again),
        ("purging_leaves_nothing", purged),
    ]
}

fn order() {
    let loaded = number("tidegate-gate.service", "ExecMainExitTimestampMonotonic");
    assert!(loaded > 0 && property("tidegate-gate.service", "Result") == "success");
    for unit in ["host-network.service", "early-agent.service", "ordinary-agent.service"] {
        let begun = number(unit, "ExecMainStartTimestampMonotonic");
        println!("loaded {loaded} us after the kernel, {unit} begun {begun} us");
        assert!(loaded < begun, "{unit} (0: never)");
    }
}

fn refused_at_boot() {
    let open = number("tidegate.service", "ActiveEnterTimestampMonotonic");
    let asked = number("early-agent.service", "ExecMainExitTimestampMonotonic");
    assert!(0 < asked && asked < open, "the earliest agent came at {asked}, the gate was open at {open}");
    let early = notes("early").pop().unwrap();
    assert!(early.starts_with("refused"), "{early}");
    let ordinary = notes("ordinary").pop().unwrap();
    assert!(ordinary.starts_with("refused") || ordinary.contains("403"), "{ordinary}");
    let served = notes("served");
    let this_boot = served.iter().rposition(|line| line == "starts").unwrap();
    assert_eq!(served.len(), this_boot + 1, "{:?}", &served[this_boot..]);
}

fn enforced() {
    until_enforced();
    assert!(agent(&format!("--request DELETE {READ}")).starts_with("403"));
    assert!(anybody(READ).starts_with("403"));
    run("tidegate record verify").success();
}

fn upgrade() {
    let (keeper, enforcer) = keeper_and_enforcer();
    let (recorded, served) = (on_record(), notes("served").len());
    let done = AtomicBool::new(false);
    let (said, answers) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(Ordering::Relaxed) {
                answers.push(agent(READ));
            }
            answers
        });
        let said = run("dpkg --install /trial/1.deb");
        done.store(true, Ordering::Relaxed);
        (said, asking.join().unwrap())
    });
    let said = said.success();
    assert!(said.contains("upgraded: "), "{said}");
    let failed: Vec<&String> = answers.iter().filter(|answer| !answer.starts_with("200")).collect();
    println!("{} requests during the upgrade", answers.len());
    assert!(failed.is_empty() && !answers.is_empty(), "{} of {}: {failed:?}", failed.len(), answers.len());
    assert_eq!(notes("served").len() - served, answers.len());
    assert_eq!(
        on_record(),
        recorded + answers.len(),
        "each is on record, and what was there before still is"
    );
    let now = keeper_and_enforcer();
    assert_eq!(now.0, keeper, "the process that systemd watches");
    assert_ne!(now.1, enforcer);
    assert_eq!(read(&format!("readlink /proc/{keeper}/exe")), "/usr/bin/tidegate");
    assert_eq!(property("tidegate.service", "NRestarts"), "0");
    assert_eq!(property("tidegate.service", "ActiveState"), "active");
    assert_eq!(property("tidegate.service", "StatusText"), "the gate is open");
    run("tidegate record verify").success();
}

fn refused_upgrade() {
    let before = keeper_and_enforcer();
    let broken = format!("{POLICIES}/broken.toml");
    fs::write(&broken, "[[target]]\nname = ").unwrap();
    let said = run("dpkg --install /trial/2.deb");
    assert!(!said.ok && said.text.contains("THE RUNNING GATE WAS NOT UPGRADED"), "{}", said.text);
    assert_eq!(keeper_and_enforcer(), before);
    assert!(agent(READ).starts_with("200"));
    assert!(agent(&format!("--request DELETE {READ}")).starts_with("403"));
    fs::remove_file(broken).unwrap();
    let said = run("dpkg --configure tidegate").success();
    assert!(said.contains("upgraded: "), "{said}");
    assert!(agent(READ).starts_with("200"));
}

fn stopped_upgrade() {
    run("systemctl stop tidegate.service").success();
    let said = run("dpkg --install /trial/2.deb").success();
    assert!(said.contains("stays shut"), "{said}");
    assert!(agent(READ).starts_with("000") && anybody(READ).starts_with("000"));
    run("systemctl start tidegate.service").success();
    until_enforced();
}

fn removed() {
    // The cgroup of a unit's name becomes that unit's.
    run("systemd-run --quiet --unit=react-agent --slice=agents.slice sleep infinity").success();
    let recorded = on_record();
    assert!(recorded > 0);
    fs::write("/var/lib/trial/recorded", recorded.to_string()).unwrap();
    let said = run("dpkg --remove tidegate").success();
    assert!(said.contains("nothing is protected any more"), "{said}");
    assert_ne!(property("react-agent.service", "ActiveState"), "active", "no agent runs unguarded");
    for kept in [&format!("{POLICIES}/crm.toml"), "/var/lib/tidegate/record", "/var/lib/tidegate/keys"] {
        assert!(fs::metadata(kept).is_ok(), "{kept} is gone");
    }
    assert!(read("ls -A /sys/fs/bpf").is_empty());
    let plain = anybody(READ);
    assert!(plain.starts_with("200") && plain.contains("ada@example.org"), "nothing is in the way: {plain}");
}

fn again() {
    let said = run("dpkg --install /trial/2.deb").success();
    assert!(!said.contains("does not run"), "{said}");
    until_enforced();
    assert!(agent(&format!("--request DELETE {READ}")).starts_with("403"));
    let recorded: usize = fs::read_to_string("/var/lib/trial/recorded").unwrap().parse().unwrap();
    assert!(on_record() > recorded);
    run("tidegate record verify").success();
}

fn purged() {
    let control = read(TRACES);
    for trace in
        ["/usr/bin/tidegate", "/sys/fs/bpf/tidegate", "agents.slice", "tidegate:x:", "/var/lib/tidegate"]
    {
        assert!(control.contains(trace), "the control sees {trace}: {control}");
    }
    // What this trial put beside the package goes as it came.
    run("rm -r /etc/systemd/system/early-agent.service.d && systemctl daemon-reload").success();
    run("dpkg --purge tidegate").success();
    let left = read(TRACES);
    assert!(left.is_empty(), "left behind:\n{left}");
    assert!(fs::metadata(AGENT).is_err());
    assert!(agent(READ).starts_with("200"), "the programs are gone");
}
