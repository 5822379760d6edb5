// SPDX-License-Identifier: GPL-2.0

//! Declarations of `kmod/shim.h`, of `kmod/entry.S`, and of exported functions that the `bindings`
//! crate does not have.

use kernel::{
    bindings,
    prelude::*, //
};

use uvisor_uapi::Regs;

/// What `uvisor_cpu_bugs()` fills in.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct CpuBugs {
    /// L1 terminal fault.
    pub(crate) l1tf: bool,
    /// The CPU can flush its L1 data cache by an MSR.
    pub(crate) flush_l1d: bool,
    /// VERW must clear buffers before an entry.
    pub(crate) verw: bool,
    /// The return stack must be filled after an exit.
    pub(crate) rsb: bool,
    /// The branch history must be cleared after an exit.
    pub(crate) bhb: bool,
    /// The CPU has IBPB.
    pub(crate) ibpb: bool,
    /// The kernel runs with IBRS set by each entry.
    pub(crate) ibrs: bool,
}

/// What `uvisor_window_begin()` found.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct WindowBegun {
    /// The number of the CPU, the two bits below, and in the upper half how often another task got the
    /// CPU of this one.
    pub(crate) state: u64,
    /// Which task this is.
    pub(crate) task: u64,
}

/// The bits of [`WindowBegun::state`] that are the number of the CPU.
pub(crate) const WINDOW_CPU: u64 = (1 << 30) - 1;
/// The task must do something else first.
pub(crate) const WINDOW_WORK_PENDING: u64 = 1 << 30;
/// KVM may have left its guest's values in MSRs.
pub(crate) const WINDOW_FOREIGN_MSRS: u64 = 1 << 31;

/// How many pages `uvisor_vvar_pages()` writes.
pub(crate) const VVAR_PAGES: usize = 8;

/// The operand of SGDT and LGDT.
#[derive(Clone, Copy, Default)]
#[repr(C, packed)]
pub(crate) struct Descriptor {
    /// The last valid offset.
    pub(crate) limit: u16,
    /// The linear address.
    pub(crate) base: u64,
}

/// C's, of which only C sees what is in it.
#[repr(C)]
pub(crate) struct User {
    _opaque: [u8; 0],
}

/// What is told that user memory changes.
pub(crate) type UserFn = unsafe extern "C" fn(*mut c_void, *mut User, c_ulong, c_ulong, c_ulong);

/// What a shrinker is asked.
pub(crate) type ShrinkerFn =
    unsafe extern "C" fn(*mut bindings::shrinker, *mut bindings::shrink_control) -> c_ulong;

// The lint is wrong about kernel types with zero-sized members, which are fine behind a pointer.
#[allow(improper_ctypes)]
extern "C" {
    pub(crate) fn uvisor_window_begin() -> WindowBegun;
    pub(crate) fn uvisor_window_end();
    pub(crate) fn uvisor_cond_resched();
    pub(crate) fn uvisor_handle_work() -> c_int;
    pub(crate) fn uvisor_kick_cpu(cpu: c_int);
    pub(crate) fn uvisor_sync_cpu(cpu: c_int) -> c_int;

    pub(crate) fn uvisor_pid_get() -> *mut bindings::pid;
    pub(crate) fn uvisor_pid_number(pid: *mut bindings::pid) -> u32;
    pub(crate) fn uvisor_is_admin() -> bool;
    pub(crate) fn uvisor_is_dying() -> bool;

    pub(crate) fn uvisor_rdmsr_safe(msr: u32, value: *mut u64) -> c_int;
    pub(crate) fn uvisor_cpu_bugs(bugs: *mut CpuBugs);
    pub(crate) fn uvisor_has_vmx() -> bool;
    pub(crate) fn uvisor_has_fred() -> bool;
    pub(crate) fn uvisor_has_xsave() -> bool;
    pub(crate) fn uvisor_is_confidential_guest() -> bool;
    pub(crate) fn uvisor_machine_check();
    pub(crate) fn uvisor_tss_address() -> u64;
    pub(crate) fn uvisor_tsc_khz() -> u32;

    pub(crate) fn cpu_mitigations_off() -> bool;

    pub(crate) fn uvisor_page_alloc(zero: bool) -> bindings::phys_addr_t;
    pub(crate) fn uvisor_pages_alloc(
        zero: bool,
        order: u32,
        zeroed: *mut bool,
    ) -> bindings::phys_addr_t;
    pub(crate) fn uvisor_page_get(phys: bindings::phys_addr_t) -> bool;
    pub(crate) fn uvisor_page_put(phys: bindings::phys_addr_t);
    pub(crate) fn uvisor_page_words(phys: bindings::phys_addr_t) -> *mut c_void;
    pub(crate) fn uvisor_page_virt(phys: bindings::phys_addr_t) -> *mut c_void;
    pub(crate) fn uvisor_copy(to: *mut c_void, from: *const c_void, len: usize);

    pub(crate) fn uvisor_shrinker_new(
        count: ShrinkerFn,
        scan: ShrinkerFn,
    ) -> *mut bindings::shrinker;
    pub(crate) fn uvisor_shrinker_may_wait(control: *const bindings::shrink_control) -> bool;

    pub(crate) fn uvisor_file_io(
        fd: c_uint,
        write: bool,
        buffer: *mut c_void,
        len: usize,
        at: *const i64,
    ) -> isize;
    pub(crate) fn uvisor_file_check(file: *mut bindings::file) -> c_int;
    pub(crate) fn uvisor_file_noexec(file: *mut bindings::file) -> bool;
    pub(crate) fn uvisor_file_share(file: *mut bindings::file, write: bool) -> c_int;
    pub(crate) fn uvisor_file_unshare(file: *mut bindings::file);
    pub(crate) fn uvisor_file_page(
        file: *mut bindings::file,
        index: u64,
        at_hand: bool,
        dirty: bool,
        phys: *mut bindings::phys_addr_t,
    ) -> c_int;

    pub(crate) fn uvisor_user_bind(owner: *const c_void, take: UserFn) -> *mut User;
    pub(crate) fn uvisor_user_unbind(user: *mut User);
    pub(crate) fn uvisor_user_is_current(user: *const User) -> bool;
    pub(crate) fn uvisor_user_begin(user: *mut User) -> c_ulong;
    pub(crate) fn uvisor_user_is_stale(user: *mut User, seq: c_ulong) -> bool;
    pub(crate) fn uvisor_user_set_seq(user: *mut User, seq: c_ulong);
    pub(crate) fn uvisor_user_page(
        address: c_ulong,
        write: bool,
        phys: *mut bindings::phys_addr_t,
    ) -> c_int;

    pub(crate) fn uvisor_vvar_pages(
        start: c_ulong,
        len: c_ulong,
        phys: *mut bindings::phys_addr_t,
    ) -> c_int;

    pub(crate) fn uvisor_anon_file(
        name: *const c_char,
        fops: *const bindings::file_operations,
        data: *mut c_void,
    ) -> *mut bindings::file;
    pub(crate) fn uvisor_vma_init_pfn(vma: *mut bindings::vm_area_struct) -> c_int;
    pub(crate) fn uvisor_vma_insert_run_page(
        vma: *mut bindings::vm_area_struct,
        phys: bindings::phys_addr_t,
    ) -> c_int;
    pub(crate) fn uvisor_vma_insert_pfn(
        vma: *mut bindings::vm_area_struct,
        address: c_ulong,
        phys: bindings::phys_addr_t,
        writable: bool,
    ) -> bindings::vm_fault_t;
    pub(crate) fn uvisor_file_mapping(file: *mut bindings::file) -> *mut bindings::address_space;

    pub(crate) fn uvisor_enter(regs: *mut Regs, resume: u64) -> c_int;
    pub(crate) fn uvisor_exit();
}
