// SPDX-License-Identifier: GPL-2.0

//! SEAL: ranges whose permission and content are final.

use kernel::prelude::*;

use uvisor_ept::Range;
use uvisor_uapi::MemoryCause;

use super::{
    fault::Access,
    region_error,
    Inner,
    Memory,
    NoPage, //
};
use crate::{
    backing::MemoryBacking,
    sys::irq, //
};

impl Memory {
    /// `SEAL`: first the regions, so that nothing can be taken out of the range any more, then the pages of
    /// files, one by one.
    pub(crate) fn seal(&self, range: Range) -> Result {
        {
            let mut inner = self.inner.lock();
            self.check_not_frozen()?;
            let space = inner.space.as_mut().ok_or(ENXIO)?;
            space.seal(range).map_err(region_error)?;
            // There are fewer threads.
            inner.sealing = inner.sealing.saturating_add(1);
        }
        let done = self.own_pages_of_files(range);
        let mut inner = self.inner.lock();
        inner.sealing = inner.sealing.saturating_sub(1);
        done
    }

    /// Fails with `EBUSY` while pages of a sealed range are still the file's: whoever copies the micro-VM,
    /// or goes back, would take it for final.
    pub(super) fn check_not_sealing(inner: &Inner) -> Result {
        if inner.sealing == 0 {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    /// Makes the pages of files in a range the micro-VM's own; fails with `ENODATA` if there are not all.
    fn own_pages_of_files(&self, range: Range) -> Result {
        let mut done = Ok(());
        let mut rest = Some(range);
        while let Some(part) = rest {
            let Some(of_file) = self.next_of_file(part)? else {
                break;
            };
            for gpa in of_file.pages() {
                if current!().signal_pending() {
                    return Err(EINTR);
                }
                irq::cond_resched();
                match self.serve(gpa, Access::Own, |_| ()) {
                    Ok(Some(())) => {}
                    Ok(None) | Err(NoPage::Busy | NoPage::Frozen) => return Err(EINTR),
                    Err(NoPage::Cause(MemoryCause::Limit)) => return Err(ENOBUFS),
                    // The others are fetched all the same.
                    Err(NoPage::Cause(_) | NoPage::User(_)) => done = Err(ENODATA),
                }
            }
            rest = part.after(&of_file);
        }
        done
    }

    /// The first part of `range` that shows a file.
    fn next_of_file(&self, range: Range) -> Result<Option<Range>> {
        let inner = self.inner.lock();
        let space = inner.space.as_ref().ok_or(ENXIO)?;
        let mut regions = space.regions().iter(range);
        let found = regions.find(|region| matches!(region.backing, MemoryBacking::File { .. }));
        Ok(found.and_then(|region| region.range.intersect(&range)))
    }
}
