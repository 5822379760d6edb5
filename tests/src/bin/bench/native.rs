// SPDX-License-Identifier: GPL-2.0

//! The same work without a virtual machine.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::machine::{CHUNK, CHUNKS, PAGE};
use uvisor_tests::bench::measure::{time, Samples, Summary};

/// A private mapping; unmapped when dropped.
pub struct Memory {
    base: *mut u8,
    len: usize,
}

impl Memory {
    /// Maps `len` bytes: of `file`, readable, or zeroed and writable.
    pub fn map(len: u64, file: Option<&File>) -> Self {
        let len = len as usize;
        let (prot, flags, fd) = match file {
            Some(file) => (libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd()),
            None => (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
            ),
        };
        // SAFETY: The kernel chooses an unused range.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap");
        Self {
            base: base.cast(),
            len,
        }
    }

    /// The first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Copies bytes to it, which must be writable.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: The range is inside, and the mapping ours.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The range is ours.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// The first touch of a page, of memory or of a file.
pub fn touch(file: Option<&File>) -> Summary {
    let memory = Memory::map(CHUNKS * CHUNK * PAGE, file);
    let pass = |chunk: u64| {
        time(|| {
            for page in 0..CHUNK {
                let offset = (chunk * CHUNK + page) * PAGE;
                // SAFETY: The offset is inside; only memory without a file is writable.
                unsafe {
                    let word = memory.base().add(offset as usize).cast::<u64>();
                    match file {
                        Some(_) => drop(word.read_volatile()),
                        None => word.write_volatile(page),
                    }
                }
            }
        })
    };
    let mut all = Samples::with_capacity(CHUNKS as usize);
    for chunk in 0..CHUNKS {
        let first = pass(chunk);
        let second = pass(chunk);
        if chunk >= CHUNKS / 8 {
            all.push(first.saturating_sub(second) / CHUNK);
        }
    }
    all.summary()
}
