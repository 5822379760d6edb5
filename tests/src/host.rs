// SPDX-License-Identifier: GPL-2.0

//! What tests need of the host.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

/// A memory file with `bytes`, filled up to a whole page.
pub fn memory_file(bytes: &[u8]) -> File {
    // SAFETY: The name is a C string.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: The descriptor is new and ours.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("write to a memory file");
    let len = (bytes.len() as u64).next_multiple_of(4096).max(4096);
    file.set_len(len).expect("size of a memory file");
    file
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) {
    // SAFETY: The set is initialised by zeroing; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    assert_eq!(result, 0, "sched_setaffinity to CPU {cpu}");
}

/// How many CPUs are online.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
