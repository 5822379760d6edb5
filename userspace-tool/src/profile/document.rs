// SPDX-License-Identifier: GPL-2.0

//! A profile as it is written. The comments here are the descriptions of its JSON schema.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::{ProfileError, Source};
use super::Device;

/// A value and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub(super) struct Spot<T>(toml::Spanned<T>);

impl<T> Spot<T> {
    /// The value.
    pub(super) fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Its bytes in the text.
    pub(super) fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

/// Where it is written is no part of it.
impl<T: JsonSchema> JsonSchema for Spot<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Texts of a list.
pub(super) type Texts = Vec<Spot<String>>;

/// A profile of uvisor: what a task may touch. What is not mentioned is refused; but where other profiles are
/// included, it is what those have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "uvisor profile")]
pub(super) struct Document {
    /// What it is for, in a sentence.
    pub(super) description: Option<String>,
    /// Profiles by name, or by path with a `/` in it (`./` is the directory of this profile). What this profile
    /// allows is narrowed by what each of these allows: nothing is allowed that one of them refuses.
    #[serde(default)]
    pub(super) include: Texts,
    /// Files and directories.
    pub(super) files: Option<Files>,
    /// Networks.
    pub(super) network: Option<Network>,
    /// Processes.
    pub(super) processes: Option<Processes>,
    /// Memory.
    pub(super) memory: Option<Memory>,
    /// Clocks.
    pub(super) clock: Option<Clock>,
    /// System calls.
    pub(super) syscalls: Option<Syscalls>,
    /// Device files.
    pub(super) devices: Option<Devices>,
    /// Environment variables.
    pub(super) environment: Option<Environment>,
    /// How much it may have.
    pub(super) limits: Option<Limits>,
}

/// Files and directories, with all that is below them. The longest path that something is, or is below of, decides;
/// where there is none, there is nothing. A path starts with `/`, with `~/` for the home directory or with `./` for
/// the directory that uvctl is started in. What is not there on the host is not there for the task either; that is no
/// error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Files {
    /// What is seen and read.
    pub(super) read: Texts,
    /// What is read, and executed or mapped as code.
    pub(super) execute: Texts,
    /// What is read and changed: the host's own files.
    pub(super) change: Texts,
    /// Directories that are read and changed, but the host's files stay as they are: the changes go to an overlay,
    /// which is gone at the end unless it is kept (`uvctl run --keep NAME`).
    pub(super) overlay: Texts,
    /// What is not there, even below something that is.
    pub(super) hide: Texts,
    /// What is an empty directory in memory, gone at the end.
    pub(super) tmpfs: Texts,
}

/// Networks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Network {
    /// What it reaches.
    pub(super) reach: Option<Spot<Reach>>,
    /// Where it is reached: `PROTOCOL:PORTS` or `PROTOCOL:ADDRESS:PORTS`, such as `tcp:8080` or `udp:127.0.0.1:5353`.
    pub(super) listen: Option<Spot<Texts>>,
}

/// What it reaches.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A loopback of its own.
    None,
    /// What the host reaches.
    Host,
    /// So much of it.
    Only(Texts),
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Reach;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"host\" or a list of rules such as [\"tcp:192.0.2.1:443\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Reach, E> {
                match text {
                    "none" => Ok(Reach::None),
                    "host" => Ok(Reach::Host),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, rules: A) -> Result<Reach, A::Error> {
                let rules = Texts::deserialize(SeqAccessDeserializer::new(rules))?;
                Ok(Reach::Only(rules))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Reach {
    fn schema_name() -> Cow<'static, str> {
        "Reach".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "const": "none", "description": "A loopback of its own, and nothing else." },
                { "const": "host", "description": "What the host reaches, its loopback included." },
                {
                    "type": "array",
                    "items": { "type": "string", "pattern": "^(tcp|udp):.+:[0-9*-]+$" },
                    "description": "Of what the host reaches, so much: `PROTOCOL:HOST:PORTS`, where PROTOCOL is tcp \
                        or udp; HOST is an address (IPv6 in brackets), a network such as 192.0.2.0/24, a name, or * \
                        for any; and PORTS are one, FROM-TO, or * for any.",
                },
            ],
        })
    }
}

/// Processes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Processes {
    /// Whether it may make processes; threads it may make in any case.
    pub(super) fork: bool,
    /// Which programs it may start (`execve`): files, and all that is below directories, of those that `files` lets it
    /// execute. Without this, all of those; the program itself in any case. Which code may be loaded, such as libraries,
    /// is for `files` alone to say.
    pub(super) exec: Option<Texts>,
}

/// Memory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Memory {
    /// Whether memory that could be written may become executable, as compilers need it that make code while they
    /// run.
    pub(super) jit: bool,
    /// Whether code, of the program and of libraries, can be executed and not read, so that who may read memory finds
    /// no more of it than its addresses. It is the CPU that does so, if it can (`uvctl info`: execute-only pages). Programs
    /// that have data between their code end with SIGSEGV, as those do whose linker made one part of both.
    pub(super) execute_only: bool,
}

/// Clocks. None can be set.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Clock {
    /// Whether it reads clocks as they are. Without this, the CPU's time-stamp counter, all clocks, what is left of timers
    /// and the times of files are in whole milliseconds, and reading them takes longer. That makes it harder to measure
    /// short times, not impossible: a thread can count while another one waits, and timers end when they end.
    pub(super) precise: bool,
}

/// System calls. `uvctl syscalls` lists those that there are; nothing makes one of those available that it has as
/// refused.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Syscalls {
    /// What there is before `allow` and `refuse`. Without it, `minimal`; but where other profiles are included, what
    /// those have.
    pub(super) base: Option<Spot<Base>>,
    /// Names of some that the base refuses, and that it has all the same.
    pub(super) allow: Texts,
    /// Names of some that it does not have.
    pub(super) refuse: Texts,
}

/// Which system calls there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Base {
    /// All that uvisor serves.
    Standard,
    /// What a computation needs: reading and writing, memory, signals, time, threads, and an end.
    Minimal,
}

/// Device files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Devices {
    /// Those that there are in `/dev`.
    pub(super) allow: Vec<Spot<Device>>,
}

/// Environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Environment {
    /// Names of those that it has from uvctl's environment; a `*` at the end stands for anything.
    pub(super) keep: Texts,
    /// Those that it has with these values, whatever uvctl has.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) set: BTreeMap<Spot<String>, Spot<String>>,
}

/// How much it may have; what is not mentioned has no limit of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Limits {
    /// Memory of all its processes together: a number with K, M or G, such as `64M`.
    pub(super) memory: Option<Spot<String>>,
    /// Time of CPUs, of each of its processes, and where there can be a cgroup of all together: a number with ms, s, m or
    /// h, such as `10s`.
    pub(super) cpu: Option<Spot<String>>,
    /// Time on the clock, from its start.
    pub(super) time: Option<Spot<String>>,
    /// Processes and threads at a time.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub(super) pids: Option<Spot<i64>>,
    /// Open files, of each of its processes.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) fds: Option<Spot<i64>>,
    /// System calls, and faults that are served as one, of all its processes together; with the next one it is killed.
    /// Calls that are answered in the micro-VM, such as for the time, do not count. Reads and writes cost more where
    /// there is such a limit.
    #[schemars(range(min = 1))]
    pub(super) exits: Option<Spot<i64>>,
}

impl Document {
    /// Reads a profile's text.
    pub(super) fn parse(source: Source<'_>) -> Result<Self, ProfileError> {
        toml::from_str(source.text).map_err(|error: toml::de::Error| {
            source.wrong(error.span().unwrap_or(0..0), in_plain_words(&error))
        })
    }
}

/// What the parser has to say, in the words of this project and in a line.
fn in_plain_words(error: &toml::de::Error) -> String {
    let text = error.message().trim().replace('\n', ", ");
    text.replace("unknown field", "unknown key")
        .replace("unknown variant", "unknown value")
        .replace("expected a sequence", "expected a list")
        .replace("expected a map", "expected a table")
}

/// The JSON schema of profiles.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}
