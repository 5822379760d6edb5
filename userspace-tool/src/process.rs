// SPDX-License-Identifier: GPL-2.0

//! The number of this process, without asking the kernel each time.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::OnceLock;

use uvisor_uapi::PAGE_SIZE;

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

#[cfg(test)]
mod tests {
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
