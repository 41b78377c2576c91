//! `tidegate sessions` and `tidegate record` as an operator runs them: exit codes, JSON, and no byte of captured
//! data that could drive a terminal.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::{Command, Output};

use tidegate::operation::{Direction, EntryId, SessionId};
use tidegate::record::Recorder;
use tidegate::record::entry::{
    BodyEnd, BodyStretch, Ending, EntryClosed, Event, Head, Intent, SessionClosed, SessionOpened, Side,
    Verdict,
};

const HOSTILE: &str = "a\x1b[2Jb\u{202e}c\u{200b}\r\x07d";

fn write(state: &Path) -> (SessionId, EntryId) {
    let recorder = Recorder::open(state).unwrap();
    let (session, entry) = (SessionId::now(), EntryId::now());
    let at = 1_760_000_000_000_000;
    let end = BodyEnd { bytes: 9, recorded: 9, ..BodyEnd::default() };
    let events = vec![
        Event::SessionOpened(SessionOpened {
            session,
            at,
            direction: Direction::Inbound,
            peer: "192.0.2.7:40000".into(),
            destination: "192.0.2.1:8080".into(),
            workload: None,
            guard: None,
            target: Some("react".into()),
        }),
        Event::Intent(Box::new(Intent {
            entry,
            session,
            at,
            target: Some("react".into()),
            kind: "http".into(),
            operations: Vec::new(),
            user: None,
            workload: Some(HOSTILE.into()),
            verdict: Verdict::Deny,
            would: None,
            rules: vec![HOSTILE.into()],
            reason: HOSTILE.into(),
            policy: None,
            head: Head { line: format!("GET /{HOSTILE}"), fields: vec![("X-Note".into(), HOSTILE.into())] },
        })),
        Event::Body(BodyStretch { entry, side: Side::Request, bytes: HOSTILE.into() }),
        Event::EntryClosed(EntryClosed {
            entry,
            at,
            status: Some(403),
            request: end,
            response: end,
            masks: vec![(HOSTILE.into(), 1)],
            ending: Ending::Refused(HOSTILE.into()),
            rewrites: Vec::new(),
        }),
        Event::SessionClosed(SessionClosed {
            session,
            at,
            entries: 1,
            ending: Ending::ByClient(HOSTILE.into()),
        }),
    ];
    recorder.append_with(Vec::new(), events).unwrap().wait().unwrap();
    recorder.close();
    (session, entry)
}

fn tidegate(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("--state").arg(state).args(arguments).output().unwrap()
}

#[test]
fn nothing_that_was_captured_reaches_the_terminal_unescaped() {
    let state = tempfile::tempdir().unwrap();
    let (session, entry) = write(state.path());
    let (session, entry) = (session.to_string(), entry.to_string());
    let commands: [&[&str]; 14] = [
        &["sessions", "list"],
        &["sessions", "list", "--verdict", "deny", "--json"],
        &["sessions", "show", &session, "--bodies"],
        &["sessions", "show", &session, "--json"],
        &["sessions", "show", &entry],
        &["sessions", "show", &entry, "--json"],
        &["sessions", "tail"],
        &["sessions", "tail", "--json"],
        &["sessions", "search", "GET"],
        &["sessions", "search", "GET", "--json"],
        &["sessions", "export", "--format", "jsonl"],
        &["sessions", "export", "--format", "har"],
        &["replay", &session, "--speed", "100"],
        &["replay", &entry, "--no-wait"],
    ];
    for arguments in commands {
        let output = tidegate(state.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let names_it = text.contains(&session) || text.contains(&entry);
        assert!(names_it || (arguments[0] == "replay" && text.contains("GET /a")), "{arguments:?}: {text}");
        let raw =
            text.chars().find(|c| (c.is_control() && *c != '\n') || ['\u{202e}', '\u{200b}'].contains(c));
        assert_eq!(raw, None, "{arguments:?}: {text}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("not on record"), "{arguments:?}");
        if arguments.contains(&"--json") && !arguments.contains(&"tail") {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
    let shown = tidegate(state.path(), &["sessions", "show", &entry, "--json"]).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["bodies"]["request"]["text"], HOSTILE, "and JSON keeps what was captured");
    assert_eq!(shown["intent"]["verdict"], "deny");
}

#[test]
fn verify_says_yes_no_or_cannot_by_its_exit_code() {
    let state = tempfile::tempdir().unwrap();
    let none = tidegate(state.path(), &["record", "verify"]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    let (_, entry) = write(state.path());
    let clean = tidegate(state.path(), &["record", "verify"]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    let segment = state.path().join("record/bodies/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let broken = tidegate(state.path(), &["record", "verify"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert!(String::from_utf8(broken.stdout).unwrap().contains(&format!("entry {entry}")));
    let json = tidegate(state.path(), &["record", "verify", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["problems"], 1);
    std::fs::write(state.path().join("record/record.redb"), b"not a database at all").unwrap();
    let destroyed = tidegate(state.path(), &["record", "verify"]);
    assert_eq!(destroyed.status.code(), Some(1), "{destroyed:?}");
}

#[test]
fn an_unknown_id_is_an_error_and_no_match_is_none() {
    let state = tempfile::tempdir().unwrap();
    write(state.path());
    let unknown = tidegate(state.path(), &["sessions", "show", &EntryId::now().to_string()]);
    assert_eq!(unknown.status.code(), Some(3));
    let empty = tidegate(state.path(), &["sessions", "list", "--user", "nobody", "--json"]);
    assert_eq!((empty.status.code(), empty.stdout.as_slice()), (Some(0), b"[]\n".as_slice()));
    let wrong = tidegate(state.path(), &["sessions", "list", "--since", "the other day"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn an_export_is_private_whole_and_never_over_a_file_that_is_there() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    write(state.path());
    let path = state.path().join("out.jsonl");
    let file = path.display().to_string();
    let export = |more: &[&str]| {
        let words = [&["sessions", "export", "--format", "jsonl", "-o", &file], more].concat();
        tidegate(state.path(), &words).status.code()
    };
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(export(&[]), Some(3));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(export(&["--force"]), Some(0));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(
        (&line["bodies"]["request"]["text"], &line["intent"]["verdict"]),
        (&HOSTILE.into(), &"deny".into())
    );
    assert_eq!(line["session"]["peer"], "192.0.2.7:40000");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/nonexistent/elsewhere", &path).unwrap();
    assert_eq!((export(&[]), export(&["--force"])), (Some(3), Some(3)), "a link is not followed");
    let left: Vec<_> =
        std::fs::read_dir(state.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn a_body_that_cannot_be_read_is_missing_from_an_export_and_that_is_said() {
    let state = tempfile::tempdir().unwrap();
    write(state.path());
    let segment = state.path().join("record/bodies/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let export = tidegate(state.path(), &["sessions", "export", "--format", "jsonl"]);
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    let line: serde_json::Value = serde_json::from_slice(&export.stdout).unwrap();
    let gap = line["bodies"]["request"]["gap"].as_str().unwrap();
    assert!(gap.contains("cannot be read") && line["bodies"]["request"]["text"] == "", "{line}");
    assert!(String::from_utf8(export.stderr).unwrap().contains("missing: 1 bodies"));
}
