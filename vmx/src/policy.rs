// SPDX-License-Identifier: GPL-2.0

//! Which controls a micro-VM runs with: a table for each word.
//!
//! A bit that no table names is left as the CPU demands it.

use crate::bits;
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

/// What a micro-VM wants of a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Isolation rests on it.
    On,
    /// Better with it, and no worse than silicon without it.
    OnIfAllowed,
    /// Isolation rests on its being off.
    Off,
    /// Off, but harmless where a CPU insists, or decided by what CPUID says.
    OffIfAllowed,
}

/// One control.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    /// Its bit in the word.
    pub(crate) bit: u32,
    /// What a micro-VM wants of it.
    pub(crate) want: Want,
    /// What the manual calls it.
    pub(crate) name: &'static str,
}

/// Makes a line of a table.
const fn control(bit: u32, want: Want, name: &'static str) -> Control {
    Control { bit, want, name }
}

use Want::{Off, OffIfAllowed, On, OnIfAllowed};

/// The control that says that secondary controls exist.
pub(crate) const SECONDARY_CONTROLS: u32 = PrimaryControls::SECONDARY_CONTROLS.bits();

/// The VMX-preemption timer's control.
pub(crate) const PREEMPTION_TIMER: u32 = PinbasedControls::VMX_PREEMPTION_TIMER.bits();

/// The pin-based controls.
///
/// Interrupts and NMIs belong to the host: they end the stay in the guest. The timer bounds the stay
/// where it exists; without it the host's own tick does.
pub(crate) const PIN: &[Control] = &[
    control(
        PinbasedControls::EXTERNAL_INTERRUPT_EXITING.bits(),
        On,
        "external-interrupt exiting",
    ),
    control(PinbasedControls::NMI_EXITING.bits(), On, "NMI exiting"),
    control(PinbasedControls::VIRTUAL_NMIS.bits(), Off, "virtual NMIs"),
    control(
        PREEMPTION_TIMER,
        OnIfAllowed,
        "activate VMX-preemption timer",
    ),
    control(
        PinbasedControls::POSTED_INTERRUPTS.bits(),
        Off,
        "process posted interrupts",
    ),
];

/// The primary processor-based controls.
///
/// All that ring 0 of the guest could do to the machine exits. There is no MSR bitmap, so that every
/// RDMSR and WRMSR exits without a page that says so.
pub(crate) const PRIMARY: &[Control] = &[
    control(
        PrimaryControls::INTERRUPT_WINDOW_EXITING.bits(),
        Off,
        "interrupt-window exiting",
    ),
    control(
        PrimaryControls::USE_TSC_OFFSETTING.bits(),
        Off,
        "use TSC offsetting",
    ),
    control(PrimaryControls::HLT_EXITING.bits(), On, "HLT exiting"),
    control(PrimaryControls::INVLPG_EXITING.bits(), On, "INVLPG exiting"),
    control(PrimaryControls::MWAIT_EXITING.bits(), On, "MWAIT exiting"),
    control(PrimaryControls::RDPMC_EXITING.bits(), On, "RDPMC exiting"),
    control(PrimaryControls::RDTSC_EXITING.bits(), Off, "RDTSC exiting"),
    control(
        PrimaryControls::CR3_LOAD_EXITING.bits(),
        On,
        "CR3-load exiting",
    ),
    control(
        PrimaryControls::CR3_STORE_EXITING.bits(),
        On,
        "CR3-store exiting",
    ),
    control(
        bits::primary::TERTIARY_CONTROLS,
        Off,
        "activate tertiary controls",
    ),
    control(
        PrimaryControls::CR8_LOAD_EXITING.bits(),
        On,
        "CR8-load exiting",
    ),
    control(
        PrimaryControls::CR8_STORE_EXITING.bits(),
        On,
        "CR8-store exiting",
    ),
    control(
        PrimaryControls::USE_TPR_SHADOW.bits(),
        Off,
        "use TPR shadow",
    ),
    control(
        PrimaryControls::NMI_WINDOW_EXITING.bits(),
        Off,
        "NMI-window exiting",
    ),
    control(PrimaryControls::MOV_DR_EXITING.bits(), On, "MOV-DR exiting"),
    control(
        PrimaryControls::UNCOND_IO_EXITING.bits(),
        On,
        "unconditional I/O exiting",
    ),
    control(
        PrimaryControls::USE_IO_BITMAPS.bits(),
        Off,
        "use I/O bitmaps",
    ),
    control(
        PrimaryControls::MONITOR_TRAP_FLAG.bits(),
        Off,
        "monitor trap flag",
    ),
    control(
        PrimaryControls::USE_MSR_BITMAPS.bits(),
        Off,
        "use MSR bitmaps",
    ),
    control(
        PrimaryControls::MONITOR_EXITING.bits(),
        On,
        "MONITOR exiting",
    ),
    control(PrimaryControls::PAUSE_EXITING.bits(), Off, "PAUSE exiting"),
    control(SECONDARY_CONTROLS, On, "activate secondary controls"),
];

/// The secondary processor-based controls.
///
/// Instructions that are "enabled" by a control are invalid opcodes without it, which is what a task
/// should see of INVPCID, XSAVES and PCONFIG.
pub(crate) const SECONDARY: &[Control] = &[
    control(
        SecondaryControls::VIRTUALIZE_APIC.bits(),
        Off,
        "virtualize APIC accesses",
    ),
    control(SecondaryControls::ENABLE_EPT.bits(), On, "enable EPT"),
    control(
        SecondaryControls::DTABLE_EXITING.bits(),
        OnIfAllowed,
        "descriptor-table exiting",
    ),
    control(
        SecondaryControls::ENABLE_RDTSCP.bits(),
        OffIfAllowed,
        "enable RDTSCP",
    ),
    control(
        SecondaryControls::VIRTUALIZE_X2APIC.bits(),
        Off,
        "virtualize x2APIC mode",
    ),
    control(
        SecondaryControls::ENABLE_VPID.bits(),
        OffIfAllowed,
        "enable VPID",
    ),
    control(
        SecondaryControls::WBINVD_EXITING.bits(),
        OnIfAllowed,
        "WBINVD exiting",
    ),
    control(
        SecondaryControls::UNRESTRICTED_GUEST.bits(),
        Off,
        "unrestricted guest",
    ),
    control(
        SecondaryControls::VIRTUALIZE_APIC_REGISTER.bits(),
        Off,
        "APIC-register virtualization",
    ),
    control(
        SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY.bits(),
        Off,
        "virtual-interrupt delivery",
    ),
    control(
        SecondaryControls::PAUSE_LOOP_EXITING.bits(),
        Off,
        "PAUSE-loop exiting",
    ),
    control(
        SecondaryControls::RDRAND_EXITING.bits(),
        Off,
        "RDRAND exiting",
    ),
    control(
        SecondaryControls::ENABLE_INVPCID.bits(),
        Off,
        "enable INVPCID",
    ),
    control(
        SecondaryControls::ENABLE_VM_FUNCTIONS.bits(),
        Off,
        "enable VM functions",
    ),
    control(
        SecondaryControls::VMCS_SHADOWING.bits(),
        Off,
        "VMCS shadowing",
    ),
    control(
        SecondaryControls::ENCLS_EXITING.bits(),
        OnIfAllowed,
        "enable ENCLS exiting",
    ),
    control(
        SecondaryControls::RDSEED_EXITING.bits(),
        Off,
        "RDSEED exiting",
    ),
    control(SecondaryControls::ENABLE_PML.bits(), Off, "enable PML"),
    control(
        SecondaryControls::EPT_VIOLATION_VE.bits(),
        Off,
        "EPT-violation #VE",
    ),
    control(
        SecondaryControls::CONCEAL_VMX_FROM_PT.bits(),
        OnIfAllowed,
        "conceal VMX from PT",
    ),
    control(
        SecondaryControls::ENABLE_XSAVES_XRSTORS.bits(),
        Off,
        "enable XSAVES/XRSTORS",
    ),
    control(bits::secondary::PASID_TRANSLATION, Off, "PASID translation"),
    control(
        SecondaryControls::MODE_BASED_EPT.bits(),
        Off,
        "mode-based execute control for EPT",
    ),
    control(
        SecondaryControls::SUB_PAGE_EPT.bits(),
        Off,
        "sub-page write permissions for EPT",
    ),
    control(
        SecondaryControls::INTEL_PT_GUEST_PHYSICAL.bits(),
        Off,
        "Intel PT uses guest physical addresses",
    ),
    control(
        SecondaryControls::USE_TSC_SCALING.bits(),
        Off,
        "use TSC scaling",
    ),
    control(
        SecondaryControls::ENABLE_USER_WAIT_PAUSE.bits(),
        Off,
        "enable user wait and pause",
    ),
    control(bits::secondary::ENABLE_PCONFIG, Off, "enable PCONFIG"),
    control(
        SecondaryControls::ENCLV_EXITING.bits(),
        OnIfAllowed,
        "enable ENCLV exiting",
    ),
    control(
        bits::secondary::BUS_LOCK_DETECTION,
        Off,
        "VMM bus-lock detection",
    ),
    control(
        bits::secondary::INSTRUCTION_TIMEOUT,
        Off,
        "instruction timeout",
    ),
];

/// `IA32_PERF_GLOBAL_CTRL` on the way out.
pub(crate) const EXIT_PERF: u32 = ExitControls::LOAD_IA32_PERF_GLOBAL_CTRL.bits();
/// `IA32_PERF_GLOBAL_CTRL` on the way in.
pub(crate) const ENTRY_PERF: u32 = EntryControls::LOAD_IA32_PERF_GLOBAL_CTRL.bits();
/// Saving of what is left of the VMX-preemption timer.
pub(crate) const SAVE_TIMER: u32 = ExitControls::SAVE_VMX_PREEMPTION_TIMER.bits();

/// The VM-exit controls.
///
/// The interrupt that caused an exit is not acknowledged: it stays pending and the host takes it when
/// the window closes. EFER and PAT are the host's in the guest, too: it cannot write them, so there is
/// nothing to switch, and an entry that loads them costs more.
pub(crate) const EXIT: &[Control] = &[
    control(
        ExitControls::SAVE_DEBUG_CONTROLS.bits(),
        OffIfAllowed,
        "save debug controls",
    ),
    control(
        ExitControls::HOST_ADDRESS_SPACE_SIZE.bits(),
        On,
        "host address-space size",
    ),
    control(
        EXIT_PERF,
        OffIfAllowed,
        "load IA32_PERF_GLOBAL_CTRL on exit",
    ),
    control(
        ExitControls::ACK_INTERRUPT_ON_EXIT.bits(),
        Off,
        "acknowledge interrupt on exit",
    ),
    control(
        ExitControls::SAVE_IA32_PAT.bits(),
        OffIfAllowed,
        "save IA32_PAT",
    ),
    control(
        ExitControls::LOAD_IA32_PAT.bits(),
        OffIfAllowed,
        "load IA32_PAT on exit",
    ),
    control(
        ExitControls::SAVE_IA32_EFER.bits(),
        OffIfAllowed,
        "save IA32_EFER",
    ),
    control(
        ExitControls::LOAD_IA32_EFER.bits(),
        OffIfAllowed,
        "load IA32_EFER on exit",
    ),
    control(SAVE_TIMER, OffIfAllowed, "save VMX-preemption timer value"),
    control(
        ExitControls::CLEAR_IA32_BNDCFGS.bits(),
        Off,
        "clear IA32_BNDCFGS",
    ),
    control(
        ExitControls::CONCEAL_VMX_FROM_PT.bits(),
        OnIfAllowed,
        "conceal VM exits from PT",
    ),
    control(
        ExitControls::CLEAR_IA32_RTIT_CTL.bits(),
        Off,
        "clear IA32_RTIT_CTL",
    ),
    control(bits::exit::CLEAR_LBR_CTL, Off, "clear IA32_LBR_CTL"),
    control(bits::exit::CLEAR_UINV, Off, "clear UINV"),
    control(bits::exit::LOAD_CET_STATE, Off, "load CET state on exit"),
    control(bits::exit::LOAD_PKRS, Off, "load PKRS on exit"),
    control(
        bits::exit::SAVE_PERF_GLOBAL_CTRL,
        Off,
        "save IA32_PERF_GLOBAL_CTRL",
    ),
    control(
        bits::exit::SECONDARY_CONTROLS,
        Off,
        "activate secondary exit controls",
    ),
];

/// The VM-entry controls.
///
/// DR7 and DEBUGCTL are loaded, or the guest would run into the host's breakpoints and branch tracing.
/// The guest's CR4.CET is clear, so CET's state lies idle and stays the host's.
pub(crate) const ENTRY: &[Control] = &[
    control(
        EntryControls::LOAD_DEBUG_CONTROLS.bits(),
        On,
        "load debug controls",
    ),
    control(
        EntryControls::IA32E_MODE_GUEST.bits(),
        On,
        "IA-32e mode guest",
    ),
    control(EntryControls::ENTRY_TO_SMM.bits(), Off, "entry to SMM"),
    control(
        EntryControls::DEACTIVATE_DUAL_MONITOR.bits(),
        Off,
        "deactivate dual-monitor treatment",
    ),
    control(
        ENTRY_PERF,
        OffIfAllowed,
        "load IA32_PERF_GLOBAL_CTRL on entry",
    ),
    control(
        EntryControls::LOAD_IA32_PAT.bits(),
        OffIfAllowed,
        "load IA32_PAT on entry",
    ),
    control(
        EntryControls::LOAD_IA32_EFER.bits(),
        OffIfAllowed,
        "load IA32_EFER on entry",
    ),
    control(
        EntryControls::LOAD_IA32_BNDCFGS.bits(),
        Off,
        "load IA32_BNDCFGS",
    ),
    control(
        EntryControls::CONCEAL_VMX_FROM_PT.bits(),
        OnIfAllowed,
        "conceal VM entries from PT",
    ),
    control(
        EntryControls::LOAD_IA32_RTIT_CTL.bits(),
        Off,
        "load IA32_RTIT_CTL",
    ),
    control(bits::entry::LOAD_UINV, Off, "load UINV"),
    control(bits::entry::LOAD_CET_STATE, Off, "load CET state on entry"),
    control(bits::entry::LOAD_LBR_CTL, Off, "load IA32_LBR_CTL"),
    control(bits::entry::LOAD_PKRS, Off, "load PKRS on entry"),
    control(bits::entry::LOAD_FRED, Off, "load FRED state"),
];
