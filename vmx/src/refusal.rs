// SPDX-License-Identifier: GPL-2.0

//! Why a CPU cannot run micro-VMs, in words for its owner.

use core::fmt;

/// Why this CPU cannot run micro-VMs.
///
/// Its [`Display`](fmt::Display) is one line that says what the user can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CPUID reports no VMX.
    NoVmx,
    /// A capability MSR that should exist could not be read.
    MsrUnreadable,
    /// Firmware forbids VMXON and locked that decision.
    FeatureControlLocked,
    /// Nobody has locked `IA32_FEATURE_CONTROL`, and VMXON faults until somebody does.
    FeatureControlUnlocked,
    /// The host is not in the mode that the guest is to share.
    HostMode,
    /// A VMCS may only lie below 4 GiB.
    VmcsBelow4G,
    /// A VMCS must not be in write-back memory.
    VmcsMemoryType,
    /// There are no secondary controls.
    NoSecondaryControls,
    /// There is no EPT.
    NoEpt,
    /// EPT tables cannot be write-back memory.
    NoEptWriteBack,
    /// EPT tables cannot have four levels.
    NoEpt4Level,
    /// INVEPT is missing, or both of its types are.
    NoInvept,
    /// A control that isolation rests on is missing.
    Missing(&'static str),
    /// A control that micro-VMs run without cannot be turned off.
    Forced(&'static str),
    /// A bit that the guest needs in CR0 or CR4 cannot be set in VMX operation.
    ControlRegister(&'static str),
    /// The values cannot be those of a CPU: this MSR contradicts itself or another one.
    Inconsistent(&'static str),
}

/// What to do about a lack in the silicon, or in what a hypervisor below shows of it.
const OTHER_MACHINE: &str =
    "use another CPU, or, inside a virtual machine, give it the host's CPU model with nested VT-x";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => write!(
                f,
                "this CPU shows no VT-x: micro-VMs need an Intel CPU; inside a virtual machine, turn on nested virtualization"
            ),
            Self::MsrUnreadable => write!(
                f,
                "a VMX capability MSR cannot be read: the hypervisor below hides it; turn on nested virtualization there"
            ),
            Self::FeatureControlLocked => write!(
                f,
                "VT-x is disabled by firmware: turn on \"Intel Virtualization Technology\" in the firmware setup, then power off and on"
            ),
            Self::FeatureControlUnlocked => write!(
                f,
                "VT-x was never enabled (IA32_FEATURE_CONTROL is not locked): turn it on in the firmware setup, or boot a kernel that has KVM for Intel configured"
            ),
            Self::HostMode => write!(
                f,
                "EFER lacks 64-bit mode or SYSCALL: boot a 64-bit kernel"
            ),
            Self::VmcsBelow4G => write!(
                f,
                "this CPU limits VMX structures to the first 4 GiB of memory: {OTHER_MACHINE}"
            ),
            Self::VmcsMemoryType => write!(
                f,
                "this CPU does not keep a VMCS in write-back memory: {OTHER_MACHINE}"
            ),
            Self::NoSecondaryControls => write!(
                f,
                "VT-x here has no secondary controls, and so no EPT: {OTHER_MACHINE}"
            ),
            Self::NoEpt => write!(f, "VT-x here has no EPT: {OTHER_MACHINE}"),
            Self::NoEptWriteBack => write!(
                f,
                "EPT tables cannot be write-back memory here: {OTHER_MACHINE}"
            ),
            Self::NoEpt4Level => write!(f, "EPT here has no 4-level walk: {OTHER_MACHINE}"),
            Self::NoInvept => write!(f, "INVEPT is missing here: {OTHER_MACHINE}"),
            Self::Missing(control) => write!(f, "VT-x here lacks \"{control}\": {OTHER_MACHINE}"),
            Self::Forced(control) => write!(
                f,
                "VT-x here cannot turn off \"{control}\": {OTHER_MACHINE}"
            ),
            Self::ControlRegister(bit) => write!(
                f,
                "VT-x here does not let a guest run with {bit}: {OTHER_MACHINE}"
            ),
            Self::Inconsistent(msr) => write!(
                f,
                "{msr} holds a value that no CPU has: update the hypervisor below, or the CPU's microcode"
            ),
        }
    }
}
