// SPDX-License-Identifier: GPL-2.0

//! The stretch with interrupts off in which this CPU is in VMX operation for us.
//!
//! The kernel's own VMXON and its CR4 shadow are closed to this module, and KVM may hold VMX on every
//! CPU. So VMX is ours only inside a window: where CR4.VMXE is clear we *own* it (VMXON to VMXOFF);
//! where it is set we *borrow* it from whoever set it, and give the current VMCS back. Nothing of
//! ours is live outside, so CPU hotplug, suspend, kexec and KVM's comings and goings need no hooks.

use kernel::prelude::*;

use uvisor_vmx::insn::{
    self,
    Fail, //
};

use crate::{
    hardware::{
        Cpu,
        Hardware, //
    },
    sys::{
        cpu,
        irq::IrqOff, //
    },
    vmcs::VmcsRegion, //
};

/// CR4.VMXE.
pub(crate) const CR4_VMXE: u64 = 1 << 13;

/// IA32_RTIT_CTL, and its bit that says that Intel PT traces.
const IA32_RTIT_CTL: u32 = 0x570;
const RTIT_CTL_TRACE_EN: u64 = 1;

/// Who had VMX before the window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody; CR4 had this value.
    Own {
        /// To put back.
        cr4: u64,
    },
    /// Somebody with this current VMCS, or [`insn::NO_VMCS`].
    Borrow {
        /// To make current again.
        vmcs: u64,
    },
}

impl Owner {
    /// The VMCS of somebody else's guest that this CPU has loaded.
    pub(crate) fn foreign_vmcs(self) -> Option<u64> {
        match self {
            Self::Borrow { vmcs } if vmcs != insn::NO_VMCS => Some(vmcs),
            _ => None,
        }
    }
}

/// A window in which `region` is the current VMCS.
///
/// # Invariants
///
/// The CPU is in VMX operation, and `region` is current and active on it.
pub(crate) struct Window<'a> {
    irq: &'a IrqOff,
    region: &'a VmcsRegion,
    owner: Owner,
}

impl<'a> Window<'a> {
    /// Opens a window; `EBUSY` if VMX is half-enabled by somebody else, or Intel PT would be
    /// disturbed; `ENODEV` if the CPU refuses VMX.
    #[inline(always)]
    pub(crate) fn open(
        irq: &'a IrqOff,
        hardware: &Hardware,
        this: &Cpu,
        region: &'a VmcsRegion,
    ) -> Result<Self> {
        let cr4 = cpu::cr4();
        let owner = if cr4 & CR4_VMXE == 0 {
            if hardware.has_rtit
                && cpu::rdmsr_safe(IA32_RTIT_CTL).unwrap_or(0) & RTIT_CTL_TRACE_EN != 0
            {
                return Err(EBUSY);
            }
            // SAFETY: Only VMXE is added; `drop`, or the line below, puts the value back before
            // interrupts are on.
            unsafe { cpu::write_cr4(irq, cr4 | CR4_VMXE) };
            // SAFETY: Interrupts are off until the window is closed, CR4.VMXE is on, and the region
            // is this CPU's own.
            if unsafe { insn::vmxon(this.vmxon.phys_ref()) }.is_err() {
                // SAFETY: The value that was there.
                unsafe { cpu::write_cr4(irq, cr4) };
                return Err(ENODEV);
            }
            Owner::Own { cr4 }
        } else {
            // SAFETY: Interrupts are off.
            match unsafe { insn::vmptrst() } {
                Ok(vmcs) => Owner::Borrow { vmcs },
                Err(_) => return Err(EBUSY),
            }
        };
        let result = Self::load(region);
        // INVARIANT: In VMX operation; if `load` failed the window is closed again at once.
        let window = Self { irq, region, owner };
        result.map_err(|_| EIO)?;
        Ok(window)
    }

    /// Makes `region` current.
    #[inline(always)]
    fn load(region: &VmcsRegion) -> Result<(), Fail> {
        if region.is_fresh() {
            // SAFETY: In VMX operation with interrupts off; a fresh region was never loaded, or cleared
            // when its last window closed. This initialises what the CPU keeps in it (SDM 26.11.3).
            unsafe { insn::vmclear(region.phys()) }?;
        }
        // SAFETY: As above; a region that is not fresh was cleared when its last window closed.
        unsafe { insn::vmptrld(region.phys()) }
    }

    /// Who had VMX before.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }
}

impl Drop for Window<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // A failure of the instructions below is impossible while the invariant holds, and there
        // would be nothing better to do than to go on with giving back.
        //
        // SAFETY: By the invariant we are in VMX operation and the region is active here.
        let _ = unsafe { insn::vmclear(self.region.phys()) };
        match self.owner {
            Owner::Own { cr4 } => {
                // SAFETY: We entered VMX operation, and our VMCS was just cleared.
                let _ = unsafe { insn::vmxoff() };
                // SAFETY: The value that was there; no longer in VMX operation.
                unsafe { cpu::write_cr4(self.irq, cr4) };
            }
            Owner::Borrow { vmcs } if vmcs != insn::NO_VMCS => {
                // SAFETY: It was current on this CPU when interrupts went off, and so is active here.
                let _ = unsafe { insn::vmptrld(&vmcs) };
            }
            Owner::Borrow { .. } => {}
        }
    }
}
