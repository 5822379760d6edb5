// SPDX-License-Identifier: GPL-2.0

//! Tests of what is printed about profiles.

use std::ffi::OsString;

use uvisor::personality::table::TABLE;
use uvisor::personality::Fate;
use uvisor::profile::{FileAccess, NetworkRules, Origin, Rules, Write};

use super::*;

fn load(name: &str) -> Profile {
    let surroundings = Surroundings {
        system_profiles: "/nonexistent".into(),
        ..Surroundings::default()
    };
    Profile::load(name, &surroundings).unwrap()
}

/// The names of a list of calls.
fn names(calls: &Value) -> Vec<&str> {
    let calls = calls.as_array().unwrap().iter();
    calls
        .map(|call| call.as_str().or(call["name"].as_str()).unwrap())
        .collect()
}

#[test]
fn json_has_every_system_call_once() {
    for name in ["default", "host", "filter", "image"] {
        let value = facts::value(&load(name));
        let (served, refused) = (&value["syscalls"]["served"], &value["syscalls"]["refused"]);
        let mut all = names(served);
        all.extend(names(refused));
        all.sort_unstable();
        let mut expected: Vec<&str> = TABLE.iter().map(|call| call.name).collect();
        expected.sort_unstable();
        assert_eq!(all, expected, "{name}");
        for call in refused.as_array().unwrap() {
            assert!(
                call["reason"].as_str().is_some_and(|why| !why.is_empty()),
                "{call}"
            );
        }
    }
    let host = facts::value(&load("host"));
    let served = TABLE
        .iter()
        .filter(|call| matches!(call.fate, Fate::Served(_)));
    let served: Vec<&str> = served.map(|call| call.name).collect();
    assert_eq!(names(&host["syscalls"]["served"]), served);
    let filter = facts::value(&load("filter"));
    assert!(names(&filter["syscalls"]["refused"]).contains(&"fork"));
    let image = facts::value(&load("image"));
    assert!(names(&image["syscalls"]["refused"]).contains(&"vfork"));
    assert!(names(&image["syscalls"]["served"]).contains(&"socket"));
}

#[test]
fn json_has_every_axis() {
    let value = facts::value(&load("filter"));
    assert_eq!(value["name"], "filter");
    assert_eq!(value["network"]["reach"], "none");
    assert_eq!(value["processes"]["fork"], false);
    assert_eq!(value["processes"]["exec"], Value::Array(Vec::new()));
    assert_eq!(value["memory"]["jit"], false);
    assert_eq!(value["clock"]["precise"], false);
    assert_eq!(value["devices"][0], "null");
    assert_eq!(value["limits"]["memory_bytes"], 256 << 20);
    assert_eq!(value["limits"]["cpu_milliseconds"], 600_000);
    assert_eq!(value["limits"]["time_milliseconds"], Value::Null);
    let files = value["files"].as_array().unwrap();
    let library = files
        .iter()
        .find(|file| file["path"] == "/usr/lib")
        .unwrap();
    assert_eq!(
        (&library["access"], &library["execute"]),
        (&"host".into(), &true.into())
    );
    assert!(library["origin"]
        .as_str()
        .unwrap()
        .starts_with("filter.toml:"));
}

#[test]
fn text_has_every_axis_and_its_lines() {
    let text = text(&load("default"), false);
    assert!(text.starts_with("default: Ordinary programs"));
    for axis in facts(&Rules::default()).iter().map(|(axis, _)| axis.name()) {
        assert!(text.contains(&format!("\n\n{axis}\n")), "{axis}");
    }
    for line in ["/usr/lib ", "/tmp ", "reach ", "fork ", "clocks ", "pids "] {
        assert!(text.contains(&format!("\n  {line}")), "{line}\n{text}");
    }
    assert!(text.contains("  default.toml:"));
    assert!(text
        .lines()
        .all(|line| line == line.trim_end() && line.chars().count() <= 120));
    let words: Vec<&str> = text.split_whitespace().collect();
    for call in TABLE {
        assert!(words.contains(&call.name), "{}", call.name);
    }
}

#[test]
fn an_overlay_is_no_change_of_the_hosts() {
    let mut rules = Rules::default();
    let access = FileAccess::Host {
        execute: true,
        write: Write::Overlay,
    };
    let path = std::path::Path::new("/src");
    let origin = Origin::Option("--overlay");
    rules.allow_path(path, access, origin).unwrap();
    let all = facts(&rules);
    let (_, files) = all.iter().find(|(axis, _)| *axis == Axis::Files).unwrap();
    assert_eq!(files[0].says, "read, change in an overlay");
    let value = facts::value(&Profile {
        description: None,
        rules,
    });
    let file = &value["files"][0];
    assert_eq!(file["access"], "overlay");
    assert_eq!(
        (&file["read"], &file["change"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let mut rules = Rules::default();
    let path = std::path::Path::new("/a\x1b[2Jb");
    rules
        .allow_path(path, FileAccess::Tmpfs, Origin::Option("--tmpfs"))
        .unwrap();
    let variable = OsString::from("A=\x1b[2J");
    rules.allow_variable(&variable).unwrap();
    let profile = Profile {
        description: Some("\x1b[2J".into()),
        rules,
    };
    assert!(!text(&profile, false).contains('\x1b'));
}

#[test]
fn differences_are_in_both_directions() {
    let (a, b) = (load("default").rules, load("filter").rules);
    let (a, b) = (facts(&a), facts(&b));
    assert_eq!(changes(&a, &a), []);
    let changes = changes(&a, &b);
    let lines: String = changes.iter().map(|change| change.text(false)).collect();
    for line in [
        "- files: /etc/passwd read\n",
        "- files: /tmp empty, in memory\n",
        "- processes: fork allowed\n+ processes: fork refused; threads are allowed\n",
        "- devices: tty allowed\n",
        "- limits: pids 512\n+ limits: pids 16\n",
        "- syscalls: socket served\n+ syscalls: socket refused: EPERM\n",
    ] {
        assert!(lines.contains(line), "{line}\n{lines}");
    }
    assert!(!lines.contains("/usr/lib "), "both have it");
    assert!(!lines.contains(" read served"));
    let back = super::changes(&b, &a);
    assert_eq!(back.len(), changes.len());
    for (change, back) in changes.iter().zip(&back) {
        assert_eq!(change.before, back.after);
        assert_eq!(change.after, back.before);
    }
    let value = changes[0].value();
    assert_eq!(value["axis"], "files");
    assert!(changes[0].text(true).starts_with("\x1b["));
}

#[test]
fn networks_are_told_by_rule() {
    let mut rules = Rules::default();
    for text in ["tcp:192.0.2.1:443", "listen:tcp:8080"] {
        rules.allow_network(
            text.parse::<NetworkRules>()
                .unwrap_or_else(|error| panic!("{error}")),
        );
    }
    let all = facts(&rules);
    let (_, network) = all.iter().find(|(axis, _)| *axis == Axis::Network).unwrap();
    let subjects: Vec<&str> = network.iter().map(|fact| &*fact.subject).collect();
    assert_eq!(subjects, ["reach tcp:192.0.2.1:443", "listen tcp:*:8080"]);
    assert!(network.iter().all(|fact| fact.why == "--net"));
    let value = facts::value(&Profile {
        description: None,
        rules,
    });
    assert_eq!(value["network"]["listen"][0]["rule"], "tcp:*:8080");
    assert_eq!(value["network"]["reach"].as_array().unwrap().len(), 1);
}

#[test]
fn one_profile_or_two_are_named() {
    use clap::Parser;
    let right = |line: &[&str]| {
        let line = ["uvctl", "explain"].iter().chain(line);
        super::super::Cli::try_parse_from(line).is_ok()
    };
    assert!(right(&["default"]) && right(&["--json", "./x.toml"]));
    assert!(right(&["--diff", "a", "b"]) && right(&["--json", "--diff", "a", "b"]));
    assert!(!right(&[]) && !right(&["a", "b"]));
    assert!(!right(&["--diff", "a"]) && !right(&["--diff", "a", "b", "c"]));
}
