// SPDX-License-Identifier: GPL-2.0

//! Why a VMX instruction or a VM entry failed.

use core::fmt;

/// The VM-instruction error field: valid after a VMX instruction failed with a current VMCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmInstructionError(pub u32);

impl VmInstructionError {
    /// VM entry found a control that it does not accept.
    pub const INVALID_CONTROL: Self = Self(7);
    /// VM entry found something in the host's state that it does not accept.
    pub const INVALID_HOST_STATE: Self = Self(8);

    /// The manual's name, or [`None`] for a number that it does not assign.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "VMCALL executed in VMX root operation",
            2 => "VMCLEAR with invalid physical address",
            3 => "VMCLEAR with VMXON pointer",
            4 => "VMLAUNCH with non-clear VMCS",
            5 => "VMRESUME with non-launched VMCS",
            6 => "VMRESUME after VMXOFF",
            7 => "VM entry with invalid control field(s)",
            8 => "VM entry with invalid host-state field(s)",
            9 => "VMPTRLD with invalid physical address",
            10 => "VMPTRLD with VMXON pointer",
            11 => "VMPTRLD with incorrect VMCS revision identifier",
            12 => "VMREAD or VMWRITE from or to unsupported VMCS component",
            13 => "VMWRITE to read-only VMCS component",
            15 => "VMXON executed in VMX root operation",
            16 => "VM entry with invalid executive-VMCS pointer",
            17 => "VM entry with non-launched executive VMCS",
            18 => "VM entry with executive-VMCS pointer not VMXON pointer",
            19 => "VMCALL with non-clear VMCS",
            20 => "VMCALL with invalid VM-exit control fields",
            22 => "VMCALL with incorrect MSEG revision identifier",
            23 => "VMXOFF under dual-monitor treatment of SMIs and SMM",
            24 => "VMCALL with invalid SMM-monitor features",
            25 => "VM entry with invalid VM-execution control fields in executive VMCS",
            26 => "VM entry with events blocked by MOV SS",
            28 => "invalid operand to INVEPT or INVVPID",
            _ => return None,
        })
    }
}

impl fmt::Display for VmInstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "VM-instruction error {}", self.0),
        }
    }
}

/// What the exit qualification says of a VM entry that failed on the guest's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidGuestState {
    /// The page-directory-pointer entries.
    Pdptes,
    /// An NMI was to be injected where that is blocked.
    NmiInjection,
    /// The VMCS link pointer.
    LinkPointer,
    /// Anything else: the CPU does not say.
    Unspecified,
}

impl InvalidGuestState {
    /// Takes the exit qualification apart.
    pub const fn decode(qualification: u64) -> Self {
        match qualification {
            2 => Self::Pdptes,
            3 => Self::NmiInjection,
            4 => Self::LinkPointer,
            _ => Self::Unspecified,
        }
    }
}
