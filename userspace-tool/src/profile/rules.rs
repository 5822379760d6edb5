// SPDX-License-Identifier: GPL-2.0

//! What a task may touch, as everything that enforces it has it: made once from profiles and the command line,
//! before anything of the task exists, and never changed.
//!
//! Each part is an axis of its own: none gives anything that another one refuses. What is not mentioned is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a task may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What they are called: the profile's name.
    pub name: String,
    /// Files and directories.
    pub files: FileRules,
    /// Networks.
    pub network: NetworkRules,
    /// Whether it may make processes; threads it may make in any case.
    pub fork: bool,
    /// Which programs it may start; none for all that it may execute.
    pub programs: Option<ProgramRules>,
    /// Whether memory that could be written may become executable.
    pub jit: bool,
    /// Whether code that is not written can only be executed, and not read, where the CPU has that.
    pub execute_only: bool,
    /// Whether it knows the time more precisely than in milliseconds.
    pub precise_clock: bool,
    /// Its system calls.
    pub syscalls: SyscallRules,
    /// Its device files.
    pub devices: Vec<Device>,
    /// Its environment.
    pub environment: EnvironmentRules,
    /// How much it may have.
    pub limits: LimitRules,
    /// The names of the network's rules, once they were looked up.
    pub pinned: Vec<Pinned>,
}

/// Where a rule comes from, to be told with what it decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of a profile.
    Profile {
        /// The profile's name or path.
        name: String,
        /// The line, from 1; 0 for what follows from what the profile does not say.
        line: usize,
    },
    /// An option of the command line, such as `--ro`.
    Option(&'static str),
    /// That it is the program, or what the kernel starts for it.
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile { name, line: 0 } => f.write_str(name),
            Self::Profile { name, line } => write!(f, "{name}:{line}"),
            Self::Option(option) => f.write_str(option),
            Self::Program => f.write_str("the program"),
        }
    }
}

/// What is done with a path and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileAccess {
    /// It does not exist for the task.
    Hidden,
    /// An empty directory of the task's own, in memory, that goes with it.
    Tmpfs,
    /// The host's files.
    Host {
        /// Whether they may be executed, and mapped to be; all may be read.
        execute: bool,
        /// What becomes of changes.
        write: Write,
    },
}

impl FileAccess {
    /// Whether what is there may be executed, and mapped to be; `jit` is whether the task may execute what it wrote.
    pub fn executes(self, jit: bool) -> bool {
        match self {
            Self::Hidden => false,
            Self::Tmpfs => jit,
            Self::Host { execute, write } => execute && (jit || write == Write::No),
        }
    }
}

/// What becomes of changes to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// There are none.
    No,
    /// They go to an overlay of the task's own; the host's files stay as they are.
    Overlay,
    /// The host's own files are changed.
    Through,
}

/// A rule about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRule {
    /// What becomes of it and of what is below.
    pub access: FileAccess,
    /// Where that is said.
    pub origin: Origin,
}

/// Rules about paths, by absolute path without `.`, `..` or double `/`. The longest one that a path is below of, or is,
/// decides; where there is none, there is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRules(pub BTreeMap<PathBuf, FileRule>);

impl FileRules {
    /// What has an overlay.
    pub fn overlays(&self) -> impl Iterator<Item = &Path> {
        let has = |rule: &FileRule| {
            let FileAccess::Host { write, .. } = rule.access else {
                return false;
            };
            write == Write::Overlay
        };
        let rules = self.0.iter();
        rules
            .filter(move |(_, rule)| has(rule))
            .map(|(path, _)| &**path)
    }

    /// The rule that decides about a path.
    pub fn decide(&self, path: &Path) -> Option<(&Path, &FileRule)> {
        path.ancestors().find_map(|above| {
            let (rule, found) = self.0.get_key_value(above)?;
            Some((rule.as_path(), found))
        })
    }
}

/// Which programs a task may start (`execve`): files, and all that is below directories, by paths as [`FileRules`] has
/// them. They must be such as may be executed as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramRules(pub BTreeMap<PathBuf, Origin>);

impl ProgramRules {
    /// Whether what is at a path may be started.
    pub fn has(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.0.contains_key(above))
    }
}

/// Which network a task has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkRules {
    /// A loopback of its own.
    #[default]
    None,
    /// What the host reaches.
    Host,
    /// Of what the host reaches, so much.
    Only(Vec<NetworkRule>),
}

/// A rule that allows to reach, or to be reached at, an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkRule {
    /// Whether it is about being reached (`bind`, `listen`).
    pub listen: bool,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// The addresses.
    pub host: Host,
    /// The ports, from and to. 0 is none that is reached; where it is listened on, the kernel chooses one.
    pub ports: (u16, u16),
    /// Where that is said.
    pub origin: Origin,
}

/// Which addresses a network rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// All.
    Any,
    /// Those of a network: an address, whose bits behind the prefix are 0, and the prefix's length.
    Network(IpAddr, u8),
    /// Those that a name has, in lower case; nobody has looked it up yet.
    Name(String),
}

/// A name that was looked up when the task was started, with an address that it had. Rules are about the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The rule that has the name.
    pub origin: Origin,
}

/// Where a task finds such names.
pub const HOSTS: &str = "/etc/hosts";

/// What tells the C library to take all addresses of a name from there.
pub const HOST_CONF: &str = "/etc/host.conf";

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Which of the system calls that the personality serves a task has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyscallRules {
    /// Refused ones (`EPERM`) with where that is said, by name; all others are as the table has them.
    pub refused: BTreeMap<&'static str, Origin>,
}

/// A device file.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// `/dev/null`: takes everything, and has nothing.
    Null,
    /// `/dev/zero`: zeroes.
    Zero,
    /// `/dev/full`: zeroes, and a disk that is full.
    Full,
    /// `/dev/random`: random bytes.
    Random,
    /// `/dev/urandom`: random bytes.
    Urandom,
    /// `/dev/tty`: the terminal that the task was started from.
    Tty,
    /// `/dev/ptmx` and `/dev/pts`: terminals of its own.
    Pts,
    /// `/dev/shm`, with nothing of the host's in it.
    Shm,
}

impl Device {
    /// All that there are.
    pub const ALL: [Self; 8] = [
        Self::Null,
        Self::Zero,
        Self::Full,
        Self::Random,
        Self::Urandom,
        Self::Tty,
        Self::Pts,
        Self::Shm,
    ];

    /// What profiles call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Zero => "zero",
            Self::Full => "full",
            Self::Random => "random",
            Self::Urandom => "urandom",
            Self::Tty => "tty",
            Self::Pts => "pts",
            Self::Shm => "shm",
        }
    }
}

/// What a task finds in its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentRules {
    /// Names of variables that it has from `uvctl`'s environment; `*` at the end stands for anything.
    pub keep: Vec<String>,
    /// Variables that it has with these values, whatever `uvctl` has.
    pub set: BTreeMap<OsString, OsString>,
}

/// How much a task may have; `None` is no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitRules {
    /// Bytes of memory, of all its processes together.
    pub memory: Option<u64>,
    /// Time of CPUs, of each of its processes.
    pub cpu: Option<Duration>,
    /// Time on the clock, from its start.
    pub time: Option<Duration>,
    /// Processes and threads at a time.
    pub pids: Option<u32>,
    /// Open files, of each of its processes.
    pub fds: Option<u32>,
    /// How often all its processes together leave their micro-VMs.
    pub exits: Option<u64>,
}
