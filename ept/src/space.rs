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
use crate::region::{Backing, Region, RegionError, Store};
use crate::regions::RegionMap;
use crate::share::Retired;
use crate::tree::{InsertError, Taken, Tree};

/// What an access to a page needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault<B> {
    /// No region is there.
    Unmapped,
    /// The region does not allow it.
    Denied,
    /// Nothing: another vCPU was faster, or the fault was a stale translation's.
    Done,
    /// A frame of zeros, for [`Space::install`] as [`Owner::Private`] with no backing.
    Anonymous,
    /// A page of a file, for [`Space::install`] with this backing.
    File {
        /// What the page is made from.
        backing: B,
        /// Whether it will be written: then a copy is wanted, as [`Owner::Private`], and else the
        /// file's own page, as [`Owner::File`].
        copy: bool,
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
pub struct Space<B, S> {
    /// The pages that were touched.
    tree: Tree,
    /// What is mapped.
    regions: RegionMap<B, S>,
}

impl<B: Backing, S: Store<Region<B>>> Space<B, S> {
    /// An empty space, its regions kept in `store`, at most `max_regions` of them.
    pub fn new<H: Host>(host: &mut H, store: S, max_regions: usize) -> Result<Self, H::Error> {
        let tree = Tree::new(host)?;
        // INVARIANT: both are empty.
        Ok(Self {
            tree,
            regions: RegionMap::new(store, max_regions),
        })
    }

    /// The tables.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The regions.
    pub fn regions(&self) -> &RegionMap<B, S> {
        &self.regions
    }

    /// Maps a region where nothing is mapped. Its pages come by faults.
    pub fn map(&mut self, region: Region<B>) -> Result<(), RegionError<S::Error>> {
        self.check(region.perm)?;
        self.regions.insert(region)
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
        self.regions.remove(range)?;
        // INVARIANT: what was in the range goes out of the tree as well.
        Ok(self.tree.detach(host, range))
    }

    /// Gives back the pages and tables of a range that was unmapped, after the flush.
    pub fn reap<H: Host>(&mut self, host: &mut H, range: Range) {
        self.tree.reap(host, range);
    }

    /// Gives all of `range` a permission; fails if a part of it is not mapped.
    pub fn protect<H: Host>(
        &mut self,
        host: &H,
        range: Range,
        perm: Perm,
    ) -> Result<Taken, RegionError<S::Error>> {
        self.check(perm)?;
        self.regions.protect(range, perm)?;
        // INVARIANT: the leaves follow their regions.
        Ok(self.tree.protect(host, range, perm))
    }

    /// What the guest needs to be able to `access` the page of `gpa`.
    ///
    /// An access with no bit is none that a CPU makes, and is denied.
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
    /// [`Fault::Done`] means that the page is mapped and, to `write`, that it is the micro-VM's own.
    pub fn host_fault<H: Host>(&self, host: &H, gpa: Gpa, write: bool) -> Fault<B> {
        match self.regions.find(gpa) {
            None => Fault::Unmapped,
            Some(region) => self.wanted(host, region, gpa, write),
        }
    }

    /// What an access that is allowed needs.
    fn wanted<H: Host>(&self, host: &H, region: &Region<B>, gpa: Gpa, write: bool) -> Fault<B> {
        let (leaf, own) = self.tree.look(host, gpa);
        match leaf {
            // By the invariant, the leaf has all else that the region has.
            Some(_) if !write => Fault::Done,
            _ if !own => Fault::Unshare,
            Some(leaf) if leaf.owner == Owner::Private => Fault::Done,
            Some(leaf) if leaf.owner == Owner::Shared && !host.is_frame_shared(leaf.frame) => {
                Fault::Reuse
            }
            Some(from) => Fault::Copy { from },
            None if region.backing.is_anonymous() => Fault::Anonymous,
            None => match Range::page_of(gpa) {
                Some(page) => Fault::File {
                    backing: region.backing_at(&page),
                    copy: write,
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
        let same = |now: Leaf| now.owner != Owner::Private && now.frame == from.frame;
        match self.tree.replace_if(host, gpa, leaf, same) {
            Some(old) => Copied::Done { old },
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
    /// this space.
    pub fn share<H: Host>(&mut self, host: &mut H) -> Result<(Self, Taken), H::Error>
    where
        H::Error: From<S::Error>,
    {
        let regions = self.regions.share()?;
        let (tree, taken) = self.tree.share(host)?;
        // INVARIANT: the same leaves, in the same regions.
        Ok((Self { tree, regions }, taken))
    }

    /// Gives this space the regions of `template`, and hides its pages until [`Space::restore`]: see
    /// [`Tree::hide`]. If it fails, nothing happened.
    pub fn hide<H: Host>(&mut self, host: &mut H, template: &mut Self) -> Result<(), S::Error> {
        self.regions = template.regions.share()?;
        // INVARIANT: there is no leaf for now.
        self.tree.hide(host);
        Ok(())
    }

    /// Gives this space the pages of `template`, whose regions it has: see [`Tree::restore`].
    pub fn restore<H: Host>(&mut self, host: &mut H, template: &mut Self, keep: u32) -> u64 {
        // INVARIANT: the template's leaves, in its regions.
        self.tree.restore(host, &mut template.tree, keep)
    }

    /// Whether [`Space::protect`] of this range would find all of it mapped, and the permission one that
    /// the CPU can express.
    pub fn check_protect(&self, range: Range, perm: Perm) -> Result<(), RegionError<S::Error>> {
        self.check(perm)?;
        self.regions.check_mapped(range)
    }

    /// Takes the pages in `range` out, so that they are made anew when they are touched again; the regions
    /// stay. Flush and reap are as with [`Space::unmap`].
    pub fn discard<H: Host>(&mut self, host: &H, range: Range) -> Taken {
        self.tree.detach(host, range)
    }

    /// Takes pages of files out: see [`Tree::detach_files`].
    pub fn detach_files<H: Host>(&mut self, host: &H, start: u64, most: u32) -> Files {
        self.tree.detach_files(host, start, most)
    }

    /// Gives back everything. No CPU may have anything of this space cached, nor run in it.
    pub fn destroy<H: Host>(self, host: &mut H) {
        self.tree.destroy(host);
    }

    /// Refuses a permission that the CPU cannot express.
    fn check(&self, perm: Perm) -> Result<(), RegionError<S::Error>> {
        if self.tree.can_express(perm) {
            Ok(())
        } else {
            Err(RegionError::Perm)
        }
    }
}
