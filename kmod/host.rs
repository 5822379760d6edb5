// SPDX-License-Identifier: GPL-2.0

//! The host's state around a stay in a guest: what a VM exit loads from the VMCS, and what it leaves
//! as the guest had it.

use kernel::prelude::*;

use uvisor_vmx::segments::STAR;

use crate::{
    hardware::Hardware,
    sys::{
        cpu,
        ffi::Descriptor,
        irq::{
            self,
            IrqOff, //
        }, //
    },
    vmcs::Vmcs, //
};

/// MSRs by number (SDM Vol. 4).
mod msr {
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const DEBUGCTL: u32 = 0x1d9;
    pub(super) const PERF_GLOBAL_CTRL: u32 = 0x38f;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const PEBS_ENABLE: u32 = 0x3f1;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const FMASK: u32 = 0xc000_0084;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// What a VM exit leaves in DR7.
const DR7_AFTER_EXIT: u64 = 0x400;

/// Registers of one CPU that the kernel never changes after it brought the CPU up.
pub(crate) struct Constants {
    /// The fields of the VMCS that only a move to another CPU changes.
    fields: CpuFields,
    /// Of whose limit a VM exit keeps nothing.
    gdt: Descriptor,
    /// The system-call MSRs where KVM left its guest's, for as long as a window lasts.
    found: SyscallMsrs,
}

/// Host-state fields of the VMCS that belong to a CPU.
pub(crate) struct CpuFields {
    pub(crate) tr_base: u64,
    pub(crate) gdt_base: u64,
    pub(crate) idt_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
}

impl Constants {
    /// Reads them.
    #[cold]
    pub(crate) fn read(irq: &IrqOff) -> Self {
        // SAFETY: Every CPU with long mode has these MSRs.
        let (sysenter_cs, sysenter_esp, sysenter_eip) = unsafe {
            (
                cpu::rdmsr(msr::SYSENTER_CS),
                cpu::rdmsr(msr::SYSENTER_ESP),
                cpu::rdmsr(msr::SYSENTER_EIP),
            )
        };
        let gdt = cpu::gdt();
        Self {
            fields: CpuFields {
                tr_base: cpu::tss(irq),
                gdt_base: gdt.base,
                idt_base: cpu::idt().base,
                sysenter_cs,
                sysenter_esp,
                sysenter_eip,
            },
            gdt,
            found: SyscallMsrs::default(),
        }
    }
}

/// The MSRs that `SYSCALL` goes by.
#[derive(Default)]
pub(crate) struct SyscallMsrs {
    star: u64,
    lstar: u64,
    fmask: u64,
    efer: u64,
}

impl SyscallMsrs {
    /// Those of the kernel, which are the same on all CPUs; `EBUSY` if a KVM guest's are in the way each
    /// time.
    pub(crate) fn of_kernel() -> Result<Self> {
        for _ in 0..1000 {
            let irq = IrqOff::new();
            if !irq.has_foreign_msrs() {
                return Ok(Self::read());
            }
            drop(irq);
            irq::cond_resched();
        }
        Err(EBUSY)
    }

    /// Reads them.
    #[cold]
    fn read() -> Self {
        // SAFETY: Every CPU with long mode has these MSRs.
        unsafe {
            Self {
                star: cpu::rdmsr(msr::STAR),
                lstar: cpu::rdmsr(msr::LSTAR),
                fmask: cpu::rdmsr(msr::FMASK),
                efer: cpu::rdmsr(msr::EFER),
            }
        }
    }
}

/// Writes an MSR if it has another value.
///
/// # Safety
///
/// As [`cpu::wrmsr`], and the MSR must hold `now`.
#[inline(always)]
unsafe fn exchange(msr: u32, now: u64, value: u64) {
    if now != value {
        // SAFETY: By the caller's promise.
        unsafe { cpu::wrmsr(msr, value) };
    }
}

/// Stops precise event sampling, whose records the CPU would write through the guest's page tables;
/// returns what was enabled. The CPU has the MSR.
#[cold]
fn stop_pebs() -> u64 {
    // SAFETY: By the caller's word; `Rare::put_back` puts the value back before interrupts are on.
    unsafe {
        let enabled = cpu::rdmsr(msr::PEBS_ENABLE);
        if enabled != 0 {
            cpu::wrmsr(msr::PEBS_ENABLE, 0);
        }
        enabled
    }
}

/// What a vCPU has in MSRs that no VM entry loads.
#[derive(Clone, Copy, Default)]
pub(crate) struct GuestMsrs {
    /// Where SYSCALL goes.
    pub(crate) lstar: u64,
    /// What SYSCALL clears in RFLAGS.
    pub(crate) fmask: u64,
    /// What SWAPGS exchanges.
    pub(crate) kernel_gs_base: u64,
}

/// What is put back behind a stay only if it is not what is nearly always there.
struct Rare {
    debugctl: u64,
    pebs: u64,
    ds: u32,
    es: u32,
    ldt: u32,
}

impl Rare {
    /// Whether there is anything to put back.
    #[inline(always)]
    fn is_some(&self) -> bool {
        self.debugctl | self.pebs | u64::from(self.ds | self.es | self.ldt) != 0
    }

    /// Puts it back; GDT and LDT are the host's again.
    #[cold]
    fn put_back(self) {
        if self.pebs != 0 {
            // SAFETY: The CPU has the MSR. What is there now is 0, or what an NMI made of it meanwhile,
            // which stays.
            unsafe {
                let now = cpu::rdmsr(msr::PEBS_ENABLE);
                if now == 0 {
                    cpu::wrmsr(msr::PEBS_ENABLE, self.pebs);
                }
            }
        }
        // SAFETY: A VM exit left 0.
        unsafe { exchange(msr::DEBUGCTL, 0, self.debugctl) };
        if self.ldt != 0 {
            // SAFETY: The selector that was found; the GDT is the host's again.
            unsafe { cpu::load_ldt(self.ldt) };
        }
        // SAFETY: The selectors that were found; GDT and LDT are the host's again.
        unsafe { cpu::load_ds_es(self.ds, self.es) };
    }
}

/// The host's state while the guest's is in the registers. Whoever saved it must put it back: it has no
/// drop, with which it would have to be kept in memory.
#[must_use]
pub(crate) struct HostState<'a> {
    gdt: &'a Descriptor,
    syscall: &'a SyscallMsrs,
    kernel_gs_base: u64,
    dr7: u64,
    rare: Rare,
}

impl<'a> HostState<'a> {
    /// Saves the host's state, in part to the VMCS, and loads the guest's MSRs.
    ///
    /// FS and GS hold null selectors: the caller checked.
    #[inline(always)]
    pub(crate) fn save(
        irq: &IrqOff,
        constants: &'a mut Constants,
        vmcs: &mut Vmcs<'_>,
        guest: &GuestMsrs,
        hardware: &'a Hardware,
    ) -> Self {
        let controls = &hardware.controls;
        let Constants { fields, gdt, found } = constants;
        // KVM leaves those of its guest there until the CPU returns to user space, and remembers that it
        // did: what was found must be put back.
        let syscall = if irq.has_foreign_msrs() {
            *found = SyscallMsrs::read();
            &*found
        } else {
            &hardware.syscall
        };
        vmcs.set_host_cpu(irq, fields);
        let switches_perf = controls.features.perf_global_ctrl;
        let perf = if switches_perf {
            // SAFETY: The CPU has it.
            unsafe { cpu::rdmsr(msr::PERF_GLOBAL_CTRL) }
        } else {
            0
        };
        let cr4 = cpu::cr4();
        let (fs_base, gs_base) = cpu::fs_gs_bases(cr4);
        vmcs.set_host(cpu::cr3(), cr4, fs_base, gs_base, perf);
        // SAFETY: Every CPU with long mode has these MSRs.
        let (kernel_gs_base, debugctl) =
            unsafe { (cpu::rdmsr(msr::KERNEL_GS_BASE), cpu::rdmsr(msr::DEBUGCTL)) };
        // Counters that do not count take no samples.
        let may_sample = hardware.has_pebs && (perf != 0 || !switches_perf);
        let state = Self {
            gdt,
            syscall,
            kernel_gs_base,
            dr7: cpu::dr7(),
            rare: Rare {
                debugctl,
                pebs: if may_sample { stop_pebs() } else { 0 },
                ds: cpu::ds(),
                es: cpu::es(),
                ldt: cpu::ldt(),
            },
        };
        cpu::clear_cr2(irq);
        // SAFETY: The addresses are canonical, FMASK has 32 bits (both checked when user space gave
        // them), and EFER is what the module found at load, with SCE and NX; the host's values are
        // put back before interrupts are on, and no NMI handler makes a system call.
        unsafe {
            exchange(msr::STAR, syscall.star, STAR);
            exchange(msr::LSTAR, syscall.lstar, guest.lstar);
            exchange(msr::FMASK, syscall.fmask, guest.fmask);
            exchange(msr::EFER, syscall.efer, controls.efer);
            exchange(msr::KERNEL_GS_BASE, kernel_gs_base, guest.kernel_gs_base);
        }
        state
    }

    /// Puts it back, behind a stay in the guest.
    #[inline(always)]
    pub(crate) fn restore(self, irq: &IrqOff, guest: &mut GuestMsrs, hardware: &Hardware) {
        let (syscall, efer) = (self.syscall, hardware.controls.efer);
        // SAFETY: The MSRs exist, hold what `save` wrote but for the one that is read, and get the
        // values that it found.
        unsafe {
            guest.kernel_gs_base = cpu::rdmsr(msr::KERNEL_GS_BASE);
            exchange(
                msr::KERNEL_GS_BASE,
                guest.kernel_gs_base,
                self.kernel_gs_base,
            );
            exchange(msr::STAR, STAR, syscall.star);
            exchange(msr::LSTAR, guest.lstar, syscall.lstar);
            exchange(msr::FMASK, guest.fmask, syscall.fmask);
            exchange(msr::EFER, efer, syscall.efer);
        }
        if self.dr7 != DR7_AFTER_EXIT {
            // SAFETY: The value that was found.
            unsafe { cpu::write_dr7(self.dr7) };
        }
        // SAFETY: The GDT of this CPU.
        unsafe { cpu::load_gdt(irq, self.gdt) };
        if self.rare.is_some() {
            self.rare.put_back();
        }
    }
}
