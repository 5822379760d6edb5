// SPDX-License-Identifier: GPL-2.0

//! Faults that are served without leaving the window.
//!
//! Interrupts are off there, and nobody may be waited for. So it is done only if the lock is free, with
//! frames that are kept, and where no other CPU and no user mapping has a translation that must go: the rest
//! is [`Memory::fault`]'s.

use core::sync::atomic::Ordering::{
    Relaxed,
    SeqCst, //
};

use uvisor_ept::{
    Fault,
    Gpa,
    Perm, //
};

use super::{
    Inner,
    Memory, //
};
use crate::sys::irq::IrqOff;

impl Memory {
    /// Makes an access of the guest in a view possible, if that can be done here; or one step on the way.
    ///
    /// The caller, which is in a window of this micro-VM, flushes before it enters again if
    /// [`Memory::stale`] says so.
    pub(crate) fn fault_inside(&self, _irq: &IrqOff, view: u64, gpa: Gpa, access: Perm) -> bool {
        let Some(mut inner) = self.inner.try_lock() else {
            return false;
        };
        let Inner {
            pages,
            space: Some(space),
            mapped,
            ..
        } = &mut *inner
        else {
            return false;
        };
        if self.is_frozen() {
            return false;
        }
        // One that is too large is not there either.
        let view = usize::try_from(view).unwrap_or(usize::MAX);
        match space.view_fault(pages, view, gpa, access) {
            Fault::Done => true,
            Fault::Fill => pages.inside(|pages| space.fill(pages, view, gpa)).is_ok(),
            Fault::Reuse => {
                self.reuse(space, pages, gpa);
                true
            }
            Fault::Anonymous => {
                let installed = pages.inside(|pages| self.install_zeroed(space, pages, gpa));
                installed.is_ok()
            }
            // The vCPU here is the only one, and stays so as long as we have the lock: nobody else is in a
            // window of this micro-VM, and whoever enters later sees the new generation.
            Fault::Copy { from } if self.vcpus.load(Relaxed) == 1 && !mapped.may_have(gpa) => {
                let flush = || {
                    self.generation.fetch_add(1, SeqCst);
                };
                let copied =
                    pages.inside(|pages| self.replace_by_copy(space, pages, gpa, from, flush));
                copied.is_ok()
            }
            Fault::File { backing, owner } => {
                let Ok(page) = backing.page(true) else {
                    return false;
                };
                let installed = pages
                    .inside(|pages| self.install_file(space, pages, gpa, (&backing, page), owner));
                installed == Ok(true)
            }
            _ => false,
        }
    }
}
