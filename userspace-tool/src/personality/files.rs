// SPDX-License-Identifier: GPL-2.0

//! Paths: opening, looking at, and going to.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use super::paths::{self, Special};
use super::{procfs, terminals, Args};
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::task::Task;

const CWD: u64 = libc::AT_FDCWD as u64;

/// Most bytes of an extended attribute's name, with its NUL.
const XATTR_NAME: usize = 256;

pub(super) fn open(task: &mut Task, [path, flags, mode, ..]: Args) -> SysResult {
    openat(task, [CWD, path, flags, mode, 0, 0])
}

pub(super) fn openat(task: &mut Task, [directory, path, flags, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let directory = directory_for(task, directory, &path)?;
    if let Some(opened) = procfs::open(task, directory, &path, flags as i32) {
        return opened;
    }
    if let Some(opened) = terminals::open(task, &path, flags as i32) {
        return opened;
    }
    paths::open(task, directory, &path, flags as i32)
}

pub(super) fn creat(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    openat(task, [CWD, path, flags as u64, mode, 0, 0])
}

/// The directory that a path is relative to; for an absolute path it may be anything.
fn directory_for(task: &Task, directory: u64, path: &CString) -> SysResult<i32> {
    match path.as_bytes().first() {
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
    let follows = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    match paths::special(&path, std::process::id()).filter(|_| follows) {
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
            path: paths::CHECKPOINT_LIKE.to_owned(),
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
    pass!(FSTAT, fd, task.memory.range(buffer, 144)?)
}

pub(super) fn newfstatat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, buffer, flags, ..] = args;
    let at = target(task, directory, path, flags as i32)?;
    let buffer = task.memory.range(buffer, 144)?;
    pass!(NEWFSTATAT, at.directory, &*at.path, buffer, at.flags)
}

pub(super) fn statx(task: &mut Task, [directory, path, flags, mask, buffer, _]: Args) -> SysResult {
    let at = target(task, directory, path, flags as i32)?;
    let buffer = task.memory.range(buffer, 256)?;
    pass!(STATX, at.directory, &*at.path, at.flags, mask, buffer)
}

pub(super) fn statfs(task: &mut Task, [path, buffer, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    pass!(STATFS, &*path, task.memory.range(buffer, 120)?)
}

pub(super) fn fstatfs(task: &mut Task, [fd, buffer, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    pass!(FSTATFS, fd, task.memory.range(buffer, 120)?)
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
    let value = pass!(FACCESSAT2, at.directory, &*at.path, mode, at.flags)?;
    if mode & libc::W_OK as u64 != 0 {
        // The host would let it be written; here that holds for a few devices only.
        let flags = at.flags & !libc::AT_EACCESS;
        let status = paths::status_at(at.directory, &at.path, flags)?;
        if !status.is_writable() {
            return Err(Errno::EROFS);
        }
    }
    Ok(value)
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
    let text = match paths::special(&path, std::process::id()) {
        Some(Special::Program) => task.shared.program.as_bytes().to_vec(),
        // `/dev/fd` and `/dev/stdin` are links on the host as well, with a constant text.
        Some(Special::Fd(fd)) if path.as_bytes().starts_with(b"/proc") => {
            paths::path_of(task.fds.open(fd)?)?
        }
        Some(Special::Checkpoint) => return Err(Errno::EINVAL),
        _ => {
            let directory = directory_for(task, directory, &path)?;
            let (buffer, size) = task.memory.buffer(buffer, size as u64)?;
            return pass!(READLINKAT, directory, &*path, buffer, size);
        }
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
    let directory = paths::open_directory(&path)?;
    pass!(FCHDIR, directory.as_raw_fd())
}

pub(super) fn fchdir(task: &mut Task, [fd, ..]: Args) -> SysResult {
    pass!(FCHDIR, task.fds.guest(fd)?)
}

pub(super) fn umask(_: &mut Task, [mask, ..]: Args) -> SysResult {
    pass!(UMASK, mask)
}

/// Copies the name of an extended attribute.
fn attribute(task: &Task, name: u64) -> SysResult<CString> {
    task.memory.text(name, XATTR_NAME, Errno::ERANGE)
}

pub(super) fn getxattr(task: &mut Task, [path, name, value, size, ..]: Args) -> SysResult {
    let (path, name) = (task.memory.path(path)?, attribute(task, name)?);
    let (value, size) = task.memory.buffer(value, size)?;
    pass!(GETXATTR, &*path, &*name, value, size)
}

pub(super) fn lgetxattr(task: &mut Task, [path, name, value, size, ..]: Args) -> SysResult {
    let (path, name) = (task.memory.path(path)?, attribute(task, name)?);
    let (value, size) = task.memory.buffer(value, size)?;
    pass!(LGETXATTR, &*path, &*name, value, size)
}

pub(super) fn fgetxattr(task: &mut Task, [fd, name, value, size, ..]: Args) -> SysResult {
    let (fd, name) = (task.fds.guest(fd)?, attribute(task, name)?);
    let (value, size) = task.memory.buffer(value, size)?;
    pass!(FGETXATTR, fd, &*name, value, size)
}

pub(super) fn listxattr(task: &mut Task, [path, list, size, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let (list, size) = task.memory.buffer(list, size)?;
    pass!(LISTXATTR, &*path, list, size)
}

pub(super) fn llistxattr(task: &mut Task, [path, list, size, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let (list, size) = task.memory.buffer(list, size)?;
    pass!(LLISTXATTR, &*path, list, size)
}

pub(super) fn flistxattr(task: &mut Task, [fd, list, size, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (list, size) = task.memory.buffer(list, size)?;
    pass!(FLISTXATTR, fd, list, size)
}
