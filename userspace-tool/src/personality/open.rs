// SPDX-License-Identifier: GPL-2.0

//! Opening files.
//!
//! A file is found first, without opening it, and decided about; then exactly that one is opened, by its
//! descriptor. So nothing happens to a file that may not be opened, and the guest never has a descriptor
//! that is still being decided about.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::files::directory_for;
use super::kernels::check_readable;
use super::links::reopen;
use super::paths::{check_existing, special, Found, Scope, Special};
use super::status::Status;
use super::{procfs, terminals, Args};
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::guest::sealed_file;
use crate::memory::word;
use crate::pass;
use crate::task::Task;

const CWD: u64 = libc::AT_FDCWD as u64;

/// The bit that sets `O_TMPFILE` apart from `O_DIRECTORY`.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// What 64-bit programs always have.
const LARGEFILE: i32 = 0o100_000;

/// Flags that need no more than reading.
const HARMLESS: i32 = libc::O_NOFOLLOW
    | libc::O_DIRECTORY
    | libc::O_CLOEXEC
    | libc::O_NONBLOCK
    | libc::O_NOATIME
    | libc::O_APPEND
    | libc::O_PATH;

/// Flags that matter to who writes.
const WRITING: i32 = HARMLESS | libc::O_SYNC | libc::O_DSYNC | libc::O_DIRECT;

/// All flags that there are.
const ALL: i32 = WRITING
    | libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_ASYNC
    | LARGEFILE
    | TMPFILE;

/// All of the kernel's ways to resolve a path.
const RESOLVE: u64 = libc::RESOLVE_NO_XDEV
    | libc::RESOLVE_NO_MAGICLINKS
    | libc::RESOLVE_NO_SYMLINKS
    | libc::RESOLVE_BENEATH
    | libc::RESOLVE_IN_ROOT
    | libc::RESOLVE_CACHED;

/// How a file is to be opened, as `openat2` has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    pub(super) flags: i32,
    pub(super) mode: u32,
    pub(super) resolve: u64,
}

impl How {
    /// What `openat` makes of its arguments: it ignores what it does not know.
    fn lenient(flags: i32, mode: u64) -> SysResult<Self> {
        let mut flags = flags & ALL;
        if flags & libc::O_PATH != 0 {
            flags &= libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        }
        let mode = match flags & (libc::O_CREAT | TMPFILE) {
            0 => 0,
            _ => mode as u32 & 0o7777,
        };
        let resolve = 0;
        Self {
            flags,
            mode,
            resolve,
        }
        .checked()
    }

    /// What `openat2` makes of its structure: it takes nothing that it does not know.
    fn strict(how: &[u8; 24]) -> SysResult<Self> {
        let flags = i32::try_from(word(how, 0)).map_err(|_| Errno::EINVAL)?;
        let (mode, resolve) = (word(how, 8), word(how, 16));
        let makes = flags & (libc::O_CREAT | TMPFILE) != 0;
        let path = libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let scopes = libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT;
        let bad = flags & !ALL != 0
            || mode & !0o7777 != 0
            || mode != 0 && !makes
            || flags & libc::O_PATH != 0 && flags & !(path | LARGEFILE) != 0
            || resolve & !RESOLVE != 0
            || resolve & scopes == scopes;
        if bad {
            return Err(Errno::EINVAL);
        }
        let mode = mode as u32;
        Self {
            flags,
            mode,
            resolve,
        }
        .checked()
    }

    /// Refuses what makes no sense together.
    fn checked(self) -> SysResult<Self> {
        notes::note(|notes| notes.flags = self.flags);
        let has = |flag| self.flags & flag == flag;
        if has(TMPFILE) {
            let reads = self.flags & libc::O_ACCMODE == libc::O_RDONLY;
            if !has(libc::O_DIRECTORY) || reads || has(libc::O_CREAT) {
                return Err(Errno::EINVAL);
            }
        } else if has(libc::O_CREAT | libc::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        if self.resolve & libc::RESOLVE_CACHED != 0 && self.changes() {
            return Err(Errno::EAGAIN);
        }
        Ok(self)
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & flag == flag
    }

    /// Whether what is there is to be written.
    fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
            || self.flags & (libc::O_TRUNC | TMPFILE) != 0
    }

    /// Whether anything may be different afterwards.
    fn changes(&self) -> bool {
        !self.has(libc::O_PATH) && (self.writes() || self.has(libc::O_CREAT))
    }

    /// How to open a file anew that is there.
    fn again(&self) -> i32 {
        let dropped = libc::O_NOFOLLOW | libc::O_PATH;
        self.flags & (WRITING | libc::O_ACCMODE | libc::O_TRUNC) & !dropped | libc::O_NOCTTY
    }
}

impl Scope<'_> {
    /// Opens a file of the host's for the guest; returns its descriptor.
    pub(super) fn open(&self, directory: RawFd, path: &CStr, how: How) -> SysResult {
        let plain = how.resolve & !(libc::RESOLVE_CACHED | libc::RESOLVE_NO_XDEV) == 0;
        match special(path, crate::process::id()).filter(|_| plain) {
            Some(Special::Fd(fd)) => self.duplicate(fd, how.flags),
            Some(Special::Program) => self.open_host(libc::AT_FDCWD, self.program, how),
            Some(Special::Checkpoint) => self.open_checkpoint(how.flags),
            None => self.open_host(directory, path, how),
        }
    }

    /// Opens a checkpoint behind it: who reads it gets the arguments of this run.
    fn open_checkpoint(&self, flags: i32) -> SysResult {
        let kept = flags & (libc::O_ACCMODE | libc::O_CLOEXEC);
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            let flags = kept;
            return self.open_host(
                libc::AT_FDCWD,
                CHECKPOINT_LIKE,
                How {
                    flags,
                    ..How::default()
                },
            );
        }
        let _moving = self.fds.hold();
        let file = sealed_file(c"uvisor-checkpoint", self.checkpoint)?;
        let file = self.fds.own(std::os::fd::AsFd::as_fd(&file))?;
        // Once more, for reading only.
        self.fds.accept(reopen(file.as_raw_fd(), kept)?)
    }

    /// Opens one of the guest's own descriptors once more.
    fn duplicate(&self, fd: RawFd, flags: i32) -> SysResult {
        self.give(self.fds.open(fd)?, flags)
    }

    /// Gives the guest another descriptor of an open file.
    fn give(&self, fd: RawFd, flags: i32) -> SysResult {
        let command = match flags & libc::O_CLOEXEC {
            0 => libc::F_DUPFD,
            _ => libc::F_DUPFD_CLOEXEC,
        };
        self.fds.another(fd, command, 0)
    }

    /// Opens what a path leads to, if the guest may have it.
    fn open_host(&self, directory: RawFd, path: &CStr, how: How) -> SysResult {
        if how.changes() {
            return self.open_to_change(directory, path, how);
        }
        let flags = how.flags & (libc::O_NOFOLLOW | libc::O_DIRECTORY);
        let (handle, status, right) = self.seen(directory, path, flags, how.resolve)?;
        if !how.has(libc::O_PATH) {
            let may = right.check_read().and_then(|()| check_kind(&status));
            notes::refused(handle.as_raw_fd(), may)?;
        }
        let may = check_readable(handle.as_raw_fd(), &status);
        notes::refused(handle.as_raw_fd(), may)?;
        match how.has(libc::O_PATH) {
            true => self.give(handle.as_raw_fd(), how.flags),
            false => self.open_handle(handle.as_raw_fd(), how),
        }
    }

    /// Opens the file of a handle, which was decided about.
    fn open_handle(&self, handle: RawFd, how: How) -> SysResult {
        notes::file(handle);
        self.fds.accept(reopen(handle, how.again())?)
    }

    /// Opens what a path leads to where something may be changed by that.
    fn open_to_change(&self, directory: RawFd, path: &CStr, how: How) -> SysResult {
        /// How often a name may come and go meanwhile.
        const ATTEMPTS: usize = 40;
        let makes = how.has(libc::O_CREAT);
        let exclusive = how.has(libc::O_CREAT | libc::O_EXCL);
        let follow = !how.has(libc::O_NOFOLLOW) && !exclusive;
        for _ in 0..ATTEMPTS {
            let found = self.find(directory, path, follow, how.resolve)?;
            match &found.object {
                Some(_) if exclusive => return Err(Errno::EEXIST),
                Some((handle, status)) => return self.open_found(&found, handle, status, how),
                None if !makes => return Err(Errno::ENOENT),
                None => match self.make(&found, how) {
                    Err(Errno::EEXIST) if !exclusive => {}
                    result => return result,
                },
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Makes a file that is not there.
    fn make(&self, found: &Found, how: How) -> SysResult {
        if found.place.wants_directory() {
            return Err(Errno::EISDIR);
        }
        if !self.may_change(found)? {
            return Err(notes::denied(Errno::EROFS));
        }
        check_mode(how.mode)?;
        let flags = how.flags & (WRITING | libc::O_ACCMODE | libc::O_TRUNC)
            | libc::O_CREAT
            | libc::O_EXCL
            | libc::O_NOFOLLOW
            | libc::O_NOCTTY;
        let (parent, name) = (found.place.directory(), found.place.plain_name());
        self.fds
            .accept(pass!(OPENAT, parent, &*name, flags, u64::from(how.mode))?)
    }

    /// Opens a file that is there.
    fn open_found(
        &self,
        found: &Found,
        handle: &impl AsRawFd,
        status: &Status,
        how: How,
    ) -> SysResult {
        let fd = handle.as_raw_fd();
        if how.has(TMPFILE) {
            if !status.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            if !self.may_change(found)? {
                return Err(notes::denied(Errno::EROFS));
            }
            check_mode(how.mode)?;
            let flags = how.flags
                & (WRITING | libc::O_ACCMODE | libc::O_EXCL | TMPFILE)
                & !libc::O_NOFOLLOW;
            return self
                .fds
                .accept(pass!(OPENAT, fd, c".", flags, u64::from(how.mode))?);
        }
        if status.is_directory() {
            return Err(Errno::EISDIR);
        }
        if how.has(libc::O_DIRECTORY) {
            return Err(Errno::ENOTDIR);
        }
        let may = self.right_of(found)?.check_read();
        let may = may.and_then(|()| check_kind(status));
        notes::refused(fd, may.and_then(|()| check_readable(fd, status)))?;
        if how.has(libc::O_CREAT) {
            check_existing(&found.place, status)?;
        }
        if how.writes() && !status.is_writable_device() {
            notes::refused(fd, self.check_writable(found, status))?;
        }
        self.open_handle(fd, how)
    }

    /// Refuses to let what was found be written.
    pub(super) fn check_writable(&self, found: &Found, status: &Status) -> SysResult<()> {
        if status.device().is_some() || !self.may_change(found)? {
            return Err(Errno::EROFS);
        }
        // What root writes into it would be executed with those rights, outside of the micro-VM.
        match status.gives_rights() {
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }
}

/// What a checkpoint looks like from outside.
pub(super) const CHECKPOINT_LIKE: &CStr = c"/dev/null";

/// Refuses what a task may not open at all.
fn check_kind(file: &Status) -> SysResult<()> {
    match file.kind() {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO => Ok(()),
        _ if file.is_plain_device() => Ok(()),
        libc::S_IFLNK => Err(Errno::ELOOP),
        libc::S_IFSOCK => Err(Errno::ENXIO),
        _ => Err(Errno::EACCES),
    }
}

/// Refuses a mode that would let others have the rights of the task's user, outside of the micro-VM.
pub(super) fn check_mode(mode: u32) -> SysResult<()> {
    match mode & (libc::S_ISUID | libc::S_ISGID) {
        0 => Ok(()),
        _ => Err(notes::denied(Errno::EPERM)),
    }
}

pub(super) fn open(task: &mut Task, [path, flags, mode, ..]: Args) -> SysResult {
    openat(task, [CWD, path, flags, mode, 0, 0])
}

pub(super) fn openat(task: &mut Task, [directory, path, flags, mode, ..]: Args) -> SysResult {
    let how = How::lenient(flags as i32, mode)?;
    let path = task.memory.path(path)?;
    let directory = directory_for(task, directory, &path)?;
    open_any(task, directory, &path, how)
}

/// Opens what is the task's own to see, or a file of the host's.
fn open_any(task: &mut Task, directory: RawFd, path: &CStr, how: How) -> SysResult {
    if let Some(opened) = procfs::open(task, directory, path, how.flags) {
        return opened;
    }
    if let Some(opened) = terminals::open(task, path, how.flags) {
        return opened;
    }
    task.scope().open(directory, path, how)
}

/// Opens a file of the host's by its absolute path, as `open` does.
pub(super) fn open_host_file(task: &Task, path: &CStr, flags: i32) -> SysResult {
    task.scope()
        .open(libc::AT_FDCWD, path, How::lenient(flags, 0)?)
}

/// What stands for a file that the guest could open for reading (`O_PATH`); the descriptor is the broker's.
pub(super) fn readable(task: &Task, path: &CStr, follows: bool) -> SysResult<OwnedFd> {
    let path = match special(path, crate::process::id()) {
        Some(Special::Fd(fd)) => return task.fds.duplicate(task.fds.open(fd)?),
        Some(Special::Program) => &task.shared.program,
        Some(Special::Checkpoint) => return Err(Errno::EACCES),
        None => path,
    };
    let flags = match follows {
        true => 0,
        false => libc::O_NOFOLLOW,
    };
    let (handle, status, right) = task.scope().seen(libc::AT_FDCWD, path, flags, 0)?;
    right.check_read()?;
    if !status.is_link() {
        check_kind(&status)?;
    }
    check_readable(handle.as_raw_fd(), &status)?;
    Ok(handle)
}

pub(super) fn creat(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    openat(task, [CWD, path, flags as u64, mode, 0, 0])
}

pub(super) fn openat2(task: &mut Task, [directory, path, how, size, ..]: Args) -> SysResult {
    let how = task.memory.structure::<24>(how, size)?;
    let how = How::strict(&how)?;
    let path = task.memory.path(path)?;
    // In a root of its own, an absolute path begins at the directory as well.
    let directory = match how.resolve & libc::RESOLVE_IN_ROOT {
        0 => directory_for(task, directory, &path)?,
        _ => task.fds.directory(directory)?,
    };
    match how.resolve {
        0 => open_any(task, directory, &path, how),
        _ => task.scope().open(directory, &path, how),
    }
}
