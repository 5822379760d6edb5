// SPDX-License-Identifier: GPL-2.0

//! What a VMCS gets once: controls, and state that does not change, or is a start.

use kernel::prelude::*;

use uvisor_vmx::{
    insn,
    segments,
    Controls, //
};
use x86::vmx::vmcs::{
    control,
    guest,
    host, //
};

use super::{
    Fixed,
    RFLAGS_SET, //
};
use crate::{
    hardware::Hardware,
    sys::{
        cpu,
        ffi, //
    },
    window::Window, //
};

/// The host's selectors: those of the kernel, which VM entry demands to have RPL 0.
const HOST_CS: u64 = 0x10;
const HOST_SS: u64 = 0x18;

/// An encoding that the `x86` crate does not have (SDM appendix B).
const ENCLV_EXITING_BITMAP: u32 = 0x2036;

/// Writes every field of the current VMCS that an entry needs; `EIO` if this CPU lacks one. Registers
/// are 0, but for RFLAGS; the ring is 3; the host's fields that differ from entry to entry are 0.
#[cold]
pub(super) fn write_all(window: &Window<'_>, hardware: &Hardware, fixed: &Fixed) -> Result {
    let controls = &hardware.controls;
    let mut setup = Setup {
        _window: window,
        ok: true,
    };
    setup.write_controls(controls, fixed);
    if controls.features.preemption_timer {
        setup.write(guest::VMX_PREEMPTION_TIMER_VALUE, hardware.timer.into());
    }
    setup.write_host(controls);
    setup.write_guest(controls, fixed);
    if setup.ok {
        Ok(())
    } else {
        Err(EIO)
    }
}

/// The fields that make up ring `cpl`, which is 0 or 3.
pub(super) fn ring(cpl: u64) -> [(u32, u64); 7] {
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
    [
        (guest::CS_SELECTOR, cs.into()),
        (guest::CS_ACCESS_RIGHTS, code.into()),
        (guest::SS_SELECTOR, ss.into()),
        (guest::SS_ACCESS_RIGHTS, data.into()),
        // A null selector in ring 0, or 32-bit code in ring 3, leaves others.
        (guest::CS_LIMIT, segments::FLAT_LIMIT.into()),
        (guest::SS_LIMIT, segments::FLAT_LIMIT.into()),
        (guest::SS_BASE, 0),
    ]
}

/// Writing of fields that may not exist.
struct Setup<'w> {
    _window: &'w Window<'w>,
    /// Whether every field so far existed.
    ok: bool,
}

impl Setup<'_> {
    /// Writes a field.
    fn write(&mut self, field: u32, value: u64) {
        // SAFETY: `_window` is open, so we are in VMX operation and have a current VMCS. The host-state
        // fields that `write_host` leaves at 0 are written before the first entry.
        self.ok &= unsafe { insn::vmwrite(field, value) };
    }

    fn write_controls(&mut self, c: &Controls, fixed: &Fixed) {
        self.write(control::PINBASED_EXEC_CONTROLS, c.pin.into());
        let primary = if fixed.no_tsc {
            c.primary_without_tsc()
        } else {
            c.primary
        };
        self.write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, primary.into());
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
            self.write(ENCLV_EXITING_BITMAP, u64::MAX);
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
        // Written at an entry when they differ from the cache, which has them as here. CR3, CR4 and
        // what belongs to a CPU are never 0.
        for field in [
            host::CR3,
            host::CR4,
            host::TR_BASE,
            host::GDTR_BASE,
            host::IDTR_BASE,
            host::IA32_SYSENTER_CS,
            host::IA32_SYSENTER_ESP,
            host::IA32_SYSENTER_EIP,
        ] {
            self.write(field, 0);
        }
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
        self.write(guest::RFLAGS, RFLAGS_SET);
        self.write(guest::INTERRUPTIBILITY_STATE, 0);
        self.write(guest::PENDING_DBG_EXCEPTIONS, 0);
        for (field, value) in ring(3) {
            self.write(field, value);
        }
    }
}
