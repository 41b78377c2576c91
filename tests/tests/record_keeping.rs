//! What an operator does with the record and what a witness catches: every command on a live gate and on a stopped one,
//! a bound in bytes, proofs, and a store that is cut off or put back.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{Builder, ConcurrencyMode, ReadableDatabase, TableDefinition};
use tidegate::record::chain::{Base, Checkpoint, Link, Problem, examine};
use tidegate::record::index::Rows;
use tidegate::record::tree::{Frontier, leaf};
use tidegate::record::witness;
use tidegate_tests::{Answer, Client, Gate, Host, Upstream, eventually, workspace};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
"#;

const RULES: &str = r#"permit (principal, action == Action::"http", resource == Target::"api");"#;

const HOST: &str = "127.0.0.1:7001";

/// Where the witness of a test keeps what it saw.
fn witness_of(host: &Host) -> PathBuf {
    let folder = host.folder().join("witness");
    if !folder.exists() {
        fs::create_dir(&folder).unwrap();
        tidegate_tests::gate::give_to_recorder(&folder);
    }
    folder.join("seen")
}

fn gate_on(host: &Host, options: &[String]) -> Gate {
    let gate = Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES);
    options.iter().fold(gate, |gate, option| gate.option_of_run(option)).start()
}

fn witnessed(host: &Host) -> Gate {
    gate_on(host, &[format!("--witness=file:{}", witness_of(host).display())])
}

fn upstream_on(host: &Host) -> Upstream {
    Upstream::start(&host.client(), HOST)
}

fn dial(host: &Host) -> Client {
    host.client().connect(HOST.parse().unwrap()).unwrap()
}

fn ask(host: &Host, gate: &Gate, path: &str) -> String {
    assert_eq!(dial(host).get(HOST, path).unwrap().status, 200);
    gate.entry_of(path).intent.entry.to_string()
}

fn stats(gate: &Gate) -> serde_json::Value {
    gate.tidegate(&["record", "stats", "--json"]).success().json()
}

fn verify_with(gate: &Gate, file: &Path) -> (Option<i32>, String) {
    let verified = gate.tidegate(&["record", "verify", "--witness", file.to_str().unwrap()]);
    (verified.code(), verified.text())
}

/// A live gate and then the same, stopped: what the commands are tried on.
fn live_and_stopped(gate: &mut Gate, mut attempt: impl FnMut(&Gate, &str)) {
    attempt(gate, "live");
    gate.stop();
    attempt(gate, "stopped");
}

#[test]
fn stats_keys_and_checkpoints_are_told_and_changed_with_a_gate_and_without_one() {
    let host = Host::new();
    let upstream = upstream_on(&host);
    upstream.next(Answer::new(200, &[], "what must stay readable"));
    let mut gate = witnessed(&host);
    let entry = ask(&host, &gate, "/kept");
    let mut generation = 1;
    live_and_stopped(&mut gate, |gate, state| {
        let before = stats(gate);
        assert!(before["events"].as_u64().unwrap() > 4, "{state}: {before}");
        assert!(before["targets"]["api"].as_u64().unwrap() > 0, "{state}: {before}");
        assert!(before["generations"][generation.to_string()].as_u64().unwrap() > 0, "{state}: {before}");
        generation += 1;
        let rekeyed = gate.tidegate(&["record", "rekey"]).success().text();
        assert!(
            rekeyed.contains(&format!("generation {generation} seals from now on")),
            "{state}: {rekeyed}"
        );
        let left = gate.tidegate(&["record", "rekey", "--forget-old"]).success().text();
        assert!(left.contains(&format!("generations left: [{generation}]")), "{state}: {left}");
        drop(gate.tidegate(&["record", "rotate-signing-key"]).success());
        let after = stats(gate);
        assert_ne!(after["signing_key"], before["signing_key"], "{state}");
        assert_eq!(
            after["signed"]["key"], after["signing_key"],
            "{state}: what is signed is signed by the new one"
        );
        let shown = gate.tidegate(&["sessions", "show", &entry]).success().text();
        assert!(shown.contains("what must stay readable"), "{state}: {shown}");
        drop(gate.tidegate(&["record", "verify"]).success());
    });
    let key = stats(&gate)["signing_key"].as_str().unwrap().to_owned();
    drop(gate.tidegate(&["record", "verify", "--public-key", &key]).success());
    let other = gate.tidegate(&["record", "verify", "--public-key", &"ab".repeat(32)]);
    assert_eq!(other.code(), Some(1), "{}", other.text());
    gate.start();
    drop(ask(&host, &gate, "/goes-on"));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn prune_says_what_would_go_removes_it_and_leaves_a_record_that_verifies() {
    let host = Host::new();
    let upstream = upstream_on(&host);
    let mut gate = witnessed(&host);
    live_and_stopped(&mut gate, |gate, state| {
        let old = if state == "live" {
            upstream.next(Answer::new(200, &[], "of no more use"));
            let old = ask(&host, gate, "/old");
            std::thread::sleep(std::time::Duration::from_millis(2500));
            old
        } else {
            gate.sessions().pop().unwrap().entries.pop().unwrap().intent.entry.to_string()
        };
        let before = gate.tidegate(&["record", "verify"]).success().text();
        let prune = |more: &[&str]| {
            let words = [&["record", "prune", "--json", "--older-than", "1s"], more].concat();
            gate.tidegate(&words).success().json()["removed"].clone()
        };
        let would = prune(&["--dry-run"]);
        assert!(would["commits"].as_u64().unwrap() > 0, "{state}: {would}");
        assert_eq!(
            gate.tidegate(&["record", "verify"]).success().text(),
            before,
            "{state}: a dry run changes nothing"
        );
        let bodies = prune(&["--bodies-only"]);
        assert_eq!(bodies["commits"], 0, "{state}: {bodies}");
        assert_eq!(bodies["segments"], 1, "{state}: {bodies}");
        let shown = gate.tidegate(&["sessions", "show", &old]);
        assert!(shown.text().contains("GET /"), "{state}: the head stays: {}", shown.text());
        assert!(!shown.text().contains("of no more use"), "{state}: {}", shown.text());
        let all = prune(&[]);
        assert!(all["commits"].as_u64().unwrap() > 0, "{state}: {all}");
        let verified = gate.tidegate(&["record", "verify"]).success().text();
        assert!(verified.contains("tombstones say so"), "{state}: {verified}");
        if state == "live" {
            assert_eq!(gate.tidegate(&["sessions", "show", &old]).code(), Some(3), "it is gone");
            drop(ask(&host, gate, "/new"));
            std::thread::sleep(std::time::Duration::from_millis(2500));
        }
    });
    let young = gate.tidegate(&["record", "prune", "--older-than", "1h", "--json"]).success().json();
    assert_eq!(young["removed"]["commits"], 0, "what is young stays: {young}");
    let (code, said) = verify_with(&gate, &witness_of(&host));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("are about what is pruned"), "{said}");
}

/// The program in the manual, as it stands there.
fn documented() -> String {
    let manual = fs::read_to_string(workspace().join("docs/RECORD.md")).unwrap();
    let program = manual.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(program.lines().count() <= 40, "{} lines", program.lines().count());
    program.to_owned()
}

#[test]
fn a_proof_is_checked_by_the_command_and_by_the_python_of_the_manual() {
    let host = Host::new();
    let upstream = upstream_on(&host);
    let mut gate = witnessed(&host);
    let entry = ask(&host, &gate, "/proven");
    drop(ask(&host, &gate, "/another"));
    // Signs what there is.
    drop(gate.tidegate(&["record", "rotate-signing-key"]).success());
    let file = host.folder().join("proof.json");
    let path = file.to_str().unwrap();
    live_and_stopped(&mut gate, |gate, state| {
        fs::write(&file, gate.tidegate(&["record", "prove", &entry]).success().text()).unwrap();
        let key = stats(gate)["signing_key"].as_str().unwrap().to_owned();
        let check = |key: &str| gate.tidegate(&["record", "verify-proof", path, "--public-key", key]);
        let python = |key: &str| host.client().python(&documented(), &[path, key]);
        let said = check(&key).success().text();
        assert!(said.contains("proven") && said.contains(&entry), "{state}: {said}");
        let said = python(&key).success().text();
        assert!(said.contains(&entry) && said.contains("proven"), "{state}: {said}");
        let other = "ab".repeat(32);
        assert_eq!(check(&other).code(), Some(1), "{state}: another key");
        assert_ne!(python(&other).code(), Some(0), "{state}: another key");
        let text = fs::read_to_string(&file).unwrap();
        let (from, to) = (hex("/proven"), hex("/forged"));
        assert!(text.contains(&from), "{state}: the request line stands in the proof");
        fs::write(&file, text.replace(&from, &to)).unwrap();
        assert_eq!(check(&key).code(), Some(1), "{state}: another request");
        assert_ne!(python(&key).code(), Some(0), "{state}: another request");
    });
    let nobody = gate.tidegate(&["record", "prove", "0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d"]);
    assert_eq!(nobody.code(), Some(1), "{}", nobody.errors());
    drop(upstream);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap().flatten() {
        let place = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &place);
        } else {
            fs::copy(item.path(), &place).unwrap();
        }
    }
}

#[test]
fn an_old_copy_in_the_place_of_the_record_is_caught_against_the_witness() {
    let host = Host::new();
    let _upstream = upstream_on(&host);
    let mut gate = witnessed(&host);
    drop(ask(&host, &gate, "/before"));
    gate.stop();
    let (record, old) = (gate.state().join("record"), host.folder().join("old"));
    let file = witness_of(&host);
    let words = ["record", "consistency", "--witness", file.to_str().unwrap()];
    copy(&record, &old);
    gate.start();
    drop(ask(&host, &gate, "/after"));
    let said = gate.tidegate(&words).success().text();
    assert!(said.contains("consistent"), "a live gate: {said}");
    gate.stop();
    assert_eq!(verify_with(&gate, &file).0, Some(0));
    drop(gate.tidegate(&words).success());
    fs::remove_dir_all(&record).unwrap();
    copy(&old, &record);
    drop(gate.tidegate(&["record", "verify"]).success());
    let (code, said) = verify_with(&gate, &file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("an old copy was put in its place"), "{said}");
    let continued = gate.tidegate(&words);
    assert_ne!(continued.code(), Some(0), "{}{}", continued.text(), continued.errors());
    assert!(continued.errors().contains("rolled back"), "{}", continued.errors());
    // And one that goes on from there never catches up with what the witness saw.
    gate.start();
    for number in 0..20 {
        assert_eq!(dial(&host).get(HOST, &format!("/other-{number}")).unwrap().status, 200);
    }
    gate.stop();
    drop(gate.tidegate(&["record", "verify"]).success());
    let (code, said) = verify_with(&gate, &file);
    assert_eq!(code, Some(1), "{said}");
}

/// Cuts the last commits off, and writes everything beside them as if they had never been: what somebody does who can
/// write all files and knows the layout, but has no signing key.
fn cut_end(database: &Path, commits: u64) {
    const COMMITS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("commits");
    const INDEX: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");
    const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
    const TREE: TableDefinition<'_, (u8, u64), &[u8; 32]> = TableDefinition::new("tree");
    const TIMES: TableDefinition<'_, i64, u64> = TableDefinition::new("times");
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let mut builder = Builder::new();
    let database = builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).open(database).unwrap();
    let read = database.begin_read().unwrap();
    let meta = |name: &str| read.open_table(META).unwrap().get(name).unwrap().unwrap().value().to_vec();
    let head: Link = postcard::from_bytes(&meta("head")).unwrap();
    let base: Base = postcard::from_bytes(&meta("base")).unwrap();
    let end = head.number - commits;
    let (mut link, mut ledger, mut tree) = (base.link, base.ledger, Frontier::default());
    let (mut keys, mut nodes, mut point) = (Vec::new(), Vec::new(), None);
    let mut lateness = base.lateness;
    while link.number < head.number {
        let number = link.number;
        let mut blob = Vec::new();
        for part in read.open_table(COMMITS).unwrap().range((number, 0)..=(number, u32::MAX)).unwrap() {
            blob.extend_from_slice(part.unwrap().1.value());
        }
        let (frames, next) = examine(&blob, &link, &mut |_: Problem| {}).unwrap();
        let times = frames.iter().filter_map(|examined| examined.frame.as_ref()?.at());
        if let Some(first) = times.min().filter(|_| number < end) {
            lateness = lateness.max(next.written.saturating_sub(first));
        }
        let (mut rows, mut places) = (Rows::default(), Vec::new());
        for (examined, position) in frames.iter().zip(0..) {
            ledger.admit(examined.frame.as_ref().unwrap(), &mut places).unwrap();
            rows.add(position, &mut places);
        }
        let gone = rows.finish(number, &mut ledger);
        tree.push(leaf(&next.seal), |at, _| nodes.extend((number >= end).then_some(at)));
        if number >= end {
            keys.extend(gone.into_iter().map(|(key, _)| key));
        }
        link = next;
        if link.number == end {
            point = Some(Checkpoint { link, ledger: ledger.clone() });
        }
    }
    let point = point.unwrap();
    drop(read);
    let write = database.begin_write().unwrap();
    {
        write.open_table(COMMITS).unwrap().retain_in((end, 0).., |_, _| false).unwrap();
        write.open_table(HEADS).unwrap().retain_in(end + 1.., |_, _| false).unwrap();
        write.open_table(TIMES).unwrap().retain(|_, commit| commit < end).unwrap();
        let mut index = write.open_table(INDEX).unwrap();
        keys.iter().for_each(|key| drop(index.remove(key.as_slice()).unwrap()));
        let mut tree = write.open_table(TREE).unwrap();
        nodes.iter().for_each(|at| drop(tree.remove(at).unwrap()));
        let mut meta = write.open_table(META).unwrap();
        meta.insert("head", postcard::to_allocvec(&point.link).unwrap().as_slice()).unwrap();
        meta.insert("lateness", postcard::to_allocvec(&lateness).unwrap().as_slice()).unwrap();
        meta.insert("checkpoint", postcard::to_allocvec(&point).unwrap().as_slice()).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn an_end_that_is_cut_off_with_everything_made_to_fit_is_caught_against_the_witness() {
    let host = Host::new();
    let _upstream = upstream_on(&host);
    let mut gate = witnessed(&host);
    for number in 0..5 {
        drop(ask(&host, &gate, &format!("/done-{number}")));
    }
    gate.stop();
    let file = witness_of(&host);
    assert_eq!(verify_with(&gate, &file).0, Some(0));
    // What was done last is what somebody would like to be gone.
    cut_end(&gate.state().join("record/record.redb"), 2);
    let alone = gate.tidegate(&["record", "verify"]);
    assert_eq!(alone.code(), Some(0), "the chain alone sees nothing: {}", alone.text());
    let (code, said) = verify_with(&gate, &file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its end was cut off"), "{said}");
    let continued = gate.tidegate(&["record", "consistency", "--witness", file.to_str().unwrap()]);
    assert_ne!(continued.code(), Some(0), "{}", continued.text());
}

#[test]
fn a_command_is_shown_checkpoints_and_one_that_fails_is_told_and_stops_nothing() {
    let host = Host::new();
    let _upstream = upstream_on(&host);
    let (seen, script) = (host.folder().join("seen"), host.folder().join("witness.sh"));
    fs::write(&script, format!("cat >> {}\n", seen.display())).unwrap();
    let options = [
        format!("--witness=command:/bin/sh {}", script.display()),
        "--witness=command:/bin/false".to_owned(),
    ];
    let mut gate = gate_on(&host, &options);
    drop(ask(&host, &gate, "/one"));
    drop(gate.tidegate(&["record", "rotate-signing-key"]).success());
    eventually("the command to be given a checkpoint", || {
        fs::metadata(&seen).ok().filter(|seen| seen.len() > 0)
    });
    let told = eventually("the failure to be told", || {
        Some(gate.tidegate(&["record", "stats"]).success().text()).filter(|text| text.contains("fails: "))
    });
    assert!(told.contains("takes checkpoints"), "{told}");
    assert!(gate.log().contains("a checkpoint was not witnessed"), "{}", gate.log());
    drop(ask(&host, &gate, "/goes-on"));
    gate.stop();
    let (code, said) = verify_with(&gate, &seen);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("checkpoints of the witness fit"), "{said}");
}

/// Runs the program it is given beside a journald of its own, in a mount namespace of its own, whose journal lies in the
/// folder that is named first. journald ends with the program.
const BESIDE_JOURNALD: &str = r#"
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal "$1" || exit 1
mount --bind "$1" /run/log/journal || exit 1
setpriv --pdeathsig KILL /lib/systemd/systemd-journald &
for _ in $(seq 600); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
shift
exec "$@"
"#;

#[test]
fn journald_keeps_checkpoints_and_the_line_of_the_manual_reads_them() {
    let host = Host::new();
    let _upstream = upstream_on(&host);
    let journal = host.folder().join("journal");
    let beside = ["unshare", "--mount", "/bin/sh", "-c", BESIDE_JOURNALD, "sh", journal.to_str().unwrap()];
    let mut gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .option_of_run("--witness=journald")
        .run_through(&beside)
        .start();
    drop(ask(&host, &gate, "/journalled"));
    drop(gate.tidegate(&["record", "rotate-signing-key"]).success());
    eventually("journald to take a checkpoint", || {
        let text = gate.tidegate(&["record", "stats"]).success().text();
        assert!(!text.contains("fails: "), "{text}");
        text.contains("witness journald has ").then_some(()).filter(|()| !text.contains("has 0 commits"))
    });
    let read = || {
        let words = ["-D", journal.to_str().unwrap(), "-t", "tidegate-witness", "-o", "cat"];
        host.client().run("journalctl", &words).success().text()
    };
    let file = witness_of(&host);
    eventually("the journal to hold it", || {
        fs::write(&file, read()).unwrap();
        witness::read(&file).ok().filter(|heads| !heads.is_empty())
    });
    let (code, said) = verify_with(&gate, &file);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("checkpoints of the witness fit"), "{said}");
    gate.stop();
}

#[test]
fn a_record_with_a_bound_in_bytes_stays_below_it_and_sheds_the_oldest() {
    const BOUND: u64 = 400_000;
    let host = Host::new();
    let upstream = upstream_on(&host);
    let mut gate = gate_on(&host, &[format!("--record-max-bytes={BOUND}")]);
    let noise: String = {
        let mut state = 0x9e37_79b9_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from(state >> 33 & 15).unwrap())
        };
        (0..60_000).map(|_| next()).collect()
    };
    for number in 0..40 {
        upstream.next(Answer::new(200, &[], &noise));
        drop(ask(&host, &gate, &format!("/page-{number:02}")));
    }
    let kept = |figures: &serde_json::Value| {
        let lanes = figures["lanes"].as_object().unwrap().values();
        figures["commit_bytes"].as_u64().unwrap()
            + lanes.map(|lane| lane["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    let figures = eventually("the record to fall below its bound", || {
        Some(stats(&gate)).filter(|figures| kept(figures) <= BOUND)
    });
    assert!(figures["events"].as_u64().unwrap() > 0, "{figures}");
    let verified = gate.tidegate(&["record", "verify"]).success().text();
    assert!(verified.contains("tombstones say so"), "{verified}");
    drop(ask(&host, &gate, "/after"));
    gate.stop();
    drop(gate.tidegate(&["record", "verify"]).success());
}
