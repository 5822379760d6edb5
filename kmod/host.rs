// SPDX-License-Identifier: GPL-2.0

//! The host's state around a stay in a guest: what a VM exit loads from the VMCS, and what it leaves
//! as the guest had it.

use uvisor_vmx::segments::STAR;

use crate::{
    hardware::{
        Hardware,
        Local, //
    },
    sys::{
        cpu,
        ffi::Descriptor,
        irq::IrqOff, //
    },
    vmcs::Vmcs,
    window::Owner, //
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
    /// The system-call MSRs as the kernel has them; `None` as long as KVM may have others there.
    syscall: Option<SyscallMsrs>,
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
    fn read(irq: &IrqOff) -> Self {
        // SAFETY: Every CPU with long mode has these MSRs.
        let (sysenter_cs, sysenter_esp, sysenter_eip) = unsafe {
            (
                cpu::rdmsr(msr::SYSENTER_CS),
                cpu::rdmsr(msr::SYSENTER_ESP),
                cpu::rdmsr(msr::SYSENTER_EIP),
            )
        };
        Self {
            fields: CpuFields {
                tr_base: cpu::tss(irq),
                gdt_base: cpu::gdt().base,
                idt_base: cpu::idt().base,
                sysenter_cs,
                sysenter_esp,
                sysenter_eip,
            },
            syscall: None,
        }
    }

    /// The system-call MSRs as they are now.
    ///
    /// KVM leaves those of its guest there until the CPU returns to user space, and remembers that it
    /// did: what was found must be put back, whatever it is. Without VMX on, KVM left nothing.
    fn syscall(&mut self, owner: Owner) -> SyscallMsrs {
        match (owner, self.syscall) {
            (Owner::Borrow { .. }, _) => SyscallMsrs::read(),
            (Owner::Own { .. }, Some(known)) => known,
            (Owner::Own { .. }, None) => *self.syscall.insert(SyscallMsrs::read()),
        }
    }
}

/// The MSRs that `SYSCALL` goes by.
#[derive(Clone, Copy)]
struct SyscallMsrs {
    star: u64,
    lstar: u64,
    fmask: u64,
    efer: u64,
}

impl SyscallMsrs {
    /// Reads them.
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

    /// Writes them; `now` is what EFER has.
    ///
    /// # Safety
    ///
    /// The values must be the host's, or be replaced by those before interrupts are on; EFER may
    /// differ from `now` in SCE and NX only.
    unsafe fn write(&self, now: u64) {
        // SAFETY: By the caller's promise; no NMI handler makes a system call.
        unsafe {
            cpu::wrmsr(msr::STAR, self.star);
            cpu::wrmsr(msr::LSTAR, self.lstar);
            cpu::wrmsr(msr::FMASK, self.fmask);
            if self.efer != now {
                cpu::wrmsr(msr::EFER, self.efer);
            }
        }
    }
}

/// Stops precise event sampling, whose records the CPU would write through the guest's page tables;
/// returns what was enabled. The CPU has the MSR.
fn stop_pebs() -> u64 {
    // SAFETY: By the caller's word; `drop` puts the value back before interrupts are on.
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

/// The host's state while the guest's is in the registers; dropping it puts it back.
pub(crate) struct HostState<'a> {
    irq: &'a IrqOff,
    syscall: SyscallMsrs,
    guest_efer: u64,
    guest: &'a mut GuestMsrs,
    kernel_gs_base: u64,
    debugctl: u64,
    /// To be written back if it is not 0.
    pebs: u64,
    dr7: u64,
    gdt: Descriptor,
    ds: u32,
    es: u32,
    ldt: u32,
}

impl<'a> HostState<'a> {
    /// Saves the host's state, in part to the VMCS, and loads the guest's MSRs.
    ///
    /// FS and GS hold null selectors: the caller checked.
    pub(crate) fn save(
        irq: &'a IrqOff,
        local: &mut Local,
        vmcs: &mut Vmcs<'_>,
        guest: &'a mut GuestMsrs,
        owner: Owner,
        hardware: &Hardware,
    ) -> Self {
        let controls = &hardware.controls;
        let constants = local.constants.get_or_insert_with(|| Constants::read(irq));
        let syscall = constants.syscall(owner);
        vmcs.set_host_cpu(irq, &constants.fields);
        let perf = if controls.features.perf_global_ctrl {
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
        let state = Self {
            irq,
            syscall,
            guest_efer: controls.efer,
            kernel_gs_base,
            debugctl,
            pebs: if hardware.has_pebs { stop_pebs() } else { 0 },
            dr7: cpu::dr7(),
            gdt: cpu::gdt(),
            ds: cpu::ds(),
            es: cpu::es(),
            ldt: cpu::ldt(),
            guest,
        };
        cpu::clear_cr2(irq);
        let guest_syscall = SyscallMsrs {
            star: STAR,
            lstar: state.guest.lstar,
            fmask: state.guest.fmask,
            efer: state.guest_efer,
        };
        // SAFETY: The addresses are canonical, FMASK has 32 bits (both checked when user space gave
        // them), and EFER is what the module found at load; `drop` puts the host's values back before
        // interrupts are on.
        unsafe {
            guest_syscall.write(state.syscall.efer);
            cpu::wrmsr(msr::KERNEL_GS_BASE, state.guest.kernel_gs_base);
        }
        state
    }
}

impl Drop for HostState<'_> {
    fn drop(&mut self) {
        // SAFETY: The MSRs exist, and the values are those that `save` found.
        unsafe {
            self.guest.kernel_gs_base = cpu::rdmsr(msr::KERNEL_GS_BASE);
            cpu::wrmsr(msr::KERNEL_GS_BASE, self.kernel_gs_base);
            self.syscall.write(self.guest_efer);
        }
        if self.dr7 != DR7_AFTER_EXIT {
            // SAFETY: The value that `save` found.
            unsafe { cpu::write_dr7(self.dr7) };
        }
        if self.pebs != 0 {
            // SAFETY: The value that `save` found.
            unsafe { cpu::wrmsr(msr::PEBS_ENABLE, self.pebs) };
        }
        if self.debugctl != 0 {
            // SAFETY: The value that `save` found.
            unsafe { cpu::wrmsr(msr::DEBUGCTL, self.debugctl) };
        }
        cpu::after_exit(self.irq, &self.gdt);
        if self.ldt != 0 {
            // SAFETY: The selector that `save` found; the GDT is the host's again.
            unsafe { cpu::load_ldt(self.ldt) };
        }
        if self.ds | self.es != 0 {
            // SAFETY: The selectors that `save` found; GDT and LDT are the host's again.
            unsafe { cpu::load_ds_es(self.ds, self.es) };
        }
    }
}
