// SPDX-License-Identifier: GPL-2.0

//! Taking pages out of the tables, in two passes with the caller's flush between them.
//!
//! [`Tree::detach`] makes entries not present and marks them; frames and tables stay, since a CPU
//! may have cached a translation to them, or may be in the middle of a walk. After the flush none
//! has, and [`Tree::reap`] gives back what is marked. Neither needs memory; but a table that other
//! trees have as well cannot be changed, so that the caller first makes those at the edges of the
//! range the tree's own ([`Tree::unshare_edge`](crate::Tree::unshare_edge)).
//!
//! A marked entry belongs to nobody but `reap`: it maps nothing, and [`Tree::insert`] reports its
//! place as occupied. So between the two passes everything else may happen to the tree, and a vCPU
//! that faults on a range that was mapped anew tries again until the old one is gone. What may not
//! happen is another `detach`, because the `reap` of the first would free what only the flush of
//! the second makes free: one caller at a time unmaps, from before `detach` until after `reap`.

use core::ops;

use crate::addr::{Hpa, Range};
use crate::entry::{Entry, Owner};
use crate::geometry::{Level, ENTRIES};
use crate::host::Host;
use crate::tree::{load, slot, store, Taken, Tree};
use crate::used::for_each;

impl Tree {
    /// First pass: no CPU that is flushed after this reaches anything in `range`.
    ///
    /// Whatever was there counts as taken, even a page without permission: its permission may have
    /// been taken a moment ago by another thread that has not flushed yet.
    pub fn detach<H: Host>(&mut self, host: &H, range: Range) -> Taken {
        detach_table(
            host,
            (self.root(), Level::ROOT),
            range.page_numbers(),
            &(0..0),
        )
    }

    /// [`Tree::detach`], which keeps tables that have a part in `keep`, also if nothing is left in them.
    pub(crate) fn detach_but<H: Host>(&mut self, host: &H, range: Range, keep: Range) -> Taken {
        let (top, keep) = ((self.root(), Level::ROOT), keep.page_numbers());
        detach_table(host, top, range.page_numbers(), &keep)
    }

    /// Second pass: gives back the frames and tables that were detached from `range`.
    ///
    /// The caller must have flushed all CPUs since [`Tree::detach`] of the same range, unless that
    /// took nothing.
    pub fn reap<H: Host>(&mut self, host: &mut H, range: Range) {
        reap_table(host, self.root(), Level::ROOT, range.page_numbers());
    }

    /// Gives back everything. No CPU may have anything of this tree cached, nor run with it.
    pub fn destroy<H: Host>(self, host: &mut H) {
        put_root(host, self.root(), self.root_len());
    }
}

/// [`Tree::detach_but`] for the `pages` that `table` spans.
fn detach_table<H: Host>(
    host: &H,
    (table, level): (Hpa, Level),
    pages: ops::Range<u64>,
    keep: &ops::Range<u64>,
) -> Taken {
    let mut taken = Taken::Nothing;
    for part in level.parts(pages) {
        let slot = slot(host, table, part.index);
        let entry = load(slot);
        if !entry.is_used() {
            continue;
        }
        // By the caller's word, what is divided is this tree's own.
        let is_divided = !part.whole && entry.is_mapped();
        if let (Some(below), true) = (level.below(), is_divided) {
            let inner = entry.address();
            let span = level.span(part.pages.start);
            let inside = detach_table(host, (inner, below), part.pages, keep);
            taken = taken.and(inside);
            let is_kept = span.start < keep.end && keep.start < span.end;
            // One with nothing inside may have lost all before, such as pages of files or of user memory.
            if is_kept || maps_anything(host, inner) {
                continue;
            }
        }
        // The range has all that it spans, or all that is left of it.
        taken = Taken::Something;
        store(slot, entry.detached());
    }
    taken
}

/// Whether an entry of `table` is still mapped.
fn maps_anything<H: Host>(host: &H, table: Hpa) -> bool {
    host.entries(table)
        .iter()
        .any(|slot| load(slot).is_mapped())
}

/// [`Tree::reap`] for the `pages` that `table` spans.
fn reap_table<H: Host>(host: &mut H, table: Hpa, level: Level, pages: ops::Range<u64>) {
    for part in level.parts(pages) {
        let entry = load(slot(host, table, part.index));
        if entry.is_detached() {
            // The host may look at the tables when it gets something back; it finds no stale entry.
            store(slot(host, table, part.index), Entry::UNUSED);
            free_entry(host, entry, level);
        } else if let (true, Some(below)) = (entry.is_used(), level.below()) {
            // Nothing is detached in a table that others may have.
            if entry.is_own_table() {
                reap_table(host, entry.address(), below, part.pages);
            }
        }
    }
}

/// Drops the reference that `entry`, of a table at `level`, has; how many private frames that gave back.
pub(crate) fn free_entry<H: Host>(host: &mut H, entry: Entry, level: Level) -> u64 {
    match level.below() {
        None => {
            let leaf = entry.to_leaf();
            host.put_frame(leaf.frame, leaf.owner);
            u64::from(leaf.owner == Owner::Private)
        }
        Some(below) => put_table(host, entry.address(), below),
    }
}

/// Drops a reference on a table, and with the last one on everything in it; how many private frames
/// that gave back.
#[inline]
pub(crate) fn put_table<H: Host>(host: &mut H, table: Hpa, level: Level) -> u64 {
    if host.put_table(table) {
        free_table(host, table, level, ENTRIES)
    } else {
        0
    }
}

/// [`put_table`] for a root of which only the first `len` entries may have anything.
fn put_root<H: Host>(host: &mut H, root: Hpa, len: usize) -> u64 {
    if host.put_table(root) {
        free_table(host, root, Level::ROOT, len)
    } else {
        0
    }
}

/// Gives back a table that nobody has, and drops the references of its entries; how many private frames
/// that gave back. It calls itself once a level.
fn free_table<H: Host>(host: &mut H, table: Hpa, level: Level, len: usize) -> u64 {
    let mut frames = 0u64;
    match level.below() {
        None => for_each(host, table, len, |host, _, entry| {
            let leaf = entry.to_leaf();
            host.put_frame(leaf.frame, leaf.owner);
            // OVERFLOW: A tree has at most 2^36 leaves.
            frames = frames.wrapping_add(u64::from(leaf.owner == Owner::Private));
        }),
        Some(below) => for_each(host, table, len, |host, _, entry| {
            frames = frames.wrapping_add(put_table(host, entry.address(), below));
        }),
    }
    host.free_table(table);
    frames
}
