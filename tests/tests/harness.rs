//! The harness itself: isolated hosts, real clients, exact bytes, and nothing left behind. A test bed that lies makes
//! every other test worthless.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidegate_tests::host::{HOST4, HOST6, REMOTE4};
use tidegate_tests::{
    Answer, Client, Finished, Gate, Host, Keys, Nginx, Oidc, Upstream, built, root_cgroup_lock,
};

/// Everything a host may leave behind.
fn objects(host: &Host) -> Vec<PathBuf> {
    let remote = format!("{}-remote", host.name());
    let netns = host.netns();
    vec![
        netns.with_file_name(&remote),
        netns,
        host.cgroup().with_file_name(format!("{remote}.slice")),
        host.cgroup(),
        host.pins(),
        host.folder(),
    ]
}

#[test]
fn two_hosts_do_not_see_each_other() {
    let (one, other) = (Host::new(), Host::new());
    let upstream = Upstream::start(&one.client(), "127.0.0.1:8080");
    assert_eq!(one.client().curl(&["http://127.0.0.1:8080/"]).status, 200);
    let refused = other.client().connect(upstream.address()).err().expect("nobody listens there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(!other.client().is_listening(8080) && one.client().is_listening(8080));
}

#[test]
fn a_host_leaves_nothing_behind() {
    let host = Host::with_remote();
    let sleeping = host.agent().spawn("sleep", &["1000"]);
    fs::create_dir(host.pins().join("folder")).unwrap();
    let objects = objects(&host);
    assert!(objects.iter().all(|path| path.exists()), "{objects:?}");
    let pid = sleeping.pid();
    drop(host);
    assert_eq!(objects.iter().filter(|path| path.exists()).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    drop(sleeping);
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}

#[test]
fn a_test_that_panics_leaves_nothing_behind() {
    let mut left = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let host = Host::with_remote();
        left = objects(&host);
        let _daemon = host.client().run("sh", &["-c", "setsid sleep 1000 >/dev/null 2>&1 &"]).success();
        panic!("as a failing test does");
    }));
    assert!(outcome.is_err());
    assert_eq!(left.iter().filter(|path| path.exists()).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
fn what_a_killed_test_left_is_swept_at_the_next_start() {
    // A process id above any that Linux gives out.
    let dead = PathBuf::from("/tmp/tg99999999-1");
    let foreign = PathBuf::from("/tmp/tg99999999-notes");
    fs::create_dir_all(&dead).unwrap();
    fs::create_dir_all(&foreign).unwrap();
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", "a_host_leaves_nothing_behind"]);
    drop(Finished::of(command, Duration::from_secs(60)).success());
    let survived = (dead.exists(), foreign.exists());
    fs::remove_dir_all(foreign).unwrap();
    assert_eq!(survived, (false, true), "the stale host goes, what only looks like one stays");
}

#[test]
fn an_interrupted_test_leaves_nothing_behind() {
    let mut command = std::process::Command::new(built("tidegate-dialer"));
    command.arg("hold");
    let mut process = tidegate_tests::Process::start(command);
    process.await_text("host:");
    let name =
        process.stdout().lines().find_map(|line| Some(line.split_once("host:")?.1.to_owned())).unwrap();
    let netns = PathBuf::from("/run/netns").join(&name);
    assert!(netns.exists());
    let status = process.stop(Duration::from_secs(20));
    assert_eq!(status.code(), Some(130), "{}", process.stderr());
    assert!(!netns.exists());
    assert!(!PathBuf::from("/tmp").join(&name).exists());
}

#[test]
fn a_process_sits_where_it_is_told_to() {
    let host = Host::new();
    let seat = host.seat("agents.slice/worker").uid(4242);
    let told = seat
        .run("sh", &["-c", "id -u; id -g; id -G; cat /proc/self/cgroup; readlink /proc/self/ns/net"])
        .success();
    let text = told.text();
    let mut lines = text.lines();
    assert_eq!([lines.next(), lines.next(), lines.next()], [Some("4242"); 3]);
    assert!(text.contains(&format!("0::/{}.slice/agents.slice/worker\n", host.name())), "{text}");
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert!(!text.contains(&own), "{text}");
}

#[test]
fn a_login_stays_with_its_process() {
    let host = Host::new();
    let told = host.client().login(1001).run("sh", &["-c", "cat /proc/self/loginuid; echo; id -u"]).success();
    assert_eq!(told.text(), "1001\n0\n");
}

#[test]
fn what_takes_too_long_is_killed_and_fails_the_test() {
    let host = Host::new();
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        host.client().run_for(Duration::from_millis(200), "sleep", &["60"])
    }));
    assert!(outcome.is_err());
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn every_client_says_what_it_got_and_from_whom() {
    let host = Host::new();
    let upstream = Upstream::answering(&host.client(), "127.0.0.1:0", |request| {
        Answer::new(418, &[("Content-Type", "text/plain")], format!("{} {}", request.method, request.target))
    });
    let url = format!("http://{}/pot", upstream.address());
    let client = host.client().uid(65534);
    let posted = [
        client.curl(&["--data", "tea", &url]),
        client.requests("POST", &url, &[("X-One", "1")], "tea"),
        client.aiohttp("POST", &url, &[], "tea"),
        client.fetch("POST", &url, &[], "tea"),
    ];
    for answered in &posted {
        assert_eq!((answered.status, answered.body.as_str()), (418, "POST /pot"));
        assert_eq!(answered.peer, Some(upstream.address()));
    }
    let got = client.wget(&url, &[]);
    assert_eq!((got.status, got.body.as_str()), (418, "GET /pot"));
    let requests = upstream.requests();
    assert!(requests[..4].iter().all(|request| request.body == b"tea"), "{requests:?}");
    assert_eq!(requests[1].header("x-one"), Some("1"));
}

#[test]
fn a_raw_connection_belongs_to_its_dialer_and_carries_exact_bytes() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "[::1]:0");
    let seat = host.agent();
    let mut client = seat.connect(upstream.address()).unwrap();
    assert_eq!(client.peer(), upstream.address());
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", seat.dialer().pid())).unwrap();
    assert!(cgroup.contains(&format!("0::/{}.slice/agent\n", host.name())), "{cgroup}");
    let request = b"GET /a HTTP/1.1\r\nhOsT:   x\r\n\r\n";
    assert_eq!(client.ask(request).unwrap().status, 200);
    assert_eq!(upstream.received(), request);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_follows_its_script() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "127.0.0.1:0");
    upstream.next(
        Answer::chunked(200, &[])
            .chunk("one")
            .pause(Duration::from_millis(50))
            .chunk("two")
            .last_chunk(&[("Digest", "x")])
            .interim(103, &[("Link", "</a>")]),
    );
    upstream.next(Answer::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").reset());
    let mut client = host.client().connect(upstream.address()).unwrap();
    let response = client.get("x", "/").unwrap();
    assert_eq!((response.text().as_str(), response.chunks.as_slice()), ("onetwo", &[3, 3][..]));
    assert_eq!(response.trailers, [("Digest".to_owned(), "x".to_owned())]);
    assert_eq!(response.interim[0].0, 103);
    let broken = client.get("x", "/").unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_upstream_that_stays_silent_is_noticed() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "127.0.0.1:0");
    upstream.next(Answer::silence());
    let mut client = host.client().connect(upstream.address()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(!client.is_closed_within(Duration::from_millis(100)));
    assert_eq!(upstream.await_requests(1).len(), 1);
}

#[test]
fn a_remote_host_reaches_this_one_by_cable() {
    let host = Host::with_remote();
    let upstream = Upstream::start(&host.client(), "[::]:8080");
    for address in [SocketAddr::from((HOST4, 8080)), SocketAddr::from((HOST6, 8080))] {
        let mut client: Client = host.remote().connect(address).unwrap();
        assert_eq!(client.get("x", "/").unwrap().status, 200);
    }
    let peer = upstream.peers()[0].ip().to_canonical();
    assert_eq!(peer, REMOTE4);
    host.add_address(Ipv4Addr::new(192, 0, 2, 7).into());
    assert_eq!(host.client().curl(&["http://192.0.2.7:8080/"]).status, 200);
}

#[test]
fn nginx_serves_and_proxies() {
    let host = Host::new();
    fs::write(host.folder().join("hello.txt"), "hello").unwrap();
    let files = Nginx::serving(&host.client(), 8081, &host.folder());
    let proxy = Nginx::proxying(&host.client(), 8082, &format!("127.0.0.1:{}", files.port()));
    let answered = host.client().curl(&[&format!("http://[::1]:{}/hello.txt", proxy.port())]);
    assert_eq!((answered.status, answered.body.as_str()), (200, "hello"));
}

#[test]
fn a_real_provider_issues_tokens_that_its_keys_verify() {
    let host = Host::new();
    let provider = Oidc::start(&host.client(), "urn:tidegate:tests");
    let token = provider.token();
    let keys: jsonwebtoken::jwk::JwkSet =
        serde_json::from_str(&host.client().curl(&[&provider.jwks_uri()]).body).unwrap();
    let claims =
        verify(&token, &keys, &provider.issuer(), "urn:tidegate:tests", jsonwebtoken::Algorithm::RS256);
    assert_eq!(claims["groups"], serde_json::json!(["engineers"]));
}

#[test]
fn throw_away_keys_sign_what_their_set_verifies() {
    let keys = Keys::new("one");
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys.jwks()).unwrap();
    let token = keys.token("ada", &["analysts"]);
    let claims = verify(
        &token,
        &set,
        tidegate_tests::keys::ISSUER,
        tidegate_tests::keys::AUDIENCE,
        jsonwebtoken::Algorithm::ES256,
    );
    assert_eq!(claims["sub"], "ada");
}

fn verify(
    token: &str,
    keys: &jsonwebtoken::jwk::JwkSet,
    issuer: &str,
    audience: &str,
    algorithm: jsonwebtoken::Algorithm,
) -> serde_json::Value {
    let header = jsonwebtoken::decode_header(token).unwrap();
    let jwk = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(algorithm);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).unwrap().claims
}

#[test]
fn only_one_test_at_a_time_holds_the_root_cgroup() {
    let held = root_cgroup_lock();
    let waiting = std::thread::spawn(|| {
        let _held = root_cgroup_lock();
        Instant::now()
    });
    std::thread::sleep(Duration::from_millis(100));
    let released = Instant::now();
    drop(held);
    assert!(waiting.join().unwrap() >= released);
}

#[test]
fn a_gate_starts_shuts_and_comes_back() {
    let host = Host::new();
    let address = Ipv4Addr::new(192, 0, 2, 7);
    host.add_address(address.into());
    let upstream = Upstream::start(&host.seat("upstream"), &format!("{address}:8080"));
    let target = "[[target]]\nname = \"crm\"\ndirection = \"outbound\"\nports = [8080]\naddresses = [\"192.0.2.7\"]\nprotocol = \"http\"\nrequire = \"workload\"\n";
    let rule =
        "@id(\"open\")\npermit (principal, action == Action::\"http\", resource == Target::\"crm\");\n";
    let mut gate = Gate::on(&host).policy("crm.toml", target).policy("crm.cedar", rule).start();
    let answered = host.client().curl(&["http://192.0.2.7:8080/"]);
    assert_eq!((answered.status, answered.peer), (200, Some(upstream.address())));
    let seen = upstream.connections();
    gate.kill();
    assert_eq!(host.client().try_curl(&["http://192.0.2.7:8080/"]).code(), Some(7), "refused, not let past");
    assert_eq!(upstream.connections(), seen);
    gate.start();
    assert_eq!(host.client().curl(&["http://192.0.2.7:8080/"]).status, 200);
    let as_ada = gate.tidegate_as(1001, &["status", "--json"]).success();
    assert!(as_ada.json().is_object());
    gate.stop();
}
