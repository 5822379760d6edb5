// SPDX-License-Identifier: GPL-2.0

//! What a system call that is being served is about, noted where it is used: its arguments are in memory that other
//! threads of the task change, so reading them once more would tell something else.
//!
//! Notes are a thread's own, and there are some only while a call is served that is to be told.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use crate::errno::{Errno, SysResult};
use crate::personality::path_of;

/// What was noted of a call.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The paths that were read, in their order.
    pub(crate) paths: Vec<CString>,
    /// Names in directories that they led to.
    pub(crate) places: Vec<Vec<u8>>,
    /// The flags that a file is opened with.
    pub(crate) flags: i32,
    /// Where the file is that was used last, by the kernel's own text.
    pub(crate) file: Option<Vec<u8>>,
    /// Whether the personality itself refused it.
    pub(crate) denied: bool,
    /// Whether it makes a process, and not a thread.
    pub(crate) forks: bool,
    /// The program, and its arguments.
    pub(crate) program: Option<(Vec<u8>, Vec<Vec<u8>>)>,
    /// An address, and the protocol that is spoken there.
    pub(crate) address: Option<(String, String)>,
    /// The rule of the network's that allows it.
    pub(crate) rule: Option<String>,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static NOTES: RefCell<Notes> = RefCell::default();
}

/// Whether notes are taken.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.get()
}

/// Notes are taken from now on.
pub(crate) fn begin() {
    NOTES.take();
    ON.set(true);
}

/// The notes that were taken.
pub(crate) fn end() -> Notes {
    ON.set(false);
    NOTES.take()
}

/// Notes something, if notes are taken.
#[inline]
pub(crate) fn note(what: impl FnOnce(&mut Notes)) {
    if is_on() {
        NOTES.with_borrow_mut(what);
    }
}

/// Notes which file is used.
#[inline]
pub(crate) fn file(fd: RawFd) {
    note(|notes| notes.file = path_of(fd).ok());
}

/// Notes a name in a directory.
#[inline]
pub(crate) fn place(directory: RawFd, name: &CStr) {
    note(|notes| {
        let mut path = path_of(directory).unwrap_or_default();
        path.push(b'/');
        path.extend_from_slice(name.to_bytes());
        notes.places.push(path);
    });
}

/// Notes which file it is, if it is refused by the personality.
#[inline]
pub(crate) fn refused<T>(fd: RawFd, result: SysResult<T>) -> SysResult<T> {
    if result.is_err() && is_on() {
        file(fd);
        note(|notes| notes.denied = true);
    }
    result
}

/// Notes that it is the personality that refuses something, with this error.
#[inline]
pub(crate) fn denied(errno: Errno) -> Errno {
    note(|notes| notes.denied = true);
    errno
}
