// SPDX-License-Identifier: GPL-2.0

//! What links say, and the links of `/proc` to the broker's own open files: their paths, and opening them again.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use crate::errno::{Errno, SysResult};
use crate::memory::PATH_MAX;
use crate::pass;

/// Opens the file of `openat`'s directory, if the path is empty.
const O_EMPTYPATH: i32 = 1 << 26;

/// Opens the file of a descriptor of the broker's again: with an offset of its own.
pub(crate) fn reopen(fd: RawFd, flags: i32) -> SysResult {
    match pass!(OPENAT, fd, c"", flags | O_EMPTYPATH, 0) {
        // The kernel does not know the flag.
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            pass!(OPENAT, libc::AT_FDCWD, &*link_to(fd), flags, 0)
        }
        result => result,
    }
}

/// The magic link to an open file of the broker's.
pub(super) fn link_to(fd: RawFd) -> CString {
    // A number has no NUL in it.
    CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default()
}

/// The path of an open file, as the kernel has it.
pub(crate) fn path_of(fd: RawFd) -> SysResult<Vec<u8>> {
    read_link(libc::AT_FDCWD, &link_to(fd))
}

/// The path of the current directory.
pub(super) fn current() -> SysResult<Vec<u8>> {
    read_link(libc::AT_FDCWD, c"/proc/self/cwd")
}

/// The text of a link that a handle stands for.
pub(super) fn text_of(link: RawFd) -> SysResult<Vec<u8>> {
    match read_link(link, c"") {
        // By a handle, this is said of what is no link.
        Err(Errno::ENOENT) => Err(Errno::EINVAL),
        text => text,
    }
}

/// The text of a link.
pub(super) fn read_link(directory: RawFd, path: &CStr) -> SysResult<Vec<u8>> {
    let mut text = vec![0; PATH_MAX];
    let size = text.len() as u64;
    let len = pass!(READLINKAT, directory, path, text.as_mut_slice(), size)?;
    text.truncate(len as usize);
    Ok(text)
}
