//! Calls of a protected service, from this host and from another: through the gate or not at all. A remote caller proves
//! a user; a token that proves nothing is 401 and never "nobody".

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tidegate::operation::Direction;
use tidegate::record::entry::Verdict;
use tidegate_tests::host::{HOST4, HOST6, REMOTE4, REMOTE6};
use tidegate_tests::keys::{AUDIENCE, ISSUER};
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Client, Gate, Host, Keys, Oidc, Seat, Upstream, eventually};

const PORT: u16 = 8080;
const OPEN: u16 = 8081;
const LOCAL: u16 = 8082;
const UNPROTECTED: u16 = 8083;
const BY_PROVIDER: u16 = 8084;

struct World {
    host: Host,
    gate: Gate,
    keys: Keys,
    service: Upstream,
    open: Upstream,
    local: Upstream,
    unprotected: Upstream,
    by_provider: Upstream,
    oidc: Oidc,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::with_remote();
    let keys = Keys::new("one");
    keys.write_jwks(&host.folder().join("jwks.json"));
    let oidc = Oidc::start(&host.client(), "urn:react");
    let target = |name: &str, port: u16, require: &str| {
        format!("[[target]]\nname = \"{name}\"\ndirection = \"inbound\"\nports = [{port}]\n{require}\n")
    };
    let nouns = [
        target("react", PORT, ""),
        target("open", OPEN, "require = \"peer\""),
        target("local", LOCAL, "require = \"workload\""),
        target("provided", BY_PROVIDER, "require = \"user\"\nforward_token = false"),
        format!(
            "[[identity_provider]]\nname = \"corp\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"ES256\"]\njwks = \"{}\"\n",
            host.folder().join("jwks.json").display()
        ),
        format!(
            "[[identity_provider]]\nname = \"real\"\nissuer = \"{}\"\naudience = \"urn:react\"\nalgorithms = [\"RS256\"]\njwks = \"{}\"\n",
            oidc.issuer(),
            oidc.jwks_uri()
        ),
        "[[role]]\nname = \"analyst\"\ngroups = [\"analysts\"]\nprovider = \"corp\"\n".to_owned(),
        "[[role]]\nname = \"engineer\"\ngroups = [\"engineers\"]\nprovider = \"real\"\n".to_owned(),
        "[[role]]\nname = \"local-agent\"\nuids = [1234]\n".to_owned(),
    ];
    let rules = r#"
        permit (principal in Role::"analyst", action == Action::"http", resource == Target::"react");
        permit (principal in Role::"local-agent", action == Action::"http", resource == Target::"react");
        permit (principal in Role::"engineer", action == Action::"http", resource == Target::"provided");
        permit (principal, action == Action::"http", resource == Target::"open");
        permit (principal in Role::"local-agent", action == Action::"http", resource == Target::"local");
        @id("no-delete") @message("nothing is deleted here")
        forbid (principal, action == Action::"http", resource == Target::"react") when { context.method == "DELETE" };
    "#;
    let seat = host.client();
    let service = |port: u16| Upstream::start(&seat, &format!("[::]:{port}"));
    let (react, open, local) = (service(PORT), service(OPEN), service(LOCAL));
    let (unprotected, by_provider) = (service(UNPROTECTED), service(BY_PROVIDER));
    let gate = Gate::on(&host).policy("a.toml", &nouns.concat()).policy("a.cedar", rules).start();
    World { host, gate, keys, service: react, open, local, unprotected, by_provider, oidc }
});

fn unique(name: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn dial(seat: &Seat, to: SocketAddr) -> Client {
    // The process must live as long as its connection; the host's end is its end.
    std::mem::forget(seat.clone());
    seat.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"))
}

fn get(client: &mut Client, path: &str, token: Option<&str>) -> tidegate_tests::Response {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    client.ask(format!("GET {path} HTTP/1.1\r\nHost: react.example\r\n{token}\r\n")).unwrap()
}

fn reached(upstream: &Upstream, path: &str) -> bool {
    String::from_utf8_lossy(&upstream.received()).contains(path)
}

#[test]
fn a_remote_user_with_a_token_gets_through_on_v4_and_v6_and_the_record_names_them() {
    let token = WORLD.keys.token("ada", &["analysts"]);
    for (address, peer) in [(IpAddr::from(HOST4), IpAddr::from(REMOTE4)), (HOST6.into(), REMOTE6.into())] {
        let path = unique("remote");
        let mut client = dial(&WORLD.host.remote(), at(address, PORT));
        assert_eq!(client.peer(), at(address, PORT));
        assert_eq!(get(&mut client, &path, Some(&token)).status, 200);
        let entry = WORLD.gate.entry_of(&path);
        let user = entry.intent.user.clone().unwrap();
        assert_eq!((user.provider.as_str(), user.subject.as_str()), ("corp", "ada"));
        assert_eq!(entry.intent.workload, None, "a remote client has no process");
        let session = session_of(&path);
        assert_eq!(session.direction, Direction::Inbound);
        assert_eq!(session.peer.parse::<SocketAddr>().unwrap().ip(), peer);
        assert_eq!(session.destination, at(address, PORT).to_string());
    }
}

fn session_of(path: &str) -> tidegate::record::entry::SessionOpened {
    WORLD.gate.session_of(&WORLD.gate.entry_of(path)).summary.opened
}

#[test]
fn a_remote_caller_without_a_token_is_401_and_recorded_and_reaches_nothing() {
    for address in [IpAddr::from(HOST4), HOST6.into()] {
        let path = unique("nobody");
        let mut client = dial(&WORLD.host.remote(), at(address, PORT));
        let response = get(&mut client, &path, None);
        assert_eq!(response.status, 401);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!((status(&entry), fault(&entry)), (Some(401), "refused"));
        assert!(!reached(&WORLD.service, &path));
    }
}

#[test]
fn a_token_that_proves_nothing_is_401_and_recorded_and_never_nobody() {
    let keys = &WORLD.keys;
    let claims = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = Keys::claims("mallory", &["analysts"]);
        change(&mut claims);
        keys.sign(&claims)
    };
    let now = jiff::Timestamp::now().as_second();
    let honest = keys.token("mallory", &["analysts"]);
    let (head_and_claims, signature) = honest.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let hs256 = json!({ "alg": "HS256", "typ": "JWT", "kid": "one" });
    let tokens = [
        ("expired", claims(&|claims| claims["exp"] = json!(now - 3600))),
        ("not yet", claims(&|claims| claims["nbf"] = json!(now + 3600))),
        ("without expiry", claims(&|claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
        ("another audience", claims(&|claims| claims["aud"] = json!("somebody-else"))),
        ("without audience", claims(&|claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
        ("another issuer", claims(&|claims| claims["iss"] = json!("https://evil.example"))),
        ("without issuer", claims(&|claims| drop(claims.as_object_mut().unwrap().remove("iss")))),
        ("without subject", claims(&|claims| drop(claims.as_object_mut().unwrap().remove("sub")))),
        ("another key", Keys::new("one").token("mallory", &["analysts"])),
        ("an unknown key", Keys::new("two").token("mallory", &["analysts"])),
        ("alg none", Keys::forge(&json!({ "alg": "none" }), &Keys::claims("mallory", &["analysts"]), b"")),
        ("alg HS256", Keys::forge(&hs256, &Keys::claims("mallory", &["analysts"]), &[7; 32])),
        ("a broken signature", format!("{head_and_claims}.{flipped}{}", &signature[1..])),
        ("no signature", format!("{head_and_claims}.")),
        ("nonsense", "abc".to_owned()),
        ("nothing", String::new()),
    ];
    // Also where nobody would be admitted: a bad token is an answer of its own.
    for (port, upstream) in [(PORT, &WORLD.service), (OPEN, &WORLD.open)] {
        for (what, token) in &tokens {
            let path = unique("bad-token");
            let mut client = dial(&WORLD.host.remote(), at(HOST4, port));
            let response = get(&mut client, &path, Some(token));
            assert_eq!(response.status, 401, "{what} on {port}: {}", response.text());
            let entry = WORLD.gate.entry_of(&path);
            assert_eq!((status(&entry), fault(&entry)), (Some(401), "refused"), "{what}");
            assert!(entry.intent.user.is_none(), "{what}");
            assert!(!reached(upstream, &path), "{what}");
        }
    }
}

#[test]
fn an_honest_token_of_someone_without_a_role_is_403() {
    let path = unique("stranger");
    let mut client = dial(&WORLD.host.remote(), at(HOST4, PORT));
    let token = WORLD.keys.token("eve", &["visitors"]);
    assert_eq!(get(&mut client, &path, Some(&token)).status, 403);
    assert!(!reached(&WORLD.service, &path));
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(entry.intent.verdict, Verdict::Deny);
    assert_eq!(entry.intent.user.unwrap().subject, "eve", "who was refused is known");
}

#[test]
fn each_request_on_one_connection_is_judged_by_its_own_token() {
    let mut client = dial(&WORLD.host.remote(), at(HOST4, PORT));
    let (ada, eve) = (WORLD.keys.token("ada", &["analysts"]), WORLD.keys.token("eve", &[]));
    let statuses = [Some(ada.as_str()), None, Some(eve.as_str()), Some(ada.as_str())]
        .map(|token| get(&mut client, "/each", token).status);
    assert_eq!(statuses, [200, 401, 403, 200]);
}

#[test]
fn a_forbidden_method_gets_the_rules_message() {
    let token = WORLD.keys.token("ada", &["analysts"]);
    let path = unique("delete");
    let mut client = dial(&WORLD.host.remote(), at(HOST4, PORT));
    let response = client
        .ask(format!("DELETE {path} HTTP/1.1\r\nHost: react\r\nAuthorization: Bearer {token}\r\n\r\n"))
        .unwrap();
    assert_eq!((response.status, response.json()["detail"].clone()), (403, json!("nothing is deleted here")));
    assert!(!reached(&WORLD.service, &path));
}

#[test]
fn a_token_of_a_real_provider_is_verified_by_its_key_set_url() {
    let token = WORLD.oidc.token();
    let path = unique("oidc");
    let mut client = dial(&WORLD.host.remote(), at(HOST4, BY_PROVIDER));
    let response = get(&mut client, &path, Some(&token));
    assert_eq!(response.status, 200, "{}", response.text());
    let user = WORLD.gate.entry_of(&path).intent.user.unwrap();
    assert_eq!((user.provider.as_str(), user.groups), ("real", vec!["engineers".to_owned()]));
    assert!(
        !String::from_utf8_lossy(&WORLD.by_provider.received()).contains(&token),
        "forward_token = false"
    );
    let tampered = format!("{}x", &token[..token.len() - 1]);
    assert_eq!(get(&mut client, &unique("oidc"), Some(&tampered)).status, 401);
    // The other provider's token is honest, and its user has no role here.
    let other = WORLD.keys.token("ada", &["engineers"]);
    assert_eq!(get(&mut client, &unique("oidc"), Some(&other)).status, 403);
}

/// A service on a host of its own, whose users a real provider on that host vouches for.
struct Vouched {
    host: Host,
    gate: Gate,
    service: Upstream,
    oidc: Oidc,
    token: String,
}

impl Vouched {
    /// With these nouns of the provider's address beside what it takes, and these rules.
    fn with(nouns: impl FnOnce(&Host, SocketAddr) -> String, rules: &str) -> Self {
        let host = Host::with_remote();
        let oidc = Oidc::start(&host.client(), "urn:react");
        let (token, jwks) = (oidc.token(), oidc.jwks_uri());
        let service = Upstream::start(&host.client(), &format!("[::]:{PORT}"));
        let fixed = format!(
            r#"
            [[target]]
            name = "react"
            direction = "inbound"
            ports = [{PORT}]

            [[identity_provider]]
            name = "real"
            issuer = "{}"
            audience = "urn:react"
            algorithms = ["RS256"]
            jwks = "{jwks}"

            [[role]]
            name = "engineer"
            groups = ["engineers"]
            provider = "real"
            "#,
            oidc.issuer()
        );
        let permit = r#"permit (principal in Role::"engineer", action == Action::"http", resource == Target::"react");"#;
        let nouns = fixed + &nouns(&host, oidc.address());
        let gate =
            Gate::on(&host).policy("a.toml", &nouns).policy("a.cedar", &format!("{permit}\n{rules}")).start();
        Self { host, gate, service, oidc, token }
    }

    /// The provider's users get through, and nobody who is none.
    fn check(&self) {
        let mut client = dial(&self.host.remote(), at(HOST4, PORT));
        let response = get(&mut client, "/vouched", Some(&self.token));
        assert_eq!(response.status, 200, "{}\n{}", response.text(), self.gate.log());
        assert_eq!(self.gate.entry_of("/vouched").intent.user.unwrap().provider, "real");
        assert!(reached(&self.service, "/vouched"));
        let tampered = format!("{}x", &self.token[..self.token.len() - 1]);
        assert_eq!(get(&mut client, "/tampered", Some(&tampered)).status, 401);
    }
}

#[test]
fn a_provider_that_is_a_target_itself_still_vouches_for_users_and_nobody_else_reaches_it() {
    let target = |_: &Host, provider: SocketAddr| {
        format!(
            "[[target]]\nname = \"provider\"\ndirection = \"outbound\"\naddresses = [\"{}\"]\nports = [{}]\n",
            provider.ip(),
            provider.port()
        )
    };
    let deny =
        r#"@id("not-you") forbid (principal, action == Action::"http", resource == Target::"provider");"#;
    let vouched = Vouched::with(target, deny);
    let provider = vouched.oidc.address();
    let call = || dial(&vouched.host.client(), provider).get(&provider.to_string(), "/jwks").unwrap();
    assert_eq!(call().status, 403, "the provider lies behind the gate");
    vouched.check();
    assert_eq!(call().status, 403, "and still does after the gate went there");
    let calls = vouched.gate.entries_of("/jwks");
    assert!(calls.len() == 2 && calls.iter().all(|call| call.intent.verdict == Verdict::Deny), "{calls:?}");
}

#[test]
fn a_gate_inside_a_guard_fetches_its_keys_and_nobody_beside_it_gets_out() {
    let guard =
        |host: &Host, _| format!("[[guard]]\nname = \"all\"\ncgroups = [\"/{}.slice/gate\"]\n", host.name());
    let vouched = Vouched::with(guard, "");
    let beside = vouched.host.seat("gate");
    let call = || dial(&beside, vouched.oidc.address()).get("provider", "/jwks");
    assert!(call().is_err(), "the guard holds everybody there");
    vouched.check();
    assert!(call().is_err(), "and still does after the gate went out");
}

#[test]
fn a_token_is_in_no_record_and_no_log() {
    let token = WORLD.keys.token("secret-holder", &["analysts"]);
    let mut client = dial(&WORLD.host.remote(), at(HOST4, PORT));
    assert_eq!(get(&mut client, &unique("kept"), Some(&token)).status, 200);
    assert_eq!(get(&mut client, &unique("kept"), Some(&format!("{token}x"))).status, 401);
    let signature = token.rsplit_once('.').unwrap().1;
    let entries = format!("{:?}", WORLD.gate.entries_of("/kept"));
    assert!(!entries.contains(signature) && entries.contains("\"Bearer "), "{entries}");
    assert!(!WORLD.gate.log().contains(signature));
}

#[test]
fn a_local_process_is_known_and_needs_no_token() {
    for address in [IpAddr::from([127, 0, 0, 1]), HOST4.into(), "::1".parse().unwrap(), HOST6.into()] {
        let path = unique("local");
        let seat = WORLD.host.client().uid(1234);
        let mut client = dial(&seat, at(address, PORT));
        assert_eq!(client.peer(), at(address, PORT));
        let response = get(&mut client, &path, None);
        assert_eq!(response.status, 200, "{address}: {}", response.text());
        let session = session_of(&path);
        let workload = session.workload.expect("a local process");
        assert_eq!((workload.pid, workload.uid), (seat.dialer().pid(), 1234));
        assert!(workload.executable.is_some_and(|program| program.path.ends_with("tidegate-dialer")));
    }
}

#[test]
fn a_local_process_without_a_role_is_refused() {
    let path = unique("local-stranger");
    let mut client = dial(&WORLD.host.client().uid(4321), at([127, 0, 0, 1], PORT));
    assert_eq!(get(&mut client, &path, None).status, 403);
    assert!(!reached(&WORLD.service, &path));
}

#[test]
fn a_local_process_is_never_nobody_at_an_address_that_is_new() {
    let new = IpAddr::from([198, 51, 100, 77]);
    WORLD.host.add_address(new);
    let (seat, path) = (WORLD.host.client(), unique("new"));
    let response = eventually("the gate to know its new address", || {
        let answered = seat.connect(at(new, OPEN)).ok()?.get("open", &path).ok();
        assert!(answered.is_some() || !reached(&WORLD.open, &path), "refused, and yet it got through");
        answered
    });
    assert_eq!(response.status, 200);
    assert!(
        session_of(&path).workload.is_some(),
        "the target admits anyone, and still it is known who this is"
    );
}

#[test]
fn a_user_does_not_gain_what_the_process_may_nor_the_process_what_the_user_may() {
    // The uid may; the token's user may not: where a user is proven, the user asks.
    let eve = WORLD.keys.token("eve", &[]);
    let mut local = dial(&WORLD.host.client().uid(1234), at([127, 0, 0, 1], BY_PROVIDER));
    assert_eq!(get(&mut local, &unique("merge"), Some(&eve)).status, 403);
    assert_eq!(get(&mut local, &unique("merge"), None).status, 401, "the process alone is no user");
}

#[test]
fn a_target_for_local_processes_admits_no_remote_caller_whatever_they_prove() {
    let token = WORLD.keys.token("ada", &["analysts"]);
    for token in [None, Some(token.as_str())] {
        let path = unique("workload-only");
        let mut client = dial(&WORLD.host.remote(), at(HOST4, LOCAL));
        let refused = get(&mut client, &path, token).status;
        assert!(matches!(refused, 401 | 403), "{refused}");
        assert!(!reached(&WORLD.local, &path));
    }
    let mut local = dial(&WORLD.host.client().uid(1234), at([127, 0, 0, 1], LOCAL));
    assert_eq!(get(&mut local, &unique("workload-only"), None).status, 200);
}

#[test]
fn a_target_that_says_so_admits_anyone() {
    let path = unique("anyone");
    let mut client = dial(&WORLD.host.remote(), at(HOST4, OPEN));
    assert_eq!(get(&mut client, &path, None).status, 200);
    assert!(reached(&WORLD.open, &path));
}

#[test]
fn the_service_hears_the_true_client_and_never_a_forged_one() {
    for (address, peer, node) in [
        (IpAddr::from(HOST4), REMOTE4.to_string(), REMOTE4.to_string()),
        (HOST6.into(), REMOTE6.to_string(), format!("\"[{REMOTE6}]\"")),
    ] {
        let path = unique("forged");
        let mut client = dial(&WORLD.host.remote(), at(address, OPEN));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: react\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Client-IP: 9.9.9.9\r\n\r\n"
        );
        assert_eq!(client.ask(request).unwrap().status, 200);
        let requests = WORLD.open.requests();
        let got = requests.iter().find(|request| request.target == path).unwrap();
        assert!(!format!("{:?}", got.headers).contains("9.9.9.9"), "{:?}", got.headers);
        assert_eq!(got.header("x-forwarded-for"), Some(peer.as_str()));
        assert!(got.header("forwarded").unwrap().contains(&format!("for={node}")), "{:?}", got.headers);
        assert_eq!(
            (got.header("x-forwarded-host"), got.header("x-forwarded-proto")),
            (Some("react"), Some("http"))
        );
        for name in ["x-forwarded-for", "forwarded", "x-forwarded-host"] {
            let count = got.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count();
            assert_eq!(count, 1, "{name}");
        }
    }
}

#[test]
fn a_port_that_no_target_names_is_left_alone() {
    let mut client = dial(&WORLD.host.remote(), at(HOST4, UNPROTECTED));
    assert_eq!(get(&mut client, "/free", None).status, 200);
    assert!(reached(&WORLD.unprotected, "/free"));
    assert!(WORLD.gate.sessions_to(&at(HOST4, UNPROTECTED).to_string()).is_empty());
}

#[test]
fn a_service_that_is_down_is_a_502_for_callers_and_not_a_loop() {
    // Nothing listens on a second address of the protected port: the service above listens on [::] and takes all.
    let host = Host::new();
    let nouns = "[[target]]\nname = \"down\"\ndirection = \"inbound\"\nports = [9090]\nrequire = \"peer\"\n";
    let gate = Gate::on(&host)
        .policy("a.toml", nouns)
        .policy("a.cedar", r#"permit (principal, action == Action::"http", resource == Target::"down");"#)
        .start();
    for address in ["127.0.0.1:9090", "[::1]:9090"] {
        let mut client = dial(&host.client(), address.parse().unwrap());
        assert_eq!(client.get(address, "/down").unwrap().status, 502);
    }
    let entries = eventually("two closed entries", || {
        let entries = gate.entries_of("/down");
        (entries.len() == 2 && entries.iter().all(|entry| entry.closed.is_some())).then_some(entries)
    });
    assert!(entries.iter().all(|entry| fault(entry) == "upstream"));
    assert_eq!(gate.sessions().len(), 2, "the gate never called itself");
}

#[test]
fn programs_that_people_use_pass_from_another_host_unmodified() {
    let token = WORLD.keys.token("ada", &["analysts"]);
    let bearer = format!("Bearer {token}");
    let header = format!("Authorization: {bearer}");
    let seat = WORLD.host.remote();
    for (url, address) in [
        (format!("http://{HOST4}:{PORT}/tool"), at(HOST4, PORT)),
        (format!("http://[{HOST6}]:{PORT}/tool"), at(HOST6, PORT)),
    ] {
        let fields = [("Authorization", bearer.as_str())];
        let answers = [
            seat.curl(&["--header", &header, &url]),
            seat.requests("GET", &url, &fields, ""),
            seat.aiohttp("GET", &url, &fields, ""),
            seat.fetch("GET", &url, &fields, ""),
        ];
        for answered in answers {
            assert_eq!((answered.status, answered.body.as_str()), (200, r#"{"ok":true}"#));
            assert_eq!(answered.peer, Some(address));
        }
        assert_eq!(seat.wget(&url, &["--header", &header]).status, 200);
        assert_eq!(seat.curl(&[&url]).status, 401);
    }
}

#[test]
fn the_gates_own_port_serves_nobody_who_knocks_at_it() {
    let upstream = Upstream::start(&WORLD.host.client(), "127.0.0.1:0");
    for address in ["127.0.0.1:15001", "127.0.0.2:15001", "[::1]:15001", "0.0.0.0:15001"] {
        let to: SocketAddr = address.parse().unwrap();
        let Ok(mut client) = WORLD.host.client().connect(to) else { continue };
        let host = upstream.address();
        let asked = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(asked.is_err(), "{address}: {asked:?}");
    }
    let Err(error) = WORLD.host.remote().connect(at(HOST4, 15001)) else {
        panic!("a remote host reached it")
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut), "{error}");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_protected_port_refuses_what_is_not_http() {
    let mut client = dial(&WORLD.host.remote(), at(HOST4, OPEN));
    client.stream().write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
    let response = client.response("GET").unwrap();
    assert_eq!(response.status, 400);
    assert!(client.is_closed_within(Duration::from_secs(5)));
    assert!(!reached(&WORLD.open, "hello"));
}
