// SPDX-License-Identifier: GPL-2.0

//! The guest's control registers, out of what it needs and what VMX fixes.

use crate::bits;
use crate::caps::CapabilityMsrs;
use crate::cpu::CpuFeatures;
use crate::refusal::Refusal;
use x86::controlregs::{Cr0, Cr4};

/// What EFER must hold for the guest to share it: 64-bit mode and SYSCALL.
pub(crate) const NEEDED_EFER: u64 = bits::efer::SCE | bits::efer::LME | bits::efer::LMA;

/// The bit of CR4 that turns VMX on; it is 1 in the guest, which must not see it.
pub(crate) const CR4_VMXE: u64 = Cr4::CR4_ENABLE_VMX.bits() as u64;

/// The bits that the guest's CR0 needs, with the name of each.
const CR0: &[(Cr0, &str)] = &[
    (Cr0::CR0_PROTECTED_MODE, "CR0.PE"),
    (Cr0::CR0_MONITOR_COPROCESSOR, "CR0.MP"),
    (Cr0::CR0_EXTENSION_TYPE, "CR0.ET"),
    (Cr0::CR0_NUMERIC_ERROR, "CR0.NE"),
    (Cr0::CR0_WRITE_PROTECT, "CR0.WP"),
    (Cr0::CR0_ENABLE_PAGING, "CR0.PG"),
];

/// The bits that the guest's CR4 needs, with the name of each.
const CR4: &[(Cr4, &str)] = &[
    (Cr4::CR4_ENABLE_PAE, "CR4.PAE"),
    (Cr4::CR4_ENABLE_SSE, "CR4.OSFXSR"),
    (Cr4::CR4_UNMASKED_SSE, "CR4.OSXMMEXCPT"),
    (Cr4::CR4_ENABLE_VMX, "CR4.VMXE"),
];

/// Bits of CR0 that would take something from the guest that Linux gives a task.
///
/// Task-switched and emulation would make the FPU fault; the caches stay as the host has them.
const CR0_UNWANTED: u64 = (Cr0::CR0_TASK_SWITCHED.bits()
    | Cr0::CR0_EMULATE_COPROCESSOR.bits()
    | Cr0::CR0_NOT_WRITE_THROUGH.bits()
    | Cr0::CR0_CACHE_DISABLE.bits()) as u64;

/// Bits of CR4 that the guest's memory and the shim are not made for.
///
/// RDTSC would fault; five levels, PCIDs, SMAP and keys change what a page-table entry means; CET,
/// user interrupts and FRED have state of their own, which nobody switches.
const CR4_UNWANTED: u64 = Cr4::CR4_TIME_STAMP_DISABLE.bits() as u64
    | bits::cr4::LA57
    | Cr4::CR4_ENABLE_PCID.bits() as u64
    | Cr4::CR4_ENABLE_SMAP.bits() as u64
    | Cr4::CR4_ENABLE_PROTECTION_KEY.bits() as u64
    | bits::cr4::CET
    | bits::cr4::PKS
    | bits::cr4::UINTR
    | bits::cr4::FRED;

/// The guest's CR0.
pub(crate) fn guest_cr0(msrs: &CapabilityMsrs) -> Result<u64, Refusal> {
    let (must, may) = (msrs.cr0_fixed0, msrs.cr0_fixed1);
    if must & !may != 0 || must & CR0_UNWANTED != 0 {
        return Err(Refusal::Inconsistent("IA32_VMX_CR0_FIXED0"));
    }
    let mut value = must;
    for &(bit, name) in CR0 {
        let bit = bit.bits() as u64;
        if may & bit == 0 {
            return Err(Refusal::ControlRegister(name));
        }
        value |= bit;
    }
    Ok(value)
}

/// The guest's CR4.
pub(crate) fn guest_cr4(msrs: &CapabilityMsrs, cpu: &CpuFeatures) -> Result<u64, Refusal> {
    let (must, may) = (msrs.cr4_fixed0, msrs.cr4_fixed1);
    if must & !may != 0 || must & CR4_UNWANTED != 0 {
        return Err(Refusal::Inconsistent("IA32_VMX_CR4_FIXED0"));
    }
    let mut value = must;
    for &(bit, name) in CR4 {
        let bit = bit.bits() as u64;
        if may & bit == 0 {
            return Err(Refusal::ControlRegister(name));
        }
        value |= bit;
    }

    let mut add = |wanted: bool, bit: Cr4| {
        if wanted {
            value |= bit.bits() as u64 & may;
        }
    };
    // A machine check that meets CR4.MCE = 0 shuts the whole machine down, also in a guest.
    add(true, Cr4::CR4_ENABLE_MACHINE_CHECK);
    add(cpu.xsave, Cr4::CR4_ENABLE_OS_XSAVE);
    add(cpu.fsgsbase, Cr4::CR4_ENABLE_FSGSBASE);
    add(cpu.smep, Cr4::CR4_ENABLE_SMEP);
    // SGDT and its kin fault in ring 3, as Linux has it, and tell nothing.
    add(cpu.umip, Cr4::CR4_ENABLE_UMIP);
    Ok(value)
}
