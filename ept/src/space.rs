// SPDX-License-Identifier: GPL-2.0

//! The regions and the tables together.

use crate::addr::{Gpa, Range};
use crate::entry::Perm;
use crate::files::Files;
use crate::host::Host;
use crate::region::{Backing, Marks, Region, RegionError, Store};
use crate::regions::RegionMap;
use crate::share::Retired;
use crate::tree::{Taken, Tree};
use crate::view::{destroy_views, keep_trees, share_views, Slots, View};

/// The memory of a micro-VM.
///
/// It must be given back by [`Space::destroy`]; dropping it leaks its pages.
///
/// # Invariants
///
/// Each leaf of the tree is inside a region, and has the permission of the region as far as its
/// owner allows; in a table that clones may have as well, also less by `W` is possible through the
/// tables above. All regions have permissions that the CPU can express.
#[derive(Debug)]
pub struct Space<B, S, V> {
    /// The pages that were touched.
    tree: Tree,
    /// What is mapped.
    regions: RegionMap<B, S>,
    /// The views but view 0, which is `tree`; view `n` is in place `n - 1`.
    pub(crate) views: V,
    /// The largest serial of a view so far.
    pub(crate) last_serial: u64,
    /// Whether nothing may be writable and executable, at once or one after the other.
    w_xor_x: bool,
}

impl<B, S, V> Space<B, S, V>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    /// An empty space, its regions kept in `store`, at most `max_regions` of them, and its views in
    /// `views`, which must be empty.
    pub fn new<H: Host>(
        host: &mut H,
        store: S,
        views: V,
        max_regions: usize,
    ) -> Result<Self, H::Error> {
        let tree = Tree::new(host)?;
        // INVARIANT: all are empty.
        Ok(Self {
            tree,
            regions: RegionMap::new(store, max_regions),
            views,
            last_serial: 0,
            w_xor_x: false,
        })
    }

    /// From now on, nothing is writable and executable, at once or one after the other; nothing may be
    /// mapped yet.
    pub fn forbid_writable_executable(&mut self) {
        self.w_xor_x = true;
    }

    /// Whether nothing is.
    pub fn forbids_writable_executable(&self) -> bool {
        self.w_xor_x
    }

    /// The tables.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The regions.
    pub fn regions(&self) -> &RegionMap<B, S> {
        &self.regions
    }

    /// The tables, to be changed.
    pub(crate) fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// The regions, to be changed.
    pub(crate) fn regions_mut(&mut self) -> &mut RegionMap<B, S> {
        &mut self.regions
    }

    /// Maps a region where nothing is mapped. Its pages come by faults.
    pub fn map(&mut self, region: Region<B>) -> Result<(), RegionError<S::Error>> {
        self.check(region.perm)?;
        let marks = self.marks(region.perm, &region.backing, Marks::empty())?;
        self.regions.insert(Region { marks, ..region })
    }

    /// What is noted of a region that gets `perm`.
    fn noted(&self, perm: Perm) -> Marks {
        if self.w_xor_x {
            Marks::of(perm)
        } else {
            Marks::empty()
        }
    }

    /// The marks of a region of `backing` that had `old` and gets `perm`.
    fn marks(&self, perm: Perm, backing: &B, old: Marks) -> Result<Marks, RegionError<S::Error>> {
        let mut new = old | self.noted(perm);
        if self.w_xor_x && backing.is_live() {
            // Others may write to it, whatever is allowed here.
            new |= Marks::WRITABLE;
        }
        if new.contains(Marks::WRITABLE | Marks::EXECUTABLE) {
            return Err(RegionError::WritableExecutable);
        }
        Ok(new)
    }

    /// Makes the permission and the content of `range` final; fails if a part of it is not mapped,
    /// writable, or has pages that others write to.
    ///
    /// Until the space ends, or is reset, nothing changes the range any more. The pages of files are the
    /// files' until the caller has made them the space's own, by [`Space::own_fault`].
    pub fn seal(&mut self, range: Range) -> Result<(), RegionError<S::Error>> {
        self.regions.check_mapped(range)?;
        let is_final = |r: &Region<B>| !r.perm.contains(Perm::W) && !r.backing.is_live();
        if !self.regions.iter(range).all(is_final) {
            return Err(RegionError::Writable);
        }
        self.regions
            .change(range, |perm, marks| (perm, marks | Marks::SEALED))
    }

    /// Fails if a part of `range` is sealed.
    pub fn check_not_sealed(&self, range: Range) -> Result<(), RegionError<S::Error>> {
        if self.regions.has(range, Marks::SEALED) {
            return Err(RegionError::Sealed);
        }
        Ok(())
    }

    /// Unmaps what is mapped in `range`.
    ///
    /// After that, and a flush if something was taken, the caller calls [`Space::reap`] with the
    /// same range. Nobody else may unmap before that; all else may happen.
    pub fn unmap<H: Host>(
        &mut self,
        host: &H,
        range: Range,
    ) -> Result<Taken, RegionError<S::Error>> {
        self.check_not_sealed(range)?;
        self.regions.remove(range)?;
        // INVARIANT: what was in the range goes out of the tree as well.
        Ok(self.detach(host, range))
    }

    /// Takes the pages in `range` out of the tree and all views.
    fn detach<H: Host>(&mut self, host: &H, range: Range) -> Taken {
        match self.tree.detach(host, range) {
            // What view 0 does not have, no other has.
            Taken::Nothing => Taken::Nothing,
            Taken::Something => self.detach_views(host, range).and(Taken::Something),
        }
    }

    /// Gives back the pages and tables of a range that was unmapped, after the flush.
    pub fn reap<H: Host>(&mut self, host: &mut H, range: Range) {
        self.tree.reap(host, range);
        self.reap_views(host, range);
    }

    /// Gives all of `range` a permission; fails if a part of it is not mapped.
    ///
    /// After a flush, if something was taken, the caller calls [`Space::reap_views`] with the same range.
    pub fn protect<H: Host>(
        &mut self,
        host: &H,
        range: Range,
        perm: Perm,
    ) -> Result<Taken, RegionError<S::Error>> {
        self.check_protect(range, perm)?;
        let new = self.noted(perm);
        self.regions.change(range, |_, marks| (perm, marks | new))?;
        // INVARIANT: the leaves follow their regions.
        Ok(match self.tree.protect(host, range, perm) {
            // What is added, views find out about.
            Taken::Nothing => Taken::Nothing,
            Taken::Something => self.detach_views(host, range).and(Taken::Something),
        })
    }

    /// Makes the tables on the way to `gpa` the space's own: see [`Tree::unshare`].
    pub fn unshare<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        retired: &mut Retired,
    ) -> Result<(), H::Error> {
        self.tree.unshare(host, gpa, retired)
    }

    /// Makes tables of `range` the space's own, before [`Space::protect`]: see [`Tree::unshare_next`].
    pub fn unshare_next<H: Host>(
        &mut self,
        host: &mut H,
        range: Range,
        retired: &mut Retired,
    ) -> Result<Option<Range>, H::Error> {
        self.tree.unshare_next(host, range, retired)
    }

    /// Makes tables at an edge of `range` the space's own, before [`Space::unmap`] and
    /// [`Space::discard`]: see [`Tree::unshare_edge`].
    pub fn unshare_edge<H: Host>(
        &mut self,
        host: &mut H,
        range: Range,
        at_end: bool,
        retired: &mut Retired,
    ) -> Result<(), H::Error> {
        self.tree.unshare_edge(host, range, at_end, retired)
    }

    /// A space with the same regions and pages, which the two have in common until one is changed.
    ///
    /// The cost does not depend on how much there is: see [`Tree::share`], also for what is taken from
    /// this space. It has the same views, in `views`, which must be empty. The caller, after a flush if
    /// something was taken, calls [`Space::reap_views`] of this space with all addresses, which are
    /// `everything`.
    pub fn share<H: Host>(
        &mut self,
        host: &mut H,
        mut views: V,
        everything: Range,
    ) -> Result<(Self, Taken), H::Error>
    where
        H::Error: From<S::Error>,
    {
        let regions = self.regions.share()?;
        share_views(&mut self.views, &mut views)?;
        let (tree, taken) = self.tree.share(host)?;
        if taken == Taken::Something {
            // Nothing is writable any more.
            let _ = self.detach_views(host, everything);
        }
        // INVARIANT: the same leaves, in the same regions.
        let clone = Self {
            tree,
            regions,
            views,
            last_serial: self.last_serial,
            w_xor_x: self.w_xor_x,
        };
        Ok((clone, taken))
    }

    /// Gives this space the regions and views of `template`, and hides its pages until [`Space::restore`]: see
    /// [`Tree::hide`]. If it fails, nothing happened.
    ///
    /// `views` must be empty. EPT pointers stay as they are, as far as the template has the same views; the
    /// others come back in `views`, to be given back by [`destroy_views`], after the flush, after
    /// which the caller also calls [`Space::reap_views`] with all addresses, which are `everything`.
    pub fn hide<H: Host>(
        &mut self,
        host: &mut H,
        template: &mut Self,
        views: &mut V,
        everything: Range,
    ) -> Result<(), S::Error> {
        share_views(&mut template.views, views)?;
        self.regions = template.regions.share()?;
        // INVARIANT: there is no leaf for now, neither here nor in views.
        self.tree.hide(host);
        let _ = self.detach_views(host, everything);
        core::mem::swap(&mut self.views, views);
        keep_trees(views, &mut self.views);
        Ok(())
    }

    /// Gives this space the pages of `template`, whose regions it has: see [`Tree::restore`].
    pub fn restore<H: Host>(&mut self, host: &mut H, template: &mut Self, keep: u32) -> u64 {
        // INVARIANT: the template's leaves, in its regions.
        self.tree.restore(host, &mut template.tree, keep)
    }

    /// What would make [`Space::protect`] of this range fail for other reasons than memory.
    pub fn check_protect(&self, range: Range, perm: Perm) -> Result<(), RegionError<S::Error>> {
        self.check(perm)?;
        self.regions.check_mapped(range)?;
        for region in self.regions.iter(range) {
            self.marks(perm, &region.backing, region.marks)?;
        }
        self.check_not_sealed(range)
    }

    /// Takes the pages in `range` out, so that they are made anew when they are touched again; the regions
    /// stay. Flush and reap are as with [`Space::unmap`].
    pub fn discard<H: Host>(
        &mut self,
        host: &H,
        range: Range,
    ) -> Result<Taken, RegionError<S::Error>> {
        self.check_not_sealed(range)?;
        Ok(self.detach(host, range))
    }

    /// Takes pages of files out: see [`Tree::detach_files`]. Flush and reap are as with [`Space::unmap`].
    pub fn detach_files<H: Host>(
        &mut self,
        host: &H,
        start: u64,
        most: u32,
        but: Option<&Tree>,
    ) -> Files {
        let files = self.tree.detach_files(host, start, most, but);
        if let Some(range) = files.range {
            // With them their neighbours, which come back by faults.
            let _ = self.detach_views(host, range);
        }
        files
    }

    /// Takes pages of files out of all tables: see [`Tree::detach_common_files`].
    ///
    /// The caller, which has the locks of all clones of each other, then calls [`Space::forget`] with the
    /// range for each of them, this one among them, flushes each, calls [`Space::reap_views`] for each, and
    /// at last [`Space::reap_common_files`] for this one.
    pub fn detach_common_files<H: Host>(
        &mut self,
        host: &H,
        start: u64,
        most: u32,
        but: Option<&Tree>,
    ) -> Files {
        self.tree.detach_common_files(host, start, most, but)
    }

    /// Takes all pages in `range` out of all views, as view 0 may have lost some; see
    /// [`Space::detach_common_files`].
    pub fn forget<H: Host>(&mut self, host: &H, range: Range) {
        // INVARIANT: what view 0 lost, no view has. The caller flushes in any case.
        let _ = self.detach_views(host, range);
    }

    /// Drops the references of what was taken out: see [`Tree::reap_common_files`].
    pub fn reap_common_files<H: Host>(&mut self, host: &mut H, range: Range, but: Option<&Tree>) {
        self.tree.reap_common_files(host, range, but);
    }

    /// Calls `differs` for the pages from that of `start` on that are not the same here and in `other`, as
    /// [`Tree::compare`] does; but not where one has a page of a file and the other would get the same one.
    pub fn compare<H: Host>(
        &self,
        host: &H,
        other: &Self,
        start: Gpa,
        differs: &mut impl FnMut(Gpa) -> bool,
    ) {
        self.tree
            .compare(host, &other.tree, start, &mut |gpa, of_file| {
                (of_file && self.has_same_backing(other, gpa)) || differs(gpa)
            });
    }

    /// Whether a page that is not there would be the same one here and in `other`.
    fn has_same_backing(&self, other: &Self, gpa: Gpa) -> bool {
        let region = |space: &'_ Self| -> Option<B> {
            let page = Range::page_of(gpa)?;
            Some(space.regions.find(gpa)?.backing_at(&page))
        };
        match (region(self), region(other)) {
            (Some(one), Some(other)) => one.continues(0, &other),
            _ => false,
        }
    }

    /// Gives back everything. No CPU may have anything of this space cached, nor run in it.
    pub fn destroy<H: Host>(mut self, host: &mut H) {
        destroy_views(host, &mut self.views);
        self.tree.destroy(host);
    }

    /// Refuses a permission that the CPU cannot express.
    pub(crate) fn check(&self, perm: Perm) -> Result<(), RegionError<S::Error>> {
        if self.tree.can_express(perm) {
            Ok(())
        } else {
            Err(RegionError::Perm)
        }
    }
}
