//! The example policies, each as an operator takes it: its directory copied, only what differs from site to site written
//! in, the gate before a real service, and clients that people use. What it promises goes through, and of what it refuses
//! not one byte arrives.

mod examples_support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use examples_support::{ADA, CRM, GRACE, ISSUER, OTHER_UNIT, Site, THIRD, Taken, WORKER, examples, name_of};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tidegate_tests::{Answer, Finished, Oidc, built, eventually, workspace};

fn in_group(groups: &[(&str, &str)]) -> Value {
    groups.iter().map(|(user, group)| ((*user).to_owned(), json!({ "groups": [group] }))).collect()
}

#[test]
fn auditors_read_everything_and_change_nothing() {
    let mut users = in_group(&[("ann", "auditors"), ("eve", "ml-engineers"), ("max", "sales")]);
    users["kim"] = json!({ "groups": ["auditors", "ml-engineers"] });
    let site = Site::of("read-only-role", &users);
    for (user, method) in [("ann", "GET"), ("kim", "GET"), ("eve", "GET"), ("eve", "POST"), ("eve", "DELETE")]
    {
        site.allowed(|| site.user(user, method, "/v1/runs/42"));
    }
    for (user, method) in [("ann", "POST"), ("ann", "DELETE"), ("kim", "PATCH")] {
        let said = site.refused(|| site.user(user, method, "/v1/runs/42"));
        assert!(said.contains("auditors read and change nothing"), "{said}");
    }
    site.refused(|| site.user("ann", "PURGE", "/v1/runs/42"));
    site.refused(|| site.user("max", "GET", "/v1/runs/42"));
}

#[test]
fn an_agent_destroys_only_what_a_data_owner_has_seen_and_approved() {
    let site = Site::of("approve-destructive", &json!({}));
    site.allowed(|| site.unit(WORKER, "GET", "/v1/customers/7"));
    site.allowed(|| site.unit(WORKER, "POST", "/v1/customers/7/notes"));
    let deleted = site.held(
        "/v1/customers/7",
        || site.unit(WORKER, "DELETE", "/v1/customers/7"),
        |demand| {
            site.cannot_vote(THIRD, demand); // Otto answers for the agent.
            site.votes(ADA, "approve", demand);
        },
    );
    let merged = site.held(
        "/v1/customers/8/merge",
        || site.unit(WORKER, "POST", "/v1/customers/8/merge"),
        |demand| site.votes(GRACE, "reject", demand),
    );
    assert_eq!((deleted, merged), (200, 403));
    site.refused(|| site.unit(OTHER_UNIT, "DELETE", "/v1/customers/9"));
    assert_eq!(site.demand("/v1/customers/9"), None, "nobody is asked for another process");
    let seen = site.crm.requests();
    assert_eq!(seen.iter().filter(|request| request.method == "DELETE").count(), 1);
    assert!(!seen.iter().any(|request| request.target.ends_with("/merge")));
}

#[test]
fn changes_go_through_in_the_office_hours_and_are_refused_outside_them() {
    let site =
        Site::with("office-hours", &in_group(&[("eve", "ml-engineers")]), |_, taken| taken.write_hours(true));
    site.allowed(|| site.user("eve", "POST", "/v1/runs"));
    let mut closed = Taken::of("office-hours");
    closed.write_provider(ISSUER, &format!("{ISSUER}/.well-known/jwks.json"), site.oidc.as_ref().unwrap());
    closed.write_hours(false);
    site.change(closed.file_with("[[hours]]"));
    let said = site.refused(|| site.user("eve", "POST", "/v1/runs"));
    assert!(said.contains("changes only Monday to Friday"), "{said}");
    site.allowed(|| site.user("eve", "GET", "/v1/runs"));
}

#[test]
fn ci_deploys_from_its_main_branch_and_deletes_nothing() {
    let jobs = json!({
        "main": { "repository": "example/shop", "ref": "refs/heads/main" },
        "branch": { "repository": "example/shop", "ref": "refs/heads/try" },
        "fork": { "repository": "mallory/shop", "ref": "refs/heads/main" },
    });
    let mut github = None;
    let site = Site::with("ci-deploys-not-deletes", &in_group(&[("olga", "operators")]), |host, taken| {
        let real = Oidc::knowing(&host.client(), "deployer", &jobs);
        let issuer = "https://token.actions.githubusercontent.com";
        taken.write_provider(issuer, &format!("{issuer}/.well-known/jwks"), &real);
        github = Some(real);
    });
    let github = github.unwrap();
    let job =
        |job: &str, method: &str| site.bearer(&github.token_of(job), method, "/v1/deployments/web", &[]);
    site.allowed(|| job("main", "POST"));
    site.allowed(|| job("main", "GET"));
    let said = site.refused(|| job("main", "DELETE"));
    assert!(said.contains("CI deploys and does not delete"), "{said}");
    site.refused(|| job("branch", "POST"));
    site.refused(|| job("fork", "POST"));
    site.allowed(|| site.user("olga", "DELETE", "/v1/deployments/web"));
}

#[test]
fn only_the_unit_that_is_named_reaches_the_crm() {
    let site = Site::of("only-this-unit", &json!({}));
    let url = format!("http://{CRM}/v1/customers/7");
    site.allowed(|| site.unit(WORKER, "GET", "/v1/customers/7"));
    site.allowed(|| site.host.seat(WORKER).fetch("POST", &url, &[], "{}"));
    let others = [
        site.host.seat(OTHER_UNIT),
        site.host.client(),
        site.host.client().uid(990),
        // Only called like it.
        site.host.seat("user.slice/user@1000.service/react-worker.service"),
    ];
    for seat in others {
        let said = site.refused(|| seat.curl(&[&url]));
        assert!(said.contains("only react-worker.service may call the CRM"), "{said}");
    }
}

#[test]
fn an_exception_ends_by_itself_and_nothing_has_to_be_loaded_anew() {
    let users = json!({ "carla": {}, "eve": { "groups": ["ml-engineers"] } });
    let site = Site::of("time-boxed-exception", &users);
    site.refused(|| site.user("eve", "PATCH", "/v1/models/m1"));
    let carla = site.oidc.as_ref().unwrap().token_of("carla");
    let change = || site.bearer(&carla, "PATCH", "/v1/models/m1", &[]);
    // Long enough for a busy machine to ask once before it ends.
    let until = Timestamp::now() + SignedDuration::from_secs(25);
    let mut taken = Taken::of("time-boxed-exception");
    taken.write("2027-01-31T18:00:00+01:00", &until.to_string());
    site.change(taken.file_with("@until"));
    site.allowed(change);
    eventually("its end", || (Timestamp::now() >= until).then_some(()));
    let digest = site.gate.status()["policy"]["digest"].clone();
    site.refused(change);
    site.allowed(|| site.user("eve", "GET", "/v1/models/m1"));
    assert_eq!(site.gate.status()["policy"]["digest"], digest, "the files are the same");
    let said = site.gate.tidegate(&["policy", "check"]).success();
    assert!((said.text() + &said.errors()).contains("permits nothing"), "{}", said.errors());
}

#[test]
fn two_others_open_production_for_one_on_call_with_a_reason_and_for_a_while() {
    let users = in_group(&[("ada", "on-call"), ("linus", "on-call"), ("max", "sales")]);
    let site = Site::of("break-glass", &users);
    let reason = ["-H", "Tidegate-Reason: refunds are stuck, incident 12"];
    let change = |user: &str, more: &[&str]| {
        site.bearer(&site.oidc.as_ref().unwrap().token_of(user), "POST", "/v1/refunds", more)
    };
    site.allowed(|| site.user("ada", "GET", "/v1/orders/7"));
    let (before, silent) = (site.arrived(), change("ada", &[]));
    assert_eq!((silent.status, site.arrived()), (428, before), "{}", silent.body);
    let opened = site.held(
        "/v1/refunds",
        || change("ada", &reason),
        |demand| {
            site.cannot_vote(ADA, demand);
            site.votes(GRACE, "approve", demand);
            assert!(site.demand("/v1/refunds").is_some(), "one is not two");
            site.votes(THIRD, "approve", demand);
        },
    );
    assert_eq!(opened, 200);
    site.allowed(|| change("ada", &reason));
    let another =
        site.held("/v1/refunds", || change("linus", &reason), |demand| site.votes(ADA, "reject", demand));
    assert_eq!(another, 403, "it is open for ada alone");
    site.refused(|| change("max", &reason));
}

#[test]
fn personal_data_is_masked_for_all_but_the_privacy_officer() {
    let users = in_group(&[("sam", "support"), ("pia", "privacy"), ("max", "sales")]);
    let site = Site::of("mask-for-all-but-one", &users);
    let secrets = ["grace.hopper@navy.example", "1906-12-09"];
    let customer = r#"{"customer":{"mail":"grace.hopper@navy.example","birthday":"1906-12-09","card":"4111 1111 1111 1111"}}"#;
    let read = |user: &str| {
        site.service.next(Answer::json(customer));
        site.allowed(|| site.user(user, "GET", "/v1/customers/7"))
    };
    let (support, privacy) = (read("sam"), read("pia"));
    for secret in secrets {
        assert!(!support.contains(secret) && privacy.contains(secret), "{support}\n{privacy}");
    }
    for seen in [support, privacy] {
        assert!(!seen.contains("4111") && seen.contains("1111"), "four digits of the card: {seen}");
    }
    site.refused(|| site.user("max", "GET", "/v1/customers/7"));
}

#[test]
fn a_blocked_user_is_stopped_at_once_and_a_suspended_one_stays_out() {
    let users = in_group(&[("ann", "staff"), ("mallory", "staff")]);
    let site = Site::of("block-a-user-now", &users);
    let said = site.refused(|| site.user("mallory", "GET", "/v1/runs"));
    assert!(said.contains("this account is suspended"), "{said}");
    site.allowed(|| site.user("ann", "GET", "/v1/runs"));
    // The commands of the file, for a user whom no rule names.
    let taken = Taken::of("block-a-user-now");
    let commands = taken
        .file_with("tidegate block")
        .1
        .lines()
        .filter_map(|line| Some(line.strip_prefix("//     tidegate ")?.replace("mallory", "ann")));
    let [block, list, unblock] = &commands.collect::<Vec<_>>()[..] else { panic!("three commands") };
    let run = |line: &str| {
        let quoted: Vec<&str> = line.split('\'').collect();
        let words = quoted.iter().enumerate().flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![*part],
        });
        site.gate.tidegate(&words.collect::<Vec<_>>()).success().text()
    };
    run(block);
    site.refused(|| site.user("ann", "GET", "/v1/runs"));
    assert!(run(list).contains("ticket 4711"));
    run(unblock);
    site.allowed(|| site.user("ann", "GET", "/v1/runs"));
    site.refused(|| site.user("mallory", "GET", "/v1/runs"));
}

#[test]
fn what_is_observed_goes_through_with_what_would_become_of_it_and_is_refused_once_enforced() {
    let example = "observe-before-enforcing";
    // Observing is switched on by the line that the file itself gives.
    let switched_on = tempfile::tempdir().unwrap();
    let (name, text) = Taken::of(example).file_with("#mode = \"observe\"").clone();
    fs::write(switched_on.path().join(&name), &text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("#     sed ")).unwrap();
    let sed = Command::new("sh").args(["-c", &format!("sed {line}")]).current_dir(&switched_on).status();
    assert!(sed.unwrap().success());
    let observed = fs::read_to_string(switched_on.path().join(&name)).unwrap();

    let site = Site::with(example, &json!({}), |_, taken| taken.write(&text, &observed));
    site.allowed(|| site.unit(WORKER, "GET", "/v1/customers"));
    site.allowed(|| site.unit(WORKER, "POST", "/v1/observed"));
    site.allowed(|| site.host.seat(OTHER_UNIT).aiohttp("GET", &format!("http://{CRM}/v1/stranger"), &[], ""));
    for path in ["/v1/observed", "/v1/stranger"] {
        let would = site.gate.entry_of(path).intent.would;
        assert_eq!(would, Some(tidegate::record::entry::Verdict::Deny), "{path}");
    }
    // The questions of the file, and what the record answers.
    let session = site.gate.entry_of("/v1/observed").intent.session.to_string();
    let answers = ["would-deny 1", "OBSERVED", "unit:cron.service"];
    let file = Taken::of(example).file_with("@id").1.replace(" ID ", &format!(" {session} "));
    let asked: Vec<&str> = file.lines().filter_map(|line| line.strip_prefix("//     tidegate ")).collect();
    assert_eq!(asked.len(), answers.len());
    for (line, answer) in asked.iter().zip(answers) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        let said = site.gate.tidegate(&words).success().text();
        assert!(said.contains(answer), "{line}: {said}");
    }
    // As the file stands in the repository, the target is enforced.
    site.change(&(name, text));
    site.refused(|| site.unit(WORKER, "POST", "/v1/enforced"));
    site.refused(|| site.unit(OTHER_UNIT, "GET", "/v1/enforced"));
    site.allowed(|| site.unit(WORKER, "GET", "/v1/customers"));
}

/// The users of `react-and-crm`, where all six policies of a team stand together.
fn team() -> Value {
    let groups =
        [("ann", "analysts"), ("eve", "ml-engineers"), ("runner-7", "ci-runners"), ("pia", "privacy")];
    in_group(&groups)
}

#[test]
fn analysts_read_runs_and_change_nothing() {
    let site = Site::of("react-and-crm", &team());
    site.allowed(|| site.user("ann", "GET", "/v1/runs/42/steps"));
    for (method, path) in
        [("PATCH", "/v1/models/m1"), ("POST", "/v1/deployments/web"), ("DELETE", "/v1/runs/42")]
    {
        site.refused(|| site.user("ann", method, path));
    }
    assert_eq!(site.demand("/v1/models/m1"), None, "nobody is asked about what could never run");
}

#[test]
fn engineers_change_models_with_an_ml_lead_and_not_without() {
    let site = Site::of("react-and-crm", &team());
    site.allowed(|| site.user("eve", "GET", "/v1/models/m1"));
    let site = &site;
    let change = |path: &'static str| move || site.user("eve", "PATCH", path);
    let approved = site.held("/v1/models/m1", change("/v1/models/m1"), |demand| {
        site.cannot_vote(THIRD, demand); // Linus is on call, and no ML lead.
        site.votes(ADA, "approve", demand);
    });
    let rejected =
        site.held("/v1/models/m2", change("/v1/models/m2"), |demand| site.votes(GRACE, "reject", demand));
    assert_eq!((approved, rejected), (200, 403));
    let said = site.refused(change("/v1/models/baseline"));
    assert!(said.contains("frozen"), "{said}");
    let seen = site.service.requests().into_iter().filter(|request| request.method == "PATCH");
    assert_eq!(seen.map(|request| request.target).collect::<Vec<_>>(), ["/v1/models/m1"]);
}

#[test]
fn the_crm_is_called_by_the_worker_alone() {
    let site = Site::with("react-and-crm", &team(), |_, taken| taken.write_hours(true));
    site.allowed(|| site.unit(WORKER, "GET", "/customers/7"));
    let guarded = "react-agents.slice/react-worker.service";
    site.allowed(|| site.unit(guarded, "GET", "/customers/7"));
    for unit in [OTHER_UNIT, "react-agents.slice/other.service"] {
        let said = site.refused(|| site.unit(unit, "GET", "/customers/7"));
        assert!(said.contains("only the worker talks to the CRM"), "{said}");
    }
}

#[test]
fn ci_deploys_and_changes_no_model() {
    let site = Site::of("react-and-crm", &team());
    site.allowed(|| site.user("runner-7", "POST", "/v1/deployments/web"));
    for (method, path) in
        [("PUT", "/v1/models/m1"), ("GET", "/v1/runs/42"), ("DELETE", "/v1/deployments/web")]
    {
        site.refused(|| site.user("runner-7", method, path));
    }
    site.refused(|| site.user("eve", "POST", "/v1/deployments/web"));
}

#[test]
fn outside_the_office_hours_production_waits_for_two_on_call() {
    let site = Site::with("react-and-crm", &team(), |_, taken| taken.write_hours(false));
    let call = || site.unit(WORKER, "GET", "/customers/7");
    let called = site.held("/customers/7", call, |demand| {
        site.votes(ADA, "approve", demand);
        assert!(site.demand("/customers/7").is_some(), "one is not two");
        site.votes(THIRD, "approve", demand);
    });
    assert_eq!(called, 200);
    site.allowed(|| site.unit(WORKER, "GET", "/customers/8"));
    site.refused(|| site.unit(OTHER_UNIT, "GET", "/customers/9"));
    assert_eq!(site.demand("/customers/9"), None, "nobody is woken up for another process");
    // The service is no production: it is there at night.
    site.allowed(|| site.user("ann", "GET", "/v1/runs/42"));
}

#[test]
fn api_keys_are_seen_by_the_privacy_officer_alone() {
    let site = Site::of("react-and-crm", &team());
    // Joined at run time, so that no scanner of this repository takes it for real.
    let key = ["AKIA", "Z7Q4XJ5N2PLW8RTB"].concat();
    let read = |user: &str| {
        site.service.next(Answer::json(format!("{{\"key\":\"{key}\",\"phone\":\"+1 202 555 0143\"}}")));
        site.allowed(|| site.user(user, "GET", "/v1/runs/42"))
    };
    for user in ["ann", "eve"] {
        let seen = read(user);
        assert!(!seen.contains(&key), "{seen}");
    }
    let seen = read("pia");
    assert!(seen.contains(&key) && !seen.contains("202 555"), "the keys and no customers: {seen}");
}

#[test]
fn every_line_that_an_example_says_to_try_works() {
    let mut tried = 0;
    for dir in fs::read_dir(examples()).unwrap().map(|dir| dir.unwrap().path()).filter(|dir| dir.is_dir()) {
        for (file, text) in Taken::of(&name_of(&dir)).0 {
            let line = text.lines().find_map(|line| line.split_once("Try: tidegate ")).unwrap().1;
            let mut command = Command::new(built("tidegate"));
            command.args(line.split_whitespace()).current_dir(workspace());
            let said = Finished::of(command, Duration::from_secs(30));
            // What `explain` explains may be a refusal.
            let codes = if line.contains("explain") { &[0, 1][..] } else { &[0] };
            let told = said.text();
            let explained = ["allow: ", "hold: ", "deny: "].iter().any(|word| told.starts_with(word));
            assert!(said.code().is_some_and(|code| codes.contains(&code)), "{file}: {told}{}", said.errors());
            assert_eq!(explained, line.contains("explain"), "{file}: {told}{}", said.errors());
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried} lines");
}

#[test]
fn every_example_is_shown_here() {
    let source = fs::read_to_string(workspace().join("tests/tests/examples.rs")).unwrap();
    for dir in fs::read_dir(examples()).unwrap().map(|dir| dir.unwrap().path()).filter(|dir| dir.is_dir()) {
        assert!(source.contains(&format!("\"{}\"", name_of(&dir))), "{}: no test takes it", dir.display());
    }
}
