// SPDX-License-Identifier: GPL-2.0

//! File systems that are the kernel's: which one a file is on, and what of them a task may read.
//!
//! The broker's own `/proc` entries are the broker's, so they are closed to the guest, but for those that it needs and
//! that [`super::procfs`] answers.

use std::cell::Cell;
use std::os::fd::RawFd;

use super::links::path_of;
use super::status::Status;
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;

/// File systems through which the kernel is asked and told things: nothing is changed on them, wherever they
/// are mounted.
const KERNEL_FILE_SYSTEMS: [u64; 27] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x6265_6570, // configfs
    0x6165_676c, // pstorefs
    0xde5e_81e4, // efivarfs
    0x0765_5821, // resctrl
    0x1cd1,      // devpts
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0x0187,      // autofs
    0x6c6f_6f70, // binderfs
    0xabba_1974, // xenfs
    0x454d_444d, // devmem
    0x6e66_7364, // nfsd
    0x6759_6969, // rpc_pipefs
    0x0a64_7361, // functionfs
];

/// Whether an open file is on one of the file systems that are the kernel's.
pub(super) fn is_kernels(fd: RawFd, status: &Status) -> SysResult<bool> {
    Ok(file_system(fd, status)?.is_some_and(|magic| KERNEL_FILE_SYSTEMS.contains(&magic)))
}

/// The number of an open file's file system; none if that is on a disk.
pub(super) fn file_system(fd: RawFd, status: &Status) -> SysResult<Option<u64>> {
    if libc::major(status.identity.device) != 0 {
        return Ok(None);
    }
    // Number 0 is no mount's.
    let mount = status.mount * u64::from(status.is_mount_unique);
    let slot = mount as usize % MOUNTS;
    let known = KNOWN.get();
    if known[slot].0 == mount && mount != 0 {
        return Ok(Some(known[slot].1));
    }
    let mut statfs = [0; 120];
    pass!(FSTATFS, fd, &mut statfs)?;
    let magic = word(&statfs, 0);
    let mut known = known;
    known[slot] = (mount, magic);
    KNOWN.set(known);
    Ok(Some(magic))
}

/// The number of the `/proc` file system.
pub(super) const PROC: u64 = libc::PROC_SUPER_MAGIC as u64;

/// How many mounts are remembered.
const MOUNTS: usize = 8;

thread_local! {
    /// Mounts that were met, and the numbers of their file systems, which do not change while they exist.
    static KNOWN: Cell<[(u64, u64); MOUNTS]> = const { Cell::new([(0, 0); MOUNTS]) };
}

/// File systems whose files are not for a task: reading them acts, or shows the host's inside.
const CLOSED: [u64; 4] = [
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
];

/// What of `/proc` is the machine's and no process's, and tells nothing secret.
const PROC_PUBLIC: [&[u8]; 16] = [
    b"cmdline",
    b"cpuinfo",
    b"devices",
    b"diskstats",
    b"filesystems",
    b"interrupts",
    b"loadavg",
    b"meminfo",
    b"partitions",
    b"softirqs",
    b"stat",
    b"swaps",
    b"sys",
    b"uptime",
    b"version",
    b"vmstat",
];

/// What of its own `/proc` directory a task may have from the host: what tells of the file systems,
/// which are the same for the broker and the task.
const PROC_OWN: [&[u8]; 3] = [b"mounts", b"mountinfo", b"mountstats"];

/// Checks that an open file is not the broker's or the kernel's own.
pub(super) fn check_readable(fd: RawFd, status: &Status) -> SysResult<()> {
    match file_system(fd, status)? {
        Some(magic) if CLOSED.contains(&magic) => Err(Errno::EACCES),
        Some(PROC) => check_proc(fd),
        _ => Ok(()),
    }
}

/// Checks a file of `/proc`.
fn check_proc(fd: RawFd) -> SysResult<()> {
    let path = path_of(fd)?;
    match path.strip_prefix(b"/proc/") {
        None if path == b"/proc" => Ok(()),
        None => Err(Errno::EACCES),
        Some(rest) => {
            let mut parts = rest.split(|&byte| byte == b'/');
            let first = parts.next().unwrap_or_default();
            let own = first == crate::process::id().to_string().as_bytes();
            if !own && first.iter().all(u8::is_ascii_digit) {
                // Whether there is such a process is not told.
                return Err(Errno::ENOENT);
            }
            let public = match (own, parts.next(), parts.next()) {
                (true, Some(name), None) => PROC_OWN.contains(&name),
                _ => PROC_PUBLIC.contains(&first),
            };
            public.then_some(()).ok_or(Errno::EACCES)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::status::status_of;
    use super::*;

    #[test]
    fn processes_are_closed() {
        let check = |path: &str| {
            let file = std::fs::File::open(path).unwrap();
            check_readable(file.as_raw_fd(), &status_of(file.as_raw_fd()).unwrap())
        };
        assert_eq!(check("/proc/self/maps"), Err(Errno::EACCES));
        assert_eq!(check("/proc/1/status"), Err(Errno::ENOENT));
        assert_eq!(check("/proc/1/mountinfo"), Err(Errno::ENOENT));
        assert_eq!(check("/proc/self/mountinfo"), Ok(()));
        assert_eq!(check("/proc/cpuinfo"), Ok(()));
        assert_eq!(check("/proc/sys/kernel/ostype"), Ok(()));
        assert_eq!(check("/proc"), Ok(()));
        assert_eq!(check("/etc/passwd"), Ok(()));
    }
}
