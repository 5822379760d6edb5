// SPDX-License-Identifier: GPL-2.0

//! Which files a path of the guest's may open.
//!
//! The host's files can be read, not written. The broker's own `/proc` entries are the broker's, so
//! they are closed to the guest, but for those that it needs and that are answered here.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::errno::{Errno, SysResult};
use crate::guest::sealed_file;
use crate::memory::word;
use crate::pass;
use crate::task::Task;

/// A path with a meaning of its own for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// One of the guest's descriptors.
    Fd(RawFd),
    /// The program.
    Program,
    /// What a program opens where it is to become a template: see [`crate::template`].
    Checkpoint,
}

/// What a path means, if it is one of those; `pid` is the task's.
pub(crate) fn special(path: &CStr, pid: u32) -> Option<Special> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    let parts: Option<Vec<&str>> = parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let own = |name: &str| matches!(name, "self" | "thread-self") || name.parse() == Ok(pid);
    let fd = |number: &str| number.parse().ok().map(Special::Fd);
    match *parts?.as_slice() {
        ["dev", "stdin"] => Some(Special::Fd(0)),
        ["dev", "stdout"] => Some(Special::Fd(1)),
        ["dev", "stderr"] => Some(Special::Fd(2)),
        ["dev", "uvisor-checkpoint"] => Some(Special::Checkpoint),
        ["dev", "fd", number] => fd(number),
        ["proc", process, "fd", number] if own(process) => fd(number),
        ["proc", process, "exe"] if own(process) => Some(Special::Program),
        _ => None,
    }
}

/// What `stat` says of a file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    device: u64,
    inode: u64,
    mode: u32,
    special: u64,
}

impl Status {
    fn new(stat: &[u8; 144]) -> Self {
        Self {
            device: word(stat, 0),
            inode: word(stat, 8),
            mode: word(stat, 24) as u32,
            special: word(stat, 40),
        }
    }

    fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a device that a task may have, and whether it may be written.
    fn device(&self) -> Option<bool> {
        if self.kind() != libc::S_IFCHR {
            return None;
        }
        match (libc::major(self.special), libc::minor(self.special)) {
            // null, zero, full; tty.
            (1, 3 | 5 | 7) | (5, 0) => Some(true),
            // random, urandom.
            (1, 8 | 9) => Some(false),
            _ => None,
        }
    }

    /// Whether it is `/dev/zero`.
    pub(super) fn is_zero_device(&self) -> bool {
        self.device().is_some() && self.special == libc::makedev(1, 5)
    }

    /// Whether it is a socket.
    pub(super) fn is_socket(&self) -> bool {
        self.kind() == libc::S_IFSOCK
    }

    /// Whether something may be written there.
    pub(super) fn is_writable(&self) -> bool {
        self.device() == Some(true)
    }
}

/// The status of an open file.
pub(super) fn status_of(fd: RawFd) -> SysResult<Status> {
    let mut stat = [0; 144];
    pass!(FSTAT, fd, &mut stat)?;
    Ok(Status::new(&stat))
}

/// The status of a path.
pub(super) fn status_at(directory: RawFd, path: &CStr, flags: i32) -> SysResult<Status> {
    let mut stat = [0; 144];
    pass!(NEWFSTATAT, directory, path, &mut stat, flags)?;
    Ok(Status::new(&stat))
}

/// Opens a path for `openat2`, following no magic links.
fn open_plain(directory: RawFd, path: &CStr, flags: i32) -> SysResult {
    let mut how = [0; 24];
    how[..8].copy_from_slice(&u64::from(flags as u32).to_le_bytes());
    how[16..].copy_from_slice(&libc::RESOLVE_NO_MAGICLINKS.to_le_bytes());
    pass!(OPENAT2, directory, path, &mut how, 24)
}

/// Flags that need no more than reading.
const HARMLESS: i32 = libc::O_NOFOLLOW
    | libc::O_DIRECTORY
    | libc::O_CLOEXEC
    | libc::O_NONBLOCK
    | libc::O_NOATIME
    | libc::O_APPEND
    | libc::O_PATH;

/// Opens a file of the host's for the guest; returns its descriptor.
pub(super) fn open(task: &mut Task, directory: RawFd, path: &CStr, flags: i32) -> SysResult {
    match special(path, std::process::id()) {
        Some(Special::Fd(fd)) => return duplicate(task, fd, flags),
        Some(Special::Program) => {
            let program = task.shared.program.clone();
            return open_host(task, libc::AT_FDCWD, &program, flags);
        }
        Some(Special::Checkpoint) => return open_checkpoint(task, flags),
        None => {}
    }
    open_host(task, directory, path, flags)
}

/// What a checkpoint looks like from outside.
pub(super) const CHECKPOINT_LIKE: &CStr = c"/dev/null";

/// Opens a checkpoint behind it: who reads it gets the arguments of this run.
fn open_checkpoint(task: &mut Task, flags: i32) -> SysResult {
    let kept = flags & (libc::O_ACCMODE | libc::O_CLOEXEC);
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        let fd = open_plain(libc::AT_FDCWD, CHECKPOINT_LIKE, kept)?;
        return task.fds.accept(fd);
    }
    let file = sealed_file(c"uvisor-checkpoint", &task.shared.checkpoint)?;
    // Once more, for reading only.
    let fd = reopen(file.as_raw_fd(), kept)?;
    task.fds.accept(fd)
}

/// Opens the file of a descriptor of the broker's again: with an offset of its own.
pub(crate) fn reopen(fd: RawFd, flags: i32) -> SysResult {
    let link = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
    pass!(OPENAT, libc::AT_FDCWD, &*link, flags, 0)
}

/// Opens one of the guest's own descriptors once more.
fn duplicate(task: &Task, fd: RawFd, flags: i32) -> SysResult {
    let fd = task.fds.open(fd)?;
    let command = match flags & libc::O_CLOEXEC {
        0 => libc::F_DUPFD,
        _ => libc::F_DUPFD_CLOEXEC,
    };
    let new = pass!(FCNTL, fd, command, 0)?;
    task.fds.accept(new)
}

/// Opens what a path leads to, if the guest may have it.
fn open_host(task: &mut Task, directory: RawFd, path: &CStr, flags: i32) -> SysResult {
    let follow = match flags & libc::O_NOFOLLOW {
        0 => 0,
        _ => libc::AT_SYMLINK_NOFOLLOW,
    };
    // Opening some files does something, so what it is must be known before.
    let before = match status_at(directory, path, follow) {
        Ok(status) => status,
        Err(Errno::ENOENT) if flags & libc::O_CREAT != 0 => {
            return Err(creation_error(directory, path))
        }
        Err(errno) => return Err(errno),
    };
    let flags = check(&before, flags)?;
    let fd = open_plain(directory, path, flags)?;
    match check_opened(task, fd as RawFd, &before) {
        Ok(()) => task.fds.accept(fd),
        Err(errno) => {
            pass!(CLOSE, fd)?;
            Err(errno)
        }
    }
}

/// The flags to open a file with, if the guest may open it with `flags`.
fn check(file: &Status, flags: i32) -> SysResult<i32> {
    const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    if flags & libc::O_PATH != 0 {
        return Ok(flags & (libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW));
    }
    if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
        return Err(Errno::EEXIST);
    }
    let access = flags & libc::O_ACCMODE;
    let writes = access != libc::O_RDONLY || flags & (libc::O_TRUNC | TMPFILE) != 0;
    let harmless = flags & HARMLESS | libc::O_NOCTTY;
    if let Some(writable) = file.device() {
        return match writes && !writable {
            true => Err(Errno::EROFS),
            false => Ok(harmless | access),
        };
    }
    match file.kind() {
        libc::S_IFDIR if writes => Err(if flags & TMPFILE != 0 {
            Errno::EROFS
        } else {
            Errno::EISDIR
        }),
        libc::S_IFREG | libc::S_IFIFO if writes => Err(Errno::EROFS),
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO => Ok(harmless | libc::O_RDONLY),
        libc::S_IFLNK => Err(Errno::ELOOP),
        libc::S_IFSOCK => Err(Errno::ENXIO),
        _ => Err(Errno::EACCES),
    }
}

/// The error of making a file that does not exist.
pub(super) fn creation_error(directory: RawFd, path: &CStr) -> Errno {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|&byte| byte == b'/');
    let parent = match end {
        Some(0) => &b"/"[..],
        Some(end) => &bytes[..end],
        None => &b"."[..],
    };
    let Ok(parent) = CString::new(parent) else {
        return Errno::EINVAL;
    };
    match status_at(directory, &parent, 0) {
        Ok(status) if status.kind() == libc::S_IFDIR => Errno::EROFS,
        Ok(_) => Errno::ENOTDIR,
        Err(errno) => errno,
    }
}

/// File systems whose files are not for a task: reading them acts, or shows the host's inside.
const CLOSED: [u64; 4] = [
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
];

/// What of `/proc` is the machine's and no process's, and tells nothing secret.
const PROC_PUBLIC: [&[u8]; 16] = [
    b"cmdline",
    b"cpuinfo",
    b"devices",
    b"diskstats",
    b"filesystems",
    b"interrupts",
    b"loadavg",
    b"meminfo",
    b"partitions",
    b"softirqs",
    b"stat",
    b"swaps",
    b"sys",
    b"uptime",
    b"version",
    b"vmstat",
];

/// What of its own `/proc` directory a task may have from the host: what tells of the file systems,
/// which are the same for the broker and the task.
const PROC_OWN: [&[u8]; 3] = [b"mounts", b"mountinfo", b"mountstats"];

/// Checks that what was opened is what was looked at, and not the broker's or the kernel's own.
fn check_opened(task: &mut Task, fd: RawFd, before: &Status) -> SysResult<()> {
    let after = status_of(fd)?;
    if after != *before {
        // The path leads elsewhere since it was looked at.
        return Err(Errno::EACCES);
    }
    if task.plain_device == Some(after.device) {
        return Ok(());
    }
    let mut statfs = [0; 120];
    pass!(FSTATFS, fd, &mut statfs)?;
    match word(&statfs, 0) {
        magic if CLOSED.contains(&magic) => Err(Errno::EACCES),
        magic if magic == libc::PROC_SUPER_MAGIC as u64 => check_proc(fd),
        _ => {
            // Most files are on one file system, which then need not be looked at again.
            task.plain_device = Some(after.device);
            Ok(())
        }
    }
}

/// Checks a file of `/proc`.
fn check_proc(fd: RawFd) -> SysResult<()> {
    let path = path_of(fd)?;
    match path.strip_prefix(b"/proc/") {
        None if path == b"/proc" => Ok(()),
        None => Err(Errno::EACCES),
        Some(rest) => {
            let mut parts = rest.split(|&byte| byte == b'/');
            let first = parts.next().unwrap_or_default();
            let own = first == std::process::id().to_string().as_bytes();
            let public = match (own, parts.next(), parts.next()) {
                (true, Some(name), None) => PROC_OWN.contains(&name),
                _ => PROC_PUBLIC.contains(&first),
            };
            public.then_some(()).ok_or(Errno::EACCES)
        }
    }
}

/// The path of an open file, as the kernel has it.
pub(crate) fn path_of(fd: RawFd) -> SysResult<Vec<u8>> {
    let link = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
    let mut path = vec![0; crate::memory::PATH_MAX];
    let size = path.len() as u64;
    let len = pass!(
        READLINKAT,
        libc::AT_FDCWD,
        &*link,
        path.as_mut_slice(),
        size
    )?;
    path.truncate(len as usize);
    Ok(path)
}

/// A directory to go to; the descriptor is the broker's.
pub(super) fn open_directory(path: &CStr) -> SysResult<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let fd = open_plain(libc::AT_FDCWD, path, flags)?;
    // SAFETY: The kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What stands for a file that the guest could open for reading (`O_PATH`); the descriptor is the broker's.
pub(super) fn readable(task: &mut Task, path: &CStr, follows: bool) -> SysResult<OwnedFd> {
    let program;
    let path = match special(path, std::process::id()) {
        Some(Special::Fd(fd)) => {
            let fd = task.fds.open(fd)?;
            // SAFETY: The descriptor is open, as just seen, and one that is closed meanwhile gives an error.
            return task.fds.own(unsafe { BorrowedFd::borrow_raw(fd) });
        }
        Some(Special::Program) => {
            program = task.shared.program.clone();
            program.as_c_str()
        }
        Some(Special::Checkpoint) => return Err(Errno::EACCES),
        None => path,
    };
    let (look, open) = match follows {
        true => (0, 0),
        false => (libc::AT_SYMLINK_NOFOLLOW, libc::O_NOFOLLOW),
    };
    let before = status_at(libc::AT_FDCWD, path, look)?;
    check(&before, libc::O_RDONLY)?;
    let flags = libc::O_PATH | libc::O_CLOEXEC | open;
    let fd = open_plain(libc::AT_FDCWD, path, flags)?;
    // SAFETY: The kernel just made this descriptor for us.
    let file = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    check_opened(task, file.as_raw_fd(), &before)?;
    task.fds.own(file.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_special_paths() {
        for (path, meaning) in [
            (c"/dev/stdin", Some(Special::Fd(0))),
            (c"//dev/./fd//7", Some(Special::Fd(7))),
            (c"/proc/self/fd/3", Some(Special::Fd(3))),
            (c"/proc/42/fd/3", Some(Special::Fd(3))),
            (c"/proc/43/fd/3", None),
            (c"/proc/self/exe", Some(Special::Program)),
            (c"/proc/thread-self/exe", Some(Special::Program)),
            (c"/proc/self/fd/x", None),
            (c"/proc/self/maps", None),
            (c"/dev/uvisor-checkpoint", Some(Special::Checkpoint)),
            (c"/dev/../dev/stdin", None),
            (c"dev/stdin", None),
            (c"/", None),
            (c"", None),
        ] {
            assert_eq!(special(path, 42), meaning, "{path:?}");
        }
    }

    #[test]
    fn only_some_devices_can_be_written() {
        let checked = |path, flags| {
            let status = status_at(libc::AT_FDCWD, path, 0).unwrap();
            check(&status, flags).map(|flags| flags & libc::O_ACCMODE)
        };
        let (read, write) = (libc::O_RDONLY, libc::O_WRONLY);
        assert_eq!(checked(c"/dev/null", libc::O_RDWR), Ok(libc::O_RDWR));
        assert_eq!(checked(c"/dev/null", write | libc::O_CREAT), Ok(write));
        assert_eq!(checked(c"/dev/urandom", write), Err(Errno::EROFS));
        assert_eq!(checked(c"/dev/urandom", read), Ok(read));
        assert_eq!(checked(c"/etc/passwd", write), Err(Errno::EROFS));
        assert_eq!(checked(c"/etc/passwd", read | libc::O_CREAT), Ok(read));
        assert_eq!(checked(c"/etc/passwd", libc::O_TRUNC), Err(Errno::EROFS));
        assert_eq!(checked(c"/etc", write), Err(Errno::EISDIR));
        assert_eq!(checked(c"/etc", read), Ok(read));
        let exclusive = write | libc::O_CREAT | libc::O_EXCL;
        assert_eq!(checked(c"/etc/passwd", exclusive), Err(Errno::EEXIST));
    }

    #[test]
    fn making_a_file_is_refused_by_its_directory() {
        let error = |path| creation_error(libc::AT_FDCWD, path);
        assert_eq!(error(c"/tmp/new"), Errno::EROFS);
        assert_eq!(error(c"/new"), Errno::EROFS);
        assert_eq!(error(c"new"), Errno::EROFS);
        assert_eq!(error(c"/no/such/new"), Errno::ENOENT);
        assert_eq!(error(c"/etc/passwd/new"), Errno::ENOTDIR);
    }

    #[test]
    fn processes_are_closed() {
        let open = |path: &CStr| {
            let flags = libc::O_RDONLY | libc::O_CLOEXEC;
            let fd = open_plain(libc::AT_FDCWD, path, flags).unwrap();
            // SAFETY: The kernel just made this descriptor for us.
            unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
        };
        let checked = |path: &CStr| check_proc(std::os::fd::AsRawFd::as_raw_fd(&open(path)));
        assert_eq!(checked(c"/proc/self/maps"), Err(Errno::EACCES));
        assert_eq!(checked(c"/proc/1/status"), Err(Errno::EACCES));
        assert_eq!(checked(c"/proc/1/mountinfo"), Err(Errno::EACCES));
        assert_eq!(checked(c"/proc/self/mountinfo"), Ok(()));
        assert_eq!(checked(c"/proc/cpuinfo"), Ok(()));
        assert_eq!(checked(c"/proc/sys/kernel/ostype"), Ok(()));
        assert_eq!(checked(c"/proc"), Ok(()));
        let link = open_plain(libc::AT_FDCWD, c"/proc/self/exe", libc::O_RDONLY);
        assert_eq!(link, Err(Errno::ELOOP));
    }
}
