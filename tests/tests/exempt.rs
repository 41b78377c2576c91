//! `[[exempt]]`: who stays outside the gate, by uid and by unit only besides. Nobody else does, and nobody for longer than the
//! exemption stands.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tidegate::record::entry::{DestroyedSocket, Event};
use tidegate::record::frame::Frame;
use tidegate_tests::host::HOST4;
use tidegate_tests::{Client, Gate, Host, Seat, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[target]]
name = "service"
direction = "inbound"
ports = [8080]
require = "peer"
"#;

/// Nobody is permitted anything: what is answered 200 went past the gate.
const RULES: &str = r#"
forbid (principal, action, resource);
"#;

const LATER: &str = r#"
[[target]]
name = "billing"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7002]
"#;

const CRM: &str = "127.0.0.1:7001";
const BILLING: &str = "127.0.0.1:7002";
const SERVICE: &str = "127.0.0.1:8080";
const UID: u32 = 61_034;

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn exempt(units: &str) -> String {
    format!("[[exempt]]\nname = \"backup\"\nuids = [{UID}]\n{units}reason = \"reads it all at night\"\n")
}

fn status(seat: &Seat, address: &str, path: &str) -> u16 {
    let answer = seat.connect(at(address)).and_then(|mut client| client.get(address, path));
    answer.map_or(0, |answer| answer.status)
}

/// Whether its connection ended, by whatever the kernel says of that.
fn ended(client: &Client) -> Option<ErrorKind> {
    let mut stream = client.stream();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    drop(stream.write_all(b"G"));
    match stream.read(&mut [0; 1]) {
        Ok(0) => Some(ErrorKind::UnexpectedEof),
        Ok(_) => None,
        Err(error) => Some(error.kind()).filter(|kind| *kind != ErrorKind::WouldBlock),
    }
}

fn cut(gate: &Gate) -> Vec<DestroyedSocket> {
    let lines = gate.record().last(10_000).unwrap().into_iter();
    lines
        .filter_map(|line| match line.frame {
            Frame::Event(Event::SocketsDestroyed(event)) => Some(event.sockets),
            _ => None,
        })
        .flatten()
        .collect()
}

#[test]
fn an_exempt_user_reaches_target_and_service_unrecorded_and_no_longer_than_its_file_stands() {
    let host = Host::new();
    let upstreams = [CRM, SERVICE].map(|address| Upstream::start(&host.seat("servers"), address));
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("b.toml", &exempt(""))
        .start();
    let (backup, other) = (host.client().uid(UID), host.client().uid(UID + 1));
    for (address, upstream) in [CRM, SERVICE].iter().zip(&upstreams) {
        assert_eq!(status(&backup, address, "/straight"), 200);
        for (seat, path) in [(&other, "/other"), (&host.client(), "/root")] {
            assert_eq!(status(seat, address, path), 403, "{path} at {address}");
        }
        let seen: Vec<String> = upstream.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(seen, ["/straight"]);
    }
    for path in ["/other", "/root"] {
        eventually("the others on record", || (gate.entries_of(path).len() == 2).then_some(()));
    }
    assert!(gate.entries_of("/straight").is_empty(), "what goes past the gate is not on its record");

    let mut kept = [CRM, SERVICE].map(|address| backup.connect(at(address)).unwrap());
    for (client, address) in kept.iter_mut().zip([CRM, SERVICE]) {
        assert_eq!(client.get(address, "/kept").unwrap().status, 200);
    }
    let told = gate.tidegate(&["coverage", "--json"]).success().json();
    assert_eq!(
        (told["past"].as_array().map(Vec::len), told["unseen"].as_u64()),
        (Some(0), Some(0)),
        "{told}"
    );

    gate.remove_policy("b.toml");
    for client in &kept {
        eventually("the end of what stood by it", || ended(client));
    }
    for address in [CRM, SERVICE] {
        assert_eq!(status(&backup, address, "/afterwards"), 403);
    }
    assert!(upstreams.iter().all(|upstream| upstream.requests().len() == 2), "and nothing more came there");
    let sockets = eventually("the cut on record", || Some(cut(&gate)).filter(|cut| cut.len() == 2));
    assert!(sockets.iter().all(|one| one.uid == UID && one.why.contains("exemption")), "{sockets:?}");
}

#[test]
fn with_a_unit_neither_the_user_alone_nor_the_cgroup_alone_is_exempt() {
    let host = Host::new();
    let upstream = Upstream::start(&host.seat("servers"), CRM);
    let unit = format!("{}-backup.service", host.name());
    let (inside, outside) = (host.seat(&unit), host.client());
    let units = format!("units = [\"{unit}\"]\n");
    let _gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("b.toml", &exempt(&units))
        .start();
    for (seat, path) in [
        (inside.uid(UID + 1), "/cgroup-alone"),
        (inside.clone(), "/root-in-it"),
        (outside.uid(UID), "/uid-alone"),
    ] {
        assert_eq!(status(&seat, CRM, path), 403, "{path}");
    }
    // A directory of somebody else's by the unit's name is not the unit.
    let named = host.seat(&format!("agent/{unit}"));
    assert_eq!(status(&named.uid(UID), CRM, "/named-alike"), 403);
    assert_eq!(upstream.connections(), 0);
    assert_eq!(status(&inside.uid(UID), CRM, "/both"), 200);
}

#[test]
fn a_connection_of_an_exempt_user_is_not_cut_by_what_it_is_older_than_and_anybody_elses_is() {
    let host = Host::new();
    let _upstreams = [CRM, BILLING].map(|address| Upstream::start(&host.seat("servers"), address));
    let (backup, other) = (host.client().uid(UID), host.client().uid(UID + 1));
    let mut before = [&backup, &other].map(|seat| seat.connect(at(CRM)).unwrap());
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("b.toml", &exempt(""))
        .start();
    let mut later = [&backup, &other].map(|seat| seat.connect(at(BILLING)).unwrap());
    gate.write_policy("later.toml", LATER);
    let sockets = eventually("the others are cut", || Some(cut(&gate)).filter(|cut| cut.len() == 2));
    assert!(sockets.iter().all(|one| one.uid == UID + 1), "{sockets:?}");
    for (pair, address) in [(&mut before, CRM), (&mut later, BILLING)] {
        assert_eq!(pair[0].get(address, "/exempt").unwrap().status, 200, "its packets pass, too");
        assert!(pair[1].get(address, "/other").is_err(), "a control");
    }
    let told = gate.tidegate(&["coverage", "--json"]).success().json();
    assert_eq!(told["past"].as_array().map(Vec::len), Some(0), "{told}");

    gate.remove_policy("b.toml");
    let sockets = eventually("these, too", || Some(cut(&gate)).filter(|cut| cut.len() == 4));
    assert_eq!(sockets.iter().filter(|one| one.uid == UID).count(), 2, "{sockets:?}");
    assert!(before[0].get(CRM, "/over").is_err() && later[0].get(BILLING, "/over").is_err());
}

#[test]
fn what_a_reload_would_exempt_and_guard_changes_nothing_and_names_both_places() {
    let host = Host::new();
    let upstream = Upstream::start(&host.seat("servers"), CRM);
    let guard = format!("[[guard]]\nname = \"agents\"\nuids = [{UID}]\n");
    let gate =
        Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).policy("guard.toml", &guard).start();
    gate.write_policy("b.toml", &exempt(""));
    let status_now = gate.await_status("the fault", |status| status["policy"]["fault"].is_string());
    let fault = status_now["policy"]["fault"].as_str().unwrap();
    assert!(fault.contains("b.toml:3") && fault.contains("guard.toml:3"), "{fault}");
    assert_ne!(status(&host.client().uid(UID), CRM, "/both"), 200);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn the_enforcers_own_user_cannot_be_exempt() {
    let host = Host::new();
    let upstream = Upstream::start(&host.seat("servers"), CRM);
    let user = format!("--user={UID}");
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).option_of_run(&user).start();
    gate.write_policy("b.toml", &exempt(""));
    eventually("that it is refused", || {
        gate.log().contains("which is guarded (the enforcer's own user always is)").then_some(())
    });
    assert_ne!(status(&host.client().uid(UID), CRM, "/own"), 200);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn the_service_behind_the_gate_is_not_opened_by_its_own_user_being_exempt() {
    let host = Host::with_remote();
    let seat = host.seat("servers").uid(UID);
    let service = Upstream::start(&host.seat("servers"), "0.0.0.0:8080");
    let _gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("b.toml", &exempt(""))
        .start();
    let to: SocketAddr = (HOST4, 8080).into();
    let mut remote = host.remote().connect(to).unwrap();
    assert_eq!(
        remote.get(&HOST4.to_string(), "/remote").unwrap().status,
        403,
        "a remote caller has no uid here"
    );
    let beyond =
        host.remote().uid(UID).connect(to).unwrap().get(&HOST4.to_string(), "/remote-uid").unwrap().status;
    assert_eq!(beyond, 403, "nor has its own host's");
    assert_eq!(service.connections(), 0);
    assert_eq!(status(&seat, SERVICE, "/local"), 200, "a control");
}
