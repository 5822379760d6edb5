// SPDX-License-Identifier: GPL-2.0

//! The capability MSRs, as read.

use crate::bits;
use x86::msr;
use x86::vmx::vmcs::control::SecondaryControls;

/// What the capability MSRs of a CPU say; zero where the CPU lacks the MSR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityMsrs {
    /// `IA32_FEATURE_CONTROL`: whether firmware allows VMXON.
    pub feature_control: u64,
    /// `IA32_VMX_BASIC`: the VMCS's revision, size and memory type.
    pub basic: u64,
    /// The pin-based controls, from the `TRUE` variant where there is one.
    pub pin: u64,
    /// The primary processor-based controls, from the `TRUE` variant where there is one.
    pub primary: u64,
    /// The secondary processor-based controls.
    pub secondary: u64,
    /// The tertiary processor-based controls: 64 bits that may be 1, none that must.
    pub tertiary: u64,
    /// The VM-exit controls, from the `TRUE` variant where there is one.
    pub exit: u64,
    /// The VM-entry controls, from the `TRUE` variant where there is one.
    pub entry: u64,
    /// `IA32_VMX_MISC`.
    pub misc: u64,
    /// Bits that must be 1 in CR0.
    pub cr0_fixed0: u64,
    /// Bits that may be 1 in CR0.
    pub cr0_fixed1: u64,
    /// Bits that must be 1 in CR4.
    pub cr4_fixed0: u64,
    /// Bits that may be 1 in CR4.
    pub cr4_fixed1: u64,
    /// `IA32_VMX_EPT_VPID_CAP`.
    pub ept_vpid: u64,
    /// `IA32_VMX_VMFUNC`.
    pub vmfunc: u64,
}

impl CapabilityMsrs {
    /// Reads the MSRs of this CPU, each only if the ones before say that it exists.
    ///
    /// `rdmsr` gives [`None`] where the read faults, and so does this if the MSR should have been there.
    pub fn read(rdmsr: impl Fn(u32) -> Option<u64>) -> Option<Self> {
        let basic = rdmsr(msr::IA32_VMX_BASIC)?;
        // The older MSRs claim that more bits are forced to 1 than really are.
        let plain_or_true = |plain: u32, precise: u32| {
            if basic & bits::basic::TRUE_CONTROLS != 0 {
                rdmsr(precise)
            } else {
                rdmsr(plain)
            }
        };
        let read_if = |exists: bool, msr: u32| if exists { rdmsr(msr) } else { Some(0) };

        let primary = plain_or_true(
            msr::IA32_VMX_PROCBASED_CTLS,
            msr::IA32_VMX_TRUE_PROCBASED_CTLS,
        )?;
        let may_primary = Allowed::from_msr(primary).may;
        let secondary = read_if(
            may_primary & crate::policy::SECONDARY_CONTROLS != 0,
            msr::IA32_VMX_PROCBASED_CTLS2,
        )?;
        let may_secondary = Allowed::from_msr(secondary).may;
        let ept_or_vpid = (SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID).bits();

        Some(Self {
            feature_control: rdmsr(msr::IA32_FEATURE_CONTROL)?,
            basic,
            pin: plain_or_true(
                msr::IA32_VMX_PINBASED_CTLS,
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
            )?,
            primary,
            secondary,
            tertiary: read_if(
                may_primary & bits::primary::TERTIARY_CONTROLS != 0,
                bits::msr::IA32_VMX_PROCBASED_CTLS3,
            )?,
            exit: plain_or_true(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS)?,
            entry: plain_or_true(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS)?,
            misc: rdmsr(msr::IA32_VMX_MISC)?,
            cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0)?,
            cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1)?,
            cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0)?,
            cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1)?,
            ept_vpid: read_if(may_secondary & ept_or_vpid != 0, msr::IA32_VMX_EPT_VPID_CAP)?,
            vmfunc: read_if(
                may_secondary & SecondaryControls::ENABLE_VM_FUNCTIONS.bits() != 0,
                msr::IA32_VMX_VMFUNC,
            )?,
        })
    }

    /// The identifier that begins every VMCS and the VMXON region.
    pub const fn vmcs_revision(&self) -> u32 {
        (self.basic & bits::basic::REVISION) as u32
    }

    /// The size of a VMCS and of the VMXON region, in bytes.
    pub const fn vmcs_size(&self) -> u32 {
        ((self.basic >> bits::basic::SIZE_SHIFT) & bits::basic::SIZE_MASK) as u32
    }

    /// The memory type that a VMCS must have, as in the PAT.
    pub const fn vmcs_memory_type(&self) -> u8 {
        ((self.basic >> bits::basic::MEMORY_TYPE_SHIFT) & bits::basic::MEMORY_TYPE_MASK) as u8
    }

    /// Whether an active trace of Intel PT survives VMXON.
    ///
    /// Where this is false, VMXON stops an active trace.
    pub const fn processor_trace_in_vmx(&self) -> bool {
        self.misc & bits::misc::PROCESSOR_TRACE != 0
    }
}

/// The settings that a capability MSR allows for its word of controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1 ("allowed 0-settings").
    pub must: u32,
    /// Bits that may be 1 ("allowed 1-settings").
    pub may: u32,
}

impl Allowed {
    /// Takes apart what the MSR says.
    pub const fn from_msr(msr: u64) -> Self {
        Self {
            must: msr as u32,
            may: (msr >> 32) as u32,
        }
    }

    /// Whether the two halves agree, as they do on every CPU.
    pub const fn is_consistent(&self) -> bool {
        self.must & !self.may == 0
    }

    /// Whether VM entry accepts this word.
    pub const fn accepts(&self, word: u32) -> bool {
        word & self.must == self.must && word & !self.may == 0
    }
}
