// SPDX-License-Identifier: GPL-2.0

//! What an event is in an attack.

use serde::Serialize;

use super::places;
use crate::audit::{Event, FileUse, Limit, MemoryUse, Verdict, What};

/// The stages of an attack, in the order in which one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Programs are run.
    Execution,
    /// Files are looked at, secrets among them.
    Discovery,
    /// Code is executed that was none.
    Injection,
    /// Files are changed.
    Persistence,
    /// Others are reached, or reach the task.
    Network,
    /// More is used than there is.
    Exhaustion,
    /// What confines the task is tried.
    Escape,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Execution,
        Self::Discovery,
        Self::Injection,
        Self::Persistence,
        Self::Network,
        Self::Exhaustion,
        Self::Escape,
    ];

    /// What it is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Execution => "Running programs",
            Self::Discovery => "Looking around, and for secrets",
            Self::Injection => "Executing injected code",
            Self::Persistence => "Changing files, to spread or to stay",
            Self::Network => "Reaching out",
            Self::Exhaustion => "Forking, and using things up",
            Self::Escape => "Breaking out",
        }
    }
}

/// What an event tells of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nothing: programs do so.
    Ordinary,
    /// It was tried, and refused.
    Attempt,
    /// It was done, and somebody should look at it.
    Through,
}

/// What an event is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) phase: Phase,
    pub(super) weight: Weight,
    /// What was done, in words.
    pub(super) what: String,
}

/// An event's meaning; `written` says of a path whether the task has written there. `None` for what is about the
/// record, rather than the task.
pub(super) fn meaning(event: &Event, written: impl Fn(&str) -> bool) -> Option<Meaning> {
    let refused = event.verdict == Verdict::Refused;
    let errno = event.errno.as_deref().unwrap_or_default();
    // What somebody should look at if it was done, and tells something if it was refused.
    let telling = match refused {
        true => Weight::Attempt,
        false => Weight::Through,
    };
    // What nothing stopped failed by itself, as for a file that is not there.
    let stopped = refused && event.wall.is_some();
    let if_refused = match refused {
        true => Weight::Attempt,
        false => Weight::Ordinary,
    };
    let when = |telling_at_all: bool, weight: Weight| match telling_at_all {
        true => weight,
        false => Weight::Ordinary,
    };
    let (phase, weight, what) = match &event.what {
        What::Lost { .. } => return None,
        What::Start {
            program, arguments, ..
        } => {
            let what = format!("run {}", command(program, arguments));
            (Phase::Execution, Weight::Ordinary, what)
        }
        What::Exec { path, arguments } => {
            let weight = match refused {
                // A shell looks for a program in one directory after the other.
                true => when(stopped && errno != "ENOENT", Weight::Attempt),
                false => when(written(path), Weight::Through),
            };
            // Arguments begin with the name by which it is called.
            let arguments = arguments.get(1..).unwrap_or_default();
            let what = format!("run {}", command(path, arguments));
            (Phase::Execution, weight, what)
        }
        What::Open { path, access } => match access {
            FileUse::Execute => {
                let weight = when(stopped && errno != "ENOENT", Weight::Attempt);
                (Phase::Execution, weight, format!("execute {path}"))
            }
            FileUse::Write | FileUse::ReadWrite => {
                let weight = match refused {
                    true => when(stopped || places::is_telling(path), Weight::Attempt),
                    false => when(places::is_lasting(path), Weight::Through),
                };
                (Phase::Persistence, weight, format!("write {path}"))
            }
            FileUse::Read | FileUse::List => {
                let verb = match access {
                    FileUse::List => "list",
                    _ => "read",
                };
                let weight = when(places::is_secret(path), telling);
                (Phase::Discovery, weight, format!("{verb} {path}"))
            }
            FileUse::Look => {
                let weight = when(places::is_secret(path), if_refused);
                (Phase::Discovery, weight, format!("look at {path}"))
            }
        },
        What::Change { path, call } => {
            let weight = match refused {
                // It is there already, as it was to be: nobody refused that.
                true => when(
                    (stopped || places::is_telling(path))
                        && !matches!(errno, "EEXIST" | "ENOTEMPTY"),
                    Weight::Attempt,
                ),
                false => when(places::is_lasting(path), Weight::Through),
            };
            (Phase::Persistence, weight, format!("{call} {path}"))
        }
        What::Connect { address, protocol } => {
            let weight = match refused {
                true => when(!places::is_customary(address), Weight::Attempt),
                false => when(!places::is_own(address, protocol), Weight::Through),
            };
            let what = format!("connect to {address} ({protocol})");
            (Phase::Network, weight, what)
        }
        What::Listen { address, protocol } => {
            let telling_at_all = match refused {
                true => stopped,
                false => !places::is_own(address, protocol),
            };
            let what = format!("listen at {address} ({protocol})");
            (Phase::Network, when(telling_at_all, telling), what)
        }
        // That a limit was met is told besides.
        What::Fork { .. } => {
            let weight = when(stopped, Weight::Attempt);
            (Phase::Exhaustion, weight, "make a process".into())
        }
        What::Exit { signal, .. } => {
            let crash = signal.and_then(crash)?;
            let what = format!("a process crashed ({crash})");
            (Phase::Injection, Weight::Ordinary, what)
        }
        What::Memory { kind, path, .. } => {
            let path = path.as_deref().unwrap_or("memory");
            match kind {
                MemoryUse::File => {
                    let weight = match refused {
                        true => when(stopped, Weight::Attempt),
                        false => when(written(path), Weight::Through),
                    };
                    (Phase::Injection, weight, format!("map code of {path}"))
                }
                MemoryUse::Written => {
                    let what = format!("execute what it wrote to {path}");
                    (Phase::Injection, telling, what)
                }
            }
        }
        What::Violation {
            access,
            address,
            rip,
        } => {
            // An address near 0 is that of nothing: an ordinary error of a program's.
            let weight = when(*address >= NOTHING || !refused, telling);
            match access.as_str() {
                // Addresses are others in each run, and not what makes two of these two.
                "execute" => (Phase::Injection, telling, "execute data".into()),
                _ => {
                    let what = format!("{access} memory at {address:#x}, from {rip:#x}");
                    (Phase::Escape, weight, what)
                }
            }
        }
        What::Privileged { exception, .. } => {
            let what = format!("execute a privileged instruction ({exception})");
            (Phase::Escape, telling, what)
        }
        What::Syscall { name } => {
            let weight = when(places::leads_out(name), telling);
            (Phase::Escape, weight, format!("call {name}"))
        }
        What::Limit { limit } => {
            let what = format!("meet the limit of {}", named(*limit));
            (Phase::Exhaustion, telling, what)
        }
    };
    Some(Meaning {
        phase,
        weight,
        what,
    })
}

/// Below it, nothing is mapped.
const NOTHING: u64 = 0x1_0000;

/// A program with its arguments, as far as they are kept.
pub(super) fn command(program: &str, arguments: &[String]) -> String {
    let mut text = program.to_owned();
    for argument in arguments {
        text.push(' ');
        text += argument;
        if text.len() > 4 * super::summary::LONGEST {
            break;
        }
    }
    text
}

/// A signal that a program gets for an error, or for what an attack on it broke.
fn crash(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// A limit's name.
fn named(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "memory",
        Limit::Cpu => "processor time",
        Limit::Time => "time",
        Limit::Pids => "processes",
        Limit::Fds => "open files",
        Limit::Exits => "exits",
        Limit::Filesize => "a file's size",
    }
}
