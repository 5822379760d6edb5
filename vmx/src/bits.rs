// SPDX-License-Identifier: GPL-2.0

//! Bits that the `x86` crate has no name for.
//!
//! The control words have grown since its tables were written. They are plain words here, because a
//! word of capabilities may hold bits that no table knows, and these must survive.

/// Bits of the primary processor-based controls.
pub mod primary {
    /// Activate the tertiary controls.
    pub const TERTIARY_CONTROLS: u32 = 1 << 17;
}

/// Bits of the secondary processor-based controls.
pub mod secondary {
    /// PASID translation for ENQCMD and ENQCMDS.
    pub const PASID_TRANSLATION: u32 = 1 << 21;
    /// PCONFIG runs, or exits by its bitmap; without it PCONFIG is an invalid opcode.
    pub const ENABLE_PCONFIG: u32 = 1 << 27;
    /// A bus lock causes an exit.
    pub const BUS_LOCK_DETECTION: u32 = 1 << 30;
    /// A guest that lets no event through for too long causes an exit.
    pub const INSTRUCTION_TIMEOUT: u32 = 1 << 31;
}

/// Bits of the VM-exit controls.
pub mod exit {
    /// Clear `UINV`, the vector of user interrupts.
    pub const CLEAR_UINV: u32 = 1 << 27;
    /// Clear `IA32_LBR_CTL`.
    pub const CLEAR_LBR_CTL: u32 = 1 << 26;
    /// Load the host's CET state.
    pub const LOAD_CET_STATE: u32 = 1 << 28;
    /// Load `IA32_PKRS`.
    pub const LOAD_PKRS: u32 = 1 << 29;
    /// Save `IA32_PERF_GLOBAL_CTRL`.
    pub const SAVE_PERF_GLOBAL_CTRL: u32 = 1 << 30;
    /// Activate the secondary VM-exit controls.
    pub const SECONDARY_CONTROLS: u32 = 1 << 31;
}

/// Bits of the VM-entry controls.
pub mod entry {
    /// Load `UINV`, the vector of user interrupts.
    pub const LOAD_UINV: u32 = 1 << 19;
    /// Load the guest's CET state.
    pub const LOAD_CET_STATE: u32 = 1 << 20;
    /// Load `IA32_LBR_CTL`.
    pub const LOAD_LBR_CTL: u32 = 1 << 21;
    /// Load `IA32_PKRS`.
    pub const LOAD_PKRS: u32 = 1 << 22;
    /// Load the state of FRED.
    pub const LOAD_FRED: u32 = 1 << 23;
}

/// Bits of `IA32_VMX_BASIC`.
pub mod basic {
    /// The revision identifier of the VMCS.
    pub const REVISION: u64 = 0x7fff_ffff;
    /// Where the size of a VMCS begins.
    pub const SIZE_SHIFT: u32 = 32;
    /// The size of a VMCS, after the shift.
    pub const SIZE_MASK: u64 = 0x1fff;
    /// Physical addresses given to VMX are limited to 32 bits.
    pub const ADDRESSES_32: u64 = 1 << 48;
    /// Where the memory type of a VMCS begins.
    pub const MEMORY_TYPE_SHIFT: u32 = 50;
    /// The memory type of a VMCS, after the shift.
    pub const MEMORY_TYPE_MASK: u64 = 0xf;
    /// The memory type "write-back".
    pub const WRITE_BACK: u64 = 6;
    /// The `IA32_VMX_TRUE_*` MSRs exist.
    pub const TRUE_CONTROLS: u64 = 1 << 55;
}

/// Bits of `IA32_VMX_EPT_VPID_CAP`.
pub mod ept_vpid {
    /// A mapping may be executable and not readable.
    pub const EXEC_ONLY: u64 = 1 << 0;
    /// EPT tables of four levels.
    pub const WALK_4: u64 = 1 << 6;
    /// EPT tables may be write-back memory.
    pub const WRITE_BACK: u64 = 1 << 14;
    /// 2 MiB leaves.
    pub const PAGES_2M: u64 = 1 << 16;
    /// 1 GiB leaves.
    pub const PAGES_1G: u64 = 1 << 17;
    /// INVEPT exists.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty bits.
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    /// INVEPT of one context.
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    /// INVEPT of all contexts.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID exists.
    pub const INVVPID: u64 = 1 << 32;
    /// INVVPID of one context.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// INVVPID of all contexts.
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// Bits of `IA32_VMX_MISC`.
pub mod misc {
    /// The preemption timer counts down when this bit of the TSC changes.
    pub const PREEMPTION_TIMER_SHIFT: u64 = 0x1f;
    /// Intel PT may trace in VMX operation.
    pub const PROCESSOR_TRACE: u64 = 1 << 14;
}

/// Bits of `IA32_VMX_VMFUNC`.
pub mod vmfunc {
    /// Function 0, switching of the EPT pointer.
    pub const EPTP_SWITCHING: u64 = 1 << 0;
}

/// Bits of `IA32_FEATURE_CONTROL`.
pub mod feature_control {
    /// The MSR can no longer be written.
    pub const LOCKED: u64 = 1 << 0;
    /// VMXON works outside SMX operation.
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
}

/// Bits of `IA32_EFER`.
pub mod efer {
    /// SYSCALL and SYSRET work.
    pub const SCE: u64 = 1 << 0;
    /// 64-bit mode is enabled.
    pub const LME: u64 = 1 << 8;
    /// 64-bit mode is active.
    pub const LMA: u64 = 1 << 10;
    /// Page-table entries may forbid execution.
    pub const NXE: u64 = 1 << 11;
}

/// Bits of CR4.
pub mod cr4 {
    /// Page tables of five levels.
    pub const LA57: u64 = 1 << 12;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
    /// Protection keys for supervisor pages.
    pub const PKS: u64 = 1 << 24;
    /// User interrupts.
    pub const UINTR: u64 = 1 << 25;
    /// Flexible return and event delivery.
    pub const FRED: u64 = 1 << 32;
}

/// MSRs that the `x86` crate does not name.
pub mod msr {
    /// The tertiary processor-based controls that may be 1.
    pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
}
