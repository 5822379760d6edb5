// SPDX-License-Identifier: GPL-2.0

//! A region, and what keeps many of them.

use bitflags::bitflags;

use crate::addr::Range;
#[cfg(doc)]
use crate::entry::Owner;
use crate::entry::Perm;

bitflags! {
    /// What is known about a region for as long as it is mapped.
    #[derive(Default)]
    pub struct Marks: u8 {
        /// Its permission and its content are final.
        const SEALED = 1 << 0;
        /// It is, or was, writable; noted where nothing is ever to be writable and executable.
        const WRITABLE = 1 << 1;
        /// It is, or was, executable; likewise.
        const EXECUTABLE = 1 << 2;
    }
}

impl Marks {
    /// What to note of a region that gets this permission.
    pub(crate) fn of(perm: Perm) -> Self {
        let mut marks = Self::empty();
        marks.set(Self::WRITABLE, perm.contains(Perm::W));
        marks.set(Self::EXECUTABLE, perm.contains(Perm::X));
        marks
    }
}

/// What the pages of a region are made from: zeros, or a file at an offset.
pub trait Backing: Clone {
    /// The backing of what begins `bytes` further on.
    fn advance(&self, bytes: u64) -> Self;

    /// Whether `next` is what comes `bytes` after `self`; with 0 bytes, whether both are the same.
    fn continues(&self, bytes: u64, next: &Self) -> bool;

    /// Whether the pages begin as zeros, of the micro-VM's own.
    fn is_anonymous(&self) -> bool;

    /// Whether everybody has the pages themselves, also to write to ([`Owner::Live`]).
    fn is_live(&self) -> bool {
        false
    }

    /// Whether the pages are those of user memory, as long as its owner lets us have them ([`Owner::User`]).
    /// Such a backing is live.
    fn is_user(&self) -> bool {
        false
    }
}

/// A range with one backing and one permission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region<B> {
    /// Where it is.
    pub range: Range,
    /// The most that a guest may do with its pages.
    pub perm: Perm,
    /// What is known about it; none for a new one.
    pub marks: Marks,
    /// What its first page is made from.
    pub backing: B,
}

impl<B: Backing> Region<B> {
    /// Whether this region and `next` are one to everybody.
    pub(crate) fn joins(&self, next: &Self) -> bool {
        self.range.end() == next.range.start()
            && self.perm == next.perm
            && self.marks == next.marks
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
            marks: self.marks,
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
    /// The limit of regions, or of views, would be exceeded.
    TooMany,
    /// A part of the range is sealed.
    Sealed,
    /// A part of the range is writable, or others write to it, and so its content is not final.
    Writable,
    /// A part of the range would be writable and executable, at once or one after the other, or by another
    /// name.
    WritableExecutable,
    /// There is no such view.
    NoView,
    /// The CPU cannot express the permission: `W` without `R`, or `X` alone where it lacks that.
    Perm,
    /// The array could not grow.
    Store(E),
}
