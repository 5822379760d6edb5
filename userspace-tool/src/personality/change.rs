// SPDX-License-Identifier: GPL-2.0

//! Making, removing, renaming and linking files.
//!
//! All of these act on a name in a directory. Where the directory is decides; the kernel follows no link
//! at the name itself.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};

use super::files::directory_for;
use super::links::link_to;
use super::open::check_mode;
use super::paths::{special, Place, Scope, Special};
use super::status::{status_at, status_of};
use super::Args;
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::task::Task;

const CWD: u64 = libc::AT_FDCWD as u64;

impl Scope<'_> {
    /// The place of a name that is to be made. One that is there already is `EEXIST` everywhere, as on a
    /// file system that is read-only.
    pub(super) fn place_to_make(&self, directory: RawFd, path: &CStr) -> SysResult<Place> {
        let place = self.place(directory, path, 0)?;
        if self.access.contains(place.directory())? {
            return Ok(place);
        }
        let status = status_of(place.directory())?;
        // What is in a directory that only leads somewhere is not told.
        let right = self.access.decide(place.directory(), &status);
        right.check_read().map_err(|_| Errno::EROFS)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        match status_at(place.directory(), &place.plain_name(), flags) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Err(notes::denied(Errno::EROFS)),
            Err(errno) => Err(errno),
        }
    }

    /// Refuses what has not both its ends where the task may change files. With one, the end of the tree is like
    /// the end of a file system, so that programs copy instead.
    fn check_both(&self, one: bool, other: bool) -> SysResult<()> {
        match (one, other) {
            (true, true) => Ok(()),
            (false, false) => Err(notes::denied(Errno::EROFS)),
            _ => Err(notes::denied(Errno::EXDEV)),
        }
    }

    pub(super) fn make_directory(&self, directory: RawFd, path: &CStr, mode: u64) -> SysResult {
        let place = self.place_to_make(directory, path)?;
        // The kernel itself ignores the bits that would give rights.
        pass!(MKDIRAT, place.directory(), &*place.name, mode)
    }

    pub(super) fn make_node(&self, directory: RawFd, path: &CStr, mode: u32) -> SysResult {
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {}
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFDIR => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        }
        check_mode(mode)?;
        let place = self.place_to_make(directory, path)?;
        let (parent, mode) = (place.directory(), u64::from(mode));
        pass!(MKNODAT, parent, &*place.name, mode, 0)
    }

    pub(super) fn make_link(&self, target: &CStr, directory: RawFd, path: &CStr) -> SysResult {
        // What it leads to is decided when it is used.
        let place = self.place_to_make(directory, path)?;
        pass!(SYMLINKAT, target, place.directory(), &*place.name)
    }

    pub(super) fn remove(&self, directory: RawFd, path: &CStr, flags: i32) -> SysResult {
        if flags & !libc::AT_REMOVEDIR != 0 {
            return Err(Errno::EINVAL);
        }
        let place = self.place_to_change(directory, path)?;
        self.access
            .check_free(place.directory(), &place.plain_name())?;
        pass!(UNLINKAT, place.directory(), &*place.name, flags)
    }

    pub(super) fn rename(
        &self,
        (old_directory, old): (RawFd, &CStr),
        (new_directory, new): (RawFd, &CStr),
        flags: u32,
    ) -> SysResult {
        if flags & libc::RENAME_WHITEOUT != 0 {
            // It would leave a device behind.
            return Err(Errno::EPERM);
        }
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        let old = self.place(old_directory, old, 0)?;
        let new = self.place(new_directory, new, 0)?;
        let (from, to) = (old.directory(), new.directory());
        self.check_both(self.access.contains(from)?, self.access.contains(to)?)?;
        self.access.check_free(from, &old.plain_name())?;
        self.access.check_free(to, &new.plain_name())?;
        pass!(
            RENAMEAT2,
            from,
            &*old.name,
            to,
            &*new.name,
            u64::from(flags)
        )
    }

    pub(super) fn link(
        &self,
        (old_directory, old): (RawFd, &CStr),
        (new_directory, new): (RawFd, &CStr),
        flags: i32,
    ) -> SysResult {
        if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        if old.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            return self.link_open(old_directory, new_directory, new);
        }
        if let Some(Special::Fd(fd)) = special(old, crate::process::id()).filter(|_| follow) {
            return self.link_open(self.fds.open(fd)?, new_directory, new);
        }
        let found = self.find(old_directory, old, follow, 0)?;
        let Some((_, status)) = &found.object else {
            return Err(Errno::ENOENT);
        };
        let new = self.place_to_make_or_cross(new_directory, new)?;
        let from = found.place.directory();
        self.check_both(
            self.access.contains(from)?,
            self.access.contains(new.directory())?,
        )?;
        if status.is_directory() {
            return Err(Errno::EPERM);
        }
        let name = found.place.plain_name();
        pass!(LINKAT, from, &*name, new.directory(), &*new.name, 0)
    }

    /// The place of a link's new name, wherever that is.
    fn place_to_make_or_cross(&self, directory: RawFd, path: &CStr) -> SysResult<Place> {
        let place = self.place(directory, path, 0)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        match status_at(place.directory(), &place.plain_name(), flags) {
            Ok(_) => Err(Errno::EEXIST),
            Err(_) => Ok(place),
        }
    }

    /// Gives an open file another name, or its first if it was made without one.
    fn link_open(&self, fd: RawFd, directory: RawFd, path: &CStr) -> SysResult {
        let file = self.fds.duplicate(fd)?;
        let status = status_of(file.as_raw_fd())?;
        let place = self.place_to_make_or_cross(directory, path)?;
        self.check_both(
            self.may_change_open(file.as_raw_fd(), &status)?,
            self.access.contains(place.directory())?,
        )?;
        if status.is_directory() {
            return Err(Errno::EPERM);
        }
        let (at, link) = (libc::AT_FDCWD, link_to(file.as_raw_fd()));
        let (parent, flags) = (place.directory(), libc::AT_SYMLINK_FOLLOW);
        pass!(LINKAT, at, &*link, parent, &*place.name, flags)
    }
}

pub(super) fn mkdir(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    mkdirat(task, [CWD, path, mode, 0, 0, 0])
}

pub(super) fn mkdirat(task: &mut Task, [directory, path, mode, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let directory = directory_for(task, directory, &path)?;
    task.scope().make_directory(directory, &path, mode)
}

pub(super) fn mknod(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    mknodat(task, [CWD, path, mode, 0, 0, 0])
}

pub(super) fn mknodat(task: &mut Task, [directory, path, mode, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let directory = directory_for(task, directory, &path)?;
    task.scope().make_node(directory, &path, mode as u32)
}

pub(super) fn symlink(task: &mut Task, [target, path, ..]: Args) -> SysResult {
    symlinkat(task, [target, CWD, path, 0, 0, 0])
}

pub(super) fn symlinkat(task: &mut Task, [target, directory, path, ..]: Args) -> SysResult {
    let (target, path) = (task.memory.path(target)?, task.memory.path(path)?);
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let directory = directory_for(task, directory, &path)?;
    task.scope().make_link(&target, directory, &path)
}

pub(super) fn unlink(task: &mut Task, [path, ..]: Args) -> SysResult {
    unlinkat(task, [CWD, path, 0, 0, 0, 0])
}

pub(super) fn rmdir(task: &mut Task, [path, ..]: Args) -> SysResult {
    unlinkat(task, [CWD, path, libc::AT_REMOVEDIR as u64, 0, 0, 0])
}

pub(super) fn unlinkat(task: &mut Task, [directory, path, flags, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    let directory = directory_for(task, directory, &path)?;
    task.scope().remove(directory, &path, flags as i32)
}

pub(super) fn rename(task: &mut Task, [old, new, ..]: Args) -> SysResult {
    renameat2(task, [CWD, old, CWD, new, 0, 0])
}

pub(super) fn renameat(task: &mut Task, [from, old, to, new, ..]: Args) -> SysResult {
    renameat2(task, [from, old, to, new, 0, 0])
}

pub(super) fn renameat2(task: &mut Task, [from, old, to, new, flags, _]: Args) -> SysResult {
    let (old, new) = (task.memory.path(old)?, task.memory.path(new)?);
    let from = directory_for(task, from, &old)?;
    let to = directory_for(task, to, &new)?;
    task.scope().rename((from, &old), (to, &new), flags as u32)
}

pub(super) fn link(task: &mut Task, [old, new, ..]: Args) -> SysResult {
    linkat(task, [CWD, old, CWD, new, 0, 0])
}

pub(super) fn linkat(task: &mut Task, [from, old, to, new, flags, _]: Args) -> SysResult {
    let (old, new) = (task.memory.path(old)?, task.memory.path(new)?);
    let from = directory_for(task, from, &old)?;
    let to = directory_for(task, to, &new)?;
    task.scope().link((from, &old), (to, &new), flags as i32)
}
