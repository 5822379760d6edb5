// SPDX-License-Identifier: GPL-2.0

//! Mappings of our files by user space.

use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

use super::{
    ffi,
    frame::Frame, //
};

/// Prepares a shared mapping into which [`insert`] puts pages, on faults that `ops` serves.
///
/// # Safety
///
/// `vma` must be the mapping that the kernel is setting up, and `ops` be right for its file.
pub(crate) unsafe fn init(
    vma: *mut bindings::vm_area_struct,
    ops: &'static bindings::vm_operations_struct,
) -> Result {
    // SAFETY: By the caller's promise.
    to_result(unsafe { ffi::uvisor_vma_init_pfn(vma) })?;
    // SAFETY: As above; nobody else sees the mapping yet.
    unsafe { (*vma).vm_ops = ops };
    Ok(())
}

/// Maps the page at `phys` at `address`; the answer is the one for the fault handler to give.
///
/// # Safety
///
/// `vma` must be the mapping of a fault that is being handled, prepared by [`init`], and `address`
/// lie in it. The page must stay alive until the mapping is zapped or gone.
pub(crate) unsafe fn insert(
    vma: *mut bindings::vm_area_struct,
    address: usize,
    phys: u64,
    writable: bool,
) -> bindings::vm_fault_t {
    // SAFETY: By the caller's promise.
    unsafe { ffi::uvisor_vma_insert_pfn(vma, address, phys, writable) }
}

/// Maps `frame` as all of `vma`, which must be shared and one page at offset 0.
///
/// # Safety
///
/// `vma` must be the mapping that the kernel is setting up.
pub(crate) unsafe fn insert_run_page(vma: *mut bindings::vm_area_struct, frame: &Frame) -> Result {
    // SAFETY: By the caller's promise; the mapping takes a reference of its own on the page.
    to_result(unsafe { ffi::uvisor_vma_insert_run_page(vma, frame.phys()) })
}
