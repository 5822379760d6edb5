// SPDX-License-Identifier: GPL-2.0

//! What a task may do with a file that is open or mapped already: that is decided by where the file is now.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::access::{Access, Right};
use super::kernels::{check_readable, is_kernels};
use super::links::path_of;
use super::paths::{Found, Scope};
use super::status::{status_of, Identity, Status};
use super::Fds;
use crate::errno::{Errno, SysResult};
use crate::named::NamedFile;
use crate::pass;

impl Scope<'_> {
    /// Whether the file behind a descriptor of the broker's own may be changed by it alone.
    ///
    /// A file without a name is whoever's who can write it.
    pub(super) fn may_change_open(&self, fd: RawFd, status: &Status) -> SysResult<bool> {
        if is_kernels(fd, status)? {
            return Ok(false);
        }
        if status.is_directory() {
            return self.access.contains(fd);
        }
        if !matches!(
            status.kind(),
            libc::S_IFREG | libc::S_IFIFO | libc::S_IFLNK | libc::S_IFSOCK
        ) {
            return Ok(false);
        }
        if status.links == 0 {
            let flags = pass!(FCNTL, fd, libc::F_GETFL, 0)? as i32;
            let writes = matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR);
            return Ok(writes && flags & libc::O_PATH == 0);
        }
        if self.access.names(status) {
            return Ok(true);
        }
        match self.find_open(fd, status)? {
            Some(found) => self.access.contains(found.place.directory()),
            None => Ok(false),
        }
    }

    /// Where the file behind a descriptor of the broker's own is, if it is there.
    ///
    /// A file does not know its directory, so the kernel's text for it says where to look; but that is only
    /// believed if the file is found there.
    fn find_open(&self, fd: RawFd, status: &Status) -> SysResult<Option<Found>> {
        let text = CString::new(path_of(fd)?).map_err(|_| Errno::EINVAL)?;
        if !text.as_bytes().starts_with(b"/") {
            // A pipe, or another file that has no place.
            return Ok(None);
        }
        let Ok(found) = self.find(libc::AT_FDCWD, &text, false, libc::RESOLVE_NO_SYMLINKS) else {
            return Ok(None);
        };
        let there = found.object.as_ref().map(|(_, there)| there.identity);
        Ok((there == Some(status.identity)).then_some(found))
    }

    /// Refuses to let a mapping of the file at a path be executed, if that is not the file any more, or must not be.
    pub(super) fn check_execute_mapped(&self, file: &NamedFile) -> SysResult<()> {
        let text = CString::new(file.path()).map_err(|_| Errno::EACCES)?;
        let found = self.find(libc::AT_FDCWD, &text, false, libc::RESOLVE_NO_SYMLINKS);
        let found = found.map_err(|_| Errno::EACCES)?;
        let there = found.object.as_ref().map(|(_, there)| there.identity);
        match there
            == Some(Identity {
                device: file.device,
                inode: file.inode,
            }) {
            true => self.right_of(&found)?.check_execute(),
            false => Err(Errno::EACCES),
        }
    }

    /// Refuses to execute an open file, or to map it to be executed.
    ///
    /// What has no name is memory of the task's.
    pub(super) fn check_execute(&self, file: BorrowedFd<'_>) -> SysResult<()> {
        if self.access.executes_all() {
            return Ok(());
        }
        let own = self.fds.own(file)?;
        let status = status_of(own.as_raw_fd())?;
        if let Some(right) = self.access.at_once(&status).or(self.access.named(&status)) {
            return right.check_execute();
        }
        if status.links == 0 {
            let own_code = self.access.rules().jit;
            return own_code.then_some(()).ok_or(Errno::EACCES);
        }
        match self.find_open(own.as_raw_fd(), &status)? {
            Some(found) => self.right_of(&found)?.check_execute(),
            None => Err(Errno::EACCES),
        }
    }
}

/// Refuses a file that a task is to have open without having opened it, if it could not; or one that it is to have a path of
/// (`O_PATH`), unless `opens`.
pub(crate) fn check_carried(fds: &Fds, access: &Access, fd: RawFd, opens: bool) -> SysResult<()> {
    let scope = Scope {
        fds,
        access,
        program: c"",
        checkpoint: &[],
    };
    let status = status_of(fd)?;
    check_readable(fd, &status)?;
    let known = access.at_once(&status).or(access.named(&status));
    let right = match known {
        Some(right) => right,
        None if status.is_directory() => access.decide(fd, &status),
        // Memory of the task's that nobody writes any more, such as what it was told of its processes.
        None if status.links == 0 && is_sealed(fd) => return Ok(()),
        None => match scope.find_open(fd, &status)? {
            Some(found) => scope.right_of(&found)?,
            None => Right::Nothing,
        },
    };
    match opens {
        true => right.check_read(),
        false => right.check_seen(),
    }
}

/// Whether a file is in memory, without a name, and for reading only for good.
fn is_sealed(fd: RawFd) -> bool {
    let seals = pass!(FCNTL, fd, libc::F_GET_SEALS, 0);
    seals.is_ok_and(|seals| seals & libc::F_SEAL_WRITE as u64 != 0)
}
