// SPDX-License-Identifier: GPL-2.0

//! Reports of made-up streams, hostile ones among them.

use serde_json::{json, Value};

use super::*;
use crate::audit::Wall;

/// A stream that is being made.
#[derive(Default)]
struct Stream {
    text: String,
    seq: u64,
}

impl Stream {
    /// One that begins with a task.
    fn new() -> Self {
        let mut stream = Self::default();
        stream.add(
            json!({ "event": "start", "program": "pdftotext", "arguments": ["in.pdf"], "profile": "document" }),
        );
        stream
    }

    /// Adds an event that was allowed, unless it says something else.
    fn add(&mut self, mut event: Value) -> &mut Self {
        let defaults = json!({
            "seq": self.seq,
            "time": self.seq.wrapping_mul(1_000_000),
            "pid": 7,
            "tid": 7,
            "verdict": "allowed",
        });
        for (key, value) in defaults.as_object().unwrap() {
            let event = event.as_object_mut().unwrap();
            event.entry(key).or_insert(value.clone());
        }
        self.seq = event["seq"].as_u64().unwrap().saturating_add(1);
        self.line(&event.to_string())
    }

    /// Adds an event that was refused.
    fn refuse(&mut self, mut event: Value, errno: &str, wall: &str) -> &mut Self {
        event["verdict"] = "refused".into();
        event["errno"] = errno.into();
        event["wall"] = wall.into();
        self.add(event)
    }

    fn line(&mut self, line: &str) -> &mut Self {
        self.text += line;
        self.text.push('\n');
        self
    }

    fn end(&mut self) -> &mut Self {
        self.add(json!({ "event": "exit", "status": 0 }))
    }

    fn read(&self) -> Summary {
        Summary::read(self.text.as_bytes()).unwrap()
    }
}

fn open(path: &str, access: &str) -> Value {
    json!({ "event": "open", "path": path, "access": access })
}

fn stage(summary: &Summary, phase: Phase) -> &Stage {
    summary
        .stages
        .iter()
        .find(|stage| stage.phase == phase)
        .unwrap()
}

fn whats(list: &Listed<Finding>) -> Vec<&str> {
    list.all.iter().map(|found| found.what.as_str()).collect()
}

/// All ways of an attack, refused.
fn attack(stream: &mut Stream) {
    stream
        .refuse(open("/root/.ssh/id_rsa", "read"), "ENOENT", "personality")
        .refuse(open("/etc/cron.d/job", "write"), "EROFS", "kernel")
        .refuse(
            json!({ "event": "connect", "address": "192.0.2.1:4", "protocol": "tcp" }),
            "ENETUNREACH",
            "personality",
        )
        .refuse(json!({ "event": "fork", "times": 99 }), "EAGAIN", "limit")
        .refuse(
            json!({ "event": "memory", "kind": "written", "address": 4096, "size": 4096 }),
            "EACCES",
            "personality",
        )
        .refuse(
            json!({ "event": "violation", "access": "execute", "address": 4096, "rip": 4096 }),
            "EFAULT",
            "ept",
        )
        .refuse(
            json!({ "event": "privileged", "exception": "#GP", "rip": 4096 }),
            "EFAULT",
            "processor",
        )
        .refuse(
            json!({ "event": "syscall", "name": "ptrace" }),
            "EPERM",
            "personality",
        )
        .refuse(
            json!({ "event": "exec", "path": "/tmp/x", "arguments": ["x"] }),
            "EACCES",
            "personality",
        );
}

#[test]
fn an_attack_is_told_stage_by_stage() {
    let mut stream = Stream::new();
    attack(&mut stream);
    let summary = stream.end().read();
    assert_eq!(
        summary.conclusion().text,
        "Nothing got through: 9 attempts were refused, by the personality (5), the kernel (1), extended page tables (1), \
         the processor (1) and a limit (1)"
    );
    assert!(!summary.losses.any());
    for stage in &summary.stages {
        assert!(stage.first.is_some(), "{:?}", stage.phase);
        assert!(stage.through.all.is_empty() && stage.others.all.is_empty());
    }
    let forks = &stage(&summary, Phase::Exhaustion).attempts.all;
    assert_eq!((forks.len(), forks[0].times), (1, 99));
    assert_eq!(forks[0].wall, Some(Wall::Limit));
    let injected = &stage(&summary, Phase::Injection).attempts;
    assert_eq!(
        whats(injected),
        ["execute what it wrote to memory", "execute data"]
    );
    assert_eq!(summary.end.as_deref(), Some("ended with status 0"));
    assert_eq!(summary.tasks.all[0].command, "pdftotext in.pdf");
}

#[test]
fn what_programs_do_is_no_attack() {
    let mut stream = Stream::new();
    stream
        .add(json!({ "event": "exec", "path": "/bin/pdftotext", "arguments": ["pdftotext"] }))
        .refuse(open("/etc/ld.so.preload", "look"), "ENOENT", "personality")
        .refuse(
            json!({ "event": "exec", "path": "/usr/local/bin/x", "arguments": ["x"] }),
            "ENOENT",
            "personality",
        )
        .refuse(
            json!({ "event": "connect", "address": "/var/run/nscd/socket", "protocol": "unix" }),
            "ENOENT",
            "personality",
        )
        .refuse(
            json!({ "event": "syscall", "name": "rseq" }),
            "ENOSYS",
            "personality",
        )
        .refuse(
            json!({ "event": "change", "path": "out", "call": "mkdir" }),
            "EEXIST",
            "kernel",
        )
        .add(json!({
            "event": "open", "path": "/tmp/none/x", "access": "write", "verdict": "refused", "errno": "ENOENT"
        }))
        .add(json!({ "event": "fork", "verdict": "refused", "errno": "EAGAIN" }))
        .add(open("/work/out.txt", "write"))
        .add(json!({ "event": "fork", "child": 8 }))
        .add(json!({ "event": "exit", "pid": 8, "signal": 11 }))
        .add(json!({ "event": "connect", "address": "127.0.0.1:80", "protocol": "tcp" }));
    let summary = stream.end().read();
    assert_eq!(
        summary.conclusion(),
        Conclusion {
            weight: Weight::Ordinary,
            text: "Nothing tells of an attack".into()
        }
    );
    assert_eq!(
        whats(&summary.programs),
        ["run pdftotext in.pdf", "run /bin/pdftotext"]
    );
    assert_eq!(whats(&summary.changed), ["write /work/out.txt"]);
    assert_eq!(whats(&summary.reached), ["connect to 127.0.0.1:80 (tcp)"]);
    assert_eq!(summary.processes, 1);
    let crashed = &stage(&summary, Phase::Injection).others;
    assert_eq!(whats(crashed), ["a process crashed (SIGSEGV)"]);
}

#[test]
fn what_was_done_and_should_be_looked_at_comes_first() {
    let mut stream = Stream::new();
    attack(&mut stream);
    stream
        .add(json!({ "event": "connect", "address": "192.0.2.1:443", "protocol": "tcp", "rule": "--net" }))
        .add(open("/home/u/.bashrc", "write"))
        .add(open("/home/u/.ssh/id_rsa", "read"))
        .add(json!({ "event": "memory", "kind": "written", "address": 4096, "size": 4096 }))
        .add(open("/tmp/made", "write"))
        .add(json!({ "event": "exec", "path": "/tmp/made", "arguments": ["made"] }));
    let conclusion = stream.end().read().conclusion();
    assert_eq!(conclusion.weight, Weight::Through);
    assert!(
        conclusion
            .text
            .starts_with("5 things to look at; 9 attempts were refused"),
        "{conclusion:?}"
    );
}

#[test]
fn what_nothing_stopped_led_nowhere() {
    let mut stream = Stream::new();
    stream.add(json!({
        "event": "connect", "address": "192.0.2.1:4", "protocol": "tcp", "verdict": "refused", "errno": "ENETUNREACH"
    }));
    assert_eq!(
        stream.end().read().conclusion().text,
        "Nothing got through: 1 attempt was refused, or led nowhere (1)"
    );
}

#[test]
fn a_record_with_losses_says_less() {
    let mut stream = Stream::new();
    attack(&mut stream);
    stream.line("{ no event").line("").line("{\"seq\":1}");
    // Those were three of the eight that are missing.
    stream.seq += 8;
    stream.add(json!({ "event": "lost", "count": 4 })).end();
    stream.text += "{\"seq\":2";
    let summary = stream.read();
    let losses = Losses {
        events: 5,
        damaged: 3,
        cut: true,
        ..Losses::default()
    };
    assert_eq!(summary.losses, losses);
    let text = summary.conclusion().text;
    assert!(
        text.starts_with("As far as the record goes, nothing got through: 9 attempts"),
        "{text}"
    );
    assert_eq!(losses.sentences().len(), 3);
    let page = summary.page();
    for sentence in losses.sentences() {
        assert!(page.contains(&sentence), "{sentence}");
    }
}

#[test]
fn a_record_without_its_ends_says_so() {
    let mut stream = Stream {
        seq: 3,
        ..Stream::default()
    };
    let summary = stream.add(open("/x", "read")).read();
    assert!(summary.losses.headless && summary.losses.endless);
    assert_eq!(summary.losses.events, 3);
    // A last line that is whole but for its newline counts.
    let mut stream = Stream::new();
    stream.end();
    let summary = Summary::read(stream.text.trim_end().as_bytes()).unwrap();
    assert!(!summary.losses.any());
    // Two records in one file are two tasks.
    let text = stream.text.repeat(2);
    let summary = Summary::read(text.as_bytes()).unwrap();
    assert_eq!(summary.tasks.all.len(), 2);
    assert!(!summary.losses.any());
    // The same line twice is not.
    let mut stream = Stream::new();
    stream.add(json!({ "event": "fork", "seq": 0 }));
    assert_eq!(stream.end().read().losses.disordered, 1);
    assert!(Summary::read(&b"\0\0\0"[..]).unwrap().is_empty());
}

#[test]
fn a_limit_ends_a_task_as_well() {
    let mut stream = Stream::new();
    stream.refuse(
        json!({ "event": "limit", "limit": "memory" }),
        "ENOMEM",
        "limit",
    );
    let summary = stream.read();
    assert!(!summary.losses.endless);
    assert_eq!(summary.end.as_deref(), Some("ended by its limit (memory)"));
    assert_eq!(
        summary.conclusion().text,
        "Nothing got through: 1 attempt was refused, by a limit (1)"
    );
}

/// Text that would do something where it is printed as it is.
const HOSTILE: &str = "</td><script>alert(1)</script>\"'&\u{1b}[2J\u{9b}0m\u{202e}gpj.\u{2066}\u{200b}\r\n</style><!--";

#[test]
fn hostile_texts_are_text() {
    let mut stream = Stream::default();
    stream
        .add(json!({
            "event": "start", "program": HOSTILE, "arguments": [HOSTILE, HOSTILE], "profile": HOSTILE
        }))
        .add(json!({ "event": "exec", "path": HOSTILE, "arguments": [HOSTILE, HOSTILE], "rule": HOSTILE }))
        .add(json!({
            "event": "open", "path": format!("/etc/{HOSTILE}"), "access": "write", "rule": HOSTILE, "errno": HOSTILE
        }));
    for event in [
        open(&format!("/root/.ssh/{HOSTILE}"), "read"),
        json!({ "event": "change", "path": HOSTILE, "call": HOSTILE }),
        json!({ "event": "connect", "address": HOSTILE, "protocol": HOSTILE }),
        json!({ "event": "violation", "access": HOSTILE, "address": 1 << 20, "rip": 1 }),
        json!({ "event": "privileged", "exception": HOSTILE, "rip": 1 }),
        json!({ "event": "syscall", "name": HOSTILE }),
        json!({ "event": "memory", "kind": "file", "address": 1, "size": 1, "path": HOSTILE }),
    ] {
        stream.refuse(event, HOSTILE, "personality");
    }
    let summary = stream.end().read();
    let json = serde_json::to_string(&summary).unwrap();
    let page = summary.page();
    for (name, text) in [("page", &page), ("json", &json)] {
        let odd = text
            .chars()
            .find(|&letter| !crate::quote::is_plain(letter) && !matches!(letter, '\n' | '\t'));
        assert_eq!(odd, None, "{name}");
    }
    // The page has its own elements and no others.
    for not in ["<script", "</style><!--", "<!--", "javascript:", "\"'&\\u"] {
        assert!(!page.contains(not), "{not}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
}

#[test]
fn the_page_allows_its_style_and_nothing_else() {
    use base64::Engine as _;
    use sha2::Digest as _;

    let page = Stream::new().end().read().page();
    let style = page.split_once("<style>").unwrap().1;
    let style = style.split_once("</style>").unwrap().0;
    let hash = sha2::Sha256::digest(style.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(hash);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
    );
    assert_eq!(
        page::POLICY,
        policy,
        "the style was changed: this is its policy"
    );
    // Quotes of one kind need no escapes in those of the other.
    assert!(page.contains(&format!("content=\"{policy}\"")), "{page}");
    for not in [
        "http:", "https:", "url(", "@import", "src=", "href=", " style=", "<script",
    ] {
        assert!(!page.contains(not), "{not}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut stream = Stream::new();
    let long = "x".repeat(5000);
    for number in 0..2000 {
        stream.refuse(
            open(&format!("/root/.ssh/{number}/{long}"), "read"),
            "ENOENT",
            "personality",
        );
        stream.add(open(&format!("/work/{number}"), "write"));
    }
    let summary = stream.end().read();
    let secrets = &stage(&summary, Phase::Discovery).attempts;
    assert_eq!((secrets.all.len(), secrets.more), (500, 1500));
    assert!(secrets.all.iter().all(|found| found.what.len() < 310));
    assert_eq!(
        (summary.changed.all.len(), summary.changed.more),
        (500, 1500)
    );
    let text = summary.conclusion().text;
    assert!(
        text.starts_with("Nothing got through: more than 500 attempts"),
        "{text}"
    );
    assert!(summary.page().len() < 400_000);
}

#[test]
fn numbers_at_their_ends_do_no_harm() {
    let mut stream = Stream::new();
    for _ in 0..2 {
        stream.refuse(
            json!({
                "event": "fork", "times": u64::MAX, "time": u64::MAX, "seq": u64::MAX - 1, "pid": i32::MIN
            }),
            "EAGAIN",
            "limit",
        );
    }
    stream.line(r#"{"seq":0,"time":0,"pid":7,"tid":7,"event":"lost","count":18446744073709551615,"verdict":"allowed"}"#);
    let summary = stream.read();
    assert_eq!(summary.events, u64::MAX);
    assert_eq!(summary.losses.events, u64::MAX);
    assert_eq!(stage(&summary, Phase::Exhaustion).refused, u64::MAX);
    assert_eq!((summary.first, summary.last), (0, u64::MAX));
    assert!(summary.page().contains("1970-01-01T00:00:00Z"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let summary = Summary::read(bytes.as_slice()).unwrap();
        proptest::prop_assert!(summary.is_empty());
    }

    #[test]
    fn any_event_is_told(name in ".*", path in ".*", address: u64, refused: bool) {
        let mut stream = Stream::new();
        let verdict = if refused { "refused" } else { "allowed" };
        for event in [
            json!({ "event": "exec", "path": path, "arguments": [name, path], "verdict": verdict }),
            json!({ "event": "change", "path": path, "call": name, "verdict": verdict }),
            json!({ "event": "connect", "address": path, "protocol": name, "verdict": verdict }),
            json!({ "event": "violation", "access": name, "address": address, "rip": address, "verdict": verdict }),
        ] {
            stream.add(event);
        }
        let summary = stream.read();
        proptest::prop_assert_eq!(summary.losses.damaged, 0);
        let page = summary.page();
        proptest::prop_assert!(page.chars().all(|letter| crate::quote::is_plain(letter) || matches!(letter, '\n' | '\t')));
    }
}
