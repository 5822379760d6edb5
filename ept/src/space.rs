// SPDX-License-Identifier: GPL-2.0

//! The regions and the tables together, and what a fault asks for.
//!
//! # How a fault is served, and what may happen meanwhile
//!
//! [`Space::fault`] says which page is wanted; the module makes it and gives it to
//! [`Space::install`] or [`Space::install_copy`]. Reading a file's page can take long, so the
//! module lets go of its lock in between, and anything may happen to the space then. Nothing is
//! remembered about the fault: what was true is found out again at the end, and if it no longer is,
//! the page stays the caller's and the guest just runs, and faults, again. In detail:
//!
//! * *Another vCPU was faster* at the same page: its leaf stays ([`Installed::Occupied`]).
//! * *The range was unmapped*, or mapped to something else: the region is looked up again and must
//!   have the same backing at that page, the same file at the same offset or zeros
//!   ([`Installed::Stale`]). Equal backing is enough, even if it is another region than before,
//!   because the page is made from the backing and nothing else. One thing follows from that: a
//!   *copy* of a file's page must be made after the lock was taken again, of the page-cache page
//!   that is found without it. Otherwise the range could be unmapped, the file written and mapped
//!   again, and then show what was there before the write.
//! * *The permission was changed*: the leaf gets what the region has now, not what it had. If that
//!   does not allow the access any more, the guest faults again and is told so.
//! * *The old page is still being unmapped* (detached and not reaped) where a new region is already
//!   mapped: its place counts as occupied until it is gone.
//! * *The space was cloned*: its tables are no longer its own, and nothing is mapped in them
//!   ([`Installed::Stale`], [`Copied::Stale`]). The next look at the fault says so ([`Fault::Unshare`]).
//! * *A file's leaf to be copied was replaced, or unmapped and mapped again*: the leaf must be the
//!   very one that [`Fault::Copy`] gave ([`Copied::Stale`]). The caller must have a reference of its
//!   own on that frame before it lets go of the lock, so that an equal address is the same page.
//!
//! CPUs see each leaf change from one state to the next by one store. A CPU with an old translation
//! does what was allowed before, until the flush that the caller owes after [`Taken::Something`] or
//! [`Copied::Done`].

use crate::addr::{Gpa, Hpa, Range};
use crate::entry::{Leaf, Owner, Perm};
use crate::files::Files;
use crate::host::Host;
use crate::region::{Backing, Marks, Region, RegionError, Store};
use crate::regions::RegionMap;
use crate::share::Retired;
use crate::tree::{InsertError, Taken, Tree};
use crate::view::{destroy_views, keep_trees, share_views, Slots, View};

/// What an access to a page needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault<B> {
    /// No region is there.
    Unmapped,
    /// The region does not allow it.
    Denied,
    /// The region allows it, and the view does not.
    Hidden,
    /// There is no such view.
    NoView,
    /// The page, which view 0 has, must come into the view, by [`Space::fill`].
    Fill,
    /// Nothing: another vCPU was faster, or the fault was a stale translation's.
    Done,
    /// A frame of zeros, for [`Space::install`] as [`Owner::Private`] with no backing.
    Anonymous,
    /// A page of a file, for [`Space::install`] with this backing.
    File {
        /// What the page is made from.
        backing: B,
        /// As whose it is wanted: [`Owner::Private`] is a copy, which will be written; [`Owner::File`] and
        /// [`Owner::Live`] are the file's own page.
        owner: Owner,
    },
    /// The tables on the way to it, which clones may have as well, must become the space's own, by
    /// [`Space::unshare`].
    Unshare,
    /// Its frame, which clones had as well and let go of, can be taken over, by [`Space::reuse`].
    Reuse,
    /// A copy of a file's page that is mapped, or of a frame that clones have as well, for
    /// [`Space::install_copy`].
    Copy {
        /// The leaf that maps it.
        from: Leaf,
    },
}

/// What [`Space::install`] did.
#[must_use = "the frame is still the caller's, except in one case"]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Installed {
    /// The frame is mapped, and the caller's reference on it is the tree's.
    Done,
    /// Another leaf is there; the frame is still the caller's.
    Occupied,
    /// The page is no longer wanted there; the frame is still the caller's.
    Stale,
}

/// What [`Space::install_copy`] did.
#[must_use = "a frame is the caller's"]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Copied {
    /// The copy is mapped, and the caller's reference on it is the tree's.
    Done {
        /// What was mapped before: its reference is the caller's, to be dropped after a flush,
        /// without which CPUs also go on reading it in place of the copy.
        old: Leaf,
    },
    /// Something else is mapped there, or nothing; the copy is still the caller's.
    Stale,
}

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
        if new.contains(Marks::WRITABLE) && backing.is_live() {
            // What is written there may be executable elsewhere.
            new |= Marks::EXECUTABLE;
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

    /// What the guest needs to be able to `access` the page of `gpa`.
    ///
    /// An access with no bit is none that a CPU makes, and is denied.
    #[inline]
    pub fn fault<H: Host>(&self, host: &H, gpa: Gpa, access: Perm) -> Fault<B> {
        match self.regions.find(gpa) {
            None => Fault::Unmapped,
            Some(region) if access.is_empty() || !region.perm.contains(access) => Fault::Denied,
            Some(region) => self.wanted(host, region, gpa, access.contains(Perm::W)),
        }
    }

    /// What the module needs to read or write the page of `gpa` itself, for user space, whatever
    /// the guest may do; never [`Fault::Denied`].
    ///
    /// [`Fault::Done`] means that the page is mapped and, to `write`, that it is the micro-VM's own or
    /// [`Owner::Live`].
    pub fn host_fault<H: Host>(&self, host: &H, gpa: Gpa, write: bool) -> Fault<B> {
        match self.regions.find(gpa) {
            None => Fault::Unmapped,
            Some(region) => self.wanted(host, region, gpa, write),
        }
    }

    /// What it takes to have the page of `gpa` in a frame that is no file's, whatever the guest may do.
    pub fn own_fault<H: Host>(&self, host: &H, gpa: Gpa) -> Fault<B> {
        match self.tree.get(host, gpa) {
            Some(leaf) if leaf.owner != Owner::File => Fault::Done,
            _ => self.host_fault(host, gpa, true),
        }
    }

    /// What an access that is allowed needs.
    #[inline]
    fn wanted<H: Host>(&self, host: &H, region: &Region<B>, gpa: Gpa, write: bool) -> Fault<B> {
        let (leaf, own) = self.tree.look(host, gpa);
        match leaf {
            // By the invariant, the leaf has all else that the region has.
            Some(_) if !write => Fault::Done,
            _ if !own => Fault::Unshare,
            Some(leaf) if matches!(leaf.owner, Owner::Private | Owner::Live) => Fault::Done,
            Some(leaf) if leaf.owner == Owner::Shared && !host.is_frame_shared(leaf.frame) => {
                Fault::Reuse
            }
            Some(from) => Fault::Copy { from },
            None if region.backing.is_anonymous() => Fault::Anonymous,
            None => match Range::page_of(gpa) {
                Some(page) => Fault::File {
                    backing: region.backing_at(&page),
                    owner: match write {
                        _ if region.backing.is_live() => Owner::Live,
                        true => Owner::Private,
                        false => Owner::File,
                    },
                },
                None => Fault::Unmapped,
            },
        }
    }

    /// Maps `frame` at the page of `gpa`, if it is still wanted there.
    ///
    /// `backing` is what [`Fault::File`] gave, and none for [`Fault::Anonymous`]. The leaf gets the
    /// region's permission, a file's frame without `W`. The reference on the frame changes hands
    /// with [`Installed::Done`] only. CPUs need no flush.
    pub fn install<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        frame: Hpa,
        owner: Owner,
        backing: Option<&B>,
    ) -> Result<Installed, H::Error> {
        let (Some(region), Some(page)) = (self.regions.find(gpa), Range::page_of(gpa)) else {
            return Ok(Installed::Stale);
        };
        let is_same = match backing {
            Some(backing) => {
                !region.backing.is_anonymous() && region.backing_at(&page).continues(0, backing)
            }
            None => region.backing.is_anonymous(),
        };
        if !is_same {
            return Ok(Installed::Stale);
        }
        // INVARIANT: inside the region, with its permission.
        let leaf = Leaf {
            frame,
            perm: owner.limit(region.perm),
            owner,
        };
        match self.tree.insert(host, gpa, leaf) {
            Ok(()) => Ok(Installed::Done),
            Err(InsertError::Occupied) => Ok(Installed::Occupied),
            Err(InsertError::Range | InsertError::Shared) => Ok(Installed::Stale),
            Err(InsertError::Host(error)) => Err(error),
        }
    }

    /// Maps the copy in `frame` at the page of `gpa` in the place of `from`, if that is still there.
    ///
    /// `from` is what [`Fault::Copy`] gave.
    pub fn install_copy<H: Host>(&mut self, host: &H, gpa: Gpa, from: Leaf, frame: Hpa) -> Copied {
        let Some(region) = self.regions.find(gpa) else {
            return Copied::Stale;
        };
        // INVARIANT: inside the region, with its permission.
        let leaf = Leaf {
            frame,
            perm: region.perm,
            owner: Owner::Private,
        };
        // Its permission may have changed, its frame must not have.
        let same =
            |now: Leaf| matches!(now.owner, Owner::File | Owner::Shared) && now.frame == from.frame;
        match self.tree.replace_if(host, gpa, leaf, same) {
            Some(old) => {
                self.replace_in_views(host, gpa, leaf);
                Copied::Done { old }
            }
            None => Copied::Stale,
        }
    }

    /// Takes the frame at `gpa` over, if no clone has it any more; for [`Fault::Reuse`].
    ///
    /// CPUs need no flush: the frame is the same, and permission is only added.
    pub fn reuse<H: Host>(&mut self, host: &H, gpa: Gpa) {
        let Some(region) = self.regions.find(gpa) else {
            return;
        };
        let (Some(leaf), true) = self.tree.look(host, gpa) else {
            return;
        };
        if leaf.owner == Owner::Shared && !host.is_frame_shared(leaf.frame) {
            // INVARIANT: inside the region, with its permission; nobody else has the frame.
            let own = Leaf {
                perm: region.perm,
                owner: Owner::Private,
                ..leaf
            };
            let _ = self.tree.replace(host, gpa, own);
        }
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
