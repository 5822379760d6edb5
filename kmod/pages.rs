// SPDX-License-Identifier: GPL-2.0

//! Where a micro-VM's tables and frames come from, and what it holds of them.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};

use uvisor_ept::{
    Backing,
    Host,
    Hpa,
    Owner,
    Region,
    Store, //
};

use crate::{
    hardware::Hardware,
    sys::{
        file::PageFile,
        frame::{
            self,
            Frame, //
        },
        irq, //
    }, //
};

/// How many frames are given back before another task may run.
const FREE_BATCH: u32 = 256;

/// The pages of one micro-VM, counted and limited.
pub(crate) struct Pages {
    hardware: Arc<Hardware>,
    /// Frames of its own.
    pub(crate) private: u64,
    /// Page-cache pages that it has mapped.
    pub(crate) file: u64,
    /// Tables.
    pub(crate) tables: u64,
    /// How many frames and tables it may have.
    pub(crate) limit: u64,
    /// Frames given back since another task could run.
    freed: u32,
}

impl Pages {
    /// None yet.
    pub(crate) fn new(hardware: Arc<Hardware>, limit: u64) -> Self {
        Self {
            hardware,
            private: 0,
            file: 0,
            tables: 0,
            limit,
            freed: 0,
        }
    }

    /// Fails with `ENOMEM` at the limit.
    fn check_limit(&self) -> Result {
        if self.private + self.tables < self.limit {
            Ok(())
        } else {
            Err(ENOMEM)
        }
    }

    /// A zeroed frame.
    pub(crate) fn zeroed(&self) -> Result<Frame> {
        self.check_limit()?;
        Frame::new(true)
    }

    /// A frame with the content of the one at `from`.
    ///
    /// # Safety
    ///
    /// As [`Frame::copy_of`].
    pub(crate) unsafe fn copy_of(&self, from: u64) -> Result<Frame> {
        self.check_limit()?;
        // SAFETY: By the caller's promise.
        unsafe { Frame::copy_of(from) }
    }

    /// Counts a frame that the tables took over.
    pub(crate) fn count(&mut self, owner: Owner) {
        match owner {
            Owner::Private => {
                self.private += 1;
                self.hardware.pages.fetch_add(1, Relaxed);
            }
            Owner::File => self.file += 1,
        }
    }
}

// SAFETY: `entries` gives the page that `alloc_table` made, which lives until `free_table`.
unsafe impl Host for Pages {
    type Error = Error;

    fn alloc_table(&mut self) -> Result<Hpa> {
        self.check_limit()?;
        let table = Frame::new(true)?;
        self.tables += 1;
        self.hardware.pages.fetch_add(1, Relaxed);
        Ok(Hpa(table.into_raw()))
    }

    fn free_table(&mut self, table: Hpa) {
        self.tables -= 1;
        self.hardware.pages.fetch_sub(1, Relaxed);
        // SAFETY: From `into_raw` in `alloc_table`; the tree gives each table back once.
        drop(unsafe { Frame::from_raw(table.0) });
    }

    fn entries(&self, table: Hpa) -> &[AtomicU64; 512] {
        // SAFETY: A page of ours that lives as long as the tree has it; all accesses to it, the
        // CPU's walks among them, are atomic.
        unsafe { &*frame::virt(table.0).cast() }
    }

    fn put_frame(&mut self, frame: Hpa, owner: Owner) {
        match owner {
            Owner::Private => {
                self.private -= 1;
                self.hardware.pages.fetch_sub(1, Relaxed);
            }
            Owner::File => self.file -= 1,
        }
        // SAFETY: The tree took the reference over when the leaf was made, and gives it back once.
        drop(unsafe { Frame::from_raw(frame.0) });
        self.freed += 1;
        if self.freed >= FREE_BATCH {
            self.freed = 0;
            irq::cond_resched();
        }
    }

    fn exec_only(&self) -> bool {
        self.hardware.controls.features.exec_only
    }
}

/// What is behind a region.
#[derive(Clone)]
pub(crate) enum MemoryBacking {
    /// Zeros.
    Anonymous,
    /// A file from an offset on.
    File {
        /// The file.
        file: PageFile,
        /// The offset in bytes.
        offset: u64,
    },
}

impl Backing for MemoryBacking {
    fn advance(&self, bytes: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::File { file, offset } => Self::File {
                file: file.clone(),
                // MAP refuses files whose last offset overflows.
                offset: offset.saturating_add(bytes),
            },
        }
    }

    fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) => true,
            (
                Self::File { file, offset },
                Self::File {
                    file: next_file,
                    offset: next_offset,
                },
            ) => file.is_same(next_file) && offset.checked_add(bytes) == Some(*next_offset),
            _ => false,
        }
    }

    fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }
}

/// The regions of a micro-VM, in a vector that is charged to the task's memory cgroup.
pub(crate) struct Regions(KVVec<Region<MemoryBacking>>);

impl Regions {
    /// None.
    pub(crate) fn new() -> Self {
        Self(KVVec::new())
    }
}

impl Store<Region<MemoryBacking>> for Regions {
    type Error = Error;

    fn as_slice(&self) -> &[Region<MemoryBacking>] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [Region<MemoryBacking>] {
        &mut self.0
    }

    fn reserve(&mut self, additional: usize) -> Result {
        Ok(self.0.reserve(additional, GFP_KERNEL_ACCOUNT)?)
    }

    fn insert(&mut self, at: usize, value: Region<MemoryBacking>) {
        // `RegionMap` reserved the room and `at` is not beyond the end, so it cannot fail.
        let _ = self.0.insert_within_capacity(at, value);
    }

    fn remove(&mut self, at: usize) -> Option<Region<MemoryBacking>> {
        self.0.remove(at).ok()
    }
}
