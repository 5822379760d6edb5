// SPDX-License-Identifier: GPL-2.0

//! Who a task is.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*, //
};

use super::ffi;

/// A process, which may have ended.
///
/// # Invariants
///
/// We have a reference.
pub(crate) struct Process(NonNull<bindings::pid>);

// SAFETY: A `struct pid` is made for use by any thread.
unsafe impl Send for Process {}
// SAFETY: As above.
unsafe impl Sync for Process {}

impl Process {
    /// The calling one.
    pub(crate) fn current() -> Result<Self> {
        // SAFETY: A task that makes a system call has a process.
        let pid = unsafe { ffi::uvisor_pid_get() };
        // INVARIANT: The function took a reference.
        Ok(Self(NonNull::new(pid).ok_or(ESRCH)?))
    }

    /// Its number in the calling task's PID namespace; 0 if it has none there, or has ended.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: By the type's invariant it is alive.
        unsafe { ffi::uvisor_pid_number(self.0.as_ptr()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the reference is ours.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}

/// Whether the calling task may administer the whole system (CAP_SYS_ADMIN).
pub(crate) fn is_admin() -> bool {
    // SAFETY: Called from system calls.
    unsafe { ffi::uvisor_is_admin() }
}

/// Whether a signal waits that ends the calling task.
pub(crate) fn is_dying() -> bool {
    // SAFETY: Called from system calls.
    unsafe { ffi::uvisor_is_dying() }
}
