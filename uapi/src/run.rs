// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The page that a vCPU shares with user space: registers in, registers and the exit out.

use bitflags::bitflags;

/// The size of a vCPU file's mapping in bytes; it is mapped at offset 0, shared.
pub const RUN_PAGE_SIZE: usize = 4096;

/// The length in bytes of a `VMCALL`, to step over it.
pub const HYPERCALL_LEN: u64 = 3;

/// What `rax` holds at a `VMCALL` that switches to the view in `rcx`, from any ring.
///
/// It does what VMFUNC leaf 0 does, where the CPU lacks that: if the view is one that the guest may switch
/// to, `rax` is 0 behind it, and the guest goes on there; else it is [`ExitReason::View`].
pub const HYPERCALL_SWITCH_VIEW: u64 = 0x7675_0000_0000_0001;

/// The registers of a vCPU in 64-bit mode.
///
/// Everything else is fixed: flat segments by `cpl`, CR0, CR4 and EFER of the module's choosing, no
/// descriptor tables, no debug registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// Canonical.
    pub rip: u64,
    /// IF reads as one and is always set; IOPL, VM, RF, VIF, VIP and NT are cleared.
    pub rflags: u64,
    /// Canonical.
    pub fs_base: u64,
    /// Canonical.
    pub gs_base: u64,
    /// What `SWAPGS` exchanges with `gs_base` (IA32_KERNEL_GS_BASE). Canonical.
    pub kernel_gs_base: u64,
    /// The ring: 0 or 3.
    pub cpl: u64,
    /// The view; one that is not there is [`ExitReason::View`].
    pub view: u64,
}

bitflags! {
    /// Flags of a [`RunPage`], set by user space.
    pub struct RunFlags: u32 {
        /// Begin with the initial FPU and vector state instead of what the vCPU had.
        const RESET_FPU = 1 << 0;
    }
}

/// Why [`crate::RUN`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitReason {
    /// Nothing ran yet.
    None = 0,
    /// The guest executed `VMCALL`; `rip` is at the instruction. [`Exit::info`] is the ring.
    Hypercall = 1,
    /// The guest touched memory it may not: [`Exit::address`] is the guest-physical address,
    /// [`Exit::info`] the [`crate::Prot`] bit it needed, [`Exit::code`] a [`MemoryCause`], and
    /// [`Exit::linear`] the guest-virtual address if the CPU gave one. The view is in [`Regs::view`].
    Memory = 2,
    /// The guest raised an exception: [`Exit::info`] is the vector, [`Exit::code`] the error code,
    /// [`Exit::address`] the linear address of a page fault or DR6's new bits of a debug exception.
    Exception = 3,
    /// A signal, a kick or `immediate_exit`: `RUN` failed with `EINTR`.
    Interrupted = 4,
    /// The guest shut down by a triple fault.
    TripleFault = 5,
    /// The guest did what it may not, by an instruction that always exits: [`Exit::info`] is the
    /// SDM's basic exit reason, [`Exit::code`] the exit qualification.
    Privileged = 6,
    /// The CPU refused the entry: [`Exit::info`] is the SDM's exit reason (33, 34, 41), or 0 for
    /// VMfail with the VM-instruction error in [`Exit::code`].
    EntryFailed = 7,
    /// The guest executed `HLT` in ring 0; `rip` is at the instruction.
    Halt = 8,
    /// The guest cannot be in a view: [`Exit::info`] is its number, [`Exit::code`] a [`ViewCause`]. If it
    /// wanted to switch there, `rip` is at the instruction; else `RUN` was to enter it there.
    View = 9,
}

/// Why a guest cannot be in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ViewCause {
    /// It is not there, or not there any more.
    Gone = 1,
    /// It is not one that the guest may switch to by itself.
    Refused = 2,
    /// There is no memory for its tables.
    Limit = 3,
}

/// Why an access made [`ExitReason::Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryCause {
    /// No region is there.
    Unmapped = 1,
    /// The region does not allow it.
    Denied = 2,
    /// The region's file, or the process's memory, has no such page any more, or it could not be read.
    FileEnd = 3,
    /// The memory limit of the micro-VM is reached, or its memory cgroup's.
    Limit = 4,
    /// The region allows it, and the view does not.
    Hidden = 5,
    /// The region is one of [`crate::MapFlags::USER`], and the micro-VM is not bound to the process that called `RUN`:
    /// see [`crate::BIND`].
    Elsewhere = 6,
}

/// What an exit says; which fields hold what depends on the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// An [`ExitReason`].
    pub reason: u32,
    /// The length in bytes of the instruction, where the CPU gives it.
    pub insn_len: u32,
    /// See [`ExitReason`].
    pub info: u64,
    /// See [`ExitReason`].
    pub code: u64,
    /// See [`ExitReason`].
    pub address: u64,
    /// See [`ExitReason`]; all ones if the CPU gave none.
    pub linear: u64,
}

/// The code of an exit for a system call that [`crate::RUN`] began to serve, and a signal interrupted.
pub const EXIT_INTERRUPTED: u64 = 1;

/// Which system calls of the guest [`crate::RUN`] serves by itself, and on what.
///
/// They are `read`, `write`, `pread64` and `pwrite64`, made by VMCALL in ring 0 with the number and the
/// arguments where Linux has them. They act on the files that the caller of RUN has open under the same
/// numbers, and on its memory; the result is in `rax` when the guest goes on behind the VMCALL. What the
/// module cannot do is an exit as if it were not served; and so is one that a signal interrupts, before
/// anything was done, but that the exit's `code` is [`EXIT_INTERRUPTED`] then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Serve {
    /// The first descriptor that is not served; 0 for none.
    pub fds: u64,
    /// Where in the caller's memory the guest's begins, that is guest-physical 0.
    pub base: u64,
    /// How many bytes of it may be read and written.
    pub len: u64,
}

/// The page.
///
/// User space may change it at any time. [`crate::RUN`] reads each input once, at its start, but for the
/// general registers other than `rsp`: while it lasts, these may be anywhere between here and the guest. [`Serve`] is
/// read at each call that is served, whose registers are those here.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RunPage {
    /// In: a non-zero value ends the next `RUN` with `EINTR` before the guest runs. A signal handler
    /// sets it, so that a signal between the last check and `RUN` is not lost. Never cleared by the
    /// module.
    pub immediate_exit: u32,
    /// In: [`RunFlags`]. Cleared by the module when it was obeyed.
    pub flags: u32,
    /// In and out.
    pub regs: Regs,
    /// Out.
    pub exit: Exit,
    /// In.
    pub serve: Serve,
    /// Zero.
    pub reserved: [u64; 480],
}

static_assertions::const_assert_eq!(core::mem::size_of::<Regs>(), 184);
static_assertions::const_assert_eq!(core::mem::size_of::<Exit>(), 40);
static_assertions::const_assert_eq!(core::mem::size_of::<RunPage>(), RUN_PAGE_SIZE);
static_assertions::const_assert_eq!(memoffset::offset_of!(RunPage, regs), 8);
static_assertions::const_assert_eq!(memoffset::offset_of!(RunPage, exit), 192);
static_assertions::const_assert_eq!(memoffset::offset_of!(RunPage, serve), 232);
