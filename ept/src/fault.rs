// SPDX-License-Identifier: GPL-2.0

//! What a fault asks for, and what is done with the page that is made for it.
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
use crate::host::Host;
use crate::region::{Backing, Region, Store};
use crate::space::Space;
use crate::tree::InsertError;
use crate::view::{Slots, View};

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
    /// A page of user memory, for [`Space::user_entry`].
    User {
        /// The guest has it already; nobody else may use it by what the tables say.
        mapped: bool,
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

impl<B, S, V> Space<B, S, V>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    /// What the guest needs to be able to `access` the page of `gpa`.
    ///
    /// An access with no bit is none that a CPU makes, and is denied.
    #[inline]
    pub fn fault<H: Host>(&self, host: &H, gpa: Gpa, access: Perm) -> Fault<B> {
        match self.regions().find(gpa) {
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
        match self.regions().find(gpa) {
            None => Fault::Unmapped,
            Some(region) => self.wanted(host, region, gpa, write),
        }
    }

    /// What it takes to have the page of `gpa` in a frame that is no file's, whatever the guest may do.
    pub fn own_fault<H: Host>(&self, host: &H, gpa: Gpa) -> Fault<B> {
        match self.tree().get(host, gpa) {
            Some(leaf) if leaf.owner != Owner::File => Fault::Done,
            _ => self.host_fault(host, gpa, true),
        }
    }

    /// What an access that is allowed needs.
    #[inline]
    fn wanted<H: Host>(&self, host: &H, region: &Region<B>, gpa: Gpa, write: bool) -> Fault<B> {
        let (leaf, own) = self.tree().look(host, gpa);
        if region.backing.is_user() {
            return match leaf {
                _ if !own => Fault::Unshare,
                leaf => Fault::User {
                    mapped: leaf.is_some_and(|leaf| leaf.perm.contains(Perm::W) || !write),
                },
            };
        }
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
        let (Some(region), Some(page)) = (self.regions().find(gpa), Range::page_of(gpa)) else {
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
        match self.tree_mut().insert(host, gpa, leaf) {
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
        let Some(region) = self.regions().find(gpa) else {
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
        match self.tree_mut().replace_if(host, gpa, leaf, same) {
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
        let Some(region) = self.regions().find(gpa) else {
            return;
        };
        let (Some(leaf), true) = self.tree().look(host, gpa) else {
            return;
        };
        if leaf.owner == Owner::Shared && !host.is_frame_shared(leaf.frame) {
            // INVARIANT: inside the region, with its permission; nobody else has the frame.
            let own = Leaf {
                perm: region.perm,
                owner: Owner::Private,
                ..leaf
            };
            let _ = self.tree_mut().replace(host, gpa, own);
        }
    }
}
