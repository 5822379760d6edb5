// SPDX-License-Identifier: GPL-2.0

//! What a path in `/proc` means to a task: which file about the machine or about a process, by the path alone.

use std::os::fd::RawFd;
use std::path::{Component, Path};

use super::{proc_machine, proc_text};

/// A process of the task's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// The caller's own.
    Own,
    /// Another one, by its number.
    Other(u32),
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file about the machine.
    Machine(String),
    /// A file about the process, or one of its threads, of which the host says what is in this directory.
    Own(String, String),
    /// One about another process of the task's.
    Other(u32, String, String),
    /// The program of another process.
    Program(u32),
    /// A link of another process's, as the host has it.
    Link(u32, String),
    /// What the host says of one of its descriptors.
    FdInfo(RawFd),
    /// A directory, as the host has it; of another process, if there is a number.
    Directory(String, Option<u32>),
    /// Another path.
    Elsewhere(String),
    /// What is not for the task.
    Closed,
    /// A process that is not of the task's.
    Nobody,
}

/// The directories of a process that may be listed.
const DIRECTORIES: [&str; 4] = ["", "fd", "fdinfo", "task"];

/// The names in an absolute path to something in `/proc`, behind that; not if there is a `..`.
pub(super) fn names(path: &Path) -> Option<Vec<&str>> {
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) || parts.next()?.as_os_str() != "proc" {
        return None;
    }
    parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

/// A number as the kernel writes it in names.
pub(super) fn number(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}

/// What a path means, if it is one of those; `process` says which of the task's has a number, and `is_guests`
/// whether a descriptor with one can be a guest's.
pub(super) fn find(
    path: &Path,
    process: impl Fn(u32) -> Option<Process>,
    is_guests: impl Fn(u32) -> bool,
) -> Option<Entry> {
    if path == Path::new("/dev/fd") {
        return Some(Entry::Directory("/proc/self/fd".into(), None));
    }
    let names = names(path)?;
    let (who, rest) = names.split_first()?;
    if rest.is_empty() && proc_machine::FILES.contains(who) {
        return Some(Entry::Machine((*who).into()));
    }
    let (base, other) = match (*who, number(who).map(&process)) {
        ("self" | "thread-self", _) => (format!("/proc/{who}"), None),
        (_, None) => return None,
        (_, Some(None)) => return Some(Entry::Nobody),
        (_, Some(Some(Process::Own))) => ("/proc/self".to_owned(), None),
        (_, Some(Some(Process::Other(pid)))) => (format!("/proc/{pid}"), Some(pid)),
    };
    // A thread's directory has what a process's has, as far as it is here.
    let (base, rest) = match rest {
        ["task", thread, rest @ ..] => {
            // One that goes on with a template has another number by now.
            let thread = match (number(thread)?, other) {
                (thread, None) if process(thread) == Some(Process::Own) => crate::process::id(),
                (thread, _) => thread,
            };
            (format!("{base}/task/{thread}"), rest)
        }
        _ => (base, rest),
    };
    match (rest, other) {
        ([], _) => Some(Entry::Directory(base, other)),
        ([name], _) if DIRECTORIES.contains(name) => {
            Some(Entry::Directory(format!("{base}/{name}"), other))
        }
        (["root", rest @ ..], _) => Some(Entry::Elsewhere(format!("/{}", rest.join("/")))),
        (["exe"], Some(pid)) => Some(Entry::Program(pid)),
        ([name], Some(pid)) if proc_text::OTHER.contains(name) => {
            Some(Entry::Other(pid, base, (*name).into()))
        }
        (["cwd"], Some(pid)) => Some(Entry::Link(pid, format!("{base}/cwd"))),
        (["fd", fd], Some(pid)) => match number(fd).is_some_and(is_guests) {
            true => Some(Entry::Link(pid, format!("{base}/fd/{fd}"))),
            false => Some(Entry::Nobody),
        },
        (_, Some(_)) => Some(Entry::Closed),
        (["fdinfo", fd], None) => fd.parse().ok().map(Entry::FdInfo),
        (["cwd", rest @ ..], None) => Some(Entry::Elsewhere(format!("./{}", rest.join("/")))),
        ([name], None) if proc_text::OWN.contains(name) => Some(Entry::Own(base, (*name).into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process is 42, another one of the task's 43.
    fn found(path: &str) -> Option<Entry> {
        let process = |number| match number {
            42 => Some(Process::Own),
            43 => Some(Process::Other(43)),
            _ => None,
        };
        find(Path::new(path), process, |fd| fd < 1024)
    }

    #[test]
    fn the_task_is_found_by_all_of_its_names() {
        let pid = crate::process::id();
        let thread = format!("/proc/self/task/{pid}");
        for (path, base) in [
            ("/proc/self/maps", "/proc/self"),
            ("/proc/42/maps", "/proc/self"),
            ("//proc/./thread-self//maps", "/proc/thread-self"),
            ("/proc/self/task/42/maps", thread.as_str()),
            ("/proc/42/task/42/maps", thread.as_str()),
            ("/proc/42/task/99/maps", "/proc/self/task/99"),
        ] {
            let own = Entry::Own(base.into(), "maps".into());
            assert_eq!(found(path), Some(own), "{path}");
        }
        let directory = |path: &str| Some(Entry::Directory(path.into(), None));
        assert_eq!(found("/proc/42/fd/"), directory("/proc/self/fd"));
        assert_eq!(found("//dev/fd/"), directory("/proc/self/fd"));
        assert_eq!(found("/proc/self"), directory("/proc/self"));
        assert_eq!(found("/proc/self/task/42"), directory(&thread));
        assert_eq!(found("/proc/self/fdinfo/3"), Some(Entry::FdInfo(3)));
        let elsewhere = |path: &str| Some(Entry::Elsewhere(path.into()));
        assert_eq!(found("/proc/self/cwd"), elsewhere("./"));
        assert_eq!(found("/proc/self/root/etc/x"), elsewhere("/etc/x"));
        assert_eq!(
            found("/proc/meminfo"),
            Some(Entry::Machine("meminfo".into()))
        );
    }

    #[test]
    fn of_others_there_is_what_lists_show() {
        let text = |base: &str, name: &str| Some(Entry::Other(43, base.into(), name.into()));
        assert_eq!(found("/proc/43/stat"), text("/proc/43", "stat"));
        assert_eq!(found("/proc/43/cmdline"), text("/proc/43", "cmdline"));
        let thread = text("/proc/43/task/44", "status");
        assert_eq!(found("/proc/43/task/44/status"), thread);
        let directory = Entry::Directory("/proc/43/fd".into(), Some(43));
        assert_eq!(found("/proc/43/fd"), Some(directory));
        assert_eq!(found("/proc/43/exe"), Some(Entry::Program(43)));
        let link = |path: &str| Some(Entry::Link(43, path.into()));
        assert_eq!(found("/proc/43/cwd"), link("/proc/43/cwd"));
        assert_eq!(found("/proc/43/fd/7"), link("/proc/43/fd/7"));
        assert_eq!(found("/proc/43/fd/2000"), Some(Entry::Nobody));
        for name in [
            "mem", "maps", "environ", "auxv", "cwd/x", "fd/7/x", "fdinfo/3", "ns/net",
        ] {
            assert_eq!(
                found(&format!("/proc/43/{name}")),
                Some(Entry::Closed),
                "{name}"
            );
        }
        for path in [
            "/proc/1",
            "/proc/1/maps",
            "/proc/44/stat",
            "/proc/4294967295/x",
        ] {
            assert_eq!(found(path), Some(Entry::Nobody), "{path}");
        }
    }

    #[test]
    fn what_is_the_brokers_is_not_found() {
        for path in [
            "/proc/self/mem",
            "/proc/self/pagemap",
            "/proc/self/map_files",
            "/proc/self/task/../../1/stat",
            "/proc/self/../1/maps",
            "/proc/self/fd/3",
            "/proc/self/ns/net",
            "/proc/+42/maps",
            "/proc/042/maps",
            "/proc/4294967338/maps",
            "/proc",
            "/procx/self/maps",
            "proc/self/maps",
            "/",
            "",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
