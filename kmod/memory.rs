// SPDX-License-Identifier: GPL-2.0

//! The memory of a micro-VM: regions, the pages that faults bring, and flushing.
//!
//! One lock orders all changes. What takes permission away, or exchanges a page, does so in the
//! tables, then flushes (no CPU and no user mapping has the old translation any more), and only then
//! gives pages back.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    AtomicU64,
    Ordering::{
        Relaxed,
        SeqCst, //
    }, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    }, //
};

use uvisor_ept::{
    Marks,
    Perm,
    Range,
    Region,
    RegionError,
    Retired,
    Space,
    Taken, //
};
use uvisor_uapi::{
    Event,
    MemoryCause,
    PAGE_SIZE, //
};

use crate::{
    backing::MemoryBacking,
    events::Counters,
    hardware::Hardware,
    pages::{
        Pages,
        Pool, //
    },
    regions::Regions,
    sys::file::Mapping, //
};

mod fault;
mod held;
mod inside;
mod mapped;
mod reclaim;
mod remap;
mod seal;
mod template;
mod user;
mod views;

use views::{
    GuestSpace,
    ViewSlots,
    ViewTable, //
};

use mapped::Mapped;

use user::Users;

/// How many regions a micro-VM can have; as many as Linux gives a process.
pub(crate) const MAX_REGIONS: usize = 65530;

/// Why an access to a page is not possible.
#[derive(Clone, Copy)]
pub(crate) enum NoPage {
    /// It is not allowed, or nothing is there.
    Cause(MemoryCause),
    /// Other threads change the range faster than we can look; it may be tried again.
    Busy,
    /// The micro-VM is a template.
    Frozen,
    /// It is the calling process's own, at this address.
    User(u64),
}

impl From<MemoryCause> for NoPage {
    fn from(cause: MemoryCause) -> Self {
        Self::Cause(cause)
    }
}

/// The memory of a micro-VM.
#[pin_data]
pub(crate) struct Memory {
    hardware: Arc<Hardware>,
    /// The identity of the micro-VM.
    id: u64,
    /// That of the one that it is a clone of, or a clone of a clone; its own, if it is none. Only who has
    /// the same has tables in common with it.
    family: u64,
    #[pin]
    inner: Mutex<Inner>,
    /// What of a process's memory the guest has.
    #[pin]
    users: Users,
    /// Bumped by each flush.
    generation: AtomicU64,
    /// The generation that each CPU flushed for last.
    flushed: KVec<AtomicU64>,
    /// The EPT pointer of view 0.
    eptp: u64,
    /// The other views, once there was one.
    views: SetOnce<ViewTable>,
    /// It is a template: nothing changes it any more, and no vCPU runs.
    frozen: AtomicBool,
    /// How many vCPUs have it; grows only with the lock held.
    pub(crate) vcpus: AtomicU32,
    /// What happened outside of vCPUs.
    pub(crate) events: Counters,
}

/// What the lock protects.
struct Inner {
    pages: Pages,
    /// `None` only while it is being dropped.
    space: Option<GuestSpace>,
    /// User mappings, while the micro-VM's file is open.
    mapping: Option<Mapping>,
    /// How many SEALs are still fetching pages.
    sealing: u32,
    /// Pages that they may have.
    mapped: Mapped,
    /// The number of the page from which pages of files are given back next.
    next_file: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(space) = self.space.take() {
            // No vCPU is left, so no CPU is in this space. Translations that linger are tagged with
            // the root's address, and each CPU flushes that before the first entry to a new root.
            space.destroy(&mut self.pages);
        }
    }
}

/// Maps the region layer's errors to what MAP, UNMAP and PROTECT document.
fn region_error(error: RegionError<Error>) -> Error {
    match error {
        RegionError::Exists => EEXIST,
        RegionError::Unmapped => ENOMEM,
        RegionError::TooMany => ENOSPC,
        RegionError::Perm => EINVAL,
        RegionError::Sealed => EPERM,
        RegionError::Writable | RegionError::WritableExecutable => EACCES,
        RegionError::NoView => ENOENT,
        RegionError::Store(error) => error,
    }
}

/// The limit in pages of one in bytes, 0 for none.
fn limit_pages(bytes: u64) -> Result<u64> {
    match bytes {
        0 => Ok(u64::MAX),
        1..PAGE_SIZE => Err(EINVAL),
        _ => Ok(bytes / PAGE_SIZE),
    }
}

impl Memory {
    /// Empty, counted against the limit of `pool`, and `w_xor_x` as [`uvisor_uapi::VmFlags::W_XOR_X`].
    pub(crate) fn new(
        hardware: Arc<Hardware>,
        id: u64,
        pool: Arc<Pool>,
        w_xor_x: bool,
    ) -> Result<impl PinInit<Self, Error>> {
        let mut pages = Pages::new(hardware.clone(), pool)?;
        let mut space = Space::new(&mut pages, Regions::new(), ViewSlots::new(), MAX_REGIONS)?;
        if w_xor_x {
            space.forbid_writable_executable();
        }
        Self::with_space(hardware, id, id, pages, space)
    }

    /// Empty, and as strict as this.
    pub(crate) fn empty(&self, id: u64, pool: Arc<Pool>) -> Result<impl PinInit<Self, Error>> {
        let strict = {
            let inner = self.inner.lock();
            let space = inner.space.as_ref().ok_or(ENXIO)?;
            space.forbids_writable_executable()
        };
        Self::new(self.hardware.clone(), id, pool, strict)
    }

    /// Something new to count pages against, with a limit in bytes or 0.
    pub(crate) fn new_pool(limit: u64) -> Result<Arc<Pool>> {
        Pool::new(limit_pages(limit)?)
    }

    /// What its pages count against.
    pub(crate) fn pool(&self) -> Arc<Pool> {
        self.inner.lock().pages.pool()
    }

    /// With the memory in `space`.
    fn with_space(
        hardware: Arc<Hardware>,
        id: u64,
        family: u64,
        pages: Pages,
        space: GuestSpace,
    ) -> Result<impl PinInit<Self, Error>> {
        let eptp = space.tree().eptp();
        let has_views = space.has_views();
        // From here on, what fails gives the space back.
        let mut inner = Inner {
            pages,
            space: Some(space),
            mapping: None,
            sealing: 0,
            mapped: Mapped::new(),
            next_file: 0,
        };
        let mut flushed = KVec::with_capacity(hardware.cpu_count(), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..hardware.cpu_count() {
            flushed.push(AtomicU64::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        let views = SetOnce::new();
        if has_views {
            views.populate(ViewTable::new(&mut inner.pages, eptp)?);
        }
        Ok(try_pin_init!(Self {
            hardware,
            id,
            family,
            inner <- new_mutex!(inner),
            users <- Users::new(),
            // Not 0, so that each CPU flushes before its first entry: the root's page may have been
            // another root before.
            generation: AtomicU64::new(1),
            flushed,
            eptp,
            views,
            frozen: AtomicBool::new(false),
            vcpus: AtomicU32::new(0),
            events: Counters::new(),
        }))
    }

    /// The identity of the micro-VM.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The identity of the oldest one that it may have tables in common with.
    pub(crate) fn family(&self) -> u64 {
        self.family
    }

    /// The EPT pointer of view 0.
    pub(crate) fn eptp(&self) -> u64 {
        self.eptp
    }

    /// The generation for which `cpu`, in whose window we are, must flush before it enters, if it has
    /// not done so.
    #[inline(always)]
    pub(crate) fn stale(&self, cpu: usize) -> Option<u64> {
        let generation = self.generation.load(Relaxed);
        let flushed = self.flushed.get(cpu).map(|f| f.load(Relaxed));
        (flushed != Some(generation)).then_some(generation)
    }

    /// Notes that `cpu`, in whose window we are, flushed for `generation`.
    pub(crate) fn set_flushed(&self, cpu: usize, generation: u64) {
        if let Some(flushed) = self.flushed.get(cpu) {
            flushed.store(generation, Relaxed);
        }
    }

    /// Makes every CPU flush before it enters again, and waits for those that are inside.
    pub(crate) fn flush(&self) {
        // In order: no CPU may see the new generation and yet walk the old tables.
        self.generation.fetch_add(1, SeqCst);
        let kicked = self.hardware.leave_windows(self.id);
        if kicked != 0 {
            self.events.add(Event::Kick, kicked);
        }
    }

    /// Says by which mapping user mappings of the micro-VM's file are found; `None` when it is
    /// closed, and so has none.
    pub(crate) fn set_mapping(&self, mapping: Option<Mapping>) {
        self.inner.lock().mapping = mapping;
    }

    /// Counts a vCPU that is about to be made. Whoever has the lock knows how many there are at most.
    pub(crate) fn add_vcpu(&self) {
        let _inner = self.inner.lock();
        self.vcpus.fetch_add(1, Relaxed);
    }

    /// Takes back [`Memory::add_vcpu`], when the vCPU is gone.
    pub(crate) fn remove_vcpu(&self) {
        self.vcpus.fetch_sub(1, Relaxed);
    }

    /// The range of an ioctl.
    pub(crate) fn range(&self, start: u64, len: u64) -> Result<Range> {
        Range::new(start, len, self.hardware.gpa_bits).ok_or(EINVAL)
    }

    /// All addresses.
    fn everything(&self) -> Result<Range> {
        self.range(0, 1 << self.hardware.gpa_bits)
    }

    /// Maps a region.
    pub(crate) fn map(&self, range: Range, perm: Perm, backing: MemoryBacking) -> Result {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        backing.check(perm)?;
        let Inner { space, .. } = &mut *inner;
        space
            .as_mut()
            .ok_or(ENXIO)?
            .map(Region {
                range,
                perm,
                marks: Marks::empty(),
                backing,
            })
            .map_err(region_error)
    }

    /// Unmaps what is mapped in a range.
    pub(crate) fn unmap(&self, range: Range) -> Result {
        self.detach(range, |space, pages| {
            space.unmap(pages, range).map_err(region_error)
        })
    }

    /// Forgets the pages of a range.
    pub(crate) fn discard(&self, range: Range) -> Result {
        self.detach(range, |space, pages| {
            space.discard(pages, range).map_err(region_error)
        })
    }

    /// Takes pages of a range out by `how`, and gives them back.
    fn detach(
        &self,
        range: Range,
        how: impl FnOnce(&mut GuestSpace, &Pages) -> Result<Taken>,
    ) -> Result {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        let Inner {
            pages,
            space,
            mapping,
            ..
        } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        // Before anything is copied for nothing.
        space.check_not_sealed(range).map_err(region_error)?;
        self.forget_users(range);
        self.unshare_edges(space, pages, range)?;
        if how(space, pages)? == Taken::Something {
            self.take(*mapping, range);
        }
        space.reap(pages, range);
        Ok(())
    }

    /// Lets tables become this micro-VM's own by `how`, and gives back those that were exchanged.
    fn unshare<R>(
        &self,
        pages: &mut Pages,
        how: impl FnOnce(&mut Pages, &mut Retired) -> Result<R>,
    ) -> Result<R> {
        let mut retired = Retired::new();
        let result = how(pages, &mut retired);
        if !retired.is_empty() {
            self.events.add(Event::TableCopied, retired.len());
            self.flush();
            retired.give_back(pages);
        }
        result
    }

    /// Lets the tables at the edges of a range become this micro-VM's own.
    fn unshare_edges(&self, space: &mut GuestSpace, pages: &mut Pages, range: Range) -> Result {
        for at_end in [false, true] {
            self.unshare(pages, |pages, retired| {
                space.unshare_edge(pages, range, at_end, retired)
            })?;
        }
        Ok(())
    }

    /// Lets all tables of a range become this micro-VM's own.
    fn unshare_all(&self, space: &mut GuestSpace, pages: &mut Pages, range: Range) -> Result {
        let mut rest = Some(range);
        while let Some(part) = rest {
            rest = self.unshare(pages, |pages, retired| {
                space.unshare_next(pages, part, retired)
            })?;
        }
        Ok(())
    }

    /// Gives a range a permission.
    pub(crate) fn protect(&self, range: Range, perm: Perm) -> Result {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        let Inner {
            pages,
            space,
            mapping,
            ..
        } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        for region in space.regions().iter(range) {
            region.backing.check(perm)?;
        }
        // Before anything is copied for nothing.
        space.check_protect(range, perm).map_err(region_error)?;
        self.forget_users(range);
        self.unshare_all(space, pages, range)?;
        if space.protect(pages, range, perm).map_err(region_error)? == Taken::Something {
            self.take(*mapping, range);
            space.reap_views(pages, range);
        }
        Ok(())
    }

    /// After permission was taken in the tables: nobody has a translation with it any more.
    fn take(&self, mapping: Option<Mapping>, range: Range) {
        self.flush();
        if let Some(mapping) = mapping {
            // SAFETY: The file is open: its release sets the mapping to `None` under our lock.
            unsafe { mapping.zap(range.start().0, range.len()) };
        }
    }

    /// Sets the limit in bytes, 0 for none.
    pub(crate) fn set_limit(&self, bytes: u64) -> Result {
        let limit = limit_pages(bytes)?;
        self.inner.lock().pages.set_limit(limit);
        Ok(())
    }
}
