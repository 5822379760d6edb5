// SPDX-License-Identifier: GPL-2.0

//! A region, and what keeps many of them.

use crate::addr::Range;
use crate::entry::Perm;

/// What the pages of a region are made from: zeros, or a file at an offset.
pub trait Backing: Clone {
    /// The backing of what begins `bytes` further on.
    fn advance(&self, bytes: u64) -> Self;

    /// Whether `next` is what comes `bytes` after `self`; with 0 bytes, whether both are the same.
    fn continues(&self, bytes: u64, next: &Self) -> bool;

    /// Whether the pages begin as zeros, of the micro-VM's own.
    fn is_anonymous(&self) -> bool;
}

/// A range with one backing and one permission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region<B> {
    /// Where it is.
    pub range: Range,
    /// The most that a guest may do with its pages.
    pub perm: Perm,
    /// What its first page is made from.
    pub backing: B,
}

impl<B: Backing> Region<B> {
    /// Whether this region and `next` are one to everybody.
    pub(crate) fn joins(&self, next: &Self) -> bool {
        self.range.end() == next.range.start()
            && self.perm == next.perm
            && self.backing.continues(self.range.len(), &next.backing)
    }

    /// The backing of the page of `range` that the region's part of it begins with.
    pub(crate) fn backing_at(&self, range: &Range) -> B {
        let bytes = range.start().0.saturating_sub(self.range.start().0);
        self.backing.advance(bytes)
    }

    /// The same region with only its part in `range`, which must begin inside the region.
    pub(crate) fn with_range(&self, range: Range) -> Self {
        Self {
            range,
            perm: self.perm,
            backing: self.backing_at(&range),
        }
    }
}

/// A growable array, supplied by the host.
pub trait Store<T> {
    /// Why it cannot grow.
    type Error;

    /// All elements.
    fn as_slice(&self) -> &[T];

    /// All elements, to be changed; [`Store::reserve`] was called since the last [`Store::share`].
    fn as_mut_slice(&mut self) -> &mut [T];

    /// Makes the elements this array's own, if others have them as well, with room for so many more;
    /// changes nothing else. An array that has its own and needs no more room allocates nothing.
    fn reserve(&mut self, additional: usize) -> Result<(), Self::Error>;

    /// Another array with the same elements, which both have in common until one is changed.
    fn share(&mut self) -> Result<Self, Self::Error>
    where
        Self: Sized;

    /// Puts `value` before the element `at`, or at the end; there is room, by [`Store::reserve`].
    fn insert(&mut self, at: usize, value: T);

    /// Takes the element `at` out.
    fn remove(&mut self, at: usize) -> Option<T>;
}

/// Why the regions were not changed; nothing happened then.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum RegionError<E> {
    /// A part of the range is mapped.
    Exists,
    /// A part of the range is not mapped.
    Unmapped,
    /// The limit of regions would be exceeded.
    TooMany,
    /// The CPU cannot express the permission: `W` without `R`, or `X` alone where it lacks that.
    Perm,
    /// The array could not grow.
    Store(E),
}
