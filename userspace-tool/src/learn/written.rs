// SPDX-License-Identifier: GPL-2.0

//! The profile that gives what was used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Facts, Use};
use crate::profile::{is_minimal, Device};

/// A profile as it is written: the part of it that can be learnt.
#[derive(Debug, Serialize)]
pub struct Learned {
    description: String,
    files: Files,
    network: Network,
    processes: Processes,
    memory: Memory,
    syscalls: Syscalls,
    devices: Devices,
    environment: Environment,
    /// Paths that no profile can name, as they are not text.
    #[serde(skip)]
    unnamed: Vec<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Files {
    execute: Vec<String>,
    read: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    overlay: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tmpfs: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Network {
    reach: Reach,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reach {
    Word(&'static str),
    Rules(Vec<String>),
}

#[derive(Debug, Serialize)]
struct Processes {
    fork: bool,
}

#[derive(Debug, Serialize)]
struct Memory {
    jit: bool,
}

#[derive(Debug, Serialize)]
struct Syscalls {
    base: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Devices {
    allow: Vec<Device>,
}

#[derive(Debug, Serialize)]
struct Environment {
    keep: Vec<String>,
}

impl Learned {
    /// The smallest profile that gives what was used, of a program called `name`. `variables` are those that it had.
    pub fn new(name: &str, facts: &Facts, variables: Vec<String>) -> Self {
        let mut unnamed = Vec::new();
        let files = files(facts, &mut unnamed);
        let allow = facts.calls.iter().filter(|name| !is_minimal(name));
        Self {
            description: format!("What {name} used when it was learnt from."),
            files,
            network: network(facts),
            processes: Processes { fork: facts.fork },
            memory: Memory { jit: facts.code },
            syscalls: Syscalls {
                base: "minimal",
                allow: allow.cloned().collect(),
            },
            devices: Devices {
                allow: facts.devices.iter().copied().collect(),
            },
            environment: Environment { keep: variables },
            unnamed,
        }
    }

    /// Paths that were used and are not in the profile, as they are not text.
    pub fn unnamed(&self) -> &[PathBuf] {
        &self.unnamed
    }

    /// Its text.
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        let body = toml::to_string_pretty(self)?;
        Ok(format!(
            "# What a program used in one run. Another input may need more: run it again with that, or add it here.\n\
             # Which variables of the environment it reads cannot be seen: those that it had are all kept.\n\n{body}"
        ))
    }
}

/// Whether a path is below one of others.
fn inside<'a>(path: &Path, mut all: impl Iterator<Item = &'a PathBuf>) -> bool {
    all.any(|above| path != above && path.starts_with(above))
}

fn files(facts: &Facts, unnamed: &mut Vec<PathBuf>) -> Files {
    let mut files = Files::default();
    let mut text = |path: &Path| match path.to_str() {
        Some(text) => Some(text.to_owned()),
        None => {
            unnamed.push(path.to_owned());
            None
        }
    };
    let changed = &facts.changed;
    for path in changed {
        if !inside(path, changed.iter()) {
            files.overlay.extend(text(path));
        }
    }
    files
        .tmpfs
        .extend(facts.temporary.iter().filter_map(|path| text(path)));
    // A directory that was listed is read with all that is in it, and what is looked at on the way to something needs
    // no rule.
    let listed = facts.files.iter().filter(|(_, usage)| **usage == Use::List);
    let listed: Vec<&PathBuf> = listed.map(|(path, _)| path).collect();
    // One file may have been used by two names, such as over /lib and /usr/lib: its rules say the same.
    let real = |path: &Path| path.canonicalize().ok();
    let executed = facts
        .files
        .iter()
        .filter(|(_, usage)| **usage == Use::Execute);
    let executed: BTreeSet<PathBuf> = executed.filter_map(|(path, _)| real(path)).collect();
    for (path, usage) in &facts.files {
        let is_executed = real(path).is_some_and(|path| executed.contains(&path));
        let usage = if is_executed { &Use::Execute } else { usage };
        let in_overlay = changed.contains(path) || inside(path, changed.iter());
        let in_listed = inside(path, listed.iter().copied());
        let is_directory = path.is_dir();
        match usage {
            Use::Execute => files.execute.extend(text(path)),
            _ if in_overlay || in_listed => {}
            Use::Look | Use::Read if is_directory => {}
            Use::Look | Use::Read | Use::List | Use::Change => files.read.extend(text(path)),
        }
    }
    files
}

fn network(facts: &Facts) -> Network {
    let mut reach = Vec::new();
    let mut listen = Vec::new();
    for (tcp, ip, port, own) in &facts.addresses {
        // A loopback of its own it has in any case; what has no port was not sent anywhere.
        if !own && (ip.is_loopback() || *port == 0) {
            continue;
        }
        let protocol = if *tcp { "tcp" } else { "udp" };
        match own {
            true if *port == 0 => {}
            true => listen.push(format!("{protocol}:{port}")),
            false if ip.is_ipv6() => reach.push(format!("{protocol}:[{ip}]:{port}")),
            false => reach.push(format!("{protocol}:{ip}:{port}")),
        }
    }
    listen.dedup();
    let only_own = reach.is_empty();
    Network {
        reach: match only_own {
            true => Reach::Word("none"),
            false => Reach::Rules(reach),
        },
        // In a network of its own, anything may be listened at.
        listen: if only_own { Vec::new() } else { listen },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::Seen;
    use crate::profile::{Profile, Surroundings};

    fn line(seen: &Seen) -> Vec<u8> {
        serde_json::to_vec(seen).unwrap()
    }

    fn path(path: &str, usage: Use) -> Seen {
        let path = path.as_bytes().to_vec();
        Seen::Path { path, usage }
    }

    /// What is written is a profile, and says what was used.
    #[test]
    fn what_is_learnt_is_a_profile() {
        let directory = std::env::temp_dir().join(format!("uvisor-learn-{}", std::process::id()));
        let data = directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("in"), "x").unwrap();
        let mut facts = Facts::default();
        let name = |name: &str| Seen::Call { name: name.into() };
        for seen in [
            name("openat"),
            name("unlink"),
            path(data.join("in").to_str().unwrap(), Use::Read),
            path("/bin/sh", Use::Execute),
            path("/etc/nothing-there", Use::Read),
            path("/dev/null", Use::Change),
            path("/proc/self/maps", Use::Read),
            path("/tmp/surely-nobody-has-this", Use::Change),
            Seen::Fork,
            Seen::Address {
                tcp: true,
                ip: "192.0.2.1".parse().unwrap(),
                port: 443,
                listen: false,
            },
        ] {
            facts.add(&line(&seen));
        }
        facts.add(b"no json");
        let learned = Learned::new("sh", &facts, vec!["PATH".into()]);
        let text = learned.text().unwrap();
        let file = directory.join("learnt.toml");
        std::fs::write(&file, &text).unwrap();
        let profile =
            Profile::load(file.to_str().unwrap(), &Surroundings::of_this_process()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let rules = profile.rules;
        assert!(rules.fork && !rules.jit, "{text}");
        let known = |path: &Path| {
            learned
                .files
                .read
                .iter()
                .any(|text| Path::new(text) == path)
        };
        assert!(known(&data.join("in")) && !known(&data), "{text}");
        assert!(rules
            .files
            .decide(Path::new("/etc/nothing-there"))
            .is_none());
        assert!(rules.files.decide(Path::new("/tmp/x")).is_some());
        assert!(!rules.syscalls.refused.contains_key("unlink"));
        assert!(rules.syscalls.refused.contains_key("rename"));
        assert_eq!(rules.devices, [Device::Null]);
        assert!(text.contains("\"/bin/sh\""), "{text}");
        assert!(text.contains("tcp:192.0.2.1:443"), "{text}");
    }

    /// A directory that was listed stands for what is in it.
    #[test]
    fn what_is_listed_is_read_as_a_whole() {
        let mut facts = Facts::default();
        facts.add(&line(&path("/usr/lib", Use::List)));
        facts.add(&line(&path("/usr/lib/os-release", Use::Read)));
        let learned = Learned::new("ls", &facts, Vec::new());
        assert!(learned.files.read.iter().any(|path| path == "/usr/lib"));
        assert!(!learned
            .files
            .read
            .iter()
            .any(|path| path == "/usr/lib/os-release"));
    }
}
