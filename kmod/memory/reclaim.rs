// SPDX-License-Identifier: GPL-2.0

//! What a micro-VM gives back when the kernel has little memory.

use uvisor_uapi::Event;

use super::{
    Inner,
    Memory, //
};

/// How many pages are taken out at once: as many as may be missed until the next flush.
const BATCH: u32 = 128;

impl Memory {
    /// Gives back up to `most` pages of files that are mapped, in tables of its own, and the frames that are
    /// kept; how many pages of files that were, or none if somebody is using the memory.
    ///
    /// These come back from the file when they are touched. Neither allocates nor waits for a lock of ours.
    pub(crate) fn give_back_files(&self, most: u32) -> Option<u32> {
        let mut inner = self.inner.try_lock()?;
        let Inner {
            pages,
            space,
            mapping,
            next_file,
            ..
        } = &mut *inner;
        let space = space.as_mut()?;
        pages.clear_spare();
        let files = space.detach_files(pages, *next_file, most.min(BATCH));
        *next_file = files.next;
        let Some(range) = files.range else {
            return Some(0);
        };
        self.take(*mapping, range);
        space.reap(pages, range);
        self.events.add(Event::FileGivenBack, files.count.into());
        Some(files.count)
    }
}
