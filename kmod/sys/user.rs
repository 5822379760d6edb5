// SPDX-License-Identifier: GPL-2.0

//! Memory of the calling process's, of which it is told when it changes.

use core::ptr::NonNull;

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::{
    ffi,
    frame::Frame, //
};

/// Who uses user memory.
pub(crate) trait UserMemory {
    /// The addresses from `start` to `end` change: nobody uses what was there behind this. Under the lock that
    /// [`UserPages::is_stale`] wants, this calls `begin` first. It may be called by whoever allocates memory, so
    /// that it must neither sleep nor wait for a lock that one may hold who does.
    fn take(&self, begin: impl FnOnce(), start: u64, end: u64);
}

/// The memory of a process, whose owner is told of changes as long as this lives.
///
/// # Invariants
///
/// The pointer is one that `uvisor_user_bind()` gave.
pub(crate) struct UserPages(NonNull<ffi::User>);

// SAFETY: The functions may be called by any thread; those that are about the calling process say so.
unsafe impl Send for UserPages {}
// SAFETY: As above.
unsafe impl Sync for UserPages {}

impl UserPages {
    /// The calling process's; `owner` is told.
    ///
    /// # Safety
    ///
    /// `owner` must stay where it is until this is dropped.
    pub(crate) unsafe fn bind<T: UserMemory>(owner: &T) -> Result<Self> {
        // SAFETY: `take::<T>` takes what is given with it, which stays there by the caller's promise.
        let user = unsafe { ffi::uvisor_user_bind(core::ptr::from_ref(owner).cast(), take::<T>) };
        // INVARIANT: Just made.
        Ok(Self(NonNull::new(from_err_ptr(user)?).ok_or(ENOMEM)?))
    }

    /// Whether it is the calling process's.
    pub(crate) fn is_current(&self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { ffi::uvisor_user_is_current(self.0.as_ptr()) }
    }

    /// Which state it is in, once it does not change; may sleep.
    pub(crate) fn begin(&self) -> usize {
        // SAFETY: By the type's invariant; sleeping is allowed.
        unsafe { ffi::uvisor_user_begin(self.0.as_ptr()) }
    }

    /// Whether something changed since [`Self::begin`] gave `state`, or is about to. The caller holds the lock of
    /// [`UserMemory::take`].
    pub(crate) fn is_stale(&self, state: usize) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { ffi::uvisor_user_is_stale(self.0.as_ptr(), state) }
    }
}

impl Drop for UserPages {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; nobody has it any more.
        unsafe { ffi::uvisor_user_unbind(self.0.as_ptr()) };
    }
}

/// The page that the calling process has at `address`, made as by an access of its own, which writes if it is to
/// `write`; `EFAULT` if there is none. It stays the process's only until the owner is told that it goes.
pub(crate) fn page(address: u64, write: bool) -> Result<Frame> {
    let mut phys = 0;
    // SAFETY: The function takes any address; sleeping is allowed. CAST: Both are 64 bits.
    to_result(unsafe { ffi::uvisor_user_page(address as usize, write, &mut phys) })?;
    // SAFETY: The function returned a reference.
    Ok(unsafe { Frame::from_raw(phys) })
}

/// Copies from the calling process's memory.
pub(crate) fn read(address: u64, to: &mut [u8]) -> Result {
    let address = UserPtr::from_addr(usize::try_from(address)?);
    UserSlice::new(address, to.len()).reader().read_slice(to)
}

/// Copies to the calling process's memory.
pub(crate) fn write(address: u64, from: &[u8]) -> Result {
    let address = UserPtr::from_addr(usize::try_from(address)?);
    UserSlice::new(address, from.len())
        .writer()
        .write_slice(from)
}

/// # Safety
///
/// Called by `uvisor_user_invalidate()`, with what [`UserPages::bind`] gave.
unsafe extern "C" fn take<T: UserMemory>(
    owner: *mut c_void,
    user: *mut ffi::User,
    state: c_ulong,
    start: c_ulong,
    end: c_ulong,
) {
    // SAFETY: The owner is there until the notifier is removed, which waits for this.
    let owner = unsafe { &*owner.cast::<T>() };
    // SAFETY: As above, the notifier is there.
    let begin = || unsafe { ffi::uvisor_user_set_seq(user, state) };
    // CAST: All are 64 bits.
    owner.take(begin, start as u64, end as u64);
}
