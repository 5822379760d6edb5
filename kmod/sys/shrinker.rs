// SPDX-License-Identifier: GPL-2.0

//! Giving memory back when the kernel has little.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use super::ffi;

/// What can be given back.
pub(crate) trait Reclaim {
    /// About how many pages that is.
    fn count() -> usize;

    /// Gives some of them back, about so many, and says how many; none if nothing can be had now.
    ///
    /// Called by whoever allocates memory, so that it must wait for no lock that one may hold who does.
    fn give_back(pages: usize) -> Option<usize>;
}

/// The kernel asks `T` while this lives.
///
/// # Invariants
///
/// The pointer is to a shrinker that is registered.
pub(crate) struct Shrinker<T>(NonNull<bindings::shrinker>, PhantomData<T>);

// SAFETY: It can be freed by any thread.
unsafe impl<T> Send for Shrinker<T> {}
// SAFETY: Nothing can be done with a reference.
unsafe impl<T> Sync for Shrinker<T> {}

impl<T: Reclaim> Shrinker<T> {
    /// Registers one.
    pub(crate) fn register() -> Result<Self> {
        // SAFETY: Both functions are callable as long as the module is loaded, and the shrinker goes before.
        let shrinker = unsafe { ffi::uvisor_shrinker_new(count::<T>, scan::<T>) };
        // INVARIANT: The function registered it.
        Ok(Self(NonNull::new(shrinker).ok_or(ENOMEM)?, PhantomData))
    }
}

impl<T> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. The function waits until nobody is in it.
        unsafe { bindings::shrinker_free(self.0.as_ptr()) };
    }
}

/// # Safety
///
/// Called by the kernel.
unsafe extern "C" fn count<T: Reclaim>(
    _: *mut bindings::shrinker,
    _: *mut bindings::shrink_control,
) -> c_ulong {
    const EMPTY: c_ulong = c_ulong::MAX - 1;
    match T::count() {
        0 => EMPTY,
        pages => pages.min(EMPTY - 1),
    }
}

/// # Safety
///
/// Called by the kernel.
unsafe extern "C" fn scan<T: Reclaim>(
    _: *mut bindings::shrinker,
    control: *mut bindings::shrink_control,
) -> c_ulong {
    const STOP: c_ulong = c_ulong::MAX;
    // SAFETY: The kernel gives us the structure.
    let (pages, may_wait) = unsafe {
        (
            (*control).nr_to_scan,
            ffi::uvisor_shrinker_may_wait(control),
        )
    };
    if !may_wait {
        return STOP;
    }
    T::give_back(pages).unwrap_or(STOP)
}
