// SPDX-License-Identifier: GPL-2.0

//! `/proc` as a task should see it: its own processes, not their brokers, and no others.
//!
//! What is answered here is found by the path alone, before the host looks at it. What is not found here is
//! the host's, and of a process's directory there closed. Of other processes of the task's there is what lists of
//! processes show; what they have in memory and open is theirs.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::OnceLock;

use super::proc_path::{find, names, number, Entry, Process};
use super::status::status_at;
use super::{links, open, proc_machine, proc_text};
use crate::errno::{Errno, SysResult};
use crate::guest::sealed_file;
use crate::host::{self, HostCall};
use crate::memory::word;
use crate::pass;
use crate::task::Task;

/// Whether an open file is one of `/proc`.
fn is_proc(fd: RawFd) -> bool {
    let mut statfs = [0; 120];
    pass!(FSTATFS, fd, &mut statfs).is_ok() && word(&statfs, 0) == libc::PROC_SUPER_MAGIC as u64
}

/// What a path of the task's means, if it is one of those.
fn find_own(task: &Task, directory: RawFd, path: &CStr) -> Option<Entry> {
    let bytes = path.to_bytes();
    let process = |number| process(task, number);
    let is_guests = |fd: u32| task.fds.guest(fd.into()).is_ok();
    let found = |path: &[u8]| find(Path::new(OsStr::from_bytes(path)), process, is_guests);
    if bytes.starts_with(b"/") {
        return found(bytes);
    }
    let mut full = match directory {
        libc::AT_FDCWD if CURRENT.has_been_in_proc() => links::current().ok()?,
        libc::AT_FDCWD => return None,
        directory if is_proc(directory) => links::path_of(directory).ok()?,
        _ => return None,
    };
    full.push(b'/');
    full.extend(bytes);
    found(&full)
}

/// Whether the current directory has ever been one of `/proc`: then a path that begins there may be one of these.
struct Current(AtomicBool);

static CURRENT: Current = Current(AtomicBool::new(false));

impl Current {
    fn has_been_in_proc(&self) -> bool {
        self.0.load(SeqCst)
    }
}

/// The current directory is about to be this one.
pub(super) fn goes_to(directory: RawFd) {
    if is_proc(directory) {
        CURRENT.0.store(true, SeqCst);
    }
}

/// The current directory is what it was when the task started.
pub(crate) fn starts_here() {
    if links::current().is_ok_and(|path| path.starts_with(b"/proc")) {
        CURRENT.0.store(true, SeqCst);
    }
}

/// Which process of the task's has a number.
fn process(task: &Task, number: u32) -> Option<Process> {
    match task.is_own(number.into()) {
        true => Some(Process::Own),
        false => task
            .is_member(number.into())
            .then_some(Process::Other(number)),
    }
}

/// The path of the program that one in `/proc` leads to, over a link that is answered here.
pub(super) fn program_at(task: &Task, path: &CStr) -> SysResult<Option<CString>> {
    match find_own(task, libc::AT_FDCWD, path) {
        Some(Entry::Nobody) => Err(Errno::ENOENT),
        Some(Entry::Program(pid)) => Ok(Some(task.told(pid)?.program)),
        Some(Entry::Elsewhere(text)) => CString::new(text).map(Some).map_err(|_| Errno::ENOENT),
        _ => Ok(None),
    }
}

/// Whether a path is that of a process, or of something of one, that is not of the task's.
pub(super) fn is_nobodys(task: &Task, directory: RawFd, path: &CStr) -> bool {
    if !path.to_bytes().contains(&b'/') {
        // What is found there says by its file system that it is to be looked at again.
        return false;
    }
    find_own(task, directory, path) == Some(Entry::Nobody)
}

/// The same of what a path has led to.
pub(super) fn check_somebodys(task: &Task, fd: RawFd) -> SysResult<()> {
    if !is_proc(fd) {
        return Ok(());
    }
    let path = links::path_of(fd)?;
    let names = names(Path::new(OsStr::from_bytes(&path))).unwrap_or_default();
    let owner = names.first().and_then(|name| number(name));
    match owner.is_some_and(|owner| process(task, owner).is_none()) {
        true => Err(Errno::ENOENT),
        false => Ok(()),
    }
}

/// The number of the file system that is at `/proc`.
pub(super) fn device() -> u64 {
    static DEVICE: OnceLock<u64> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let status = status_at(libc::AT_FDCWD, c"/proc", 0);
        status.map_or(0, |status| status.identity.device)
    })
}

/// The process whose directory of `/proc` an open file is: such a one can stand for it, as a pidfd does.
pub(super) fn process_of(fd: RawFd) -> Option<i32> {
    if !is_proc(fd) {
        return None;
    }
    let path = links::path_of(fd).ok()?;
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
    let entry = find_own(task, directory, path)?;
    Some(open_entry(task, entry, flags))
}

/// What a link says: of another process's, if the path is that of one, or any.
pub(super) fn link(task: &Task, directory: RawFd, path: &CStr) -> SysResult<Vec<u8>> {
    let (directory, path) = match find_own(task, directory, path) {
        Some(Entry::Nobody) => return Err(Errno::ENOENT),
        Some(Entry::Program(pid)) => return Ok(task.told(pid)?.program.into_bytes()),
        Some(Entry::Link(pid, text)) => return other_link(task, pid, &text),
        // Its own, over its current directory or the highest.
        Some(Entry::Elsewhere(text)) if !names_a_link(path) => {
            let text = CString::new(text).map_err(|_| Errno::ENOENT)?;
            (libc::AT_FDCWD, text)
        }
        _ => (directory, path.to_owned()),
    };
    let flags = libc::O_NOFOLLOW;
    let (handle, ..) = task.scope().seen(directory, &path, flags, 0)?;
    check_somebodys(task, handle.as_raw_fd())?;
    links::text_of(handle.as_raw_fd())
}

/// Whether a path is that of the link to a process's directory itself.
fn names_a_link(path: &CStr) -> bool {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    names(path).is_some_and(|names| matches!(*names, [_, "cwd" | "root"]))
}

/// What the host says of a link of the broker of another process.
fn other_link(task: &Task, pid: u32, text: &str) -> SysResult<Vec<u8>> {
    let target = std::fs::read_link(text)?;
    still(task, pid)?;
    Ok(target.into_os_string().into_encoded_bytes())
}

/// Makes sure that what was just read of a process is of one of the task's: its number may have become another's.
fn still(task: &Task, pid: u32) -> SysResult<()> {
    match task.is_member(pid.into()) {
        true => Ok(()),
        false => Err(Errno::ENOENT),
    }
}

fn open_entry(task: &mut Task, entry: Entry, flags: i32) -> SysResult {
    let path = |text: String| CString::new(text).map_err(|_| Errno::ENOENT);
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    let (name, bytes) = match entry {
        Entry::Nobody => return Err(Errno::ENOENT),
        // What it has open is its own.
        Entry::Closed | Entry::Link(..) => return Err(Errno::EACCES),
        Entry::Elsewhere(text) => return open::open_host_file(task, &path(text)?, flags),
        Entry::Program(pid) => {
            let program = task.told(pid)?.program;
            return open::open_host_file(task, &program, flags);
        }
        Entry::Directory(..) if writes => return Err(Errno::EISDIR),
        Entry::Directory(text, other) => {
            let kept = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_PATH);
            let flags = kept | libc::O_RDONLY | libc::O_DIRECTORY;
            let fd = pass!(OPENAT, libc::AT_FDCWD, &*path(text)?, flags, 0)?;
            if let Some(Err(errno)) = other.map(|pid| still(task, pid)) {
                pass!(CLOSE, fd)?;
                return Err(errno);
            }
            return task.fds.accept(fd);
        }
        _ if flags & libc::O_DIRECTORY != 0 => return Err(Errno::ENOTDIR),
        // What could be written would change the broker. That includes the name of another thread: a thread gives
        // itself one by `prctl`.
        _ if writes => return Err(Errno::EACCES),
        Entry::Machine(name) => {
            let bytes = proc_machine::text(task, &name)?;
            (name, bytes)
        }
        Entry::Own(base, name) => {
            let bytes = proc_text::own(task, &base, &name)?;
            (name, bytes)
        }
        Entry::Other(pid, base, name) => {
            let bytes = proc_text::other(task, pid, &base, &name)?;
            still(task, pid)?;
            (name, bytes)
        }
        Entry::FdInfo(fd) => {
            let fd = task.fds.open(fd)?;
            let moving = task.fds.hold();
            let bytes = std::fs::read(format!("/proc/self/fdinfo/{fd}"))?;
            drop(moving);
            ("fdinfo".into(), bytes)
        }
    };
    let _moving = task.fds.hold();
    let file = sealed_file(&path(format!("proc-{name}"))?, &bytes)?;
    // Once more, for reading only.
    let kept = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_PATH);
    let fd = links::reopen(file.as_raw_fd(), kept | libc::O_RDONLY)?;
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
    let path = links::path_of(fd).ok()?;
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
    let members = match hidden {
        Hidden::Processes => task.others(),
        Hidden::Descriptors => Vec::new(),
    };
    let wanted = |name: &[u8]| match (std::str::from_utf8(name).ok().and_then(number), hidden) {
        (None, _) => true,
        (Some(fd), Hidden::Descriptors) => task.fds.guest(fd.into()).is_ok(),
        (Some(pid), Hidden::Processes) => pid == crate::process::id() || members.contains(&pid),
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

    #[test]
    fn a_directory_stands_for_its_process() {
        use std::fs::File;
        let process = |path: &str| process_of(File::open(path).unwrap().as_raw_fd());
        assert_eq!(process("/proc/self"), Some(crate::process::id() as i32));
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
