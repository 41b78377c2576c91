//! Every mistake of a policy directory, each with its place. None is let through, and none hides another.

mod detectors;
mod proof;
mod rules;
mod time;
mod typed_wrong;

use std::fs;

use super::*;

const NOUNS: &str = r#"
[[target]]
name = "react"
direction = "inbound"
ports = [8080]
labels = ["environment=staging"]

[[target]]
name = "crm"
direction = "outbound"
ports = [80]
addresses = ["10.0.0.1"]

[[operation]]
name = "read"
target = "react"
methods = ["GET"]
paths = ["/v1/{thing}/**"]

[[guard]]
name = "agent"
uids = [990]

[[identity_provider]]
name = "corp"
issuer = "https://id.example.com"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "keys.json"

[[role]]
name = "analyst"
groups = ["analysts"]

[[person]]
name = "ada"
uid = 1001

[[mask]]
name = "cards"
targets = ["react"]
find = ["card"]

[[approval]]
name = "leads"
approvers = ["ada"]
"#;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// One line per mistake, paths relative to the directory.
fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
    let dir = directory(files);
    let prefix = format!("{}/", dir.path().display());
    match read(dir.path()) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            assert!(problems.render(false).contains('×'));
            problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
        }
    }
}

/// Asserts that the nouns, with one part replaced, have exactly this mistake.
#[track_caller]
fn noun_mistake(old: &str, new: &str, place: &str, says: &[&str]) {
    assert!(NOUNS.contains(old), "{old} is not in the nouns");
    only(&[("a.toml", &NOUNS.replacen(old, new, 1))], place, says);
}

/// Asserts that nouns added to the sound ones have exactly this mistake.
#[track_caller]
fn added_mistake(text: &str, place: &str, says: &[&str]) {
    only(&[("a.toml", NOUNS), ("b.toml", text)], place, says);
}

/// Asserts that a rule has exactly this mistake.
#[track_caller]
fn rule_mistake(text: &str, place: &str, says: &[&str]) {
    only(&[("a.toml", NOUNS), ("r.cedar", text)], place, says);
}

#[track_caller]
fn only(files: &[(&str, &str)], place: &str, says: &[&str]) {
    let found = mistakes(files);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(&format!("{place}: ")), "{} is not at {place}", found[0]);
    for part in says {
        assert!(found[0].contains(part), "{} does not say {part}", found[0]);
    }
}

#[test]
fn the_sound_nouns_have_no_mistake() {
    assert_eq!(mistakes(&[("a.toml", NOUNS)]), Vec::<String>::new());
}

#[test]
fn what_is_no_toml_is_refused_at_its_place_and_hides_no_cedar_mistake() {
    let found = mistakes(&[
        ("a.toml", "[[target]]\nname = \n"),
        ("r.cedar", "permit (principal, actoin, resource);"),
    ]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("a.toml:2:8: this is not TOML"), "{}", found[0]);
    assert!(found[1].starts_with("r.cedar:1:20: "), "{}", found[1]);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let nouns =
        NOUNS.replace("direction = \"inbound\"", "direction = \"inwards\"").replace("[80]", "[0, 70000]");
    let found = mistakes(&[
        ("a.toml", &nouns),
        ("b.toml", "[[role]]\nname = \"x y\"\nuids = [1]\n"),
        ("r.cedar", "permit"),
    ]);
    let places: Vec<&str> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
    // The target with the wrong direction is none, so what names it is wrong too.
    assert!(places.starts_with(&["a.toml:4:13"]), "{found:#?}");
    for place in ["a.toml:11:10", "a.toml:11:13", "b.toml:2:8", "r.cedar:1:7"] {
        assert!(places.contains(&place), "{place} is not in {found:#?}");
    }
}

#[test]
fn unknown_nouns_and_keys_are_refused_with_the_near_one() {
    added_mistake("[[gaurd]]\nname = \"x\"\n", "b.toml:1:3", &["no noun `gaurd`", "did you mean `guard`?"]);
    added_mistake("top = 1\n", "b.toml:1:1", &["no noun `top`"]);
    added_mistake("[[case]]\nname = \"x\"\n", "b.toml:1:3", &["*.cases.toml"]);
    noun_mistake(
        "groups = [\"analysts\"]",
        "group = [\"a\"]\nunits = [\"a.service\"]",
        "a.toml:33:1",
        &["no key `group`", "did you mean `groups`?"],
    );
    only(&[("a.toml", NOUNS), ("b.toml", "[target]\nname = \"x\"\n")], "b.toml:1:2", &["write `[[target]]`"]);
}

#[test]
fn an_approval_that_silence_or_an_endless_window_would_grant_is_refused() {
    let wrong = |key: &str, place: &str, words: &[&str]| {
        noun_mistake("approvers = [\"ada\"]", &format!("approvers = [\"ada\"]\n{key}"), place, words);
    };
    for lax in ["allow", "hold", "safe-mode"] {
        wrong(&format!("on_timeout = \"{lax}\""), "a.toml:47:14", &["silence is no approval"]);
    }
    wrong("window = \"25h\"", "a.toml:47:10", &["24 hours"]);
    wrong("window = \"soon\"", "a.toml:47:10", &["soon"]);
    wrong("hold = \"forget\"", "a.toml:47:8", &["no `hold`"]);
    for key in ["reason", "comment", "owner"] {
        wrong(&format!("{key} = \"maybe\""), &format!("a.toml:47:{}", key.len() + 4), &["no `"]);
    }
    added_mistake("[[person]]\nname = \"x\"\nowns = [\"guard:nowhere\"]\n", "b.toml:3:9", &["no `guard`"]);
    added_mistake(
        "[[person]]\nname = \"x\"\nowns = [\"everything\"]\n",
        "b.toml:3:9",
        &["nothing that a person can own"],
    );
}

#[test]
fn a_channel_that_could_be_overheard_or_shows_its_secret_is_refused() {
    let hook = |url: &str, secret: &str| {
        format!("[[notify]]\nname = \"x\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = \"{secret}\"\n")
    };
    for url in ["http://192.0.2.1/x", "ftp://127.0.0.1/", "https://", "https://user@example.com/", "hook"] {
        added_mistake(&hook(url, "s"), "b.toml:4:7", &["where a webhook can go"]);
    }
    added_mistake(&hook("https://example.com/x", "whsec_AAAA"), "b.toml:5:10", &["never the secret itself"]);
    let chat = hook("https://example.com/x", "s").replace("webhook", "slack");
    added_mistake(&chat, "b.toml:3:8", &["not supported yet"]);
    let wrong = |key: &str, place: &str, words: &[&str]| {
        noun_mistake("approvers = [\"ada\"]", &format!("approvers = [\"ada\"]\n{key}"), place, words);
    };
    wrong("notify = [\"nowhere\"]", "a.toml:47:11", &["no `notify`"]);
    wrong("on_unavailable = \"deny\"", "a.toml:47:18", &["whether the approvers can be reached"]);
    wrong("on_unavailable = \"allow\"", "a.toml:47:18", &["no `on_unavailable`"]);
}

#[test]
fn a_safe_mode_is_rules_that_need_nobody_and_that_some_approval_turns_to() {
    const TURNS: &str = "[[notify]]\nname = \"x\"\nkind = \"webhook\"\nurl = \"https://example.com/\"\nsecret = \"s\"\n\
                         [[approval]]\nname = \"turning\"\napprovers = [\"ada\"]\nnotify = [\"x\"]\non_unavailable = \"safe-mode\"\n";
    let read_with = |nouns: &str, safe: Option<(&str, &str)>| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.toml"), NOUNS).unwrap();
        std::fs::write(dir.path().join("b.toml"), nouns).unwrap();
        if let Some((name, text)) = safe {
            std::fs::create_dir(dir.path().join("safe-mode")).unwrap();
            std::fs::write(dir.path().join("safe-mode").join(name), text).unwrap();
        }
        crate::policy::read(dir.path()).map_err(|problems| problems.to_string())
    };
    let refused = |nouns: &str, safe, words: &str| {
        let said = read_with(nouns, safe).err().unwrap_or_default();
        assert!(said.contains(words), "{said}");
    };
    const PERMIT: &str = "permit (principal, action, resource);";
    let set = read_with(TURNS, Some(("s.cedar", PERMIT))).unwrap();
    assert!(set.safe_mode().is_some() && set.safe_mode().unwrap().safe_mode().is_none());
    let other = read_with(TURNS, Some(("s.cedar", "permit (principal, action, resource) ;"))).unwrap();
    assert_ne!(set.digest(), other.digest(), "its rules are part of the set");
    refused(TURNS, None, "and there is none");
    refused("", Some(("s.cedar", PERMIT)), "no approval has `on_unavailable");
    refused(TURNS, Some(("s.toml", "")), "neither rules nor cases");
    refused(TURNS, Some(("s.cedar", "permit (")), "s.cedar");
    refused(
        TURNS,
        Some(("s.cedar", "@approval(\"turning\")\nforbid (principal, action, resource);")),
        "nobody can be asked",
    );
}

#[test]
fn what_the_design_has_and_this_version_has_not_is_refused_by_name() {
    for noun in ["budget", "witness"] {
        added_mistake(&format!("\n[[{noun}]]\n"), "b.toml:2:3", &["not supported yet", noun]);
    }
    let keys = [
        ("ports = [80]", "tls = \"terminate\"", "a.toml:12:7"),
        ("ports = [80]", "protocol = \"postgres\"", "a.toml:12:12"),
        ("find = [\"card\"]", "style = \"token\"", "a.toml:43:9"),
    ];
    for (after, key, place) in keys {
        noun_mistake(after, &format!("{after}\n{key}"), place, &["not supported yet"]);
    }
}

#[test]
fn a_mask_names_columns_and_headers_that_can_be_hidden() {
    let find = "find = [\"card\"]";
    for (key, told) in [
        ("columns = [\"\"]", "is not the name of a column"),
        ("columns = [\"$.iban\"]", "JSON paths stand in `fields`"),
        ("headers = [\"Content-Length\"]", "cannot be hidden"),
        ("headers = [\"transfer-encoding\"]", "cannot be hidden"),
        ("headers = [\"X Key\"]", "is not the name of a header field"),
    ] {
        noun_mistake(find, &format!("{find}\n{key}"), "a.toml:43:12", &[told]);
    }
    noun_mistake(find, &format!("{find}\non = \"answer\""), "a.toml:43:6", &["answer"]);
}

#[test]
fn what_is_built_may_be_written_out() {
    let nouns = NOUNS
        .replace(
            "ports = [80]",
            "ports = [80]\ntls = \"off\"\nprotocol = \"http\"\nmode = \"enforce\"\nforward_token = false",
        )
        .replace("find = [\"card\"]", "find = [\"card\"]\non = \"both\"\ncolumns = [\"iban\"]\nheaders = [\"X-Api-Key\"]\nstyle = \"stars\"")
        .replace(
            "approvers = [\"ada\"]",
            "approvers = [\"ada\"]\nhold = \"wait\"\nneeded = 1\ntimeout = \"1h\"",
        );
    assert_eq!(mistakes(&[("a.toml", &nouns)]), Vec::<String>::new());
}

#[test]
fn missing_keys_and_wrong_types_are_refused() {
    noun_mistake("name = \"crm\"\n", "", "a.toml:8:1", &["has no `name`"]);
    noun_mistake("ports = [80]\n", "", "a.toml:8:1", &["has no `ports`"]);
    noun_mistake("ports = [80]", "ports = []", "a.toml:11:9", &["`ports` is empty"]);
    noun_mistake("ports = [80]", "ports = 80", "a.toml:11:9", &["a list, not an integer"]);
    noun_mistake("ports = [80]", "ports = [0]", "a.toml:11:10", &["from 1 to 65535"]);
    noun_mistake("ports = [80]", "ports = [65536]", "a.toml:11:10", &["from 1 to 65535"]);
    noun_mistake("ports = [80]", "ports = [80, 80]", "a.toml:11:14", &["twice", "a.toml:11:10"]);
    noun_mistake("name = \"crm\"", "name = 7", "a.toml:9:8", &["a string, not an integer"]);
    noun_mistake(
        "direction = \"outbound\"",
        "direction = \"outbond\"",
        "a.toml:10:13",
        &["did you mean `outbound`?"],
    );
    noun_mistake("paths = [\"/v1/{thing}/**\"]", "", "a.toml:14:1", &["has no `paths`"]);
    noun_mistake("targets = [\"react\"]\n", "", "a.toml:39:1", &["has no `targets`"]);
    noun_mistake("algorithms = [\"ES256\"]\n", "", "a.toml:24:1", &["has no `algorithms`"]);
    noun_mistake("jwks = \"keys.json\"\n", "", "a.toml:24:1", &["has no `jwks`"]);
    added_mistake("role = [1]\n", "b.toml:1:9", &["not a table"]);
}

#[test]
fn texts_that_mean_nothing_are_refused_where_they_stand() {
    let changes = [
        ("\"10.0.0.1\"", "\"10.0.0.1/8\"", "a.toml:12:14", "10.0.0.0/8"),
        ("\"10.0.0.1\"", "\"crm.internal\"", "a.toml:12:14", "hosts"),
        ("addresses = [\"10.0.0.1\"]", "hosts = [\"http://crm\"]", "a.toml:12:10", "no scheme"),
        ("\"GET\"", "\"get\"", "a.toml:17:12", "write `GET`"),
        ("{thing}", "{host}", "a.toml:18:10", "context has that already"),
        ("{thing}/**", "**/x", "a.toml:18:10", "only be last"),
        ("/v1/{thing}/**", "/v1/", "a.toml:18:10", "empty segments are refused"),
        ("\"environment=staging\"", "\"staging\"", "a.toml:6:11", "key=value"),
        ("\"card\"", "\"cards\"", "a.toml:42:9", "did you mean `card`?"),
        ("find = [\"card\"]", "fields = [\"$.a[?x]\"]", "a.toml:42:11", "not supported"),
        ("find = [\"card\"]", "fields = [\"items[*].card\"]", "a.toml:42:11", "starts with `$`"),
        ("find = [\"card\"]", "fields = [\"$\"]", "a.toml:42:11", "whole document"),
        ("\"ES256\"", "\"HS256\"", "a.toml:28:15", "who can verify it can forge it"),
        ("\"ES256\"", "\"none\"", "a.toml:28:15", "asymmetric"),
        ("\"keys.json\"", "\"http://id.example.com/keys\"", "a.toml:29:8", "loopback only"),
        ("\"keys.json\"", "\"http://127.0.0.1:80@evil.example/keys\"", "a.toml:29:8", "loopback only"),
        ("uids = [990]", "units = [\"agent\"]", "a.toml:22:10", "whole name"),
        ("uids = [990]", "containers = [\"web\"]", "a.toml:22:15", "hexadecimal"),
        ("uids = [990]", "cgroups = [\"/\"]", "a.toml:22:12", "every process"),
        ("uids = [990]", "cgroups = [\"/a/../b\"]", "a.toml:22:12", "cgroup path"),
        ("uids = [990]", "uids = [990]\ndns = [\"resolver\"]", "a.toml:23:8", "address of a server"),
        ("uid = 1001", "uid = 1001\nsubject = \"ada\"", "a.toml:38:11", "identity_provider/sub"),
        ("approvers = [\"ada\"]", "approvers = [\"ada\"]\ntimeout = \"0s\"", "a.toml:47:11", "zero"),
        ("approvers = [\"ada\"]", "approvers = [\"ada\"]\ntimeout = \"8d\"", "a.toml:47:11", "7 days"),
        ("approvers = [\"ada\"]", "approvers = [\"ada\"]\nneeded = 0", "a.toml:47:10", "from 1"),
        ("groups = [\"analysts\"]", "uids = [1]\nexecutables = [\"python3\"]", "a.toml:34:16", "whole path"),
        ("groups = [\"analysts\"]", "uids = [1]\nexecutables = [\"sha256:00\"]", "a.toml:34:16", "64 hex"),
    ];
    for (old, new, place, says) in changes {
        noun_mistake(old, new, place, &[says]);
    }
}

#[test]
fn nouns_that_say_nothing_are_refused() {
    noun_mistake("uids = [990]\n", "", "a.toml:21:8", &["holds no process"]);
    noun_mistake("find = [\"card\"]\n", "", "a.toml:40:8", &["finds nothing"]);
    noun_mistake("groups = [\"analysts\"]\n", "", "a.toml:32:8", &["nobody can have the role `analyst`"]);
    noun_mistake(
        "groups = [\"analysts\"]",
        "executables = [\"/bin/sh\"]",
        "a.toml:33:15",
        &["alone says nothing"],
    );
    noun_mistake("addresses = [\"10.0.0.1\"]\n", "", "a.toml:9:8", &["`crm` is nowhere"]);
    noun_mistake("name = \"read\"", "name = \"http\"", "a.toml:15:8", &["action of its own"]);
}

#[test]
fn names_that_no_file_declares_are_refused_with_the_near_one() {
    noun_mistake(
        "target = \"react\"",
        "target = \"raect\"",
        "a.toml:16:10",
        &["no `target`", "did you mean `react`?"],
    );
    noun_mistake(
        "targets = [\"react\"]",
        "targets = [\"recat\"]",
        "a.toml:41:12",
        &["did you mean `react`?"],
    );
    noun_mistake(
        "approvers = [\"ada\"]",
        "approvers = [\"ada\", \"adaa\"]",
        "a.toml:46:21",
        &["`role` or `person`"],
    );
    noun_mistake(
        "uid = 1001",
        "uid = 1001\nroles = [\"analist\"]",
        "a.toml:38:10",
        &["did you mean `analyst`?"],
    );
    noun_mistake(
        "uid = 1001",
        "uid = 1001\nsubject = \"crop/ada\"",
        "a.toml:38:11",
        &["did you mean `corp`?"],
    );
    noun_mistake("groups = [\"analysts\"]", "provider = \"cor\"", "a.toml:33:12", &["did you mean `corp`?"]);
}

#[test]
fn one_name_in_two_files_shows_both_places() {
    let again = |text: &str, place: &str, first: &str| added_mistake(text, place, &["there are two", first]);
    again("[[role]]\nname = \"analyst\"\nuids = [1]\n", "b.toml:2:8", "first here: a.toml:32:8");
    again("[[guard]]\nname = \"agent\"\nuids = [1]\n", "b.toml:2:8", "first here: a.toml:21:8");
    again(
        "[[mask]]\nname = \"cards\"\ntargets = [\"crm\"]\nfind = [\"card\"]\n",
        "b.toml:2:8",
        "a.toml:40:8",
    );
    again("[[approval]]\nname = \"leads\"\napprovers = [\"ada\"]\n", "b.toml:2:8", "a.toml:45:8");
    again("[[person]]\nname = \"ada\"\nuid = 7\n", "b.toml:2:8", "a.toml:36:8");
    again(
        "[[operation]]\nname = \"read\"\ntarget = \"react\"\npaths = [\"/\"]\n",
        "b.toml:2:8",
        "a.toml:15:8",
    );
    again("[[target]]\nname = \"crm\"\ndirection = \"inbound\"\nports = [1]\n", "b.toml:2:8", "a.toml:9:8");
    let provider = "[[identity_provider]]\nname = \"corp\"\nissuer = \"i\"\naudience = \"a\"\nalgorithms = [\"ES256\"]\njwks = \"k\"\n";
    again(provider, "b.toml:2:8", "a.toml:25:8");
}

#[test]
fn one_operation_name_may_serve_several_targets() {
    let other = "[[operation]]\nname = \"read\"\ntarget = \"crm\"\npaths = [\"/**\"]\n";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", other)]), Vec::<String>::new());
}

#[test]
fn two_targets_that_claim_one_place_are_refused() {
    let outbound = "[[target]]\nname = \"x\"\ndirection = \"outbound\"\nports = [443, 80]\naddresses = [\"10.0.0.0/24\"]\n";
    added_mistake(
        outbound,
        "b.toml:5:13",
        &["`x` and `crm` both claim port 80 of 10.0.0.1/32", "a.toml:9:8"],
    );
    let inbound =
        "[[target]]\nname = \"x\"\ndirection = \"inbound\"\nports = [8080]\naddresses = [\"127.0.0.1\"]\n";
    added_mistake(inbound, "b.toml:5:13", &["both claim port 8080"]);
    let everywhere = "[[target]]\nname = \"x\"\ndirection = \"inbound\"\nports = [1, 8080]\n";
    added_mistake(everywhere, "b.toml:4:9", &["port 8080 of every local address"]);
    let named =
        "[[target]]\nname = \"NAME\"\ndirection = \"outbound\"\nports = [80]\nhosts = [\"a.example\"]\n";
    let both = named.replace("NAME", "x") + &named.replace("NAME", "y");
    added_mistake(&both, "b.toml:10:9", &["both claim a.example:80", "b.toml:5:9"]);
}

#[test]
fn a_credential_that_something_else_contradicts_is_refused() {
    let crm = "[[credential]]\nname = \"a\"\ntargets = [\"crm\"]\n";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", crm)]), Vec::<String>::new());
    let both = format!("{crm}[[credential]]\nname = \"b\"\ntargets = [\"crm\"]\nheader = \"x-key\"\n");
    added_mistake(&both, "b.toml:5:8", &["`b` and `a` are both for `crm`", "b.toml:2:8"]);
    let rewritten = "[[rewrite]]\nname = \"r\"\ntargets = [\"crm\"]\non = \"request\"\nheader = \"X-Key\"\nset = \"mine\"\n";
    added_mistake(
        &format!("{crm}header = \"x-key\"\n{rewritten}"),
        "b.toml:2:8",
        &["both write the header `x-key`"],
    );
    let forwards = "[[target]]\nname = \"x\"\ndirection = \"outbound\"\nports = [80]\naddresses = [\"10.0.0.2\"]\nforward_token = true\n\
                    [[credential]]\nname = \"a\"\ntargets = [\"x\"]\n";
    added_mistake(forwards, "b.toml:6:17", &["the caller's own token", "name another header"]);
    assert_eq!(
        mistakes(&[("a.toml", NOUNS), ("b.toml", &format!("{forwards}header = \"x-key\"\n"))]),
        Vec::<String>::new()
    );
    added_mistake(&crm.replace("crm", "react"), "a.toml:4:13", &["is a service of this host", "b.toml:2:8"]);
    let target = "[[target]]\nname = \"x\"\ndirection = \"outbound\"\nports = [80]\nWHERE\n[[credential]]\nname = \"a\"\ntargets = [\"x\"]\n";
    let at = |place: &str| target.replace("WHERE", place);
    added_mistake(
        &at("addresses = [\"10.0.0.2\", \"10.1.0.0/24\"]"),
        "b.toml:5:13",
        &["every address of a block"],
    );
    added_mistake(
        &at("hosts = [\"a.example\", \"*.b.example\"]"),
        "b.toml:5:9",
        &["every name below another"],
    );
    for (key, told) in [
        ("header = \"Content-Length\"", "is not for a policy file to write"),
        ("header = \"x key\"", "is not the name of a header field"),
        ("scheme = \"digest\"", "is no `scheme`"),
    ] {
        added_mistake(&format!("{crm}{key}\n"), "b.toml:4:10", &[told]);
    }
    added_mistake(&crm.replace("crm", "nobody"), "b.toml:3:12", &["no `target` is called `nobody`"]);
}

#[test]
fn targets_that_part_ports_or_addresses_stand_side_by_side() {
    let beside = "[[target]]\nname = \"x\"\ndirection = \"outbound\"\nports = [80]\naddresses = [\"10.0.0.2\"]\n\
                  [[target]]\nname = \"y\"\ndirection = \"outbound\"\nports = [81]\naddresses = [\"10.0.0.1\"]\n\
                  [[target]]\nname = \"z\"\ndirection = \"inbound\"\nports = [80]\n";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", beside)]), Vec::<String>::new());
}

#[test]
fn one_process_set_in_two_guards_is_refused() {
    added_mistake(
        "[[guard]]\nname = \"x\"\nuids = [7, 990]\n",
        "b.toml:3:8",
        &["both hold `990`", "a.toml:22:8"],
    );
}

#[test]
fn an_exemption_names_users_and_a_reason_and_nobody_who_is_guarded() {
    let head = "[[exempt]]\nname = \"backup\"\n";
    added_mistake(
        &format!("{head}uids = [7, 990]\nreason = \"r\"\n"),
        "b.toml:3:8",
        &["exempts `990`", "a.toml:22:8"],
    );
    let unit = format!("{head}units = [\"backup.service\"]\nreason = \"r\"\n");
    added_mistake(&unit, "b.toml:2:8", &["names no user", "only together with a uid"]);
    added_mistake(&format!("{head}uids = [7]\n"), "b.toml:1:1", &["reason"]);
    let nowhere = format!("{head}uids = [7]\nunits = []\nreason = \"r\"\n");
    added_mistake(&nowhere, "b.toml:4:9", &["`units` is empty"]);
    let sound = format!("{head}uids = [7]\nunits = [\"backup.service\"]\nreason = \"r\"\n");
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", &sound)]), Vec::<String>::new());
}

#[test]
fn a_person_is_one_human_and_never_root() {
    added_mistake(
        "[[person]]\nname = \"x\"\nuid = 1001\n",
        "b.toml:3:7",
        &["share the uid 1001", "a.toml:37:7"],
    );
    added_mistake("[[person]]\nname = \"root\"\nuid = 0\n", "b.toml:3:7", &["root is shared"]);
    let twice =
        "[[person]]\nname = \"x\"\nsubject = \"corp/x\"\n[[person]]\nname = \"y\"\nsubject = [\"corp/x\"]\n";
    added_mistake(twice, "b.toml:6:11", &["share the subject corp/x"]);
}

#[test]
fn an_approval_that_nobody_can_grant_is_refused() {
    noun_mistake(
        "approvers = [\"ada\"]",
        "approvers = [\"ada\"]\nneeded = 2",
        "a.toml:46:13",
        &["only 1 can grant it: ada"],
    );
    noun_mistake("approvers = [\"ada\"]", "approvers = [\"analyst\"]", "a.toml:46:13", &["nobody"]);
    noun_mistake("uid = 1001", "subject = \"corp/ada\"", "a.toml:46:13", &["login `uid`"]);
    let both = NOUNS.replace("name = \"analyst\"", "name = \"ada\"");
    only(&[("a.toml", &both)], "a.toml:46:14", &["a `role` and a `person`"]);
}

#[test]
fn cases_that_cannot_be_run_are_refused() {
    let sound = "[[case]]\nname = \"c\"\nas = { uid = 5 }\ntarget = \"crm\"\nmethod = \"GET\"\npath = \"/\"\nexpect = \"deny\"\n";
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("c.cases.toml", sound)]), Vec::<String>::new());
    let changes = [
        ("expect = \"deny\"\n", "", "c.cases.toml:1:1", "has no `expect`"),
        ("expect = \"deny\"", "expect = \"allow\"", "c.cases.toml:7:10", "expects allow, and is: deny"),
        ("expect = \"deny\"", "expect = \"denny\"", "c.cases.toml:7:10", "did you mean `deny`?"),
        ("expect = \"deny\"", "expect = \"deny\"\nrule = \"x\"", "c.cases.toml:8:8", "no rule, not by `x`"),
        (
            "expect = \"deny\"",
            "expect = \"deny\"\nmasks = [\"cards\"]",
            "c.cases.toml:8:10",
            "is masked by: ",
        ),
        ("expect = \"deny\"", "expect = \"deny\"\nat = \"noon\"", "c.cases.toml:8:6", "not a moment"),
        ("expect = \"deny\"", "expect = \"deny\"\napproved = [\"leeds\"]", "c.cases.toml:8:13", "leads"),
        ("expect = \"deny\"", "expect = \"deny\"\nbudget = \"x\"", "c.cases.toml:8:1", "not supported yet"),
        ("target = \"crm\"", "target = \"crn\"", "c.cases.toml:4:10", "did you mean `crm`?"),
        ("path = \"/\"", "path = \"/a//b\"", "c.cases.toml:6:8", "empty"),
        ("path = \"/\"", "path = \"/a?b\"", "c.cases.toml:6:8", "under `query`"),
        ("method = \"GET\"", "method = \"get\"", "c.cases.toml:5:10", "write `GET`"),
        ("{ uid = 5 }", "{ uid = 5, guard = \"agnet\" }", "c.cases.toml:3:25", "did you mean `agent`?"),
        ("{ uid = 5 }", "{ uid = 5, uids = 6 }", "c.cases.toml:3:17", "did you mean `uid`?"),
        ("{ uid = 5 }", "{ groups = [\"a\"] }", "c.cases.toml:3:6", "only a `user` has"),
        ("[[case]]", "[[cases]]", "c.cases.toml:1:3", "`[[case]]`s only"),
    ];
    for (old, new, place, says) in changes {
        only(&[("a.toml", NOUNS), ("c.cases.toml", &sound.replace(old, new))], place, &[says]);
    }
    let twice = format!("{sound}{sound}");
    only(&[("a.toml", NOUNS), ("c.cases.toml", &twice)], "c.cases.toml:9:8", &["two cases with this name"]);
}
