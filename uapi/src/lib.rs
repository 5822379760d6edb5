// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The ioctl interface of `/dev/uvisor`.
//!
//! # Rules for every call
//!
//! The argument of an ioctl is a pointer to one of the structures here. Each begins with `size`,
//! the size of the structure as the caller knows it, and each grows only at its end, like the
//! argument of `clone3(2)`:
//!
//! * `size` smaller than the structure's first version: `EINVAL`.
//! * `size` larger than the module knows: the bytes beyond must be zero, else `E2BIG`; more than a
//!   page is always `E2BIG`.
//! * Unknown bits in `flags`, and reserved fields that are not zero: `EINVAL`.
//! * Memory that cannot be read or written: `EFAULT`. A command that the file does not have:
//!   `ENOTTY`.
//!
//! Fields marked *out* are written by the module; what the caller put there is ignored.
//! Addresses are guest-physical, lengths are in bytes, and both are multiples of the page size.

#![cfg_attr(not(any(test, MODULE)), no_std)]

mod list;
mod run;
mod stats;

pub use list::{List, ListEntry, ListFlags};
pub use run::{
    Exit, ExitReason, MemoryCause, Regs, RunFlags, RunPage, Serve, ViewCause, EXIT_INTERRUPTED,
    HYPERCALL_LEN, HYPERCALL_SWITCH_VIEW, RUN_PAGE_SIZE,
};
pub use stats::{Event, Stats, EVENTS};

use bitflags::bitflags;

/// The device node.
pub const DEVICE: &str = "/dev/uvisor";

/// The version of this interface; it changes only when something here stops to be compatible.
pub const ABI_VERSION: u32 = 4;

/// The size of a page, the unit of all memory operations.
pub const PAGE_SIZE: u64 = 4096;

/// The ioctl type byte of all commands, the second byte of their numbers; they have no direction and
/// no size there, since structures carry their own.
pub const IOCTL_TYPE: u32 = 0xb5;

/// `/dev/uvisor`: fills an [`Info`].
pub const INFO: u32 = IOCTL_TYPE << 8;
/// `/dev/uvisor`: makes a micro-VM from a [`VmCreate`]; returns its file descriptor (close-on-exec).
///
/// Errors: `EMFILE`, `ENFILE`, `ENOMEM`; `EINVAL` for a memory limit below one page, or unknown flags; `EOPNOTSUPP` for
/// [`VmFlags::NO_TSC`] where the CPU has no such control.
pub const VM_CREATE: u32 = (IOCTL_TYPE << 8) | 0x01;
/// `/dev/uvisor`: lists the micro-VMs that there are, by a [`List`].
///
/// The caller sees those that were made by its own effective user; with `CAP_SYS_ADMIN` in the initial user
/// namespace, all. Those that are made or closed during the call may be among them, and what is said of
/// each is of some moment during the call. Errors: `EINVAL` for an element smaller than the first version or
/// whose size is no multiple of 8, `E2BIG` for one larger than a page; `EFAULT`; `EINTR` if a signal ends
/// the caller.
pub const LIST: u32 = (IOCTL_TYPE << 8) | 0x02;

/// VM: maps a region described by a [`Map`].
///
/// Errors: `EEXIST` if a part of the range is mapped; `EINVAL` for an empty or unaligned range, one
/// beyond [`Info::gpa_bits`], or a permission that no CPU or this one cannot express; `EACCES` to
/// execute a file on a `noexec` mount, or for what [`VmFlags::W_XOR_X`] forbids; `EBADF` for a file descriptor that is not open
/// for reading; `ENODEV` for a file whose pages cannot be shared (not a regular file, or on a file
/// system without a page cache of its own); `ENOMEM`; `ENOSPC` at the limit of regions. With
/// [`MapFlags::SHARED`] and `WRITE`, also `EACCES` for a file descriptor that is not open for writing, or an
/// append-only file; `ENODEV` for a file that does not live in memory (tmpfs, memfd); `EPERM` for one that is sealed
/// against writes. With [`MapFlags::VVAR`], also `EINVAL` for an address at which no `[vvar]` mapping begins, or a
/// shorter one; `EACCES` for `WRITE` or `EXEC`; `EOPNOTSUPP` for a process in another time namespace than the
/// initial one; `EINTR`.
pub const MAP: u32 = (IOCTL_TYPE << 8) | 0x10;
/// VM: unmaps what is mapped in the range of an [`Unmap`]; a range with nothing in it is no error.
///
/// When the call returns, no vCPU and no mapping of the VM's file can reach the range. Errors:
/// `EINVAL`, `ENOMEM`, `ENOSPC` (a split would exceed the limit of regions); `EPERM` if a part of the range
/// is sealed.
pub const UNMAP: u32 = (IOCTL_TYPE << 8) | 0x11;
/// VM: gives a whole range the permission in a [`Protect`].
///
/// When the call returns, no vCPU has the permission that was taken. Errors: `EACCES` as [`MAP`], and for
/// `WRITE` where a region of [`MapFlags::SHARED`] could not have been mapped with it, or
/// [`MapFlags::VVAR`]; `ENOMEM`
/// if a part of the range is not mapped, as `mprotect(2)`, or if tables that clones have in common had to be
/// copied and could not; `EINVAL`; `ENOSPC`; `EPERM` if a part of the range is sealed.
pub const PROTECT: u32 = (IOCTL_TYPE << 8) | 0x12;
/// VM: fills a [`Stats`].
pub const STATS: u32 = (IOCTL_TYPE << 8) | 0x13;
/// VM: sets the limits in a [`Limits`].
///
/// A limit below what is in use is accepted; the next allocation then fails.
pub const LIMITS: u32 = (IOCTL_TYPE << 8) | 0x14;
/// VM: makes a clone from a [`CloneVm`]; returns its file descriptor (close-on-exec).
///
/// The clone has the regions and the memory of this micro-VM, as they are at one point in time during the
/// call, and no vCPU. Until one of the two writes to a page, both have it in common, and its tables. What
/// the call costs does not depend on how much memory there is; but the tables of this micro-VM's views are
/// given back, and filled again. Errors: as [`VM_CREATE`]; `EINVAL` for unknown flags, or a limit with
/// [`CloneFlags::JOINT`]; `EBUSY` while a [`SEAL`] is under way.
pub const CLONE: u32 = (IOCTL_TYPE << 8) | 0x15;
/// VM: makes it a template, for good: nothing changes it any more, and its vCPUs do not run. Takes no
/// structure (the argument must be 0).
///
/// From then on [`MAP`], [`UNMAP`], [`REMAP`], [`PROTECT`], [`DISCARD`], [`SEAL`], [`VIEW_CREATE`], [`VIEW_PROTECT`],
/// [`VIEW_DESTROY`], [`VCPU_CREATE`], [`RUN`], [`VCPU_RESET`] and writes by `pwrite(2)` fail with `EROFS`;
/// writes through a mapping raise `SIGBUS`. It is then no clone of a template any more, if it was one. Errors:
/// `EBUSY` while a [`SEAL`] is under way.
pub const FREEZE: u32 = (IOCTL_TYPE << 8) | 0x16;
/// VM: puts a clone of a template back to what it was when it was made, and fills a [`Reset`].
///
/// What it costs grows with what the clone changed. It may keep some tables (at most 16, and an eighth of its
/// limit) and frames (at most 16) for what it changes next, which count as before. Its vCPUs are put back by
/// [`VCPU_RESET`]. Errors: `EINVAL` for a micro-VM that is no clone of a template; `EBUSY` while a [`SEAL`] is
/// under way; `ENOMEM`.
pub const RESET: u32 = (IOCTL_TYPE << 8) | 0x17;
/// VM: forgets the pages in the range of an [`Unmap`]: anonymous ones are zero when they are touched
/// again, those of a file as the file is then. The regions stay.
///
/// Errors: `EINVAL`; `ENOMEM` if tables that clones have in common had to be copied and could not; `EPERM` if
/// a part of the range is sealed.
pub const DISCARD: u32 = (IOCTL_TYPE << 8) | 0x18;
/// VM: lists the pages of a clone of a template that are not the template's, by a [`Diff`].
///
/// These are pages that were written, discarded or unmapped; and, with equal content, pages that either
/// touched for the first time since, but for those of a file that both have mapped there. Errors: `EINVAL` for a micro-VM that is no clone of a template, an
/// unaligned start, or room for no range; `EFAULT`; `ENOMEM`.
pub const DIFF: u32 = (IOCTL_TYPE << 8) | 0x19;
/// VM: adds a view from a [`ViewCreate`]; returns its number, from 1 on.
///
/// A view is another set of permissions over the same memory. What a page allows in it is what its region
/// and the view allow both. View 0 is always there, allows what the regions allow, and is the one that the
/// VM file's `mmap(2)`, `pread(2)` and `pwrite(2)` obey: who serves a guest in another view must not follow its
/// pointers to where that view does not reach. Clones have the same views, and RESET brings the template's
/// back. Errors: `ENOSPC` beyond [`MAX_VIEWS`]; `EINVAL` for a permission that this CPU cannot express, and
/// for unknown flags; `EOPNOTSUPP` on a CPU that cannot flush all EPT contexts at once; `ENOMEM`; `EROFS` for
/// a template.
pub const VIEW_CREATE: u32 = (IOCTL_TYPE << 8) | 0x1a;
/// VM: lets a view allow at most the permission in a [`ViewProtect`] in a range, whether or not anything is
/// mapped there.
///
/// When the call returns, no vCPU has more. Errors: `ENOENT` for a view that is not there, or view 0; `EINVAL`;
/// `ENOSPC` beyond 1024 ranges that differ; `EPERM` if a part of the range is sealed;
/// `ENOMEM`; `EROFS` for a template.
pub const VIEW_PROTECT: u32 = (IOCTL_TYPE << 8) | 0x1b;
/// VM: takes the view that a [`ViewDestroy`] names away.
///
/// When the call returns, no vCPU is in it; those that were meet [`ExitReason::View`], also if another view has
/// its number by then. Errors: `ENOENT`, `EROFS`.
pub const VIEW_DESTROY: u32 = (IOCTL_TYPE << 8) | 0x1c;
/// VM: makes the permission and the content of the range of an [`Unmap`] final, until the micro-VM ends, or
/// is put back to a template in which it was not sealed.
///
/// [`UNMAP`], [`REMAP`], [`PROTECT`], [`DISCARD`] and [`VIEW_PROTECT`] fail there with `EPERM` from then on; so views are
/// to be set up before, and the most that a view made later allows there is what it is made with. The pages of
/// files become the micro-VM's own, so that they do not change with the file: all are read now. Errors:
/// `ENOMEM` if a part of the range is not mapped; `EACCES` if a part is writable, or could be, with
/// [`MapFlags::SHARED`], or of [`MapFlags::VVAR`]; `EINVAL`; `ENOSPC` at the
/// limit of regions; `EROFS`. With these nothing happened. `EINTR` for a signal, `ENODATA` if there were pages
/// that the file does not have, and `ENOBUFS` if there was no memory for all pages: then the range is sealed, and
/// the call can be repeated for the pages that are missing, which are still the file's.
pub const SEAL: u32 = (IOCTL_TYPE << 8) | 0x1d;
/// VM: moves a range that lies in one region to a free range, which is as long or longer, by a [`Remap`].
///
/// Pages, permission, and what is noted for [`VmFlags::W_XOR_X`] go along; what is longer goes on with zeros, or
/// with the next pages of the file. Nothing is copied but tables that clones have in common. What views allow
/// belongs to addresses, and does not go along. When the call returns, no vCPU and no mapping of the VM's file can
/// reach the old range. Errors, with which nothing happened: `EINVAL` for ranges that are empty, unaligned, beyond
/// [`Info::gpa_bits`], or overlap, a new one that is shorter, or one that is beyond the largest offset of a
/// file; `EFAULT` for a range that does not lie in one region, as `mremap(2)`; `EEXIST` if a part of the new one is
/// mapped; `EPERM` if a part of the range is sealed; `ENOMEM`; `ENOSPC` at the limit of regions; `EROFS`.
pub const REMAP: u32 = (IOCTL_TYPE << 8) | 0x1e;

/// How many views a micro-VM can have, view 0 among them.
pub const MAX_VIEWS: u32 = 512;

/// VM: binds it to the calling process, as a [`Bind`] says: from now on, regions of [`MapFlags::USER`] show what
/// this process has at the same addresses, plus [`Bind::address`].
///
/// It may be bound again, by this process or another one; who maps the regions, and who calls [`RUN`], must be
/// the last to have done so. A clone is bound to nobody. What the micro-VM is bound to ends with the file, or the process. Errors:
/// `EINVAL` for an address that is too large, or no multiple of the page size; `EOPNOTSUPP` if the kernel does not tell of changes
/// (`CONFIG_MMU_NOTIFIER`); `EROFS` for a template; `EINTR`, `ENOMEM`.
pub const BIND: u32 = (IOCTL_TYPE << 8) | 0x1f;
/// VM: makes a vCPU from a [`VcpuCreate`]; returns its file descriptor (close-on-exec).
///
/// Errors: `ENOSPC` beyond [`Info::max_vcpus`]; `EINVAL` for a `cr3` that is unaligned or out of
/// range, an entry point that is not canonical, or a source with a `cr3` or a mask;
/// `EBADF` for a source that is no vCPU; `EBUSY` for one that is running; `EMFILE`, `ENFILE`, `ENOMEM`.
pub const VCPU_CREATE: u32 = (IOCTL_TYPE << 8) | 0x20;

/// vCPU: runs the guest until an exit; takes no structure (the argument must be 0).
///
/// Registers come from the vCPU's [`RunPage`] and go back there with the [`Exit`]. Returns 0 when
/// the page holds an exit. Errors: `EINTR` when a signal is pending, [`RunPage::immediate_exit`] is
/// set, or [`KICK`] was called (the registers are up to date, the exit's reason is
/// [`ExitReason::Interrupted`]); `EINVAL` for registers that no guest can have (a `rip` or base
/// that is not canonical, a `cpl` other than 0 and 3, unknown flags), for an argument other than
/// 0, or for a calling thread with a non-null FS or GS selector; `EBUSY` if another thread is
/// running this vCPU, or somebody else left VMX half-enabled on this CPU, or VMXON would stop a trace
/// of Intel PT; `EIO` if the CPU refused the entry (the exit then says why if its reason is
/// [`ExitReason::EntryFailed`]); `ENODEV` if the CPU refused VMXON. With other errors the exit's reason
/// is [`ExitReason::None`], but that an argument other than 0, and a vCPU that somebody else is running,
/// leave the page alone. Memory that could not be had is an exit, not an error.
pub const RUN: u32 = (IOCTL_TYPE << 8) | 0x30;
/// vCPU: ends the current or the next [`RUN`] with `EINTR`, from any thread; the argument must be 0. A system
/// call that RUN serves and that waits ([`Serve`]) is not ended by it, but by a signal.
pub const KICK: u32 = (IOCTL_TYPE << 8) | 0x31;

/// vCPU: puts a vCPU that was made from a source back to the state that it had then; the argument must be
/// 0.
///
/// General registers, extended state, and all else that a guest can change; also the flags and the exit of
/// the run page. Errors: `EINVAL` for a vCPU that was not made from a source; `EBUSY` if it is running;
/// `EROFS` if its micro-VM is a template.
pub const VCPU_RESET: u32 = (IOCTL_TYPE << 8) | 0x32;

bitflags! {
    /// What the CPU and the module offer; see [`Info::features`].
    pub struct Features: u64 {
        /// Pages can be executable and not readable.
        const EXEC_ONLY = 1 << 0;
        /// The CPU can map 2 MiB pages by EPT.
        const EPT_2M = 1 << 1;
        /// The CPU can map 1 GiB pages by EPT.
        const EPT_1G = 1 << 2;
        /// The CPU keeps accessed and dirty bits in EPT.
        const EPT_AD = 1 << 3;
        /// The CPU can switch views with VMFUNC.
        const VMFUNC = 1 << 4;
        /// Guest translations are tagged (VPID), so that an entry does not flush the TLB.
        const VPID = 1 << 5;
        /// The CPU has the VMX-preemption timer.
        const PREEMPTION_TIMER = 1 << 6;
        /// VMX is on for somebody else (KVM) on this CPU now: windows are borrowed.
        const BORROWED = 1 << 7;
        /// The CPU has 1 GiB pages in its own page tables.
        const GUEST_1G = 1 << 8;
    }

    /// What is done against speculative execution at each window; see [`Info::mitigations`].
    pub struct Mitigations: u64 {
        /// The L1 data cache is flushed before an entry (L1TF).
        const L1D_FLUSH = 1 << 0;
        /// CPU buffers are cleared before an entry (MDS, TAA, MMIO stale data).
        const VERW = 1 << 1;
        /// The return stack buffer is filled after an exit.
        const RSB = 1 << 2;
        /// The branch history is cleared after an exit (BHI).
        const BHB = 1 << 3;
        /// Branch prediction is flushed when a CPU changes from one micro-VM to another.
        const IBPB = 1 << 4;
        /// IBRS is set again after an exit.
        const IBRS = 1 << 5;
    }

    /// What a guest may do with a region.
    pub struct Prot: u32 {
        /// Read.
        const READ = 1 << 0;
        /// Write; needs `READ`, as on the CPU.
        const WRITE = 1 << 1;
        /// Execute, in ring 3 and in ring 0. Without `READ` it needs [`Features::EXEC_ONLY`].
        const EXEC = 1 << 2;
    }

    /// Flags of a [`VmCreate`].
    pub struct VmFlags: u32 {
        /// Nothing is ever writable and executable, at once or one after the other: a range that was
        /// writable never becomes executable, nor the other way round, until it is unmapped, and its
        /// content with it. A [`MapFlags::SHARED`] region of what can be written counts as written. Clones have this as well.
        /// A file that is mapped executable is as those leave it who may write it, the guest by a
        /// [`MapFlags::SHARED`] or a [`MapFlags::USER`] region among them: let nobody, or [`SEAL`] the range.
        const W_XOR_X = 1 << 0;
        /// RDTSC and RDTSCP do not read the time-stamp counter, in any ring, but are
        /// [`ExitReason::Privileged`] with the SDM's exit reasons 16 and 51. Clones have this as well.
        const NO_TSC = 1 << 1;
    }

    /// Flags of a [`CloneVm`].
    pub struct CloneFlags: u32 {
        /// The clone counts against the limit of this micro-VM, together with it and with all that do likewise; so
        /// [`CloneVm::memory_limit`] must be 0. [`LIMITS`] of any of them sets the limit of all.
        const JOINT = 1 << 0;
        /// The clone has no regions and no memory, as a micro-VM that [`VM_CREATE`] makes; of the [`VmFlags`], it has
        /// those of this micro-VM.
        const EMPTY = 1 << 1;
    }

    /// Flags of a [`ViewCreate`].
    pub struct ViewFlags: u32 {
        /// The guest may switch to the view by itself.
        const GUEST = 1 << 0;
    }

    /// Flags of a [`Map`].
    pub struct MapFlags: u32 {
        /// The region shows the file `fd` from `offset`: the page cache's own pages, copied when
        /// written. Without this flag the region is anonymous, zeroed memory.
        const FILE = 1 << 0;
        /// With `FILE`: the region shows the file's own pages, and writes go to them, seen by all who read
        /// or map the file, in this micro-VM and its clones as anywhere. Whether a region may ever be
        /// written to is settled here: by a descriptor that is open for writing, of a file that lives in memory and
        /// that is not sealed against it (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`); while there is such a
        /// region, `F_SEAL_WRITE` cannot be added. A hole that is touched is allocated. A page that the
        /// file lost, by a truncation, stays with who touched it until it is unmapped or discarded.
        /// Clones, templates and resets neither copy nor put back what is in the file. Pages that were
        /// touched are not swapped out, and count as pages of files.
        const SHARED = 1 << 1;
        /// Without `FILE`: the region shows the data of the kernel's vDSO, from which it takes the time, so that
        /// a guest can run the vDSO's code without an exit. `offset` is the address of the calling process's own
        /// `[vvar]` mapping, of which the region shows the first `len` bytes. It is never writable nor
        /// executable, and cannot be sealed, as the kernel writes to it. `[vvar_vclock]` is not in it, with the clocks
        /// of hypervisors. The time is that of the initial time namespace, whoever gets the micro-VM.
        const VVAR = 1 << 2;
        /// Without the others: the region shows memory of the process that the micro-VM is bound to
        /// ([`BIND`]), page by page, as long as the process has it, with the permission of both. An access makes a page
        /// there as one of the process's own does, so that it may be one of any file that can be mapped; where that would
        /// raise a signal in the process, it is an exit for [`MemoryCause::FileEnd`]. Such a region cannot be executed,
        /// is in view 0 only, cannot be sealed, and is not copied by clones, which show what the process has that they are
        /// bound to. Mappings of the VM's file do not show it; `pread(2)` and `pwrite(2)` of the file do, for the process.
        const USER = 1 << 3;
    }

    /// Flags of a [`VcpuCreate`].
    pub struct VcpuFlags: u32 {
        /// The vCPU begins with the state of the vCPU `source`: the registers in its run page, extended
        /// state, and what it was made with.
        const SOURCE = 1 << 0;
    }
}

/// What the module and the CPU offer; all fields but `size` and `flags` are *out*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Info {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// [`ABI_VERSION`] of the module.
    pub abi_version: u32,
    /// How many bits a guest-physical address has: 39, or fewer where the CPU has fewer.
    pub gpa_bits: u32,
    /// [`Features`].
    pub features: u64,
    /// [`Mitigations`] that are applied.
    pub mitigations: u64,
    /// How many vCPUs a micro-VM can have.
    pub max_vcpus: u32,
    /// How many regions a micro-VM can have.
    pub max_regions: u32,
    /// How many micro-VMs exist now.
    pub vms: u64,
    /// Bytes of guest memory and tables that the module holds now, over all micro-VMs.
    pub memory: u64,
    /// XCR0 of the guests: the extended state that they may use.
    pub xcr0: u64,
    /// Ticks of the time-stamp counter in a millisecond.
    pub tsc_khz: u64,
}

/// How to make a micro-VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmCreate {
    /// The size of this structure.
    pub size: u32,
    /// [`VmFlags`].
    pub flags: u32,
    /// Bytes of anonymous memory, copies and tables that the micro-VM may have; 0 for no limit but
    /// the memory cgroup's.
    pub memory_limit: u64,
}

/// A region to map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Map {
    /// The size of this structure.
    pub size: u32,
    /// [`MapFlags`].
    pub flags: u32,
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
    /// [`Prot`]; 0 reserves the range: mapped, and not accessible.
    pub prot: u32,
    /// The file, with [`MapFlags::FILE`]; else 0.
    pub fd: i32,
    /// The offset in the file, a multiple of the page size, with [`MapFlags::FILE`]; an address with
    /// [`MapFlags::VVAR`]; else 0.
    pub offset: u64,
}

/// A range to unmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Unmap {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
}

/// A range to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Remap {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
    /// The first address of the new range.
    pub new_gpa: u64,
    /// Its length in bytes, at least `len`.
    pub new_len: u64,
}

/// A range and its new permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Protect {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
    /// [`Prot`]; 0 takes all.
    pub prot: u32,
    /// Zero.
    pub reserved: u32,
}

/// The limits of a micro-VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// As [`VmCreate::memory_limit`].
    pub memory_limit: u64,
}

/// Where a process has what a micro-VM shows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bind {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// What guest-physical address 0 would be in the process: at most 2^57.
    pub address: u64,
}

/// What a vCPU has for life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VcpuCreate {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The guest-physical address of its 4-level page table; no PCID.
    pub cr3: u64,
    /// Where `SYSCALL` enters ring 0 (IA32_LSTAR), guest-virtual. With [`VcpuFlags::SOURCE`], 0 stands for where
    /// the source does.
    pub syscall_entry: u64,
    /// RFLAGS bits that `SYSCALL` clears (IA32_FMASK).
    pub syscall_mask: u64,
    /// The file descriptor of a vCPU, with [`VcpuFlags::SOURCE`], and `cr3` and the mask are 0; else 0.
    pub source: i32,
    /// Zero.
    pub reserved: u32,
}

/// How to make a clone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CloneVm {
    /// The size of this structure.
    pub size: u32,
    /// [`CloneFlags`].
    pub flags: u32,
    /// As [`VmCreate::memory_limit`], for what the clone has besides what it shares.
    pub memory_limit: u64,
}

/// What a reset did; all fields but `size` and `flags` are *out*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reset {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// How many pages of its own the clone gave back.
    pub pages: u64,
}

/// Where to list ranges that differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Diff {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// In: the address to begin at. Out: where to go on, or 0 if all were listed.
    pub start: u64,
    /// The address of an array of [`DiffRange`], which the module fills.
    pub ranges: u64,
    /// In: how many elements it has; at most 256 are filled by one call. Out: how many were filled.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
}

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DiffRange {
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
}

static_assertions::const_assert_eq!(core::mem::size_of::<DiffRange>(), 16);

/// A view to add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ViewCreate {
    /// The size of this structure.
    pub size: u32,
    /// [`ViewFlags`].
    pub flags: u32,
    /// [`Prot`]: the most that it allows, everywhere.
    pub prot: u32,
    /// Zero.
    pub reserved: u32,
}

/// A range of a view, and the most that it allows there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ViewProtect {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The first address.
    pub gpa: u64,
    /// The length in bytes.
    pub len: u64,
    /// The view.
    pub view: u32,
    /// [`Prot`]; 0 hides the range.
    pub prot: u32,
}

/// A view to take away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ViewDestroy {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The view.
    pub view: u32,
    /// Zero.
    pub reserved: u32,
}

macro_rules! sized {
    ($($type:ty = $len:literal $(, from $first:literal)?);* $(;)?) => {$(
        static_assertions::const_assert_eq!(core::mem::size_of::<$type>(), $len);
        static_assertions::const_assert_eq!(memoffset::offset_of!($type, size), 0);
        static_assertions::const_assert_eq!(memoffset::offset_of!($type, flags), 4);
        impl $type {
            /// The size in bytes of the first version of this structure.
            pub const MIN_SIZE: u32 = sized!(@first $len $(, $first)?);

            /// One with `size` filled in and all else zero.
            pub fn new() -> Self {
                Self { size: core::mem::size_of::<Self>() as u32, ..Default::default() }
            }
        }
    )*};
    (@first $len:literal) => { $len };
    (@first $len:literal, $first:literal) => { $first };
}

sized! {
    Info = 72;
    VmCreate = 16;
    Map = 40;
    Unmap = 24;
    Remap = 40;
    Protect = 32;
    Limits = 16;
    Bind = 16;
    VcpuCreate = 40, from 32;
    Stats = 272, from 256;
    CloneVm = 16;
    Reset = 16;
    Diff = 32;
    ViewCreate = 16;
    ViewProtect = 32;
    ViewDestroy = 16;
    List = 32;
}
