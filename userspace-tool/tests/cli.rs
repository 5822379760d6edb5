// SPDX-License-Identifier: GPL-2.0

//! What `uvctl` says where there is no module, or no program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs `uvctl`.
fn uvctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvctl"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A file for one test, removed when the test ends.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("uvctl-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A file that stays behind does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

/// Checks the status and the message of `uvctl ARGUMENT...` with a runtime directory.
fn fails_in(directory: &Path, arguments: &[&str], status: i32, message: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_uvctl"))
        .args(arguments)
        .env("XDG_RUNTIME_DIR", directory)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(text.starts_with("uvctl: "), "{text}");
    assert!(text.contains(message), "{text}");
    assert_eq!(output.status.code(), Some(status), "{text}");
}

#[test]
fn templates_that_are_none_say_so() {
    let name = format!("uvctl-{}-runtime", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    let missing = "there is no template nosuch";
    for arguments in [
        &["run", "--from", "nosuch"][..],
        &["template", "inspect", "nosuch"],
        &["template", "rm", "nosuch"],
        &["verify", "nosuch"],
    ] {
        fails_in(&directory, arguments, 125, missing);
    }
    for bad in ["../x", "", ".x", "a b"] {
        fails_in(
            &directory,
            &["run", "--from", bad],
            125,
            "is no name for a template",
        );
        let create = ["template", "create", bad, "--", "true"];
        fails_in(&directory, &create, 125, "is no name for a template");
    }
    let create = ["template", "create", "x", "--", "/no/such/program"];
    fails_in(&directory, &create, 127, "no such program");

    // The directory was made for this user alone, and one that is not is not used.
    let own = directory.join("uvisor");
    let mode = fs::metadata(&own).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
    fails_in(
        &directory,
        &["template", "list"],
        125,
        "others may use it (mode 770)",
    );
    fs::remove_dir(&own).unwrap();
    std::os::unix::fs::symlink("/", &own).unwrap();
    fails_in(&directory, &["template", "list"], 125, "cannot use");
    fs::remove_file(&own).unwrap();

    // A socket whose process has ended.
    let output = Command::new(env!("CARGO_BIN_EXE_uvctl"))
        .args(["template", "list", "--json"])
        .env("XDG_RUNTIME_DIR", &directory)
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "[]\n");
    drop(std::os::unix::net::UnixListener::bind(own.join("old")).unwrap());
    // That was a stream: not what a holder has, and nothing is sent there.
    fails_in(&directory, &["run", "--from", "old"], 125, "old");
    fs::remove_dir_all(&directory).unwrap();
}

/// Checks the status and the message of `uvctl run PROGRAM`.
fn fails(program: &str, status: i32, message: &str) {
    let output = uvctl(&["run", "--", program]);
    let text = stderr(&output);
    assert!(text.starts_with("uvctl: "), "{text}");
    assert!(text.contains(message), "{text}");
    assert_eq!(output.status.code(), Some(status), "{text}");
}

#[test]
fn programs_that_cannot_run_say_why() {
    fails(
        "no-such-program",
        127,
        "no such program in any directory of PATH",
    );
    fails("/no/such/program", 127, "/no/such/program: no such program");
    fails("/etc/passwd", 126, "permission denied");
    fails("/usr", 126, "not a program but a directory");
    let text = Temporary::new("text", b"hello\n");
    fails(text.path(), 126, "not an ELF file");
    let script = Temporary::new("script", b"#!/no/such/interpreter -x\n");
    fails(
        script.path(),
        127,
        "interpreter /no/such/interpreter does not exist",
    );
    let empty = Temporary::new("empty", b"#!\n");
    fails(empty.path(), 126, "names no interpreter");
    let own = Temporary::new("loop", b"");
    fs::write(&own.0, format!("#!{}\n", own.path())).unwrap();
    fails(own.path(), 126, "too many scripts");

    let program = fs::read("/usr/bin/true").unwrap();
    let cut = Temporary::new("cut", &program[..program.len() / 2]);
    fails(cut.path(), 126, "truncated");
    let mut other = program.clone();
    other[18..20].copy_from_slice(&183u16.to_le_bytes());
    let other = Temporary::new("machine", &other);
    fails(other.path(), 126, "a program for AArch64");
    let mut old = program;
    old[4] = 1;
    let old = Temporary::new("class", &old);
    fails(old.path(), 126, "a 32-bit program");
}

#[test]
fn without_the_module_it_says_so() {
    if Path::new("/dev/uvisor").exists() {
        return;
    }
    fails("true", 125, "the uvisor module is not loaded");
    let output = uvctl(&["info"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("insmod uvisor.ko"));
    let output = uvctl(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("cannot run micro-VMs yet"));
    let output = uvctl(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["able"], false);
    assert!(!stdout(&output).contains('\x1b'));
}

#[test]
fn it_documents_itself() {
    let output = uvctl(&["--help"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains("Examples:"));
    let output = uvctl(&["run", "--help"]);
    let text = stdout(&output);
    for word in ["125", "126", "127", "--trace-syscalls", "--memory"] {
        assert!(text.contains(word), "{text}");
    }
    for command in [
        &["template"][..],
        &["template", "create"],
        &["verify"],
        &["ps"],
        &["stats"],
        &["report"],
    ] {
        let output = uvctl(&[command, &["--help"]].concat());
        let text = stdout(&output);
        for word in ["Examples:", "Exit status", "125"] {
            assert!(text.contains(word), "{command:?}: {text}");
        }
    }
    // What is internal is not shown.
    let text = stdout(&uvctl(&["template", "--help"]));
    assert!(!text.contains("\n  hold"), "{text}");
    let output = uvctl(&["--version"]);
    assert!(stdout(&output).starts_with("uvctl 0."));
    for shell in ["bash", "zsh", "fish"] {
        let output = uvctl(&["completions", shell]);
        assert!(stdout(&output).contains("doctor"), "{shell}");
    }
    assert!(stdout(&uvctl(&["man"])).starts_with(".ie"));
    assert!(stdout(&uvctl(&["man", "run"])).contains("uvctl\\-run"));
    assert_eq!(uvctl(&["man", "bogus"]).status.code(), Some(125));
    assert_eq!(uvctl(&["run", "--bogus", "true"]).status.code(), Some(125));
}

/// A record of a task that was refused a secret, whose name would write to a terminal.
const AUDIT: &str = concat!(
    r#"{"seq":0,"time":1800000000000000000,"pid":7,"tid":7,"event":"start","program":"cat","arguments":["x"],"profile":"default","verdict":"allowed"}"#,
    "\n",
    r#"{"seq":1,"time":1800000000500000000,"pid":7,"tid":7,"event":"open","path":"/root/.ssh/<b>\u001b[2J\u202e","access":"read","verdict":"refused","errno":"ENOENT","rule":"no rule","wall":"personality"}"#,
    "\n",
    r#"{"seq":2,"time":1800000001000000000,"pid":7,"tid":7,"event":"exit","status":1,"verdict":"allowed"}"#,
    "\n",
);

#[test]
fn an_audit_is_reported() {
    let audit = Temporary::new("audit", AUDIT.as_bytes());
    let output = uvctl(&["report", audit.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(
        text.lines().next(),
        Some("Nothing got through: 1 attempt was refused, by the personality (1).")
    );
    for line in [
        "cat x, under profile default",
        "2027-01-15T08:00:00Z, 1.000 s; events: 3, processes: 1; ended with status 1",
        "1 Running programs: nothing unusual",
        "2 Looking around, and for secrets: 1 refused, from +0.500 s",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    assert!(
        text.contains("ENOENT, by the personality (no rule)"),
        "{text}"
    );
    assert!(text.contains("<b>\\u{1b}[2J\\u{202e}"), "{text}");
    assert!(!text.contains(['\x1b', '\u{202e}']));

    let page = Temporary::new("page", b"");
    let output = uvctl(&["report", audit.path(), "--html", page.path()]);
    assert!(output.status.success() && output.stdout.is_empty());
    let written = fs::read_to_string(page.path()).unwrap();
    assert!(written.starts_with("<!DOCTYPE html>") && written.contains("&lt;b&gt;\\u{1b}"));
    let output = uvctl(&["report", audit.path(), "--html"]);
    assert_eq!(stdout(&output), written);

    let output = uvctl(&["report", audit.path(), "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["stages"][1]["phase"], "discovery");
    assert_eq!(value["stages"][1]["attempts"]["all"][0]["times"], 1);
    assert_eq!(
        value["conclusion"],
        text.lines().next().unwrap().trim_end_matches('.')
    );
}

#[test]
fn standard_input_is_reported_and_what_is_no_audit_is_told() {
    let report = |input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_uvctl"))
            .args(["report", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let cut = report(&AUDIT[..AUDIT.len() - 20]);
    assert!(cut.status.success());
    let text = stdout(&cut);
    assert!(
        text.starts_with("As far as the record goes, nothing got through"),
        "{text}"
    );
    assert!(text.contains("The last line is cut off"), "{text}");
    for (input, message) in [
        ("", "standard input: there is no event in it"),
        ("hello\n", "standard input: none of its lines is an event"),
    ] {
        let output = report(input);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
    let output = uvctl(&["report", "/no/such/audit"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).starts_with("uvctl: /no/such/audit: "));
}
