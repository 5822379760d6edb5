// SPDX-License-Identifier: GPL-2.0

//! Where a micro-VM's tables and frames come from, and what it holds of them.

use core::sync::atomic::{
    AtomicU64,
    AtomicUsize,
    Ordering::{
        AcqRel,
        Acquire,
        Relaxed, //
    }, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};

use uvisor_ept::{
    Host,
    Hpa,
    Owner, //
};

use crate::{
    hardware::Hardware,
    sys::{
        frame::{
            self,
            Frame, //
        },
        irq, //
    }, //
};

/// How many tables a reset leaves at most.
const MAX_KEPT: u64 = 16;

/// The references that all leaves have on pages of files, without those that are written in place.
pub(crate) static FILE_PAGES: AtomicUsize = AtomicUsize::new(0);

mod spare;

pub(crate) use spare::Reserve;

use spare::Spare;

/// How many frames are given back before another task may run.
const FREE_BATCH: u32 = 256;

/// How many pages one micro-VM may have, or several together.
pub(crate) struct Pool {
    /// How many they have.
    charged: AtomicU64,
    /// How many there may be.
    limit: AtomicU64,
}

impl Pool {
    /// An empty one.
    pub(crate) fn new(limit: u64) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                charged: AtomicU64::new(0),
                limit: AtomicU64::new(limit),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }
}

/// What is charged to a micro-VM: the frames and tables that were allocated for it and that it, or a
/// clone, still has. Each of these has a reference on it.
pub(crate) struct Account {
    hardware: Arc<Hardware>,
    /// How many there are.
    charged: AtomicU64,
    /// Where they count against a limit.
    pool: Arc<Pool>,
}

/// How many references there are on a charged page, and to which account it is charged: its two words.
///
/// # Safety
///
/// The page must be one that [`Frame::new`] allocated, and not be given back before the caller has used
/// them; after that they are another's, though never out of memory.
#[inline]
unsafe fn words<'a>(phys: u64) -> (&'a AtomicU64, &'a AtomicU64) {
    // SAFETY: By the caller's promise.
    let [references, account] = unsafe { frame::words(phys) };
    (references, account)
}

impl Account {
    /// An empty one.
    fn new(hardware: Arc<Hardware>, pool: Arc<Pool>) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                hardware,
                charged: AtomicU64::new(0),
                pool,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// How many more there may be. Who takes them does so without a lock that all of the pool have: together they
    /// may take a few more.
    fn room(&self) -> u64 {
        let Pool { charged, limit } = &*self.pool;
        limit.load(Relaxed).saturating_sub(charged.load(Relaxed))
    }

    /// Charges `page`, which nobody else has, to an account, and gives up its reference; its first
    /// reference from now on is the caller's.
    fn charge(self: &Arc<Self>, page: Frame) -> Charged {
        let phys = page.into_raw();
        // SAFETY: `Frame::new` made it, and it is alive until `uncharge`.
        let (references, account) = unsafe { words(phys) };
        references.store(1, Relaxed);
        // CAST: A pointer has 64 bits.
        account.store(
            Arc::into_raw(self.clone()).expose_provenance() as u64,
            Relaxed,
        );
        self.charged.fetch_add(1, Relaxed);
        self.pool.charged.fetch_add(1, Relaxed);
        self.hardware.pages.fetch_add(1, Relaxed);
        Charged(phys)
    }

    /// Gives back a page that [`Account::charge`] charged.
    ///
    /// # Safety
    ///
    /// The page must have no reference, and no CPU use it.
    unsafe fn uncharge(phys: u64) {
        // SAFETY: Charged pages are alive until here.
        let account = unsafe { words(phys) }.1.load(Relaxed);
        // SAFETY: From `into_raw` in `charge`, once for each page. CAST: A pointer has 64 bits.
        let account: Arc<Self> =
            unsafe { Arc::from_raw(core::ptr::with_exposed_provenance(account as usize)) };
        account.charged.fetch_sub(1, Relaxed);
        account.pool.charged.fetch_sub(1, Relaxed);
        account.hardware.pages.fetch_sub(1, Relaxed);
        // SAFETY: From `Frame::into_raw` in `charge`; by the caller's promise nobody uses it.
        drop(unsafe { Frame::from_raw(phys) });
    }
}

/// Takes another reference on a charged page.
///
/// # Safety
///
/// The caller, or somebody it can rely on meanwhile, must have one.
unsafe fn share(phys: u64) {
    // SAFETY: By the caller's promise it is alive.
    let (references, _) = unsafe { words(phys) };
    references.fetch_add(1, Relaxed);
}

/// Whether a charged page has more than one reference; if not, the caller sees what those did who had one.
///
/// # Safety
///
/// The caller must have one.
unsafe fn is_shared(phys: u64) -> bool {
    // SAFETY: By the caller's promise it is alive.
    let (references, _) = unsafe { words(phys) };
    references.load(Acquire) != 1
}

/// Drops a reference on a charged page; whether it was the last one.
///
/// # Safety
///
/// The reference must be the caller's.
unsafe fn put(phys: u64) -> bool {
    // SAFETY: By the caller's promise it is alive.
    let (references, _) = unsafe { words(phys) };
    references.fetch_sub(1, AcqRel) == 1
}

/// A frame that is charged, with a reference.
pub(crate) struct Charged(u64);

impl Charged {
    /// The physical address.
    pub(crate) fn phys(&self) -> u64 {
        self.0
    }

    /// Gives up the reference without dropping it.
    pub(crate) fn into_raw(self) -> u64 {
        let phys = self.0;
        core::mem::forget(self);
        phys
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, and if it was the last one nobody uses the page.
        unsafe {
            if put(self.0) {
                Account::uncharge(self.0);
            }
        }
    }
}

/// Where the pages of one micro-VM come from and go to.
pub(crate) struct Pages {
    account: Arc<Account>,
    spare: Spare,
    /// Nothing may be asked of the kernel now.
    is_inside: bool,
    /// The kernel may look for pages that it has not at hand.
    may_wait: bool,
    /// Frames that are given back are kept for the next ones.
    keeps: bool,
    /// Frames given back since another task could run.
    freed: u32,
}

impl Pages {
    /// None yet, at most as many as the pool has room for.
    pub(crate) fn new(hardware: Arc<Hardware>, pool: Arc<Pool>) -> Result<Self> {
        Ok(Self {
            account: Account::new(hardware, pool)?,
            spare: Spare::new(),
            is_inside: false,
            may_wait: true,
            keeps: false,
            freed: 0,
        })
    }

    /// A charged page; not zeroed if the caller overwrites all of it.
    #[inline]
    fn page(&mut self, zeroed: bool) -> Result<Charged> {
        if let Some(page) = self.spare.take(zeroed) {
            return Ok(page);
        }
        if self.is_inside || self.account.room() == 0 {
            return Err(ENOMEM);
        }
        let page = if self.may_wait {
            Frame::new(zeroed)?
        } else {
            Frame::at_hand(zeroed)?
        };
        Ok(self.account.charge(page))
    }

    /// A charged page for the guest, as [`Self::page`].
    #[inline]
    fn frame(&mut self, zeroed: bool) -> Result<Charged> {
        if self.spare.is_empty() && !self.is_inside {
            self.spare.refill(&self.account, zeroed);
        }
        self.page(zeroed)
    }

    /// A zeroed frame.
    pub(crate) fn zeroed(&mut self) -> Result<Charged> {
        self.frame(true)
    }

    /// A frame with the content of the one at `from`.
    ///
    /// # Safety
    ///
    /// `from` must be a page of the direct map that stays alive during the call. Somebody may write
    /// it meanwhile: the copy then has a mix, as with any memory that is shared.
    pub(crate) unsafe fn copy_of(&mut self, from: u64) -> Result<Charged> {
        let copy = self.frame(false)?;
        // SAFETY: By the caller's promise, and the new page is ours alone.
        unsafe { frame::copy_page(frame::virt(copy.phys()), frame::virt(from)) };
        Ok(copy)
    }

    /// Whether the kernel may look for pages that it has not at hand, from now on; if not, it fails with `ENOMEM`.
    pub(crate) fn set_may_wait(&mut self, may_wait: bool) {
        self.may_wait = may_wait;
    }

    /// What the pages are charged to.
    pub(crate) fn account(&self) -> Arc<Account> {
        self.account.clone()
    }

    /// Keeps frames for what is wanted next.
    pub(crate) fn add(&mut self, reserve: Reserve) {
        self.spare.add(reserve);
    }

    /// What `work` needs comes from what is kept, or it fails with `ENOMEM`: it neither asks the kernel for
    /// memory nor lets other tasks run.
    pub(crate) fn inside<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        self.is_inside = true;
        let result = work(self);
        self.is_inside = false;
        result
    }

    /// Frames that `work` gives back are kept for the next ones, some of them.
    pub(crate) fn keeping<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        self.keeps = true;
        let result = work(self);
        self.keeps = false;
        result
    }

    /// Gives a page back that nobody has any more, or keeps it.
    ///
    /// # Safety
    ///
    /// It must be a charged one without references, and no CPU use it.
    #[inline(never)]
    unsafe fn give_back(&mut self, phys: u64) {
        if self.keeps {
            // SAFETY: By the caller's promise it is alive.
            let (references, account) = unsafe { words(phys) };
            // CAST: A pointer has 64 bits.
            if account.load(Relaxed) == Arc::as_ptr(&self.account).addr() as u64 {
                references.store(1, Relaxed);
                self.spare.keep(Charged(phys));
                return;
            }
        }
        // SAFETY: By the caller's promise.
        unsafe { Account::uncharge(phys) };
    }

    /// Counts a page of a file to which a leaf has a reference from now on, that can be given back.
    pub(crate) fn count_file(&self) {
        FILE_PAGES.fetch_add(1, Relaxed);
    }

    /// Drops the reference that a leaf had on the page of a file.
    ///
    /// # Safety
    ///
    /// The reference must be the caller's.
    #[inline(never)]
    unsafe fn put_file(&mut self, phys: u64) {
        // SAFETY: By the caller's promise.
        drop(unsafe { Frame::from_raw(phys) });
        FILE_PAGES.fetch_sub(1, Relaxed);
        self.freed(1);
    }

    /// Gives back what is kept.
    pub(crate) fn clear_spare(&mut self) {
        self.spare.clear();
    }

    /// Counts work that is about that of giving back so many frames, and lets another task run now and
    /// then.
    fn freed(&mut self, work: u32) {
        self.freed = self.freed.saturating_add(work);
        if self.freed >= FREE_BATCH && !self.is_inside {
            self.freed = 0;
            irq::cond_resched();
        }
    }

    /// How many tables may stay that a reset could give back: not so many that they would be missed.
    pub(crate) fn tables_to_keep(&self) -> u32 {
        let share = self.limit() / 8;
        // CAST: At most `MAX_KEPT`.
        share.min(MAX_KEPT) as u32
    }

    /// Whether there may be no more.
    pub(crate) fn is_at_limit(&self) -> bool {
        self.account.room() == 0
    }

    /// How many pages there may be.
    pub(crate) fn limit(&self) -> u64 {
        self.account.pool.limit.load(Relaxed)
    }

    /// Sets how many pages there may be.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        // What is kept is no way around a lower limit.
        self.spare.clear();
        self.account.pool.limit.store(limit, Relaxed);
    }

    /// Where they count against a limit.
    pub(crate) fn pool(&self) -> Arc<Pool> {
        self.account.pool.clone()
    }

    /// How many pages count against the limit.
    pub(crate) fn charged(&self) -> u64 {
        self.account.charged.load(Relaxed)
    }
}

// SAFETY: `entries` gives the page that `alloc_table` made, which lives until `free_table`; references are
// counted atomically, in words of the page that no one else uses.
unsafe impl Host for Pages {
    type Error = Error;

    fn alloc_table(&mut self) -> Result<Hpa> {
        Ok(Hpa(self.page(true)?.into_raw()))
    }

    fn share_table(&self, table: Hpa) {
        // SAFETY: The tree has a reference, or is reading a table that has one.
        unsafe { share(table.0) };
    }

    fn is_table_shared(&self, table: Hpa) -> bool {
        // SAFETY: The tree has a reference.
        unsafe { is_shared(table.0) }
    }

    fn put_table(&mut self, table: Hpa) -> bool {
        // SAFETY: The tree gives up a reference of its own.
        unsafe { put(table.0) }
    }

    fn free_table(&mut self, table: Hpa) {
        // SAFETY: `put_table` said that there is no reference, and the tree flushed.
        unsafe { Account::uncharge(table.0) };
        self.freed(FREE_BATCH / 8);
    }

    #[inline(always)]
    fn entries(&self, table: Hpa) -> &[AtomicU64; 512] {
        // SAFETY: A page of ours that lives as long as the tree has it; all accesses to it, the
        // CPU's walks among them, are atomic.
        unsafe { &*frame::virt(table.0).cast() }
    }

    fn share_frame(&self, frame: Hpa, owner: Owner) -> Result {
        // SAFETY: The leaf of the table that is being read has a reference.
        unsafe {
            match owner {
                Owner::Private | Owner::Shared => share(frame.0),
                Owner::File => {
                    frame::get(frame.0)?;
                    self.count_file();
                }
                Owner::Live => frame::get(frame.0)?,
                // Views do not share tables, and user memory is gone from them before.
                Owner::Lent | Owner::User => {}
            }
        }
        Ok(())
    }

    fn is_frame_shared(&self, frame: Hpa) -> bool {
        // SAFETY: The tree has a reference, and asks about no file's frame.
        unsafe { is_shared(frame.0) }
    }

    // Most frames in tables that go are clones' in common, and stay.
    #[inline(always)]
    fn put_frame(&mut self, frame: Hpa, owner: Owner) {
        match owner {
            // SAFETY: The tree took the reference over when the leaf was made, and gives it back once.
            Owner::File => unsafe { self.put_file(frame.0) },
            Owner::Live => {
                // SAFETY: As above.
                drop(unsafe { Frame::from_raw(frame.0) });
                self.freed(1);
            }
            Owner::Lent | Owner::User => {}
            Owner::Private | Owner::Shared => {
                // SAFETY: As above.
                if unsafe { put(frame.0) } {
                    // SAFETY: That was the last one, so nobody uses it.
                    unsafe { self.give_back(frame.0) };
                    self.freed(1);
                }
            }
        }
    }

    fn exec_only(&self) -> bool {
        self.account.hardware.controls.features.exec_only
    }
}
