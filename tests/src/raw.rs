// SPDX-License-Identifier: GPL-2.0

//! Calls as the kernel sees them, without what the library checks before.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::tap::Outcome;

/// Calls `command` with `argument`; an error is the error number.
pub fn ioctl(fd: &impl AsFd, command: u32, argument: usize) -> Result<i32, i32> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: The module checks the address; the callers give memory that they own, or none.
    match unsafe { libc::ioctl(fd, u64::from(command) as _, argument) } {
        value if value >= 0 => Ok(value),
        _ => Err(errno()),
    }
}

/// Calls `command` with a structure, which may be written.
pub fn ioctl_with<T>(fd: &impl AsFd, command: u32, argument: &mut T) -> Result<i32, i32> {
    ioctl(fd, command, argument as *mut T as usize)
}

/// The error number of the last call that failed.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Maps `len` bytes of `fd`, or anonymous memory for none.
pub fn mmap(
    fd: Option<&dyn AsRawFd>,
    len: usize,
    prot: i32,
    flags: i32,
    offset: i64,
) -> Result<*mut u8, i32> {
    let (fd, flags) = match fd {
        Some(fd) => (fd.as_raw_fd(), flags),
        None => (-1, flags | libc::MAP_ANONYMOUS),
    };
    // SAFETY: The kernel chooses an unused place.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
    if at == libc::MAP_FAILED {
        Err(errno())
    } else {
        Ok(at.cast())
    }
}

/// Unmaps what [`mmap`] mapped and nobody uses any more.
pub fn munmap(at: *mut u8, len: usize) {
    // SAFETY: The callers have no reference into it.
    let result = unsafe { libc::munmap(at.cast(), len) };
    assert_eq!(result, 0, "munmap");
}

/// An error unless `result` failed with `errno`.
pub fn fails<T: std::fmt::Debug>(what: &str, result: Result<T, i32>, errno: i32) -> Outcome {
    match result {
        Err(seen) if seen == errno => Ok(()),
        Err(seen) => Err(format!("{what}: {}, wanted {}", name(seen), name(errno))),
        Ok(value) => Err(format!("{what}: gave {value:?}, wanted {}", name(errno))),
    }
}

/// An error unless `result` is good.
pub fn works<T>(what: &str, result: Result<T, i32>) -> Result<T, String> {
    result.map_err(|seen| format!("{what}: {}", name(seen)))
}

/// The text of an error number.
fn name(errno: i32) -> String {
    format!("{} ({errno})", io::Error::from_raw_os_error(errno))
}
