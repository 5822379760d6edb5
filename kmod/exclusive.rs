// SPDX-License-Identifier: GPL-2.0

//! A value that one thread at a time may use, and for which nobody waits.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    },
    sync::atomic::{
        AtomicBool,
        Ordering::{
            Acquire,
            Release, //
        }, //
    }, //
};

/// The value; whoever comes while it is in use is sent away.
pub(crate) struct Exclusive<T> {
    busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: The value is reached by the one thread whose `try_use` succeeded, until its `InUse` is
// dropped, and so moves from thread to thread.
unsafe impl<T: Send> Sync for Exclusive<T> {}

impl<T> Exclusive<T> {
    /// One that is free.
    pub(crate) const fn new(value: T) -> Self {
        Self {
            busy: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, if nobody is using it.
    #[inline(always)]
    pub(crate) fn try_use(&self) -> Option<InUse<'_, T>> {
        // INVARIANT: It was not set, so nobody else has one.
        (!self.busy.swap(true, Acquire)).then(|| InUse {
            of: self,
            _value: PhantomData,
        })
    }
}

/// The value in use; it is free again when this is dropped.
///
/// # Invariants
///
/// `busy` is set, and this is the only value of the type for its [`Exclusive`].
pub(crate) struct InUse<'a, T> {
    of: &'a Exclusive<T>,
    /// It is as good as the reference that it gives.
    _value: PhantomData<&'a mut T>,
}

impl<T> Deref for InUse<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: By the invariant nobody else has a reference.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for InUse<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above, and `self` is borrowed mutably.
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for InUse<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.of.busy.store(false, Release);
    }
}
