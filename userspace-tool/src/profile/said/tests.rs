// SPDX-License-Identifier: GPL-2.0

//! Tests of what documents say, and of what is said about their mistakes.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::super::{schema, Host, Protocol};
use super::*;

/// Reads a profile `web.toml`.
fn read(text: &str) -> Result<Said, ProfileError> {
    let surroundings = Surroundings {
        home: Some("/home/u".into()),
        directory: "/work".into(),
        ..Surroundings::default()
    };
    let name = "web.toml";
    Said::read(Source { name, text }, &surroundings)
}

/// Its error.
fn error(text: &str) -> String {
    match read(text) {
        Err(error) => error.to_string(),
        Ok(said) => panic!("{text} is right: {said:?}"),
    }
}

fn line(line: usize) -> Origin {
    Origin::Profile {
        name: "web.toml".into(),
        line,
    }
}

const ALL: &str = r#"description = "all of it"
include = ["default", "./more.toml"]
[files]
read = ["/etc/ld.so.cache"]
execute = ["/usr/lib",
           "/lib/"]
change = ["~/out", "./here"]
overlay = ["~/src"]
hide = ["/usr/lib/private"]
tmpfs = ["/tmp"]
[network]
reach = ["tcp:192.0.2.1:443", "tcp:example.org:443"]
listen = ["udp:127.0.0.1:5353"]
[processes]
fork = true
exec = ["/usr/bin", "~/run"]
[memory]
jit = true
execute_only = true
[clock]
precise = true
[syscalls]
base = "minimal"
allow = ["socket"]
refuse = ["read", "reboot"]
[devices]
allow = ["tty", "null", "tty"]
[environment]
keep = ["PATH", "LC_*"]
set = { LANG = "C.UTF-8" }
[limits]
memory = "64M"
cpu = "10s"
time = "1m"
pids = 8
fds = 64
exits = 1000
"#;

#[test]
fn every_key_has_its_rule() {
    let said = read(ALL).unwrap();
    assert_eq!(said.description.as_deref(), Some("all of it"));
    assert_eq!(said.include.len(), 2);
    let files = said.files.unwrap();
    let host = |execute, write| FileAccess::Host { execute, write };
    for (path, access, at) in [
        ("/etc/ld.so.cache", host(false, Write::No), 4),
        ("/usr/lib", host(true, Write::No), 5),
        ("/lib", host(true, Write::No), 6),
        ("/home/u/out", host(false, Write::Through), 7),
        ("/work/here", host(false, Write::Through), 7),
        ("/home/u/src", host(false, Write::Overlay), 8),
        ("/usr/lib/private", FileAccess::Hidden, 9),
        ("/tmp", FileAccess::Tmpfs, 10),
    ] {
        let rule = &files.0[Path::new(path)];
        assert_eq!((rule.access, &rule.origin), (access, &line(at)), "{path}");
    }
    assert_eq!(files.0.len(), 8);
    let below = |path: &str| {
        files
            .decide(Path::new(path))
            .map(|(path, _)| path.to_owned())
    };
    assert_eq!(below("/usr/lib/private/x"), Some("/usr/lib/private".into()));
    assert_eq!(below("/usr/lib/x"), Some("/usr/lib".into()));
    assert_eq!(below("/usr/libx"), None);

    let Some(NetworkRules::Only(network)) = said.network else {
        panic!("{:?}", said.network)
    };
    let name = network
        .iter()
        .find(|rule| rule.host == Host::Name("example.org".into()))
        .unwrap();
    assert_eq!(name.ports, (443, 443));
    let listen: Vec<_> = network.iter().filter(|rule| rule.listen).collect();
    assert_eq!(listen.len(), 1);
    assert_eq!(listen[0].protocol, Protocol::Udp);
    assert_eq!(listen[0].origin, line(13));

    assert_eq!((said.fork, said.jit), (Some(true), Some(true)));
    assert_eq!(said.precise_clock, Some(true));
    assert_eq!(said.execute_only, Some(true));
    let programs = said.programs.unwrap();
    assert_eq!(programs.0[Path::new("/home/u/run")], line(16));
    assert!(programs.has(Path::new("/usr/bin/x")) && !programs.has(Path::new("/usr/binx")));
    let refused = said.syscalls.unwrap().refused;
    assert_eq!(refused["connect"], line(23));
    assert_eq!(refused["read"], line(25));
    assert!(!refused.contains_key("socket") && !refused.contains_key("write"));
    // It is refused in any case, with an error of its own.
    assert!(!refused.contains_key("reboot"));
    assert_eq!(said.devices, Some(vec![Device::Null, Device::Tty]));
    let environment = said.environment.unwrap();
    assert_eq!(environment.keep, ["LC_*", "PATH"]);
    assert_eq!(environment.set[&OsString::from("LANG")], "C.UTF-8");
    let expected = LimitRules {
        memory: Some(64 << 20),
        cpu: Some(Duration::from_secs(10)),
        time: Some(Duration::from_secs(60)),
        pids: Some(8),
        fds: Some(64),
        exits: Some(1000),
    };
    assert_eq!(said.limits, Some(expected));
}

#[test]
fn silence_is_no_rule() {
    let said = read("").unwrap();
    assert!(said.files.is_none() && said.network.is_none() && said.syscalls.is_none());
    assert!(said.fork.is_none() && said.jit.is_none() && said.devices.is_none());
    assert!(said.environment.is_none() && said.limits.is_none());
    assert!(said.precise_clock.is_none() && said.programs.is_none());
    let said = read("[files]\n[network]\n[processes]\n[memory]\n[syscalls]\n").unwrap();
    assert_eq!(said.files, Some(FileRules::default()));
    assert_eq!(said.network, Some(NetworkRules::None));
    assert_eq!((said.fork, said.jit), (Some(false), Some(false)));
    assert_eq!(said.syscalls.unwrap().refused["socket"], line(0));
    let including = read("include = [\"x\"]\n[syscalls]\nrefuse = [\"bind\"]\n").unwrap();
    let refused = including.syscalls.unwrap().refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused["bind"], line(3));
}

#[test]
fn networks_have_three_forms() {
    let network = |text: &str| read(&format!("[network]\n{text}\n")).unwrap().network;
    assert_eq!(network("reach = \"none\""), Some(NetworkRules::None));
    assert_eq!(network("reach = \"host\""), Some(NetworkRules::Host));
    assert_eq!(network("reach = []"), Some(NetworkRules::None));
    let listens = network("reach = \"none\"\nlisten = [\"tcp:80\"]");
    assert!(matches!(listens, Some(NetworkRules::Only(rules)) if rules[0].listen));
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, expected) in [
        // Of the text.
        ("a = [", "web.toml:1:6: unclosed array, expected `]`"),
        (
            "\n\nx = 1\n",
            "web.toml:3:1: unknown key `x`, expected one of `description`, ",
        ),
        (
            "[files]\nraed = []\n",
            "web.toml:2:1: unknown key `raed`, expected one of `read`, ",
        ),
        ("files.raed = []\n", "web.toml:1:7: unknown key `raed`"),
        ("[files]\n[files]\n", "web.toml:2:2: duplicate key"),
        (
            "[memory]\njit = 1\n",
            "web.toml:2:7: invalid type: integer `1`, expected a boolean",
        ),
        (
            "files = 3\n",
            "web.toml:1:9: invalid type: integer `3`, expected a table",
        ),
        (
            "[files]\nread = \"/x\"\n",
            "web.toml:2:8: invalid type: string \"/x\", expected a list",
        ),
        (
            "[files]\nread = [\"/x\", 7]\n",
            "web.toml:2:15: invalid type: integer `7`, expected a string",
        ),
        // Of paths.
        (
            "[files]\nread = [\n  \"/x\",\n  \"lib\",\n]\n",
            "web.toml:4:3: a path starts with `/`",
        ),
        (
            "[files]\n\u{72}ead = [\"/\u{e4}\", \"/..\"]\n",
            "web.toml:2:15: `..` may lead elsewhere",
        ),
        (
            "[files]\nhide = [\"/home/*/x\"]\n",
            "web.toml:2:9: `*`, `?` and `[` are no patterns",
        ),
        (
            "[files]\ntmpfs = [\"/x\"]\nread = [\"/y\", \"//x/\"]\n",
            "web.toml:3:15: /x is listed in line 2 already",
        ),
        (
            "[files]\nread = [\"/home/u/a\", \"~/a\"]\n",
            "web.toml:2:22: /home/u/a is listed in line 2 already",
        ),
        (
            "[processes]\nexec = [\"bin\"]\n",
            "web.toml:2:9: a path starts with `/`",
        ),
        // Of networks.
        (
            "[network]\nreach = \"all\"\n",
            "web.toml:2:9: invalid value: string \"all\", expected \"none\", \"host\"",
        ),
        (
            "[network]\nreach = [\"tcp:*:1\", 1]\n",
            "web.toml:2:21: invalid type: integer `1`",
        ),
        (
            "[network]\nreach = [\"tcp:*:1\", \"tcp:x\"]\n",
            "web.toml:2:21: what is reached has a port",
        ),
        (
            "[network]\nlisten = [\"tcp:x:1\"]\n",
            "web.toml:2:11: one listens on an address",
        ),
        (
            "[network]\nreach = \"host\"\nlisten = []\n",
            "web.toml:3:10: with reach = \"host\"",
        ),
        // Of system calls.
        (
            "[syscalls]\nbase = \"all\"\n",
            "web.toml:2:8: unknown value `all`, expected `standard` or `minimal`",
        ),
        (
            "[syscalls]\nallow = [\"raed\"]\n",
            "web.toml:2:10: there is no system call `raed`",
        ),
        (
            "[syscalls]\nrefuse = [\"raed\"]\n",
            "web.toml:2:11: there is no system call `raed`",
        ),
        (
            "[syscalls]\nallow = [\"reboot\"]\n",
            "web.toml:2:10: no task has `reboot`: a task has no power",
        ),
        (
            "[syscalls]\nallow = [\"bind\"]\nrefuse = [\"bind\"]\n",
            "web.toml:3:11: `bind` is in `allow` as well",
        ),
        // Of the rest.
        (
            "[devices]\nallow = [\"null\", \"kvm\"]\n",
            "web.toml:2:18: unknown value `kvm`, expected one of `null`, ",
        ),
        (
            "[environment]\nkeep = [\"A*B\"]\n",
            "web.toml:2:9: `A*B` has a `*`",
        ),
        (
            "[environment]\nkeep = [\"A=B\"]\n",
            "web.toml:2:9: no variable is called `A=B`",
        ),
        (
            "[environment]\nset = { A = \"\", \"B=\" = \"\" }\n",
            "web.toml:2:17: no variable is called \"B=\"",
        ),
        (
            "[environment]\nset = { A = 1 }\n",
            "web.toml:2:13: invalid type: integer `1`",
        ),
        (
            "[limits]\nmemory = 64\n",
            "web.toml:2:10: invalid type: integer `64`, expected a string",
        ),
        (
            "[limits]\nmemory = \"64T\"\n",
            "web.toml:2:10: T is no unit of a size",
        ),
        (
            "[limits]\ntime = \"10\"\n",
            "web.toml:2:8: a time has a unit",
        ),
        ("[limits]\npids = 0\n", "web.toml:2:8: it is 1 to 4194304"),
        ("[limits]\nfds = -1\n", "web.toml:2:7: it is 1 to 1048576"),
        ("[limits]\nexits = 0\n", "web.toml:2:9: it is 1 to"),
    ] {
        let error = error(text);
        assert!(error.starts_with(expected), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    let described = |value: &serde_json::Value, what: &str| {
        assert!(value["description"].is_string(), "{what}: {value}");
    };
    described(&schema, "the profile");
    assert_eq!(schema["additionalProperties"], false);
    let document: toml::Table = ALL.parse().unwrap();
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(properties.len(), document.len());
    for (name, value) in &document {
        described(&properties[name], name);
        let Some(table) = value.as_table() else {
            continue;
        };
        let axis = schema["$defs"]
            .as_object()
            .unwrap()
            .iter()
            .find(|(axis, _)| axis.to_lowercase() == *name)
            .unwrap_or_else(|| panic!("{name} has no schema"))
            .1;
        let keys = axis["properties"].as_object().unwrap();
        assert_eq!(keys.len(), table.len(), "{name}");
        for key in table.keys() {
            described(&keys[key], key);
        }
    }
}
