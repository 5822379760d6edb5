// SPDX-License-Identifier: GPL-2.0

//! Views: other EPT roots over the same memory, in which less is allowed.
//!
//! A micro-VM's own tree is view 0, which allows what the regions allow. Each other view has limits, a
//! permission for every address, and tables of its own, which are a cache: a leaf there maps the frame that
//! the same page has in view 0, with what view 0 and the limits allow both. It comes when the page is
//! touched in the view ([`Space::fill`]) and has no reference on its frame.
//!
//! So a view follows the memory below it by forgetting: whatever takes a page or a permission away in view
//! 0 takes the same range out of all views, before the one flush that serves them all; what it adds is found
//! out by the next fault. User memory is in view 0 only. Only a copy of a page is put into views in the place of the original. Tables of
//! views are never shared: a clone has the same limits, and fills its own.

use crate::addr::{Gpa, Range};
use crate::entry::{Leaf, Owner, Perm};
use crate::fault::Fault;
use crate::host::Host;
use crate::region::{Backing, Region, RegionError, Store};
use crate::regions::RegionMap;
use crate::space::Space;
use crate::tree::{InsertError, Taken, Tree};

/// How many views there can be, view 0 among them: as many as an EPTP list has entries (26.5.6.3).
pub const MAX_VIEWS: usize = 512;

/// A growable array of places, supplied by the host.
pub trait Slots<T> {
    /// Why it cannot grow.
    type Error;

    /// All places.
    fn as_slice(&self) -> &[Option<T>];

    /// All places, to be filled and emptied.
    fn as_mut_slice(&mut self) -> &mut [Option<T>];

    /// Adds an empty place.
    fn grow(&mut self) -> Result<(), Self::Error>;
}

/// A view.
///
/// # Invariants
///
/// The limits cover all addresses. Each leaf has the frame that view 0's leaf has there, and no permission
/// that this or the limits do not have.
#[derive(Debug)]
pub struct View<B, S> {
    /// What it allows at most, where.
    limits: RegionMap<B, S>,
    /// The tables, once a CPU wanted them.
    tree: Option<Tree>,
    /// Whether the guest may switch to it by itself.
    guest: bool,
    /// Which one it is: never given to another one, but to that of a clone.
    serial: u64,
}

impl<B: Backing, S: Store<Region<B>>> View<B, S> {
    /// Whether the guest may switch to it by itself.
    pub fn is_for_guest(&self) -> bool {
        self.guest
    }

    /// Which one it is, of all that ever had its number; not 0.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The EPT pointer, if the view was opened.
    pub fn eptp(&self) -> Option<u64> {
        self.tree.as_ref().map(Tree::eptp)
    }

    /// The most that is allowed at `gpa`.
    pub fn limit(&self, gpa: Gpa) -> Perm {
        self.limits
            .find(gpa)
            .map_or(Perm::empty(), |limit| limit.perm)
    }

    /// A view with the same limits, and without tables.
    fn share(&mut self) -> Result<Self, S::Error> {
        Ok(Self {
            limits: self.limits.share()?,
            tree: None,
            guest: self.guest,
            serial: self.serial,
        })
    }

    /// The leaf for the page that is `leaf` in view 0.
    fn restrict(&self, gpa: Gpa, leaf: Leaf) -> Leaf {
        Leaf {
            perm: leaf.perm & self.limit(gpa),
            owner: Owner::Lent,
            ..leaf
        }
    }

    /// Gives back its tables. No CPU may have anything of them cached, nor run in the view.
    pub fn destroy<H: Host>(self, host: &mut H) {
        if let Some(tree) = self.tree {
            tree.destroy(host);
        }
    }
}

/// Gives back the tables of all views.
pub fn destroy_views<H: Host, B, S, V>(host: &mut H, views: &mut V)
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>>,
{
    for view in views.as_mut_slice().iter_mut().filter_map(Option::take) {
        view.destroy(host);
    }
}

/// Fills `to`, which is empty, with views that have the limits of those in `from`.
pub(crate) fn share_views<B, S, V>(from: &mut V, to: &mut V) -> Result<(), S::Error>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    for (at, view) in from.as_mut_slice().iter_mut().enumerate() {
        to.grow()?;
        if let (Some(view), Some(slot)) = (view, to.as_mut_slice().get_mut(at)) {
            *slot = Some(view.share()?);
        }
    }
    Ok(())
}

/// Gives views of `to`, which have no tables, those that they have in `from`, where they are the same ones.
pub(crate) fn keep_trees<B, S, V: Slots<View<B, S>>>(from: &mut V, to: &mut V) {
    let pairs = from.as_mut_slice().iter_mut().zip(to.as_mut_slice());
    for (from, to) in pairs {
        if let (Some(from), Some(to)) = (from, to) {
            // Of another one, a CPU may have more cached than this one allows.
            if from.serial == to.serial {
                to.tree = from.tree.take();
            }
        }
    }
}

impl<B, S, V> Space<B, S, V>
where
    B: Backing,
    S: Store<Region<B>>,
    V: Slots<View<B, S>, Error = S::Error>,
{
    /// The view of this number, which is not 0.
    pub fn view(&self, number: usize) -> Option<&View<B, S>> {
        let views = self.views.as_slice();
        let at = index_nospec(number.checked_sub(1)?, views.len());
        views.get(at)?.as_ref()
    }

    /// Whether there is another view than view 0.
    pub fn has_views(&self) -> bool {
        self.views.as_slice().iter().any(Option::is_some)
    }

    /// [`Space::view`], to be changed.
    fn view_mut(&mut self, number: usize) -> Option<&mut View<B, S>> {
        let views = self.views.as_mut_slice();
        let at = index_nospec(number.checked_sub(1)?, views.len());
        views.get_mut(at)?.as_mut()
    }

    /// Adds a view that allows, everywhere, at most what `limit` has, which is to cover all addresses;
    /// `store` is for its limits, of which there can be `max_limits`. Gives its number.
    pub fn add_view(
        &mut self,
        store: S,
        max_limits: usize,
        limit: Region<B>,
        guest: bool,
    ) -> Result<usize, RegionError<S::Error>> {
        self.check(limit.perm)?;
        let mut limits = RegionMap::new(store, max_limits);
        limits.insert(limit)?;
        let free = self.views.as_slice().iter().position(Option::is_none);
        let at = match free {
            Some(at) => at,
            None => {
                let at = self.views.as_slice().len();
                // View 0 is not among them.
                if at >= MAX_VIEWS - 1 {
                    return Err(RegionError::TooMany);
                }
                self.views.grow().map_err(RegionError::Store)?;
                at
            }
        };
        self.last_serial = self.last_serial.saturating_add(1);
        // INVARIANT: there is no leaf yet.
        let view = View {
            limits,
            tree: None,
            guest,
            serial: self.last_serial,
        };
        match self.views.as_mut_slice().get_mut(at) {
            Some(slot) => *slot = Some(view),
            None => return Err(RegionError::TooMany),
        }
        Ok(at.saturating_add(1))
    }

    /// Takes a view away; its EPT pointer must not be used any more. The caller flushes, and then gives it
    /// back by [`View::destroy`].
    pub fn remove_view(&mut self, number: usize) -> Option<View<B, S>> {
        let views = self.views.as_mut_slice();
        let at = index_nospec(number.checked_sub(1)?, views.len());
        views.get_mut(at)?.take()
    }

    /// Lets a view allow at most `perm` in `range`. If something was taken, the caller flushes, and then
    /// calls [`Space::reap_view`] with the same range.
    pub fn protect_view<H: Host>(
        &mut self,
        host: &H,
        number: usize,
        range: Range,
        perm: Perm,
    ) -> Result<Taken, RegionError<S::Error>> {
        self.check(perm)?;
        self.check_not_sealed(range)?;
        let view = self.view_mut(number).ok_or(RegionError::NoView)?;
        view.limits.protect(range, perm)?;
        // INVARIANT: what the limits changed comes anew.
        Ok(match &mut view.tree {
            Some(tree) => tree.detach(host, range),
            None => Taken::Nothing,
        })
    }

    /// The EPT pointer of a view, and whether that is new: then CPUs must be flushed before they use it,
    /// since its root may have been another one's. None if there is no such view.
    pub fn open_view<H: Host>(
        &mut self,
        host: &mut H,
        number: usize,
    ) -> Result<Option<(u64, bool)>, H::Error> {
        let Some(view) = self.view_mut(number) else {
            return Ok(None);
        };
        if let Some(tree) = &view.tree {
            return Ok(Some((tree.eptp(), false)));
        }
        // INVARIANT: a new tree has no leaf.
        let tree = view.tree.insert(Tree::new(host)?);
        Ok(Some((tree.eptp(), true)))
    }

    /// [`Space::fault`] in a view, 0 or another.
    #[inline]
    pub fn view_fault<H: Host>(&self, host: &H, number: usize, gpa: Gpa, access: Perm) -> Fault<B> {
        if number == 0 {
            return self.fault(host, gpa, access);
        }
        self.fault_in_view(host, number, gpa, access)
    }

    /// [`Space::view_fault`] in another one.
    #[cold]
    fn fault_in_view<H: Host>(&self, host: &H, number: usize, gpa: Gpa, access: Perm) -> Fault<B> {
        let Some(view) = self.view(number) else {
            return Fault::NoView;
        };
        match self.regions().find(gpa) {
            Some(region) if region.backing.is_user() || !view.limit(gpa).contains(access) => {
                return Fault::Hidden
            }
            _ => {}
        }
        match self.fault(host, gpa, access) {
            Fault::Done => {
                let leaf = view.tree.as_ref().and_then(|tree| tree.get(host, gpa));
                match leaf {
                    Some(leaf) if leaf.perm.contains(access) => Fault::Done,
                    _ => Fault::Fill,
                }
            }
            other => other,
        }
    }

    /// Puts the page that view 0 has at `gpa` into a view, for [`Fault::Fill`]. CPUs need no flush.
    pub fn fill<H: Host>(&mut self, host: &mut H, number: usize, gpa: Gpa) -> Result<(), H::Error> {
        let Some(leaf) = self.tree().get(host, gpa) else {
            return Ok(());
        };
        let Some(view) = self.view_mut(number) else {
            return Ok(());
        };
        // INVARIANT: this view's leaf is made from view 0's and the limits.
        let leaf = view.restrict(gpa, leaf);
        let Some(tree) = &mut view.tree else {
            return Ok(());
        };
        if tree.replace(host, gpa, leaf).is_some() {
            // The frame was the same by the invariant, and there is no less permission than before.
            return Ok(());
        }
        match tree.insert(host, gpa, leaf) {
            Err(InsertError::Host(error)) => Err(error),
            // What else is in the way is not there when the guest tries again.
            _ => Ok(()),
        }
    }

    /// The largest number that a view can have now.
    pub(crate) fn max_view(&self) -> usize {
        self.views.as_slice().len()
    }

    /// The tree of a view, 0 or another.
    pub(crate) fn tree_of(&self, number: usize) -> Option<&Tree> {
        match number {
            0 => Some(self.tree()),
            _ => self.view(number)?.tree.as_ref(),
        }
    }

    /// Takes all pages in `range` out of all views; [`Space::reap_views`] is owed after the flush.
    pub(crate) fn detach_views<H: Host>(&mut self, host: &H, range: Range) -> Taken {
        let mut taken = Taken::Nothing;
        for tree in trees(&mut self.views) {
            taken = taken.and(tree.detach(host, range));
        }
        taken
    }

    /// Gives back tables of a view of a range that was taken out of it, after the flush.
    pub fn reap_view<H: Host>(&mut self, host: &mut H, number: usize, range: Range) {
        let view = self.view_mut(number);
        if let Some(tree) = view.and_then(|view| view.tree.as_mut()) {
            tree.reap(host, range);
        }
    }

    /// Gives back tables of all views of a range that was taken out of all, after the flush.
    pub fn reap_views<H: Host>(&mut self, host: &mut H, range: Range) {
        for tree in trees(&mut self.views) {
            tree.reap(host, range);
        }
    }

    /// Puts the page that is `leaf` in view 0 now in the place of the one that views have at `gpa`.
    #[inline]
    pub(crate) fn replace_in_views<H: Host>(&mut self, host: &H, gpa: Gpa, leaf: Leaf) {
        for view in self.views.as_mut_slice().iter_mut().flatten() {
            // INVARIANT: this view's leaf is made from view 0's and the limits.
            let leaf = view.restrict(gpa, leaf);
            if let Some(tree) = &mut view.tree {
                let _ = tree.replace(host, gpa, leaf);
            }
        }
    }
}

/// `at` if that is below `len`, and else no index; where a CPU only speculates that it is, 0.
#[inline]
fn index_nospec(at: usize, len: usize) -> usize {
    if at >= len {
        return usize::MAX;
    }
    // So that the compiler does not see that the mask is all ones here.
    let at = core::hint::black_box(at);
    // CAST: The sign says which is larger, as neither is near the end of the address space.
    let mask = (at.wrapping_sub(len) as isize >> (isize::BITS - 1)) as usize;
    at & mask
}

/// The trees of all views that have one.
fn trees<'a, B: 'a, S: 'a, V: Slots<View<B, S>>>(
    views: &'a mut V,
) -> impl Iterator<Item = &'a mut Tree> {
    let views = views.as_mut_slice().iter_mut().flatten();
    views.filter_map(|view| view.tree.as_mut())
}
