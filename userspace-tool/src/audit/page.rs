// SPDX-License-Identifier: GPL-2.0

//! A page of memory that the brokers of a task and who reads their events have in common: what was lost, and whether
//! anybody reads at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use rustix::fs::{
    fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create, MemfdFlags, SealFlags,
};
use rustix::time::{clock_gettime, ClockId};
use uvisor_uapi::PAGE_SIZE;

use crate::map::Mapping;

/// What the file of the page is called.
pub(super) const NAME: &str = "uvisor-audit";

/// That somebody reads for as long as the task lives.
const ALWAYS: u64 = u64::MAX;

/// For how many seconds somebody reads who has not said so again.
const LEASE: u64 = 3;

/// The page.
#[derive(Clone, Debug)]
pub(super) struct Page(Arc<Mapping>);

/// The words in it.
#[repr(C)]
struct Words {
    /// How many events were lost.
    lost: AtomicU64,
    /// Whether the last one was.
    full: AtomicU64,
    /// Until when somebody reads, in seconds of the clock that all processes have; 0 if nobody does.
    until: AtomicU64,
    /// The descriptor that can be read from, in each broker.
    inlet: AtomicU64,
}

impl Page {
    /// A page, and its file.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(NAME, flags)?;
        ftruncate(&file, PAGE_SIZE)?;
        fcntl_add_seals(&file, Self::SEALS)?;
        Ok((Self::map(file.as_fd())?, file))
    }

    /// Whoever has the page mapped does not lose it.
    const SEALS: SealFlags = SealFlags::SHRINK
        .union(SealFlags::GROW)
        .union(SealFlags::SEAL);

    /// That of a task, which may be hostile.
    pub(super) fn open(file: BorrowedFd<'_>) -> io::Result<Self> {
        let len = rustix::fs::fstat(file)?.st_size;
        match fcntl_get_seals(file)?.contains(Self::SEALS) && len == PAGE_SIZE as i64 {
            true => Self::map(file),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let page = Mapping::new(file, PAGE_SIZE as usize).map_err(io::Error::other)?;
        Ok(Self(Arc::new(page)))
    }

    fn words(&self) -> &Words {
        // SAFETY: The mapping is a page, with room for them and aligned, and lives as long as `self`; it can become no
        // shorter, and whoever else has it changes it by atomic operations only.
        unsafe { self.0.base().cast().as_ref() }
    }

    /// How many events were lost.
    pub(super) fn lost(&self) -> u64 {
        self.words().lost.load(Relaxed)
    }

    /// An event was lost, or was not.
    pub(super) fn count(&self, lost: bool) {
        if lost {
            self.words().lost.fetch_add(1, Relaxed);
        }
        self.words().full.store(lost.into(), Relaxed);
    }

    /// Whether the last one was lost.
    pub(super) fn is_full(&self) -> bool {
        self.words().full.load(Relaxed) != 0
    }

    /// Whether anybody reads.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        match self.words().until.load(Relaxed) {
            0 => false,
            ALWAYS => true,
            until => self.is_still(until),
        }
    }

    #[cold]
    fn is_still(&self, until: u64) -> bool {
        let is = now() <= until;
        if !is {
            // Unless somebody has just begun.
            let words = self.words();
            let _ = words.until.compare_exchange(until, 0, Relaxed, Relaxed);
        }
        is
    }

    /// Whether somebody reads for as long as the task lives.
    pub(super) fn is_taken(&self) -> bool {
        self.words().until.load(Relaxed) == ALWAYS
    }

    /// Somebody reads for as long as the task lives.
    pub(super) fn take(&self) {
        self.words().until.store(ALWAYS, Relaxed);
    }

    /// Somebody reads for a while, unless somebody does for ever.
    pub(super) fn lease(&self) {
        let until = now() + LEASE;
        let words = self.words();
        let _ = words.until.fetch_update(Relaxed, Relaxed, |before| {
            (before != ALWAYS).then_some(until)
        });
    }

    /// Nobody reads any more who did for a while.
    pub(super) fn release(&self) {
        let until = &self.words().until;
        let _ = until.fetch_update(Relaxed, Relaxed, |before| (before != ALWAYS).then_some(0));
    }

    /// The descriptor that can be read from.
    pub(super) fn inlet(&self) -> u64 {
        self.words().inlet.load(Relaxed)
    }

    /// Says which that is.
    pub(super) fn set_inlet(&self, fd: u64) {
        self.words().inlet.store(fd, Relaxed);
    }
}

/// Seconds of the clock that all processes have, and that nobody sets.
fn now() -> u64 {
    clock_gettime(ClockId::Monotonic).tv_sec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_for_a_while_has_to_say_so() {
        let (page, file) = Page::new().unwrap();
        let other = Page::open(file.as_fd()).unwrap();
        assert!(!page.is_on());
        other.lease();
        assert!(page.is_on() && !page.is_taken());
        page.words().until.store(now() - 1, Relaxed);
        assert!(!page.is_on());
        assert_eq!(page.words().until.load(Relaxed), 0);
        page.take();
        other.lease();
        assert!(other.is_on() && other.is_taken());
        assert!(ftruncate(&file, 0).is_err());
    }

    #[test]
    fn a_file_that_could_become_shorter_is_not_mapped() {
        let file = memfd_create(NAME, MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, PAGE_SIZE).unwrap();
        assert!(Page::open(file.as_fd()).is_err());
    }
}
