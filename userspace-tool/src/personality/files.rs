// SPDX-License-Identifier: GPL-2.0

//! Paths: looking at what is there, and going there.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::open::CHECKPOINT_LIKE;
use super::paths::{self, Special};
use super::status::{status_at, status_of};
use super::{links, procfs, terminals, Args};
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::profile::Device;
use crate::task::Task;

const CWD: u64 = libc::AT_FDCWD as u64;

/// The directory that a path is relative to; for an absolute path it may be anything.
pub(super) fn directory_for(task: &Task, directory: u64, path: &CStr) -> SysResult<i32> {
    match path.to_bytes().first() {
        Some(b'/') => Ok(libc::AT_FDCWD),
        _ => task.fds.directory(directory),
    }
}

/// What a path to look at turned out to be.
struct Target {
    directory: i32,
    path: CString,
    flags: i32,
}

/// Copies and translates a path to look at.
fn target(task: &Task, directory: u64, path: u64, flags: i32) -> SysResult<Target> {
    // Since Linux 6.11 a null path is an empty one.
    let path = match path {
        0 if flags & libc::AT_EMPTY_PATH != 0 => CString::default(),
        _ => task.memory.path(path)?,
    };
    let directory = directory_for(task, directory, &path)?;
    if procfs::is_nobodys(task, directory, &path) {
        return Err(Errno::ENOENT);
    }
    let follows = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let special = paths::special(&path, crate::process::id()).filter(|_| follows);
    match special.or_else(|| terminals::opened(&task.fds, &path).map(Special::Fd)) {
        None => Ok(Target {
            directory,
            path,
            flags,
        }),
        Some(Special::Program) => Ok(Target {
            directory: libc::AT_FDCWD,
            path: task.shared.program.clone(),
            flags,
        }),
        Some(Special::Checkpoint) => Ok(Target {
            directory: libc::AT_FDCWD,
            path: CHECKPOINT_LIKE.to_owned(),
            flags,
        }),
        Some(Special::Fd(fd)) => Ok(Target {
            directory: task.fds.open(fd)?,
            path: CString::default(),
            flags: flags | libc::AT_EMPTY_PATH,
        }),
    }
}

pub(super) fn stat(task: &mut Task, [path, buffer, ..]: Args) -> SysResult {
    newfstatat(task, [CWD, path, buffer, 0, 0, 0])
}

pub(super) fn lstat(task: &mut Task, [path, buffer, ..]: Args) -> SysResult {
    let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
    newfstatat(task, [CWD, path, buffer, flags, 0, 0])
}

pub(super) fn fstat(task: &mut Task, [fd, buffer, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    if !task.is_imprecise() {
        let buffer = task.memory.range(buffer, 144)?;
        let _moving = task.fds.hold();
        return pass!(FSTAT, fd, buffer);
    }
    let mut stat = [0; 144];
    {
        let _moving = task.fds.hold();
        pass!(FSTAT, fd, &mut stat)?;
    }
    task.coarsen_stat(&mut stat);
    task.memory.write(buffer, &stat).map(|()| 0)
}

pub(super) fn newfstatat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, buffer, flags, ..] = args;
    let at = target(task, directory, path, flags as i32)?;
    let mut stat = [0; 144];
    if !task.access.reads_all() {
        let handle = look_at(task, &at)?;
        let flags = at.flags | libc::AT_EMPTY_PATH;
        pass!(NEWFSTATAT, handle.as_raw_fd(), c"", &mut stat, flags)?;
        task.coarsen_stat(&mut stat);
        return task.memory.write(buffer, &stat).map(|()| 0);
    }
    // Nothing is hidden here but what is the broker's own.
    pass!(NEWFSTATAT, at.directory, &*at.path, &mut stat, at.flags)?;
    if word(&stat, 0) == procfs::device() {
        let handle = look_at(task, &at)?;
        pass!(FSTAT, handle.as_raw_fd(), &mut stat)?;
    }
    task.coarsen_stat(&mut stat);
    task.memory.write(buffer, &stat).map(|()| 0)
}

/// A handle on what exists for the task; what is in `/proc` must be of its own: a link may have led there.
fn look_at(task: &Task, at: &Target) -> SysResult<OwnedFd> {
    let flags = at.flags & (libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH);
    let handle = task.scope().look(at.directory, &at.path, flags)?;
    procfs::check_somebodys(task, handle.as_raw_fd())?;
    Ok(handle)
}

pub(super) fn statx(task: &mut Task, [directory, path, flags, mask, buffer, _]: Args) -> SysResult {
    let at = target(task, directory, path, flags as i32)?;
    let mut statx = [0; 256];
    if !task.access.reads_all() {
        let handle = look_at(task, &at)?;
        let flags = at.flags | libc::AT_EMPTY_PATH;
        pass!(STATX, handle.as_raw_fd(), c"", flags, mask, &mut statx)?;
        task.coarsen_statx(&mut statx);
        return task.memory.write(buffer, &statx).map(|()| 0);
    }
    pass!(STATX, at.directory, &*at.path, at.flags, mask, &mut statx)?;
    if libc::makedev(word32(&statx, 136), word32(&statx, 140)) == procfs::device() {
        let handle = look_at(task, &at)?;
        let flags = libc::AT_EMPTY_PATH;
        pass!(STATX, handle.as_raw_fd(), c"", flags, mask, &mut statx)?;
    }
    task.coarsen_statx(&mut statx);
    task.memory.write(buffer, &statx).map(|()| 0)
}

pub(super) fn statfs(task: &mut Task, [path, buffer, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let handle = task.scope().look(libc::AT_FDCWD, &path, 0)?;
    let buffer = task.memory.range(buffer, 120)?;
    pass!(FSTATFS, handle.as_raw_fd(), buffer)
}

pub(super) fn fstatfs(task: &mut Task, [fd, buffer, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let buffer = task.memory.range(buffer, 120)?;
    let _moving = task.fds.hold();
    pass!(FSTATFS, fd, buffer)
}

pub(super) fn access(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    faccessat2(task, [CWD, path, mode, 0, 0, 0])
}

pub(super) fn faccessat(task: &mut Task, [directory, path, mode, ..]: Args) -> SysResult {
    faccessat2(task, [directory, path, mode, 0, 0, 0])
}

pub(super) fn faccessat2(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, mode, flags, ..] = args;
    let at = target(task, directory, path, flags as i32)?;
    let value = match task.access.reads_all() {
        true => pass!(FACCESSAT2, at.directory, &*at.path, mode, at.flags)?,
        false => may_access(task, &at, mode)?,
    };
    // The host would let it be written; here it must be a file that the task may change as well.
    if mode & libc::W_OK as u64 != 0 && !may_write(task, &at)? {
        return Err(Errno::EROFS);
    }
    Ok(value)
}

/// [`faccessat2`] of what exists for the task.
fn may_access(task: &Task, at: &Target, mode: u64) -> SysResult {
    let handle = look_at(task, at)?;
    let flags = at.flags & !libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let value = pass!(FACCESSAT2, handle.as_raw_fd(), c"", mode, flags)?;
    let executes = mode & libc::X_OK as u64 != 0 && !at.path.is_empty();
    if executes && status_of(handle.as_raw_fd())?.kind() == libc::S_IFREG {
        task.scope().check_execute(handle.as_fd())?;
    }
    Ok(value)
}

/// Whether what is at a path may be written, as far as it is not the kernel that decides.
fn may_write(task: &Task, at: &Target) -> SysResult<bool> {
    let flags = at.flags & !libc::AT_EACCESS;
    let status = status_at(at.directory, &at.path, flags)?;
    // Other terminals than those that it has open are not there.
    if status.is_writable_device() || status.device() == Some(Device::Pts) {
        return Ok(true);
    }
    let scope = task.scope();
    if at.path.is_empty() && at.directory != libc::AT_FDCWD {
        let fd = task.fds.duplicate(at.directory)?;
        let fd = fd.as_raw_fd();
        return scope.may_change_open(fd, &status_of(fd)?);
    }
    let path = if at.path.is_empty() { c"." } else { &at.path };
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    match scope.find(at.directory, path, follow, 0) {
        Ok(found) => scope.may_change(&found),
        // Over a magic link, which nothing is changed over.
        Err(Errno::ELOOP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

pub(super) fn readlink(task: &mut Task, [path, buffer, size, ..]: Args) -> SysResult {
    readlinkat(task, [CWD, path, buffer, size, 0, 0])
}

pub(super) fn readlinkat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, buffer, size, ..] = args;
    let size = size as u32 as i32;
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.memory.path(path)?;
    let at = directory_for(task, directory, &path)?;
    let text = match paths::special(&path, crate::process::id()) {
        Some(Special::Program) => task.shared.program.as_bytes().to_vec(),
        // `/dev/fd` and `/dev/stdin` are links on the host as well, with a constant text.
        Some(Special::Fd(fd)) if path.as_bytes().starts_with(b"/proc") => {
            let _moving = task.fds.hold();
            let fd = task.fds.open(fd)?;
            terminals::path_of(fd).map_or_else(|| links::path_of(fd), Ok)?
        }
        Some(Special::Checkpoint) => return Err(Errno::EINVAL),
        _ if path.is_empty() => {
            let (buffer, size) = task.memory.buffer(buffer, size as u64)?;
            let _moving = task.fds.hold();
            return pass!(READLINKAT, at, &*path, buffer, size);
        }
        _ => procfs::link(task, at, &path)?,
    };
    let text = text.get(..size as usize).unwrap_or(&text);
    task.memory.write(buffer, text)?;
    Ok(text.len() as u64)
}

pub(super) fn getcwd(task: &mut Task, [buffer, size, ..]: Args) -> SysResult {
    let (buffer, size) = task.memory.buffer(buffer, size)?;
    pass!(GETCWD, buffer, size)
}

pub(super) fn chdir(task: &mut Task, [path, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let at = libc::AT_FDCWD;
    let directory = match paths::special(&path, crate::process::id()) {
        Some(Special::Fd(fd)) => {
            let _moving = task.fds.hold();
            let fd = task.fds.open(fd)?;
            procfs::goes_to(fd);
            return pass!(FCHDIR, fd);
        }
        _ => task.scope().seen(at, &path, libc::O_DIRECTORY, 0)?.0,
    };
    procfs::check_somebodys(task, directory.as_raw_fd())?;
    procfs::goes_to(directory.as_raw_fd());
    pass!(FCHDIR, directory.as_raw_fd())
}

pub(super) fn fchdir(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let _moving = task.fds.hold();
    procfs::goes_to(fd);
    pass!(FCHDIR, fd)
}

pub(super) fn umask(_: &mut Task, [mask, ..]: Args) -> SysResult {
    pass!(UMASK, mask)
}
