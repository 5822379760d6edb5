// SPDX-License-Identifier: GPL-2.0

//! `/proc` as a task should see it: itself, not its broker, and no other process.
//!
//! What is answered here is found by the path alone, before the host looks at it. What is not found here is
//! the host's, and of a process's directory there closed.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::{open, paths, proc_text};
use crate::errno::{Errno, SysResult};
use crate::guest::sealed_file;
use crate::host::{self, HostCall};
use crate::memory::word;
use crate::pass;
use crate::task::Task;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// A file about the machine.
    Machine(String),
    /// A file about the task.
    Own(String),
    /// What the host says of one of its descriptors.
    FdInfo(RawFd),
    /// A directory, as the host has it.
    Directory(String),
    /// Another path.
    Elsewhere(String),
}

/// The directories of a process that may be listed.
const DIRECTORIES: [&str; 4] = ["", "fd", "fdinfo", "task"];

/// What a path means, if it is one of those; `own` says whether a number is the task's.
fn find(path: &Path, own: impl Fn(u64) -> bool) -> Option<Entry> {
    if path == Path::new("/dev/fd") {
        return Some(Entry::Directory("/proc/self/fd".into()));
    }
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) || parts.next()?.as_os_str() != "proc" {
        return None;
    }
    let parts: Option<Vec<&str>> = parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let own = |name: &str| name.parse().is_ok_and(&own);
    let parts = parts?;
    let (who, rest) = parts.split_first()?;
    if rest.is_empty() && proc_text::MACHINE.contains(who) {
        return Some(Entry::Machine((*who).into()));
    }
    let base = match *who {
        "self" | "thread-self" => format!("/proc/{who}"),
        who if own(who) => "/proc/self".to_owned(),
        _ => return None,
    };
    // A thread's directory has what a process's has, as far as it is here.
    let (base, rest) = match rest {
        ["task", thread, rest @ ..] if own(thread) => ("/proc/thread-self".to_owned(), rest),
        rest => (base, rest),
    };
    match *rest {
        [] => Some(Entry::Directory(base)),
        ["fdinfo", number] => number.parse().ok().map(Entry::FdInfo),
        ["cwd", ref rest @ ..] => Some(Entry::Elsewhere(format!("./{}", rest.join("/")))),
        ["root", ref rest @ ..] => Some(Entry::Elsewhere(format!("/{}", rest.join("/")))),
        [name] if DIRECTORIES.contains(&name) => Some(Entry::Directory(format!("{base}/{name}"))),
        [name] if proc_text::OWN.contains(&name) => Some(Entry::Own(name.into())),
        _ => None,
    }
}

/// Whether an open file is one of `/proc`.
fn is_proc(fd: RawFd) -> bool {
    let mut statfs = [0; 120];
    pass!(FSTATFS, fd, &mut statfs).is_ok() && word(&statfs, 0) == libc::PROC_SUPER_MAGIC as u64
}

/// The process whose directory of `/proc` an open file is: such a one can stand for it, as a pidfd does.
pub(super) fn process_of(fd: RawFd) -> Option<i32> {
    if !is_proc(fd) {
        return None;
    }
    let path = paths::path_of(fd).ok()?;
    std::str::from_utf8(path.strip_prefix(b"/proc/")?)
        .ok()?
        .parse()
        .ok()
}

/// Opens a file or a directory of `/proc`, if the path is one of those that are answered here.
pub(super) fn open(
    task: &mut Task,
    directory: RawFd,
    path: &CStr,
    flags: i32,
) -> Option<SysResult> {
    let bytes = path.to_bytes();
    let entry = if bytes.starts_with(b"/") {
        find_own(task, bytes)?
    } else if directory != libc::AT_FDCWD && is_proc(directory) {
        let mut full = paths::path_of(directory).ok()?;
        full.push(b'/');
        full.extend(bytes);
        find_own(task, &full)?
    } else {
        return None;
    };
    Some(open_entry(task, entry, flags))
}

/// What a path means for a task.
fn find_own(task: &Task, path: &[u8]) -> Option<Entry> {
    find(Path::new(OsStr::from_bytes(path)), |number| {
        u32::try_from(number).is_ok() && task.is_own(number)
    })
}

fn open_entry(task: &mut Task, entry: Entry, flags: i32) -> SysResult {
    let path = |text: String| CString::new(text).map_err(|_| Errno::ENOENT);
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    let (name, bytes) = match entry {
        Entry::Elsewhere(text) => return open::open_host_file(task, &path(text)?, flags),
        Entry::Directory(_) if writes => return Err(Errno::EISDIR),
        Entry::Directory(text) => {
            let kept = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_PATH);
            let flags = kept | libc::O_RDONLY | libc::O_DIRECTORY;
            let fd = pass!(OPENAT, libc::AT_FDCWD, &*path(text)?, flags, 0)?;
            return task.fds.accept(fd);
        }
        _ if flags & libc::O_DIRECTORY != 0 => return Err(Errno::ENOTDIR),
        // What could be written would change the broker.
        _ if writes => return Err(Errno::EACCES),
        Entry::Machine(name) => {
            let bytes = proc_text::machine(task, &name)?;
            (name, bytes)
        }
        Entry::Own(name) => {
            let bytes = proc_text::own(task, &name)?;
            (name, bytes)
        }
        Entry::FdInfo(fd) => {
            let fd = task.fds.open(fd)?;
            let bytes = std::fs::read(format!("/proc/self/fdinfo/{fd}"))?;
            ("fdinfo".into(), bytes)
        }
    };
    let file = sealed_file(&path(format!("proc-{name}"))?, &bytes)?;
    // Once more, for reading only.
    let kept = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_PATH);
    let fd = paths::reopen(file.as_raw_fd(), kept | libc::O_RDONLY)?;
    task.fds.accept(fd)
}

/// What of a directory is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// Descriptors that are not the guest's.
    Descriptors,
    /// Processes that are not of the task.
    Processes,
}

/// What of an open directory is not to be listed.
pub(super) fn hidden(fd: RawFd) -> Option<Hidden> {
    if !is_proc(fd) {
        return None;
    }
    let path = paths::path_of(fd).ok()?;
    match path.strip_prefix(b"/proc") {
        Some(b"") => Some(Hidden::Processes),
        Some(rest) if rest.ends_with(b"/fd") || rest.ends_with(b"/fdinfo") => {
            Some(Hidden::Descriptors)
        }
        _ => None,
    }
}

/// Keeps of directory entries those whose names, which are at `name_at`, are wanted.
fn keep(entries: &[u8], name_at: usize, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    /// Where an entry says how long it is.
    const LENGTH: usize = 16;
    let mut kept = Vec::with_capacity(entries.len());
    let mut rest = entries;
    while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
        let len = usize::from(u16::from_le_bytes([low, high]));
        let Some((entry, after)) = rest.split_at_checked(len.max(1)) else {
            break;
        };
        let name = entry.get(name_at..).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if wanted(name) {
            kept.extend_from_slice(entry);
        }
        rest = after;
    }
    kept
}

/// Lists a directory by `call`, without what is hidden.
pub(super) fn list(
    task: &Task,
    call: (&HostCall, usize),
    fd: RawFd,
    [buffer, len]: [u64; 2],
    hidden: Hidden,
) -> SysResult {
    let (call, name_at) = call;
    let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse::<u64>().ok();
    let wanted = |name: &[u8]| match (number(name), hidden) {
        (None, _) => true,
        (Some(fd), Hidden::Descriptors) => fd < task.fds.limit() as u64,
        (Some(pid), Hidden::Processes) => pid == u64::from(crate::process::id()),
    };
    let mut bytes = vec![0; len.min(32 << 10) as usize];
    task.memory.range(buffer, bytes.len())?;
    loop {
        let len = bytes.len() as u64;
        let mut words = [
            host::Word::from(fd),
            host::Word::from(bytes.as_mut_slice()),
            host::Word::from(len),
        ];
        let got = host::call(call, &mut words)? as usize;
        let kept = keep(bytes.get(..got).unwrap_or_default(), name_at, wanted);
        // Nothing is the end, which what is hidden is not.
        if got == 0 || !kept.is_empty() {
            task.memory.write(buffer, &kept)?;
            return Ok(kept.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<Entry> {
        find(Path::new(path), |number| number == 42)
    }

    #[test]
    fn the_task_is_found_by_all_of_its_names() {
        let own = |name: &str| Some(Entry::Own(name.into()));
        for path in [
            "/proc/self/maps",
            "/proc/42/maps",
            "//proc/./thread-self//maps",
            "/proc/self/task/42/maps",
            "/proc/42/task/42/maps",
        ] {
            assert_eq!(found(path), own("maps"), "{path}");
        }
        let directory = |path: &str| Some(Entry::Directory(path.into()));
        assert_eq!(found("/proc/42/fd/"), directory("/proc/self/fd"));
        assert_eq!(found("//dev/fd/"), directory("/proc/self/fd"));
        assert_eq!(found("/proc/self"), directory("/proc/self"));
        assert_eq!(found("/proc/self/task/42"), directory("/proc/thread-self"));
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
    fn others_and_what_is_the_brokers_are_not() {
        for path in [
            "/proc/1/maps",
            "/proc/self/mem",
            "/proc/self/pagemap",
            "/proc/self/smaps",
            "/proc/self/task/1/stat",
            "/proc/self/task/../../1/stat",
            "/proc/self/../1/maps",
            "/proc/self/fd/3",
            "/proc/self/ns/net",
            "/proc/1",
            "/proc",
            "/procx/self/maps",
            "proc/self/maps",
            "/",
            "",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn a_directory_stands_for_its_process() {
        use std::fs::File;
        let process = |path: &str| process_of(File::open(path).unwrap().as_raw_fd());
        assert_eq!(process("/proc/self"), Some(std::process::id() as i32));
        for path in ["/proc", "/proc/self/fd", "/proc/self/stat", "/tmp"] {
            assert_eq!(process(path), None, "{path}");
        }
    }

    #[test]
    fn entries_are_kept_by_their_names() {
        let entry = |name: &str| {
            let len = (19 + name.len() + 1).next_multiple_of(8);
            let mut bytes = vec![0; len];
            bytes[16..18].copy_from_slice(&(len as u16).to_le_bytes());
            bytes[19..19 + name.len()].copy_from_slice(name.as_bytes());
            bytes
        };
        let all = [entry("."), entry("1"), entry("1030"), entry("x")].concat();
        let kept = keep(&all, 19, |name| name != b"1030");
        assert_eq!(kept, [entry("."), entry("1"), entry("x")].concat());
        assert!(keep(&all, 19, |_| false).is_empty());
        // What is cut off, or says that it is nothing, ends it.
        assert_eq!(keep(&all[..30], 19, |_| true), entry("."));
        let mut nothing = entry(".");
        nothing[16..18].fill(0);
        assert!(keep(&nothing, 19, |_| true).len() <= nothing.len());
    }
}
