// SPDX-License-Identifier: GPL-2.0

//! VMX instructions (SDM Vol. 3C, chapter 31).
//!
//! Each is one `asm!` block that also reads the flags, so that nothing can come between. Those that
//! fault when somebody else changed the CPU's state catch the fault by the kernel's exception table.

use core::arch::asm;

/// Why a VMX instruction did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// The instruction faulted: the CPU is not in VMX operation, or CR4.VMXE is off.
    Fault,
    /// VMfailInvalid: there is no current VMCS, or the operand is no such region.
    Invalid,
    /// VMfailValid: the current VMCS has an error number.
    Valid,
}

/// The physical address that VMPTRST stores when there is no current VMCS.
pub const NO_VMCS: u64 = u64::MAX;

/// One VMX instruction on `$operand`, with faults caught.
macro_rules! fallible {
    ($insn:literal, $operand:expr) => {
        asm!(
            concat!("2: ", $insn),
            "jc {invalid}",
            "jz {valid}",
            // An entry of the kernel's exception table; type 1 is EX_TYPE_DEFAULT.
            ".pushsection \"__ex_table\", \"a\"",
            ".balign 4",
            ".long (2b) - .",
            ".long ({fault}) - .",
            ".long 1",
            ".popsection",
            p = in(reg) $operand,
            fault = label { return Err(Fail::Fault) },
            invalid = label { return Err(Fail::Invalid) },
            valid = label { return Err(Fail::Valid) },
            options(att_syntax),
        )
    };
}

/// Enters VMX operation.
///
/// # Safety
///
/// Interrupts must be off and stay off until [`vmxoff`], CR4.VMXE on, and `region` the physical
/// address of a page that holds the VMCS revision and is used for nothing else.
#[inline(always)]
pub unsafe fn vmxon(region: &u64) -> Result<(), Fail> {
    // SAFETY: By the caller's promise; a fault is caught.
    unsafe { fallible!("vmxon ({p})", region) };
    Ok(())
}

/// Leaves VMX operation.
///
/// # Safety
///
/// VMX operation must have been entered by the caller, and no VMCS be active.
#[inline(always)]
pub unsafe fn vmxoff() -> Result<(), Fail> {
    // SAFETY: By the caller's promise; the operand is not used.
    unsafe { fallible!("vmxoff # {p}", 0u64) };
    Ok(())
}

/// The physical address of the current VMCS, or [`NO_VMCS`].
///
/// # Safety
///
/// Interrupts must be off, so that the answer stays true.
#[inline(always)]
pub unsafe fn vmptrst() -> Result<u64, Fail> {
    let mut vmcs = NO_VMCS;
    // SAFETY: The instruction writes 8 bytes to `vmcs`; a fault is caught.
    unsafe { fallible!("vmptrst ({p})", &raw mut vmcs) };
    // SAFETY: `vmcs` is a live local, which the instruction above wrote behind the compiler's back.
    Ok(unsafe { (&raw const vmcs).read_volatile() })
}

/// Makes `vmcs` current and active.
///
/// # Safety
///
/// The CPU must be in VMX operation with interrupts off, and `vmcs` the physical address of a VMCS
/// region that is active on no other CPU.
#[inline(always)]
pub unsafe fn vmptrld(vmcs: &u64) -> Result<(), Fail> {
    // SAFETY: By the caller's promise; a fault is caught.
    unsafe { fallible!("vmptrld ({p})", vmcs) };
    Ok(())
}

/// Writes what the CPU holds of `vmcs` back to memory, and makes it clear and inactive.
///
/// # Safety
///
/// The CPU must be in VMX operation with interrupts off, and `vmcs` the physical address of a VMCS
/// region that is active on no other CPU.
#[inline(always)]
pub unsafe fn vmclear(vmcs: &u64) -> Result<(), Fail> {
    // SAFETY: By the caller's promise; a fault is caught.
    unsafe { fallible!("vmclear ({p})", vmcs) };
    Ok(())
}

/// Drops what this CPU cached of one EPT root (`eptp`), or of all of them.
///
/// # Safety
///
/// The CPU must be in VMX operation, and support the type of INVEPT that is asked for.
pub unsafe fn invept(eptp: Option<u64>) -> Result<(), Fail> {
    let descriptor = [eptp.unwrap_or(0), 0];
    let kind: u64 = if eptp.is_some() { 1 } else { 2 };
    let failed: u8;
    // SAFETY: By the caller's promise; the descriptor is 16 bytes that live through the block.
    unsafe {
        asm!(
            "invept ({d}), {k}",
            "setbe {f}",
            d = in(reg) &descriptor,
            k = in(reg) kind,
            f = out(reg_byte) failed,
            options(att_syntax, nostack),
        );
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Fail::Valid)
    }
}

/// Reads a field that the current VMCS has.
///
/// # Safety
///
/// The CPU must be in VMX operation with a current VMCS, and have the field.
#[inline(always)]
pub unsafe fn vmread_known(field: u32) -> u64 {
    let value: u64;
    // SAFETY: By the caller's promise, also that the instruction does not fail.
    unsafe {
        asm!(
            "vmread {field}, {value}",
            field = in(reg) u64::from(field),
            value = out(reg) value,
            options(att_syntax, nostack, nomem),
        );
    }
    value
}

/// Writes a field that the current VMCS has.
///
/// # Safety
///
/// As [`vmwrite`], and the CPU must have the field and accept writes to it.
#[inline(always)]
pub unsafe fn vmwrite_known(field: u32, value: u64) {
    // SAFETY: By the caller's promise, also that the instruction does not fail.
    unsafe {
        asm!(
            "vmwrite {value}, {field}",
            field = in(reg) u64::from(field),
            value = in(reg) value,
            options(att_syntax, nostack),
        );
    }
}

/// Writes a field of the current VMCS; false if it has no such field or it is read-only.
///
/// # Safety
///
/// The CPU must be in VMX operation with a current VMCS, and the value be one with which the next
/// VM exit leaves the host intact, if it is host state.
#[inline(always)]
#[must_use]
pub unsafe fn vmwrite(field: u32, value: u64) -> bool {
    let failed: u8;
    // SAFETY: By the caller's promise.
    unsafe {
        asm!(
            "vmwrite {value}, {field}",
            "setbe {f}",
            field = in(reg) u64::from(field),
            value = in(reg) value,
            f = out(reg_byte) failed,
            options(att_syntax, nostack),
        );
    }
    failed == 0
}
