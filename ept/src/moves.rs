// SPDX-License-Identifier: GPL-2.0

//! Moving what is in a range to another one, without copying anything.
//!
//! All that can fail comes first: the tables of both ranges become the tree's own, and those that leaves
//! will need at the new place are made ([`Space::prepare_move`]). Then the regions change, and the old range is
//! detached as if it were unmapped ([`Space::begin_move`]). Behind the flush nobody reaches it, and the
//! leaves go over ([`Space::move_pages`]); what is left of the old range is reaped. A table that both ranges have
//! a part in stays, even without entries.

use core::ops;

use crate::addr::{Gpa, Hpa, Range};
use crate::entry::{Entry, Leaf, Perm};
use crate::geometry::Level;
use crate::host::Host;
use crate::region::{Backing, Region, RegionError, Store};
use crate::share::Retired;
use crate::space::Space;
use crate::tree::{load, slot, store, InsertError, Taken, Tree};
use crate::view::{Slots, View};

/// From where to where.
///
/// # Invariants
///
/// The ranges have nothing in common, and the second is not the shorter one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Move {
    from: Range,
    to: Range,
}

impl Move {
    /// From a range to another one, which must have nothing in common with it and not be shorter.
    pub fn new(from: Range, to: Range) -> Option<Self> {
        let fits = from.intersect(&to).is_none() && from.len() <= to.len();
        // INVARIANT: just checked.
        fits.then_some(Self { from, to })
    }

    /// From where.
    pub fn from(&self) -> Range {
        self.from
    }

    /// To where.
    pub fn to(&self) -> Range {
        self.to
    }

    /// The number of the page to which the page with this number goes, which is in the old range.
    fn target(&self, page: u64) -> u64 {
        let offset = page.saturating_sub(self.from.page_numbers().start);
        self.to.page_numbers().start.saturating_add(offset)
    }
}

/// Pages that go from one leaf table to one other.
struct Piece {
    /// Their numbers.
    pages: ops::Range<u64>,
    /// The table that they are in, if there is one.
    table: Option<Hpa>,
}

impl Tree {
    /// The leaf table of a page, also if it is detached; and the number of the first page behind it, or behind
    /// the largest span around it that has no table.
    fn leaf_table<H: Host>(&self, host: &H, page: u64) -> (Option<Hpa>, u64) {
        let mut table = self.root();
        for level in Level::ABOVE_LEAVES {
            let entry = load(slot(host, table, level.index(page)));
            if !entry.is_used() {
                return (None, level.span(page).end);
            }
            table = entry.address();
        }
        // The smallest of them has one leaf table.
        let [.., last] = Level::ABOVE_LEAVES;
        (Some(table), last.span(page).end)
    }

    /// What the first pages of `part`, of what is moved, have in common.
    fn piece<H: Host>(&self, host: &H, what: &Move, part: &Range) -> Piece {
        let [.., last] = Level::ABOVE_LEAVES;
        let numbers = part.page_numbers();
        let (table, mut end) = self.leaf_table(host, numbers.start);
        end = end.min(numbers.end);
        if table.is_some() {
            let target = what.target(numbers.start);
            let room = last.span(target).end.saturating_sub(target);
            end = end.min(numbers.start.saturating_add(room));
        }
        Piece {
            pages: numbers.start..end,
            table,
        }
    }

    /// [`Space::prepare_move`].
    fn prepare_move<H: Host>(
        &mut self,
        host: &mut H,
        what: &Move,
        part: Range,
        retired: &mut Retired,
    ) -> Result<Option<Range>, H::Error> {
        let piece = self.piece(host, what, &part);
        let rest = part.since_page(piece.pages.end);
        let is_used = |page| {
            let entry = |table| load(slot(host, table, Level::LEAVES.index(page)));
            piece.table.is_some_and(|table| entry(table).is_used())
        };
        if !piece.pages.clone().any(is_used) {
            return Ok(rest);
        }
        let target = Gpa::of_page(what.target(piece.pages.start));
        // A table without entries, all of which is in the new range, may be shared as well.
        self.unshare(host, target, retired)?;
        match self.insert_entry(host, target, Entry::UNUSED) {
            Err(InsertError::Host(error)) => Err(error),
            // Nothing is in the way where nothing is mapped, in tables of its own.
            _ => Ok(rest),
        }
    }

    /// [`Space::move_pages`], of a region with `perm`.
    fn move_leaves<H: Host>(
        &mut self,
        host: &H,
        what: &Move,
        part: Range,
        perm: Perm,
    ) -> Option<Range> {
        let piece = self.piece(host, what, &part);
        let rest = part.since_page(piece.pages.end);
        let (target, _) = self.leaf_table(host, what.target(piece.pages.start));
        let (Some(table), Some(target)) = (piece.table, target) else {
            return rest;
        };
        for page in piece.pages {
            let old = slot(host, table, Level::LEAVES.index(page));
            let entry = load(old);
            if entry.is_used() {
                let leaf = entry.to_leaf();
                let new = self.encode(Leaf {
                    perm: leaf.owner.limit(perm),
                    ..leaf
                });
                // The reference goes along.
                store(old, Entry::UNUSED);
                let index = Level::LEAVES.index(what.target(page));
                store(slot(host, target, index), new);
            }
        }
        rest
    }
}

impl<B, S, V> Space<B, S, V>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    /// The region that there will be at the new place. But for the limit of regions and memory, what makes this
    /// fail is what makes [`Space::begin_move`] fail: the old range must lie in one region, which is not
    /// sealed, and nothing be mapped in the new one.
    pub fn moved(&self, what: &Move) -> Result<Region<B>, RegionError<S::Error>> {
        let region = self.regions().find(what.from.start());
        let region = region.filter(|region| what.from.end() <= region.range.end());
        let region = region.ok_or(RegionError::Unmapped)?;
        self.check_not_sealed(what.from)?;
        if self.regions().iter(what.to).next().is_some() {
            return Err(RegionError::Exists);
        }
        Ok(Region {
            range: what.to,
            perm: region.perm,
            marks: region.marks,
            backing: region.backing_at(&what.from),
        })
    }

    /// Makes the tables that the first pages in `part`, of the old range, need at the new place; the rest of it, or
    /// none.
    ///
    /// The tables of the old range must be the tree's own (see [`Tree::unshare_next`]), and those at the edges of
    /// the new one ([`Tree::unshare_edge`]). `retired` is as with [`Tree::unshare`]; the caller gives it
    /// back, after a flush, before it goes on. If this fails, or [`Space::begin_move`] does, the caller calls
    /// [`Space::abandon_move`].
    pub fn prepare_move<H: Host>(
        &mut self,
        host: &mut H,
        what: &Move,
        part: Range,
        retired: &mut Retired,
    ) -> Result<Option<Range>, H::Error> {
        self.tree_mut().prepare_move(host, what, part, retired)
    }

    /// Takes out what [`Space::prepare_move`] made. After a flush, if something was taken, the caller calls
    /// [`Space::reap`] with the new range.
    pub fn abandon_move<H: Host>(&mut self, host: &H, what: &Move) -> Taken {
        self.tree_mut().detach(host, what.to)
    }

    /// Lets the region be at the new place, with what it is made from going on if that is longer, and hides
    /// its pages.
    ///
    /// All of the old range was prepared, with the lock held since. After a flush, if something was taken,
    /// the caller calls [`Space::move_pages`] for all of it, and then [`Space::reap`].
    pub fn begin_move<H: Host>(
        &mut self,
        host: &H,
        what: &Move,
    ) -> Result<Taken, RegionError<S::Error>> {
        let region = self.moved(what)?;
        self.regions_mut().relocate(what.from, region)?;
        // INVARIANT: what was in the old range goes out of the tree as well.
        Ok(match self.tree_mut().detach_but(host, what.from, what.to) {
            Taken::Nothing => Taken::Nothing,
            Taken::Something => self.detach_views(host, what.from).and(Taken::Something),
        })
    }

    /// Moves the first pages in `part`, of the old range; the rest of it, or none. CPUs need no flush.
    pub fn move_pages<H: Host>(&mut self, host: &H, what: &Move, part: Range) -> Option<Range> {
        let region = self.regions().find(what.to.start());
        let perm = region.map_or(Perm::empty(), |region| region.perm);
        // INVARIANT: inside the region, with its permission.
        self.tree_mut().move_leaves(host, what, part, perm)
    }
}
