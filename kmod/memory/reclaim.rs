// SPDX-License-Identifier: GPL-2.0

//! What a micro-VM gives back when the kernel has little memory.
//!
//! First what its lock alone allows: pages of files in tables of its own. Those in tables that clones have in
//! common go by the locks of all of the family, which the caller takes and holds ([`Memory::try_hold`]).

use core::mem::{
    forget,
    ManuallyDrop, //
};

use kernel::sync::lock::{
    mutex::MutexBackend,
    Guard, //
};

use uvisor_ept::{
    Files,
    Range,
    Tree, //
};
use uvisor_uapi::Event;

use super::{
    Inner,
    Memory, //
};

/// How many pages are taken out at once: as many as may be missed until the next flush.
const BATCH: u32 = 128;

/// What a lock protects that stays held.
type HeldInner<'a> = ManuallyDrop<Guard<'a, Inner, MutexBackend>>;

/// That of what a micro-VM is a clone of.
type Parent<'a> = Option<HeldInner<'a>>;

impl Memory {
    /// Gives back up to `most` pages of files that are mapped, in tables of its own, and the frames that are
    /// kept; and says what it found, or none if somebody is using the memory.
    ///
    /// Tables that it has in common with `parent` are left to that one. The pages come back from the file
    /// when they are touched. Neither allocates nor waits for a lock of ours.
    pub(crate) fn give_back_files(&self, parent: Option<&Self>, most: u32) -> Option<Files> {
        let mut inner = self.inner.try_lock()?;
        // What cannot be seen now is looked at twice.
        let parent = parent.and_then(|parent| parent.inner.try_lock());
        let parent = parent.as_ref().and_then(|parent| tree(parent));
        let Inner {
            pages,
            space,
            mapping,
            next_file,
            ..
        } = &mut *inner;
        let space = space.as_mut()?;
        pages.clear_spare();
        let files = space.detach_files(pages, *next_file, most.min(BATCH), parent);
        *next_file = files.next;
        if let Some(range) = files.range {
            self.forget_users(range);
            self.take(*mapping, range);
            space.reap(pages, range);
            self.events.add(Event::FileGivenBack, files.count.into());
        }
        Some(files)
    }

    /// Takes the lock, if it is free, until [`Memory::let_go`].
    #[must_use = "it stays locked"]
    pub(crate) fn try_hold(&self) -> bool {
        self.inner.try_lock().map(forget).is_some()
    }

    /// Lets go of the lock.
    ///
    /// # Safety
    ///
    /// The calling task must have taken it by [`Memory::try_hold`].
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: By the caller's promise the guard is one that was forgotten.
        drop(ManuallyDrop::into_inner(unsafe { self.held_inner() }));
    }

    /// What the lock protects, while it is held; it stays locked.
    ///
    /// # Safety
    ///
    /// The calling task must have taken the lock by [`Memory::try_hold`], and have no other result of this
    /// function for the same memory.
    unsafe fn held_inner(&self) -> HeldInner<'_> {
        // SAFETY: By the caller's promise it owns the lock.
        ManuallyDrop::new(unsafe { Guard::new(&self.inner, ()) })
    }

    /// What the locks of this memory and of `parent` protect.
    ///
    /// # Safety
    ///
    /// As [`Memory::held_inner`], for both; and `parent` is not this one.
    unsafe fn held_with<'a>(&'a self, parent: Option<&'a Self>) -> (HeldInner<'a>, Parent<'a>) {
        // SAFETY: By the caller's promise.
        unsafe { (self.held_inner(), parent.map(|parent| parent.held_inner())) }
    }

    /// First step of giving back up to `most` pages of files, from the page number `start` on, in whatever
    /// tables but those that `parent` has as well. The range that is given, if any, is then forgotten by all
    /// of the family, and dropped here.
    ///
    /// # Safety
    ///
    /// The calling task must hold the locks of all of the family, of which `parent` is another one, by
    /// [`Memory::try_hold`], from before this until behind [`Memory::drop_common_files`].
    pub(crate) unsafe fn detach_common_files(
        &self,
        parent: Option<&Self>,
        start: u64,
        most: u32,
    ) -> Files {
        // SAFETY: By the caller's promise.
        let (mut inner, parent) = unsafe { self.held_with(parent) };
        let parent = parent.as_ref().and_then(|parent| tree(parent));
        let Inner { pages, space, .. } = &mut **inner;
        let Some(space) = space else {
            return Files::default();
        };
        let files = space.detach_common_files(pages, start, most.min(BATCH), parent);
        if let Some(range) = files.range {
            self.forget_users(range);
        }
        files
    }

    /// Second step, for each of the family: no CPU and no user mapping has what was taken out of `range` any
    /// more.
    ///
    /// # Safety
    ///
    /// As [`Memory::detach_common_files`].
    pub(crate) unsafe fn forget_common_files(&self, range: Range) {
        // SAFETY: By the caller's promise.
        let mut inner = unsafe { self.held_inner() };
        let Inner {
            pages,
            space: Some(space),
            mapping,
            ..
        } = &mut **inner
        else {
            return;
        };
        space.forget(pages, range);
        self.take(*mapping, range);
        space.reap_views(pages, range);
    }

    /// Last step, with what the first one gave and the same `parent`: gives the pages back.
    ///
    /// # Safety
    ///
    /// As [`Memory::detach_common_files`].
    pub(crate) unsafe fn drop_common_files(&self, parent: Option<&Self>, files: &Files) {
        // SAFETY: By the caller's promise.
        let (mut inner, parent) = unsafe { self.held_with(parent) };
        let parent = parent.as_ref().and_then(|parent| tree(parent));
        let Inner {
            pages,
            space,
            next_file,
            ..
        } = &mut **inner;
        *next_file = files.next;
        if let (Some(space), Some(range)) = (space, files.range) {
            space.reap_common_files(pages, range, parent);
            self.events.add(Event::FileGivenBack, files.count.into());
        }
    }
}

/// The tables of view 0.
fn tree(inner: &Inner) -> Option<&Tree> {
    inner.space.as_ref().map(|space| space.tree())
}
