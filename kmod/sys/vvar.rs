// SPDX-License-Identifier: GPL-2.0

//! The data of the kernel's vDSO.

use kernel::{
    error::to_result,
    prelude::*, //
};

use super::{
    ffi,
    frame::{
        self,
        Frame, //
    }, //
};

/// The pages of the kernel's `[vvar]` mapping, by their number; some are not there.
pub(crate) struct VvarPages([Option<Frame>; Self::MOST]);

impl VvarPages {
    /// How many there are at most.
    const MOST: usize = ffi::VVAR_PAGES;

    /// The first `len` bytes of the calling process's mapping, which begins at `address`. `EINVAL` if it is
    /// another mapping, or shorter; `EOPNOTSUPP` for a process in a time namespace.
    pub(crate) fn new(address: u64, len: u64) -> Result<Self> {
        let mut found = [0; Self::MOST];
        let (start, len) = (usize::try_from(address)?, usize::try_from(len)?);
        // SAFETY: The array has room for as many as the function writes.
        to_result(unsafe { ffi::uvisor_vvar_pages(start, len, found.as_mut_ptr()) })?;
        Ok(Self(found.map(|phys| {
            // SAFETY: The function gave a reference on each that is not 0.
            (phys != 0).then(|| unsafe { Frame::from_raw(phys) })
        })))
    }

    /// The page of this number; `ENXIO` if it is not there. Does not sleep.
    pub(crate) fn page(&self, number: u64) -> Result<Frame> {
        let number = usize::try_from(number)?;
        let page = self.0.get(number).and_then(Option::as_ref).ok_or(ENXIO)?;
        // SAFETY: We have a reference, and take another one.
        unsafe {
            frame::get(page.phys())?;
            Ok(Frame::from_raw(page.phys()))
        }
    }
}
