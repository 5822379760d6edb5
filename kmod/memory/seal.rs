// SPDX-License-Identifier: GPL-2.0

//! SEAL: ranges whose permission and content are final.

use kernel::prelude::*;

use uvisor_ept::Range;
use uvisor_uapi::MemoryCause;

use super::{
    fault::Access,
    region_error,
    Memory,
    NoPage, //
};
use crate::{
    pages::MemoryBacking,
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
        }
        let mut rest = Some(range);
        while let Some(part) = rest {
            let Some(of_file) = self.next_of_file(part)? else {
                return Ok(());
            };
            for gpa in of_file.pages() {
                if current!().signal_pending() {
                    return Err(EINTR);
                }
                irq::cond_resched();
                match self.serve(gpa, Access::Own, true, |_| ()) {
                    Ok(Some(())) => {}
                    Ok(None) | Err(NoPage::Busy) => return Err(EINTR),
                    Err(NoPage::Frozen) => return Err(EROFS),
                    Err(NoPage::Cause(MemoryCause::Limit)) => return Err(ENOBUFS),
                    // A RESET meanwhile, or a file that has become shorter.
                    Err(NoPage::Cause(_)) => return Err(ENODATA),
                }
            }
            rest = part.after(&of_file);
        }
        Ok(())
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
