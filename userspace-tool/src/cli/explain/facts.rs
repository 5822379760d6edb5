// SPDX-License-Identifier: GPL-2.0

//! Rules as facts: what each thing is, what is said about it, and where.

use std::time::Duration;

use serde_json::{json, Value};
use uvisor::personality::table::TABLE;
use uvisor::personality::{Fate, Syscall};
use uvisor::profile::{
    Device, EnvironmentRules, FileAccess, FileRules, LimitRules, NetworkRule, NetworkRules,
    Profile, Rules, Write,
};

use super::style::{printable, size};

/// What is said about a system call that is served.
pub(super) const SERVED: &str = "served";

/// Why what makes processes is refused by a profile that allows none.
const NO_PROCESSES: &str = "it may not make processes";

/// What facts are about, in the order of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Axis {
    Files,
    Network,
    Processes,
    Memory,
    Clock,
    Devices,
    Environment,
    Limits,
    Syscalls,
}

impl Axis {
    /// What it is called, as in a profile.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Memory => "memory",
            Self::Clock => "clock",
            Self::Devices => "devices",
            Self::Environment => "environment",
            Self::Limits => "limits",
            Self::Syscalls => "syscalls",
        }
    }
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    /// What it is about.
    pub(super) subject: String,
    /// What is said about that.
    pub(super) says: String,
    /// Where, or why; nothing where a profile has only one place for it.
    pub(super) why: String,
}

/// A fact, of texts that can come from anybody.
fn fact(subject: impl AsRef<str>, says: impl Into<String>, why: impl ToString) -> Fact {
    Fact {
        subject: printable(subject.as_ref()),
        says: says.into(),
        why: printable(&why.to_string()),
    }
}

/// All about rules.
pub(super) fn facts(rules: &Rules) -> Vec<(Axis, Vec<Fact>)> {
    let fork = match rules.fork {
        true => "allowed",
        false => "refused; threads are allowed",
    };
    let clock = match rules.precise_clock {
        true => "read as they are",
        false => "read in whole milliseconds; what threads and timers measure is not coarser",
    };
    let code = match rules.execute_only {
        true => "cannot be read, where the CPU has that",
        false => "can be read",
    };
    let jit = match rules.jit {
        true => "may become executable",
        false => "never becomes executable",
    };
    vec![
        (Axis::Files, files(&rules.files, rules.jit)),
        (Axis::Network, network(&rules.network)),
        (Axis::Processes, processes(fork, rules)),
        (
            Axis::Memory,
            vec![
                fact("what could be written", jit, ""),
                fact("code", code, ""),
            ],
        ),
        (Axis::Clock, vec![fact("clocks", clock, "")]),
        (Axis::Devices, devices(&rules.devices)),
        (Axis::Environment, environment(&rules.environment)),
        (Axis::Limits, limits(&rules.limits)),
        (
            Axis::Syscalls,
            TABLE
                .iter()
                .map(|call| syscall(rules, call).fact(call))
                .collect(),
        ),
    ]
}

/// Paths.
fn files(rules: &FileRules, jit: bool) -> Vec<Fact> {
    let of_path = rules.0.iter().map(|(path, rule)| {
        let says = match rule.access {
            FileAccess::Hidden => "not there",
            FileAccess::Tmpfs if rule.access.executes(jit) => "empty, in memory, execute",
            FileAccess::Tmpfs => "empty, in memory",
            FileAccess::Host { write, .. } => match (rule.access.executes(jit), write) {
                (false, Write::No) => "read",
                (true, Write::No) => "read, execute",
                (false, Write::Overlay) => "read, change in an overlay",
                (true, Write::Overlay) => "read, execute, change in an overlay",
                (false, Write::Through) => "read, change",
                (true, Write::Through) => "read, execute, change",
            },
        };
        fact(path.to_string_lossy(), says, &rule.origin)
    });
    of_path.collect()
}

/// Processes, and programs.
fn processes(fork: &str, rules: &Rules) -> Vec<Fact> {
    let fork = fact("fork", fork, "");
    let start = match &rules.programs {
        None => vec![fact("start", "all that may be executed", "")],
        Some(programs) if programs.0.is_empty() => vec![fact("start", "no other program", "")],
        Some(programs) => {
            let all = programs.0.iter();
            all.map(|(path, origin)| fact(format!("start {}", path.display()), "allowed", origin))
                .collect()
        }
    };
    std::iter::once(fork).chain(start).collect()
}

/// Networks.
fn network(rules: &NetworkRules) -> Vec<Fact> {
    match rules {
        NetworkRules::None => vec![fact("reach", "a loopback of its own", "")],
        NetworkRules::Host => vec![
            fact("reach", "what the host reaches", ""),
            fact("listen", "at every address and port", ""),
        ],
        NetworkRules::Only(rules) => {
            let of_rule = rules.iter().map(|rule| {
                let verb = if rule.listen { "listen" } else { "reach" };
                fact(format!("{verb} {rule}"), "allowed", &rule.origin)
            });
            of_rule.collect()
        }
    }
}

/// Device files.
fn devices(devices: &[Device]) -> Vec<Fact> {
    let all = devices.iter();
    all.map(|device| fact(device.name(), "allowed", ""))
        .collect()
}

/// Variables.
fn environment(rules: &EnvironmentRules) -> Vec<Fact> {
    let kept = rules.keep.iter().map(|name| fact(name, "kept", ""));
    let set = rules.set.iter().map(|(name, value)| {
        let value = printable(&value.to_string_lossy());
        fact(name.to_string_lossy(), format!("set to {value}"), "")
    });
    kept.chain(set).collect()
}

/// How much it may have.
fn limits(rules: &LimitRules) -> Vec<Fact> {
    let time = |time: Duration| format!("{time:?}");
    let all = [
        ("memory", rules.memory.map(size)),
        ("cpu", rules.cpu.map(time)),
        ("time", rules.time.map(time)),
        ("pids", rules.pids.map(|number| number.to_string())),
        ("fds", rules.fds.map(|number| number.to_string())),
        ("exits", rules.exits.map(|number| number.to_string())),
    ];
    let all = all.into_iter().map(|(name, limit)| {
        let limit = limit.unwrap_or_else(|| "no limit of its own".into());
        fact(name, limit, "")
    });
    all.collect()
}

/// What becomes of a system call.
pub(super) enum Decision {
    /// It is served.
    Served,
    /// It is refused with this error, for all tasks or by the profile.
    Refused(Option<&'static str>, String),
}

/// What becomes of a system call under rules.
pub(super) fn syscall(rules: &Rules, call: &Syscall) -> Decision {
    if let Fate::Refused(errno, why) = call.fate {
        return Decision::Refused(errno.name(), why.into());
    }
    if let Some(origin) = rules.syscalls.refused.get(call.name) {
        return Decision::Refused(Some("EPERM"), origin.to_string());
    }
    match call.name {
        "fork" | "vfork" if !rules.fork => Decision::Refused(None, NO_PROCESSES.into()),
        _ => Decision::Served,
    }
}

impl Decision {
    /// As a fact about the call.
    fn fact(&self, call: &Syscall) -> Fact {
        match self {
            Self::Served => fact(call.name, SERVED, ""),
            Self::Refused(Some(errno), why) => fact(call.name, format!("refused: {errno}"), why),
            Self::Refused(None, why) => fact(call.name, "refused", why),
        }
    }
}

/// All about a profile, for a program.
pub(super) fn value(profile: &Profile) -> Value {
    let rules = &profile.rules;
    let mut served = Vec::new();
    let mut refused = Vec::new();
    for call in TABLE {
        match syscall(rules, call) {
            Decision::Served => served.push(call.name),
            Decision::Refused(errno, reason) => {
                refused.push(json!({ "name": call.name, "errno": errno, "reason": reason }));
            }
        }
    }
    let limits = &rules.limits;
    let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
    let set = rules.environment.set.iter();
    let set: serde_json::Map<_, _> = set
        .map(|(name, value)| (lossy(name), lossy(value).into()))
        .collect();
    json!({
        "name": rules.name,
        "description": profile.description,
        "files": rules.files.0.iter().map(|(path, rule)| {
            let execute = rule.access.executes(rules.jit);
            let (access, read, execute, change) = match rule.access {
                FileAccess::Hidden => ("hidden", false, false, false),
                FileAccess::Tmpfs => ("tmpfs", true, execute, true),
                FileAccess::Host { write, .. } => match write {
                    Write::Overlay => ("overlay", true, execute, false),
                    write => ("host", true, execute, write == Write::Through),
                },
            };
            json!({
                "path": path.to_string_lossy(),
                "access": access,
                "read": read,
                "execute": execute,
                "change": change,
                "origin": rule.origin.to_string(),
            })
        }).collect::<Value>(),
        "network": match &rules.network {
            NetworkRules::None => json!({ "reach": "none", "listen": "none" }),
            NetworkRules::Host => json!({ "reach": "host", "listen": "host" }),
            NetworkRules::Only(rules) => json!({
                "reach": addresses(rules, false),
                "listen": addresses(rules, true),
            }),
        },
        "processes": {
            "fork": rules.fork,
            // Nothing is all that may be executed.
            "exec": rules.programs.as_ref().map(|programs| programs.0.iter().map(|(path, origin)| {
                json!({ "path": path.to_string_lossy(), "origin": origin.to_string() })
            }).collect::<Value>()),
        },
        "memory": { "jit": rules.jit, "execute_only": rules.execute_only },
        "clock": { "precise": rules.precise_clock },
        "devices": rules.devices.iter().map(|device| device.name()).collect::<Vec<_>>(),
        "environment": { "keep": rules.environment.keep, "set": set },
        "limits": {
            "memory_bytes": limits.memory,
            "cpu_milliseconds": milliseconds(limits.cpu),
            "time_milliseconds": milliseconds(limits.time),
            "pids": limits.pids,
            "fds": limits.fds,
            "exits": limits.exits,
        },
        "syscalls": { "served": served, "refused": refused },
    })
}

/// What may be UTF-8 as such.
fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// The rules that are about being reached, or not.
fn addresses(rules: &[NetworkRule], listen: bool) -> Value {
    let wanted = rules.iter().filter(|rule| rule.listen == listen);
    let values =
        wanted.map(|rule| json!({ "rule": rule.to_string(), "origin": rule.origin.to_string() }));
    values.collect()
}
