//! Every bound of the gate by name, with its unit and its reason. At a bound there is a clear refusal.

use std::time::Duration;

/// Bytes of a request line. Browsers stop near 8 KiB; twice that.
pub const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a whole message head, request or response line included. nginx takes 32 KiB by default; twice that.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of one head. hyper's default.
pub const HEADERS_MAX: usize = 100;
/// Bytes of one chunk-size line with its extensions (RFC 9112 section 7.1.1 asks for a limit).
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Bytes of a whole trailer section. Trailers carry digests and statuses, not documents.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Requests read ahead of the one being answered on one connection. Pipelining is rare; more waits in the socket.
pub const PIPELINED_MAX: usize = 16;
/// Bytes of a request body that must be known whole before a human can approve it. Larger: 413.
pub const HELD_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one value that an `[[extract]]` takes out of a request. A rule compares names, not documents. Larger: 413.
pub const EXTRACTED_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Values that one `[[extract]]` takes out of a request. A long batch of calls, each judged on its own. More: 413.
pub const EXTRACTED_VALUES_MAX: usize = 256;
/// Bytes of a member's name, and of the white space before it, that a `[[rewrite]]` of a JSON body holds back.
pub const REWRITE_HOLD_BACK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one body kept in the record; what follows is counted, hashed and marked "truncated at".
pub const RECORDED_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a body in memory before they go to the record as one stretch.
pub const BODY_STRETCH_BYTES: usize = 64 * 1024;
/// Bytes of one masked value held back until it is known whole. Longer than any credential it looks for.
pub const MASK_HOLD_BACK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the longest find of a rule by expression. An IBAN with blanks takes 42, a key about 100.
pub const PATTERN_MATCH_BYTES_MAX: usize = 256;
/// Bytes of the automaton of a plan's expressions, and of what each thread keeps of it: all built-in rules take a fifth.
pub const PATTERN_AUTOMATON_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Detectors that one policy directory declares. Each adds to the automaton every text is walked through.
pub const DETECTORS_MAX: usize = 60;
/// Bytes of a keyword of a detector. Half of how far before a find it may stand.
pub const DETECTOR_KEYWORD_BYTES_MAX: usize = 32;
/// Bytes of a file that `mask test` takes. Larger ones are not read by people.
pub const MASK_TEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Nesting of a JSON body under a mask. Deeper is refused: no honest API comes near.
pub const JSON_DEPTH_MAX: usize = 512;
/// Parents of a process kept with it.
pub const ANCESTORS_MAX: usize = 16;
/// Connections at once. Above it a new one is closed and recorded.
pub const CONNECTIONS_MAX: usize = 16 * 1024;
/// Connections at once from one workload or one remote address, so that one cannot starve the others.
pub const CONNECTIONS_PER_PEER_MAX: usize = 12 * 1024;
/// Demands waiting for a human at once, per asking subject.
pub const DEMANDS_PER_SUBJECT_MAX: usize = 100;
/// Demands waiting for a human at once, in all.
pub const DEMANDS_MAX: usize = 10_000;
/// Sessions, and as many entries, that are open in the record at once: more than an enforcer has connections.
pub const RECORD_OPEN_MAX: usize = 4 * CONNECTIONS_MAX;
/// Events waiting for the journal's writer. Above it operations are refused with 503.
pub const JOURNAL_QUEUE_MAX: usize = 8 * 1024;
/// Bytes of events waiting for the journal's writer: as much as a slow disk takes within the commit timeout.
pub const JOURNAL_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an answer that is put together before its head goes out. One read from the upstream: longer ones stream.
pub const WHOLE_ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of one event, beside the bytes of a body. Two whole heads, and room.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Ends of entries and sessions kept in memory while the record cannot be written. What is beyond is closed as
/// recovered by the next start.
pub const ENDS_KEPT_MAX: usize = 64 * 1024;
/// Bytes of one key of the small durable state.
pub const STATE_KEY_BYTES_MAX: usize = 512;
/// Bytes of one value of the small durable state. A held operation with its whole body, and room.
pub const STATE_VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Events after which what is recorded is signed: a second of a busy gate.
pub const SIGN_EVENTS: u64 = 10_000;
/// The longest that something recorded stays unsigned: what a witness cannot know of yet.
pub const SIGN_PERIOD: Duration = Duration::from_secs(60);
/// Between two looks at what of the record may be removed, and at the space that is left.
pub const UPKEEP_PERIOD: Duration = Duration::from_secs(1);
/// Commits that one step of pruning removes: a few milliseconds of work between two commits of others.
pub const PRUNE_COMMITS: u64 = 64;
/// Bytes of commits after which a step of pruning ends.
pub const PRUNE_BYTES: usize = 4 * 1024 * 1024;
/// Segments of bodies that one step sheds.
pub const SHED_SEGMENTS: usize = 16;
/// Orders of operators that wait for the record's writer.
pub const RECORD_ORDERS_MAX: usize = 16;
/// The longest that a witness may take for one checkpoint, before it counts as failing.
pub const WITNESS_TIMEOUT: Duration = Duration::from_secs(10);
/// Witnesses of one record.
pub const WITNESSES_MAX: usize = 8;
/// Bytes of a witness file that is compared: a checkpoint a minute for ten years.
pub const WITNESS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes of a proof. One entry with its heads and the paths to them fits many times over.
pub const PROOF_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Targets whose bodies may have an age of their own; each costs a segment, and a sync in the commits that touch it.
pub const LANES_MAX: usize = 16;
/// Bytes of the name of a noun in a policy file.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a credential. A shorter one is guessed, and would be hidden in the middle of words.
pub const CREDENTIAL_BYTES_MIN: usize = 8;
/// What a header field may be long to most servers, halved.
pub const CREDENTIAL_BYTES_MAX: usize = 4096;
/// Credentials in one vault.
pub const CREDENTIALS_MAX: usize = 1024;
/// Credentials that an enforcer asks for at once; more wait. The keeper gives out twice as many at once, and no more: it has other things to do.
pub const RELEASES_MAX: usize = 64;
/// How long an operation may take from its claim in the record to the credential.
pub const CLAIM_COUNTS_FOR: Duration = Duration::from_secs(60);
/// Bytes of a key file. The most generations a ring holds, in hexadecimal, fit well.
pub const KEY_FILE_BYTES_MAX: u64 = 8 * 1024;
/// Bytes of one executable that is hashed. Larger ones have no digest.
pub const EXECUTABLE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Executable digests remembered.
pub const EXECUTABLE_CACHE_MAX: usize = 1024;
/// Bytes of a bearer token. Large group lists reach 8 KiB; twice that.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a fetched key set.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// From the load of a policy to the end of what it only observes. A quarter; who needs longer forgot it.
pub const OBSERVED_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Bytes of one policy file.
pub const POLICY_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Files in a policy directory.
pub const POLICY_FILES_MAX: usize = 1024;
/// Brackets and `if`s inside each other in one rule. Cedar's parser recurses on them, and people stop reading far earlier.
pub const RULE_DEPTH_MAX: usize = 64;
/// Operators and member accesses in one rule. Cedar's validator recurses on them, and beyond its stack says nothing.
pub const RULE_OPERATORS_MAX: usize = 512;
/// Stack of the thread that reads policy files: ten times what a rule at both bounds was seen to need.
pub const POLICY_STACK_BYTES: usize = 64 * 1024 * 1024;
/// Decisions remembered by one policy set: every agent's usual operations, not every path it ever asks for.
pub const DECISIONS_KEPT_MAX: usize = 4096;
/// Bytes of the question to a remembered decision. Twice a long path; what is longer is judged each time.
pub const DECISION_KEY_BYTES_MAX: usize = 2 * 1024;
/// Bytes of a request body on the admin socket.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// From the first byte of a head (or from accept) to its last. Slow enough for a bad line, too fast for slowloris.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two requests on one connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Without one byte of a body moving, either way.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// From the first byte to the last of a body that must be known whole before it is judged: 1 MiB at 9 KiB a second.
pub const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long what was found out about an operation counts while its body comes; later it is found out again.
pub const JUDGED_AT_ONCE: Duration = Duration::from_secs(1);
/// Between two signs of life of the enforcer to the kernel programs.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// From a sign of life to the moment the kernel programs refuse in the enforcer's place. Ten beats, so that a
/// machine with far more work than it can do does not trip it; a client that met a hung gate waits no longer than this.
pub const HEARTBEAT_LIFE: Duration = Duration::from_secs(10);
/// To a TCP connection with an upstream.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From a whole request to the first byte of the response head. LLMs think long.
pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// A client that expects 100 (RFC 9110 section 10.1.1) waits no longer than this for an upstream that says nothing.
pub const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// To one name resolution.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// From SIGTERM to the end of flows that still run.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// To one commit of the record. Longer means the disk is gone: 503.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of demands kept for one asking subject, bodies included: sixteen of the largest.
pub const DEMAND_BYTES_PER_SUBJECT_MAX: usize = 16 * 1024 * 1024;
/// Bytes of demands kept in all.
pub const DEMAND_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of what an approver says with a vote. A paragraph.
pub const COMMENT_BYTES_MAX: usize = 4 * 1024;
/// Bytes of what a reader of the record says it is about to read: every filter there is, and a long text to look for.
pub const READING_BYTES_MAX: usize = 4 * 1024;
/// From a question for a page of sessions to the end of looking for more of them; what is being read then is read to its end.
pub const LIST_TIME: Duration = Duration::from_millis(50);
/// How long the command line goes on from page to page to fill the list that was asked for.
pub const LIST_PATIENCE: Duration = Duration::from_secs(2);
/// Index rows that a list looks at however long that takes: a slow machine still gets on.
pub const LIST_ROWS_MIN: u64 = 1024;
/// Sessions that one search or export goes through: 16 MiB of their ids. More takes a narrower filter.
pub const SESSIONS_WALKED_MAX: usize = 1024 * 1024;
/// Requests on the admin socket at once. More wait their turn in the listen queue; where admin is a process of its own they are closed.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Of them, those of one user. A quarter: nobody keeps the others out alone.
pub const ADMIN_CONNECTIONS_PER_USER_MAX: usize = 16;
/// Callers of the admin socket that are being told at once that they have too many. Above it they are told nothing.
pub const ADMIN_REFUSALS_MAX: usize = 16;
/// From accept to the end of one request on the admin socket.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// From what an operator wants to the enforcer's answer, where admin is a process of its own. Shorter than
/// [`ADMIN_TIMEOUT`]: he hears that there was none.
pub const VERB_TIMEOUT: Duration = Duration::from_secs(25);
/// Bytes of one verb: a body on the admin socket, and who sent it.
pub const VERB_BYTES_MAX: usize = 4 * ADMIN_BODY_BYTES_MAX;
/// Things that humans are having done at once, as the recorder knows: far more than there are callers.
pub const WARRANTS_MAX: usize = 4 * ADMIN_CONNECTIONS_MAX;
/// From accept to the end of a caller that is only told that it has too many.
pub const ADMIN_REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// From a demand to its expiry, where the approval does not say.
pub const APPROVAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The longest expiry an approval may state. Nobody remembers a question for longer.
pub const APPROVAL_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// From the moment an event nobody waits for is handed to the record, to the start of its commit. Long enough for the
/// answer of a near target, whose entry then takes one commit; far below what a commit costs a busy disk.
pub const COMMIT_PATIENCE: Duration = Duration::from_millis(5);
/// Between two tries to write the record after a failure.
pub const RECORD_RETRY: Duration = Duration::from_millis(250);
/// To the lock on a record that a reader or a stopping enforcer still holds.
pub const RECORD_OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Content codings on top of each other. Nobody has a use for two; some servers stack them by mistake.
pub const CODINGS_MAX: usize = 2;
/// Bytes decoded at once. What one read of the client or upstream unpacks to never stands in memory whole.
pub const DECODED_PIECE_BYTES: usize = 32 * 1024;
/// Bytes a coded body may unpack to whatever its size: repetitive pages of a few kilobytes are no attack.
pub const DECODED_GRACE_BYTES: u64 = 1024 * 1024;
/// Bytes a coded body may unpack to per byte that came, beyond the grace. Logs and tables of equal rows reach 100; gzip
/// ends at 1032, other codings go on.
pub const DECODED_RATIO_MAX: u64 = 256;
/// Bytes a coded body may unpack to in all. Larger ones are downloads, which no mask is for.
pub const DECODED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Logarithm of a zstd window: 8 MiB, what RFC 9659 lets a sender ask for. Brotli's own end is 16 MiB.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes of a gzip header. File name and comment; its extra field alone could be 64 KiB.
pub const GZIP_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request body that is masked before its head goes out, so that its length is known: many servers take no
/// chunked requests. Longer ones stream.
pub const WHOLE_ASK_BYTES_MAX: u64 = 64 * 1024;
/// The longest window an approval may open. What must hold for longer is a rule that somebody writes down.
pub const APPROVAL_WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of what a requester says with a request that needs a reason. A paragraph, as header fields go.
pub const REASON_BYTES_MAX: usize = 1024;
/// Until a client that was told to ask again should. Soon enough for a human's answer, too seldom to be a load.
pub const APPROVAL_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Kinds of operations whose last approved demand is remembered, for approvers to compare with.
pub const PRIORS_MAX: usize = 256;
/// Bytes of those remembered, bodies included: sixteen of the largest.
pub const PRIOR_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a demand's body in one answer of the admin socket; the rest is asked for by offset.
pub const DEMAND_PAGE_BYTES_MAX: usize = 256 * 1024;
/// Blocks in force at once. An operator blocks names by hand; what is more wants a rule.
pub const BLOCKS_MAX: usize = 1024;
/// Bytes of what a block names. Longer than any unit, container id or subject that is one.
pub const BLOCK_SUBJECT_BYTES_MAX: usize = 320;
/// Bytes of the reason of a block. A paragraph; it stands in the entry of every operation that is refused by it.
pub const BLOCK_REASON_BYTES_MAX: usize = 1024;
/// From a block to the end of what its subject has under way: as long as a drain.
pub const BLOCK_GRACE: Duration = Duration::from_secs(10);
/// Files named in the entry of one change of policy. More are counted.
pub const POLICY_CHANGES_TOLD_MAX: usize = 100;
/// Sockets named in one entry of what was destroyed. More are counted.
pub const SOCKETS_DESTROYED_TOLD_MAX: usize = 100;
/// Between two entries of what the kernel refused: who is refused in a loop adds one a second.
pub const KERNEL_REFUSED_EVERY: Duration = Duration::from_secs(1);
/// Different refusals told in one of them. More are counted.
pub const KERNEL_REFUSED_TOLD_MAX: usize = 64;
/// Bytes of one text in it. Longer than any address and most paths; all texts of all refusals are one message of the keeper's.
pub const KERNEL_REFUSED_TEXT_BYTES_MAX: usize = 256;
/// Descriptors of guarded processes looked at in one go for the Unix sockets among them: a few microseconds each.
pub const GUARDED_DESCRIPTORS_MAX: usize = 64 * 1024;
/// Network namespaces of guarded processes whose Unix sockets are listed in one go.
pub const UNIX_SPACES_MAX: usize = 64;
/// Pairs of a process and a Unix socket outside of its guard that were told, and are not told again.
pub const HELPERS_TOLD_MAX: usize = 4096;
/// Operations named in the entry of what a change of policy widens. More are counted.
pub const WIDENED_TOLD_MAX: usize = 50;
/// Different recorded operations that a change of policy is weighed by.
pub const WEIGHED_OPERATIONS_MAX: usize = 2_000;
/// Recorded operations looked through for those.
pub const WEIGHED_LOOKED_AT_MAX: usize = 50_000;
/// From a change of policy to the end of its weighing.
pub const WEIGHING_TIMEOUT: Duration = Duration::from_secs(5);
/// Recorded operations that one command judges again, unless it is told otherwise.
pub const REJUDGED_MAX: usize = 1_000_000;
/// Different operations that one command tells apart: a few hundred bytes each.
pub const REJUDGED_KINDS_MAX: usize = 200_000;
/// Rates, and rules, that are counted under their own name: every target with every mask and verdict of a large policy.
pub const SIGNAL_KEYS_MAX: usize = 4096;
/// Subjects kept with each of them: as many as a person reads.
pub const SIGNAL_SUBJECTS_MAX: usize = 8;
/// Ended holds from which the usual time of a decision is told.
pub const SIGNAL_HOLDS_MAX: usize = 1024;
/// Surges kept for those who look later.
pub const SIGNAL_SURGES_MAX: usize = 100;
/// Bytes of a captured direction that came ahead of what is missing. Twice the largest window that is common.
pub const CAPTURE_AHEAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a captured direction remembered to compare with what is sent again. One full window without scaling.
pub const CAPTURE_WINDOW_BYTES: usize = 64 * 1024;
/// Bytes that all connections of a capture hold ahead of what is missing.
pub const CAPTURE_HELD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Connections of a capture followed at once; above it those quiet for longest are let go. Their windows take 512 MiB at worst.
pub const CAPTURE_FLOWS_MAX: usize = 4 * 1024;
/// Bytes of one block of a capture. tcpdump's largest packet is 256 KiB.
pub const CAPTURE_BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// Interfaces of one section of a capture.
pub const CAPTURE_INTERFACES_MAX: usize = 1024;
/// Bytes of one text (path, query, reason, comment, name) in the list of demands: a line of a wide terminal. All demands that
/// the gate may hold are one answer of some tens of MiB with it; the whole is shown one by one.
pub const LISTED_TEXT_BYTES_MAX: usize = 256;
/// Units of one process in the list of demands: its own and the slices around it, as deep as they are in practice.
pub const LISTED_UNITS_MAX: usize = 4;
/// Messages to people that wait to be taken by one channel. Hours of a busy desk.
pub const NOTIFY_QUEUE_MAX: usize = 1024;
/// Of those, messages about one subject: twice the demands it may have, so that it cannot take the room of others.
pub const NOTIFY_QUEUE_PER_SUBJECT_MAX: usize = 200;
/// Messages that nobody took and that are kept for operators; beyond it the oldest go.
pub const NOTIFY_DEAD_MAX: usize = 1024;
/// Tries of one message, about half an hour in all: longer than most demands wait.
pub const NOTIFY_ATTEMPTS_MAX: u32 = 10;
/// From the first try that failed to the second.
pub const NOTIFY_BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait between two tries.
pub const NOTIFY_BACKOFF_MAX: Duration = Duration::from_secs(10 * 60);
/// Tries in a row that failed, of any message, after which nobody is taken to be reachable through a channel.
pub const NOTIFY_FAILURES: u32 = 2;
/// Between two tests of a channel that fails and has nothing to say.
pub const NOTIFY_PROBE: Duration = Duration::from_secs(30);
/// Bytes that must be free on the record's file system for anything to begin: what a few commits make the database grow.
pub const RECORD_ROOM_BYTES: u64 = 512 * 1024;
/// Bytes of one server-sent event under a mask. The last event of a model's answer repeats all of it.
pub const SSE_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of events that wait for the end of a text that is sent piece by piece. The longest find, each of its
/// characters in an event of its own.
pub const EVENT_STREAM_HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Parts of a multipart body under a mask. Forms have dozens.
pub const MULTIPART_PARTS_MAX: usize = 1024;
/// Bytes of one message between keeper and enforcer: a process with all its parents, each path as long as Linux allows,
/// takes less.
pub const KEEPER_MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Questions of the enforcer that the keeper works on at once; further ones wait in the socket.
pub const KEEPER_ASKED_MAX: usize = 256;
/// How long the enforcer waits for one answer. Resolving a process hashes its program the first time.
pub const KEEPER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where the keeper reads the policy directory, and runs its cases.
pub const KEEPER_PUBLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// From the moment that a gate is told to go on with another program to its first answer: the drain, twice over, and a start
/// that reads a large record.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection that has asked nothing yet may do so when the gate stops. It was taken, so it is not refused; who
/// connects asks at once.
pub const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(2);
/// Bytes of one message between enforcer and recorder. What one append may carry: eight times the largest value, or
/// event with its bodies.
pub const RECORD_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Lanes that the enforcer counts flows by. The kernel counts by no more.
pub const TALLY_LANES_MAX: usize = 16 * 1024;
/// Processes of guards and of protected services whose network namespaces are looked at in one go.
pub const SPACE_PROCESSES_MAX: usize = 64 * 1024;
/// Network namespaces that are begun to be served in one go, a thousandth of a second each.
pub const SPACES_OPENED_MAX: usize = 64;
/// How long the keeper lets the enforcer wait for news of network namespaces before it says that there are none.
pub const SPACES_NEWS_TIMEOUT: Duration = Duration::from_secs(5);
