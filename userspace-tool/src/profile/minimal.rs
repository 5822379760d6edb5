// SPDX-License-Identifier: GPL-2.0

//! Which system calls a profile's base has.

use std::collections::BTreeMap;

use super::document::Base;
use super::{Origin, SyscallRules};
use crate::personality::table::TABLE;
use crate::personality::{Fate, Syscall};

/// What a computation needs, and what the C library asks for to start and to end it. Nothing of it makes a file, a
/// socket or a process (those are axes of their own as well), or acts on another process.
#[rustfmt::skip]
const MINIMAL: &[&str] = &[
    // Reading and writing what is open, and opening what the profile shows.
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
    "lseek", "open", "openat", "openat2", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "ioctl",
    "stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd", "getdents", "getdents64", "fadvise64", "readahead", "sendfile",
    "splice", "tee", "vmsplice", "copy_file_range", "fsync", "fdatasync",
    // Waiting for it.
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
    "epoll_pwait", "epoll_pwait2",
    // Memory.
    "mmap", "munmap", "mremap", "mprotect", "brk", "madvise", "mincore", "msync", "membarrier",
    // Signals, to itself only.
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend",
    "sigaltstack", "pause", "tkill", "tgkill",
    // Time.
    "time", "gettimeofday", "clock_gettime", "clock_getres", "nanosleep", "clock_nanosleep", "times", "alarm",
    "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun",
    "timer_delete", "getrusage",
    // Threads, and what they wake each other with; that there are no processes is for `fork` to say.
    "clone", "clone3", "futex", "set_tid_address", "set_robust_list", "get_robust_list", "gettid",
    "sched_yield", "sched_getaffinity", "getcpu", "arch_prctl", "prctl", "pipe", "pipe2", "eventfd", "eventfd2",
    // What it is, and what it has.
    "getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "uname", "sysinfo", "getrlimit", "prlimit64",
    "getrandom",
    // The end.
    "exit", "exit_group",
];

/// Whether the personality serves a call at all.
pub(super) fn is_served(call: &Syscall) -> bool {
    matches!(call.fate, Fate::Served(_))
}

/// Whether the base `minimal` has a call; or nobody has it.
pub fn is_minimal(name: &str) -> bool {
    let call = TABLE.iter().find(|call| call.name == name);
    MINIMAL.contains(&name) || !call.is_some_and(is_served)
}

impl Base {
    /// What it refuses of what is served, because of `origin`.
    pub(super) fn rules(self, origin: &Origin) -> SyscallRules {
        let refused: BTreeMap<_, _> = match self {
            Self::Standard => BTreeMap::new(),
            Self::Minimal => TABLE
                .iter()
                .filter(|call| is_served(call) && !MINIMAL.contains(&call.name))
                .map(|call| (call.name, origin.clone()))
                .collect(),
        };
        SyscallRules { refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimal_ones_are_served() {
        for name in MINIMAL {
            let call = TABLE.iter().find(|call| call.name == *name);
            assert!(call.is_some_and(is_served), "{name}");
        }
        let mut names = MINIMAL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MINIMAL.len(), "one is there twice");
    }

    #[test]
    fn everything_else_is_refused() {
        let origin = Origin::Program;
        assert!(Base::Standard.rules(&origin).refused.is_empty());
        let refused = Base::Minimal.rules(&origin).refused;
        let served = TABLE.iter().filter(|call| is_served(call)).count();
        assert_eq!(refused.len() + MINIMAL.len(), served);
        for name in ["socket", "execve", "fork", "kill", "unlink", "rename"] {
            assert!(refused.contains_key(name), "{name}");
        }
    }
}
