// SPDX-License-Identifier: GPL-2.0

//! What this crate needs of whoever uses it.

use core::sync::atomic::AtomicU64;

use crate::addr::Hpa;
use crate::entry::Owner;
use crate::geometry::ENTRIES;

/// What the module, or a test, supplies.
///
/// A table address passed to a method is one that [`Host::alloc_table`] of the same host gave and
/// [`Host::free_table`] did not get yet; this crate makes up none. Whoever has a
/// [`Tree`](crate::Tree) must pass the same host to all its methods.
///
/// # Safety
///
/// [`Host::entries`] must give the very table that [`Host::alloc_table`] made, each time the same
/// memory, and that memory must be used for nothing else until it goes to [`Host::free_table`].
pub unsafe trait Host {
    /// Why there is no table.
    type Error;

    /// Makes a table: a page of zeros.
    fn alloc_table(&mut self) -> Result<Hpa, Self::Error>;

    /// Takes back a table. No CPU has it cached, if the caller of this crate flushed when told to.
    fn free_table(&mut self, table: Hpa);

    /// The entries of a table. They are atomic because CPUs walk them at any time.
    fn entries(&self, table: Hpa) -> &[AtomicU64; ENTRIES];

    /// Drops the reference that a leaf had on `frame`.
    fn put_frame(&mut self, frame: Hpa, owner: Owner);

    /// Whether the CPU has execute-only pages; without them the permission `X` alone is refused.
    fn exec_only(&self) -> bool {
        false
    }
}
