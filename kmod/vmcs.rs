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
    hardware::Hardware,
    host::CpuFields,
    page::{
        RunPage,
        Word, //
    },
    sys::{
        frame::Frame,
        irq::IrqOff, //
    },
    window::Window, //
};

mod setup;

/// RFLAGS that a guest may have: CF, PF, AF, ZF, SF, TF, DF, OF, AC, ID.
const RFLAGS_ALLOWED: u64 = 0x24_0dd5;
/// RFLAGS that are always set: bit 1, and IF, so that nothing can depend on it.
const RFLAGS_SET: u64 = 0x202;
/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.TF, and the pending debug exception of a single step.
const RFLAGS_TF: u64 = 1 << 8;
const PENDING_BS: u64 = 1 << 14;
/// VM function 0 (SDM 26.5.6.3).
const EPTP_SWITCHING: u64 = 1 << 0;

/// An encoding that the `x86` crate does not have (SDM appendix B).
const GUEST_LINEAR_ADDRESS: u32 = 0x640a;

/// CS.L in the access rights of CS.
const CS_LONG: u64 = 1 << 13;

/// The rights of CS and SS in ring 3.
const USER_RIGHTS: (u64, u64) = (
    segments::USER_CODE_RIGHTS as u64,
    segments::USER_DATA_RIGHTS as u64,
);
/// The rights of CS and SS in ring 0.
const KERNEL_RIGHTS: (u64, u64) = (
    segments::KERNEL_CODE_RIGHTS as u64,
    segments::KERNEL_DATA_RIGHTS as u64,
);

/// `address`, if it is canonical in a guest, which has 4-level paging.
pub(crate) fn canonical(address: u64) -> Result<u64> {
    let sign = address >> 47;
    if sign == 0 || sign == (1 << 17) - 1 {
        Ok(address)
    } else {
        Err(EINVAL)
    }
}

/// The privilege level in the access rights of SS.
fn cpl(rights: u64) -> u64 {
    rights >> 5 & 3
}

/// The memory of a VMCS.
pub(crate) struct VmcsRegion {
    frame: Frame,
    /// Whether no CPU ever loaded it, or what it holds is to be forgotten.
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
    pub(crate) fn phys(&self) -> &u64 {
        self.frame.phys_ref()
    }

    /// Whether it is to be cleared and written anew before it is used.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.get()
    }

    /// Makes it as if no CPU had ever loaded it.
    pub(crate) fn refresh(&mut self) {
        self.fresh.set(true);
    }
}

/// What a vCPU's VMCS has for life.
#[derive(Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) eptp: u64,
    pub(crate) cr3: u64,
    pub(crate) vpid: u16,
    /// Whether reading the time-stamp counter exits.
    pub(crate) no_tsc: bool,
}

/// What we know to be in a VMCS, so that only changes are written.
#[derive(Default)]
pub(crate) struct VmcsCache {
    eptp: u64,
    /// The EPTP list for VMFUNC; 0 if that is not enabled.
    eptp_list: u64,
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
}

impl<'w> Vmcs<'w> {
    /// The VMCS of `window`; a fresh one gets its fixed fields, `EIO` if this CPU lacks one of them.
    #[inline(always)]
    pub(crate) fn new(
        window: &'w Window<'w>,
        region: &VmcsRegion,
        cache: &'w mut VmcsCache,
        hardware: &Hardware,
        fixed: &Fixed,
    ) -> Result<Self> {
        if region.fresh.get() {
            setup::write_all(window, hardware, fixed)?;
            region.fresh.set(false);
            // As `write_all` left it.
            *cache = VmcsCache {
                eptp: fixed.eptp,
                rflags: RFLAGS_SET,
                cpl: 3,
                ..VmcsCache::default()
            };
        }
        Ok(Self {
            _window: window,
            cache,
        })
    }

    /// Reads a field that every CPU with EPT has.
    #[inline(always)]
    pub(crate) fn read(&self, field: u32) -> u64 {
        // SAFETY: `_window` is open, so we are in VMX operation and have a current VMCS.
        unsafe { insn::vmread_known(field) }
    }

    /// Writes a field to which [`Vmcs::new`] wrote first, and which therefore exists.
    #[inline(always)]
    fn put(&mut self, field: u32, value: u64) {
        // SAFETY: `_window` is open, so we are in VMX operation and have a current VMCS; `new` went on
        // only if all fields existed, but for those of VMFUNC, of which the capability MSRs say so. Host-state fields are written in `set_host` and `set_host_cpu`
        // only.
        unsafe { insn::vmwrite_known(field, value) };
    }

    /// Writes the segments of ring `cpl`, which is 0 or 3.
    fn put_ring(&mut self, cpl: u64) {
        for (field, value) in setup::ring(cpl) {
            self.put(field, value);
        }
        self.cache.cpl = cpl;
    }

    /// Writes what the next exit loads, as far as it is not there yet.
    #[inline(always)]
    pub(crate) fn set_host(&mut self, cr3: u64, cr4: u64, fs_base: u64, gs_base: u64, perf: u64) {
        if cr3 != self.cache.host_cr3 {
            self.cache.host_cr3 = cr3;
            self.put(host::CR3, cr3);
        }
        if cr4 != self.cache.host_cr4 {
            self.cache.host_cr4 = cr4;
            self.put(host::CR4, cr4);
        }
        if fs_base != self.cache.host_fs_base {
            self.cache.host_fs_base = fs_base;
            self.put(host::FS_BASE, fs_base);
        }
        if gs_base != self.cache.host_gs_base {
            self.cache.host_gs_base = gs_base;
            self.put(host::GS_BASE, gs_base);
        }
        if perf != self.cache.host_perf {
            self.cache.host_perf = perf;
            self.put(host::IA32_PERF_GLOBAL_CTRL_FULL, perf);
        }
    }

    /// Writes the fields that belong to a CPU, if it is another one than last time.
    #[inline(always)]
    pub(crate) fn set_host_cpu(&mut self, irq: &IrqOff, fields: &CpuFields) {
        if self.cache.host_cpu == irq.cpu() + 1 {
            return;
        }
        self.cache.host_cpu = irq.cpu() + 1;
        self.put(host::TR_BASE, fields.tr_base);
        self.put(host::GDTR_BASE, fields.gdt_base);
        self.put(host::IDTR_BASE, fields.idt_base);
        self.put(host::IA32_SYSENTER_CS, fields.sysenter_cs);
        self.put(host::IA32_SYSENTER_ESP, fields.sysenter_esp);
        self.put(host::IA32_SYSENTER_EIP, fields.sysenter_eip);
    }

    /// Lets the guest, which did not run since [`Self::eptp`], be in the view of this EPT pointer.
    #[inline(always)]
    pub(crate) fn set_eptp(&mut self, eptp: u64) {
        if eptp != self.cache.eptp {
            self.switch_eptp(eptp);
        }
    }

    /// Brings the guest, which may have moved, to the view of this EPT pointer.
    #[inline(always)]
    pub(crate) fn switch_eptp(&mut self, eptp: u64) {
        self.cache.eptp = eptp;
        self.put(control::EPTP_FULL, eptp);
    }

    /// The EPT pointer of the view that the guest is in.
    #[inline(always)]
    pub(crate) fn eptp(&mut self) -> u64 {
        self.cache.eptp = self.read(control::EPTP_FULL);
        self.cache.eptp
    }

    /// Lets the guest switch between the views in the EPTP list of this address, where the CPU has VMFUNC.
    #[inline(always)]
    pub(crate) fn set_eptp_list(&mut self, list: u64, controls: &Controls) {
        if controls.features.vmfunc && list != self.cache.eptp_list {
            self.cache.eptp_list = list;
            self.put(control::EPTP_LIST_ADDR_FULL, list);
            self.put(control::VM_FUNCTION_CONTROLS_FULL, EPTP_SWITCHING);
            let secondary = controls.secondary_with_vmfunc();
            self.put(control::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary.into());
        }
    }

    /// Sets what the preemption timer counts down from. An exit should leave the field, but at least one
    /// implementation leaves 0 there when the timer ran out.
    #[inline(always)]
    pub(crate) fn set_timer(&mut self, ticks: u32) {
        self.put(guest::VMX_PREEMPTION_TIMER_VALUE, ticks.into());
    }

    /// Takes the registers that the VMCS holds from the run page, each word once, as far as they are
    /// not there yet; `EINVAL` for what no guest can have.
    #[inline(always)]
    pub(crate) fn load_regs(&mut self, page: &RunPage) -> Result {
        let rip = page.get(Word::RIP);
        let mut moved = rip != self.cache.rip;
        if moved {
            self.cache.rip = canonical(rip)?;
            self.put(guest::RIP, rip);
        }
        let rsp = page.get(Word::RSP);
        if rsp != self.cache.rsp {
            self.cache.rsp = rsp;
            self.put(guest::RSP, rsp);
        }
        let rflags = page.get(Word::RFLAGS) & RFLAGS_ALLOWED | RFLAGS_SET;
        if rflags != self.cache.rflags {
            self.cache.rflags = rflags;
            self.put(guest::RFLAGS, rflags);
            moved = true;
        }
        let fs_base = page.get(Word::FS_BASE);
        if fs_base != self.cache.fs_base {
            self.cache.fs_base = canonical(fs_base)?;
            self.put(guest::FS_BASE, fs_base);
        }
        let gs_base = page.get(Word::GS_BASE);
        if gs_base != self.cache.gs_base {
            self.cache.gs_base = canonical(gs_base)?;
            self.put(guest::GS_BASE, gs_base);
        }
        let cpl = page.get(Word::CPL);
        if cpl != self.cache.cpl {
            if cpl != 0 && cpl != 3 {
                return Err(EINVAL);
            }
            self.put_ring(cpl);
        }
        if moved {
            // Shadows of STI and MOV SS, and debug exceptions that wait, belong to an instruction that
            // user space stepped over; RFLAGS.TF with such a shadow is refused by VM entry.
            self.put(guest::INTERRUPTIBILITY_STATE, 0);
            self.put(guest::PENDING_DBG_EXCEPTIONS, 0);
        }
        Ok(())
    }

    /// Writes the registers that the VMCS holds to the run page.
    #[inline(always)]
    pub(crate) fn store_regs(&mut self, page: &RunPage) {
        self.cache.rip = self.read(guest::RIP);
        page.set(Word::RIP, self.cache.rip);
        self.cache.rsp = self.read(guest::RSP);
        page.set(Word::RSP, self.cache.rsp);
        self.cache.rflags = self.read(guest::RFLAGS);
        // Ring 0 can clear IF, and no one is to see it: the next RUN sets it again.
        page.set(Word::RFLAGS, self.cache.rflags | RFLAGS_IF);
        self.cache.fs_base = self.read(guest::FS_BASE);
        page.set(Word::FS_BASE, self.cache.fs_base);
        self.cache.gs_base = self.read(guest::GS_BASE);
        page.set(Word::GS_BASE, self.cache.gs_base);
        // Ring 0 can return to 32-bit code in ring 3 by SYSRET, and load a null SS: segments that are
        // not ours are written anew when user space runs the vCPU again.
        let (code, data) = (
            self.read(guest::CS_ACCESS_RIGHTS),
            self.read(guest::SS_ACCESS_RIGHTS),
        );
        self.cache.cpl = match (code, data) {
            USER_RIGHTS => 3,
            KERNEL_RIGHTS => 0,
            _ => u64::MAX,
        };
        page.set(Word::CPL, cpl(data));
    }

    /// The ring that the guest is in.
    #[inline(always)]
    pub(crate) fn ring(&self) -> u64 {
        cpl(self.read(guest::SS_ACCESS_RIGHTS))
    }

    /// Moves over the instruction that exited.
    pub(crate) fn skip_instruction(&mut self) {
        let next = self
            .read(guest::RIP)
            .wrapping_add(self.read(ro::VMEXIT_INSTRUCTION_LEN));
        let is_64_bit = self.read(guest::CS_ACCESS_RIGHTS) & CS_LONG != 0;
        // In 32-bit code, which ring 0 can return to, a larger one would fail the entry.
        let rip = if is_64_bit { next } else { next & 0xffff_ffff };
        self.put(guest::RIP, rip);
        self.put(guest::INTERRUPTIBILITY_STATE, 0);
        if self.read(guest::RFLAGS) & RFLAGS_TF != 0 {
            // A single step is over after an emulated instruction, too.
            self.put(guest::PENDING_DBG_EXCEPTIONS, PENDING_BS);
        }
    }

    /// The exit qualification.
    pub(crate) fn qualification(&self) -> u64 {
        self.read(ro::EXIT_QUALIFICATION)
    }

    /// The guest-linear address of an EPT violation.
    pub(crate) fn linear_address(&self) -> u64 {
        self.read(GUEST_LINEAR_ADDRESS)
    }
}
