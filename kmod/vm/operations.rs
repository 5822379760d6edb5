// SPDX-License-Identifier: GPL-2.0

//! The operations of a micro-VM's file and of its user mappings, as the kernel calls them.

use kernel::{
    bindings,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    module::this_module,
    prelude::*,
    sync::Arc,
    types::ForeignOwnable, //
};

use super::Vm;
use crate::{
    access,
    sys::vma,
    LocalModule, //
};

/// The operations of a micro-VM's file.
pub(super) static FOPS: FileOperations = FileOperations(bindings::file_operations {
    owner: this_module::<LocalModule>().as_ptr(),
    release: Some(release),
    mmap: Some(mmap),
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: bindings::compat_ptr_ioctl,
    read_iter: Some(read_iter),
    write_iter: Some(write_iter),
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

/// The operations of its user mappings.
static VM_OPS: VmOperations = VmOperations(bindings::vm_operations_struct {
    fault: Some(fault),
    pfn_mkwrite: Some(pfn_mkwrite),
    ..pin_init::zeroed()
});

/// # Safety
///
/// Called by the VFS for a file that [`Vm::create`] made, when no descriptor and no mapping is left.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: From `into_foreign` in `file::install`; this is the last use of the file.
    let vm = unsafe { Arc::<Vm>::from_foreign((*file).private_data) };
    vm.memory.set_mapping(None);
    vm.memory.unbind();
    0
}

/// # Safety
///
/// Called by the VFS for a file that [`Vm::create`] made.
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: Set by `create`, and the file is alive.
    let vm = unsafe { Arc::<Vm>::borrow((*file).private_data) };
    // CAST: All are 64 bits.
    vm.ioctl(cmd, arg)
        .map_or_else(|e| e.to_errno() as c_long, |r| r as c_long)
}

/// # Safety
///
/// Called by the VFS for a file that [`Vm::create`] made.
unsafe extern "C" fn mmap(_: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: The kernel is setting `vma` up, of a file whose faults `VM_OPS` serves.
    unsafe { vma::init(vma, &VM_OPS.0) }.map_or_else(|e| e.to_errno(), |()| 0)
}

/// # Safety
///
/// Called by the kernel for a mapping that [`mmap`] prepared.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: The mapping is alive during its fault, and has a reference on the file, whose private
    // data `create` set.
    let vm = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        Arc::<Vm>::borrow((*(*vma).vm_file).private_data)
    };
    // SAFETY: By this function's own promise.
    unsafe { access::fault(&vm.memory, vmf) }
}

/// # Safety
///
/// As [`fault`].
unsafe extern "C" fn pfn_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: As in `fault`.
    let vm = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        Arc::<Vm>::borrow((*(*vma).vm_file).private_data)
    };
    // SAFETY: By this function's own promise.
    unsafe { access::make_writable(&vm.memory, vmf) }
}

/// # Safety
///
/// Called by the VFS for a file that [`Vm::create`] made.
unsafe extern "C" fn read_iter(
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: Set by `create`, and the file is alive.
    let vm = unsafe { Arc::<Vm>::borrow((*(*kiocb).ki_filp).private_data) };
    // SAFETY: The VFS gives us the iterator, to write to.
    let iter = unsafe { IovIterDest::from_raw(iter) };
    // SAFETY: The VFS gives us the kiocb.
    let position = unsafe { (*kiocb).ki_pos };
    // CAST: At most what the iterator had.
    access::read(&vm.memory, position, iter).map_or_else(|e| e.to_errno() as isize, |n| n as isize)
}

/// # Safety
///
/// As [`read_iter`].
unsafe extern "C" fn write_iter(
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: Set by `create`, and the file is alive.
    let vm = unsafe { Arc::<Vm>::borrow((*(*kiocb).ki_filp).private_data) };
    // SAFETY: The VFS gives us the iterator, to read from.
    let iter = unsafe { IovIterSource::from_raw(iter) };
    // SAFETY: The VFS gives us the kiocb.
    let position = unsafe { (*kiocb).ki_pos };
    // CAST: At most what the iterator had.
    access::write(&vm.memory, position, iter).map_or_else(|e| e.to_errno() as isize, |n| n as isize)
}

/// A `file_operations` that threads may share.
pub(crate) struct FileOperations(pub(crate) bindings::file_operations);
// SAFETY: It is never written.
unsafe impl Sync for FileOperations {}

/// A `vm_operations_struct` that threads may share.
struct VmOperations(bindings::vm_operations_struct);
// SAFETY: It is never written.
unsafe impl Sync for VmOperations {}
