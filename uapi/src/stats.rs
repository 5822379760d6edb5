// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! What a micro-VM holds and what happened to it.

/// A counted event; its number is its index in [`Stats::events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// VM entries.
    Entry = 0,
    /// Windows opened where VMX was off: each a VMXON and a VMXOFF.
    WindowOwned = 1,
    /// Windows opened where VMX was on for somebody else: each two VMPTRLD.
    WindowBorrowed = 2,
    /// Exits handled inside the window.
    ExitKernel = 3,
    /// Exits that ended `RUN`.
    ExitUser = 4,
    /// Exits for an interrupt of the host's.
    ExitInterrupt = 5,
    /// Exits for an NMI of the host's.
    ExitNmi = 6,
    /// Exits of the VMX-preemption timer.
    ExitTimer = 7,
    /// CPUID exits.
    ExitCpuid = 8,
    /// EPT violations.
    ExitEpt = 9,
    /// Hypercalls.
    ExitHypercall = 10,
    /// Exceptions.
    ExitException = 11,
    /// INVEPT executed.
    Invept = 12,
    /// Interrupts sent to other CPUs to take permission from a running vCPU.
    Kick = 13,
    /// Anonymous frames allocated and zeroed.
    FrameZeroed = 14,
    /// Frames copied because they were written.
    FrameCopied = 15,
    /// File pages mapped.
    FileMapped = 16,
    /// Faults through a mapping of the VM's file.
    HostFault = 17,
    /// Branch predictor barriers (IBPB).
    Ibpb = 18,
    /// EPT tables copied because a clone has them as well.
    TableCopied = 19,
    /// Frames taken over because no clone had them any more.
    FrameReused = 20,
    /// File pages given back because the kernel had little memory.
    FileGivenBack = 21,
    /// System calls that RUN served by itself, see [`crate::Serve`].
    Served = 22,
}

/// How many [`Event`]s there are.
pub const EVENTS: usize = 23;

impl Event {
    /// All events, in the order of their numbers, with the names that tools print.
    pub const NAMES: [&'static str; EVENTS] = [
        "entries",
        "windows_owned",
        "windows_borrowed",
        "exits_kernel",
        "exits_user",
        "exits_interrupt",
        "exits_nmi",
        "exits_timer",
        "exits_cpuid",
        "exits_ept",
        "exits_hypercall",
        "exits_exception",
        "invept",
        "kicks",
        "frames_zeroed",
        "frames_copied",
        "file_pages_mapped",
        "host_faults",
        "ibpb",
        "tables_copied",
        "frames_reused",
        "file_pages_given_back",
        "calls_served",
    ];
}

/// What a micro-VM holds and what happened to it; all fields but `size` and `flags` are *out*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stats {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// Bytes of frames that only this micro-VM has: anonymous ones and copies.
    pub private: u64,
    /// Bytes of page-cache pages that it has mapped now; they are the file's, not the micro-VM's.
    pub file: u64,
    /// Bytes of EPT tables that only this micro-VM has.
    pub tables: u64,
    /// The memory limit in bytes; 0 for none.
    pub memory_limit: u64,
    /// Regions.
    pub regions: u32,
    /// vCPUs whose file is open.
    pub vcpus: u32,
    /// How often each [`Event`] happened.
    pub events: [u64; 26],
    /// Bytes of frames and tables that it has in common with clones, or with what it is a clone of.
    pub shared: u64,
    /// Bytes that count against the limit: frames and tables that were allocated for this micro-VM and
    /// that anybody still has. The sum over all micro-VMs, those among them that are closed and whose pages
    /// clones still have, is what the module holds.
    pub charged: u64,
}
