// SPDX-License-Identifier: GPL-2.0

//! What this crate needs of whoever uses it.

use core::sync::atomic::AtomicU64;

use crate::addr::Hpa;
use crate::entry::Owner;
use crate::geometry::ENTRIES;

/// What the module, or a test, supplies.
///
/// A table address passed to a method is one that [`Host::alloc_table`] gave and
/// [`Host::free_table`] did not get yet; this crate makes up none. There may be a host for each
/// [`Tree`](crate::Tree), whose allocations it accounts for; but trees that were cloned from each
/// other have tables and frames in common, so that each host must know those of the others, and
/// their references must be atomic if trees are used by several threads.
///
/// # Safety
///
/// [`Host::entries`] must give the very table that [`Host::alloc_table`] made, each time the same
/// memory, and that memory must be used for nothing else until it goes to [`Host::free_table`].
/// References must be counted as said below.
pub unsafe trait Host {
    /// Why there is no table.
    type Error;

    /// Makes a table: a page of zeros, with one reference.
    fn alloc_table(&mut self) -> Result<Hpa, Self::Error>;

    /// Takes another reference on a table.
    fn share_table(&self, table: Hpa);

    /// Whether a table has more than one reference. Whoever sees that it has not also sees what those
    /// did who dropped theirs.
    fn is_table_shared(&self, table: Hpa) -> bool;

    /// Drops a reference on a table; true if it was the last: the table is then the caller's alone,
    /// who gives it to [`Host::free_table`].
    fn put_table(&mut self, table: Hpa) -> bool;

    /// Takes back a table without references. No CPU has it cached, if the caller of this crate flushed
    /// when told to.
    fn free_table(&mut self, table: Hpa);

    /// The entries of a table. They are atomic because CPUs walk them at any time.
    fn entries(&self, table: Hpa) -> &[AtomicU64; ENTRIES];

    /// Takes another reference on a frame, for the leaf of another tree; fails if there can be no more.
    fn share_frame(&self, frame: Hpa, owner: Owner) -> Result<(), Self::Error>;

    /// Whether a frame that is no file's has more than one reference, as [`Host::is_table_shared`].
    fn is_frame_shared(&self, frame: Hpa) -> bool;

    /// Drops the reference that a leaf had on `frame`; one of [`Owner::Lent`] or [`Owner::User`] had none.
    fn put_frame(&mut self, frame: Hpa, owner: Owner);

    /// Whether the CPU has execute-only pages; without them the permission `X` alone is refused.
    fn exec_only(&self) -> bool {
        false
    }
}
