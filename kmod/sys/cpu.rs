// SPDX-License-Identifier: GPL-2.0

//! The CPU's own registers, and what the kernel knows about the CPU.

use core::arch::asm;

use super::{
    ffi::{
        self,
        CpuBugs,
        Descriptor, //
    },
    irq::IrqOff, //
};

/// Whether the kernel found VT-x and did not turn it off.
pub(crate) fn has_vmx() -> bool {
    // SAFETY: A read of the CPU's feature bits.
    unsafe { ffi::uvisor_has_vmx() }
}

/// Whether events are delivered by FRED instead of the IDT.
pub(crate) fn has_fred() -> bool {
    // SAFETY: As above.
    unsafe { ffi::uvisor_has_fred() }
}

/// Whether the kernel uses XSAVE.
pub(crate) fn has_xsave() -> bool {
    // SAFETY: As above.
    unsafe { ffi::uvisor_has_xsave() }
}

/// Whether this kernel is itself the guest of an SEV or TDX host.
pub(crate) fn is_confidential_guest() -> bool {
    // SAFETY: As above.
    unsafe { ffi::uvisor_is_confidential_guest() }
}

/// Ticks of the time-stamp counter in a millisecond.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: A read of a variable that does not change any more.
    unsafe { ffi::uvisor_tsc_khz() }
}

/// The speculation bugs that the kernel mitigates on this CPU; none with `mitigations=off`.
pub(crate) fn bugs() -> CpuBugs {
    let mut bugs = CpuBugs::default();
    // SAFETY: The function fills the structure.
    unsafe { ffi::uvisor_cpu_bugs(&mut bugs) };
    bugs
}

/// Whether the kernel was booted with `mitigations=off`.
pub(crate) fn mitigations_off() -> bool {
    // SAFETY: A read of a variable that does not change after boot.
    unsafe { ffi::cpu_mitigations_off() }
}

/// Reads an MSR that may not exist.
pub(crate) fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: A fault is caught.
    let error = unsafe { ffi::uvisor_rdmsr_safe(msr, &mut value) };
    (error == 0).then_some(value)
}

/// Reads an MSR.
///
/// # Safety
///
/// The CPU must have the MSR.
#[inline(always)]
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: By the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
///
/// The CPU must have the MSR, accept the value, and the kernel must never see the difference: it is
/// put back before interrupts are on, or is a command.
#[inline(always)]
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) {
    // CAST: The instruction takes two halves.
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: By the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack));
    }
}

/// A register that can be read by one move.
macro_rules! reader {
    ($(#[$doc:meta])* $name:ident, $insn:literal, $type:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name() -> $type {
            let value: $type;
            // SAFETY: Ring 0; reading has no effect.
            unsafe { asm!($insn, out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}

reader!(/** CR0. */ cr0, "mov {}, cr0", u64);
reader!(/** CR3. */ cr3, "mov {}, cr3", u64);
reader!(/** CR4, with all its bits. */ cr4, "mov {}, cr4", u64);
reader!(/** DR7. */ dr7, "mov {}, dr7", u64);
reader!(/** The selector in DS. */ ds, "mov {:e}, ds", u32);
reader!(/** The selector in ES. */ es, "mov {:e}, es", u32);
reader!(/** The selector in FS. */ fs, "mov {:e}, fs", u32);
reader!(/** The selector in GS. */ gs, "mov {:e}, gs", u32);
reader!(/** The selector of the LDT. */ ldt, "sldt {:e}", u32);
reader!(/** The selector of the TSS. */ tr, "str {:e}", u32);

/// Whether the CPU has IA32_PEBS_ENABLE.
pub(crate) fn has_pebs() -> bool {
    const DEBUG_STORE: u32 = 1 << 21;
    cpuid(1, 0)[3] & DEBUG_STORE != 0 && rdmsr_safe(0x3f1).is_some()
}

/// The bases of FS and GS; `cr4` is CR4.
#[inline(always)]
pub(crate) fn fs_gs_bases(cr4: u64) -> (u64, u64) {
    const FSGSBASE: u64 = 1 << 16;
    if cr4 & FSGSBASE == 0 {
        // SAFETY: Every CPU with long mode has these MSRs.
        return unsafe { (rdmsr(0xc000_0100), rdmsr(0xc000_0101)) };
    }
    let (fs, gs): (u64, u64);
    // SAFETY: The instructions are enabled; reading has no effect.
    unsafe {
        asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    (fs, gs)
}

/// Writes CR4.
///
/// # Safety
///
/// All bits but VMXE must be as they were, and VMXE be put back before interrupts are on.
#[inline(always)]
pub(crate) unsafe fn write_cr4(_irq: &IrqOff, value: u64) {
    // SAFETY: By the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) };
}

/// Clears CR2, so that a guest in ring 0 does not read a kernel address there.
///
/// The kernel reads CR2 only on entry to its page-fault handler.
#[inline(always)]
pub(crate) fn clear_cr2(_irq: &IrqOff) {
    // SAFETY: Interrupts are off, so no page fault is between its start and its reading of CR2.
    unsafe { asm!("mov cr2, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags)) };
}

/// Writes DR7.
///
/// # Safety
///
/// The value must have been read from DR7 of this CPU before a VM exit cleared it.
pub(crate) unsafe fn write_dr7(value: u64) {
    // SAFETY: By the caller's promise.
    unsafe { asm!("mov dr7, {}", in(reg) value, options(nostack)) };
}

/// Loads DS and ES.
///
/// # Safety
///
/// The selectors must be those that the task had.
pub(crate) unsafe fn load_ds_es(ds: u32, es: u32) {
    // SAFETY: By the caller's promise.
    unsafe {
        asm!("mov ds, {0:e}", "mov es, {1:e}", in(reg) ds, in(reg) es, options(nostack));
    }
}

/// Loads the LDT.
///
/// # Safety
///
/// The selector must be the one that the task had, and the GDT be the host's.
pub(crate) unsafe fn load_ldt(selector: u32) {
    // SAFETY: By the caller's promise.
    unsafe { asm!("lldt {0:x}", in(reg) selector, options(nostack)) };
}

/// The GDT's limit and address.
pub(crate) fn gdt() -> Descriptor {
    let mut descriptor = Descriptor::default();
    // SAFETY: The instruction stores 10 bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &mut descriptor, options(nostack, preserves_flags)) };
    descriptor
}

/// The IDT's limit and address.
pub(crate) fn idt() -> Descriptor {
    let mut descriptor = Descriptor::default();
    // SAFETY: The instruction stores 10 bytes.
    unsafe { asm!("sidt [{}]", in(reg) &mut descriptor, options(nostack, preserves_flags)) };
    descriptor
}

/// The linear address of this CPU's TSS.
pub(crate) fn tss(_irq: &IrqOff) -> u64 {
    // SAFETY: Interrupts are off, so the task stays on this CPU.
    unsafe { ffi::uvisor_tss_address() }
}

/// Loads the GDT's limit and address.
///
/// # Safety
///
/// `gdt` must be what [`gdt`] read on this CPU.
#[inline(always)]
pub(crate) unsafe fn load_gdt(_irq: &IrqOff, gdt: &Descriptor) {
    // SAFETY: By the caller's promise; the instruction reads 10 bytes.
    unsafe { asm!("lgdt [{}]", in(reg) gdt, options(readonly, nostack, preserves_flags)) };
}

/// Runs the host's NMI handler, after an NMI caused a VM exit; its IRET ends the blocking of NMIs.
pub(crate) fn run_nmi_handler(_irq: &IrqOff) {
    // SAFETY: Without FRED (checked at load) vector 2 of the IDT is that handler, which runs on its
    // own stack and preserves all registers.
    unsafe { asm!("int 2") };
}

/// Runs the host's machine-check handler, after a machine check ended or prevented a stay in a guest.
pub(crate) fn run_machine_check_handler(_irq: &IrqOff) {
    // SAFETY: Interrupts are off, as in the handler's own exception.
    unsafe { ffi::uvisor_machine_check() };
}

/// XCR0.
///
/// # Safety
///
/// CR4.OSXSAVE must be set.
pub(crate) unsafe fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: By the caller's promise.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
///
/// The value must be a subset of what the kernel has in XCR0 that the CPU accepts, and the kernel's
/// be put back before it uses extended state.
pub(crate) unsafe fn write_xcr0(value: u64) {
    // CAST: The instruction takes two halves.
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: By the caller's promise.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack));
    }
}

/// Executes CPUID.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: Every CPU with VMX has CPUID.
    let r = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
    [r.eax, r.ebx, r.ecx, r.edx]
}
