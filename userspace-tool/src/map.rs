// SPDX-License-Identifier: GPL-2.0

//! A shared mapping of one of the module's files.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::{Error, Result};

/// A shared, readable and writable mapping of a file from its start; unmapped when dropped.
///
/// # Invariants
///
/// `base` is the start of a live mapping of `len` bytes that nobody else unmaps.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: The mapping belongs to the process, not to a thread, and `Mapping` gives out nothing but
// its address.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> Result<Self> {
        Self::of_file(fd, 0, len)
    }

    /// Maps `len` bytes of `fd` from `offset`.
    pub(crate) fn of_file(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| Error::errno_of("mmap", libc::EOVERFLOW))?;
        // SAFETY: Without MAP_FIXED the kernel chooses an unused range, so that no memory that
        // Rust knows of changes.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last("mmap"));
        }
        let base = NonNull::new(base.cast()).ok_or(Error::errno_of("mmap", libc::ENOMEM))?;
        // INVARIANT: The kernel just made this mapping for us.
        Ok(Self { base, len })
    }

    /// The address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes; it never has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of `len` bytes from `offset`, or `None` if they are not all inside.
    ///
    /// Reading or writing there is the caller's affair: what is mapped may be inaccessible
    /// (SIGBUS), and others may change it at any time. It is meant for system calls, which answer
    /// `EFAULT` for what is inaccessible.
    pub fn address(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // The address is computed, not dereferenced, so this needs no unsafe code.
        Some(self.base.as_ptr().wrapping_add(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the range is ours, and no reference into it outlives us.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
