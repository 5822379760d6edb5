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

    /// The file at a path that has no links on it, if it is this one.
    ///
    /// A file does not know its directory, so what it is called says where to look; but that is only believed if the
    /// file is found there.
    fn found_at(&self, path: &[u8], identity: Identity) -> Option<Found> {
        let path = CString::new(path).ok()?;
        let found = self.find(libc::AT_FDCWD, &path, false, libc::RESOLVE_NO_SYMLINKS);
        let found = found.ok()?;
        let (_, there) = found.object.as_ref()?;
        (there.identity == identity).then_some(found)
    }

    /// Where the file behind a descriptor of the broker's own is, if it is there.
    fn find_open(&self, fd: RawFd, status: &Status) -> SysResult<Option<Found>> {
        let path = path_of(fd)?;
        // A pipe, or another file that has no place.
        let has_place = path.starts_with(b"/");
        let found = || self.found_at(&path, status.identity);
        Ok(has_place.then(found).flatten())
    }

    /// What the task may do with the file behind a descriptor of the broker's own, if it is anywhere.
    fn right_of_open(&self, fd: RawFd, status: &Status) -> SysResult<Option<Right>> {
        if let Some(right) = self.access.at_once(status).or(self.access.named(status)) {
            return Ok(Some(right));
        }
        if status.is_directory() {
            return Ok(Some(self.access.decide(fd, status)));
        }
        if status.links == 0 {
            return Ok(None);
        }
        let found = self.find_open(fd, status)?;
        found.map(|found| self.right_of(&found)).transpose()
    }

    /// Refuses to let a mapping of the file at a path be executed, if that is not the file any more, or must not be.
    pub(super) fn check_execute_mapped(&self, file: &NamedFile) -> SysResult<()> {
        let identity = Identity {
            device: file.device,
            inode: file.inode,
        };
        match self.found_at(file.path(), identity) {
            Some(found) => self.right_of(&found)?.check_execute(),
            None => Err(Errno::EACCES),
        }
    }

    /// Refuses to execute an open file, or to map it to be executed.
    pub(super) fn check_execute(&self, file: BorrowedFd<'_>) -> SysResult<()> {
        if self.access.executes_all() {
            return Ok(());
        }
        let own = self.fds.own(file)?;
        let status = status_of(own.as_raw_fd())?;
        match self.right_of_open(own.as_raw_fd(), &status)? {
            Some(right) => right.check_execute(),
            // What has no name is memory of the task's.
            None if status.links == 0 && self.access.rules().jit => Ok(()),
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
    let right = match scope.right_of_open(fd, &status)? {
        Some(right) => right,
        // Memory of the task's that nobody writes any more, such as what it was told of its processes.
        None if status.links == 0 && is_sealed(fd) => return Ok(()),
        None => Right::Nothing,
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
