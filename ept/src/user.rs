// SPDX-License-Identifier: GPL-2.0

//! Pages of user memory, which their owner takes back whenever it likes.
//!
//! Nobody here has a reference on such a page. Whoever is told that it goes (a notifier of the kernel's)
//! may have to do so while somebody holds the lock of the space, and waits for memory; so it does it
//! without: it has the page's [`UserEntry`], and clears it. What makes that possible:
//!
//! * Only whoever has the space's lock makes an entry, by [`Space::user_entry`] and [`UserEntry::set`], and
//!   tells who may have to clear it under a lock that both take.
//! * Whoever is about to change the space otherwise first has all such entries of the tables in question
//!   cleared ([`tables_of`]), and CPUs flushed, so that no table is given back that has one, or had one that a CPU
//!   may still have on its way to somewhere; also before the space is cloned: so only tables that are a
//!   space's own have any.
//! * Views never show such a page.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use crate::addr::{Gpa, Hpa, Range};
use crate::entry::{Entry, Leaf, Owner, Perm};
use crate::geometry::Level;
use crate::host::Host;
use crate::region::{Backing, Region, Store};
use crate::space::Space;
use crate::tree::{load, store};
use crate::view::{Slots, View};

/// The place of a page of user memory in the tables.
#[derive(Clone, Copy, Debug)]
pub struct UserEntry(NonNull<AtomicU64>);

// SAFETY: It is the address of an atomic, which says by itself who may use it when.
unsafe impl Send for UserEntry {}
// SAFETY: As above.
unsafe impl Sync for UserEntry {}

impl UserEntry {
    /// Maps `frame` with `perm`, in the place of the one that was there; true if a CPU may have another frame, or
    /// more permission, cached.
    ///
    /// # Safety
    ///
    /// The table must not have been given back since [`Space::user_entry`].
    #[must_use = "CPUs may still have the old page cached"]
    pub unsafe fn set(self, frame: Hpa, perm: Perm) -> bool {
        // SAFETY: By the caller's promise the table is there.
        let slot = unsafe { self.0.as_ref() };
        let old = load(slot);
        let leaf = Leaf {
            frame,
            perm,
            owner: Owner::User,
        };
        store(slot, Entry::leaf(leaf));
        let before = old.to_leaf();
        old.is_used() && (before.frame != frame || !perm.contains(before.perm))
    }

    /// Takes the page out. CPUs have it until they are flushed.
    ///
    /// # Safety
    ///
    /// As [`UserEntry::set`], which was called for it, and this was not since.
    pub unsafe fn clear(self) {
        // SAFETY: By the caller's promise the table is there.
        store(unsafe { self.0.as_ref() }, Entry::UNUSED);
    }
}

/// The range of all that is in the tables of leaves in which `range` is.
pub fn tables_of(range: Range) -> Range {
    range.in_blocks(Level::LEAVES.table_bits())
}

impl<B, S, V> Space<B, S, V>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    /// The place for the page of `gpa`, and what the guest may do with it at most, if [`Fault::User`] is still what
    /// an `access` there needs and its tables are the space's own.
    ///
    /// [`Fault::User`]: crate::Fault::User
    pub fn user_entry<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        access: Perm,
    ) -> Result<Option<(UserEntry, Perm)>, H::Error> {
        let Some(region) = self.regions().find(gpa) else {
            return Ok(None);
        };
        let perm = region.perm;
        if !region.backing.is_user() || !perm.contains(access) {
            return Ok(None);
        }
        let entry = self.tree_mut().entry(host, gpa)?;
        Ok(entry.map(|entry| (UserEntry(NonNull::from(entry)), perm)))
    }
}
