// SPDX-License-Identifier: GPL-2.0

//! A vCPU's VMCS: its region, and its fields while it is current in a window.

use core::cell::Cell;

use kernel::prelude::*;

use uvisor_vmx::{
    insn,
    segments,
    Controls, //
};
use x86::vmx::vmcs::{
    control,
    guest,
    host,
    ro, //
};

use crate::{
    host::CpuFields,
    sys::{
        cpu,
        ffi,
        frame::Frame,
        irq::IrqOff, //
    },
    window::Window, //
};

/// The host's selectors: those of the kernel, which VM entry demands to have RPL 0.
const HOST_CS: u64 = 0x10;
const HOST_SS: u64 = 0x18;

/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.TF, and the pending debug exception of a single step.
const RFLAGS_TF: u64 = 1 << 8;
const PENDING_BS: u64 = 1 << 14;

/// Encodings that the `x86` crate does not have (SDM appendix B).
mod field {
    pub(super) const ENCLV_EXITING_BITMAP: u32 = 0x2036;
    pub(super) const GUEST_LINEAR_ADDRESS: u32 = 0x640a;
}

/// The memory of a VMCS.
pub(crate) struct VmcsRegion {
    frame: Frame,
    /// Whether no CPU ever loaded it.
    fresh: Cell<bool>,
}

impl VmcsRegion {
    /// A new one.
    pub(crate) fn new(revision: u32) -> Result<Self> {
        let frame = Frame::new(true)?;
        // SAFETY: The page is ours; its first four bytes are the revision (SDM 26.2).
        unsafe { frame.as_ptr().cast::<u32>().write(revision) };
        Ok(Self {
            frame,
            fresh: Cell::new(true),
        })
    }

    /// The physical address.
    pub(crate) fn phys(&self) -> u64 {
        self.frame.phys()
    }

    /// Whether no CPU ever loaded it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.get()
    }
}

/// What a vCPU's VMCS has for life.
#[derive(Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) eptp: u64,
    pub(crate) cr3: u64,
    pub(crate) vpid: u16,
}

/// The registers that the VMCS holds; the general ones are in the run page.
#[derive(Clone, Copy, Default)]
pub(crate) struct VmcsRegs {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    pub(crate) rflags: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) cpl: u64,
}

/// What we know to be in a VMCS, so that only changes are written.
#[derive(Default)]
pub(crate) struct VmcsCache {
    host_cr3: u64,
    host_cr4: u64,
    host_fs_base: u64,
    host_gs_base: u64,
    host_perf: u64,
    /// The CPU whose fields it has, plus one.
    host_cpu: usize,
    rip: u64,
    rsp: u64,
    rflags: u64,
    fs_base: u64,
    gs_base: u64,
    cpl: u64,
}

/// The current VMCS of a window.
pub(crate) struct Vmcs<'w> {
    _window: &'w Window<'w>,
    cache: &'w mut VmcsCache,
    /// Whether every field so far existed.
    ok: bool,
}

impl<'w> Vmcs<'w> {
    /// The VMCS of `window`; a fresh one gets its fixed fields.
    pub(crate) fn new(
        window: &'w Window<'w>,
        region: &VmcsRegion,
        cache: &'w mut VmcsCache,
        controls: &Controls,
        fixed: &Fixed,
    ) -> Self {
        let mut vmcs = Self {
            _window: window,
            cache,
            ok: true,
        };
        if region.fresh.replace(false) {
            vmcs.write_controls(controls, fixed);
            vmcs.write_host(controls);
            vmcs.write_guest(controls, fixed);
        }
        vmcs
    }

    /// Whether every field that was written exists on this CPU.
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }

    /// Reads a field that every CPU has.
    #[inline(always)]
    pub(crate) fn read(&self, field: u32) -> u64 {
        // SAFETY: `_window` is open, so we are in VMX operation and have a current VMCS.
        unsafe { insn::vmread(field) }.unwrap_or(0)
    }

    /// Writes a field.
    #[inline(always)]
    fn write(&mut self, field: u32, value: u64) {
        // SAFETY: As above. Host-state fields are written in `write_host` and `set_host` only.
        self.ok &= unsafe { insn::vmwrite(field, value) };
    }

    fn write_controls(&mut self, c: &Controls, fixed: &Fixed) {
        self.write(control::PINBASED_EXEC_CONTROLS, c.pin.into());
        self.write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, c.primary.into());
        self.write(
            control::SECONDARY_PROCBASED_EXEC_CONTROLS,
            c.secondary.into(),
        );
        self.write(control::VMEXIT_CONTROLS, c.exit.into());
        self.write(control::VMENTRY_CONTROLS, c.entry.into());
        self.write(control::EXCEPTION_BITMAP, c.exception_bitmap.into());
        self.write(control::PAGE_FAULT_ERR_CODE_MASK, 0);
        self.write(control::PAGE_FAULT_ERR_CODE_MATCH, 0);
        self.write(control::CR3_TARGET_COUNT, 0);
        self.write(control::VMEXIT_MSR_STORE_COUNT, 0);
        self.write(control::VMEXIT_MSR_LOAD_COUNT, 0);
        self.write(control::VMENTRY_MSR_LOAD_COUNT, 0);
        self.write(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0);
        self.write(control::CR0_GUEST_HOST_MASK, c.cr0_mask);
        self.write(control::CR0_READ_SHADOW, c.cr0_shadow);
        self.write(control::CR4_GUEST_HOST_MASK, c.cr4_mask);
        self.write(control::CR4_READ_SHADOW, c.cr4_shadow);
        self.write(control::EPTP_FULL, fixed.eptp);
        if c.features.vpid {
            self.write(control::VPID, fixed.vpid.into());
        }
        if c.features.encls_exiting {
            self.write(control::ENCLS_EXITING_BITMAP_FULL, u64::MAX);
        }
        if c.features.enclv_exiting {
            self.write(field::ENCLV_EXITING_BITMAP, u64::MAX);
        }
    }

    fn write_host(&mut self, c: &Controls) {
        self.write(host::CR0, cpu::cr0());
        self.write(host::CS_SELECTOR, HOST_CS);
        self.write(host::SS_SELECTOR, HOST_SS);
        // Null: the exit then leaves the task's selectors to us, and loads the bases by themselves.
        self.write(host::DS_SELECTOR, 0);
        self.write(host::ES_SELECTOR, 0);
        self.write(host::FS_SELECTOR, 0);
        self.write(host::GS_SELECTOR, 0);
        // As the cache has them; CR3 and CR4 are never 0.
        self.write(host::FS_BASE, 0);
        self.write(host::GS_BASE, 0);
        if c.features.perf_global_ctrl {
            self.write(host::IA32_PERF_GLOBAL_CTRL_FULL, 0);
        }
        self.write(host::TR_SELECTOR, cpu::tr().into());
        self.write(host::RIP, ffi::uvisor_exit as usize as u64);
        if c.features.efer_switch {
            self.write(host::IA32_EFER_FULL, c.efer);
        }
        if c.features.pat_switch {
            self.write(host::IA32_PAT_FULL, cpu::rdmsr_safe(0x277).unwrap_or(0));
        }
    }

    fn write_guest(&mut self, c: &Controls, fixed: &Fixed) {
        self.write(guest::CR0, c.cr0);
        self.write(guest::CR3, fixed.cr3);
        self.write(guest::CR4, c.cr4);
        self.write(guest::DR7, 0x400);
        for (selector, base, limit, rights) in [
            (
                guest::ES_SELECTOR,
                guest::ES_BASE,
                guest::ES_LIMIT,
                guest::ES_ACCESS_RIGHTS,
            ),
            (
                guest::DS_SELECTOR,
                guest::DS_BASE,
                guest::DS_LIMIT,
                guest::DS_ACCESS_RIGHTS,
            ),
            (
                guest::FS_SELECTOR,
                guest::FS_BASE,
                guest::FS_LIMIT,
                guest::FS_ACCESS_RIGHTS,
            ),
            (
                guest::GS_SELECTOR,
                guest::GS_BASE,
                guest::GS_LIMIT,
                guest::GS_ACCESS_RIGHTS,
            ),
            (
                guest::LDTR_SELECTOR,
                guest::LDTR_BASE,
                guest::LDTR_LIMIT,
                guest::LDTR_ACCESS_RIGHTS,
            ),
        ] {
            self.write(selector, 0);
            self.write(base, 0);
            self.write(limit, 0);
            self.write(rights, segments::UNUSABLE.into());
        }
        self.write(guest::TR_SELECTOR, segments::TR.into());
        self.write(guest::TR_BASE, 0);
        self.write(guest::TR_LIMIT, segments::TR_LIMIT.into());
        self.write(guest::TR_ACCESS_RIGHTS, segments::TSS_RIGHTS.into());
        self.write(guest::CS_BASE, 0);
        self.write(guest::GDTR_BASE, 0);
        self.write(guest::GDTR_LIMIT, segments::TABLE_LIMIT.into());
        self.write(guest::IDTR_BASE, 0);
        self.write(guest::IDTR_LIMIT, segments::TABLE_LIMIT.into());
        self.write(guest::IA32_SYSENTER_CS, 0);
        self.write(guest::IA32_SYSENTER_ESP, 0);
        self.write(guest::IA32_SYSENTER_EIP, 0);
        self.write(guest::IA32_DEBUGCTL_FULL, 0);
        self.write(guest::LINK_PTR_FULL, u64::MAX);
        self.write(guest::ACTIVITY_STATE, 0);
        if c.features.efer_switch {
            self.write(guest::IA32_EFER_FULL, c.efer);
        }
        if c.features.pat_switch {
            self.write(guest::IA32_PAT_FULL, cpu::rdmsr_safe(0x277).unwrap_or(0));
        }
        if c.features.perf_global_ctrl {
            self.write(guest::IA32_PERF_GLOBAL_CTRL_FULL, 0);
        }
        self.write(guest::RIP, 0);
        self.write(guest::RSP, 0);
        self.write(guest::RFLAGS, 2);
        self.write_ring(3);
    }

    /// Writes the segments of ring `cpl`.
    fn write_ring(&mut self, cpl: u64) {
        let (cs, ss, code, data) = if cpl == 0 {
            (
                segments::KERNEL_CS,
                segments::KERNEL_SS,
                segments::KERNEL_CODE_RIGHTS,
                segments::KERNEL_DATA_RIGHTS,
            )
        } else {
            (
                segments::USER_CS,
                segments::USER_SS,
                segments::USER_CODE_RIGHTS,
                segments::USER_DATA_RIGHTS,
            )
        };
        self.write(guest::CS_SELECTOR, cs.into());
        self.write(guest::CS_ACCESS_RIGHTS, code.into());
        self.write(guest::SS_SELECTOR, ss.into());
        self.write(guest::SS_ACCESS_RIGHTS, data.into());
        // A null selector in ring 0, or 32-bit code in ring 3, leaves others.
        self.write(guest::CS_LIMIT, segments::FLAT_LIMIT.into());
        self.write(guest::SS_LIMIT, segments::FLAT_LIMIT.into());
        self.write(guest::SS_BASE, 0);
        self.cache.cpl = cpl;
    }

    /// Writes what the next exit loads, as far as it is not there yet.
    pub(crate) fn set_host(&mut self, cr3: u64, cr4: u64, fs_base: u64, gs_base: u64, perf: u64) {
        if cr3 != self.cache.host_cr3 {
            self.cache.host_cr3 = cr3;
            self.write(host::CR3, cr3);
        }
        if cr4 != self.cache.host_cr4 {
            self.cache.host_cr4 = cr4;
            self.write(host::CR4, cr4);
        }
        if fs_base != self.cache.host_fs_base {
            self.cache.host_fs_base = fs_base;
            self.write(host::FS_BASE, fs_base);
        }
        if gs_base != self.cache.host_gs_base {
            self.cache.host_gs_base = gs_base;
            self.write(host::GS_BASE, gs_base);
        }
        if perf != self.cache.host_perf {
            self.cache.host_perf = perf;
            self.write(host::IA32_PERF_GLOBAL_CTRL_FULL, perf);
        }
    }

    /// Writes the fields that belong to a CPU, if it is another one than last time.
    pub(crate) fn set_host_cpu(&mut self, irq: &IrqOff, fields: &CpuFields) {
        if self.cache.host_cpu == irq.cpu() + 1 {
            return;
        }
        self.cache.host_cpu = irq.cpu() + 1;
        self.write(host::TR_BASE, fields.tr_base);
        self.write(host::GDTR_BASE, fields.gdt_base);
        self.write(host::IDTR_BASE, fields.idt_base);
        self.write(host::IA32_SYSENTER_CS, fields.sysenter_cs);
        self.write(host::IA32_SYSENTER_ESP, fields.sysenter_esp);
        self.write(host::IA32_SYSENTER_EIP, fields.sysenter_eip);
    }

    /// Writes the registers that the VMCS holds; `regs` was checked.
    pub(crate) fn set_regs(&mut self, regs: &VmcsRegs) {
        if regs.rip != self.cache.rip {
            self.write(guest::RIP, regs.rip);
        }
        if regs.rsp != self.cache.rsp {
            self.write(guest::RSP, regs.rsp);
        }
        if regs.rflags != self.cache.rflags {
            self.write(guest::RFLAGS, regs.rflags);
        }
        if regs.fs_base != self.cache.fs_base {
            self.write(guest::FS_BASE, regs.fs_base);
        }
        if regs.gs_base != self.cache.gs_base {
            self.write(guest::GS_BASE, regs.gs_base);
        }
        if regs.cpl != self.cache.cpl {
            self.write_ring(regs.cpl);
        }
        // Shadows of STI and MOV SS, and debug exceptions that wait, belong to an instruction that
        // user space may have stepped over; RFLAGS.TF with such a shadow is refused by VM entry.
        self.write(guest::INTERRUPTIBILITY_STATE, 0);
        self.write(guest::PENDING_DBG_EXCEPTIONS, 0);
    }

    /// Reads the registers that the VMCS holds back into `regs`.
    pub(crate) fn get_regs(&mut self, regs: &mut VmcsRegs) {
        let rflags = self.read(guest::RFLAGS);
        regs.rip = self.read(guest::RIP);
        regs.rsp = self.read(guest::RSP);
        // Ring 0 can clear IF, and no one is to see it: the next RUN sets it again.
        regs.rflags = rflags | RFLAGS_IF;
        regs.fs_base = self.read(guest::FS_BASE);
        regs.gs_base = self.read(guest::GS_BASE);
        self.cache.rip = regs.rip;
        self.cache.rsp = regs.rsp;
        self.cache.rflags = rflags;
        self.cache.fs_base = regs.fs_base;
        self.cache.gs_base = regs.gs_base;
        // Ring 0 can return to 32-bit code in ring 3 by SYSRET, and load a null SS: segments that are
        // not ours are written anew when user space runs the vCPU again.
        let (code, data) = (
            self.read(guest::CS_ACCESS_RIGHTS),
            self.read(guest::SS_ACCESS_RIGHTS),
        );
        regs.cpl = data >> 5 & 3;
        let ours = if regs.cpl == 0 {
            (segments::KERNEL_CODE_RIGHTS, segments::KERNEL_DATA_RIGHTS)
        } else {
            (segments::USER_CODE_RIGHTS, segments::USER_DATA_RIGHTS)
        };
        self.cache.cpl = if (code, data) == (ours.0.into(), ours.1.into()) {
            regs.cpl
        } else {
            u64::MAX
        };
    }

    /// The ring that the guest is in.
    pub(crate) fn ring(&self) -> u64 {
        self.read(guest::SS_ACCESS_RIGHTS) >> 5 & 3
    }

    /// Moves over the instruction that exited.
    pub(crate) fn skip_instruction(&mut self) {
        let rip = self.read(guest::RIP);
        let len = self.read(ro::VMEXIT_INSTRUCTION_LEN);
        self.write(guest::RIP, rip.wrapping_add(len));
        self.write(guest::INTERRUPTIBILITY_STATE, 0);
        if self.read(guest::RFLAGS) & RFLAGS_TF != 0 {
            // A single step is over after an emulated instruction, too.
            self.write(guest::PENDING_DBG_EXCEPTIONS, PENDING_BS);
        }
    }

    /// Sets the preemption timer.
    pub(crate) fn set_timer(&mut self, value: u32) {
        self.write(guest::VMX_PREEMPTION_TIMER_VALUE, value.into());
    }

    /// The exit qualification.
    pub(crate) fn qualification(&self) -> u64 {
        self.read(ro::EXIT_QUALIFICATION)
    }

    /// The guest-linear address of an EPT violation.
    pub(crate) fn linear_address(&self) -> u64 {
        self.read(field::GUEST_LINEAR_ADDRESS)
    }
}
