// SPDX-License-Identifier: GPL-2.0

//! Views: the ioctls, and the lists by which CPUs find them without the lock.

use core::{
    mem::size_of,
    sync::atomic::{
        AtomicU64,
        Ordering::{
            Relaxed,
            Release, //
        }, //
    }, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use uvisor_ept::{
    Marks,
    Perm,
    Range,
    Region,
    RegionError,
    Slots,
    Space,
    Taken,
    View,
    MAX_VIEWS, //
};

use super::{
    region_error,
    Inner,
    Memory, //
};
use crate::{
    pages::{
        Charged,
        MemoryBacking,
        Pages,
        Regions, //
    },
    sys::frame, //
};

/// The memory of a micro-VM, as `uvisor_ept` has it.
pub(crate) type GuestSpace = Space<MemoryBacking, Regions, ViewSlots>;

/// The views of a micro-VM but view 0, in a vector that is charged to the task's memory cgroup.
pub(crate) struct ViewSlots(KVVec<Option<View<MemoryBacking, Regions>>>);

impl ViewSlots {
    /// None.
    pub(super) fn new() -> Self {
        Self(KVVec::new())
    }
}

impl Slots<View<MemoryBacking, Regions>> for ViewSlots {
    type Error = Error;

    fn as_slice(&self) -> &[Option<View<MemoryBacking, Regions>>] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [Option<View<MemoryBacking, Regions>>] {
        &mut self.0
    }

    fn grow(&mut self) -> Result {
        Ok(self.0.push(None, GFP_KERNEL_ACCOUNT)?)
    }
}

/// A page of EPT pointers, by the number of the view, 0 for none; CPUs and windows read it at any time.
struct EptpList(Charged);

impl EptpList {
    /// An empty one.
    fn new(pages: &Pages) -> Result<Self> {
        Ok(Self(pages.zeroed()?))
    }

    #[inline]
    fn entries(&self) -> &[AtomicU64; MAX_VIEWS] {
        // SAFETY: The page is ours as long as `self` lives, as large, and zeroed; all accesses to it, those
        // of CPUs among them, are atomic.
        unsafe { &*frame::virt(self.0.phys()).cast() }
    }

    /// The EPT pointer of a view.
    #[inline]
    fn get(&self, view: u64) -> Option<u64> {
        let view = usize::try_from(view).ok()?;
        let eptp = self.entries().get(view)?.load(Relaxed);
        (eptp != 0).then_some(eptp)
    }
}

/// By what CPUs find the views.
pub(crate) struct ViewTable {
    /// The EPTP list of VMFUNC: the views that the guest may switch to, and that were opened.
    guest: EptpList,
    /// All views that were opened, and view 0.
    all: EptpList,
}

impl ViewTable {
    /// How many pages it has.
    pub(crate) const PAGES: u64 = 2;

    /// One with view 0.
    pub(super) fn new(pages: &Pages, eptp: u64) -> Result<Self> {
        let table = Self {
            guest: EptpList::new(pages)?,
            all: EptpList::new(pages)?,
        };
        let [first, ..] = table.all.entries();
        first.store(eptp, Relaxed);
        Ok(table)
    }

    /// The physical address of the EPTP list for VMFUNC.
    #[inline]
    pub(crate) fn list(&self) -> u64 {
        self.guest.0.phys()
    }

    /// The EPT pointer of a view, if it was opened.
    #[inline]
    pub(crate) fn eptp(&self, view: u64) -> Option<u64> {
        self.all.get(view)
    }

    /// The EPT pointer of a view that the guest may switch to, if it was opened.
    #[inline]
    pub(crate) fn eptp_for_guest(&self, view: u64) -> Option<u64> {
        self.guest.get(view)
    }

    /// The view that has an EPT pointer.
    #[cold]
    pub(crate) fn view_of(&self, eptp: u64) -> Option<u64> {
        let entries = self.all.entries();
        let at = entries.iter().position(|entry| entry.load(Relaxed) == eptp);
        // CAST: Below `MAX_VIEWS`.
        at.map(|at| at as u64)
    }

    /// All EPT pointers.
    pub(crate) fn eptps(&self) -> impl Iterator<Item = u64> + '_ {
        let entries = self.all.entries().iter();
        entries.map(|e| e.load(Relaxed)).filter(|&eptp| eptp != 0)
    }

    /// Writes to `list` what `space` has, of the views that are `wanted`.
    fn write(
        list: &EptpList,
        space: &GuestSpace,
        wanted: impl Fn(&View<MemoryBacking, Regions>) -> bool,
    ) {
        for (view, entry) in list.entries().iter().enumerate().skip(1) {
            let view = space.view(view).filter(|view| wanted(view));
            let eptp = view.and_then(View::eptp).unwrap_or(0);
            entry.store(eptp, Release);
        }
    }

    /// Shows CPUs the views that `space` has.
    fn show(&self, space: &GuestSpace) {
        Self::write(&self.all, space, |_| true);
        self.show_guest(space);
    }

    /// Lets the guest switch to the views that `space` has, and no others.
    fn show_guest(&self, space: &GuestSpace) {
        Self::write(&self.guest, space, View::is_for_guest);
    }
}

impl Memory {
    /// The views; none if there is but view 0 and never was another.
    #[inline(always)]
    pub(crate) fn views(&self) -> Option<&ViewTable> {
        self.views.as_ref()
    }

    /// Makes the table of views if there is none.
    pub(super) fn need_view_table(&self, pages: &Pages) -> Result {
        if self.views.as_ref().is_none() {
            // Under the lock, so that nobody else does at the same time.
            self.views.populate(ViewTable::new(pages, self.eptp)?);
        }
        Ok(())
    }

    /// `VIEW_CREATE`; the number of the view.
    pub(crate) fn create_view(&self, perm: Perm, guest: bool) -> Result<usize> {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        self.need_view_table(&inner.pages)?;
        let space = inner.space.as_mut().ok_or(ENXIO)?;
        let everywhere = Region {
            range: self.everything()?,
            perm,
            marks: Marks::empty(),
            backing: MemoryBacking::Anonymous,
        };
        space
            .add_view(Regions::new(), everywhere, guest)
            .map_err(region_error)
    }

    /// `VIEW_PROTECT`.
    pub(crate) fn protect_view(&self, view: u32, range: Range, perm: Perm) -> Result {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        let Inner { pages, space, .. } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        // CAST: No smaller than 32 bits.
        let taken = space.protect_view(pages, view as usize, range, perm);
        if taken.map_err(region_error)? == Taken::Something {
            // User mappings are of view 0.
            self.flush();
        }
        space.reap_views(pages, range);
        Ok(())
    }

    /// `VIEW_DESTROY`.
    pub(crate) fn destroy_view(&self, view: u32) -> Result {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        let Inner { pages, space, .. } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        // CAST: No smaller than 32 bits.
        let view = space.remove_view(view as usize);
        let view = view.ok_or_else(|| region_error(RegionError::NoView))?;
        self.hide_views(space);
        view.destroy(pages);
        Ok(())
    }

    /// After views were taken out of `space`: no CPU is in one of them, or gets there, any more.
    pub(super) fn hide_views(&self, space: &GuestSpace) {
        let Some(views) = self.views() else { return };
        // In two steps, so that a CPU that the guest brought there by itself still learns where it is.
        views.show_guest(space);
        self.flush();
        views.show(space);
        self.flush();
    }

    /// Makes a view one that a CPU can be in; false if there is none of this number, or none that the
    /// guest may switch to if it is `by_guest`.
    pub(crate) fn open_view(&self, view: u64, by_guest: bool) -> Result<bool> {
        let mut inner = self.inner.lock();
        let Inner { pages, space, .. } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        let Ok(view) = usize::try_from(view) else {
            return Ok(false);
        };
        match space.view(view) {
            Some(found) if found.is_for_guest() || !by_guest => {}
            // View 0 is always open.
            _ => return Ok(view == 0 && !by_guest),
        }
        if let (Some((_, true)), Some(views)) = (space.open_view(pages, view)?, self.views()) {
            // The root's page may have been another root before: before a CPU sees it.
            self.flush();
            views.show(space);
        }
        Ok(true)
    }

    /// Whether there is this view.
    pub(crate) fn has_view(&self, view: u64) -> bool {
        let inner = self.inner.lock();
        let view = usize::try_from(view).unwrap_or(usize::MAX);
        view == 0 || inner.space.as_ref().is_some_and(|s| s.view(view).is_some())
    }
}

// An EPTP list is one page (SDM 26.5.6.3).
const _: () = assert!(size_of::<[AtomicU64; MAX_VIEWS]>() == PAGE_SIZE);
