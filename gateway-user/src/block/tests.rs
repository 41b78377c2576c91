//! What blocks promise: names that mean somebody, and a table that forgets nothing it said it kept.

use super::*;
use crate::operation::{Proof, User, Workload};

fn workload() -> Workload {
    Workload {
        pid: 7,
        started: 1,
        uid: 990,
        login_uid: Some(1001),
        command: "python3".into(),
        cgroup: Some("/system.slice/agents.slice/agent.service/delegated.slice".into()),
        unit: Some("agent.service".into()),
        container: Some("c".repeat(64)),
        image: None,
        pod: None,
        executable: None,
        parents: Vec::new(),
    }
}

fn block(subject: &str, until: Option<Timestamp>) -> Block {
    Block {
        subject: subject.parse().unwrap(),
        since: Timestamp::now(),
        by: "ada".into(),
        reason: "runs wild".into(),
        until,
    }
}

async fn blocked(blocks: &Blocks, subject: &str) {
    drop(blocks.block(block(subject, None)).await.unwrap());
}

#[test]
fn names_that_nobody_could_have_are_refused_and_say_how_to_write_one() {
    let long = format!("unit:{}.service", "x".repeat(BLOCK_LONG));
    for bad in [
        "",
        "ann",
        "user:ann",
        "user:/ann",
        "user:corp/",
        "unit:agent",
        "unit:.service",
        "unit:a/b.service",
        "container:short",
        "container:ABCDEF0123456789",
        "uid:-1",
        "uid:01",
        "uid:4294967296",
        "target:",
        "group:x",
        "unit:a\nb.service",
        &long,
    ] {
        let error = bad.parse::<Subject>().unwrap_err();
        assert!(error.to_string().contains("user:PROVIDER/SUBJECT"), "{bad:?}");
    }
}

const BLOCK_LONG: usize = crate::limits::BLOCK_SUBJECT_BYTES_MAX;

#[test]
fn a_name_reads_as_it_is_written() {
    for good in [
        "user:corp/ann/x",
        "unit:agent.service",
        "unit:agents.slice",
        "container:0123456789ab",
        "uid:0",
        "target:crm",
    ] {
        assert_eq!(good.parse::<Subject>().unwrap().to_string(), good);
    }
}

#[tokio::test]
async fn each_kind_of_name_meets_whom_it_names_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    let (workload, user) = (
        workload(),
        User {
            provider: "corp".into(),
            subject: "ann".into(),
            groups: Vec::new(),
            expires: 0,
            proof: Proof::default(),
        },
    );
    let asking = Asking { user: Some(&user), workload: Some(&workload), target: Some("crm") };
    for other in [
        "user:corp/bob",
        "user:other/ann",
        "unit:other.service",
        "unit:delegated.slice",
        "uid:1001",
        "target:react",
        "container:dddddddddddd",
    ] {
        blocked(&blocks, other).await;
        assert_eq!(blocks.meets(&asking), None, "{other}");
    }
    for own in [
        "user:corp/ann",
        "unit:agent.service",
        "unit:agents.slice",
        "unit:system.slice",
        "uid:990",
        "target:crm",
        "container:cccccccccccc",
    ] {
        blocked(&blocks, own).await;
        assert_eq!(blocks.meets(&asking).unwrap().subject.to_string(), own);
        drop(blocks.unblock(&own.parse().unwrap(), "ada").await.unwrap());
        assert_eq!(blocks.meets(&asking), None, "{own} was lifted");
    }
    assert_eq!(blocks.meets(&Asking::default()), None);
    recorder.close();
}

#[tokio::test]
async fn a_block_that_ran_out_hides_none_that_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    let soon = Timestamp::now() + jiff::SignedDuration::from_millis(50);
    drop(blocks.block(block("target:crm", Some(soon))).await.unwrap());
    blocked(&blocks, "uid:990").await;
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    let workload = workload();
    let asking = Asking { user: None, workload: Some(&workload), target: Some("crm") };
    assert_eq!(blocks.meets(&asking).unwrap().subject.to_string(), "uid:990");
    recorder.close();
}

#[tokio::test]
async fn a_block_survives_a_restart_and_one_that_cannot_be_read_stays_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    let made = blocks.block(block("unit:agent.service", None)).await.unwrap();
    recorder.put(b"block/uid:5", b"\xffrubbish").unwrap().await.unwrap();
    recorder.put(b"block/nonsense", b"").unwrap().await.unwrap();
    recorder.close();
    drop((blocks, recorder));
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    let workload = workload();
    let kept = blocks.meets(&Asking { workload: Some(&workload), ..Asking::default() }).unwrap();
    assert_eq!((kept.by.as_str(), kept.reason.as_str()), (made.by.as_str(), made.reason.as_str()));
    assert_eq!(kept.since.as_microsecond(), made.since.as_microsecond());
    let fifth = Workload { uid: 5, unit: None, cgroup: None, container: None, ..workload };
    assert!(blocks.meets(&Asking { workload: Some(&fifth), ..Asking::default() }).is_some());
    assert_eq!(blocks.len(), 2);
    drop(blocks.unblock(&Subject::Uid(5), "ada").await.unwrap());
    assert!(recorder.scan(b"block/uid").unwrap().is_empty());
    recorder.close();
}

#[tokio::test]
async fn a_block_ends_when_it_said_and_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    let soon = Timestamp::now() + jiff::SignedDuration::from_millis(300);
    drop(blocks.block(block("target:crm", Some(soon))).await.unwrap());
    let asking = Asking { target: Some("crm"), ..Asking::default() };
    assert!(blocks.meets(&asking).is_some());
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert_eq!((blocks.meets(&asking), blocks.len()), (None, 0));
    blocks.sweep().await;
    assert!(recorder.scan(BLOCKS.as_bytes()).unwrap().is_empty());
    let past = blocks.block(block("target:crm", Some(Timestamp::UNIX_EPOCH))).await;
    assert!(matches!(past, Err(BlockError::Past(_))), "{past:?}");
    recorder.close();
}

#[tokio::test]
async fn bounds_refuse_and_what_cannot_be_kept_or_lifted_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let blocks = Blocks::open(recorder.clone()).unwrap();
    for uid in 0..BLOCKS_MAX as u32 {
        let mut table = Table::clone(&blocks.0.table.load());
        table.insert(Subject::Uid(uid), Arc::new(block(&format!("uid:{uid}"), None)));
        blocks.0.table.store(Arc::new(table));
    }
    assert!(matches!(blocks.block(block("target:crm", None)).await, Err(BlockError::Full)));
    assert!(blocks.block(block("uid:7", None)).await.is_ok(), "what is blocked may be blocked anew");
    let reason = "x".repeat(BLOCK_REASON_BYTES_MAX + 1);
    let long = blocks.block(Block { reason, ..block("uid:7", None) }).await;
    assert!(matches!(long, Err(BlockError::LongReason)));
    let nobody = blocks.unblock(&"target:none".parse().unwrap(), "ada").await;
    assert!(matches!(nobody, Err(BlockError::Unknown(_))));
    recorder.close();
    assert!(matches!(blocks.unblock(&Subject::Uid(7), "ada").await, Err(BlockError::NotLifted(..))));
    assert!(blocks.list().iter().any(|block| block.subject == Subject::Uid(7)), "it stays");
    assert!(matches!(blocks.block(block("uid:8", None)).await, Err(BlockError::NotKept(..))));
}

#[test]
fn the_words_in_an_entry_say_who_when_and_why() {
    let since: Timestamp = "2026-11-22T07:00:00.123Z".parse().unwrap();
    let block = Block { since, ..block("uid:7", None) };
    assert_eq!(block.to_string(), "blocked by ada at 2026-11-22T07:00:00Z: runs wild (uid:7)");
    let silent = Block { reason: String::new(), ..block };
    assert_eq!(silent.to_string(), "blocked by ada at 2026-11-22T07:00:00Z (uid:7)");
}
