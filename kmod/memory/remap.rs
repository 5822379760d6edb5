// SPDX-License-Identifier: GPL-2.0

//! REMAP: ranges that go to another place with their pages.

use kernel::prelude::*;

use uvisor_ept::{
    Move,
    RegionError,
    Taken, //
};

use super::{
    region_error,
    views::GuestSpace,
    Inner,
    Memory, //
};
use crate::{
    pages::Pages,
    sys::irq, //
};

/// Maps the region layer's errors to what REMAP documents.
fn remap_error(error: RegionError<Error>) -> Error {
    match error {
        RegionError::Unmapped => EFAULT,
        error => region_error(error),
    }
}

impl Memory {
    /// `REMAP`.
    pub(crate) fn remap(&self, what: &Move) -> Result {
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
        let moved = space.moved(what).map_err(remap_error)?;
        moved.backing.check_len(moved.range.len())?;
        self.forget_users(what.from());
        self.forget_users(what.to());
        self.unshare_edges(space, pages, what.to())?;
        self.unshare_all(space, pages, what.from())?;
        let begun = self
            .prepare_move(space, pages, what)
            .and_then(|()| space.begin_move(pages, what).map_err(remap_error));
        let taken = begun.inspect_err(|_| {
            if space.abandon_move(pages, what) == Taken::Something {
                self.flush();
            }
            space.reap(pages, what.to());
        })?;
        if taken == Taken::Nothing {
            return Ok(());
        }
        // At the new place nothing was mapped, so that no CPU and no user mapping has anything there.
        self.take(*mapping, what.from());
        let mut rest = Some(what.from());
        while let Some(part) = rest {
            rest = space.move_pages(pages, what, part);
            irq::cond_resched();
        }
        space.reap(pages, what.from());
        Ok(())
    }

    /// Makes the tables that are needed at the new place.
    fn prepare_move(&self, space: &mut GuestSpace, pages: &mut Pages, what: &Move) -> Result {
        let mut rest = Some(what.from());
        while let Some(part) = rest {
            rest = self.unshare(pages, |pages, retired| {
                space.prepare_move(pages, what, part, retired)
            })?;
            irq::cond_resched();
        }
        Ok(())
    }
}
