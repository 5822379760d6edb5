// SPDX-License-Identifier: GPL-2.0

//! An event of the audit: a line of JSON. The comments here are the descriptions of its JSON schema.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that a task did, or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number in the stream, from 0. One that is missing was lost; a `lost` event says how many.
    pub seq: u64,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The process, as the task and the host know it.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
    /// What became of it.
    pub verdict: Verdict,
    /// The error that the task got, such as `EACCES`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What decided: a rule by where it is said, such as `compiler.toml:12` or `--ro`, or `no rule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<Wall>,
    /// How often it happened in a row, if not once.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

fn is_once(times: &u64) -> bool {
    *times == 1
}

/// What becomes of what a task does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was done.
    Allowed,
    /// It was not.
    Refused,
}

/// What stops a task.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Wall {
    /// The personality, which looks at each system call by the rules.
    Personality,
    /// The kernel, by what the sandbox set up, or by the user's own rights.
    Kernel,
    /// Extended page tables.
    Ept,
    /// The processor, as the task has the least of its rings.
    Processor,
    /// A limit.
    Limit,
}

/// What a task does. Texts that were too long end with `…`; bytes that are no UTF-8 are there as `\xNN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The task begins.
    Start {
        /// What it is called.
        program: String,
        /// The program's arguments.
        arguments: Vec<String>,
        /// The profile.
        profile: String,
    },
    /// A process becomes a program.
    Exec {
        /// The program.
        path: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// A file is opened.
    Open {
        /// The file.
        path: String,
        /// For what.
        access: FileUse,
    },
    /// Names or attributes of files are changed.
    Change {
        /// The file, or the name.
        path: String,
        /// The system call.
        call: String,
    },
    /// Somebody else is reached.
    Connect {
        /// Who: an address with its port, or a socket's path or name.
        address: String,
        /// `tcp`, `udp` or `unix`.
        protocol: String,
    },
    /// The task can be reached.
    Listen {
        /// Where.
        address: String,
        /// `tcp`, `udp` or `unix`.
        protocol: String,
    },
    /// A process is made.
    Fork {
        /// The new one, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<i32>,
    },
    /// A process ends.
    Exit {
        /// Its status, if it ended by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<i32>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// Memory becomes executable.
    Memory {
        /// What is executed there.
        kind: MemoryUse,
        /// Where it begins.
        address: u64,
        /// How much, in bytes.
        size: u64,
        /// The file that is mapped there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// An access that extended page tables, or a view, do not let through, or for which there is nothing.
    Violation {
        /// `read`, `write` or `execute`.
        access: String,
        /// Where.
        address: u64,
        /// The instruction.
        rip: u64,
    },
    /// An instruction that only an operating system may execute.
    Privileged {
        /// The exception, such as `#GP`.
        exception: String,
        /// Where it is.
        rip: u64,
    },
    /// A system call that the task does not have.
    Syscall {
        /// Its name.
        name: String,
    },
    /// A limit is met.
    Limit {
        /// Which.
        limit: Limit,
    },
    /// Events that were lost, as the task made them faster than they were written down.
    Lost {
        /// How many.
        count: u64,
    },
}

/// What a file is opened for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FileUse {
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// To be read and written.
    ReadWrite,
    /// To be executed.
    Execute,
    /// To be listed: it is a directory.
    List,
    /// To be looked at: its attributes, or where a link leads.
    Look,
}

/// What memory becomes executable.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryUse {
    /// A file's.
    File,
    /// What the task itself wrote, or may write.
    Written,
}

/// A limit of a task's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Limit {
    Memory,
    Cpu,
    Time,
    Pids,
    Fds,
    Exits,
    Filesize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let event = Event {
            seq: 7,
            time: 1_800_000_000_000_000_000,
            pid: 10,
            tid: 11,
            what: What::Open {
                path: "/etc/shadow".into(),
                access: FileUse::Read,
            },
            verdict: Verdict::Refused,
            errno: Some("ENOENT".into()),
            rule: Some("no rule".into()),
            wall: Some(Wall::Personality),
            times: 1,
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(
            line,
            r#"{"seq":7,"time":1800000000000000000,"pid":10,"tid":11,"event":"open","path":"/etc/shadow","access":"read","verdict":"refused","errno":"ENOENT","rule":"no rule","wall":"personality"}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
