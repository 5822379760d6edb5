// SPDX-License-Identifier: GPL-2.0

//! Whether a path leads over nothing that does not exist for the task.
//!
//! The kernel resolves a path as a whole, and what is at its end is decided about. But over a directory that is hidden it may lead
//! back out (`..`), and an error on the way may be about one: that would tell of each hidden file whether it is there.
//! So such a path is gone step by step before. Another thread may exchange links meanwhile, and see by that whether
//! something exists; never what is in it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, RawFd};

use super::access::Right;
use super::kernels::{file_system, PROC};
use super::links::read_link;
use super::paths::{Scope, STEPS};
use super::status::status_of;
use crate::errno::{Errno, SysResult};

/// Ways of `openat2` to resolve a path from another place than the usual one.
const ELSEWHERE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_BENEATH;

/// Whether a path goes up from what it has gone down to.
fn goes_back(path: &CStr) -> bool {
    let names = path.to_bytes().split(|&byte| byte == b'/');
    let mut names = names
        .filter(|name| !matches!(*name, b"" | b"."))
        .skip_while(|name| *name == b"..");
    names.any(|name| name == b"..")
}

impl Scope<'_> {
    /// Refuses a path over what is hidden, before it is resolved, if it is one that could tell something by success.
    pub(super) fn check_before(
        &self,
        directory: RawFd,
        path: &CStr,
        resolve: u64,
    ) -> SysResult<()> {
        if self.access.reads_all() || self.access.is_assembled() {
            return Ok(());
        }
        let is_plain = || {
            let resolve = resolve | libc::RESOLVE_NO_SYMLINKS;
            !matches!(
                self.handle(directory, path, libc::O_NOFOLLOW, resolve),
                Err(Errno::ELOOP)
            )
        };
        match goes_back(path) || !is_plain() {
            true => self.check_way(directory, path, resolve),
            false => Ok(()),
        }
    }

    /// What an error of a path is for the task, which was about something on it.
    pub(super) fn error_of(
        &self,
        directory: RawFd,
        path: &CStr,
        resolve: u64,
        error: Errno,
    ) -> Errno {
        if error == Errno::ENOENT || self.access.reads_all() {
            return error;
        }
        match self.check_way(directory, path, resolve) {
            Err(Errno::ENOENT) => Errno::ENOENT,
            _ => error,
        }
    }

    /// Goes a path step by step, to the directory of its last name.
    fn check_way(&self, directory: RawFd, path: &CStr, resolve: u64) -> SysResult<()> {
        if resolve & ELSEWHERE != 0 {
            return Ok(());
        }
        let from = |path: &CStr| match path.to_bytes().first() {
            Some(b'/') => self.handle(libc::AT_FDCWD, c"/", 0, 0),
            _ => self.handle(directory, c".", 0, 0),
        };
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|&byte| byte == b'/')
                .rev()
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut here = from(path)?;
        let mut pending = names(path.to_bytes());
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if matches!(name.as_slice(), b"" | b".") {
                continue;
            }
            let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
            let found = self.handle(here.as_raw_fd(), &name, libc::O_NOFOLLOW, 0)?;
            let status = status_of(found.as_raw_fd())?;
            let known = self.access.at_once(&status).or(self.access.named(&status));
            let right = match known {
                Some(right) => right,
                None if status.is_directory() => self.access.decide(found.as_raw_fd(), &status),
                None => match self
                    .access
                    .decide(here.as_raw_fd(), &status_of(here.as_raw_fd())?)
                {
                    Right::Way => Right::Nothing,
                    right => right,
                },
            };
            right.check_seen()?;
            if status.is_link() {
                if file_system(found.as_raw_fd(), &status)? == Some(PROC) {
                    // Its text is not what it leads to.
                    return Ok(());
                }
                links += 1;
                if links > STEPS {
                    return Err(Errno::ELOOP);
                }
                let text = read_link(found.as_raw_fd(), c"")?;
                if text.first() == Some(&b'/') {
                    here = from(c"/")?;
                }
                pending.extend(names(&text));
            } else if status.is_directory() {
                here = found;
            } else {
                // What is behind it is an error of its own.
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_paths_that_go_back() {
        for path in [c"a/..", c"/a/../b", c"../a/b/..", c"a/./../b"] {
            assert!(goes_back(path), "{path:?}");
        }
        for path in [c"a", c"..", c"../../a", c"/a/b..", c"./../a", c"/../a", c""] {
            assert!(!goes_back(path), "{path:?}");
        }
    }
}
