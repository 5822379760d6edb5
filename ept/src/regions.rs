// SPDX-License-Identifier: GPL-2.0

//! All regions of a micro-VM, in the order of their addresses.

use core::marker::PhantomData;

use crate::addr::{Gpa, Range};
use crate::entry::Perm;
use crate::region::{Backing, Marks, Region, RegionError, Store};

/// The regions of a micro-VM.
///
/// Every change is all or nothing: it first finds out what it needs, reserves room for it, and then
/// cannot fail any more.
///
/// # Invariants
///
/// Sorted by address; no two overlap; no two neighbours join (`Region::joins`), so that equal
/// mappings give equal maps, however they came about.
#[derive(Debug)]
pub struct RegionMap<B, S> {
    /// The regions.
    store: S,
    /// How many there can be.
    max_regions: usize,
    /// The store's elements have it.
    backing: PhantomData<B>,
}

impl<B: Backing, S: Store<Region<B>>> RegionMap<B, S> {
    /// An empty map for at most `max_regions`, kept in `store`, which must be empty.
    pub fn new(store: S, max_regions: usize) -> Self {
        Self {
            store,
            max_regions,
            backing: PhantomData,
        }
    }

    /// A map with the same regions, which costs the same however many there are.
    pub fn share(&mut self) -> Result<Self, S::Error> {
        Ok(Self {
            store: self.store.share()?,
            max_regions: self.max_regions,
            backing: PhantomData,
        })
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// All regions, in ascending order.
    pub fn as_slice(&self) -> &[Region<B>] {
        self.store.as_slice()
    }

    /// The region that `gpa` is in.
    pub fn find(&self, gpa: Gpa) -> Option<&Region<B>> {
        let at = self
            .as_slice()
            .partition_point(|region| region.range.end() <= gpa);
        self.as_slice()
            .get(at)
            .filter(|region| region.range.contains(gpa))
    }

    /// Whether a part of `range` has one of these marks.
    pub(crate) fn has(&self, range: Range, marks: Marks) -> bool {
        self.iter(range)
            .any(|region| region.marks.intersects(marks))
    }

    /// The regions that have a part in `range`, in ascending order.
    pub fn iter(&self, range: Range) -> core::slice::Iter<'_, Region<B>> {
        let (from, to) = self.bounds(&range);
        self.as_slice().get(from..to).unwrap_or_default().iter()
    }

    /// Adds a region; fails if a part of its range is taken.
    ///
    /// It becomes one with neighbours that it joins.
    pub fn insert(&mut self, region: Region<B>) -> Result<(), RegionError<S::Error>> {
        let (at, to) = self.bounds(&region.range);
        if at != to {
            return Err(RegionError::Exists);
        }
        let (joins_previous, joins_next) = self.joins(at, &region);
        self.make_room(usize::from(!joins_previous && !joins_next))?;
        self.place(region);
        Ok(())
    }

    /// Whether a region that would get the number `at` joins the one before it, and the one behind.
    fn joins(&self, at: usize, region: &Region<B>) -> (bool, bool) {
        let slice = self.as_slice();
        let previous = at.checked_sub(1).and_then(|previous| slice.get(previous));
        (
            previous.is_some_and(|previous| previous.joins(region)),
            slice.get(at).is_some_and(|next| region.joins(next)),
        )
    }

    /// Adds a region where there is none; there is room for it.
    fn place(&mut self, region: Region<B>) {
        let (at, _) = self.bounds(&region.range);
        let (joins_previous, joins_next) = self.joins(at, &region);
        let slice = self.store.as_mut_slice();
        if joins_previous {
            // The neighbour takes the region's place, and then perhaps the next one in.
            let previous = at.saturating_sub(1);
            if let Some(previous) = slice.get_mut(previous) {
                previous.range = previous.range.joined(&region.range);
            }
            self.merge(previous, at.saturating_add(1));
        } else if joins_next {
            if let Some(next) = slice.get_mut(at) {
                let range = region.range.joined(&next.range);
                *next = Region { range, ..region };
            }
        } else {
            self.store.insert(at, region);
        }
    }

    /// Adds a region, where nothing may be, and removes `from`, which must lie in another one.
    ///
    /// It needs room for each edge of `from` that is inside that region.
    pub(crate) fn relocate(
        &mut self,
        from: Range,
        region: Region<B>,
    ) -> Result<(), RegionError<S::Error>> {
        let old = self.find(from.start()).ok_or(RegionError::Unmapped)?;
        let rests = [old.range.before(&from), old.range.after(&from)];
        let more = rests
            .iter()
            .flatten()
            .fold(0, |more: usize, _| more.saturating_add(1));
        self.make_room(more)?;
        self.cut(from);
        self.place(region);
        Ok(())
    }

    /// Removes whatever is in `range`; regions that reach beyond keep the rest.
    ///
    /// It needs room for one more only if the range is inside a region, which becomes two.
    pub fn remove(&mut self, range: Range) -> Result<(), RegionError<S::Error>> {
        let (from, to) = self.bounds(&range);
        let Some(first) = self.as_slice().get(from).filter(|_| from < to) else {
            return Ok(());
        };
        let rests = (first.range.before(&range), first.range.after(&range));
        let is_inside = matches!(rests, (Some(_), Some(_)));
        self.make_room(usize::from(is_inside))?;
        self.cut(range);
        Ok(())
    }

    /// Removes whatever is in `range`; there is room for one more if the range is inside a region.
    fn cut(&mut self, range: Range) {
        let (mut from, mut to) = self.bounds(&range);
        let slice = self.as_slice();
        let last = to.checked_sub(1).and_then(|last| slice.get(last));
        let (Some(first), Some(last)) = (slice.get(from), last) else {
            return;
        };
        let head = first.range.before(&range);
        let tail = last.range.after(&range).map(|rest| last.with_range(rest));
        let is_inside = to.checked_sub(from) == Some(1) && head.is_some() && tail.is_some();
        if let Some(head) = head {
            if let Some(first) = self.store.as_mut_slice().get_mut(from) {
                first.range = head;
            }
            from = from.saturating_add(1);
        }
        match tail {
            Some(tail) if is_inside => self.store.insert(from, tail),
            Some(tail) => {
                to = to.saturating_sub(1);
                if let Some(last) = self.store.as_mut_slice().get_mut(to) {
                    *last = tail;
                }
            }
            None => {}
        }
        self.remove_run(from, to);
    }

    /// Fails if a part of `range` is not mapped.
    pub fn check_mapped(&self, range: Range) -> Result<(), RegionError<S::Error>> {
        let mut covered = range.start();
        for region in self.iter(range) {
            if region.range.start() > covered {
                break;
            }
            covered = region.range.end();
        }
        if covered >= range.end() {
            Ok(())
        } else {
            Err(RegionError::Unmapped)
        }
    }

    /// Gives all of `range` the permission `perm`; fails if a part of it is not mapped.
    ///
    /// It needs room for each edge of the range that is inside a region which it changes.
    pub fn protect(&mut self, range: Range, perm: Perm) -> Result<(), RegionError<S::Error>> {
        self.change(range, |_, marks| (perm, marks))
    }

    /// Gives all of `range` what `new` makes of its permissions and marks; as [`RegionMap::protect`].
    pub(crate) fn change(
        &mut self,
        range: Range,
        new: impl Fn(Perm, Marks) -> (Perm, Marks),
    ) -> Result<(), RegionError<S::Error>> {
        self.check_mapped(range)?;
        let (mut from, mut to) = self.bounds(&range);
        let slice = self.as_slice();
        let last = to.checked_sub(1).and_then(|last| slice.get(last));
        let (Some(first), Some(last)) = (slice.get(from), last) else {
            return Err(RegionError::Unmapped);
        };
        let changes =
            |region: &Region<B>| new(region.perm, region.marks) != (region.perm, region.marks);
        // What is cut off at the edges stays as it is; no need to cut if all of it does.
        let head = match first.range.before(&range) {
            Some(head) if changes(first) => Some(first.with_range(head)),
            _ => None,
        };
        let tail = match last.range.after(&range) {
            Some(tail) if changes(last) => Some(last.with_range(tail)),
            _ => None,
        };
        self.make_room(usize::from(head.is_some()) + usize::from(tail.is_some()))?;

        if let Some(tail) = tail {
            let last = to.saturating_sub(1);
            if let Some(last) = self.store.as_mut_slice().get_mut(last) {
                last.range = last.range.before(&tail.range).unwrap_or(last.range);
            }
            self.store.insert(to, tail);
        }
        if let Some(head) = head {
            if let Some(first) = self.store.as_mut_slice().get_mut(from) {
                let rest = first.range.after(&head.range).unwrap_or(first.range);
                *first = first.with_range(rest);
            }
            self.store.insert(from, head);
            from = from.saturating_add(1);
            to = to.saturating_add(1);
        }
        for region in self
            .store
            .as_mut_slice()
            .get_mut(from..to)
            .unwrap_or_default()
        {
            (region.perm, region.marks) = new(region.perm, region.marks);
        }
        self.merge(from.saturating_sub(1), to.saturating_add(1));
        Ok(())
    }

    /// The numbers `from..to` of the regions that have a part in `range`; if there is none, both
    /// are the number that a region there would get.
    fn bounds(&self, range: &Range) -> (usize, usize) {
        let slice = self.as_slice();
        let from = slice.partition_point(|region| region.range.end() <= range.start());
        let to = slice.partition_point(|region| region.range.start() < range.end());
        (from, to)
    }

    /// Prepares a change that adds `additional` regions, if they are allowed.
    fn make_room(&mut self, additional: usize) -> Result<(), RegionError<S::Error>> {
        match self.len().checked_add(additional) {
            Some(len) if len <= self.max_regions || additional == 0 => {}
            _ => return Err(RegionError::TooMany),
        }
        self.store.reserve(additional).map_err(RegionError::Store)
    }

    /// Makes one of those among the regions `from..to` that join; `to` may be beyond the end.
    fn merge(&mut self, from: usize, to: usize) {
        let to = to.min(self.len());
        let Some(run) = self.store.as_mut_slice().get_mut(from..to) else {
            return;
        };
        // Those that remain move to the front of the run, and what is left behind them goes. One
        // pass, because moving all later regions for each one that goes would take too long.
        let mut kept = 0;
        for next in 1..run.len() {
            // PANIC: `kept < next < run.len()`, as `kept` grows by at most one for each `next`.
            let (front, back) = run.split_at_mut(next);
            let (Some(last), Some(candidate)) = (front.get_mut(kept), back.first()) else {
                return;
            };
            if last.joins(candidate) {
                last.range = last.range.joined(&candidate.range);
            } else {
                kept += 1;
                run.swap(kept, next);
            }
        }
        self.remove_run(from.saturating_add(kept).saturating_add(1), to);
    }

    /// Removes the regions `from..to`.
    fn remove_run(&mut self, from: usize, to: usize) {
        let count = to.saturating_sub(from);
        // Moved to the end first, where removing one costs nothing.
        match self.store.as_mut_slice().get_mut(from..) {
            // PANIC: `rotate_left` wants no more than there are.
            Some(tail) if count <= tail.len() => tail.rotate_left(count),
            _ => return,
        }
        for _ in 0..count {
            drop(self.store.remove(self.len().saturating_sub(1)));
        }
    }
}
