// SPDX-License-Identifier: GPL-2.0

//! Clones of a micro-VM's memory, templates, and going back to them.

use core::sync::atomic::Ordering::Relaxed;

use kernel::{
    prelude::*,
    sync::Arc, //
};

use uvisor_ept::{
    destroy_views,
    Gpa,
    Taken, //
};

use super::{
    Inner,
    Memory,
    ViewSlots, //
};
use crate::pages::{
    Pages,
    Pool, //
};

impl Memory {
    /// With the memory that this one has now, in common; and whether this one is a template.
    pub(crate) fn share(
        &self,
        id: u64,
        pool: Arc<Pool>,
    ) -> Result<(impl PinInit<Self, Error>, bool)> {
        let mut pages = Pages::new(self.hardware.clone(), pool)?;
        let (space, is_template) = {
            let mut inner = self.inner.lock();
            Self::check_not_sealing(&inner)?;
            let Inner {
                pages: source,
                space,
                mapping,
                ..
            } = &mut *inner;
            let space = space.as_mut().ok_or(ENXIO)?;
            let everything = self.everything()?;
            self.forget_users(everything);
            let (clone, taken) = space.share(&mut pages, ViewSlots::new(), everything)?;
            if taken == Taken::Something {
                // The clone is of the moment behind this, as nobody could write any more.
                self.take(*mapping, everything);
                space.reap_views(source, everything);
            }
            // Under the lock: what was cloned is what no one changes any more.
            (clone, self.is_frozen())
        };
        let memory = Self::with_space(self.hardware.clone(), id, self.family, pages, space)?;
        Ok((memory, is_template))
    }

    /// Whether it is a template.
    #[inline]
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Relaxed)
    }

    /// Fails with `EROFS` for a template.
    pub(super) fn check_not_frozen(&self) -> Result {
        if self.is_frozen() {
            Err(EROFS)
        } else {
            Ok(())
        }
    }

    /// Makes it a template; no vCPU runs from then on.
    pub(crate) fn freeze(&self) -> Result {
        let inner = self.inner.lock();
        Self::check_not_sealing(&inner)?;
        self.frozen.store(true, Relaxed);
        let everything = self.everything()?;
        self.forget_users(everything);
        // A CPU that enters later sees it, and those that are inside leave.
        self.take(inner.mapping, everything);
        Ok(())
    }

    /// Puts it back to what `template` has; how many pages of its own it gave back.
    pub(crate) fn reset(&self, template: &Self) -> Result<u64> {
        let mut inner = self.inner.lock();
        self.check_not_frozen()?;
        Self::check_not_sealing(&inner)?;
        let Inner {
            pages,
            space,
            mapping,
            mapped,
            ..
        } = &mut *inner;
        let space = space.as_mut().ok_or(ENXIO)?;
        let everything = self.everything()?;
        self.forget_users(everything);
        let mut views = ViewSlots::new();
        // The younger one's lock comes first: a template is older than its clones.
        let mut template = template.inner.lock();
        let template = template.space.as_mut().ok_or(ENXIO)?;
        space.hide(pages, template, &mut views, everything)?;
        self.hide_views(space);
        self.take(*mapping, everything);
        mapped.clear();
        destroy_views(pages, &mut views);
        space.reap_views(pages, everything);
        let keep = pages.tables_to_keep();
        Ok(pages.keeping(|pages| space.restore(pages, template, keep)))
    }

    /// Calls `differs` for the pages from `start` on that are not those of `template`, until it returns
    /// false.
    pub(crate) fn compare(
        &self,
        template: &Self,
        start: Gpa,
        mut differs: impl FnMut(Gpa) -> bool,
    ) -> Result {
        let inner = self.inner.lock();
        self.forget_users(self.everything()?);
        let space = inner.space.as_ref().ok_or(ENXIO)?;
        // As in `reset`.
        let template = template.inner.lock();
        let template = template.space.as_ref().ok_or(ENXIO)?;
        space.compare(&inner.pages, template, start, &mut differs);
        Ok(())
    }
}
