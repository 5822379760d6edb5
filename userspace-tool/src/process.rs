// SPDX-License-Identifier: GPL-2.0

//! The number of this process, without asking the kernel each time; and processes beside it.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::OnceLock;

use uvisor_uapi::PAGE_SIZE;

use crate::errno::{Errno, SysResult};
use crate::pass;

/// A word that is zero again in each process that is forked, however that is done.
fn forgetful() -> Option<&'static AtomicU32> {
    static PAGE: OnceLock<Option<usize>> = OnceLock::new();
    let address = *PAGE.get_or_init(|| {
        let len = PAGE_SIZE as usize;
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: The kernel chooses an unused range.
        let page = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: The page is ours.
        let forgets = unsafe { libc::madvise(page, len, libc::MADV_WIPEONFORK) } == 0;
        forgets.then_some(page as usize)
    });
    // SAFETY: The page is never unmapped, and this word of it is accessed atomically only.
    address.map(|address| unsafe { AtomicU32::from_ptr(address as *mut u32) })
}

/// The number of this process.
pub(crate) fn id() -> u32 {
    let Some(word) = forgetful() else {
        return std::process::id();
    };
    match word.load(Relaxed) {
        0 => {
            let id = std::process::id();
            word.store(id, Relaxed);
            id
        }
        id => id,
    }
}

/// Makes a copy of this process, of which nobody is told when it ends: it says no SIGCHLD, and who waits for children does
/// not see it. Returns 0 in the copy, which has this thread only.
///
/// # Safety
///
/// The copy does what that of a process with other threads may: if there are any, it takes no locks, and allocates
/// nothing.
pub unsafe fn fork_unseen() -> SysResult<libc::pid_t> {
    // SAFETY: Without CLONE_VM the copy has memory of its own. What it does there is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } {
        -1 => Err(Errno::last()),
        number => Ok(number as libc::pid_t),
    }
}

/// `PIDFD_GET_INFO` with the first version of its structure, of 64 bytes: what is to be filled in, and what was.
pub(crate) const PIDFD_GET_INFO: u64 = 0xc040_ff0b;

/// Asks the kernel about the process that a handle is on.
pub(crate) fn pidfd_info(handle: RawFd, wanted: u64) -> SysResult<[u8; 64]> {
    let mut info = [0; 64];
    info[..8].copy_from_slice(&wanted.to_le_bytes());
    pass!(IOCTL, handle, PIDFD_GET_INFO, &mut info)?;
    Ok(info)
}

/// A process's `stat` in `/proc`, parted into its number with its name, which is in parentheses and may contain anything, and
/// the fields from the third one on.
pub(crate) fn split_stat(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    text.split_at_checked(end + 1)
}

/// The ranges of descriptors from `first` on in which none is to be kept.
pub fn gaps(first: RawFd, kept: &[RawFd]) -> impl Iterator<Item = (RawFd, RawFd)> {
    let mut kept: Vec<RawFd> = kept.iter().copied().filter(|&fd| fd >= first).collect();
    // Nobody has that one.
    kept.push(RawFd::MAX);
    kept.sort_unstable();
    let mut next = first;
    kept.into_iter().filter_map(move |fd| {
        let gap = (fd > next).then(|| (next, fd - 1));
        next = fd.saturating_add(1);
        gap
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn gaps_are_around_what_is_kept() {
        let last = i32::MAX - 1;
        let gaps = |kept: &[i32]| super::gaps(3, kept).collect::<Vec<_>>();
        assert_eq!(gaps(&[]), [(3, last)]);
        assert_eq!(gaps(&[7, 1, 3, 8]), [(4, 6), (9, last)]);
    }

    #[test]
    fn names_in_stat_may_have_all_in_them() {
        let split = |text: &'static str| super::split_stat(text.as_bytes());
        assert_eq!(
            split("1 (a) R) S 2"),
            Some((&b"1 (a) R)"[..], &b" S 2"[..]))
        );
        assert_eq!(split("1 (a)"), Some((&b"1 (a)"[..], &b""[..])));
        assert_eq!(split("1"), None);
    }

    #[test]
    fn a_copy_is_not_waited_for() {
        // SAFETY: The copy ends at once.
        let copy = unsafe { super::fork_unseen() }.unwrap();
        if copy == 0 {
            // SAFETY: It ends the copy.
            unsafe { libc::_exit(7) };
        }
        let (mut status, no_child) = (0, Some(libc::ECHILD));
        let mut wait = |flags| {
            // SAFETY: The status is written.
            let ended = unsafe { libc::waitpid(copy, &mut status, flags) };
            (
                ended,
                std::io::Error::last_os_error().raw_os_error(),
                status,
            )
        };
        let (ended, error, _) = wait(0);
        assert_eq!((ended, error), (-1, no_child));
        let (ended, _, status) = wait(libc::__WCLONE);
        assert_eq!((ended, libc::WEXITSTATUS(status)), (copy, 7));
    }

    #[test]
    fn a_child_has_its_own() {
        assert_eq!(super::id(), std::process::id());
        assert_eq!(super::id(), std::process::id());
        // SAFETY: The child only looks at numbers, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = super::id() == std::process::id();
            // SAFETY: It ends the child at once.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: The status is written.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((ended, status), (child, 0));
    }
}
