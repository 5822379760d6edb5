// SPDX-License-Identifier: GPL-2.0

//! The tables of one view: looking up, adding and changing pages.
//!
//! # Ordering
//!
//! There is one writer, but CPUs walk the tables while it writes, and an entry is one aligned
//! 64-bit word, so that a CPU sees the old one or the new one. What has to hold is that whoever
//! sees an entry also sees what it points to: the content of a new frame, and the entries of a new
//! table. Hence every store is a `Release`: what the caller wrote before, into the frame as well,
//! cannot move behind it, and x86 keeps the order of stores and of the loads of a walk. Loads are
//! `Relaxed`, because only the writer's own stores are loaded.
//!
//! Taking something away needs more: the store must be visible to all CPUs before the caller
//! looks which of them run the guest and have to be interrupted. That is an order of a store
//! before a load, which no `Release` gives; it belongs to the caller's flush (see [`Taken`]).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gpa, Hpa, Range};
#[cfg(doc)]
use crate::entry::Owner;
use crate::entry::{eptp, Entry, Leaf, Perm};
use crate::geometry::{Index, Level};
use crate::host::Host;
use crate::unmap::put_table;

/// Whether permission was taken that a CPU may have cached.
///
/// After [`Taken::Something`] the caller must flush before it relies on the change: a full memory
/// barrier, then an INVEPT on each CPU that ran or runs the guest, before it runs it again. A caller
/// that lets go of its lock in between must make others, who may be told [`Taken::Nothing`] about
/// the same range, wait for this flush as well.
#[must_use = "CPUs may still have the permission cached"]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// No CPU can do more than the tables say.
    Nothing,
    /// A CPU can still do what was taken until it is flushed.
    Something,
}

impl Taken {
    /// What two changes took together.
    #[must_use = "CPUs may still have the permission cached"]
    #[inline]
    pub fn and(self, other: Self) -> Self {
        match self {
            Taken::Nothing => other,
            Taken::Something => Taken::Something,
        }
    }
}

/// Why [`Tree::insert`] did not take a leaf; the frame is still the caller's.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum InsertError<E> {
    /// A leaf is there, or one that was detached and not reaped yet.
    Occupied,
    /// The page's tables are not the tree's own: see [`Tree::unshare`].
    Shared,
    /// The address is beyond what four levels can map.
    Range,
    /// The host has no table.
    Host(E),
}

/// The tables of one view, of four levels, with leaves of 4 KiB.
///
/// It must be given back by [`Tree::destroy`]; dropping it leaks all it has.
///
/// # Invariants
///
/// `root` and what entries above the leaves' level point to are tables of the host; each has a
/// reference for each entry that points to it, in all trees; all but the root,
/// those from which pages of files were taken ([`Tree::detach_files`]), and those that are made for pages
/// to be moved or out of which some were moved, have an entry in use.
/// Each leaf has one reference on its frame, but for those of [`Owner::Lent`] and [`Owner::User`]. A table that others may have
/// as well is pointed to without
/// `W`, and is not changed (see [`share`](crate::share)) but by [`Tree::detach_common_files`].
#[must_use = "its memory is given back by `destroy` only"]
#[derive(Debug)]
pub struct Tree {
    /// The table that the EPT pointer names.
    root: Hpa,
    /// Whether the CPU has execute-only pages.
    exec_only: bool,
    /// Whether any table was ever shared with another tree.
    pub(crate) was_shared: bool,
    /// How many entries of the root, from the first on, may have anything.
    root_len: usize,
}

impl Tree {
    /// An empty tree.
    pub fn new<H: Host>(host: &mut H) -> Result<Self, H::Error> {
        let root = host.alloc_table()?;
        // INVARIANT: a new table is empty.
        Ok(Self {
            root,
            exec_only: host.exec_only(),
            was_shared: false,
            root_len: 0,
        })
    }

    /// The root table.
    #[inline]
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// How many entries of the root, from the first on, may have anything.
    #[inline]
    pub(crate) fn root_len(&self) -> usize {
        self.root_len
    }

    /// Notes that entries of the root have something that `other`'s have.
    pub(crate) fn set_root_len(&mut self, other: &Self) {
        self.root_len = other.root_len;
    }

    /// The EPT pointer for the VMCS.
    #[inline]
    pub fn eptp(&self) -> u64 {
        eptp(self.root)
    }

    /// Whether the CPU can have this permission on a page.
    #[inline]
    pub(crate) fn can_express(&self, perm: Perm) -> bool {
        perm.is_expressible(self.exec_only)
    }

    /// The entry of `leaf`.
    ///
    /// A permission that the CPU cannot express would be an EPT misconfiguration; [`Space`]
    /// refuses it, and whoever uses a tree directly gets a page with none.
    ///
    /// [`Space`]: crate::Space
    #[inline]
    pub(crate) fn encode(&self, leaf: Leaf) -> Entry {
        let perm = if self.can_express(leaf.perm) {
            leaf.perm
        } else {
            Perm::empty()
        };
        Entry::leaf(Leaf { perm, ..leaf })
    }

    /// The leaf that maps `gpa`, with what all levels allow, also if that is nothing; a detached one maps
    /// nothing.
    pub fn get<H: Host>(&self, host: &H, gpa: Gpa) -> Option<Leaf> {
        self.look(host, gpa).0
    }

    /// The leaf that maps `gpa`, and whether the tables on the way to it, or to where it would be, are
    /// the tree's own.
    pub(crate) fn look<H: Host>(&self, host: &H, gpa: Gpa) -> (Option<Leaf>, bool) {
        let (slot, own) = self.find(host, gpa);
        let mut leaf = slot.map(|slot| load(slot).to_leaf());
        if let (Some(leaf), false) = (&mut leaf, own) {
            leaf.perm -= Perm::W;
        }
        (leaf, own)
    }

    /// Adds a leaf for the page of `gpa`, where there is none.
    ///
    /// Takes over the caller's reference on the frame, but not if it fails. It either adds the leaf
    /// and the tables that it needs, or changes nothing. CPUs need no flush: what is not present is
    /// not cached.
    pub fn insert<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        leaf: Leaf,
    ) -> Result<(), InsertError<H::Error>> {
        self.insert_entry(host, gpa, self.encode(leaf))
    }

    /// [`Tree::insert`] of `entry`; or, if that is an unused one, of the tables for it only.
    pub(crate) fn insert_entry<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        mut entry: Entry,
    ) -> Result<(), InsertError<H::Error>> {
        let page = gpa.page().ok_or(InsertError::Range)?;
        let (mut table, mut level) = (self.root, Level::ROOT);
        let index = loop {
            let index = level.index(page);
            let present = load(slot(host, table, index));
            match level.below() {
                _ if !present.is_used() => break index,
                Some(_) if !present.is_own_table() && present.is_mapped() => {
                    return Err(InsertError::Shared)
                }
                Some(below) if present.is_mapped() => (table, level) = (present.address(), below),
                _ => return Err(InsertError::Occupied),
            }
        };
        // The tables from the leaf's up to here are made first, so that running out of memory
        // changes nothing and a CPU sees all of them or none.
        if let Some(top) = level.below() {
            entry = Self::chain(host, top, page, entry).map_err(InsertError::Host)?;
        }
        store(slot(host, table, index), entry);
        self.root_len = self
            .root_len
            .max(Level::ROOT.index(page).number().saturating_add(1));
        Ok(())
    }

    /// Makes the tables for `page` from `level` down to the leaf's, with `leaf` in the last, and
    /// gives the entry that points to the first.
    fn chain<H: Host>(
        host: &mut H,
        level: Level,
        page: u64,
        leaf: Entry,
    ) -> Result<Entry, H::Error> {
        let table = host.alloc_table()?;
        let entry = match level.below() {
            None => leaf,
            Some(below) => match Self::chain(host, below, page, leaf) {
                Ok(entry) => entry,
                Err(error) => {
                    put_table(host, table, level);
                    return Err(error);
                }
            },
        };
        store(slot(host, table, level.index(page)), entry);
        Ok(Entry::table(table))
    }

    /// Puts `leaf` in the place of the one that maps `gpa`, and returns that one.
    ///
    /// The caller gets the old leaf's reference and gives its own on the new frame. If the old leaf
    /// had any permission, CPUs may use the old frame until the caller has flushed. None if nothing
    /// is mapped there, or by tables that are not the tree's own: then nothing happens and the frame is
    /// still the caller's.
    pub fn replace<H: Host>(&mut self, host: &H, gpa: Gpa, leaf: Leaf) -> Option<Leaf> {
        self.replace_if(host, gpa, leaf, |_| true)
    }

    /// [`Tree::replace`], if the leaf there is one that is `wanted`.
    #[inline]
    pub(crate) fn replace_if<H: Host>(
        &mut self,
        host: &H,
        gpa: Gpa,
        leaf: Leaf,
        wanted: impl FnOnce(Leaf) -> bool,
    ) -> Option<Leaf> {
        let (Some(slot), true) = self.find(host, gpa) else {
            return None;
        };
        let old = load(slot).to_leaf();
        if !wanted(old) {
            return None;
        }
        store(slot, self.encode(leaf));
        Some(old)
    }

    /// Gives all leaves in `range` the permission `perm`, those of a file or of clones without `W`.
    ///
    /// The tables must be the tree's own (see [`Tree::unshare_next`]).
    pub fn protect<H: Host>(&mut self, host: &H, range: Range, perm: Perm) -> Taken {
        self.protect_table(host, self.root, Level::ROOT, range.page_numbers(), perm)
    }

    /// [`Tree::protect`] for the `pages` that `table` spans.
    fn protect_table<H: Host>(
        &self,
        host: &H,
        table: Hpa,
        level: Level,
        pages: core::ops::Range<u64>,
        perm: Perm,
    ) -> Taken {
        let mut taken = Taken::Nothing;
        for part in level.parts(pages) {
            let slot = slot(host, table, part.index);
            let entry = load(slot);
            if !entry.is_mapped() {
                continue;
            }
            if let Some(below) = level.below() {
                let table = entry.address();
                taken = taken.and(self.protect_table(host, table, below, part.pages, perm));
                continue;
            }
            let old = entry.to_leaf();
            let new = self.encode(Leaf {
                perm: old.owner.limit(perm),
                ..old
            });
            // CPUs find out about permission that was added by themselves: the fault that they
            // raise for lack of it drops what they had cached.
            if !(old.perm - new.to_leaf().perm).is_empty() {
                taken = Taken::Something;
            }
            if new != entry {
                store(slot, new);
            }
        }
        taken
    }

    /// The entry for the page of `gpa`, whose tables are made if they are not there; none if they are not the
    /// tree's own, or something waits there to be reaped.
    pub(crate) fn entry<'h, H: Host>(
        &mut self,
        host: &'h mut H,
        gpa: Gpa,
    ) -> Result<Option<&'h AtomicU64>, H::Error> {
        match self.insert_entry(host, gpa, Entry::UNUSED) {
            Ok(()) | Err(InsertError::Occupied) => {}
            Err(InsertError::Shared | InsertError::Range) => return Ok(None),
            Err(InsertError::Host(error)) => return Err(error),
        }
        let Some(page) = gpa.page() else {
            return Ok(None);
        };
        let mut table = self.root;
        for level in Level::ABOVE_LEAVES {
            let entry = load(slot(host, table, level.index(page)));
            if !entry.is_mapped() || !entry.is_own_table() {
                return Ok(None);
            }
            table = entry.address();
        }
        let slot = slot(host, table, Level::LEAVES.index(page));
        Ok((!load(slot).is_detached()).then_some(slot))
    }

    /// The entry of the leaf that maps `gpa`, and whether the tables on the way are the tree's own.
    #[inline]
    fn find<'h, H: Host>(&self, host: &'h H, gpa: Gpa) -> (Option<&'h AtomicU64>, bool) {
        let Some(page) = gpa.page() else {
            return (None, true);
        };
        let (mut table, mut own) = (self.root, true);
        // Of each level by itself, as its place in the address is a constant then.
        for level in Level::ABOVE_LEAVES {
            let entry = load(slot(host, table, level.index(page)));
            if !entry.is_mapped() {
                return (None, own);
            }
            own &= entry.is_own_table();
            table = entry.address();
        }
        let slot = slot(host, table, Level::LEAVES.index(page));
        (load(slot).is_mapped().then_some(slot), own)
    }
}

/// The entry `index` of `table`.
#[inline(always)]
pub(crate) fn slot<H: Host>(host: &H, table: Hpa, index: Index) -> &AtomicU64 {
    index.of(host.entries(table))
}

/// Reads an entry; see the module for the ordering.
#[inline]
pub(crate) fn load(slot: &AtomicU64) -> Entry {
    Entry(slot.load(Ordering::Relaxed))
}

/// Writes an entry; see the module for the ordering.
#[inline]
pub(crate) fn store(slot: &AtomicU64, entry: Entry) {
    slot.store(entry.0, Ordering::Release);
}
