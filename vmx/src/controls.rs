// SPDX-License-Identifier: GPL-2.0

//! The controls that a micro-VM runs with, out of what the CPU allows.

use crate::bits;
use crate::caps::{Allowed, CapabilityMsrs};
use crate::cpu::CpuFeatures;
use crate::policy::{self, Control, Want};
use crate::refusal::Refusal;
use crate::registers;
use x86::vmx::vmcs::control::{EntryControls, ExitControls, PrimaryControls, SecondaryControls};

/// The control words and register values of every micro-VM on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// The pin-based controls.
    pub pin: u32,
    /// The primary processor-based controls.
    pub primary: u32,
    /// The secondary processor-based controls.
    pub secondary: u32,
    /// The VM-exit controls.
    pub exit: u32,
    /// The VM-entry controls.
    pub entry: u32,
    /// The exceptions that exit: all, since the guest has no IDT to take one with.
    ///
    /// With the page-fault mask and match at zero, every page fault exits, too.
    pub exception_bitmap: u32,
    /// The bits of CR0 that the guest can neither change nor see: all.
    pub cr0_mask: u64,
    /// CR0 in the guest.
    pub cr0: u64,
    /// What the guest reads from CR0.
    pub cr0_shadow: u64,
    /// The bits of CR4 that the guest can neither change nor see: all.
    pub cr4_mask: u64,
    /// CR4 in the guest.
    pub cr4: u64,
    /// What the guest reads from CR4: the same, without a sign of VMX.
    pub cr4_shadow: u64,
    /// `IA32_EFER` in the guest: the host's. To be written into the VMCS where
    /// [`Features::efer_switch`] says that the CPU insists on loading it.
    pub efer: u64,
    /// The preemption timer counts once for every 2 to this power ticks of the TSC.
    pub preemption_timer_shift: u32,
    /// The identifier that begins every VMCS and the VMXON region.
    pub vmcs_revision: u32,
    /// The bytes that a VMCS and the VMXON region occupy; at most a page.
    pub vmcs_size: u32,
    /// What of VMX's options there is.
    pub features: Features,
}

impl Controls {
    /// The primary controls of a micro-VM that cannot read the time-stamp counter, where [`Features::rdtsc_exiting`] is
    /// set.
    pub fn primary_without_tsc(&self) -> u32 {
        self.primary | PrimaryControls::RDTSC_EXITING.bits()
    }

    /// The secondary controls of a micro-VM that has views, where [`Features::vmfunc`] is set.
    pub fn secondary_with_vmfunc(&self) -> u32 {
        self.secondary | SecondaryControls::ENABLE_VM_FUNCTIONS.bits()
    }
}

/// The optional features of VMX, as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A mapping in EPT may be executable and not readable.
    pub exec_only: bool,
    /// EPT has 2 MiB leaves.
    pub ept_2m: bool,
    /// EPT has 1 GiB leaves.
    pub ept_1g: bool,
    /// EPT has accessed and dirty bits. With them in use, page walks of the guest count as writes.
    pub ept_ad: bool,
    /// The CPU can switch the EPT pointer by VMFUNC, with [`Controls::secondary_with_vmfunc`].
    pub vmfunc: bool,
    /// Translations are tagged with a VPID, and INVVPID can drop those of one or all.
    pub vpid: bool,
    /// INVVPID can drop the translations of one VPID.
    pub invvpid_single: bool,
    /// INVVPID can drop the translations of all VPIDs.
    pub invvpid_all: bool,
    /// The VMX-preemption timer runs in the guest.
    pub preemption_timer: bool,
    /// An exit saves what is left of the VMX-preemption timer.
    pub save_preemption_timer: bool,
    /// INVEPT can drop the translations of one EPT pointer.
    pub invept_single: bool,
    /// INVEPT can drop the translations of all EPT pointers.
    pub invept_all: bool,
    /// Entry and exit switch `IA32_PERF_GLOBAL_CTRL`.
    pub perf_global_ctrl: bool,
    /// LGDT, LLDT, SGDT and their kin exit.
    pub descriptor_exiting: bool,
    /// WBINVD exits.
    pub wbinvd_exiting: bool,
    /// RDTSCP and RDPID work in the guest, and read the host's `IA32_TSC_AUX` unless it is switched.
    pub rdtscp: bool,
    /// RDTSC and RDTSCP can be made to exit, with [`Controls::primary_without_tsc`].
    pub rdtsc_exiting: bool,
    /// ENCLS exits by the ENCLS-exiting bitmap, which is to be all ones.
    pub encls_exiting: bool,
    /// ENCLV exits by the ENCLV-exiting bitmap, which is to be all ones.
    pub enclv_exiting: bool,
    /// The CPU insists on switching EFER: write it into the host's and the guest's state.
    pub efer_switch: bool,
    /// The CPU insists on switching PAT: write it into the host's and the guest's state.
    pub pat_switch: bool,
    /// Intel PT goes on through VMXON; without this VMXON stops an active trace.
    pub pt_in_vmx: bool,
}

/// Finds the controls that micro-VMs run with on a CPU, or why it cannot run any.
pub fn negotiate(msrs: &CapabilityMsrs, cpu: &CpuFeatures) -> Result<Controls, Refusal> {
    check_firmware(msrs)?;
    check_vmcs(msrs)?;
    if cpu.host_efer & registers::NEEDED_EFER != registers::NEEDED_EFER {
        return Err(Refusal::HostMode);
    }

    let pin = settle(msrs.pin, policy::PIN, 0, "IA32_VMX_PINBASED_CTLS")?;
    if Allowed::from_msr(msrs.primary).may & policy::SECONDARY_CONTROLS == 0 {
        return Err(Refusal::NoSecondaryControls);
    }
    let primary = settle(msrs.primary, policy::PRIMARY, 0, "IA32_VMX_PROCBASED_CTLS")?;
    let secondary = settle_secondary(msrs, cpu)?;
    let (exit, entry) = settle_transitions(msrs, cpu, pin & policy::PREEMPTION_TIMER != 0)?;

    let cr0 = registers::guest_cr0(msrs)?;
    let cr4 = registers::guest_cr4(msrs, cpu)?;
    Ok(Controls {
        pin,
        primary,
        secondary,
        exit,
        entry,
        exception_bitmap: u32::MAX,
        cr0_mask: u64::MAX,
        cr0,
        cr0_shadow: cr0,
        cr4_mask: u64::MAX,
        cr4,
        cr4_shadow: cr4 & !registers::CR4_VMXE,
        efer: cpu.host_efer,
        preemption_timer_shift: (msrs.misc & bits::misc::PREEMPTION_TIMER_SHIFT) as u32,
        vmcs_revision: msrs.vmcs_revision(),
        vmcs_size: msrs.vmcs_size(),
        features: features(msrs, pin, secondary, exit, entry),
    })
}

/// Whether firmware lets us into VMX operation.
fn check_firmware(msrs: &CapabilityMsrs) -> Result<(), Refusal> {
    let has = |bit| msrs.feature_control & bit != 0;
    if !has(bits::feature_control::LOCKED) {
        Err(Refusal::FeatureControlUnlocked)
    } else if !has(bits::feature_control::VMX_OUTSIDE_SMX) {
        Err(Refusal::FeatureControlLocked)
    } else {
        Ok(())
    }
}

/// Whether an ordinary page can be a VMCS.
fn check_vmcs(msrs: &CapabilityMsrs) -> Result<(), Refusal> {
    /// The architecture's limit, and what we allocate.
    const PAGE: u32 = 4096;

    if msrs.basic & bits::basic::ADDRESSES_32 != 0 {
        return Err(Refusal::VmcsBelow4G);
    }
    if u64::from(msrs.vmcs_memory_type()) != bits::basic::WRITE_BACK {
        return Err(Refusal::VmcsMemoryType);
    }
    // A header of 8 bytes is in every VMCS.
    if msrs.vmcs_size() < 8 || msrs.vmcs_size() > PAGE {
        return Err(Refusal::Inconsistent("IA32_VMX_BASIC"));
    }
    Ok(())
}

/// Settles the secondary controls, and with them EPT and VPID.
fn settle_secondary(msrs: &CapabilityMsrs, cpu: &CpuFeatures) -> Result<u32, Refusal> {
    use bits::ept_vpid as cap;

    let may = Allowed::from_msr(msrs.secondary).may;
    let has = |bit| msrs.ept_vpid & bit != 0;
    if may & SecondaryControls::ENABLE_EPT.bits() == 0 {
        return Err(Refusal::NoEpt);
    }
    if !has(cap::WRITE_BACK) {
        return Err(Refusal::NoEptWriteBack);
    }
    if !has(cap::WALK_4) {
        return Err(Refusal::NoEpt4Level);
    }
    if !has(cap::INVEPT) || !has(cap::INVEPT_SINGLE | cap::INVEPT_ALL) {
        return Err(Refusal::NoInvept);
    }

    let mut wanted = 0;
    if cpu.rdtscp {
        wanted |= SecondaryControls::ENABLE_RDTSCP.bits();
    }
    // Tags that cannot be invalidated are worse than none: without them each entry flushes.
    if invvpid_works(msrs) {
        wanted |= SecondaryControls::ENABLE_VPID.bits();
    }
    let secondary = settle(
        msrs.secondary,
        policy::SECONDARY,
        wanted,
        "IA32_VMX_PROCBASED_CTLS2",
    )?;
    if secondary & SecondaryControls::ENABLE_VPID.bits() != 0 && !invvpid_works(msrs) {
        return Err(Refusal::Missing("INVVPID"));
    }
    Ok(secondary)
}

/// Whether INVVPID exists with a type that drops all that one VPID has cached.
fn invvpid_works(msrs: &CapabilityMsrs) -> bool {
    use bits::ept_vpid as cap;

    msrs.ept_vpid & cap::INVVPID != 0
        && msrs.ept_vpid & (cap::INVVPID_SINGLE | cap::INVVPID_ALL) != 0
}

/// Settles the exit and entry controls, which depend on each other.
fn settle_transitions(
    msrs: &CapabilityMsrs,
    cpu: &CpuFeatures,
    timer: bool,
) -> Result<(u32, u32), Refusal> {
    let may_exit = Allowed::from_msr(msrs.exit).may;
    let may_entry = Allowed::from_msr(msrs.entry).may;

    let mut wanted_exit = 0;
    let mut wanted_entry = 0;
    if timer {
        wanted_exit |= policy::SAVE_TIMER;
    }
    // Only as a pair: the host's counters must come back if they were stopped for the guest.
    if cpu.perf_global_ctrl
        && may_exit & policy::EXIT_PERF != 0
        && may_entry & policy::ENTRY_PERF != 0
    {
        wanted_exit |= policy::EXIT_PERF;
        wanted_entry |= policy::ENTRY_PERF;
    }

    let exit = settle(msrs.exit, policy::EXIT, wanted_exit, "IA32_VMX_EXIT_CTLS")?;
    let entry = settle(
        msrs.entry,
        policy::ENTRY,
        wanted_entry,
        "IA32_VMX_ENTRY_CTLS",
    )?;
    if (exit & policy::EXIT_PERF != 0) != (entry & policy::ENTRY_PERF != 0) {
        return Err(Refusal::Forced("load IA32_PERF_GLOBAL_CTRL"));
    }
    // VM entry rejects saving of a timer that does not run.
    if exit & policy::SAVE_TIMER != 0 && !timer {
        return Err(Refusal::Forced("save VMX-preemption timer value"));
    }
    Ok((exit, entry))
}

/// Makes one control word: what must be 1, what the policy turns on, and of `wanted` what may be 1.
fn settle(
    msr: u64,
    policy: &[Control],
    wanted: u32,
    msr_name: &'static str,
) -> Result<u32, Refusal> {
    let allowed = Allowed::from_msr(msr);
    if !allowed.is_consistent() {
        return Err(Refusal::Inconsistent(msr_name));
    }
    let mut word = allowed.must | (wanted & allowed.may);
    for control in policy {
        match control.want {
            Want::On if control.bit & allowed.may == 0 => {
                return Err(Refusal::Missing(control.name));
            }
            Want::Off if control.bit & allowed.must != 0 => {
                return Err(Refusal::Forced(control.name));
            }
            Want::On | Want::OnIfAllowed => word |= control.bit & allowed.may,
            Want::Off | Want::OffIfAllowed => {}
        }
    }
    Ok(word)
}

/// Says in booleans what was settled.
fn features(msrs: &CapabilityMsrs, pin: u32, secondary: u32, exit: u32, entry: u32) -> Features {
    use bits::ept_vpid as cap;

    let ept_vpid = |bit| msrs.ept_vpid & bit != 0;
    let second = |control: SecondaryControls| secondary & control.bits() != 0;
    let vpid = second(SecondaryControls::ENABLE_VPID);
    let may_vmfunc =
        Allowed::from_msr(msrs.secondary).may & SecondaryControls::ENABLE_VM_FUNCTIONS.bits() != 0;
    let may_primary = Allowed::from_msr(msrs.primary).may;
    let efer_exit = ExitControls::SAVE_IA32_EFER | ExitControls::LOAD_IA32_EFER;
    let pat_exit = ExitControls::SAVE_IA32_PAT | ExitControls::LOAD_IA32_PAT;
    Features {
        exec_only: ept_vpid(cap::EXEC_ONLY),
        ept_2m: ept_vpid(cap::PAGES_2M),
        ept_1g: ept_vpid(cap::PAGES_1G),
        ept_ad: ept_vpid(cap::ACCESSED_DIRTY),
        vmfunc: may_vmfunc && msrs.vmfunc & bits::vmfunc::EPTP_SWITCHING != 0,
        vpid,
        invvpid_single: vpid && ept_vpid(cap::INVVPID_SINGLE),
        invvpid_all: vpid && ept_vpid(cap::INVVPID_ALL),
        preemption_timer: pin & policy::PREEMPTION_TIMER != 0,
        save_preemption_timer: exit & policy::SAVE_TIMER != 0,
        invept_single: ept_vpid(cap::INVEPT_SINGLE),
        invept_all: ept_vpid(cap::INVEPT_ALL),
        perf_global_ctrl: entry & policy::ENTRY_PERF != 0,
        descriptor_exiting: second(SecondaryControls::DTABLE_EXITING),
        wbinvd_exiting: second(SecondaryControls::WBINVD_EXITING),
        rdtscp: second(SecondaryControls::ENABLE_RDTSCP),
        rdtsc_exiting: may_primary & PrimaryControls::RDTSC_EXITING.bits() != 0,
        encls_exiting: second(SecondaryControls::ENCLS_EXITING),
        enclv_exiting: second(SecondaryControls::ENCLV_EXITING),
        efer_switch: exit & efer_exit.bits() != 0
            || entry & EntryControls::LOAD_IA32_EFER.bits() != 0,
        pat_switch: exit & pat_exit.bits() != 0 || entry & EntryControls::LOAD_IA32_PAT.bits() != 0,
        pt_in_vmx: msrs.processor_trace_in_vmx(),
    }
}
