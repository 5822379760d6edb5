// SPDX-License-Identifier: GPL-2.0

//! Memory of a process that the guest has as well: what the process has at the same distance from everywhere.
//!
//! The process's own page tables say what is there. When the kernel changes them, to write a page out, or to
//! use it for something else, it tells us first, and goes on when no CPU has the page any more; the next
//! access asks for it again, in the name of the process. So the guest's accesses are to a file system
//! what the process's are. See [`uvisor_ept::user`] for what that takes.

use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        Mutex,
        SpinLock, //
    }, //
};

use uvisor_ept::{
    user::tables_of,
    Gpa,
    Hpa,
    Perm,
    Range,
    UserEntry, //
};
use uvisor_uapi::{
    Event,
    MemoryCause,
    PAGE_SIZE, //
};

use super::{
    Inner,
    Memory,
    NoPage, //
};
use crate::sys::{
    irq,
    user::{
        self,
        UserMemory,
        UserPages, //
    }, //
};

/// The largest address that a process can have, and more; added to one of a guest, it does not overflow.
const MAX_BASE: u64 = 1 << 57;

/// How many pages are taken out with the lock held.
const BATCH: u32 = 128;

/// The process that a micro-VM is bound to.
struct Bound {
    pages: UserPages,
    /// The address in the process of guest-physical address 0.
    base: u64,
}

/// Numbers of pages.
type Range64 = core::ops::Range<u64>;

/// The pages that the guest has.
struct Leaves {
    /// As [`Bound::base`], of the last one.
    base: u64,
    /// By their numbers.
    entries: RBTree<u64, UserEntry>,
    /// How many take pages out, and may be waiting for CPUs to forget some that are not in `entries` any more.
    taking: u32,
}

impl Leaves {
    /// Somebody begins to take pages out, who says so by [`Users::end_taking`] when CPUs have forgotten them; whether
    /// others are at it.
    fn begin_taking(&mut self) -> bool {
        let others = self.taking != 0;
        // There are fewer threads.
        self.taking = self.taking.saturating_add(1);
        others
    }
}

/// What of a process's memory the guest has. Its locks come behind that of the micro-VM's memory.
#[pin_data]
pub(super) struct Users {
    #[pin]
    bound: Mutex<Option<Arc<Bound>>>,
    #[pin]
    leaves: SpinLock<Leaves>,
}

impl Users {
    /// None.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            bound <- new_mutex!(None),
            leaves <- new_spinlock!(Leaves {
                base: 0,
                entries: RBTree::new(),
                taking: 0,
            }),
        })
    }

    /// The process that the micro-VM is bound to, if it is the calling one.
    fn bound(&self) -> Option<Arc<Bound>> {
        let bound = self.bound.lock().clone()?;
        bound.pages.is_current().then_some(bound)
    }

    /// No CPU has what was taken out since [`Leaves::begin_taking`].
    fn end_taking(&self) {
        let mut leaves = self.leaves.lock();
        leaves.taking = leaves.taking.saturating_sub(1);
    }

    /// Takes out pages, batch by batch: those that `first` says, by their numbers, with the lock held. Whether there
    /// were any. If it `may_sleep`, others get the CPU in between.
    fn clear(&self, may_sleep: bool, first: impl FnOnce(&mut Leaves) -> Range64) -> bool {
        let mut first = Some(first);
        let (mut pages, mut any) = (0..0, false);
        loop {
            let mut leaves = self.leaves.lock();
            if let Some(first) = first.take() {
                pages = first(&mut leaves);
            }
            for _ in 0..BATCH {
                let Some(mut cursor) = leaves.entries.cursor_lower_bound_mut(&pages.start) else {
                    return any;
                };
                let (&page, &mut entry) = cursor.current_mut();
                if page >= pages.end {
                    return any;
                }
                drop(cursor.remove_current());
                // SAFETY: It was in the tree of entries, so its table was not given back: whoever does that takes
                // it out before.
                unsafe { entry.clear() };
                any = true;
            }
            drop(leaves);
            if may_sleep {
                irq::cond_resched();
            }
        }
    }
}

impl Memory {
    /// `BIND`: from now on, regions of user memory show the calling process's at `base` more than their own
    /// addresses.
    pub(crate) fn bind(&self, base: u64) -> Result {
        if base % PAGE_SIZE != 0 || base > MAX_BASE {
            return Err(EINVAL);
        }
        self.check_not_frozen()?;
        // SAFETY: A memory is pinned, and `unbind` is called before it goes.
        let pages = unsafe { UserPages::bind(self) }?;
        let bound = Arc::new(Bound { pages, base }, GFP_KERNEL_ACCOUNT)?;
        self.exchange(Some(bound));
        Ok(())
    }

    /// Forgets the process, before the memory goes.
    pub(crate) fn unbind(&self) {
        self.exchange(None);
    }

    /// Exchanges the process; the guest has nothing of the old one any more.
    fn exchange(&self, new: Option<Arc<Bound>>) {
        let old = {
            let _inner = self.inner.lock();
            if let Ok(everything) = self.everything() {
                self.forget_users(everything);
            }
            self.users.leaves.lock().base = new.as_ref().map_or(0, |new| new.base);
            core::mem::replace(&mut *self.users.bound.lock(), new)
        };
        // Which waits for whoever is taking pages out, and so is done without the lock.
        drop(old);
    }

    /// Where the calling process has the page of a guest-physical address.
    pub(super) fn user_address(&self, gpa: Gpa) -> Result<u64, NoPage> {
        let bound = self.users.bound().ok_or(MemoryCause::Elsewhere)?;
        // OVERFLOW: At most 2^57 and 2^48, as there is a region.
        Ok(bound.base.wrapping_add(gpa.0))
    }

    /// Gives the guest the page of the process's at `gpa`.
    pub(super) fn user_fault(&self, gpa: Gpa, access: Perm) -> Result<(), NoPage> {
        let bound = self.users.bound().ok_or(MemoryCause::Elsewhere)?;
        let gpa = gpa.page_start();
        // OVERFLOW: As above.
        let address = bound.base.wrapping_add(gpa.0);
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT);
        let node = node.map_err(|_| MemoryCause::Limit)?;
        let state = bound.pages.begin();
        let write = access.contains(Perm::W);
        let page = user::page(address, write).map_err(|error| match error {
            e if e == ENOMEM => NoPage::Cause(MemoryCause::Limit),
            // A signal is seen before the guest is entered again.
            e if e == EINTR || e == ERESTARTSYS || e == EAGAIN => NoPage::Busy,
            _ => NoPage::Cause(MemoryCause::FileEnd),
        })?;
        let mut inner = self.inner.lock();
        if self.is_frozen() {
            return Err(NoPage::Frozen);
        }
        let Inner { pages, space, .. } = &mut *inner;
        let space = space.as_mut().ok_or(MemoryCause::Unmapped)?;
        let found = space.user_entry(pages, gpa, access);
        let Some((entry, allowed)) = found.map_err(|_| MemoryCause::Limit)? else {
            return Err(NoPage::Busy);
        };
        let is_same = |now: &Arc<Bound>| Arc::ptr_eq(now, &bound);
        if !self.users.bound.lock().as_ref().is_some_and(is_same) {
            return Err(NoPage::Busy);
        }
        // Until it is written to, the file system does not know, and is asked then.
        let perm = if write { allowed } else { allowed - Perm::W };
        let mut leaves = self.users.leaves.lock();
        if bound.pages.is_stale(state) {
            return Err(NoPage::Busy);
        }
        // SAFETY: The table is there, as the lock is held.
        let stale = unsafe { entry.set(Hpa(page.phys()), perm) };
        let old = leaves
            .entries
            .insert(node.into_node(gpa.0 / PAGE_SIZE, entry));
        drop(leaves);
        drop(old);
        if stale {
            self.flush();
        }
        self.events.add(Event::FileMapped, 1);
        // From here on the process's own page tables are what keeps it.
        drop(page);
        Ok(())
    }

    /// Before tables in a range are changed, shared, or given back, with the lock of the memory held: the guest has
    /// no user memory in them, and no CPU has any of them on its way there.
    pub(super) fn forget_users(&self, range: Range) {
        if self.users.bound.lock().is_none() {
            return;
        }
        let range = tables_of(range);
        self.users.clear(true, |leaves| {
            leaves.begin_taking();
            range.start().0 / PAGE_SIZE..range.end().0 / PAGE_SIZE
        });
        // In any case: what was taken out before this may have left a table empty.
        self.flush();
        self.users.end_taking();
    }
}

impl UserMemory for Memory {
    fn take(&self, begin: impl FnOnce(), start: u64, end: u64) {
        let mut others = false;
        // The lock of the memory is not taken: who holds it may be waiting for memory, which is got by this.
        let any = self.users.clear(false, |leaves| {
            begin();
            others = leaves.begin_taking();
            // What is not the guest's is below its first page, or beyond its last one.
            let page = |address: u64| address.saturating_sub(leaves.base) / PAGE_SIZE;
            page(start)..page(end.saturating_add(PAGE_SIZE - 1))
        });
        // What others took out, this one's caller relies on as well, and CPUs may not have forgotten it yet.
        if any || others {
            self.flush();
        }
        self.users.end_taking();
    }
}
