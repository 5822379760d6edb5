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

use uvisor_uapi::ViewCause;

use super::{
    region_error,
    Inner,
    Memory, //
};
use crate::{
    backing::MemoryBacking,
    pages::{
        Charged,
        Pages, //
    },
    regions::Regions,
    sys::frame, //
};

/// How many ranges a view can tell apart; they are not charged to the micro-VM.
const MAX_LIMITS: usize = 1024;

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

/// A page with a word for each view, by its number, 0 for none; CPUs and windows read it at any time.
struct ViewPage(Charged);

impl ViewPage {
    /// An empty one.
    fn new(pages: &mut Pages) -> Result<Self> {
        Ok(Self(pages.zeroed()?))
    }

    #[inline]
    fn entries(&self) -> &[AtomicU64; MAX_VIEWS] {
        // SAFETY: The page is ours as long as `self` lives, as large, and zeroed; all accesses to it, those
        // of CPUs among them, are atomic.
        unsafe { &*frame::virt(self.0.phys()).cast() }
    }

    /// The word of a view, if it has one.
    #[inline(always)]
    fn get(&self, view: u64) -> Option<u64> {
        // CAST: There are fewer.
        if view >= MAX_VIEWS as u64 {
            return None;
        }
        // The guest chooses it: no CPU may speculate beyond the page, nor the compiler see that it cannot be.
        // CAST: Below `MAX_VIEWS`.
        let at = core::hint::black_box(view) as usize & (MAX_VIEWS - 1);
        let word = self.entries().get(at)?.load(Relaxed);
        (word != 0).then_some(word)
    }
}

/// By what CPUs find the views.
pub(crate) struct ViewTable {
    /// The EPTP list of VMFUNC: the views that the guest may switch to, and that were opened.
    guest: ViewPage,
    /// The EPT pointers of all views that were opened, and of view 0.
    all: ViewPage,
    /// Which views these are: see [`View::serial`].
    serials: ViewPage,
}

impl ViewTable {
    /// How many pages it has.
    pub(crate) const PAGES: u64 = 3;

    /// One with view 0.
    pub(super) fn new(pages: &mut Pages, eptp: u64) -> Result<Self> {
        let table = Self {
            guest: ViewPage::new(pages)?,
            all: ViewPage::new(pages)?,
            serials: ViewPage::new(pages)?,
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

    /// Which view it is that has this number now; 0 for view 0, and for none.
    #[inline]
    pub(crate) fn serial(&self, view: u64) -> u64 {
        self.serials.get(view).unwrap_or(0)
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

    /// Writes to a page what `word` says of the views that were opened in `space`.
    fn write(
        page: &ViewPage,
        space: &GuestSpace,
        word: impl Fn(&View<MemoryBacking, Regions>, u64) -> u64,
    ) {
        for (number, entry) in page.entries().iter().enumerate().skip(1) {
            let view = space.view(number);
            let view = view.and_then(|view| Some(word(view, view.eptp()?)));
            entry.store(view.unwrap_or(0), Release);
        }
    }

    /// Shows CPUs the views that `space` has.
    fn show(&self, space: &GuestSpace) {
        Self::write(&self.serials, space, |view, _| view.serial());
        Self::write(&self.all, space, |_, eptp| eptp);
        self.show_guest(space);
    }

    /// Lets the guest switch to the views that `space` has, and no others.
    fn show_guest(&self, space: &GuestSpace) {
        Self::write(&self.guest, space, |view, eptp| {
            if view.is_for_guest() {
                eptp
            } else {
                0
            }
        });
    }
}

impl Memory {
    /// The views; none if there is but view 0 and never was another.
    #[inline(always)]
    pub(crate) fn views(&self) -> Option<&ViewTable> {
        self.views.as_ref()
    }

    /// Makes the table of views if there is none.
    pub(super) fn need_view_table(&self, pages: &mut Pages) -> Result {
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
        // A flush of one EPT context would not reach those that are not shown yet, or not any more.
        if !self.hardware.controls.features.invept_all {
            return Err(EOPNOTSUPP);
        }
        self.need_view_table(&mut inner.pages)?;
        let space = inner.space.as_mut().ok_or(ENXIO)?;
        let everywhere = Region {
            range: self.everything()?,
            perm,
            marks: Marks::empty(),
            backing: MemoryBacking::Anonymous,
        };
        space
            .add_view(Regions::new(), MAX_LIMITS, everywhere, guest)
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
            // CAST: As above.
            space.reap_view(pages, view as usize, range);
        }
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

    /// Makes a view one that a CPU can be in, or says why it cannot: by the will of the guest, or of who
    /// calls RUN.
    pub(crate) fn open_view(&self, view: u64, by_guest: bool) -> Result<(), ViewCause> {
        let mut inner = self.inner.lock();
        let Inner { pages, space, .. } = &mut *inner;
        let space = space.as_mut().ok_or(ViewCause::Gone)?;
        let view = usize::try_from(view).map_err(|_| ViewCause::Gone)?;
        // The guest does not go to view 0, which is always open.
        let is_for_guest = match space.view(view) {
            Some(found) => found.is_for_guest(),
            None if view == 0 => false,
            None => return Err(ViewCause::Gone),
        };
        if by_guest && !is_for_guest {
            return Err(ViewCause::Refused);
        }
        let opened = space.open_view(pages, view);
        let opened = opened.map_err(|_| ViewCause::Limit)?;
        if let (Some((_, true)), Some(views)) = (opened, self.views()) {
            // The root's page may have been another root before: before a CPU sees it.
            self.flush();
            views.show(space);
        }
        Ok(())
    }
}

// An EPTP list is one page (SDM 26.5.6.3).
const _: () = assert!(size_of::<[AtomicU64; MAX_VIEWS]>() == PAGE_SIZE);
